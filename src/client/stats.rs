//! What a client can say of itself at any moment, whatever hangs.

use std::time::{Duration, Instant, SystemTime};

use super::{Client, Inner};
use crate::error::Error;
use crate::log::Position;
use crate::report::{Receipt, Stats};
use crate::threads;
use crate::worker::desk::Board;

impl Client {
    /// What this client has done so far. It never waits long, whatever hangs: while a write does,
    /// the counts of what was written and synced are those from before it.
    pub fn stats(&self) -> Stats {
        // In a forked child another thread may have held what is locked here.
        if let Err(error) = self.inner.log.check_process() {
            return Stats {
                last_error: Some(error.to_string()),
                ..Stats::default()
            };
        }
        let board = self.inner.board();
        let (position, failure) = self.inner.position();
        let (appended, appended_bytes) = self.inner.log.accepted();
        let pending = self.inner.pending(&board);
        let events = self.inner.events.counts();
        Stats {
            appended,
            appended_bytes,
            written_bytes: position.written,
            synced_bytes: position.synced,
            pending,
            pending_bytes: appended_bytes.saturating_sub(self.inner.log.delivered()),
            oldest_pending: oldest_pending(&board, pending),
            leftover_files: board.leftover_files,
            dropped: board.dropped,
            resent: board.resent,
            disk_bytes: self.inner.budget.used(),
            events_missed: events.missed,
            event_panics: events.panics,
            delivered: board.settled.delivered,
            rejected: board.settled.rejected,
            corrupt: board.settled.corrupt,
            requests: board.requests,
            retries: board.retries,
            queue_bytes: position.queued,
            last_error: match failure {
                Some(failure) => Some(failure.to_string()),
                None => board.last_error,
            },
            paused: board.paused,
            next_attempt: board
                .next_attempt
                .map(|at| at.saturating_duration_since(Instant::now())),
        }
    }
}

impl Inner {
    /// What can be said of the log, or could when it last answered.
    fn position(&self) -> (Position, Option<Error>) {
        let mut seen = threads::lock(&self.seen);
        if let Some(now) = self.log.glance() {
            *seen = now;
        }
        seen.clone()
    }

    /// What can be said of the records at this moment, even while storage hangs.
    pub(super) fn receipt(&self) -> Receipt {
        let board = self.board();
        let pending = self.pending(&board);
        let directory = self.directory.as_ref();
        Receipt {
            delivered: board.settled.delivered,
            pending,
            rejected: board.settled.rejected,
            corrupt: board.settled.corrupt,
            dropped: board.dropped,
            dir: directory.map(|directory| directory.path().to_owned()),
            error: board.last_error.filter(|_| pending > 0),
        }
    }

    /// Own records that have not left the log.
    fn pending(&self, board: &Board) -> u64 {
        let (records, accepted) = self.log.accepted();
        match accepted > self.log.delivered() {
            true => records.saturating_sub(board.own_records).max(1),
            false => 0,
        }
    }

    fn board(&self) -> Board {
        threads::lock(&self.board).clone()
    }
}

fn oldest_pending(board: &Board, pending: u64) -> Option<Duration> {
    let own = board.oldest.filter(|_| pending > 0).map(|at| at.elapsed());
    let begun = board.leftover_begun;
    let leftover = begun.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
    own.into_iter().chain(leftover).max()
}
