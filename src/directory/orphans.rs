//! What a process that was killed can leave beside no log at all: a `.lock` that it made before
//! its `.jsonl`, or the files beside a `.jsonl` that it had just removed.
//!
//! They mean nothing and cost an inode each, for ever, so whoever searches a directory removes
//! them. A writer that is about to create its `.jsonl` is in no danger: it holds the `flock` of its
//! `.lock` by then, or finds its `.lock` gone and takes another name. Python's writers hold none and
//! write their PID a moment after they have made the file, so what is young is left alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::checkpoint;
use crate::directory::Directory;
use crate::error::Result;
use crate::lock::{read_plain, still_names};
use crate::name::{Extension, FileName};
use crate::sys;

/// What has changed within this time may belong to somebody who is not done.
pub(crate) const YOUNG: Duration = Duration::from_secs(60);

/// Removes what belongs to no log and has not changed for at least `age`.
///
/// # Errors
/// If the directory cannot be listed. What cannot be removed is left.
pub(crate) fn remove(directory: &Directory, age: Duration) -> Result<()> {
    let (mut logs, mut beside) = (Vec::new(), Vec::new());
    for (name, extension) in directory.entries()? {
        match extension {
            Extension::Jsonl => logs.push(name),
            Extension::Lock | Extension::Checkpoint => beside.push(name),
            _ => {}
        }
    }
    logs.sort_unstable();
    beside.sort_unstable();
    beside.dedup();
    for name in beside
        .iter()
        .filter(|name| logs.binary_search(name).is_err())
    {
        remove_beside(directory, name, age);
    }
    Ok(())
}

fn remove_beside(directory: &Directory, name: &FileName, age: Duration) {
    let lock = directory.file(name, Extension::Lock);
    let checkpoint = directory.file(name, Extension::Checkpoint);
    if ![&lock, &checkpoint]
        .into_iter()
        .all(|path| is_old(path, age))
    {
        return;
    }
    // Held until the end, if it is there: a writer that comes now takes another name.
    let held = match read_plain(&lock) {
        Ok(Some(file)) => {
            let free = sys::try_flock(&file).unwrap_or(false)
                && still_names(&lock, &file).unwrap_or(false)
                && !sys::process_exists(crate::lock::pid(&file));
            if !free {
                return;
            }
            Some(file)
        }
        Ok(None) if !lock.exists() => None,
        _ => return,
    };
    // Its writer may have come and gone since the directory was listed.
    if directory
        .file(name, Extension::Jsonl)
        .symlink_metadata()
        .is_ok()
    {
        return;
    }
    let _ = fs::remove_file(checkpoint::temporary(&checkpoint));
    let _ = fs::remove_file(&checkpoint);
    if held.is_some() {
        let _ = fs::remove_file(&lock);
    }
}

/// Is it gone, or unchanged for this long? A file that was moved here has changed.
fn is_old(path: &Path, age: Duration) -> bool {
    let Ok(file) = path.symlink_metadata() else {
        return true;
    };
    let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(file.ctime()).unwrap_or(0));
    match SystemTime::now().duration_since(changed) {
        Ok(since) => since >= age,
        // From the future: the clock was set back, and nobody knows.
        Err(_) => age.is_zero(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;
    use crate::segment::Segment;

    /// No process has this number.
    const NOBODY: &str = "4194305";

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_belongs_to_no_log_goes_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
        file("a.lock", NOBODY);
        file("b.lock", NOBODY);
        file("b.checkpoint", "5");
        file("b.checkpoint.tmp", "6");
        file("c.checkpoint", "7");
        file("d.lock", "");
        // These stay: beside a log, beside a process, dead letters, and what is none of ours.
        file("k.jsonl", "");
        file("k.lock", NOBODY);
        file("k.checkpoint", "0");
        file("l.lock", &std::process::id().to_string());
        file("m.lock", NOBODY);
        file("m.deadletter", "{}\n");
        file("notes.txt", "");
        let directory = Directory::at(dir.path());
        let all = names(dir.path());
        remove(&directory, YOUNG).unwrap();
        assert_eq!(names(dir.path()), all, "all of it is young");
        remove(&directory, Duration::ZERO).unwrap();
        let kept = [
            "k.checkpoint",
            "k.jsonl",
            "k.lock",
            "l.lock",
            "m.deadletter",
            "notes.txt",
        ];
        assert_eq!(names(dir.path()), kept);
    }

    #[test]
    fn a_lock_that_is_held_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        fs::write(&path, NOBODY).unwrap();
        let writer = fs::File::open(&path).unwrap();
        assert!(sys::try_flock(&writer).unwrap());
        remove(&Directory::at(dir.path()), Duration::ZERO).unwrap();
        assert_eq!(names(dir.path()), ["a.lock"]);
    }

    #[test]
    fn scanners_never_take_a_file_from_writers_that_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::at(dir.path());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        remove(&directory, Duration::ZERO).unwrap();
                    }
                });
            }
            let writers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut made = 0;
                        for _ in 0..300 {
                            // Refused is fine, as long as it is said.
                            let Ok(segment) = Segment::create(&directory, 0) else {
                                continue;
                            };
                            made += 1;
                            let name = segment.name();
                            for extension in [Extension::Jsonl, Extension::Lock] {
                                assert!(directory.file(name, extension).exists());
                            }
                            segment.discard();
                        }
                        made
                    })
                })
                .collect();
            let made: usize = writers.into_iter().map(|it| it.join().unwrap()).sum();
            done.store(true, Ordering::Relaxed);
            assert!(made > 0);
        });
        remove(&directory, Duration::ZERO).unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
    }
}
