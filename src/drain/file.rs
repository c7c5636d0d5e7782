//! The file that is delivered: how far it may be read, and where its lines begin.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::batch::End;
use crate::directory::Directory;
use crate::error::{IoContext, Result};
use crate::lock::{self, Held, Writer};
use crate::name::{Extension, FileName};
use crate::reader::records;
use crate::reader::window::Bytes;

/// A log file with its drain lock.
pub(super) struct LogFile {
    pub directory: Directory,
    pub name: FileName,
    /// Flocked: the drain lock.
    pub file: Held,
    /// Written by this crate: its writer holds a flock, whatever the PID beside it says.
    pub ours: bool,
    /// The writer is gone; held so that it stays what was found.
    pub writer: Option<Writer>,
    pub synced: u64,
}

impl LogFile {
    /// How far it may be read: to its end if the writer is gone, to its last newline if not.
    pub(super) fn end(&mut self, offset: u64) -> Result<End> {
        if self.writer.is_none() {
            let writer = lock::writer(&self.directory, &self.name, &self.file, self.ours)?;
            // First ask for the writer, then for the size: nothing can come in between.
            if matches!(writer, Writer::Gone { .. }) {
                self.writer = Some(writer);
            }
        }
        let path = self.directory.file(&self.name, Extension::Jsonl);
        let is_final = self.writer.is_some();
        let look = || -> io::Result<u64> {
            let size = self.file.metadata()?.len();
            match is_final {
                true => Ok(size),
                false => last_line_end(&self.file, offset, size),
            }
        };
        Ok(End {
            offset: look().doing("read", &path)?,
            is_final,
        })
    }

    /// Syncs what somebody else wrote before it is read from `offset` to `end`.
    pub(super) fn sync(&mut self, offset: u64, end: u64) {
        if end > offset && end > self.synced {
            self.directory
                .sync_once(&self.name, || self.file.sync_data());
            self.synced = end;
        }
    }
}

impl Bytes for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Is the first record of a file one with a checksum, as only this crate writes them, or the
/// beginning given back, as only this crate does? A record too long to be looked at here is
/// recognised when it is read.
pub(crate) fn begins_with_checksum(file: &File) -> io::Result<bool> {
    let mut beginning = vec![0; 16 << 10];
    let n = Bytes::read_at(file, &mut beginning, 0)?;
    if beginning[..n].first() == Some(&0) {
        return Ok(true);
    }
    let first = records(&beginning[..n], beginning.len()).next();
    Ok(matches!(first, Some((_, Ok(record))) if record.checked))
}

/// Where the line begins that a checkpoint points into. Beyond the end it stays what it is:
/// nothing is pending.
pub(crate) fn line_start(file: &File, checkpoint: u64) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if checkpoint == 0 || checkpoint >= size {
        return Ok(checkpoint);
    }
    // A NUL ends a record without being part of it.
    let mut next = [0];
    file.read_exact_at(&mut next, checkpoint)?;
    if next == [0] {
        return Ok(checkpoint);
    }
    Ok(find_back(file, 0, checkpoint, |byte| byte == b'\n' || byte == 0)?.unwrap_or(0))
}

/// Where the last whole line ends between two offsets; the lower one if none does.
fn last_line_end(file: &File, from: u64, to: u64) -> io::Result<u64> {
    Ok(find_back(file, from, to, |byte| byte == b'\n')?.unwrap_or(from))
}

/// The offset behind the last byte before `to` that is looked for, but not before `from`.
fn find_back(
    file: &File,
    from: u64,
    to: u64,
    wanted: impl Fn(u8) -> bool,
) -> io::Result<Option<u64>> {
    let mut chunk = vec![0; 64 << 10];
    let mut end = to;
    while end > from {
        let start = end.saturating_sub(chunk.len() as u64).max(from);
        let part = &mut chunk[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(index) = part.iter().rposition(|&byte| wanted(byte)) {
            return Ok(Some(start + index as u64 + 1));
        }
        end = start;
    }
    Ok(None)
}
