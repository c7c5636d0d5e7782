//! Any bytes to records.
//!
//! A log file may have been cut at any byte, hold a run of NUL bytes where a power loss took a
//! page, or hold bytes that nobody here wrote. The [`Reader`] takes windows of such a file and says,
//! step by step, what stands there: a record, a fault, or nothing worth keeping. It opens nothing,
//! keeps nothing and decides nothing: where a live file ends, and what becomes of faults, is the
//! caller's.
//!
//! JSON has neither a raw newline nor a raw NUL, so both separate what stands between them. Each
//! such piece is judged alone, and damage in one does not reach the next.
//!
//! | what stands there | step |
//! |---|---|
//! | a record and its newline | [`Step::Record`] |
//! | a record that a NUL or the end of a dead file follows | [`Step::Record`] |
//! | anything else and its newline | [`Step::Fault`], with the bytes |
//! | the beginning of a record, then a NUL or the end of a dead file | [`Fault::Torn`] |
//! | two records with one damaged byte for a newline | both, and [`Fault::LineEnd`] between them |
//! | a line above the limit | [`Fault::TooLong`], in pieces that fit a window |
//! | NUL bytes, white space | [`Step::Skip`] |

pub(crate) mod window;

use serde_json::value::RawValue;

use crate::record::{Fault, Record, parse};
use crate::sys;

/// What comes behind a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// More of the file. A piece that is not complete in this window is [`Step::More`].
    More,
    /// Nothing: the window ends where the file ends, and its writer is gone. (A live file is shown
    /// to the reader up to its last newline, so what is being written is never judged.)
    End,
}

/// What stands at the start of a window. `len` is how many bytes of it are dealt with: the next
/// window starts behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<'a> {
    /// A record.
    Record {
        /// The record.
        record: Record<'a>,
        /// The bytes to move on, the newline included.
        len: usize,
    },
    /// Bytes that are not a record, to be kept elsewhere.
    Fault {
        /// Why they are not.
        fault: Fault,
        /// The bytes to move on, the newline included.
        len: usize,
        /// The bytes, without the newline.
        bytes: &'a [u8],
    },
    /// NUL bytes and white space between pieces.
    Skip {
        /// The bytes to move on.
        len: usize,
        /// How many of them are NUL: what a power loss took, not what a writer wrote.
        nuls: usize,
    },
    /// The window ends too early. A larger one is needed that starts at the same place, but never
    /// one of more than the limit and one byte.
    More,
    /// There is nothing left.
    End,
}

/// Reads a log through windows, each of which starts where the last step ended.
///
/// The steps do not depend on the sizes of the windows, except that a [`Step::Skip`] ends where
/// its window does.
#[derive(Debug, Clone)]
pub struct Reader {
    limit: usize,
    place: Place,
}

/// Where a window starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the start of a piece.
    Piece,
    /// In a piece above the limit.
    LongPiece,
    /// At the damaged byte behind a record.
    DamagedLineEnd,
    /// Behind that byte.
    BehindDamage,
}

impl Reader {
    /// A reader of lines of at most `limit` bytes, their newlines not counted.
    pub fn new(limit: usize) -> Self {
        Reader {
            limit,
            place: Place::Piece,
        }
    }

    /// May another reader begin where the next window starts? Not in the middle of a line that is
    /// being reported in pieces.
    pub fn is_between_lines(&self) -> bool {
        self.place == Place::Piece
    }

    /// What stands at the start of `bytes`.
    pub fn next<'a>(&mut self, bytes: &'a [u8], tail: Tail) -> Step<'a> {
        if self.place == Place::DamagedLineEnd && !bytes.is_empty() {
            self.place = Place::BehindDamage;
            return Step::Fault {
                fault: Fault::LineEnd,
                len: 1,
                bytes: &bytes[..1],
            };
        }
        if self.place == Place::LongPiece && bytes.first().is_some_and(is_separator) {
            self.place = Place::Piece;
        }
        if self.place == Place::Piece {
            if let Some(skip) = skip_blank(bytes) {
                return skip;
            }
        }
        // A piece at the limit and its separator fill the largest window that is ever looked at.
        let full = self.limit.saturating_add(1);
        let window = &bytes[..bytes.len().min(full)];
        match (find_separator(window), tail) {
            (Some(end), _) => self.piece(&window[..end], bytes[end] == b'\n'),
            (None, _) if window.len() == full => self.long_piece(window),
            (None, Tail::More) => Step::More,
            (None, Tail::End) if window.is_empty() => Step::End,
            (None, Tail::End) => self.piece(window, false),
        }
    }

    /// A whole piece. If a newline ends it, that is dealt with too; a NUL is left for the
    /// [`Step::Skip`] that counts it.
    fn piece<'a>(&mut self, piece: &'a [u8], newline: bool) -> Step<'a> {
        let len = piece.len() + usize::from(newline);
        let place = std::mem::replace(&mut self.place, Place::Piece);
        if place == Place::LongPiece {
            return self.too_long(piece, len, true);
        }
        let parsed = if newline {
            parse(piece)
        } else {
            parse_cut(piece)
        };
        let fault = match parsed {
            Ok(record) => return Step::Record { record, len },
            Err(fault) => fault,
        };
        // Only once in a piece, or a file made for it would have its end read again and again.
        if place != Place::BehindDamage {
            if let Some((record, len)) = before_damaged_line_end(piece) {
                self.place = Place::DamagedLineEnd;
                return Step::Record { record, len };
            }
        }
        Step::Fault {
            fault,
            len,
            bytes: piece,
        }
    }

    /// A window full of one piece that does not end in it.
    fn long_piece<'a>(&mut self, window: &'a [u8]) -> Step<'a> {
        let continued = self.place == Place::LongPiece;
        self.place = Place::LongPiece;
        self.too_long(window, window.len(), continued)
    }

    fn too_long<'a>(&self, bytes: &'a [u8], len: usize, continued: bool) -> Step<'a> {
        let limit = self.limit;
        Step::Fault {
            fault: Fault::TooLong { limit, continued },
            len,
            bytes,
        }
    }
}

/// All of a slice at once: where each record or fault starts, and what it is. `limit` is that of
/// [`Reader::new`].
///
/// ```
/// let log = b"{\"type\":\"call_end\",\"req\":{}}\noops\n";
/// let mut found = weave_wal::reader::records(log, 1024);
/// assert!(found.next().is_some_and(|(offset, record)| offset == 0 && record.is_ok()));
/// assert!(found.next().is_some_and(|(offset, record)| offset == 29 && record.is_err()));
/// assert!(found.next().is_none());
/// ```
pub fn records(
    bytes: &[u8],
    limit: usize,
) -> impl Iterator<Item = (u64, Result<Record<'_>, Fault>)> {
    let mut reader = Reader::new(limit);
    let mut offset = 0;
    std::iter::from_fn(move || {
        loop {
            let start = offset as u64;
            let (len, item) = match reader.next(&bytes[offset..], Tail::End) {
                Step::Record { record, len } => (len, Some(Ok(record))),
                Step::Fault { fault, len, .. } => (len, Some(Err(fault))),
                Step::Skip { len, .. } => (len, None),
                Step::More | Step::End => return None,
            };
            offset += len;
            if let Some(item) = item {
                return Some((start, item));
            }
        }
    })
}

fn is_separator(byte: &u8) -> bool {
    matches!(byte, b'\n' | 0)
}

/// The NUL bytes and white space at the start, if there are any.
fn skip_blank(bytes: &[u8]) -> Option<Step<'_>> {
    let is_blank = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    let len = bytes
        .iter()
        .position(|byte| !is_blank(byte))
        .unwrap_or(bytes.len());
    if len == 0 {
        return None;
    }
    let nuls = bytes[..len].iter().filter(|byte| **byte == 0).count();
    Some(Step::Skip { len, nuls })
}

/// Where the first newline or NUL stands. In stretches, so that where one of them comes often the
/// other is not looked for far beyond it.
fn find_separator(bytes: &[u8]) -> Option<usize> {
    const STRETCH: usize = 1024;
    bytes.chunks(STRETCH).enumerate().find_map(|(n, stretch)| {
        let newline = sys::find(b'\n', stretch);
        let nul = sys::find(0, &stretch[..newline.unwrap_or(stretch.len())]);
        Some(n * STRETCH + nul.or(newline)?)
    })
}

/// Reads a piece that no newline ends. A truncated tail is not corruption: no proper prefix of an
/// object is an object, so it is either all there or torn. A matching checksum is not enough here,
/// because the cut may stand behind something in the request that looks like one.
fn parse_cut(piece: &[u8]) -> Result<Record<'_>, Fault> {
    let is_json = |text| serde_json::from_str::<&RawValue>(text).is_ok();
    match std::str::from_utf8(piece).is_ok_and(is_json) {
        true => parse(piece),
        false => Err(Fault::Torn),
    }
}

/// If a piece is a record, one byte and the start of another object, then the byte was a newline
/// once: no JSON has that sequence, unless the byte is a comma. The record and its length.
fn before_damaged_line_end(piece: &[u8]) -> Option<(Record<'_>, usize)> {
    let text = piece.utf8_chunks().next()?.valid();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    values.next()?.ok()?;
    let len = values.byte_offset();
    match &piece[len..] {
        [damaged, b'{', ..] if *damaged != b',' => Some((parse(&piece[..len]).ok()?, len)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
