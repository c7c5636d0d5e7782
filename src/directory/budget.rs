//! How much disk the logs below a root may take, those of all processes together.
//!
//! There is no common account. Each client looks at the whole root and then appends a piece before
//! it looks again: a sixty-fourth of the room that it found, but at least 1 MiB, and up to 64 MiB
//! where there are thousands of files, so that looking costs little beside the appending. So
//! processes that fill the last of the disk in the same moment can exceed the bound by 1 MiB each,
//! or by one larger piece where there are so many files.
//!
//! What counts is the space that log and dead-letter files take: a delivered part that was given
//! back to the disk is not used any more. Only appends are refused; what delivers, and so makes
//! room, never is.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::name::{Extension, FileName};
use crate::sys;
use crate::threads;

/// The least and the most that is appended before the next look.
const PIECE: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 20;

/// So many processes may append at the same time without exceeding the room that all have found.
const SHARES: u64 = 64;

/// So much may be appended for each directory entry that a look costs.
const PIECE_PER_ENTRY: u64 = 4 << 10;

/// For fewer files a second thread would cost more than it helps.
const MANY: usize = 500;

/// So many names are kept in memory.
const MOST: usize = 5_000;

/// A root that was found full is not looked at again before this.
const RECENT: Duration = Duration::from_millis(250);

/// The floor for free space, unless another one is asked for.
const FLOOR: u64 = 64 << 20;

/// On a small file system the floor is this part of it.
const FLOOR_PART: u64 = 20;

/// The bound on one root, as one client keeps it.
pub(crate) struct Budget {
    root: PathBuf,
    limit: u64,
    floor: Option<u64>,
    /// What may be appended before somebody has to look again.
    left: AtomicU64,
    used: AtomicU64,
    /// Held by the one who looks: when nothing could be done any more, and what had been found.
    full: Mutex<Option<(Instant, Found)>>,
}

/// What a look came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    used: u64,
    entries: u64,
    free: u64,
    floor: u64,
}

impl Budget {
    pub fn new(root: PathBuf, limit: u64, floor: Option<u64>) -> Budget {
        Budget {
            root,
            limit,
            floor,
            left: AtomicU64::new(0),
            used: AtomicU64::new(0),
            full: Mutex::new(None),
        }
    }

    /// Books `len` more bytes. At the bound `make_room` is asked for so many bytes, and as long as
    /// it says that it has freed some.
    ///
    /// # Errors
    /// [`Error::NoRoom`].
    pub fn book(&self, len: u64, make_room: &mut dyn FnMut(u64) -> bool) -> Result<()> {
        if self.take(len) {
            return Ok(());
        }
        let mut full = threads::lock(&self.full);
        // Somebody else may have looked meanwhile.
        if self.take(len) {
            return Ok(());
        }
        let is_known = |(at, found): &(Instant, Found)| {
            at.elapsed() < RECENT && found.missing(self.limit, len) > 0
        };
        if let Some((_, found)) = full.filter(is_known) {
            return Err(self.refusal(&found));
        }
        loop {
            let found = self.look();
            let missing = found.missing(self.limit, len);
            if missing == 0 {
                // What is left of the piece before is part of this one.
                let left = found.piece(self.limit).saturating_sub(len);
                self.left.store(left, Ordering::Release);
                *full = None;
                return Ok(());
            }
            if len > self.limit || !make_room(missing) {
                *full = Some((Instant::now(), found));
                return Err(self.refusal(&found));
            }
        }
    }

    /// Takes back what was booked for a record that was then refused.
    pub fn unbook(&self, len: u64) {
        self.left.fetch_add(len, Ordering::AcqRel);
    }

    /// Bytes that log and dead-letter files took below the root when that was last looked at.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    fn take(&self, len: u64) -> bool {
        let take = |left: u64| left.checked_sub(len);
        let taken = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.is_ok()
    }

    fn look(&self) -> Found {
        let (used, entries) = usage(&self.root);
        self.used.store(used, Ordering::Release);
        // Where nobody says what is free, there is no floor to keep.
        let (size, free) = sys::disk_space(&self.root).unwrap_or((u64::MAX, u64::MAX));
        Found {
            used,
            entries,
            free,
            floor: self.floor.unwrap_or(FLOOR.min(size / FLOOR_PART)),
        }
    }

    fn refusal(&self, found: &Found) -> Error {
        Error::NoRoom {
            root: self.root.clone(),
            used: found.used,
            budget: self.limit,
            free: found.free,
            floor: found.floor,
        }
    }
}

impl Found {
    /// How many bytes have to go before `len` more may come.
    fn missing(&self, limit: u64, len: u64) -> u64 {
        let above_budget = self.used.saturating_add(len).saturating_sub(limit);
        let below_floor = self.floor.saturating_add(len).saturating_sub(self.free);
        match self.floor {
            0 => above_budget,
            _ => above_budget.max(below_floor),
        }
    }

    /// How much may be appended before the next look.
    fn piece(&self, limit: u64) -> u64 {
        let room = limit.saturating_sub(self.used);
        let room = match self.floor {
            0 => room,
            floor => room.min(self.free.saturating_sub(floor)),
        };
        let piece = self.entries.saturating_mul(PIECE_PER_ENTRY);
        let piece = piece.max(room / SHARES);
        room.min(piece.clamp(*PIECE.start(), *PIECE.end()))
    }
}

/// The bytes that log and dead-letter files take below a root, and how many directory entries
/// there are. What cannot be looked at counts nothing.
pub(crate) fn usage(root: &Path) -> (u64, u64) {
    let mut total = (0, 0);
    // <root>/<entity>/<project>/<client>
    add_usage(root, 3, &mut total);
    total
}

fn add_usage(dir: &Path, levels: u32, total: &mut (u64, u64)) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        total.1 += 1;
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && levels > 0 {
            add_usage(&entry.path(), levels - 1, total);
        } else if kind.is_file() && counts(&entry.file_name()) {
            files.push(entry);
        }
        if files.len() == MOST {
            total.0 += size(&files);
            files.clear();
        }
    }
    total.0 += size(&files);
}

/// What files take. To ask for that is nearly all of a look at many: two do it at once.
fn size(files: &[DirEntry]) -> u64 {
    let size = |files: &[DirEntry]| -> u64 {
        let files = files.iter().flat_map(DirEntry::metadata);
        files.map(|file| allocated(&file)).sum()
    };
    if files.len() < MANY {
        return size(files);
    }
    let (here, there) = files.split_at(files.len() / 2);
    thread::scope(|scope| {
        let other = thread::Builder::new().spawn_scoped(scope, || size(there));
        let here = size(here);
        let sum = other.ok().and_then(|other| other.join().ok());
        here + sum.unwrap_or_else(|| size(there))
    })
}

fn counts(name: &std::ffi::OsStr) -> bool {
    let extension = FileName::parse(name).map(|(_, extension)| extension);
    matches!(extension, Some(Extension::Jsonl | Extension::Deadletter))
}

/// What a file takes on the disk. Some file systems set aside more than was written, for a while.
pub(crate) fn allocated(file: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let blocks = file.blocks().saturating_mul(512);
    blocks.min(file.len().next_multiple_of(4096))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of so many bytes below a root.
    fn log(root: &Path, name: &str, bytes: usize) {
        let dir = root.join("team").join("app");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), vec![b'x'; bytes]).unwrap();
    }

    fn book(budget: &Budget, len: u64) -> Result<()> {
        budget.book(len, &mut |_| false)
    }

    #[test]
    fn logs_and_dead_letters_count_in_every_directory_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), "a.jsonl", 8192);
        log(dir.path(), "a.deadletter", 4096);
        log(dir.path(), "a.checkpoint", 4096);
        log(dir.path(), "notes.txt", 4096);
        fs::create_dir(dir.path().join("team/app/client")).unwrap();
        fs::write(dir.path().join("team/app/client/b.jsonl"), [b'x'; 4096]).unwrap();
        fs::write(dir.path().join("c.jsonl"), [b'x'; 4096]).unwrap();
        let (used, entries) = usage(dir.path());
        assert_eq!(used, 8192 + 3 * 4096);
        assert_eq!(entries, 9);
        assert_eq!(usage(&dir.path().join("nothing")), (0, 0));
    }

    #[test]
    fn many_files_are_all_counted_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let count = MOST + MANY + 1;
        (0..count).for_each(|n| log(dir.path(), &format!("{n}.jsonl"), 1));
        assert_eq!(usage(dir.path()).0, count as u64 * 4096);
    }

    #[test]
    fn a_hole_takes_no_space() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), "a.jsonl", 4096);
        let file = dir.path().join("team/app/a.jsonl");
        let file = fs::OpenOptions::new().append(true).open(file).unwrap();
        file.set_len(1 << 30).unwrap();
        assert_eq!(usage(dir.path()).0, 4096);
    }

    #[test]
    fn what_is_booked_never_exceeds_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), "a.jsonl", 8192);
        let budget = Budget::new(dir.path().to_owned(), 8192 + 1000, Some(0));
        for _ in 0..10 {
            book(&budget, 100).unwrap();
        }
        // What was booked is written, so that the next look finds it.
        log(dir.path(), "b.jsonl", 1000);
        let refused = book(&budget, 1).unwrap_err();
        let Error::NoRoom { used, budget, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!((used, budget), (8192 + 4096, 9192));
    }

    #[test]
    fn a_file_that_goes_makes_room_again() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), "a.jsonl", 8192);
        let budget = Budget::new(dir.path().to_owned(), 8192, Some(0));
        assert!(book(&budget, 1).is_err());
        fs::remove_file(dir.path().join("team/app/a.jsonl")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while book(&budget, 1).is_err() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn room_is_made_as_long_as_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        (0..4).for_each(|n| log(dir.path(), &format!("{n}.jsonl"), 4096));
        let budget = Budget::new(dir.path().to_owned(), 4 * 4096, Some(0));
        let mut next = 0;
        let mut remove = |missing: u64| {
            assert_eq!(missing, 5000 - next * 4096);
            let path = dir.path().join(format!("team/app/{next}.jsonl"));
            next += 1;
            fs::remove_file(path).is_ok()
        };
        budget.book(5000, &mut remove).unwrap();
        assert_eq!(next, 2);
        // What could never fit costs nobody anything.
        let refused = budget.book(5 * 4096, &mut |_| panic!("asked to make room"));
        assert!(refused.is_err());
        assert!(book(&budget, 4 * 4096).is_err());
    }

    #[test]
    fn the_floor_is_kept_whatever_the_budget() {
        let found = Found {
            used: 100,
            entries: 1,
            free: 1000,
            floor: 600,
        };
        assert_eq!(found.missing(u64::MAX, 400), 0);
        assert_eq!(found.missing(u64::MAX, 401), 1);
        assert_eq!(found.piece(u64::MAX), 400);
        assert_eq!(found.missing(300, 250), 50);
        assert_eq!(found.piece(300), 200);
        let full = Found { free: 0, ..found };
        assert!(full.missing(u64::MAX, 1) > 600);
        let without = Found { floor: 0, ..full };
        assert_eq!(without.missing(u64::MAX, 1), 0);
    }

    #[test]
    fn a_refusal_names_the_bound_that_was_met() {
        let root = Path::new("/root-of-logs");
        let message = |limit, used, free, floor| {
            let found = Found {
                used,
                entries: 1,
                free,
                floor,
            };
            assert!(found.missing(limit, 100) > 0);
            let budget = Budget::new(root.to_owned(), limit, Some(floor));
            budget.refusal(&found).to_string()
        };
        for (free, floor) in [(1010, 1000), (1000, 1000), (10, 1000)] {
            let message = message(4096, 500, free, floor);
            assert!(message.contains(&format!("and {free} are")), "{message}");
        }
        for (free, floor) in [(5000, 1000), (10, 0), (1097, 1000)] {
            let message = message(4096, 4000, free, floor);
            assert!(message.contains("a disk budget of 4096"), "{message}");
        }
    }

    #[test]
    fn a_file_system_below_the_floor_is_refused_with_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let budget = Budget::new(dir.path().to_owned(), u64::MAX, Some(u64::MAX / 2));
        let message = book(&budget, 1).unwrap_err().to_string();
        assert!(message.contains("free"), "{message}");
    }
}
