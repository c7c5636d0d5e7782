//! A log and a server that answers as it is told: for tests of what passes between the two.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::batch::{BatchLimits, End};
use crate::config;
use crate::directory::Directory;
use crate::drain::{Drain, Settled};
use crate::error::Result;
use crate::http::{Answer, Body, Request};
use crate::name::{Extension, FileName};
use crate::record::{Kind, Line};
use crate::replay::host::Host;
use crate::replay::{Progress, Replay};
use crate::report::Event;

/// One request, as the server got it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub path: String,
    pub body: String,
    pub headers: Vec<(&'static str, String)>,
}

impl Sent {
    /// The numbers of the calls and objects in it, in its order.
    pub fn numbers(&self) -> Vec<usize> {
        let ids = self.body.split(r#""id":"n"#).skip(1);
        ids.map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect()
    }
}

/// The server.
pub(crate) struct Server<'s> {
    answer: Box<dyn FnMut(&Sent) -> Answer + 's>,
    pub sent: Vec<Sent>,
    pub events: Vec<Event>,
    /// How long everybody was told to wait.
    pub told: Vec<Duration>,
    pub held_off: Option<Duration>,
}

impl<'s> Server<'s> {
    pub fn new(answer: impl FnMut(&Sent) -> Answer + 's) -> Server<'s> {
        Server {
            answer: Box::new(answer),
            sent: Vec::new(),
            events: Vec::new(),
            told: Vec::new(),
            held_off: None,
        }
    }

    /// The numbers in each request.
    pub fn numbers(&self) -> Vec<Vec<usize>> {
        self.sent.iter().map(Sent::numbers).collect()
    }
}

impl Host for Server<'_> {
    fn exchange(&mut self, request: Request, meanwhile: &mut dyn FnMut()) -> Answer {
        let (Body::Json(bytes) | Body::Multipart { bytes, .. }) = request.body;
        let sent = Sent {
            path: request.path,
            body: String::from_utf8(bytes).unwrap(),
            headers: request.headers,
        };
        meanwhile();
        let answer = (self.answer)(&sent);
        self.sent.push(sent);
        answer
    }

    fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    fn hold_off(&mut self, wait: Duration) {
        self.told.push(wait);
    }

    fn held_off(&mut self) -> Option<Duration> {
        self.held_off
    }
}

/// A log that is delivered to a server.
pub(crate) struct Rehearsal<'s> {
    _dir: tempfile::TempDir,
    pub directory: Directory,
    pub name: FileName,
    pub drain: Drain,
    pub replay: Replay,
    pub server: Server<'s>,
    /// The writer is gone.
    pub is_final: bool,
}

pub(crate) const LIMITS: BatchLimits = BatchLimits {
    records: config::BATCH_RECORDS,
    bytes: config::BATCH_BYTES,
    record: config::READ_LIMIT,
};

impl<'s> Rehearsal<'s> {
    pub fn new(log: &str, answer: impl FnMut(&Sent) -> Answer + 's) -> Rehearsal<'s> {
        Rehearsal::limited(LIMITS, log, answer)
    }

    /// With batches of at most so many records.
    pub fn of(records: usize, log: &str, answer: impl FnMut(&Sent) -> Answer + 's) -> Self {
        Rehearsal::limited(BatchLimits { records, ..LIMITS }, log, answer)
    }

    pub fn limited(
        limits: BatchLimits,
        log: &str,
        answer: impl FnMut(&Sent) -> Answer + 's,
    ) -> Rehearsal<'s> {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::at(dir.path());
        let (name, _) = FileName::parse("1_a.jsonl".as_ref()).unwrap();
        fs::write(directory.file(&name, Extension::Jsonl), log).unwrap();
        Rehearsal {
            drain: Drain::open(&directory, &name, false).unwrap().unwrap(),
            replay: Replay::new(limits),
            server: Server::new(answer),
            is_final: true,
            _dir: dir,
            directory,
            name,
        }
    }

    pub fn path(&self, extension: Extension) -> PathBuf {
        self.directory.file(&self.name, extension)
    }

    /// How far the log may be read.
    pub fn end(&self) -> End {
        let log = fs::metadata(self.path(Extension::Jsonl)).unwrap();
        End {
            offset: log.len(),
            is_final: self.is_final,
        }
    }

    pub fn append(&self, lines: &str) {
        let path = self.path(Extension::Jsonl);
        let mut log = fs::OpenOptions::new().append(true).open(path).unwrap();
        log.write_all(lines.as_bytes()).unwrap();
    }

    pub fn step(&mut self) -> Result<Progress> {
        let end = self.end();
        self.replay.step(&mut self.drain, end, &mut self.server)
    }

    /// A step that has to settle a batch.
    pub fn settle(&mut self) -> Settled {
        match self.step().unwrap() {
            Progress::Settled(settled) => settled,
            other => panic!("{other:?}; paused: {:?}", self.replay.paused()),
        }
    }

    /// A step after which nothing can be sent for now.
    pub fn block(&mut self) {
        assert_eq!(self.step().unwrap(), Progress::Blocked);
    }

    /// Steps until nothing is left, through whatever fails.
    pub fn deliver(&mut self) -> Settled {
        let mut all = Settled::default();
        for _ in 0..10_000 {
            match self.step().unwrap() {
                Progress::Settled(settled) => all += settled,
                Progress::Idle => return all,
                _ => {}
            }
        }
        panic!("it does not come to an end");
    }

    /// The dead letters.
    pub fn letters(&self) -> Vec<serde_json::Value> {
        let path = self.path(Extension::Deadletter);
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<std::result::Result<_, _>>().unwrap()
    }
}

pub(crate) fn accept() -> Answer {
    Answer::Delivered { body: Vec::new() }
}

/// The request was out and no answer came.
pub(crate) fn lost() -> Answer {
    Answer::Retry {
        why: "lost".to_owned(),
        after: None,
        unanswered: true,
    }
}

/// The server cannot at the moment, and says so.
pub(crate) fn later(after: Option<Duration>) -> Answer {
    Answer::Retry {
        why: "later".to_owned(),
        after,
        unanswered: false,
    }
}

pub(crate) fn pause(why: &str) -> Answer {
    Answer::Pause {
        why: why.to_owned(),
        status: Some(401),
    }
}

pub(crate) fn refuse(detail: &str) -> Answer {
    Answer::Reject {
        status: 422,
        detail: detail.to_owned(),
    }
}

/// The project takes whole calls only.
pub(crate) fn required() -> Answer {
    Answer::Reject {
        status: 400,
        detail: format!("{{\"error_code\": \"{}\"}}", crate::delivery::v2::REQUIRED),
    }
}

fn half(kind: &str, key: &str, n: usize) -> String {
    format!(
        "{{\"type\":\"{kind}\",\"req\":{{\"{key}\":{{\"project_id\":\"e/p\",\"id\":\"n{n}\",\"{key}\":1}}}}}}\n"
    )
}

/// A line as this crate writes it.
pub(crate) fn with_checksum(kind: Kind, req: &str) -> String {
    let mut line = Vec::new();
    Line::new(kind, req.as_bytes(), usize::MAX)
        .unwrap()
        .push_to(&mut line);
    String::from_utf8(line).unwrap()
}

pub(crate) fn start(n: usize) -> String {
    half("call_start", "start", n)
}

pub(crate) fn end(n: usize) -> String {
    half("call_end", "end", n)
}

pub(crate) fn object(n: usize) -> String {
    format!("{{\"type\":\"obj_create\",\"req\":{{\"id\":\"n{n}\"}}}}\n")
}

pub(crate) fn starts(numbers: std::ops::Range<usize>) -> String {
    numbers.map(start).collect()
}

pub(crate) fn objects(numbers: std::ops::Range<usize>) -> String {
    numbers.map(object).collect()
}
