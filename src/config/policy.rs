//! A client's policies: where its records wait, what an append waits for, what it does when there is
//! no room. Each has a name, as an option of the tool has it.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::name::shown;

/// Where accepted records wait for the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Storage {
    /// In the log on disk: they outlive the process.
    #[default]
    Disk,
    /// In memory only, within the queue's bounds: what is not delivered is lost with the process.
    Memory,
}

/// What an append waits for before it returns. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Durability {
    /// Nothing: the record is in the client's buffer and is written within milliseconds. If the
    /// process dies before that, it is lost.
    ///
    /// Where many threads append and each [waits](crate::Ticket::wait) for the disk anyway, this is
    /// the fastest: who syncs for all writes for all too, in one piece.
    Buffered,
    /// The record is in the file: the process may die at the next instruction. It is lost only if
    /// the machine dies before the next sync.
    #[default]
    Written,
    /// The record and its file survive power loss.
    Synced,
}

/// What an append does at the disk budget or the free-space floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WhenFull {
    /// The record is refused with [`Error::NoRoom`]; nothing that was accepted is lost.
    #[default]
    Reject,
    /// The oldest log file of the project that nobody writes to or delivers is removed, with what
    /// is not delivered of it, and then the next, until the record fits. What goes is counted in
    /// [`Stats::dropped`](crate::Stats::dropped) and told as
    /// [`Event::Dropped`](crate::Event::Dropped). If that cannot help, the record is refused.
    ///
    /// The append that meets the bound reads the file that goes, to count its records.
    DropOldest,
}

impl fmt::Display for Storage {
    /// The name in lower case, which [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Storage::Disk => "disk",
            Storage::Memory => "memory",
        })
    }
}

impl FromStr for Storage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        one_of("storage", name, &[Storage::Disk, Storage::Memory])
    }
}

impl fmt::Display for Durability {
    /// The name in lower case, which [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Durability::Buffered => "buffered",
            Durability::Written => "written",
            Durability::Synced => "synced",
        })
    }
}

impl FromStr for Durability {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        use Durability::{Buffered, Synced, Written};
        one_of("durability", name, &[Buffered, Written, Synced])
    }
}

impl fmt::Display for WhenFull {
    /// The name as [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            WhenFull::Reject => "reject",
            WhenFull::DropOldest => "drop-oldest",
        })
    }
}

impl FromStr for WhenFull {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        one_of("policy", name, &[WhenFull::Reject, WhenFull::DropOldest])
    }
}

/// The choice that is displayed as this name.
pub(crate) fn one_of<T: Copy + fmt::Display>(
    what: &str,
    name: &str,
    choices: &[T],
) -> Result<T, Error> {
    let names: Vec<String> = choices.iter().map(T::to_string).collect();
    match names.iter().position(|known| known == name) {
        Some(at) => Ok(choices[at]),
        None => Err(Error::Config(format!(
            "no such {what}: {}; it is one of {}",
            shown(name),
            names.join(", ")
        ))),
    }
}
