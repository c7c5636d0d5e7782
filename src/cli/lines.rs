//! Standard input, line by line, in bounded memory.

use std::io::{self, BufRead, BufReader, Read};

/// Lines of any input, numbered from 1.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    limit: usize,
    number: u64,
}

/// What came next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// A line; the last one need not end in a newline.
    Line,
    /// A line above the limit, which was skipped.
    TooLong,
    End,
}

impl<R: Read> Lines<R> {
    /// Lines of at most `limit` bytes.
    pub(super) fn new(input: R, limit: usize) -> Lines<R> {
        Lines {
            reader: BufReader::with_capacity(256 << 10, input),
            limit,
            number: 0,
        }
    }

    /// Reads the next line, without its newline, into `line`.
    pub(super) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Next> {
        line.clear();
        // One huge line must not hold its memory for ever.
        line.shrink_to(1 << 20);
        let most = self.limit as u64 + 1;
        let n = (&mut self.reader).take(most).read_until(b'\n', line)?;
        if n == 0 {
            return Ok(Next::End);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if n > self.limit {
            self.reader.skip_until(b'\n')?;
            return Ok(Next::TooLong);
        }
        Ok(Next::Line)
    }

    /// The number of the line that was read last.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Is there another whole line that can be had without waiting?
    pub(super) fn has_more(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], limit: usize) -> Vec<(u64, Next, Vec<u8>)> {
        let mut lines = Lines::new(input, limit);
        let mut seen = Vec::new();
        loop {
            let mut line = Vec::new();
            match lines.next(&mut line).unwrap() {
                Next::End => return seen,
                next => seen.push((lines.number(), next, line)),
            }
        }
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        assert_eq!(all(b"", 9), []);
        assert_eq!(all(b"\n", 9), [(1, Next::Line, vec![])]);
        let expected = [
            (1, Next::Line, b"a".to_vec()),
            (2, Next::Line, vec![]),
            (3, Next::Line, b"b".to_vec()),
        ];
        assert_eq!(all(b"a\n\nb\n", 9), expected);
        assert_eq!(all(b"a\n\nb", 9), expected);
    }

    #[test]
    fn a_line_above_the_limit_is_skipped_to_its_newline_and_still_counts() {
        for (input, limit) in [(&b"aaaa\nb\n"[..], 3), (b"aaaaaaaaa\nb", 3), (b"aa\nb", 1)] {
            let seen = all(input, limit);
            assert_eq!(seen[0].1, Next::TooLong);
            assert_eq!(seen[1], (2, Next::Line, b"b".to_vec()));
        }
        assert_eq!(all(b"aaa\naaa", 3).len(), 2);
        assert_eq!(all(b"aaaa", 3)[0].1, Next::TooLong);
    }

    #[test]
    fn a_line_that_has_not_come_whole_is_not_waiting() {
        let mut lines = Lines::new(&b"a\nb\nc"[..], 9);
        let mut line = Vec::new();
        let mut waiting = Vec::new();
        while lines.next(&mut line).unwrap() != Next::End {
            waiting.push(lines.has_more());
        }
        assert_eq!(waiting, [true, false, false]);
    }
}
