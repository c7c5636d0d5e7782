//! The one commit path: the buffer to the file, the file to the disk, and on to the next file.

use std::sync::MutexGuard;

use super::{Log, State};
use crate::error::{Error, Result};
use crate::segment::Segment;

impl Log {
    /// Writes the buffer to the file: all of it, or nothing that anyone may see.
    pub(super) fn write_out(&self, state: &mut State) -> Result<()> {
        if self.directory.is_none() {
            state.written = state.recent.len();
        }
        if state.written == state.recent.len() {
            return Ok(());
        }
        let State {
            current: Some(segment),
            recent,
            written,
            ..
        } = state
        else {
            return Err(state.failure.clone().unwrap_or(Error::Closed));
        };
        let mut result = segment.append(&recent[*written..]);
        if let Err(failed) = &result {
            if failed.intact && failed.error.is_no_space() && segment.give_back() {
                *written += failed.written;
                result = segment.append(&recent[*written..]);
            }
        }
        match result {
            Ok(()) => {
                *written = recent.len();
                Ok(())
            }
            Err(failed) if failed.intact => {
                *written += failed.written;
                state.is_full = is_file_too_big(&failed.error) && segment.len() > 0;
                Err(failed.error)
            }
            // The file can take no more: everything that is not synced goes to a new one.
            Err(failed) => self.recover(state, failed.error),
        }
    }

    /// Syncs what is accepted, for everyone who waits. The caller saw that no sync is running.
    pub(super) fn lead_sync<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>> {
        if let Some(error) = state.failure.clone() {
            self.recover(&mut state, error)?;
        }
        if self.directory.is_none() {
            state.mark_synced();
            self.tell_thread(&mut state);
            return Ok(state);
        }
        state.sync_running = true;
        let (mut state, mut next) = self.next_segment(state);
        let mut written = self.write_out(&mut state);
        if written.is_err() && state.is_full && next.is_none() {
            (state, next) = self.next_segment(state);
            written = self.write_out(&mut state);
        }
        // What cannot be written stays in the buffer; what is in the file is synced all the same.
        let unwritten = written.err().filter(|_| next.is_none());
        let (target, target_records) = state.take_off();
        let handle = state.current.as_ref().map(Segment::sync_handle);
        if let Some(mut next) = next {
            next.base = target;
            state.sealing = state.current.replace(next);
            state.is_full = false;
        }
        drop(state);

        let result = handle.map_or(Ok(()), |handle| handle.sync());

        let mut state = self.lock();
        state.sync_running = false;
        let result = match result {
            Ok(()) => {
                state.synced = state.synced.max(target);
                state.synced_records = state.synced_records.max(target_records);
                state.in_flight.clear();
                state.drop_before(target);
                if let Some(mut sealed) = state.sealing.take() {
                    sealed.name_synced = true;
                    state.seal(&sealed, target);
                } else if let Some(current) = &mut state.current {
                    current.name_synced = true;
                }
                state.seal_the_last();
                unwritten.map_or(Ok(()), Err)
            }
            Err(error) => self.recover(&mut state, error),
        };
        self.tell_thread(&mut state);
        self.changed.notify_all();
        result.map(|()| state)
    }

    /// Goes on to a new file, when the running sync is done.
    pub(super) fn rotate<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>> {
        while state.sync_running {
            state = self.wait(state);
        }
        self.lead_sync(state)
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
    /// Moves what is written over to the sync that begins; returns what that will have synced.
    fn take_off(&mut self) -> (u64, u64) {
        let State {
            recent, in_flight, ..
        } = self;
        std::mem::swap(recent, in_flight);
        recent.extend_from_slice(&in_flight[self.written..]);
        in_flight.truncate(self.written);
        self.recent_start += self.written as u64;
        self.written = 0;
        if !self.recent.is_empty() {
            return (self.recent_start, self.synced_records);
        }
        self.oldest = None;
        (self.recent_start, self.accepted_records)
    }
}

fn is_file_too_big(error: &Error) -> bool {
    error
        .io()
        .is_some_and(|error| error.raw_os_error() == Some(libc::EFBIG))
}
