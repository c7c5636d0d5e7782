//! What the fuzz targets need and nobody else does: the inner parts, without the thread and the
//! network around them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::batch::{BatchLimits, End};
use crate::config::environment;
use crate::deadletter::DeadLetterFile;
use crate::directory::Directory;
use crate::drain::Drain;
use crate::http::server_url::{self, ServerUrl};
use crate::http::{Answer, Body, Request};
use crate::http::{proxy, retry_after};
use crate::log::Limits;
use crate::name::{Extension, FileName};
use crate::record::Line;
use crate::replay::host::Host;
use crate::replay::{Progress, Replay};
use crate::report::Event;
use crate::{Durability, Kind, Result};
use crate::{checkpoint, name};

pub use crate::deadletter::DeadLetter;
pub use crate::faults as storage;

/// The line of a record, as it is appended.
pub fn line(kind: Kind, req: &str, limit: usize) -> Result<Vec<u8>> {
    let line = Line::new(kind, req.as_bytes(), limit)?;
    let mut out = Vec::new();
    line.push_to(&mut out);
    assert_eq!(out.len(), line.len());
    Ok(out)
}

/// A client's log without its thread. Dropped without [`close`](Self::close) it leaves what a
/// killed process leaves.
pub struct Log {
    log: crate::log::Log,
    directory: Directory,
}

/// How a log is opened: what is small here is reached soon.
pub struct Options {
    pub durability: Durability,
    pub segment_bytes: u64,
    pub queue_records: u64,
}

impl Log {
    pub fn open(path: &Path, options: &Options) -> Result<Log> {
        let directory = Directory::create(path)?;
        let limits = Limits {
            durability: options.durability,
            sync_interval: Duration::from_secs(86_400),
            segment_bytes: options.segment_bytes,
            queue_records: options.queue_records,
            queue_bytes: 1 << 20,
            queue_wait: Duration::ZERO,
        };
        let log = crate::log::Log::open(Some(directory.clone()), limits, Box::new(|| ()))?;
        Ok(Log { log, directory })
    }

    pub fn append(&self, kind: Kind, req: &str) -> Result<u64> {
        self.log
            .append(&Line::new(kind, req.as_bytes(), usize::MAX)?)
    }

    pub fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    pub fn close(&self) -> Result<()> {
        self.log.close()
    }

    /// How much of all that was appended is synced, in bytes.
    pub fn synced(&self) -> u64 {
        self.log.synced()
    }

    /// How much was accepted, in bytes.
    pub fn accepted(&self) -> u64 {
        self.log.accepted().1
    }

    /// Does every call try again what has failed?
    pub fn is_degraded(&self) -> bool {
        let seen = self.log.glance();
        seen.is_some_and(|(_, failure)| failure.is_some())
    }

    /// One batch of the log's own oldest file, as the client's thread does it.
    pub fn deliver(
        &self,
        delivery: &mut Option<Delivery>,
        limits: &Batches,
        server: &mut Server<'_>,
    ) -> Result<Step> {
        let Some(file) = self.log.oldest_file() else {
            return Ok(Step::Idle);
        };
        if delivery.as_ref().and_then(|open| open.drain.name()) != Some(&file.name) {
            let Some(drain) = Drain::open(&self.directory, &file.name, true)? else {
                let path = self.directory.file(&file.name, Extension::Jsonl);
                if file.sealed && !path.exists() {
                    self.log.forget(&file.name);
                }
                return Ok(Step::Idle);
            };
            *delivery = Some(Delivery::new(drain, limits));
        }
        let Some(open) = delivery else {
            return Ok(Step::Idle);
        };
        let step = open.step_to(Drain::own_end(file.end, file.sealed), server)?;
        let delivered = open.drain.offset() >= file.end.offset();
        if step != Step::Idle || !file.sealed || !delivered {
            return Ok(step);
        }
        if let Some(open) = delivery.take() {
            open.drain.remove()?;
        }
        self.log.forget(&file.name);
        Ok(step)
    }
}

/// How large batches get.
pub struct Batches {
    pub records: usize,
    pub bytes: usize,
    pub record: usize,
}

/// What a server does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Taken,
    Refused,
    /// No answer: taken or not, the client cannot know.
    Nothing,
    Later,
    WrongKey,
}

/// A server: is given the path and the body.
pub type Server<'a> = dyn FnMut(&str, &[u8]) -> Said + 'a;

/// What one batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Idle,
    Settled,
    Blocked,
}

/// A log file being delivered.
pub struct Delivery {
    drain: Drain,
    replay: Replay,
}

impl Delivery {
    /// A file that some process left behind, or writes; `None` if it is gone or somebody else
    /// delivers it.
    pub fn open(directory: &Path, file: &str, limits: &Batches) -> Result<Option<Delivery>> {
        let Some((name, Extension::Jsonl)) = FileName::parse(file.as_ref()) else {
            return Ok(None);
        };
        let drain = Drain::open(&Directory::at(directory), &name, false)?;
        Ok(drain.map(|drain| Delivery::new(drain, limits)))
    }

    fn new(mut drain: Drain, limits: &Batches) -> Delivery {
        drain.reads_ahead = true;
        let replay = Replay::new(BatchLimits {
            records: limits.records,
            bytes: limits.bytes,
            record: limits.record,
        });
        Delivery { drain, replay }
    }

    pub fn step(&mut self, server: &mut Server<'_>) -> Result<Step> {
        let end = self.drain.foreign_end()?;
        self.step_to(end, server)
    }

    fn step_to(&mut self, end: End, server: &mut Server<'_>) -> Result<Step> {
        let mut host = FakeHost { server };
        Ok(match self.replay.step(&mut self.drain, end, &mut host)? {
            Progress::Idle => Step::Idle,
            // Only what stood in front of the rest.
            Progress::Settled(_) if self.drain.batch.is_some() => Step::Blocked,
            Progress::Settled(_) => Step::Settled,
            Progress::Blocked | Progress::Deferred | Progress::Held(_) => Step::Blocked,
        })
    }

    /// Removes the file if that may be done; says whether it was.
    pub fn remove(self) -> Result<bool> {
        self.drain.remove_foreign()
    }
}

struct FakeHost<'a, 'b> {
    server: &'a mut Server<'b>,
}

impl Host for FakeHost<'_, '_> {
    fn exchange(&mut self, request: Request, meanwhile: &mut dyn FnMut()) -> Answer {
        meanwhile();
        let body = match &request.body {
            Body::Json(bytes) | Body::Multipart { bytes, .. } => bytes,
        };
        let retry = |unanswered| Answer::Retry {
            why: "later".to_owned(),
            after: None,
            unanswered,
        };
        match (self.server)(&request.path, body) {
            Said::Taken => Answer::Delivered { body: Vec::new() },
            Said::Refused => Answer::Reject {
                status: 422,
                detail: "no".to_owned(),
            },
            Said::Nothing => retry(true),
            Said::Later => retry(false),
            Said::WrongKey => Answer::Pause {
                why: "wrong key".to_owned(),
                status: Some(401),
            },
        }
    }

    fn tell(&mut self, _: Event) {}
}

/// The line of a dead letter.
pub fn dead_letter_line(letter: &DeadLetter) -> Vec<u8> {
    let mut line = Vec::new();
    letter.push_to(&mut line);
    line
}

/// A dead letter from its line.
pub fn dead_letter(line: &[u8]) -> DeadLetter {
    DeadLetter::parse(line)
}

/// Appends to the dead-letter file of a log, and reads all that is in it.
pub fn append_dead_letter(directory: &Path, file: &str, line: &[u8]) -> Result<Vec<Vec<u8>>> {
    let Some((name, _)) = FileName::parse(file.as_ref()) else {
        return Ok(Vec::new());
    };
    let mut letters = DeadLetterFile::open(&Directory::at(directory), &name)?;
    letters.append(line)?;
    let mut seen = Vec::new();
    letters.for_each(&mut |line| {
        seen.push(line.to_vec());
        Ok(())
    })?;
    Ok(seen)
}

/// A checkpoint's content, and its file.
pub fn checkpoint(content: &[u8]) -> u64 {
    checkpoint::parse(content)
}

pub fn read_checkpoint(path: &Path) -> u64 {
    checkpoint::read(path)
}

pub fn write_checkpoint(path: &Path, offset: u64) -> Result<()> {
    checkpoint::write(path, offset)
}

/// The directory of a project, if its names are accepted.
pub fn project_directory(root: &Path, entity: &str, project: &str) -> Result<PathBuf> {
    name::check_entity_or_project("entity", entity)?;
    name::check_entity_or_project("project", project)?;
    Ok(root.join(entity).join(project))
}

pub fn split_project(id: &str) -> Result<(String, String)> {
    name::split_project(id)
}

/// The names of the four files beside a file, if that is one of them itself.
pub fn file_names(file: &std::ffi::OsStr) -> Option<Vec<std::ffi::OsString>> {
    let (name, extension) = FileName::parse(file)?;
    assert_eq!(name.with(extension), file);
    Some(Extension::ALL.map(|extension| name.with(extension)).into())
}

/// Everything that reads a text from the environment or from a server.
pub fn settings(text: &str, other: &str) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_355_820);
    let wait = retry_after::parse(text, now);
    assert!(wait.is_none_or(|wait| wait <= Duration::from_secs(3_600)));

    if let Ok(url) = ServerUrl::parse(text) {
        assert_eq!(ServerUrl::parse(&url.text).ok().as_ref(), Some(&url));
        assert!(!url.host.is_empty() && url.port > 0);
        proxy::lookup(url.https, &url.host, url.port, &|_| Some(other.to_owned()));
    }
    let path = server_url::encode_path(text);
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic()));
    if server_url::check_key(text).is_ok() {
        assert!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()));
    }

    let password = environment::netrc_password(text, other);
    assert!(password.is_none_or(|password| !password.is_empty()));
    let variable = |_: &str| Some(text.into());
    let _ = environment::flag(&variable, "X");
    let _ = environment::server_url(&variable);
    let _ = environment::api_key(&variable);
    let _ = environment::without_password(text);
    let _ = name::shown(text);
    let _ = text.parse::<Kind>();
    let _ = text.parse::<Durability>();
    let _ = crate::Config::from_lookup(text, &variable);
}
