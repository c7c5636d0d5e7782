//! One log being delivered: read from its checkpoint, settled batch by batch, removed at its end.

mod burial;
mod discard;
pub(crate) mod file;
mod settle;

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use self::discard::Discarded;
use self::file::{LogFile, begins_with_checksum, line_start};
use crate::batch::{Batch, BatchLimits, End, Verdict};
use crate::checkpoint;
use crate::directory::Directory;
use crate::error::{Error, IoContext, Result};
use crate::lock::{self, Writer};
use crate::log::Log;
use crate::name::{Extension, FileName};
use crate::reader::window::Bytes;
use crate::segment::SyncedEnd;
use crate::sys;

/// A log with the right to deliver it.
pub(crate) struct Drain {
    source: Source,
    /// Everything before it is delivered or in the dead-letter file.
    offset: u64,
    /// The space before it was given back to the disk.
    given_back: Cell<u64>,
    /// The batch that is under way, with what is known of its records.
    pub batch: Option<Batch>,
    /// What was read while the batch before it was on its way, and where it begins.
    pub ahead: Option<(u64, Batch)>,
    /// That may be done: memory holds what is ahead of one log, not of each.
    pub reads_ahead: bool,
    /// What stands before it may have been sent, by us or by somebody who died over it, without
    /// an answer. However much that was: another process may send larger batches.
    doubtful_until: u64,
    /// Since when calls without an end have been held back.
    pub held_since: Option<Instant>,
    /// What belongs to a record of this log may still come from another one.
    pub may_defer: bool,
    /// Calls that still run may wait for their ends.
    pub may_hold: bool,
    /// The server has just taken something else.
    pub takes_others: bool,
}

enum Source {
    File(LogFile),
    Memory(Arc<Log>),
}

/// What one settled batch came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settled {
    pub delivered: u64,
    pub rejected: u64,
    pub corrupt: u64,
    /// Records in the batch.
    pub records: u64,
}

impl std::ops::AddAssign for Settled {
    fn add_assign(&mut self, more: Settled) {
        self.delivered += more.delivered;
        self.rejected += more.rejected;
        self.corrupt += more.corrupt;
        self.records += more.records;
    }
}

impl Drain {
    /// Takes the drain lock of a log file and finds where to begin. `None`: it is gone, or
    /// somebody else delivers it.
    pub fn open(directory: &Directory, name: &FileName, ours: bool) -> Result<Option<Drain>> {
        let path = directory.file(name, Extension::Jsonl);
        let Some(file) = lock::drain(&path, ours)? else {
            return Ok(None);
        };
        if !ours {
            // What is delivered and cannot be noted would be delivered again each time.
            let writable = sys::check_writable(directory.path());
            writable.doing(
                "note what is delivered, and so deliver anything, in",
                directory.path(),
            )?;
        }
        let checkpoint = checkpoint::try_read(&directory.file(name, Extension::Checkpoint))?;
        let ours = ours || begins_with_checksum(&file).doing("read", &path)?;
        let size = file.metadata().doing("read", &path)?.len();
        // Beyond the end of a dead file nothing is pending; beyond that of a live one it is
        // nonsense, and what is written from now on must not be taken for delivered.
        let is_nonsense = checkpoint > size
            && matches!(lock::writer(directory, name, &file, ours)?, Writer::Alive);
        let offset = match is_nonsense {
            true => 0,
            false => line_start(&file, checkpoint).doing("read", &path)?,
        };
        let log = LogFile {
            directory: directory.clone(),
            name: name.clone(),
            file,
            ours,
            writer: None,
            synced: 0,
        };
        Ok(Some(Drain::new(Source::File(log), offset, size)))
    }

    /// Delivers what is in memory.
    pub fn memory(log: Arc<Log>) -> Drain {
        Drain::new(Source::Memory(log), 0, 0)
    }

    fn new(source: Source, offset: u64, doubtful_until: u64) -> Drain {
        Drain {
            source,
            offset,
            given_back: Cell::new(offset),
            batch: None,
            ahead: None,
            reads_ahead: false,
            doubtful_until,
            held_since: None,
            may_defer: false,
            may_hold: true,
            takes_others: false,
        }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn name(&self) -> Option<&FileName> {
        match &self.source {
            Source::File(log) => Some(&log.name),
            Source::Memory(_) => None,
        }
    }

    /// Would something be sent again, or be a dead letter twice, if it were closed now?
    pub fn has_decided(&self) -> bool {
        let delivered = |verdict: &Verdict| *verdict == Verdict::Delivered;
        self.batch
            .as_ref()
            .is_some_and(|batch| batch.gives_up || batch.count(delivered) > 0)
    }

    /// Is all of a batch decided, and its dead letters cannot be written? That is a matter of this
    /// log alone.
    pub fn lacks_letters(&self) -> bool {
        let batch = self.batch.as_ref();
        batch.is_some_and(|batch| batch.gives_up && !batch.is_buried)
    }

    /// How far an own file may be read.
    pub fn own_end(end: SyncedEnd, is_sealed: bool) -> End {
        End {
            offset: end.offset(),
            is_final: is_sealed,
        }
    }

    /// Everything before `offset` is known to be delivered.
    pub fn skip_to(&mut self, offset: u64) {
        if self.batch.is_none() {
            self.offset = self.offset.max(offset);
        }
    }

    /// How far a file that somebody else wrote may be read: to its end if the writer is gone, to
    /// its last newline if not. What may be read is synced here first, for nobody else may have.
    pub fn foreign_end(&mut self) -> Result<End> {
        let end = self.end()?;
        if let Source::File(log) = &mut self.source {
            log.sync(self.offset, end.offset);
        }
        Ok(end)
    }

    /// The same where nothing is going to be read: an own file is synced by its log alone.
    fn end(&mut self) -> Result<End> {
        let offset = self.offset;
        match &mut self.source {
            Source::File(log) => log.end(offset),
            Source::Memory(_) => Ok(End {
                offset,
                is_final: false,
            }),
        }
    }

    /// Reads the next batch, unless one is under way.
    pub fn fill(&mut self, end: End, limits: &BatchLimits) -> Result<()> {
        if self.batch.is_some() {
            return Ok(());
        }
        let ahead = self.ahead.take().filter(|(start, batch)| {
            *start == self.offset && batch.entries.len() <= limits.records && self.has(batch.end)
        });
        self.batch = Some(match ahead {
            Some((_, batch)) => self.adopt(batch),
            None => {
                let read = self.read_batch(self.offset, end, limits);
                read.map_err(|error| self.read_error(error))?
            }
        });
        Ok(())
    }

    /// Reads what is next already. If that fails, it fails again when it is due.
    pub fn peek(&self, start: u64, end: End, limits: &BatchLimits) -> Option<(u64, Batch)> {
        if start >= end.offset {
            return None;
        }
        let batch = Batch::read_to_send(self.bytes(), start, end, limits).ok()?;
        Some((start, batch))
    }

    /// Is the file still as long as that? Its writer may take back what it could not sync.
    fn has(&self, end: u64) -> bool {
        match &self.source {
            Source::File(log) => log.file.metadata().is_ok_and(|file| file.len() >= end),
            Source::Memory(_) => true,
        }
    }

    /// Reads the records from `start` on.
    pub fn read_batch(&mut self, start: u64, end: End, limits: &BatchLimits) -> io::Result<Batch> {
        let batch = Batch::read_to_send(self.bytes(), start, end, limits)?;
        Ok(self.adopt(batch))
    }

    /// Takes over what was read.
    fn adopt(&mut self, mut batch: Batch) -> Batch {
        for entry in &mut batch.entries {
            entry.is_doubtful = entry.line.start < self.doubtful_until;
        }
        if let Source::File(log) = &mut self.source {
            log.ours |= batch.checksummed;
        }
        batch
    }

    /// An answer was lost: if the batch is read anew, it is still in doubt.
    pub fn doubt(&mut self) {
        let end = self.batch.as_ref().map_or(0, |batch| batch.end);
        self.doubtful_until = self.doubtful_until.max(end);
    }

    /// Does the project take whole calls only, as far as is known on disk?
    pub fn takes_whole_calls(&self) -> bool {
        match &self.source {
            Source::File(log) => log.directory.takes_whole_calls(),
            Source::Memory(_) => false,
        }
    }

    /// Remembers on disk that the project takes whole calls only.
    pub fn remember_whole_calls(&self) {
        if let Source::File(log) = &self.source {
            log.directory.remember_whole_calls();
        }
    }

    pub fn bytes(&self) -> &dyn Bytes {
        match &self.source {
            Source::File(log) => &*log.file,
            Source::Memory(log) => &**log,
        }
    }

    /// Removes a foreign file, if it is delivered to its end and its writer is gone for good.
    pub fn remove_foreign(mut self) -> Result<bool> {
        let end = self.end()?;
        if !end.is_final || self.offset < end.offset || self.is_replaced() {
            return Ok(false);
        }
        self.remove()?;
        Ok(true)
    }

    /// Removes an own file that takes no more lines and is delivered to its end.
    pub fn remove(self) -> Result<()> {
        match &self.source {
            Source::File(log) if !self.is_replaced() => log.directory.remove(&log.name),
            _ => Ok(()),
        }
    }

    /// Has somebody put another file in the place of this one, or removed it?
    fn is_replaced(&self) -> bool {
        let Source::File(log) = &self.source else {
            return false;
        };
        let path = log.directory.file(&log.name, Extension::Jsonl);
        // Where nobody says, nothing is touched.
        !lock::still_names(&path, &log.file).unwrap_or(false)
    }

    fn read(&self, start: u64, end: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (end - start) as usize];
        let n = self
            .bytes()
            .read_at(&mut bytes, start)
            .map_err(|error| self.read_error(error))?;
        bytes.truncate(n);
        Ok(bytes)
    }

    pub fn read_error(&self, error: io::Error) -> Error {
        let path = self.path(Extension::Jsonl).unwrap_or_default();
        Error::from_io("read", &path, error)
    }

    fn path(&self, extension: Extension) -> Option<std::path::PathBuf> {
        match &self.source {
            Source::File(log) => Some(log.directory.file(&log.name, extension)),
            Source::Memory(_) => None,
        }
    }
}

impl Bytes for Log {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.read_memory(buffer, offset))
    }
}

#[cfg(test)]
mod tests;
