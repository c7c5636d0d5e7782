//! Where those wait whose sync somebody else does.
//!
//! They wait apart from the log's mutex: all are woken at once, and what most of them want to know
//! then, how far the log is synced, needs no mutex. With the log's own they would queue up for it
//! behind each other and behind the writes of those who came first.

use std::sync::{Condvar, Mutex, PoisonError};

/// The number of a sync: its place among all that this log ever began.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Round(u64);

impl Round {
    pub fn next(self) -> Round {
        Round(self.0 + 1)
    }
}

#[derive(Default)]
pub(super) struct Rounds {
    ended: Mutex<Round>,
    changed: Condvar,
}

impl Rounds {
    /// Returns when the round has ended, at once if it has already.
    pub fn wait(&self, round: Round) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let is_running = |ended: &mut Round| *ended < round;
        // The mutex guards a number, which a panic cannot leave half-written.
        drop(self.changed.wait_while(ended, is_running));
    }

    /// The round has ended, and so many wait for that or are about to. The next one may have ended
    /// already: who leads a round says so here only after the next may begin.
    pub fn end(&self, round: Round, followers: u32) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended = round.max(*ended);
        drop(ended);
        if followers > 0 {
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_has_ended_has_ended_although_the_one_before_is_told_of_later() {
        let rounds = Rounds::default();
        let first = Round::default().next();
        rounds.end(first.next(), 1);
        rounds.end(first, 1);
        // Either would wait for ever.
        rounds.wait(first);
        rounds.wait(first.next());
        assert_eq!(*rounds.ended.lock().unwrap(), first.next());
    }
}
