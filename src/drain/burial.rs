//! Into the dead-letter file: what of a batch was refused or damaged.

use serde_json::value::RawValue;

use super::{Drain, Source};
use crate::batch::{Batch, Damage, Entry, Verdict};
use crate::deadletter::{self, DeadLetter, DeadLetterFile};
use crate::error::Result;
use crate::name::Extension;
use crate::report::Event;

/// Damaged bytes go to the dead-letter file in pieces of this size, so that a damage of 1 GiB
/// does not cost 1 GiB of memory.
const PIECE: u64 = 256 << 10;

/// Dead letters are gathered up to this size, for each write of them is synced.
const GATHER: usize = 1 << 20;

impl Drain {
    /// Writes the dead letters of a batch, in file order within each sort: all of them or none, for
    /// what fails is tried again from its beginning.
    pub(super) fn bury(&self, batch: &Batch) -> Result<Vec<Event>> {
        let mut file = None;
        let buried = self.bury_in(&mut file, batch);
        if let (Err(_), Some(file)) = (&buried, &file) {
            file.take_back();
        }
        buried
    }

    fn bury_in(&self, file: &mut Option<DeadLetterFile>, batch: &Batch) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut lines = Vec::new();
        let mut write = |letter: &DeadLetter| -> Result<()> {
            letter.push_to(&mut lines);
            match lines.len() > GATHER {
                true => self.append_letters(file, std::mem::take(&mut lines)),
                false => Ok(()),
            }
        };
        for damage in &batch.damages {
            self.bury_damage(damage, &mut write)?;
            events.push(Event::Corrupt {
                path: self.path(Extension::Jsonl),
                offset: damage.place.start,
                bytes: damage.place.end - damage.place.start,
                reason: damage.fault.to_string(),
            });
        }
        for entry in &batch.entries {
            if let Some(letter) = self.letter(entry, batch.attempts)? {
                write(&letter)?;
                events.push(Event::DeadLettered {
                    path: self.path(Extension::Deadletter),
                    reason: letter.reason,
                });
            }
        }
        self.append_letters(file, lines)?;
        Ok(events)
    }

    fn append_letters(&self, file: &mut Option<DeadLetterFile>, lines: Vec<u8>) -> Result<()> {
        let Source::File(log) = &self.source else {
            return Ok(());
        };
        if lines.is_empty() {
            return Ok(());
        }
        let file = match file {
            Some(file) => file,
            none => none.insert(DeadLetterFile::open(&log.directory, &log.name)?),
        };
        file.append(&lines)
    }

    fn bury_damage(
        &self,
        damage: &Damage,
        write: &mut dyn FnMut(&DeadLetter) -> Result<()>,
    ) -> Result<()> {
        let mut start = damage.place.start;
        while start < damage.place.end {
            let end = damage.place.end.min(start + PIECE);
            let mut bytes = self.read(start, end)?;
            if end == damage.place.end && bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            write(&DeadLetter {
                raw: Some(bytes),
                offset: start,
                reason: damage.fault.to_string(),
                at: deadletter::now(),
                ..DeadLetter::default()
            })?;
            start = end;
        }
        Ok(())
    }

    fn letter(&self, entry: &Entry, attempts: u32) -> Result<Option<DeadLetter>> {
        let Verdict::Refused(refusal) = &entry.verdict else {
            return Ok(None);
        };
        let line = self.read(entry.line.start, entry.line.end)?;
        // The separator behind the record may be a NUL.
        let line = line.strip_suffix(b"\0").unwrap_or(&line).trim_ascii();
        // A checksum that is right says nothing of what another program has written under it.
        let (record, raw) = match serde_json::from_slice::<&RawValue>(line) {
            Ok(record) => (Some(record.get().to_owned()), None),
            Err(_) => (None, Some(line.to_vec())),
        };
        Ok(Some(DeadLetter {
            record,
            raw,
            offset: entry.line.start,
            reason: refusal.reason.clone(),
            status: refusal.status,
            detail: refusal.detail.clone(),
            attempts,
            at: deadletter::now(),
        }))
    }
}
