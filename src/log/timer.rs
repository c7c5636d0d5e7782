//! The thread's timer: what is only buffered is written, what is only written is synced, whether or
//! not anybody appends.

use std::time::{Duration, Instant};

use super::Log;
use super::state::Thread;
use crate::config::policy::Durability;

/// How long a buffered line stays in memory while there is traffic.
pub(super) const NAP: Duration = Duration::from_millis(1);

/// How long the thread naps at most when there was traffic: who appends or syncs wakes nobody then.
pub(super) const LONGEST_NAP: Duration = Duration::from_millis(100);

/// How long the thread waits before it tries storage again that has failed.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

impl Log {
    /// The thread's share: writes what is only buffered, syncs what is due. Returns when to come
    /// back; `None` promises that the next append, or the end of a running sync, wakes the thread.
    pub fn keep_time(&self) -> Option<Instant> {
        let mut state = self.lock();
        state.thread_told = false;
        state.thread = Thread::Looks;
        if state.synced > state.shown {
            // A caller may have synced it since the thread last looked for what it can send.
            state.shown = state.synced;
            return Some(Instant::now());
        }
        let now = Instant::now();
        let Some(oldest) = state.oldest else {
            if state.looked < state.accepted {
                state.looked = state.accepted;
                // To be woken by each of those who wait for a sync would cost them more.
                return Some(now + self.nap());
            }
            state.thread = Thread::Sleeps;
            state.lines.shrink();
            return None;
        };
        let due = oldest + self.limits.sync_interval;
        // An error stays with the lines: whoever appends or syncs next meets it and reports it.
        // Who waits does not wait for a timer that is far away, nor does storage that has failed.
        let is_awaited = state.synced < state.awaited;
        let is_due = now >= due || state.failure.is_some() || is_awaited;
        if (is_due || self.is_much_to_sync(&state)) && !state.sync_running {
            // While the disk is busy with what is written, who appends writes more.
            let goal = if is_due { state.accepted } else { 0 };
            let synced = self.lead_sync(state, goal).is_ok();
            return Some(if synced { now } else { now + AFTER_FAILURE });
        }
        if !state.write_running {
            let goal = state.accepted;
            let (after, written) = self.write_out(state, goal);
            if written.is_err() {
                return Some(now + AFTER_FAILURE);
            }
            state = after;
        }
        if self.limits.durability == Durability::Buffered {
            return Some(now + NAP);
        }
        if due <= now + LONGEST_NAP {
            return Some(due.max(now + NAP));
        }
        if state.synced > state.shown {
            // Meanwhile, and nobody has told the thread.
            return Some(now);
        }
        state.thread = Thread::Waits;
        Some(due)
    }

    /// How long the thread may not look at the log without anybody missing it.
    fn nap(&self) -> Duration {
        match self.limits.durability {
            Durability::Buffered => NAP,
            _ => self.limits.sync_interval.min(LONGEST_NAP),
        }
    }
}
