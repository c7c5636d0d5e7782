//! The lines that are not on the disk yet. They are kept in memory, because after a failed sync
//! the page cache cannot be trusted.
//!
//! ```text
//!  position   base  start                          open_base          end
//!               ├─────┼────── full ──────┼─── full ───┼──── open ───────┤
//!                gone └ still needed                            next line┘
//! ```
//!
//! Lines stand in blocks that never move: one that is full can be written to the file by somebody
//! who does not hold the log's mutex, and one that is not needed any more is used again, so that a
//! busy log asks for no memory. No line is ever in two blocks.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::record::Line;

/// As much as is written at once, where tests and fuzzers look for mistakes not much. A longer line
/// has a block of its own.
pub(super) const BLOCK: usize = if cfg!(any(test, fuzzing)) {
    1 << 10
} else {
    256 << 10
};

#[derive(Default)]
pub(super) struct Lines {
    /// Blocks that take no more lines, oldest first.
    full: VecDeque<Full>,
    /// The block that takes the next line.
    open: Vec<u8>,
    /// How many lines are still needed, and how many of them are in the open block.
    count: u64,
    open_count: u64,
    /// Blocks to be used again.
    spare: Vec<Vec<u8>>,
    /// Where the oldest block begins, counted in bytes of all that the log ever accepted.
    base: u64,
    /// Everything before it is not needed any more.
    start: u64,
    /// Where the open block begins.
    open_base: u64,
}

/// A full block, and how many of its lines are still needed.
struct Full {
    bytes: Arc<Vec<u8>>,
    count: u64,
}

impl Lines {
    /// Behind the last line.
    pub fn end(&self) -> u64 {
        self.open_base + self.open.len() as u64
    }

    /// How many bytes are still needed.
    pub fn len(&self) -> usize {
        (self.end() - self.start) as usize
    }

    /// How many lines are still needed; one of which a part is gone counts.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn push(&mut self, line: &Line<'_>) {
        let len = line.len();
        if self.open.len() + len > BLOCK {
            self.close_block();
        }
        if self.open.capacity() < len {
            // Of the usual size, so that it can be used again.
            self.open = self.spare.pop().unwrap_or_default();
            self.open.reserve_exact(len.max(BLOCK));
        }
        line.push_to(&mut self.open);
        self.count += 1;
        self.open_count += 1;
    }

    /// Takes back the last line, which was pushed just before and has `len` bytes.
    pub fn take_back(&mut self, len: usize) {
        self.open.truncate(self.open.len().saturating_sub(len));
        self.count -= 1;
        self.open_count -= 1;
    }

    fn close_block(&mut self) {
        if !self.open.is_empty() {
            let block = std::mem::take(&mut self.open);
            self.open_base += block.len() as u64;
            self.full.push_back(Full {
                bytes: Arc::new(block),
                count: std::mem::take(&mut self.open_count),
            });
        }
    }

    /// The full blocks that have anything from `position` on, and how much of the first of them
    /// comes before it.
    pub fn full_from(&self, position: u64) -> (Vec<Arc<Vec<u8>>>, usize) {
        let mut begin = self.base;
        let mut blocks = self.full.iter();
        let mut rest = blocks.clone();
        while let Some(block) = blocks.next() {
            let end = begin + block.bytes.len() as u64;
            if position < end {
                return (
                    rest.map(|block| Arc::clone(&block.bytes)).collect(),
                    (position.max(begin) - begin) as usize,
                );
            }
            begin = end;
            rest = blocks.clone();
        }
        (Vec::new(), 0)
    }

    /// What the open block has from `position` on.
    pub fn open_from(&self, position: u64) -> &[u8] {
        let from = position.saturating_sub(self.open_base) as usize;
        self.open.get(from..).unwrap_or_default()
    }

    /// Everything from `position` on, piece by piece.
    pub fn pieces(&self, position: u64) -> impl Iterator<Item = &[u8]> {
        let mut begin = self.base;
        let full = self.full.iter().filter_map(move |block| {
            let from = position.saturating_sub(begin) as usize;
            begin += block.bytes.len() as u64;
            block.bytes.get(from..)
        });
        let pieces = full.chain([self.open_from(position)]);
        pieces.filter(|piece| !piece.is_empty())
    }

    /// What stands before `position` is not needed any more.
    pub fn drop_before(&mut self, position: u64) {
        let before = self.start;
        self.start = self.start.max(position.min(self.end()));
        while let Some(block) = self.full.front_mut() {
            let end = self.base + block.bytes.len() as u64;
            if self.start < end {
                let gone = lines_in(&block.bytes, self.base, before..self.start);
                block.count -= gone;
                self.count -= gone;
                return;
            }
            self.base = end;
            self.count -= block.count;
            // Somebody who still writes it frees it.
            let block = self.full.pop_front();
            let bytes = block.and_then(|block| Arc::into_inner(block.bytes));
            self.spare.extend(bytes.and_then(reusable));
        }
        if self.start == self.end() {
            (self.base, self.open_base) = (self.start, self.start);
            (self.count, self.open_count) = (0, 0);
            let open = std::mem::take(&mut self.open);
            self.open = reusable(open).unwrap_or_default();
        } else {
            let gone = lines_in(&self.open, self.open_base, before..self.start);
            self.open_count -= gone;
            self.count -= gone;
        }
    }

    /// Nothing has come for a while: gives the memory back that nothing is in.
    pub fn shrink(&mut self) {
        self.spare = Vec::new();
    }
}

/// How many lines end in a range of positions, as far as this block, which begins at `base`, has it.
fn lines_in(block: &[u8], base: u64, range: Range<u64>) -> u64 {
    let at = |position: u64| position.saturating_sub(base).min(block.len() as u64) as usize;
    let part = &block[at(range.start)..at(range.end)];
    part.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// An emptied block, unless it was made for one long line.
fn reusable(mut block: Vec<u8>) -> Option<Vec<u8>> {
    block.clear();
    (block.capacity() <= BLOCK).then_some(block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Kind;

    /// A request whose line takes more or less `len` bytes.
    fn request(n: usize, len: usize) -> String {
        format!("{{\"n\":\"{n}{}\"}}", "x".repeat(len))
    }

    fn all(lines: &Lines, from: u64) -> Vec<u8> {
        lines.pieces(from).collect::<Vec<_>>().concat()
    }

    proptest! {
        #[test]
        fn what_is_still_needed_is_there_and_nothing_else_is_kept(
            steps in prop::collection::vec((0..4_usize, 0..70_usize, any::<prop::sample::Index>()), 0..60)
        ) {
            let mut lines = Lines::default();
            let (mut everything, mut start) = (Vec::new(), 0);
            for (n, (step, len, place)) in steps.into_iter().enumerate() {
                let req = request(n, len * len / 2);
                let line = Line::new(Kind::CallEnd, req.as_bytes(), usize::MAX).unwrap();
                match step {
                    0 | 1 => {
                        lines.push(&line);
                        line.push_to(&mut everything);
                    }
                    2 => {
                        lines.push(&line);
                        lines.take_back(line.len());
                    }
                    _ => {
                        start += place.index(everything.len() - start + 1);
                        lines.drop_before(start as u64);
                    }
                }
                prop_assert_eq!(lines.end(), everything.len() as u64);
                prop_assert_eq!(lines.len(), everything.len() - start);
                let newlines = everything[start..].iter().filter(|byte| **byte == b'\n');
                prop_assert_eq!(lines.count(), newlines.count() as u64);
                prop_assert!(all(&lines, start as u64) == everything[start..]);
                let from = start + place.index(everything.len() - start + 1);
                prop_assert!(all(&lines, from as u64) == everything[from..]);
                let (full, skip) = lines.full_from(from as u64);
                let full: Vec<_> = full.iter().flat_map(|block| block.iter()).skip(skip).collect();
                let open = lines.open_from(from as u64);
                prop_assert_eq!(full.len() + open.len(), everything.len() - from);
                prop_assert!(full.into_iter().chain(open).eq(&everything[from..]));
            }
        }
    }

    #[test]
    fn a_busy_log_asks_for_no_memory_and_an_idle_one_gives_it_back() {
        let mut lines = Lines::default();
        let req = request(0, 100);
        let line = Line::new(Kind::CallEnd, req.as_bytes(), usize::MAX).unwrap();
        for _ in 0..10_000 {
            lines.push(&line);
            let kept = lines.end().saturating_sub(8 * BLOCK as u64);
            lines.drop_before(kept);
            assert!(lines.full.len() + lines.spare.len() <= 10);
        }
        lines.drop_before(lines.end());
        lines.shrink();
        assert_eq!(lines.full.len() + lines.spare.len(), 0);
        assert_eq!((lines.len(), lines.open.capacity()), (0, BLOCK));
    }

    #[test]
    fn a_block_that_is_being_written_stays_as_it_is() {
        let mut lines = Lines::default();
        let req = request(0, BLOCK * 2 / 3);
        let line = Line::new(Kind::CallEnd, req.as_bytes(), usize::MAX).unwrap();
        lines.push(&line);
        lines.push(&line);
        let (written, _) = lines.full_from(0);
        lines.drop_before(lines.end());
        lines.push(&line);
        let mut expected = Vec::new();
        line.push_to(&mut expected);
        assert_eq!(written.len(), 1);
        assert!(*written[0] == expected);
    }
}
