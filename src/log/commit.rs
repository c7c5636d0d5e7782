//! The one commit path: the buffer to the file, the file to the disk, and on to the next file.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::{Log, State};
use crate::error::{Error, Result};
use crate::segment::{Appended, Segment, SegmentFile};

/// How long the leader of a sync lets others run before it begins, less than half of what a sync
/// takes. To count how often would say little: a turn takes a microsecond where nobody else wants
/// this processor.
const LONGEST_YIELD: Duration = Duration::from_micros(60);

impl Log {
    /// Writes what was buffered before the position `goal`, with what else has come when nobody
    /// appends faster than that; what fails stays in the buffer. Full blocks are written without
    /// holding the mutex.
    pub(super) fn write_out<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        goal: u64,
    ) -> (MutexGuard<'a, State>, Result<()>) {
        loop {
            while state.write_running {
                state = self.wait(state);
            }
            if state.written >= goal {
                return (state, Ok(()));
            }
            let (full, skip) = state.lines.full_from(state.written);
            let Some(segment) = state.current.as_ref().filter(|_| !full.is_empty()) else {
                let written = self.write_open(&mut state);
                return (state, written);
            };
            let (file, len) = (Arc::clone(segment.file()), segment.len());
            state.write_running = true;
            drop(state);
            let appended = append_all(&file, len, &full, skip);
            drop(full);
            state = self.lock();
            state.write_running = false;
            let written = self.note_written(&mut state, appended);
            self.wake_waiters(&state);
            if written.is_err() {
                return (state, written);
            }
        }
    }

    /// Writes what the open block has and the file has not: all of it, or nothing that anyone may
    /// see. Whoever calls this has seen that nobody else writes, and that full blocks are written.
    pub(super) fn write_open(&self, state: &mut State) -> Result<()> {
        if self.directory.is_none() {
            state.written = state.lines.end();
        }
        if state.written == state.lines.end() {
            return Ok(());
        }
        let Some(segment) = &state.current else {
            return Err(state.failure.clone().unwrap_or(Error::Closed));
        };
        let lines = state.lines.open_from(state.written);
        let appended = append(segment.file(), segment.len(), lines);
        self.note_written(state, appended)
    }

    fn note_written(&self, state: &mut State, appended: Appended) -> Result<()> {
        let Some(segment) = &mut state.current else {
            return Err(state.failure.clone().unwrap_or(Error::Closed));
        };
        segment.note(&appended);
        match appended {
            Ok(written) => {
                state.written += written as u64;
                Ok(())
            }
            Err(failed) if failed.intact => {
                state.written += failed.written as u64;
                state.is_full = is_file_too_big(&failed.error) && segment.len() > 0;
                Err(failed.error)
            }
            // The file can take no more: everything that is not synced goes to a new one.
            Err(failed) => self.recover(state, failed.error),
        }
    }

    /// Syncs what is written, at least what was accepted before the position `goal`, for everyone
    /// who waits. The caller saw that no sync is running.
    pub(super) fn lead_sync<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        goal: u64,
    ) -> Result<MutexGuard<'a, State>> {
        if let Some(error) = state.failure.clone() {
            self.recover(&mut state, error)?;
        }
        if self.directory.is_none() {
            self.mark_synced(&mut state);
            self.tell_thread(&mut state);
            return Ok(state);
        }
        state.sync_running = true;
        state.round = state.round.next();
        state.followers = 0;
        let state = self.let_followers_in(state);
        let (state, mut next) = self.next_segment(state);
        let (mut state, mut written) = self.write_out(state, goal);
        if written.is_err() && state.is_full && next.is_none() {
            (state, next) = self.next_segment(state);
            (state, written) = self.write_out(state, goal);
        }
        // What cannot be written stays in the buffer; what is in the file is synced all the same.
        let unwritten = written.err().filter(|_| next.is_none());
        let target = state.begin_sync();
        let file = state.current.as_ref();
        let file = file.map(|current| match current.is_intact() {
            true => Ok((Arc::clone(current.file()), current.name_synced)),
            false => Err(current.changed()),
        });
        if let Some(mut next) = next {
            next.base = target;
            state.sealing = state.current.replace(next);
            state.is_full = false;
        }
        drop(state);

        let sync = |(file, name_synced): (Arc<SegmentFile>, bool)| file.sync(name_synced);
        let result = file.map_or(Ok(()), |file| file.and_then(sync));

        let mut state = self.lock();
        let result = match result {
            Ok(()) => {
                state.synced = state.synced.max(target);
                // Somebody may have given the file up meanwhile, and it was written all the same.
                state.written = state.written.max(target);
                self.synced.store(state.synced, Ordering::Release);
                state.lines.drop_before(target);
                if let Some(mut sealed) = state.sealing.take() {
                    sealed.name_synced = true;
                    state.seal(&sealed, target);
                } else if let Some(current) = &mut state.current {
                    current.name_synced = true;
                }
                state.seal_the_last();
                unwritten.map_or(Ok(()), Err)
            }
            Err(error) => {
                while state.write_running {
                    state = self.wait(state);
                }
                self.recover(&mut state, error)
            }
        };
        state.sync_running = false;
        state.shared = state.followers + 1;
        let (round, followers) = (state.round, state.followers);
        self.tell_thread(&mut state);
        self.wake_waiters(&state);
        drop(state);
        // Those who are woken need the mutex soon.
        self.rounds.end(round, followers);
        result.map(|()| self.lock())
    }

    /// Those whom the sync before has woken may want to be part of this one: lets them run first,
    /// for as long as fewer have come than then.
    fn let_followers_in<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.followers + 1 >= state.shared {
            return state;
        }
        let begun = Instant::now();
        loop {
            drop(state);
            thread::yield_now();
            state = self.lock();
            if state.followers + 1 >= state.shared || begun.elapsed() >= LONGEST_YIELD {
                return state;
            }
        }
    }

    /// Goes on to a new file, when the running sync is done.
    pub(super) fn rotate<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>> {
        while state.sync_running {
            state = self.wait(state);
        }
        let goal = state.accepted;
        self.lead_sync(state, goal)
    }

    /// Makes the file that follows one that is full, without holding the mutex. If that fails,
    /// the full one goes on: growing too large is better than stopping.
    fn next_segment<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
    ) -> (MutexGuard<'a, State>, Option<Segment>) {
        let is_full = state.is_full
            || state
                .current
                .as_ref()
                .is_some_and(|current| current.len() >= self.limits.segment_bytes);
        let Some(directory) = self.directory.as_ref().filter(|_| is_full) else {
            return (state, None);
        };
        drop(state);
        let next = Segment::create(directory, 0).ok();
        (self.lock(), next)
    }
}

impl State {
    /// What a sync that begins now will have synced.
    fn begin_sync(&mut self) -> u64 {
        if self.written >= self.accepted {
            self.oldest = None;
        }
        self.written
    }
}

/// Appends blocks, but not the first `skip` bytes of them.
fn append_all(file: &SegmentFile, len: u64, blocks: &[Arc<Vec<u8>>], skip: usize) -> Appended {
    let mut written = 0;
    for (n, block) in blocks.iter().enumerate() {
        let lines = &block[if n == 0 { skip } else { 0 }..];
        match append(file, len + written as u64, lines) {
            Ok(more) => written += more,
            Err(mut failed) => {
                failed.written += written;
                return Err(failed);
            }
        }
    }
    Ok(written)
}

/// Appends lines; on a full disk once more, after what is delivered has given its space back.
fn append(file: &SegmentFile, len: u64, lines: &[u8]) -> Appended {
    let failed = match file.append(len, lines) {
        Err(failed) if failed.intact && failed.error.is_no_space() => failed,
        appended => return appended,
    };
    let written = failed.written;
    if !file.give_back(len + written as u64) {
        return Err(failed);
    }
    match file.append(len + written as u64, &lines[written..]) {
        Ok(more) => Ok(written + more),
        Err(mut failed) => {
            failed.written += written;
            Err(failed)
        }
    }
}

fn is_file_too_big(error: &Error) -> bool {
    error
        .io()
        .is_some_and(|error| error.raw_os_error() == Some(libc::EFBIG))
}
