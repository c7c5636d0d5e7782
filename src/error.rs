//! The one error of this crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, on which file, and what that means for the data.
///
/// Cheap to clone, because one failed sync is reported to everyone who waited for it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// A setting or an argument cannot be used. Nothing was done.
    Config(String),
    /// This record cannot be logged (not a JSON object, or above the record limit). It was not
    /// accepted; everything else goes on.
    Record(String),
    /// A file operation failed. What was accepted before it is kept.
    Io {
        /// What was being done, as in "create the log file".
        doing: &'static str,
        /// The file or directory it was done to.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The queue stayed full for as long as a caller may be made to wait. The record was not
    /// accepted; those before it are kept.
    QueueFull {
        /// How long the caller waited.
        waited: Duration,
        /// What the queue was waiting for, if that is known.
        cause: Option<Arc<Error>>,
    },
    /// The logs below the root have used up their disk budget, or too little of the disk is free.
    /// The record was not accepted; those before it are kept, and what is delivered makes room.
    NoRoom {
        /// The root of the logs.
        root: PathBuf,
        /// What they take, in bytes.
        used: u64,
        /// What they may take: [`Config::disk_budget`](crate::Config::disk_budget).
        budget: u64,
        /// What is free on the disk, in bytes.
        free: u64,
        /// What is to stay free: [`Config::free_space_floor`](crate::Config::free_space_floor).
        floor: u64,
    },
    /// Synced storage could not be had, neither in the current file nor in a new one. What was
    /// accepted is kept in memory and tried again with every call; until that works every call
    /// gets this error.
    Degraded(Arc<Error>),
    /// The client was finished; it takes no more records.
    Closed,
    /// This is a forked child of the process that opened the client. The log belongs to the
    /// parent; open a new client in the child.
    Forked,
    /// The client's thread is gone. What was accepted is in the log and is delivered by the next
    /// client or by `weave-wal send`; with [`Storage::Memory`](crate::Storage::Memory) it is lost with
    /// the process.
    Stopped(String),
}

impl Error {
    /// Is the caller's argument or configuration at fault, so that trying again is no use?
    pub fn is_config(&self) -> bool {
        matches!(self, Error::Config(_))
    }

    /// Is this one record at fault?
    pub fn is_record(&self) -> bool {
        matches!(self, Error::Record(_))
    }

    /// Is the disk budget used up, or too little of the disk free?
    pub fn is_no_room(&self) -> bool {
        matches!(self, Error::NoRoom { .. })
    }

    /// Was it a file operation that failed, here or further down?
    pub fn is_io(&self) -> bool {
        self.io().is_some()
    }

    /// The operating system's error at the bottom of this one, if there is one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Degraded(cause) => cause.io(),
            Error::QueueFull { cause, .. } => cause.as_ref().and_then(|cause| cause.io()),
            _ => None,
        }
    }

    /// Is the disk, or somebody's share of it, full?
    pub(crate) fn is_no_space(&self) -> bool {
        let code = self.io().and_then(io::Error::raw_os_error);
        matches!(code, Some(libc::ENOSPC | libc::EDQUOT))
    }

    pub(crate) fn from_io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io {
            doing,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(what) => f.write_str(what),
            Error::Record(why) => write!(f, "record not accepted: {why}"),
            Error::Io {
                doing,
                path,
                source,
            } => write!(f, "cannot {doing} {}: {source}", path.display()),
            Error::QueueFull { waited, cause } => {
                write!(
                    f,
                    "record not accepted: the queue stayed full for {}.{} s",
                    waited.as_secs(),
                    waited.subsec_millis() / 100
                )?;
                match cause {
                    Some(cause) => write!(f, ", because: {cause}"),
                    None => Ok(()),
                }
            }
            Error::NoRoom {
                root,
                used,
                budget,
                free,
                floor,
            } => {
                write!(f, "record not accepted: the logs below {} ", root.display())?;
                // Whatever it was that did not fit, it fits where there is less room the least.
                let in_budget = budget.saturating_sub(*used);
                match *floor > 0 && free.saturating_sub(*floor) < in_budget {
                    false => write!(f, "take {used} bytes of a disk budget of {budget}")?,
                    true => write!(
                        f,
                        "must leave {floor} bytes of the disk free, and {free} are; they take {used}"
                    )?,
                }
                f.write_str("; deliver them (weave-wal send) or allow more")
            }
            Error::Degraded(cause) => write!(
                f,
                "the log cannot be made durable; what was accepted is kept in memory and tried again: {cause}"
            ),
            Error::Closed => f.write_str("record not accepted: the client is finished"),
            Error::Forked => f.write_str(
                "this process was forked from the one that opened the client; open a new client here",
            ),
            Error::Stopped(why) => write!(
                f,
                "the weave-wal thread has stopped ({why}); a log on the disk keeps what was accepted"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source.as_ref()),
            Error::Degraded(cause) => Some(cause.as_ref()),
            Error::QueueFull {
                cause: Some(cause), ..
            } => Some(cause.as_ref()),
            _ => None,
        }
    }
}

/// Says what was being done, and to which file, when an I/O call failed.
pub(crate) trait IoContext<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::from_io(doing, path, source))
    }
}
