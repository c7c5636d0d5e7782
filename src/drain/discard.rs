//! Giving up a log that is not delivered, where the disk budget asks for that.

use std::path::PathBuf;

use super::Drain;
use crate::batch::Batch;
use crate::error::Result;
use crate::inspect::LIMITS;
use crate::name::{Extension, FileName};

/// A log file that was removed before it was delivered.
#[derive(Debug)]
pub(crate) struct Discarded {
    pub name: FileName,
    pub path: PathBuf,
    /// Good records that were not delivered.
    pub records: u64,
    /// Bytes that were not delivered.
    pub bytes: u64,
}

impl Drain {
    /// Removes a file whose writer is gone, delivered or not. `None`: somebody writes to it. Its
    /// dead letters stay.
    pub fn discard(mut self) -> Result<Option<Discarded>> {
        let end = self.end()?;
        let (Some(name), Some(path)) = (self.name().cloned(), self.path(Extension::Jsonl)) else {
            return Ok(None);
        };
        if !end.is_final {
            return Ok(None);
        }
        let (mut at, mut records) = (self.offset, 0);
        while at < end.offset {
            let batch = Batch::read(self.bytes(), at, end, &LIMITS)
                .map_err(|error| self.read_error(error))?;
            if batch.end == at {
                break;
            }
            records += batch.entries.len() as u64;
            at = batch.end;
        }
        let bytes = end.offset.saturating_sub(self.offset);
        self.remove()?;
        Ok(Some(Discarded {
            name,
            path,
            records,
            bytes,
        }))
    }
}
