//! The log: what callers append to, what is written, what is synced.
//!
//! One mutex holds the open segment, the lines that are not synced and three positions. It is
//! never held across the network, nor across an fsync of healthy storage. There is one commit
//! path; callers and the client's thread all turn the same crank:
//!
//! - [`Log::append`] copies a line into the buffer and, unless it may stay *buffered*, writes it
//!   before it lets go of the mutex. What many have buffered is written without the mutex.
//! - [`Log::sync_to`] makes one of those who wait the leader; it syncs for all, the others follow.
//!
//! A sync begins long before the lines in memory reach their bound, so that on a disk that keeps up
//! nobody ever waits for room.
//!
//! Positions count the bytes of all lines ever accepted, across files: a ticket stays valid when
//! its record is moved to a new file after a failed sync.

mod commit;
mod lines;
mod progress;
mod recover;
mod rounds;
mod state;
mod timer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::policy::Durability;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::record::Line;
use crate::segment::Segment;
use crate::sys::Process;

use self::rounds::Rounds;
pub(crate) use self::state::{OwnFile, Position};
use self::state::{State, Thread};

/// How much may be buffered before the one who appends writes it out.
const WRITE_PIECE: u64 = 4 * lines::BLOCK as u64;

/// So many bytes are synced without waiting for the timer, or half of the queue if that is less.
const SYNC_PIECE: u64 = 4 << 20;

/// What the log is told once.
pub(crate) struct Limits {
    pub durability: Durability,
    pub sync_interval: Duration,
    pub segment_bytes: u64,
    pub queue_records: u64,
    pub queue_bytes: usize,
    pub queue_wait: Duration,
}

/// The log of one client, shared by its callers and its thread.
pub(crate) struct Log {
    state: Mutex<State>,
    /// Something was synced, delivered or has failed: whoever waits looks again.
    changed: Condvar,
    rounds: Rounds,
    /// No more lines are taken. Not behind the mutex, which is held while a write hangs.
    refuses: AtomicBool,
    /// Records and bytes accepted, as in the state: for those who must not wait for its mutex,
    /// which is held while a write hangs.
    accepted_records: AtomicU64,
    accepted: AtomicU64,
    /// The position before which everything has left the log.
    delivered: AtomicU64,
    /// The position before which everything is on the disk, for those who only want to know.
    synced: AtomicU64,
    limits: Limits,
    /// The process that opened it; a forked child must not touch the log.
    process: Process,
    /// Where the files are; `None`: in memory only.
    directory: Option<Directory>,
    /// Wakes the client's thread from an unlimited sleep.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Log {
    /// Opens a log with a first file, or in memory if there is no directory.
    pub fn open(
        directory: Option<Directory>,
        limits: Limits,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Log> {
        let current = match &directory {
            Some(directory) => Some(Segment::create(directory, 0)?),
            None => None,
        };
        Ok(Log {
            state: Mutex::new(State {
                current,
                ..State::default()
            }),
            changed: Condvar::new(),
            rounds: Rounds::default(),
            refuses: AtomicBool::new(false),
            accepted_records: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            limits,
            process: Process::this(),
            directory,
            wake,
        })
    }

    /// Accepts one line; with `Written` it is in the file when this returns, with `Synced` it is
    /// on the disk. Returns the position behind it.
    pub fn append(&self, line: &Line<'_>) -> Result<u64> {
        let mut state = loop {
            let mut state = self.with_room(line.len())?;
            state.lines.push(line);
            if !self.must_write(&state) {
                break state;
            }
            let Err(error) = self.write_open(&mut state) else {
                break state;
            };
            // Only this line is refused; what was accepted before stays in the buffer.
            state.take_back(line.len());
            if !state.is_full {
                return Err(error);
            }
            // This file is as large as the system lets it be: the line goes to the next one.
            let full = state.current_name();
            state = self.rotate(state)?;
            if state.current_name() == full {
                // There is no next one to be had.
                return Err(error);
            }
        };
        state.accepted += line.len() as u64;
        state.accepted_records += 1;
        let end = state.accepted;
        self.accepted_records
            .store(state.accepted_records, Ordering::Release);
        self.accepted.store(end, Ordering::Release);
        if state.oldest.is_none() {
            state.oldest = Some(Instant::now());
        }
        let overdue = state.unattended
            && state
                .oldest
                .is_some_and(|oldest| oldest.elapsed() >= self.limits.sync_interval);
        let wake = state.thread.take_if(Thread::Sleeps)
            || (self.is_much_to_sync(&state) && !std::mem::replace(&mut state.thread_told, true));
        if end - state.written >= WRITE_PIECE && !state.write_running {
            // The record is accepted; if this fails, whoever syncs next or finds no room is told.
            state = self.write_out(state, end).0;
        }
        drop(state);
        if wake {
            (self.wake)();
        }
        if self.limits.durability == Durability::Synced {
            self.sync_to(end)?;
        } else if overdue {
            // In the thread's place. The record is accepted; whoever waits for a sync meets the error.
            let _ = self.sync_to(end);
        }
        Ok(end)
    }

    /// Is an append to be in the file when it returns?
    fn must_write(&self, state: &State) -> bool {
        self.limits.durability != Durability::Buffered || state.unattended
    }

    /// So much that its sync is not left to the timer.
    fn is_much_to_sync(&self, state: &State) -> bool {
        let much = SYNC_PIECE.min(self.limits.queue_bytes as u64 / 2).max(1);
        self.directory.is_some() && !state.sync_running && state.written - state.synced >= much
    }

    /// Is this the process that opened it?
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn check_process(&self) -> Result<()> {
        match self.process.is_this() {
            true => Ok(()),
            false => Err(Error::Forked),
        }
    }

    /// The thread is gone: from now on whoever appends writes, and syncs when it is time.
    pub fn leave_unattended(&self) {
        self.lock().unattended = true;
    }

    /// Returns when everything up to `position` is synced, doing it here if nobody else is.
    pub fn sync_to(&self, position: u64) -> Result<()> {
        if self.synced.load(Ordering::Acquire) >= position {
            return Ok(());
        }
        let mut state = self.lock();
        while state.synced < position {
            if !state.sync_running {
                let goal = state.accepted;
                state = match self.lead_sync(state, goal) {
                    Ok(state) => state,
                    // Perhaps it is only what came later that could not be written.
                    Err(_) if self.lock().synced >= position => return Ok(()),
                    Err(error) => return Err(error),
                };
                continue;
            }
            state.followers += 1;
            let round = state.round;
            drop(state);
            self.rounds.wait(round);
            if self.synced.load(Ordering::Acquire) >= position {
                return Ok(());
            }
            state = self.lock();
            if let Some(error) = state.failure.clone().filter(|_| state.synced < position) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The same, for the thread: what cannot be synced now is tried again soon.
    pub fn sync_soon(&self, position: u64) -> Result<()> {
        let synced = self.sync_to(position);
        if synced.is_err() {
            let mut state = self.lock();
            state.awaited = state.awaited.max(position);
        }
        synced
    }

    /// May lines be in the buffer only?
    pub fn is_buffering(&self) -> bool {
        self.directory.is_some() && self.limits.durability == Durability::Buffered
    }

    /// Writes what is only buffered. Whoever syncs meets the error.
    pub fn write(&self) {
        let state = self.lock();
        let goal = state.accepted;
        let _ = self.write_out(state, goal);
    }

    /// Syncs everything accepted so far.
    pub fn sync(&self) -> Result<()> {
        let position = self.lock().accepted;
        self.sync_to(position)
    }

    /// Takes no more lines from here on; never waits.
    pub fn refuse(&self) {
        self.refuses.store(true, Ordering::Release);
    }

    /// Does it take no more lines?
    pub fn is_refusing(&self) -> bool {
        self.refuses.load(Ordering::Acquire)
    }

    /// Takes no more lines; what was accepted is synced and the writer lock let go. If that fails,
    /// the file stays open until the thread's timer has succeeded.
    pub fn close(&self) -> Result<()> {
        self.refuse();
        let mut state = self.lock();
        state.closed = true;
        let position = state.accepted;
        drop(state);
        let mut synced = self.sync_soon(position);
        let mut state = self.when_quiet(self.lock());
        let gone = state.current.as_ref().filter(|current| current.is_gone());
        if let Some(gone) = gone.map(Segment::gone) {
            synced = self.recover(&mut state, gone);
        } else if let (Ok(()), Some(error)) = (&synced, state.failure.clone()) {
            // Everything is safe in a file that was given up all the same.
            synced = self.recover(&mut state, error);
        }
        state.seal_the_last();
        self.wake_waiters(&state);
        synced
    }

    /// Holds what a write that hangs holds.
    #[cfg(test)]
    pub fn hang(&self) -> impl Drop + '_ {
        self.lock()
    }

    /// Waits, within the limit, until the queue can take `len` more bytes.
    fn with_room(&self, len: usize) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        let mut since = None;
        loop {
            if self.is_refusing() {
                return Err(Error::Closed);
            }
            if let Some(error) = state.failure.clone() {
                self.recover(&mut state, error)?;
            }
            if self.must_write(&state) && state.written < state.accepted {
                // What was left to the thread goes before it, or the lines would change places.
                let goal = state.accepted;
                let (after, written) = self.write_out(state, goal);
                written?;
                state = after;
                continue;
            }
            let bytes = state.lines.len();
            let fits = bytes + len <= self.limits.queue_bytes
                && state.lines.count() < self.limits.queue_records;
            if fits || bytes == 0 {
                return Ok(state);
            }
            if self.directory.is_some() && !state.sync_running {
                // Storage is slower than the callers: the one who finds the queue full syncs.
                let goal = state.accepted;
                state = self.lead_sync(state, goal)?;
                continue;
            }
            if self.directory.is_none() && state.synced < state.accepted {
                // Let the thread have what is here before its timer.
                self.mark_synced(&mut state);
                drop(state);
                (self.wake)();
                state = self.lock();
                continue;
            }
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            let Some(left) = self.limits.queue_wait.checked_sub(waited) else {
                let cause = state.failure.clone().map(Into::into);
                return Err(Error::QueueFull { waited, cause });
            };
            state.waiters += 1;
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.waiters -= 1;
        }
    }

    /// There is something new to send.
    fn tell_thread(&self, state: &mut State) {
        if state.thread.take_if(Thread::Waits) || state.thread.take_if(Thread::Sleeps) {
            (self.wake)();
        }
    }

    /// Everything accepted is synced.
    fn mark_synced(&self, state: &mut State) {
        state.synced = state.accepted;
        state.oldest = None;
        self.synced.store(state.synced, Ordering::Release);
    }

    /// Waits until nobody writes or syncs.
    fn when_quiet<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.sync_running || state.write_running {
            state = self.wait(state);
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiters += 1;
        let waited = self.changed.wait(state);
        state = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiters -= 1;
        state
    }

    /// Wakes those who wait, for which a system call is needed only if there are any.
    fn wake_waiters(&self, state: &State) {
        if state.waiters > 0 {
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
