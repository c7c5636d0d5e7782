//! Since when the oldest record waits, without a time for each record.

use std::time::Instant;

/// How many marks are kept. With more, every other one goes: the answer gets coarser, not longer.
const MARKS: usize = 128;

/// Some positions in the log, and when each was the end of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Marks {
    marks: Vec<(u64, Instant)>,
    /// Everything before it was there at a time that is no longer known.
    last: u64,
}

impl Marks {
    /// Notes how far the log reaches now, and how far it is delivered.
    pub fn note(&mut self, accepted: u64, delivered: u64, now: Instant) {
        self.marks.retain(|(end, _)| *end > delivered);
        if accepted <= self.last {
            return;
        }
        self.last = accepted;
        self.marks.push((accepted, now));
        if self.marks.len() > MARKS {
            // The older of two stands for both: what came with the younger seems older, not newer.
            let pairs = self.marks.chunks(2);
            let merged = pairs.map(|pair| (pair[pair.len() - 1].0, pair[0].1));
            self.marks = merged.collect();
        }
    }

    /// When the oldest record was noted that is not among the first `delivered` bytes.
    pub fn oldest(&self, delivered: u64) -> Option<Instant> {
        let waiting = self.marks.iter().find(|(end, _)| *end > delivered);
        waiting.map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_is_what_is_not_delivered_yet() {
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
        let mut marks = Marks::default();
        assert_eq!(marks.oldest(0), None);
        for second in 0..10 {
            marks.note((second + 1) * 100, 0, at(second));
        }
        assert_eq!(marks.oldest(0), Some(at(0)));
        assert_eq!(marks.oldest(99), Some(at(0)));
        assert_eq!(marks.oldest(100), Some(at(1)));
        assert_eq!(marks.oldest(999), Some(at(9)));
        assert_eq!(marks.oldest(1000), None);
        // Nothing new is no news.
        marks.note(1000, 1000, at(20));
        assert_eq!(marks.oldest(0), None);
    }

    #[test]
    fn the_age_of_a_long_backlog_takes_bounded_memory_and_is_never_too_young() {
        let begun = Instant::now();
        let mut marks = Marks::default();
        for n in 1..=100_000_u64 {
            marks.note(n, 0, begun + Duration::from_secs(n));
            assert!(marks.marks.len() <= MARKS);
        }
        assert_eq!(marks.oldest(0), Some(begun + Duration::from_secs(1)));
        for delivered in (0..100_000).step_by(997) {
            let oldest = marks.oldest(delivered).unwrap();
            assert!(oldest <= begun + Duration::from_secs(delivered + 1));
        }
    }
}
