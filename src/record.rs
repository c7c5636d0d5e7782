//! A record: its kind, and how it becomes a line and a line becomes it.
//!
//! ```text
//! {"type":"call_start","req":{…},"crc":"de9674f1"}\n
//! ├───── prefix ────────────┤├─┤├──── tail ─────┤
//! └── the checksum is over these ┘
//! ```
//!
//! Neither side builds a tree of the request: its bytes go into the line as they came and come out
//! of it as they stand, so numbers of any size, depth, key order and escapes survive.

pub(crate) mod crc;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde_json::value::RawValue;

use crate::config::policy::one_of;
use crate::error::Error;
use crate::json::Fields;
use crate::sys;

/// What a record asks the server to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A call begins: `{"start": {…}}`.
    CallStart,
    /// A call ends: `{"end": {…}}`.
    CallEnd,
    /// An object is published: `{"obj": {…}}`.
    ObjCreate,
    /// A table is published: `{"table": {…}}`.
    TableCreate,
    /// A file is published: `{"project_id", "name", "content" or "content_base64"}`.
    FileCreate,
}

impl Kind {
    /// All kinds, in no particular order.
    pub const ALL: [Kind; 5] = [
        Kind::CallStart,
        Kind::CallEnd,
        Kind::ObjCreate,
        Kind::TableCreate,
        Kind::FileCreate,
    ];

    /// The name that stands under `"type"` in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::CallStart => "call_start",
            Kind::CallEnd => "call_end",
            Kind::ObjCreate => "obj_create",
            Kind::TableCreate => "table_create",
            Kind::FileCreate => "file_create",
        }
    }

    /// Is it one half of a call, which travels in batches?
    pub const fn is_call(self) -> bool {
        matches!(self, Kind::CallStart | Kind::CallEnd)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        one_of("kind of record", name, &Kind::ALL)
    }
}

/// What stands before the request in the line of a record of this kind.
const fn prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::CallStart => r#"{"type":"call_start","req":"#,
        Kind::CallEnd => r#"{"type":"call_end","req":"#,
        Kind::ObjCreate => r#"{"type":"obj_create","req":"#,
        Kind::TableCreate => r#"{"type":"table_create","req":"#,
        Kind::FileCreate => r#"{"type":"file_create","req":"#,
    }
}

/// The checksum of each prefix, so that an append need not compute it.
const PREFIX_CRC: [u32; Kind::ALL.len()] = {
    let mut crcs = [0; Kind::ALL.len()];
    let mut at = 0;
    while at < crcs.len() {
        let kind = Kind::ALL[at];
        crcs[kind as usize] = crc::by_tables(0, prefix(kind).as_bytes());
        at += 1;
    }
    crcs
};

/// The tail of a line: this, eight lower-case hexadecimal digits, and [`TAIL_END`].
const TAIL_START: &str = r#","crc":""#;
const TAIL_END: &str = r#""}"#;
const CRC_DIGITS: usize = 8;
const TAIL_LEN: usize = TAIL_START.len() + CRC_DIGITS + TAIL_END.len();

/// A record ready to be appended: everything that takes time is done.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    kind: Kind,
    req: Cow<'a, [u8]>,
    crc: u32,
}

impl<'a> Line<'a> {
    /// The line of a request that is known to be valid JSON. It must be an object, and the whole
    /// line, newline included, at most `limit` bytes.
    pub(crate) fn new(kind: Kind, req: &'a [u8], limit: usize) -> Result<Line<'a>, Error> {
        let req = req.trim_ascii();
        if !req.starts_with(b"{") {
            return Err(Error::Record(format!(
                "a {kind} must be a JSON object, and this begins with {:?}",
                shortened(&String::from_utf8_lossy(req))
            )));
        }
        let len = line_len(kind, req);
        if len > limit {
            return Err(Error::Record(format!(
                "this {kind} takes {len} bytes in the log, and the limit is {limit}; log less in \
                 one record or raise the record limit"
            )));
        }
        let req = without_line_breaks(req);
        let crc = crc::update(PREFIX_CRC[kind as usize], &req);
        Ok(Line { kind, req, crc })
    }

    /// How many bytes [`push_to`](Self::push_to) appends, newline included.
    pub(crate) fn len(&self) -> usize {
        line_len(self.kind, &self.req)
    }

    /// Appends the line and its newline.
    pub(crate) fn push_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        out.extend_from_slice(prefix(self.kind).as_bytes());
        out.extend_from_slice(&self.req);
        out.extend_from_slice(TAIL_START.as_bytes());
        out.extend_from_slice(&hex(self.crc));
        out.extend_from_slice(TAIL_END.as_bytes());
        out.push(b'\n');
    }
}

fn line_len(kind: Kind, req: &[u8]) -> usize {
    prefix(kind).len() + req.len() + TAIL_LEN + 1
}

/// Pretty-printed JSON on one line: a raw line break can only stand between two tokens.
fn without_line_breaks(json: &[u8]) -> Cow<'_, [u8]> {
    if sys::find(b'\n', json).or(sys::find(b'\r', json)).is_none() {
        return Cow::Borrowed(json);
    }
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let space = |byte: &u8| if is_break(byte) { b' ' } else { *byte };
    Cow::Owned(json.iter().map(space).collect())
}

fn hex(crc: u32) -> [u8; CRC_DIGITS] {
    let mut digits = [0; CRC_DIGITS];
    for (at, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(crc >> (4 * at)) as usize & 0xF];
    }
    digits
}

/// A record as it stands in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it asks the server to do.
    pub kind: Kind,
    /// The request: a JSON object, byte for byte as it stands in the log.
    pub req: &'a str,
    /// Did the line have a checksum? (A wrong one makes it a [`Fault`]; a line written by Weave's
    /// Python client has none.)
    pub checked: bool,
}

/// Reads one line, given without its newline.
///
/// White space around it does not matter. With the checksum this crate writes, the bytes must match
/// it; other writers may order the keys as they like and add keys, which are ignored. If a key
/// occurs twice the last one counts.
///
/// # Errors
///
/// The [`Fault`] says why this is not a record. The caller keeps the bytes.
pub fn parse(line: &[u8]) -> Result<Record<'_>, Fault> {
    let line = line.trim_ascii();
    match split_tail(line) {
        Some((body, stored)) => {
            let computed = crc::update(0, body);
            if hex(computed) != *stored {
                let stored = shortened(&String::from_utf8_lossy(stored));
                return Err(Fault::Checksum { stored, computed });
            }
            parse_own(body).unwrap_or_else(|| parse_any(line, true))
        }
        None => parse_any(line, false),
    }
}

/// The bytes under the checksum, and its digits.
fn split_tail(line: &[u8]) -> Option<(&[u8], &[u8; CRC_DIGITS])> {
    let (start, digits) = line
        .strip_suffix(TAIL_END.as_bytes())?
        .split_last_chunk::<CRC_DIGITS>()?;
    Some((start.strip_suffix(TAIL_START.as_bytes())?, digits))
}

/// Takes a line with a matching checksum apart as [`Line`] put it together, without parsing JSON.
/// `None` if it looks different.
fn parse_own(body: &[u8]) -> Option<Result<Record<'_>, Fault>> {
    let (kind, req) = Kind::ALL
        .into_iter()
        .find_map(|kind| Some((kind, body.strip_prefix(prefix(kind).as_bytes())?)))?;
    if !(req.starts_with(b"{") && req.ends_with(b"}")) {
        return None;
    }
    Some(match std::str::from_utf8(req) {
        Ok(req) => Ok(Record {
            kind,
            req,
            checked: true,
        }),
        Err(_) => Err(Fault::NotUtf8),
    })
}

/// Reads a line of any shape. Parsing into [`RawValue`]s takes no stack however deep the request is
/// nested, and does not look at its numbers and escapes.
fn parse_any(line: &[u8], checked: bool) -> Result<Record<'_>, Fault> {
    let line = std::str::from_utf8(line).map_err(|_| Fault::NotUtf8)?;
    if !line.starts_with('{') {
        return Err(match serde_json::from_str::<&RawValue>(line) {
            Ok(_) => Fault::NotAnObject,
            Err(error) => Fault::NotJson(error.to_string()),
        });
    }
    let keys: Fields<'_> =
        serde_json::from_str(line).map_err(|error| Fault::NotJson(error.to_string()))?;
    let kind = kind_of(keys.get("type").ok_or(Fault::NoType)?.get())?;
    let req = keys.get("req").ok_or(Fault::NoRequest)?.get();
    if !req.starts_with('{') {
        return Err(Fault::NoRequest);
    }
    Ok(Record { kind, req, checked })
}

/// The kind that a JSON value names.
fn kind_of(json: &str) -> Result<Kind, Fault> {
    if !json.starts_with('"') {
        return Err(Fault::NoType);
    }
    // With escapes that name no character it is nothing that could be one of ours.
    let name: String = serde_json::from_str(json).unwrap_or_else(|_| json.to_owned());
    Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == name)
        .ok_or_else(|| Fault::UnknownType(shortened(&name)))
}

/// The text itself, or its first 63 characters and an ellipsis.
fn shortened(text: &str) -> String {
    const MOST: usize = 64;
    if text.chars().nth(MOST).is_none() {
        return text.to_owned();
    }
    text.chars().take(MOST - 1).chain(['…']).collect()
}

/// Why some bytes of a log are not a record.
///
/// Its text is the `reason` in the dead-letter file and in the output of `weave-wal verify`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Not UTF-8 text.
    NotUtf8,
    /// Not JSON, for this reason.
    NotJson(String),
    /// JSON, but not an object.
    NotAnObject,
    /// An object without `"type"`, or with one that is not a string.
    NoType,
    /// An object whose `"type"` this version does not know (shortened to 64 characters).
    UnknownType(String),
    /// An object without `"req"`, or with one that is not an object.
    NoRequest,
    /// The bytes are not those that were written.
    Checksum {
        /// What stands in the line as its checksum.
        stored: String,
        /// The checksum of the bytes that are there now.
        computed: u32,
    },
    /// Longer than a record may be. Such a line is reported in pieces.
    TooLong {
        /// The most bytes that a line may have, its newline not counted.
        limit: usize,
        /// Is this a further piece of a line whose beginning was reported before?
        continued: bool,
    },
    /// The beginning of a record: its writer, or the disk, stopped in the middle of it.
    Torn,
    /// A byte between two whole records, where a newline should be.
    LineEnd,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotUtf8 => f.write_str("not UTF-8"),
            Fault::NotJson(why) => write!(f, "not JSON: {why}"),
            Fault::NotAnObject => f.write_str("not a JSON object"),
            Fault::NoType => f.write_str(r#"no "type", or one that is not a string"#),
            Fault::UnknownType(name) => write!(f, "unknown type {name:?}"),
            Fault::NoRequest => f.write_str(r#"no "req", or one that is not an object"#),
            Fault::Checksum { stored, computed } => write!(
                f,
                "damaged: the checksum of these bytes is {computed:08x}, and {stored:?} was written"
            ),
            Fault::TooLong { limit, continued } => {
                let piece = if *continued {
                    "a further piece of "
                } else {
                    ""
                };
                write!(f, "{piece}a line longer than the limit of {limit} bytes")
            }
            Fault::Torn => f.write_str("torn: cut off before the end of the record"),
            Fault::LineEnd => f.write_str("damaged: this byte should be a newline"),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests;
