//! When a file has failed: its lines go to another one.

use std::time::Instant;

use super::{Log, State};
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::name::FileName;
use crate::segment::Segment;

impl Log {
    /// If somebody has removed the file that is being written, writes what is not delivered of it
    /// to a new one. `false`: it is not so.
    pub fn replace_missing(&self, name: &FileName) -> Result<bool> {
        let mut state = self.when_quiet(self.lock());
        let gone = match &state.current {
            Some(current) if current.name() == name && current.is_gone() => current.gone(),
            _ => return Ok(false),
        };
        let replaced = self.recover(&mut state, gone);
        self.wake_waiters(&state);
        replaced.map(|()| true)
    }

    /// After a failed sync, or when a file can take no more: writes everything that is not synced
    /// to a new file and syncs that. The old file is never synced again.
    ///
    /// If that fails as well, the lines stay in memory, `failure` is set, and every call tries
    /// again. The mutex is held: until this is settled nobody could be told anything true. Nobody
    /// may be writing without it.
    pub(super) fn recover(&self, state: &mut State, cause: Error) -> Result<()> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        state.written = state.synced;
        let given_up = [state.sealing.take(), state.current.take()];
        state.failed.extend(given_up.into_iter().flatten());
        let failed = std::mem::take(&mut state.failed).into_iter();
        let failed: Vec<_> = failed.map(|failed| (failed.is_gone(), failed)).collect();
        match self.rewrite(directory, state, &failed) {
            Ok(mut segment) => {
                segment.name_synced = true;
                let synced = state.synced;
                for (is_gone, mut failed) in failed {
                    if is_gone {
                        failed.abandon();
                        continue;
                    }
                    // One that was begun behind the lines of a sync that failed holds nothing: what
                    // comes before it is not delivered when it is.
                    failed.base = failed.base.min(synced);
                    // If it cannot be cut, the lines are sent twice: better than not at all.
                    let _ = failed.cut(synced.saturating_sub(failed.base).min(failed.len()));
                    state.seal(&failed, synced);
                }
                state.written = state.lines.end();
                state.current = Some(segment);
                // A line that is being appended right now is in the file, but not accepted yet.
                let accepted = state.accepted;
                state.lines.drop_before(accepted);
                self.mark_synced(state);
                state.failure = None;
                state.is_full = false;
                state.seal_the_last();
                Ok(())
            }
            Err(_) => {
                state.failed = failed.into_iter().map(|(_, failed)| failed).collect();
                let failure = match cause {
                    Error::Degraded(_) => cause,
                    cause => Error::Degraded(cause.into()),
                };
                state.failure = Some(failure.clone());
                state.oldest.get_or_insert_with(Instant::now);
                Err(failure)
            }
        }
    }

    /// A new file with every line that is not synced. What was synced to a file that somebody has
    /// removed, and is not delivered yet, goes before them.
    fn rewrite(
        &self,
        directory: &Directory,
        state: &State,
        failed: &[(bool, Segment)],
    ) -> Result<Segment> {
        let synced = state.synced;
        let mut lost = failed.iter().filter(|(is_gone, _)| *is_gone);
        // What somebody has cut before it was removed is not there to be had.
        let is_there = |lost: &Segment| lost.base < synced && lost.missing() == 0;
        let lost = lost.find_map(|(_, gone)| is_there(gone).then_some(gone));
        let start = lost.map_or(synced, |lost| lost.base.max(self.delivered()).min(synced));
        // The directory may be gone as well.
        let directory = Directory::create(directory.path())?;
        let mut segment = Segment::create(&directory, start)?;
        let mut fill = || {
            if let Some(lost) = lost {
                segment.append_from(lost, start - lost.base, synced - lost.base)?;
            }
            for lines in state.lines.pieces(synced) {
                segment.append(lines).map_err(|failed| failed.error)?;
            }
            Ok(())
        };
        match fill().and_then(|()| segment.sync()) {
            Ok(()) => Ok(segment),
            Err(error) => {
                segment.discard();
                Err(error)
            }
        }
    }
}
