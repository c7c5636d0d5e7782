//! From a stretch of a log file to requests: which records, in which bodies.
//!
//! A batch is what one checkpoint covers. Its records are kept as places in the file, and the bytes
//! only of what goes out next, so that a batch costs the memory of one request body and no more,
//! whatever is in it.

pub(crate) mod form;

use std::io;
use std::ops::Range;

use self::form::file_request;
use crate::delivery::Unit;
use crate::delivery::halves::{FRAME, Halves};
use crate::http::{Body, Request};
use crate::reader::window::{Bytes, Ranges, Window, became_shorter, length};
use crate::reader::{Reader, Step, Tail};
use crate::record::{Fault, Kind};

/// Requests that hold one record each are not checkpointed before the whole batch is: a bound on
/// what is sent twice after a crash.
const SINGLES: usize = 100;

/// Damaged places in one batch, each kept in memory until they are in the dead-letter file.
pub(crate) const FAULTS: usize = 1_000;

/// How many NUL bytes, as a hole or a power loss leaves them, one batch skips at most: reading them
/// takes time, and the thread has timers to keep.
const SKIPPED: usize = 64 << 20;

/// How large a batch may get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    pub records: usize,
    pub bytes: usize,
    pub record: usize,
}

/// How far a batch may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub offset: u64,
    /// The writer is gone: what stands before the end without a newline is all there will be.
    pub is_final: bool,
}

/// What has become of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Waiting,
    Delivered,
    Refused(Box<Refusal>),
}

/// Why a record was refused. A batch has thousands of verdicts and few of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub reason: String,
    pub status: Option<u16>,
    /// What the server has said.
    pub detail: String,
}

/// A record's place in the file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub kind: Kind,
    pub line: Range<u64>,
    pub req: Range<u64>,
    pub verdict: Verdict,
    /// It may have been applied already, and nobody knows.
    pub is_doubtful: bool,
}

/// A damaged place in the file.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    pub place: Range<u64>,
    pub fault: Fault,
}

/// Records that are delivered under one checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub entries: Vec<Entry>,
    pub damages: Vec<Damage>,
    /// The offset behind the last of them.
    pub end: u64,
    /// A line with a checksum was among them: the file was written by this crate.
    pub checksummed: bool,
    /// How many requests were sent for it.
    pub attempts: u32,
    /// How many of them were refused alone, in all attempts together.
    pub refused: usize,
    /// What was refused of it is given up, whatever else fails.
    pub gives_up: bool,
    /// What was refused or damaged is in the dead-letter file.
    pub is_buried: bool,
    /// What stood in front of it was delivered with it.
    pub has_front: bool,
    /// The request for all its calls, made while they were read. It is good for one attempt; after
    /// that the bytes are read again.
    pub calls: Option<Halves>,
}

impl Batch {
    /// Reads the next batch from `start`; empty if there is nothing before `end`.
    pub fn read(
        source: &dyn Bytes,
        start: u64,
        end: End,
        limits: &BatchLimits,
    ) -> io::Result<Batch> {
        Batch::read_with(source, start, end, limits, &mut |_, _| {})
    }

    /// The same, with the request for its calls.
    pub fn read_to_send(
        source: &dyn Bytes,
        start: u64,
        end: End,
        limits: &BatchLimits,
    ) -> io::Result<Batch> {
        let mut calls: Option<Halves> = None;
        let batch = Batch::read_with(source, start, end, limits, &mut |kind, req| {
            let room = || Halves::with_room((end.offset - start).min(limits.bytes as u64) as usize);
            calls.get_or_insert_with(room).push(kind, req);
        })?;
        Ok(Batch { calls, ..batch })
    }

    fn read_with(
        source: &dyn Bytes,
        start: u64,
        end: End,
        limits: &BatchLimits,
        see_call: &mut dyn FnMut(Kind, &[u8]),
    ) -> io::Result<Batch> {
        let mut batch = Batch {
            end: start,
            ..Batch::default()
        };
        let mut reader = Reader::new(limits.record);
        let mut window = Window::new(start);
        let (mut bytes, mut singles, mut skipped) = (0, 0, 0);
        let mut may_end = true;
        while !may_end
            || (batch.entries.len() < limits.records
                && bytes < limits.bytes
                && singles < SINGLES
                && batch.damages.len() < FAULTS
                && skipped < SKIPPED)
        {
            let rest = window.bytes();
            let tail = match window.end() >= end.offset && end.is_final {
                true => Tail::End,
                false => Tail::More,
            };
            let at = window.at;
            let len = match reader.next(rest, tail) {
                Step::Record { record, len } => {
                    let size = record.req.len();
                    let counts = if record.kind.is_call() {
                        size + FRAME
                    } else {
                        0
                    };
                    if may_end && bytes > 0 && bytes + counts > limits.bytes {
                        break;
                    }
                    bytes += counts;
                    match record.kind.is_call() {
                        true => see_call(record.kind, record.req.as_bytes()),
                        false => singles += 1,
                    }
                    batch.checksummed |= record.checked;
                    let req = at + (record.req.as_ptr() as usize - rest.as_ptr() as usize) as u64;
                    batch.entries.push(Entry {
                        kind: record.kind,
                        line: at..at + len as u64,
                        req: req..req + size as u64,
                        verdict: Verdict::Waiting,
                        is_doubtful: false,
                    });
                    len
                }
                Step::Fault { fault, len, .. } => {
                    batch.add_damage(fault, at..at + len as u64);
                    len
                }
                Step::Skip { len, .. } => {
                    skipped += len;
                    len
                }
                Step::More if window.end() < end.offset => {
                    if !window.refill(source, end.offset)? {
                        break;
                    }
                    continue;
                }
                Step::More | Step::End => break,
            };
            window.consume(len);
            batch.end = window.at;
            // Never in the middle of a line: the next batch would take its rest for a record.
            may_end = reader.is_between_lines();
        }
        Ok(batch)
    }

    /// A line above the limit comes in pieces; it is one damage.
    fn add_damage(&mut self, fault: Fault, place: Range<u64>) {
        match self.damages.last_mut() {
            Some(last)
                if last.place.end == place.start
                    && matches!(last.fault, Fault::TooLong { .. })
                    && matches!(
                        fault,
                        Fault::TooLong {
                            continued: true,
                            ..
                        }
                    ) =>
            {
                last.place.end = place.end;
            }
            _ => self.damages.push(Damage { place, fault }),
        }
    }

    pub fn waiting(&self, is_call: bool) -> Vec<usize> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter(|(_, entry)| {
                entry.verdict == Verdict::Waiting && entry.kind.is_call() == is_call
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// Takes in what comes behind it. `false`: nothing does.
    pub fn extend(&mut self, more: Batch) -> bool {
        let any = more.end > self.end;
        self.entries.extend(more.entries);
        self.damages.extend(more.damages);
        self.end = self.end.max(more.end);
        self.checksummed |= more.checksummed;
        self.calls = None;
        any
    }

    /// Has the server taken anything of it?
    pub fn is_taken(&self) -> bool {
        self.has_front || self.count(|verdict| *verdict == Verdict::Delivered) > 0
    }

    /// Takes off what is delivered in front of all that is not, if anything is.
    pub fn split_front(&mut self) -> Option<Batch> {
        // A damaged newline belongs to the record before it: behind that, it is no beginning.
        let begins = |damage: &Damage| match damage.fault {
            Fault::LineEnd => damage.place.start.saturating_sub(1),
            _ => damage.place.start,
        };
        let damaged = self.damages.iter().map(begins).min();
        let is_gone = |entry: &Entry| {
            entry.verdict == Verdict::Delivered
                && damaged.is_none_or(|damaged| entry.line.end <= damaged)
        };
        let len = self
            .entries
            .iter()
            .take_while(|entry| is_gone(entry))
            .count();
        let end = self.entries[..len].last()?.line.end;
        self.has_front = true;
        Some(Batch {
            entries: self.entries.drain(..len).collect(),
            end,
            checksummed: self.checksummed,
            attempts: self.attempts,
            ..Batch::default()
        })
    }

    /// An answer was lost: what waits may be at the server already.
    pub fn doubt(&mut self) {
        for entry in &mut self.entries {
            entry.is_doubtful = true;
        }
    }

    pub fn count(&self, is: impl Fn(&Verdict) -> bool) -> u64 {
        let entries = self.entries.iter();
        entries.filter(|entry| is(&entry.verdict)).count() as u64
    }

    /// Up to where nothing in the file is needed any more: delivered, or in the dead-letter file.
    pub fn gone_until(&self) -> u64 {
        if self.is_buried {
            return self.end;
        }
        let kept = self.entries.iter();
        let kept = kept.filter(|entry| entry.verdict != Verdict::Delivered);
        let damaged = self.damages.iter().map(|damage| damage.place.start);
        let first = kept.map(|entry| entry.line.start).chain(damaged).min();
        first.unwrap_or(self.end)
    }

    /// The request for some calls of this batch.
    pub fn halves(&self, source: &dyn Bytes, units: &[Unit]) -> io::Result<Request> {
        let entries = || units.iter().map(|unit| &self.entries[unit.first]);
        let size = entries().map(|entry| length(&entry.req) + FRAME).sum();
        let mut halves = Halves::with_room(size);
        let mut ranges = Ranges::new(source);
        for entry in entries() {
            halves.push(entry.kind, ranges.bytes(&entry.req)?);
        }
        Ok(halves.into_request())
    }

    /// The bytes of a record's request.
    pub fn req(&self, source: &dyn Bytes, index: usize) -> io::Result<Vec<u8>> {
        let range = &self.entries[index].req;
        let mut req = vec![0; length(range)];
        match source.read_at(&mut req, range.start)? == req.len() {
            true => Ok(req),
            false => Err(became_shorter()),
        }
    }

    /// The request for a record that travels alone. `Err(reason)` inside: it cannot be sent at
    /// all, and never will.
    pub fn single(
        &self,
        source: &dyn Bytes,
        index: usize,
    ) -> io::Result<std::result::Result<Request, String>> {
        let req = self.req(source, index)?;
        Ok(match self.entries[index].kind {
            Kind::ObjCreate => Ok(json("/obj/create", req)),
            Kind::TableCreate => Ok(json("/table/create", req)),
            Kind::FileCreate => file_request(&req),
            Kind::CallStart | Kind::CallEnd => Err("a call does not travel alone".to_owned()),
        })
    }
}

pub(crate) fn json(path: &str, body: Vec<u8>) -> Request {
    Request {
        path: path.to_owned(),
        body: Body::Json(body),
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
