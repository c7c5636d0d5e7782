//! How far the log has come, and what it holds: for those who deliver it or only want to know.

use std::sync::TryLockError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::state::synced_end;
use super::{Log, OwnFile, Position};
use crate::error::Error;
use crate::name::FileName;

/// How long statistics wait at most for whoever holds the log.
const GLANCE: Duration = Duration::from_millis(20);

impl Log {
    /// Records and bytes accepted so far.
    pub fn accepted(&self) -> (u64, u64) {
        let records = self.accepted_records.load(Ordering::Acquire);
        (records, self.accepted.load(Ordering::Acquire))
    }

    /// The position before which everything has left the log.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Acquire)
    }

    /// The position before which everything is on the disk.
    pub fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    pub fn set_delivered(&self, position: u64) {
        self.delivered.fetch_max(position, Ordering::AcqRel);
    }

    #[cfg(test)]
    pub fn position(&self) -> Position {
        self.lock().position()
    }

    /// The position and the failure, for those who must not wait: `None` while a write hangs.
    pub fn glance(&self) -> Option<(Position, Option<Error>)> {
        let until = Instant::now() + GLANCE;
        loop {
            let state = match self.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::yield_now();
                    continue;
                }
                Err(TryLockError::WouldBlock) => return None,
            };
            return Some((state.position(), state.failure.clone()));
        }
    }

    /// The oldest own file that is not delivered to its end yet.
    pub fn oldest_file(&self) -> Option<OwnFile> {
        let state = self.lock();
        if let Some(file) = state.sealed.first() {
            return Some(file.clone());
        }
        let open = [state.failed.first(), state.sealing.as_ref()];
        let segment = open.into_iter().flatten().next();
        let segment = segment.or(state.current.as_ref())?;
        Some(OwnFile {
            name: segment.name().clone(),
            base: segment.base,
            end: synced_end(segment, state.synced),
            sealed: false,
        })
    }

    /// The client's own files, which are not leftovers.
    pub fn is_own(&self, name: &FileName) -> bool {
        let state = self.lock();
        let open = [&state.current, &state.sealing];
        open.into_iter().flatten().any(|open| open.name() == name)
            || state.failed.iter().any(|failed| failed.name() == name)
            || state.sealed.iter().any(|sealed| &sealed.name == name)
    }

    /// An own file is delivered to its end and removed.
    pub fn forget(&self, name: &FileName) {
        self.lock().sealed.retain(|file| &file.name != name);
    }

    /// Memory storage: copies lines from `position` on; returns how many bytes.
    pub fn read_memory(&self, buffer: &mut [u8], position: u64) -> usize {
        let state = self.lock();
        let mut filled = 0;
        for piece in state.lines.pieces(position) {
            let n = piece.len().min(buffer.len() - filled);
            buffer[filled..filled + n].copy_from_slice(&piece[..n]);
            filled += n;
        }
        filled
    }

    /// Memory storage: forgets the lines before `position`, which are delivered or refused.
    pub fn release_memory(&self, position: u64) {
        let mut state = self.lock();
        state.lines.drop_before(position);
        self.wake_waiters(&state);
    }
}
