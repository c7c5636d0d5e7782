//! One log file being written: created by one writer, appended to, synced, never reopened.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::checkpoint;
use crate::directory::Directory;
use crate::error::{Error, IoContext, Result};
#[cfg(any(test, fuzzing))]
use crate::faults;
use crate::lock::{Held, if_supported, still_names};
use crate::name::{Extension, FileName};
use crate::sys;

/// How often a name is tried again when a scanner was in the way.
const ATTEMPTS: usize = 8;

/// The file that is being written, with the writer lock that says so.
pub(crate) struct Segment {
    file: Arc<SegmentFile>,
    /// Held, never read: its `flock` is the writer lock.
    _lock: Held,
    /// Where this file begins, counted in bytes of all that the client ever accepted.
    pub base: u64,
    /// Bytes of whole, good lines in the file.
    len: u64,
    /// The file's name is known to survive a power loss.
    pub name_synced: bool,
}

/// The file of a segment, for those who write or sync it without holding anything else meanwhile.
pub(crate) struct SegmentFile {
    directory: Directory,
    name: FileName,
    file: File,
    size_is_limited: bool,
}

/// An offset in a log file before which everything is on the disk: the only kind of offset up to
/// which a file may be sent, so that a checkpoint never points past what survives a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SyncedEnd(u64);

impl SyncedEnd {
    /// Only for those who have just seen the sync succeed.
    pub fn new(offset: u64) -> SyncedEnd {
        SyncedEnd(offset)
    }

    pub fn offset(self) -> u64 {
        self.0
    }
}

/// Why an append failed, and in which state that leaves the file.
#[derive(Debug)]
pub(crate) struct AppendError {
    pub error: Error,
    /// The file still ends in a whole line. If not, it can take no more.
    pub intact: bool,
    /// Bytes of whole lines that came in all the same.
    pub written: usize,
}

/// What an append came to, and how many bytes of whole lines it has brought.
pub(crate) type Appended = std::result::Result<usize, AppendError>;

impl Segment {
    /// Creates the next file. Its `.lock` is there and held before the `.jsonl` can be seen.
    pub fn create(directory: &Directory, base: u64) -> Result<Segment> {
        for _ in 0..ATTEMPTS {
            let name = fresh_name(directory)?;
            let lock_path = directory.file(&name, Extension::Lock);
            let lock = new_file()
                .open(&lock_path)
                .doing("create the lock file", &lock_path)?;
            let created = Self::create_locked(directory, &name, lock, base);
            match created {
                Ok(Some(segment)) => return Ok(segment),
                // A scanner took the new `.lock` for an orphan; nobody was harmed.
                Ok(None) => continue,
                Err(error) => {
                    // Best effort: an orphan without records does no harm.
                    let _ = std::fs::remove_file(&lock_path);
                    return Err(error);
                }
            }
        }
        Err(Error::from_io(
            "create a log file in",
            directory.path(),
            io::Error::other("its lock file is removed by somebody again and again"),
        ))
    }

    fn create_locked(
        directory: &Directory,
        name: &FileName,
        mut lock: File,
        base: u64,
    ) -> Result<Option<Segment>> {
        let lock_path = directory.file(name, Extension::Lock);
        let size_is_limited = sys::file_size_is_limited();
        let hold = |lock: &mut File| {
            if !if_supported(sys::try_flock(lock))? {
                return Ok(false);
            }
            let mut write = || write!(lock, "{}", std::process::id());
            match size_is_limited {
                true => sys::without_sigxfsz(write),
                false => write(),
            }?;
            still_names(&lock_path, lock)
        };
        if !hold(&mut lock).doing("lock", &lock_path)? {
            return Ok(None);
        }
        let path = directory.file(name, Extension::Jsonl);
        #[cfg(any(test, fuzzing))]
        faults::create().doing("create the log file", &path)?;
        // Readable as well: if somebody removes it, what is in it is copied to another.
        let file = new_file()
            .read(true)
            .append(true)
            .open(&path)
            .doing("create the log file", &path)?;
        if !still_names(&lock_path, &lock).doing("lock", &lock_path)? {
            let _ = std::fs::remove_file(&path);
            return Ok(None);
        }
        Ok(Some(Segment {
            file: Arc::new(SegmentFile {
                directory: directory.clone(),
                name: name.clone(),
                file,
                size_is_limited,
            }),
            _lock: Held::new(lock),
            base,
            len: 0,
            name_synced: false,
        }))
    }

    pub fn name(&self) -> &FileName {
        &self.file.name
    }

    /// Bytes of whole lines in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What it takes to write to this file, or to sync it, without borrowing the segment.
    pub fn file(&self) -> &Arc<SegmentFile> {
        &self.file
    }

    /// Writes whole lines to the end of the file.
    pub fn append(&mut self, lines: &[u8]) -> Appended {
        let appended = self.file.append(self.len, lines);
        self.note(&appended);
        appended
    }

    /// Counts what [`SegmentFile::append`] has brought.
    pub fn note(&mut self, appended: &Appended) {
        self.len += match appended {
            Ok(written) => *written,
            Err(failed) => failed.written,
        } as u64;
    }

    /// Has somebody removed the file, so that nobody else will ever find it?
    pub fn is_gone(&self) -> bool {
        self.file.is_gone()
    }

    /// What there is to say when it is gone.
    pub fn gone(&self) -> Error {
        self.file.gone()
    }

    /// Is in the file what was written to it, and nothing else? Where others have cut it, or added to
    /// it, what comes next would stand elsewhere than where it is looked for.
    pub fn is_intact(&self) -> bool {
        // Where nobody says, the sync will.
        self.size().map_or(true, |size| size == self.len)
    }

    /// What there is to say when it is not.
    pub fn changed(&self) -> Error {
        let changed = io::Error::other("somebody else has changed the file that is written to");
        Error::from_io("sync", &self.file.path(Extension::Jsonl), changed)
    }

    /// How much others have cut off.
    pub fn missing(&self) -> u64 {
        let size = self.size().unwrap_or(self.len);
        self.len.saturating_sub(size)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.file.metadata()?.len())
    }

    /// Leaves a file behind that is gone, or has a name elsewhere that is somebody else's affair.
    pub fn abandon(self) {
        // Best effort: a `.lock` without a log means nothing.
        let _ = std::fs::remove_file(self.file.path(Extension::Lock));
    }

    /// Copies what stands in another file between two offsets to the end of this one.
    pub fn append_from(&mut self, other: &Segment, mut from: u64, to: u64) -> Result<()> {
        let mut chunk = vec![0; 1 << 20];
        while from < to {
            let part = &mut chunk[..(to - from).min(1 << 20) as usize];
            let read = other.file.file.read_exact_at(part, from);
            read.doing("read", &other.file.path(Extension::Jsonl))?;
            self.append(part).map_err(|failed| failed.error)?;
            from += part.len() as u64;
        }
        Ok(())
    }

    /// Cuts the file back to `len` bytes, after what stood behind was written elsewhere; to less, if
    /// somebody else has cut it before.
    pub fn cut(&mut self, len: u64) -> Result<()> {
        let left = len.saturating_sub(self.missing());
        let cut = || match self.size()? > left {
            true => self.file.file.set_len(left),
            false => Ok(()),
        };
        cut().doing("truncate", &self.file.path(Extension::Jsonl))?;
        self.len = len;
        Ok(())
    }

    /// Syncs the file's content, and its name if need be.
    pub fn sync(&self) -> Result<()> {
        self.file.sync(self.name_synced)
    }

    /// Takes the file back, when nothing that is in it is needed.
    pub fn discard(self) {
        // Best effort: an empty or half-written file is dealt with by whoever finds it.
        let _ = self.file.file.set_len(0);
        let _ = std::fs::remove_file(self.file.path(Extension::Jsonl));
        let _ = std::fs::remove_file(self.file.path(Extension::Lock));
    }
}

impl SegmentFile {
    /// Writes whole lines to the end of the file, which holds `len` bytes of them.
    ///
    /// If that fails half-way, the whole lines that came in stay: a sender may have seen them, and
    /// what it has seen must not change any more.
    pub fn append(&self, len: u64, lines: &[u8]) -> Appended {
        let write = || {
            #[cfg(any(test, fuzzing))]
            faults::write(&self.file, lines)?;
            (&self.file).write_all(lines)
        };
        let written = match self.size_is_limited {
            true => sys::without_sigxfsz(write),
            false => write(),
        };
        let Err(error) = written else {
            return Ok(lines.len());
        };
        let size = self.file.metadata().map_or(len, |file| file.len());
        let there = (size.saturating_sub(len) as usize).min(lines.len());
        let newline = lines[..there].iter().rposition(|&byte| byte == b'\n');
        let written = newline.map_or(0, |at| at + 1);
        Err(AppendError {
            error: Error::from_io("write to", &self.path(Extension::Jsonl), error),
            intact: self.set_len(len + written as u64).is_ok(),
            written,
        })
    }

    /// On a full disk: gives the space of what is delivered back, by whomever; the file holds
    /// `len` bytes. `false`: nothing is.
    pub fn give_back(&self, len: u64) -> bool {
        let delivered = checkpoint::read(&self.path(Extension::Checkpoint));
        // Beyond the end it is nonsense, here as for whoever delivers the file.
        delivered <= len && give_back(&self.file, delivered).is_ok()
    }

    /// Syncs the content, and the name unless that is known to be safe.
    pub fn sync(&self, name_synced: bool) -> Result<()> {
        let path = || self.path(Extension::Jsonl);
        #[cfg(any(test, fuzzing))]
        faults::sync(&self.file, &path()).doing("sync", &path())?;
        if let Err(error) = self.file.sync_data() {
            return Err(Error::from_io("sync", &path(), error));
        }
        if !name_synced {
            self.directory.sync()?;
        }
        match self.is_gone() {
            true => Err(self.gone()),
            false => Ok(()),
        }
    }

    fn gone(&self) -> Error {
        let gone = io::Error::new(
            io::ErrorKind::NotFound,
            "somebody has removed the file while it was written to",
        );
        Error::from_io("sync", &self.path(Extension::Jsonl), gone)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(any(test, fuzzing))]
        faults::truncate()?;
        self.file.set_len(len)
    }

    fn is_gone(&self) -> bool {
        let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
            || std::fs::symlink_metadata(self.path(Extension::Jsonl)).is_err_and(is_missing)
    }

    fn path(&self, extension: Extension) -> PathBuf {
        self.directory.file(&self.name, extension)
    }
}

/// Punches a hole into a log where it is delivered: readers skip its NUL bytes. The newline before
/// `end` stays, so that no reader takes the hole for the start of the next line.
pub(crate) fn give_back(file: &File, end: u64) -> io::Result<()> {
    let mut newline = [0];
    if end > 1 {
        file.read_exact_at(&mut newline, end - 1)?;
    }
    // A checkpoint may point anywhere; a line that is not delivered whole is not delivered.
    match newline == *b"\n" {
        true => sys::punch_hole(file, end - 1),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn fresh_name(directory: &Directory) -> Result<FileName> {
    let random = sys::random().doing("name a log file in", directory.path())?;
    // A clock before 1970 is as good as any: the order of names is only advice.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Ok(FileName::new(nanos, random))
}

/// Private, new, and not through somebody's link.
fn new_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    options
}

#[cfg(test)]
mod tests;
