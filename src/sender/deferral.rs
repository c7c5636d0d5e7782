//! Ends that wait for their starts, where those may be in another log.
//!
//! A project that takes whole calls refuses an end before its start is there. The start can be in
//! a log that comes later, or that another process is delivering at the moment: only when no other
//! log of the directory holds anything undelivered is there nothing to wait for.

use std::time::{Duration, Instant};

use crate::directory::Directory;
use crate::inspect::pending_bytes;
use crate::name::FileName;

/// How long an end waits at most. Whoever delivers its start has mostly tried that twice by then,
/// and a log that is written to all the time always holds something.
const LONGEST: Duration = Duration::from_secs(120);

/// The logs with such an end, sorted, and since when.
#[derive(Default)]
pub(crate) struct Deferrals(Vec<(FileName, Instant)>);

impl Deferrals {
    /// This log waits. Has it not before?
    pub fn note(&mut self, name: &FileName) -> bool {
        let place = self.place(name);
        if let Err(at) = place {
            self.0.insert(at, (name.clone(), Instant::now()));
        }
        place.is_err()
    }

    pub fn has(&self, name: &FileName) -> bool {
        self.place(name).is_ok()
    }

    /// This log is delivered as far as it goes.
    pub fn forget(&mut self, name: &FileName) {
        if let Ok(at) = self.place(name) {
            self.0.remove(at);
        }
    }

    /// May an end in this log wait? The first time in any case, so that the others go first. Those
    /// that wait themselves have sent all their starts.
    pub fn may_wait(&self, directory: &Directory, name: &FileName) -> bool {
        let Ok(at) = self.place(name) else {
            return true;
        };
        let (_, since) = &self.0[at];
        let is_pending = |other: &FileName| {
            !self.has(other) && pending_bytes(directory, other).is_ok_and(|bytes| bytes > 0)
        };
        since.elapsed() < LONGEST && directory.logs().unwrap_or_default().iter().any(is_pending)
    }

    /// Where a log stands, or else where it would stand.
    fn place(&self, name: &FileName) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(name))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_end_waits_while_another_log_may_hold_its_start_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::at(dir.path());
        let [one, two] = ["1.jsonl", "2.jsonl"].map(|name| {
            fs::write(dir.path().join(name), "{}\n").unwrap();
            FileName::parse(name.as_ref()).unwrap().0
        });
        let mut deferrals = Deferrals::default();
        assert!(deferrals.may_wait(&directory, &one), "the first time");
        assert!(deferrals.note(&one));
        assert!(!deferrals.note(&one));
        assert!(deferrals.may_wait(&directory, &one), "something is in two");
        deferrals.note(&two);
        assert!(!deferrals.may_wait(&directory, &one), "two waits itself");
        deferrals.forget(&two);
        fs::write(dir.path().join("2.checkpoint"), "3").unwrap();
        assert!(!deferrals.may_wait(&directory, &one), "two is delivered");
        fs::remove_file(dir.path().join("2.checkpoint")).unwrap();
        assert!(deferrals.may_wait(&directory, &one));
        let long_ago = Instant::now().checked_sub(LONGEST).unwrap();
        deferrals.forget(&one);
        deferrals.0.push((one.clone(), long_ago));
        assert!(!deferrals.may_wait(&directory, &one), "for long enough");
    }
}
