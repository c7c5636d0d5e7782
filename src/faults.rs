//! Storage that fails when it is told to: what a log asks of its files goes through here first.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

#[derive(Default)]
struct Storage {
    /// What the next calls come to, one byte each; then all is well.
    plan: VecDeque<u8>,
    /// How much of each file is on the disk.
    synced: HashMap<PathBuf, u64>,
    seen: Seen,
}

/// What storage has done wrong since [`reset`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Calls that failed.
    pub failures: u32,
    /// A sync failed and what it should have synced is gone.
    pub destroyed: bool,
    /// What a failed write left could not be cut off, or what was written elsewhere.
    pub not_cut: bool,
}

thread_local! {
    static STORAGE: RefCell<Storage> = RefCell::default();
}

#[cfg(test)]
thread_local! {
    static DURING_SYNC: RefCell<Option<Box<dyn FnOnce()>>> = RefCell::default();
}

/// Does something while the next sync is under way, as another thread would.
#[cfg(test)]
pub(crate) fn during_sync(run: impl FnOnce() + 'static) {
    DURING_SYNC.set(Some(Box::new(run)));
}

/// Healthy, and empty.
pub fn reset() {
    STORAGE.take();
}

/// Makes the next calls work (0) or fail in some way, in this order.
pub fn plan(calls: &[u8]) {
    STORAGE.with_borrow_mut(|storage| storage.plan = calls.to_vec().into());
}

/// A call that fails; a write when so many sixty-fourths of it came in.
#[cfg(test)]
pub(crate) fn failing(how_far: u8) -> u8 {
    2 | how_far << 2
}

/// The same of a write, because the file would be too large.
#[cfg(test)]
pub(crate) fn too_large(how_far: u8) -> u8 {
    3 | how_far << 2
}

/// The same of a write, because the disk is full.
#[cfg(test)]
pub(crate) fn no_space(how_far: u8) -> u8 {
    1 | how_far << 2
}

/// Will no call fail any more?
pub fn is_healthy() -> bool {
    STORAGE.with_borrow(|storage| storage.plan.iter().all(|call| call % 4 == 0))
}

pub fn seen() -> Seen {
    STORAGE.with_borrow(|storage| storage.seen)
}

/// How much of a file a power loss leaves at least.
pub fn synced(path: &Path) -> u64 {
    STORAGE.with_borrow(|storage| storage.synced.get(path).copied().unwrap_or_default())
}

/// Somebody else has synced so much of a file.
pub fn synced_by_others(path: &Path, len: u64) {
    STORAGE.with_borrow_mut(|storage| {
        let synced = storage.synced.entry(path.to_owned()).or_default();
        *synced = len.max(*synced);
    });
}

pub(crate) fn create() -> io::Result<()> {
    next().map_or(Ok(()), |failure| Err(failure.error()))
}

pub(crate) fn truncate() -> io::Result<()> {
    next().map_or(Ok(()), |failure| {
        STORAGE.with_borrow_mut(|storage| storage.seen.not_cut = true);
        Err(failure.error())
    })
}

/// If it fails, some of the bytes came in, but not all.
pub(crate) fn write(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    next().map_or(Ok(()), |failure| {
        file.write_all(&bytes[..bytes.len() * failure.how_far() / 64])?;
        Err(failure.error())
    })
}

/// If it fails, what was not synced before may be gone at once, which no later sync tells.
pub(crate) fn sync(file: &File, path: &Path) -> io::Result<()> {
    #[cfg(test)]
    if let Some(run) = DURING_SYNC.take() {
        run();
    }
    let len = file.metadata()?.len();
    let Some(failure) = next() else {
        synced_by_others(path, len);
        return Ok(());
    };
    let synced = synced(path);
    if failure.how_far() % 2 == 0 && synced < len {
        // Not through `file`, which appends.
        let mut zeroed = OpenOptions::new().write(true).open(path)?;
        zeroed.seek(SeekFrom::Start(synced))?;
        zeroed.write_all(&vec![0; (len - synced) as usize])?;
        STORAGE.with_borrow_mut(|storage| storage.seen.destroyed = true);
    }
    Err(failure.error())
}

/// How a call fails.
struct Failure(u8);

impl Failure {
    fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(match self.0 % 4 {
            1 => libc::ENOSPC,
            2 => libc::EIO,
            _ => libc::EFBIG,
        })
    }

    /// Below 64.
    fn how_far(&self) -> usize {
        usize::from(self.0 >> 2)
    }
}

fn next() -> Option<Failure> {
    STORAGE.with_borrow_mut(|storage| {
        let call = storage.plan.pop_front()?;
        if call % 4 == 0 {
            return None;
        }
        storage.seen.failures += 1;
        Some(Failure(call))
    })
}
