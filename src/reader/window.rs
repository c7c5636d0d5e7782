//! Reading a file in pieces: onwards with a window, and ranges in file order.

use std::io;
use std::ops::Range;

/// How much of a file is read at once.
const CHUNK: usize = 256 << 10;

/// Something that can be read at any offset: a log file, or memory.
pub(crate) trait Bytes {
    /// Fills `buffer` from `offset` on as far as there is anything.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// The part of a file that is looked at: grows when a line is longer than it, moves on otherwise.
pub(crate) struct Window {
    buffer: Vec<u8>,
    /// What of the buffer was read and is not consumed.
    unread: Range<usize>,
    /// Where that begins in the file.
    pub at: u64,
}

impl Window {
    pub fn new(at: u64) -> Window {
        Window {
            buffer: Vec::new(),
            unread: 0..0,
            at,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.unread.clone()]
    }

    pub fn end(&self) -> u64 {
        self.at + self.bytes().len() as u64
    }

    pub fn consume(&mut self, len: usize) {
        self.unread.start += len;
        self.at += len as u64;
    }

    /// Reads on, at most to `limit`; `false` if the file ends before that.
    pub fn refill(&mut self, source: &dyn Bytes, limit: u64) -> io::Result<bool> {
        let have = self.unread.len();
        let wanted = (limit - self.end()).min(have.max(CHUNK) as u64) as usize;
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..have;
        let offset = self.end();
        if self.buffer.len() < have + wanted {
            self.buffer.resize(have + wanted, 0);
        }
        let n = source.read_at(&mut self.buffer[have..have + wanted], offset)?;
        self.unread.end += n;
        Ok(n > 0)
    }
}

/// Reads ranges that come in file order, with few reads of the file.
pub(crate) struct Ranges<'a> {
    source: &'a dyn Bytes,
    chunk: Vec<u8>,
    at: u64,
}

impl<'a> Ranges<'a> {
    pub fn new(source: &'a dyn Bytes) -> Self {
        Ranges {
            source,
            chunk: Vec::new(),
            at: 0,
        }
    }

    pub fn bytes(&mut self, range: &Range<u64>) -> io::Result<&[u8]> {
        let len = length(range);
        if range.start < self.at || range.end > self.at + self.chunk.len() as u64 {
            self.chunk.resize(CHUNK.max(len), 0);
            let n = self.source.read_at(&mut self.chunk, range.start)?;
            self.chunk.truncate(n);
            self.at = range.start;
        }
        let start = (range.start - self.at) as usize;
        self.chunk
            .get(start..start + len)
            .ok_or_else(became_shorter)
    }
}

pub(crate) fn became_shorter() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file became shorter while it was read",
    )
}

pub(crate) fn length(range: &Range<u64>) -> usize {
    (range.end - range.start) as usize
}

#[cfg(test)]
mod tests;
