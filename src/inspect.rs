//! Looking at logs without touching them: what is there, what is pending, what is damaged.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::batch::{Batch, BatchLimits, Damage, End};
use crate::checkpoint;
use crate::config;
use crate::deadletter;
use crate::directory::budget;
use crate::directory::{Directory, Place, files, places};
use crate::drain::file::{begins_with_checksum, line_start};
use crate::error::{Error, IoContext, Result};
use crate::lock::{self, Writer, read_plain};
use crate::name::{Extension, FileName};
use crate::reader::window::Bytes;
use crate::record::{Fault, Kind};

/// Looking takes this much memory, and one record, which is read whatever limit its writer had.
pub(crate) const LIMITS: BatchLimits = BatchLimits {
    records: 1_000,
    bytes: 1 << 20,
    record: config::READ_LIMIT,
};

/// What is in the logs of one project.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectStatus {
    /// The entity (team or user).
    pub entity: String,
    /// The project.
    pub project: String,
    /// The directory; a project has one more for each API key that Python's client used.
    pub dir: PathBuf,
    /// Its log files, oldest first.
    pub files: Vec<FileStatus>,
    /// Records that are not delivered yet.
    pub pending_records: u64,
    /// Bytes that are not delivered yet.
    pub pending_bytes: u64,
    /// Lines in its dead-letter files.
    pub dead_records: u64,
}

/// What is in one log file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileStatus {
    /// The file's name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// How much of it is delivered.
    pub delivered_bytes: u64,
    /// Good records behind that.
    pub pending_records: u64,
    /// Is there a process that may still write to it?
    pub writer_alive: bool,
    /// When it was begun, if its name tells.
    pub begun: Option<SystemTime>,
}

/// Something that stands in a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// A good record.
    Record {
        /// Where its line begins, in bytes.
        offset: u64,
        /// What it is.
        kind: Kind,
        /// The request, its bytes as they stand in the file.
        req: String,
    },
    /// A damaged place.
    Damage {
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        bytes: u64,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the file's first byte.
    Start,
    /// Behind what is delivered.
    Checkpoint,
}

/// What is below a root, project by project. Takes no lock that a writer or a sender would miss.
/// Directories that cannot be listed and files that cannot be read are told to `unread` and left
/// out.
pub fn status(root: &Path, unread: &mut dyn FnMut(Error)) -> Vec<ProjectStatus> {
    let places = places(root, None, unread);
    let status = |place| project_status(place, unread);
    places.iter().map(status).collect()
}

/// The bytes of disk that log and dead-letter files take below a root: what
/// [`Config::disk_budget`](crate::Config::disk_budget) bounds.
pub fn disk_bytes(root: &Path) -> u64 {
    budget::usage(root).0
}

/// The log files below a root, of all projects or of one (`entity/project`), oldest first within
/// each directory. Directories that cannot be listed are told to `unread`.
///
/// # Errors
/// [`Error::Config`] if the project is not of that form.
pub fn logs(
    root: &Path,
    project: Option<&str>,
    unread: &mut dyn FnMut(Error),
) -> Result<Vec<PathBuf>> {
    files(root, project, Extension::Jsonl, unread)
}

/// Reads a log file and hands each record and each damaged place to `see`, in file order within
/// each stretch of about 1 MiB; memory stays bounded by the largest record. `see` returns whether
/// to go on. The unfinished last line of a file whose writer is alive is no damage.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; whatever `see` returns.
pub fn read(path: &Path, from: From, see: &mut dyn FnMut(Item) -> Result<bool>) -> Result<()> {
    let Some(file) = read_plain(path).doing("open", path)? else {
        let error = io::Error::new(io::ErrorKind::NotFound, "there is no such plain file");
        return Err(Error::from_io("open", path, error));
    };
    let log = Log::of(path, file);
    let start = match from {
        From::Start => 0,
        From::Checkpoint => log.checkpoint(),
    };
    log.scan(start, &mut |file, batch| {
        for damage in &batch.damages {
            let item = Item::Damage {
                offset: damage.place.start,
                bytes: damage.place.end - damage.place.start,
                fault: damage.fault.clone(),
            };
            if !see(item)? {
                return Ok(false);
            }
        }
        for entry in &batch.entries {
            let req = text(file, &entry.req).doing("read", path)?;
            if req.contains('\0') {
                // Delivered, and given back to the disk since the batch was read.
                continue;
            }
            let item = Item::Record {
                offset: entry.line.start,
                kind: entry.kind,
                req,
            };
            if !see(item)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// How many good records of a file are not delivered.
pub(crate) fn pending_records(directory: &Directory, name: &FileName) -> Result<u64> {
    let path = directory.file(name, Extension::Jsonl);
    let Some(file) = read_plain(&path).doing("open", &path)? else {
        return Ok(0);
    };
    Log::of(&path, file).pending()
}

/// How many bytes of a file are not delivered.
pub(crate) fn pending_bytes(directory: &Directory, name: &FileName) -> Result<u64> {
    let path = directory.file(name, Extension::Jsonl);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        found => {
            let checkpoint = checkpoint::read(&directory.file(name, Extension::Checkpoint));
            Ok(found
                .doing("look at", &path)?
                .len()
                .saturating_sub(checkpoint))
        }
    }
}

fn project_status(place: &Place, unread: &mut dyn FnMut(Error)) -> ProjectStatus {
    let directory = &place.directory;
    let mut readable = |result: Result<_>| result.map_err(&mut *unread).unwrap_or_default();
    let (logs, letters) = (
        readable(directory.logs()),
        readable(directory.dead_letters()),
    );
    let mut files = Vec::new();
    for name in &logs {
        match file_status(directory, name) {
            Ok(status) => files.extend(status),
            Err(error) => unread(error),
        }
    }
    let mut dead_records = 0;
    for name in &letters {
        match deadletter::count(&directory.file(name, Extension::Deadletter)) {
            Ok(count) => dead_records += count,
            Err(error) => unread(error),
        }
    }
    let pending_bytes = |file: &FileStatus| file.bytes.saturating_sub(file.delivered_bytes);
    ProjectStatus {
        entity: place.entity.clone(),
        project: place.project.clone(),
        dir: directory.path().to_owned(),
        pending_records: files.iter().map(|file| file.pending_records).sum(),
        pending_bytes: files.iter().map(pending_bytes).sum(),
        dead_records,
        files,
    }
}

/// `None`: it was removed while we looked.
fn file_status(directory: &Directory, name: &FileName) -> Result<Option<FileStatus>> {
    let path = directory.file(name, Extension::Jsonl);
    let Some(file) = read_plain(&path).doing("open", &path)? else {
        return Ok(None);
    };
    let bytes = file.metadata().doing("look at", &path)?.len();
    let log = Log::of(&path, file);
    Ok(Some(FileStatus {
        name: name.with(Extension::Jsonl).to_string_lossy().into_owned(),
        bytes,
        delivered_bytes: log.checkpoint().min(bytes),
        pending_records: log.pending()?,
        writer_alive: log.writer_alive,
        begun: name.begun(),
    }))
}

struct Log<'a> {
    path: &'a Path,
    file: File,
    writer_alive: bool,
}

impl ProjectStatus {
    /// When the oldest file was begun that is not delivered to its end.
    pub fn oldest(&self) -> Option<SystemTime> {
        let files = self.files.iter();
        let pending = files.filter(|file| file.delivered_bytes < file.bytes);
        pending.filter_map(|file| file.begun).min()
    }
}

impl Log<'_> {
    fn of(path: &Path, file: File) -> Log<'_> {
        Log {
            path,
            writer_alive: writer_alive(path, &file),
            file,
        }
    }

    fn checkpoint(&self) -> u64 {
        let checkpoint = checkpoint::read(&self.path.with_extension("checkpoint"));
        // What cannot be read here is reported by the one who reads on.
        line_start(&self.file, checkpoint).unwrap_or(checkpoint)
    }

    fn pending(&self) -> Result<u64> {
        let mut pending = 0;
        self.scan(self.checkpoint(), &mut |_, batch| {
            pending += batch.entries.len() as u64;
            Ok(true)
        })?;
        Ok(pending)
    }

    fn scan(&self, start: u64, see: &mut dyn FnMut(&File, &Batch) -> Result<bool>) -> Result<()> {
        let size = self.file.metadata().doing("look at", self.path)?.len();
        let end = End {
            offset: size,
            is_final: !self.writer_alive,
        };
        let mut at = start;
        while at < size {
            let mut batch = Batch::read(&self.file, at, end, &LIMITS).doing("read", self.path)?;
            if !batch.damages.is_empty() {
                self.forget_given_back(&mut batch.damages);
            }
            if batch.end == at || !see(&self.file, &batch)? {
                break;
            }
            at = batch.end;
        }
        Ok(())
    }

    /// Whoever delivers the file gives the space of what is delivered back, while it is read here
    /// perhaps: a record of which half is gone is no damage. In the end the file is removed, and its
    /// checkpoint after it.
    fn forget_given_back(&self, damages: &mut Vec<Damage>) {
        let mut first = [b'?'];
        let _ = Bytes::read_at(&self.file, &mut first, 0);
        let delivered = self.checkpoint();
        let is_there = lock::still_names(self.path, &self.file).unwrap_or(true);
        damages.retain(|damage| {
            let is_half = first == [0] || damage.fault == Fault::Torn;
            !is_half || (is_there && damage.place.start >= delivered)
        });
    }
}

/// A file that is in no log directory, a copy perhaps, has no writer.
fn writer_alive(path: &Path, file: &File) -> bool {
    let name = path.file_name().and_then(FileName::parse);
    let (Some((name, _)), Some(parent)) = (name, path.parent()) else {
        return false;
    };
    // If it cannot be read, that is found out where its records are.
    let ours = begins_with_checksum(file).unwrap_or(false);
    let writer = lock::writer(&Directory::at(parent), &name, file, ours);
    matches!(writer, Ok(Writer::Alive))
}

fn text(file: &File, range: &Range<u64>) -> io::Result<String> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let n = Bytes::read_at(file, &mut bytes, range.start)?;
    bytes.truncate(n);
    String::from_utf8(bytes).map_err(io::Error::other)
}
