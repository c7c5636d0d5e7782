//! What the log's mutex guards.

use std::time::Instant;

use super::lines::Lines;
use super::rounds::Round;
use crate::error::Error;
use crate::name::FileName;
use crate::segment::{Segment, SyncedEnd};

/// One of the client's own files, as the thread that delivers it sees it.
#[derive(Clone)]
pub(crate) struct OwnFile {
    pub name: FileName,
    /// Where it begins in the log.
    pub base: u64,
    /// How far it may be sent.
    pub end: SyncedEnd,
    /// It takes no more records.
    pub sealed: bool,
}

#[derive(Default)]
pub(super) struct State {
    /// The file that takes the next line.
    pub current: Option<Segment>,
    /// The file before it, while it is synced for the last time.
    pub sealing: Option<Segment>,
    /// Files that take no more lines, oldest first, until the thread has delivered them.
    pub sealed: Vec<OwnFile>,
    /// Files whose sync failed and whose lines are not safe anywhere else yet.
    pub failed: Vec<Segment>,
    /// Everything that is not synced.
    pub lines: Lines,
    /// The position before which everything is in the file.
    pub written: u64,
    /// Somebody writes to the current file without holding the mutex.
    pub write_running: bool,
    pub sync_running: bool,
    /// The sync that runs, or the last one.
    pub round: Round,
    /// How many wait for the end of that round, and how many have shared the one before.
    pub followers: u32,
    pub shared: u32,
    /// How many wait for something else to change.
    pub waiters: u32,
    /// The system lets the current file grow no more.
    pub is_full: bool,
    pub accepted: u64,
    pub synced: u64,
    pub accepted_records: u64,
    /// When the oldest line that is not synced was accepted.
    pub oldest: Option<Instant>,
    /// Somebody waits for the sync of what comes before this position, which has failed once.
    pub awaited: u64,
    pub failure: Option<Error>,
    /// No more lines come: who was about to append is done.
    pub closed: bool,
    pub thread: Thread,
    /// What was accepted when the thread last looked.
    pub looked: u64,
    /// The thread has been told that there is much to sync.
    pub thread_told: bool,
    /// Up to where the thread knows that lines are synced.
    pub shown: u64,
    /// The thread is gone: no timer will ever write or sync anything.
    pub unattended: bool,
}

/// What makes the thread look at the log again.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thread {
    /// It will soon, by itself.
    #[default]
    Looks,
    /// Its timer, or the end of a sync: then there is something to send.
    Waits,
    /// The next append, or the end of a sync.
    Sleeps,
}

/// Counts for statistics, taken in one moment.
#[derive(Debug, Default, Clone)]
pub(crate) struct Position {
    pub written: u64,
    pub synced: u64,
    pub queued: u64,
}

impl Thread {
    /// Is that what it does? Then it is being woken.
    pub fn take_if(&mut self, what: Thread) -> bool {
        let is = *self == what;
        if is {
            *self = Thread::Looks;
        }
        is
    }
}

impl State {
    pub fn current_name(&self) -> Option<FileName> {
        self.current.as_ref().map(|current| current.name().clone())
    }

    pub fn position(&self) -> Position {
        Position {
            written: self.written.min(self.accepted),
            synced: self.synced,
            queued: self.lines.len() as u64,
        }
    }

    /// Takes the last line out of the buffer, which was not accepted.
    pub fn take_back(&mut self, len: usize) {
        self.lines.take_back(len);
        self.written = self.written.min(self.lines.end());
    }

    /// Hands a file that takes no more lines to the thread; `synced` is the log's position.
    pub fn seal(&mut self, segment: &Segment, synced: u64) {
        self.sealed.push(OwnFile {
            name: segment.name().clone(),
            base: segment.base,
            end: synced_end(segment, synced),
            sealed: true,
        });
    }

    /// In a closed log the file is done when everything is synced.
    pub fn seal_the_last(&mut self) {
        if self.closed && self.synced == self.accepted {
            let synced = self.synced;
            if let Some(segment) = self.current.take() {
                self.seal(&segment, synced);
            }
        }
    }
}

pub(super) fn synced_end(segment: &Segment, synced: u64) -> SyncedEnd {
    SyncedEnd::new(synced.saturating_sub(segment.base).min(segment.len()))
}
