//! Who may do what with a log file: the writer lock and the drain lock.
//!
//! *Writer lock:* `flock` on the `.lock`, for as long as the writer lives. *Drain lock:* `flock`
//! on the `.jsonl`, held by whoever delivers it. They are independent, so that a sidecar can
//! deliver a file that is still being written.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::directory::Directory;
use crate::error::{IoContext, Result};
use crate::name::{Extension, FileName};
use crate::sys;

/// An open file with its `flock`, which goes with this. A forked child has the descriptors too, and
/// would hold what its parent has let go of for as long as it lives.
pub(crate) struct Held {
    file: File,
    process: u32,
}

impl Held {
    pub fn new(file: File) -> Held {
        Held {
            file,
            process: std::process::id(),
        }
    }
}

impl Deref for Held {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // In a forked child the lock is still the parent's.
        if self.process == std::process::id() {
            sys::unlock(&self.file);
        }
    }
}

/// Opens a file that others may have planted: never through a link, never waiting on a FIFO.
pub(crate) fn open_plain(path: &Path, options: &mut OpenOptions) -> io::Result<Option<File>> {
    let opened = options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ELOOP)
                || error.raw_os_error() == Some(libc::ENXIO) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Opens such a file to read it.
pub(crate) fn read_plain(path: &Path) -> io::Result<Option<File>> {
    open_plain(path, OpenOptions::new().read(true))
}

/// Does this path still name this open file? Between open and lock it may have been removed, or
/// removed and made again.
pub(crate) fn still_names(path: &Path, file: &File) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(held.nlink() > 0 && named.ino() == held.ino() && named.dev() == held.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A `flock` on a file of our own: where the file system knows none, one goes on without.
pub(crate) fn if_supported(locked: io::Result<bool>) -> io::Result<bool> {
    let code = locked.as_ref().err().and_then(io::Error::raw_os_error);
    match code {
        Some(libc::ENOLCK | libc::ENOTSUP | libc::ENOSYS) => Ok(true),
        _ => locked,
    }
}

/// Opens a log file and takes its drain lock.
///
/// `None`: it is gone, no plain file, or somebody else is delivering it. Where the file system
/// knows no `flock`, only files that are `ours` are touched; others are an error.
pub(crate) fn drain(path: &Path, ours: bool) -> Result<Option<Held>> {
    let open = || {
        let Some(file) = read_plain(path)? else {
            return Ok(None);
        };
        let held = match ours {
            true => if_supported(sys::try_flock(&file))?,
            false => sys::try_flock(&file)?,
        };
        Ok((held && still_names(path, &file)?).then(|| Held::new(file)))
    };
    open().doing("lock", path)
}

/// What is known of a log file's writer.
pub(crate) enum Writer {
    /// It lives and may append at any time.
    Alive,
    /// It is gone. While this is held no other process comes to another conclusion about it.
    Gone {
        /// The `.lock`, flocked; `None` if there is none.
        _lock: Option<Held>,
    },
}

/// The PID in a `.lock`. What cannot be read as one is a writer that died before it wrote it: 0.
pub(crate) fn pid(lock: &File) -> i32 {
    let mut pid = [0; 32];
    let len = lock.read_at(&mut pid, 0).unwrap_or(0);
    let pid = std::str::from_utf8(&pid[..len]).unwrap_or_default();
    pid.trim().parse().unwrap_or(0)
}

/// The right to deliver what others have left in a directory, one client at a time: a `flock` on
/// the directory itself.
pub(crate) enum Adoption {
    /// For as long as this lives. Without a file: nobody can have it here, so everybody may.
    Ours { _lock: Option<Held> },
    /// Another client has it.
    Taken,
}

/// Takes that right. It only keeps many clients from beginning with the same leftovers at once:
/// that none is sent twice is the affair of the drain locks.
pub(crate) fn adopt(directory: &Directory) -> Adoption {
    let file = File::open(directory.path());
    match file.and_then(|file| Ok((sys::try_flock(&file)?, file))) {
        Ok((true, file)) => Adoption::Ours {
            _lock: Some(Held::new(file)),
        },
        Ok((false, _)) => Adoption::Taken,
        Err(_) => Adoption::Ours { _lock: None },
    }
}

/// Finds out about the writer of a log file whose drain lock the caller holds; `file` is that file.
///
/// Our own writers hold a `flock`. Python's write their PID and no more, so a file without a
/// `flock` also counts as live while that process exists or somebody can write to it; `ours` says
/// that the file is known to come from a writer with a `flock`, and then the PID means nothing. But
/// it may be a copy that somebody is making.
pub(crate) fn writer(
    directory: &Directory,
    name: &FileName,
    file: &File,
    ours: bool,
) -> Result<Writer> {
    let path = directory.file(name, Extension::Lock);
    let look = || {
        let lock = read_plain(&path)?;
        if let Some(lock) = &lock {
            if !sys::try_flock(lock)? {
                return Ok(Writer::Alive);
            }
        }
        let is_alive = match ours {
            true => matches!(sys::is_open_for_writing(file), Ok(true)),
            false => is_alive(lock.as_ref().map_or(0, pid), file),
        };
        match is_alive {
            true => Ok(Writer::Alive),
            false => Ok(Writer::Gone {
                _lock: lock.map(Held::new),
            }),
        }
    };
    look().doing("look at the lock", &path)
}

/// Does a writer live that has only left its PID, or none (0)?
///
/// In another container its PID may name nobody here, or somebody else. But Python's writer has
/// its file open from the moment that the file can be seen until it is done with it.
fn is_alive(pid: i32, file: &File) -> bool {
    match sys::is_open_for_writing(file) {
        Ok(true) => true,
        Ok(false) => sys::process_exists(pid) && !is_zombie(pid),
        // Somebody else's file, and we may not ask: rather kept for ever than taken from a writer.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => pid > 0,
        Err(_) => sys::process_exists(pid),
    }
}

/// Has the process ended, and only its parent not taken notice yet?
fn is_zombie(pid: i32) -> bool {
    let mut stat = [0; 512];
    let file = File::open(format!("/proc/{pid}/stat"));
    let len = file.and_then(|file| file.read_at(&mut stat, 0));
    // Behind the program's name, which may contain anything.
    let mut parts = stat[..len.unwrap_or(0)].rsplit(|&byte| byte == b')');
    parts.next().is_some_and(|state| state.starts_with(b" Z"))
}
