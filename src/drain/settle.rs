//! What becomes of a batch that has been sent: dead letters, the checkpoint, the space it took.

use std::fs::OpenOptions;
use std::io;

use super::{Drain, Settled, Source};
use crate::batch::{Batch, End, Verdict};
use crate::checkpoint;
use crate::error::Result;
use crate::lock;
use crate::name::Extension;
use crate::report::Event;
use crate::segment;

/// How much is delivered before its space is given back.
const GIVE_BACK: u64 = 1 << 20;

impl Drain {
    /// Puts what was refused or damaged into the dead-letter file, then moves the checkpoint past
    /// the batch. Whatever fails here, the batch stays and is settled again.
    pub fn settle(&mut self, end: End, tell: &mut dyn FnMut(Event)) -> Result<Settled> {
        let Some(batch) = &self.batch else {
            return Ok(Settled::default());
        };
        let events = match batch.is_buried {
            true => Vec::new(),
            false => self.with_space(batch, || self.bury(batch))?,
        };
        // If the checkpoint fails, no letter is written twice.
        if let Some(batch) = &mut self.batch {
            batch.is_buried = true;
        }
        events.into_iter().for_each(&mut *tell);
        let Some(batch) = &self.batch else {
            return Ok(Settled::default());
        };
        let settled = Settled {
            delivered: batch.count(|verdict| *verdict == Verdict::Delivered),
            rejected: batch.count(|verdict| matches!(verdict, Verdict::Refused(_))),
            corrupt: batch.damages.len() as u64,
            records: batch.entries.len() as u64,
        };
        let settled_end = batch.end;
        let written = match &self.source {
            // Of what stands there now nothing is known: it is delivered from where it was.
            Source::File(_) if self.is_replaced() => Ok(()),
            Source::File(log) => {
                let path = log.directory.file(&log.name, Extension::Checkpoint);
                self.with_space(batch, || checkpoint::write(&path, settled_end))
            }
            Source::Memory(log) => {
                log.release_memory(settled_end);
                Ok(())
            }
        };
        match written {
            // A hole in the place of what is delivered says so as well as a checkpoint does, and a
            // file that ends here is removed next.
            Err(error)
                if error.is_no_space()
                    && (self.give_back(settled_end) || self.ends_at(settled_end, end)?) => {}
            written => written?,
        }
        self.offset = settled_end;
        if settled_end >= end.offset {
            self.give_back_some();
        }
        self.batch = None;
        self.held_since = None;
        if settled.delivered > 0 {
            tell(Event::Delivered {
                records: settled.delivered,
            });
        }
        Ok(settled)
    }

    /// Moves the checkpoint past what is delivered in front of what is not: the rest may wait for
    /// long, and a process that comes to it later would send all of the batch again.
    pub fn settle_front(&mut self, end: End, tell: &mut dyn FnMut(Event)) -> Result<Settled> {
        let Some(mut rest) = self.batch.take() else {
            return Ok(Settled::default());
        };
        let Some(front) = rest.split_front() else {
            self.batch = Some(rest);
            return Ok(Settled::default());
        };
        // Beyond the end of a file that was cut no checkpoint means anything.
        let is_there = self.has(front.end);
        self.batch = Some(front);
        let held_since = self.held_since;
        let settled = match is_there {
            true => self.settle(end, tell),
            false => Ok(Settled::default()),
        };
        self.held_since = held_since;
        // If it could not be noted, it is delivered all the same.
        match &mut self.batch {
            Some(front) => drop(front.extend(rest)),
            none => *none = Some(rest),
        }
        if let Some(batch) = &mut self.batch {
            batch.is_buried = false;
        }
        settled
    }

    /// Is this the end of a file that nobody will ever write to again?
    fn ends_at(&mut self, offset: u64, known: End) -> Result<bool> {
        let end = match known.is_final {
            true => known,
            // Only by now may it be clear who wrote it, and so whether the writer is gone.
            false => self.end()?,
        };
        Ok(end.is_final && offset >= end.offset)
    }

    /// Writes something beside the log; on a full disk once more, after what is delivered has
    /// given its space back.
    fn with_space<T>(&self, batch: &Batch, write: impl Fn() -> Result<T>) -> Result<T> {
        match write() {
            Err(error) if error.is_no_space() && self.give_back(batch.gone_until()) => write(),
            result => result,
        }
    }

    /// A file that is written to for days must not hold the space of what was delivered long ago.
    /// While there is more to send, this can be done when a request is out.
    pub fn give_back_some(&self) {
        let ours = matches!(&self.source, Source::File(log) if log.ours);
        if ours && self.offset >= self.given_back.get() + GIVE_BACK {
            self.give_back(self.offset);
            self.given_back.set(self.offset);
        }
    }

    /// Gives the space of what is delivered back.
    pub(super) fn give_back(&self, end: u64) -> bool {
        let Source::File(log) = &self.source else {
            return false;
        };
        let path = log.directory.file(&log.name, Extension::Jsonl);
        let punch = || -> io::Result<bool> {
            match lock::open_plain(&path, OpenOptions::new().read(true).write(true))? {
                Some(file) if lock::still_names(&path, &log.file)? => {
                    segment::give_back(&file, end).map(|()| true)
                }
                _ => Ok(false),
            }
        };
        punch().unwrap_or(false)
    }
}
