//! Dead letters: records that the server refused and damaged bytes, to be looked at, put back or
//! discarded.
//!
//! They are in `.deadletter` files beside the logs they came from, one JSON object a line, and
//! nothing but [`retry`] and [`discard`] ever takes them out. What Weave's Python client puts into
//! its files of that name, records as they were, counts as well.

use std::path::{Path, PathBuf};

use crate::config;
use crate::deadletter::{self, DeadLetterFile};
use crate::directory::{self, Directory};
use crate::error::{Error, IoContext, Result};
use crate::lock::read_plain;
use crate::name::{Extension, FileName};
use crate::record::{Line, parse};
use crate::segment::Segment;
use crate::sys;

pub use crate::deadletter::DeadLetter;

/// How much is put back with one write.
const PIECE: usize = 1 << 20;

/// How large a log gets that takes dead letters back, before another one is begun.
const SEGMENT: u64 = 64 << 20;

/// What [`retry`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retried {
    /// Records that are in a log again.
    pub retried: u64,
    /// Dead letters that are no records and stay where they are.
    pub kept: u64,
}

/// The dead-letter files below a root, of all projects or of one (`entity/project`), oldest first
/// within each directory. Directories that cannot be listed are told to `unread`.
///
/// # Errors
/// [`Error::Config`] if the project is not of that form.
pub fn files(
    root: &Path,
    project: Option<&str>,
    unread: &mut dyn FnMut(Error),
) -> Result<Vec<PathBuf>> {
    directory::files(root, project, Extension::Deadletter, unread)
}

/// Hands every dead letter of a file to `see`: a line of JSON, without the newline, and what it means.
/// It is the line as it stands there; a line that is damaged itself is put into the form of one that
/// holds damaged bytes. `see` returns whether to go on. A file that is gone holds none.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; whatever `see` returns.
pub fn read(path: &Path, see: &mut dyn FnMut(&[u8], &DeadLetter) -> Result<bool>) -> Result<()> {
    let Some(file) = read_plain(path).doing("open the dead-letter file", path)? else {
        return Ok(());
    };
    deadletter::read(&file, path, &mut |line| {
        let letter = DeadLetter::parse(line);
        if letter.raw.as_deref() != Some(line) {
            return see(line, &letter);
        }
        let mut whole = Vec::new();
        letter.push_to(&mut whole);
        see(whole.trim_ascii(), &letter)
    })
}

/// Puts the records of a dead-letter file back into a new log beside it and takes them out of the
/// file. What is no record stays.
///
/// The log is synced before the file changes: if the process dies in between, the records are sent
/// and are still dead letters, but never lost.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read or written. Then the dead letters are where they were.
pub fn retry(path: &Path) -> Result<Retried> {
    let (directory, mut file) = hold(path)?;
    let mut back = PutBack::new(&directory);
    let mut done = Retried::default();
    let put_back = file.for_each(&mut |letter| {
        match record_line(letter) {
            Some(line) => {
                back.push(&line)?;
                done.retried += 1;
            }
            None => done.kept += 1,
        }
        Ok(())
    });
    if let Err(error) = put_back.and_then(|()| back.sync()) {
        back.discard();
        return Err(error);
    }
    if done.retried > 0 || done.kept == 0 {
        sys::without_sigxfsz(|| file.keep(&|letter| record_line(letter).is_none()))?;
    }
    Ok(done)
}

/// Removes a dead-letter file and returns how many dead letters were in it.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read or removed.
pub fn discard(path: &Path) -> Result<u64> {
    let (_, file) = hold(path)?;
    let mut letters = 0;
    file.for_each(&mut |_| {
        letters += 1;
        Ok(())
    })?;
    file.remove()?;
    Ok(letters)
}

fn hold(path: &Path) -> Result<(Directory, DeadLetterFile)> {
    let name = path.file_name().and_then(FileName::parse);
    let (Some((name, Extension::Deadletter)), Some(parent)) = (name, path.parent()) else {
        return Err(Error::Config(format!(
            "{} is no dead-letter file; its name has to end in .deadletter",
            path.display()
        )));
    };
    let directory = Directory::at(parent);
    let file = DeadLetterFile::open(&directory, &name)?;
    Ok((directory, file))
}

/// The line of the log that a dead letter becomes again; `None` if that could not be read.
fn record_line(letter: &[u8]) -> Option<Vec<u8>> {
    let record = DeadLetter::parse(letter).record?;
    let record = parse(record.as_bytes()).ok()?;
    // What could be read can be put back: Python's lines may be longer than ours.
    let line = Line::new(record.kind, record.req.as_bytes(), config::READ_LIMIT).ok()?;
    let mut bytes = Vec::new();
    line.push_to(&mut bytes);
    Some(bytes)
}

/// The logs that take records back. Their writer locks are held until all is done.
struct PutBack<'a> {
    directory: &'a Directory,
    segments: Vec<Segment>,
    lines: Vec<u8>,
}

impl PutBack<'_> {
    fn new(directory: &Directory) -> PutBack<'_> {
        PutBack {
            directory,
            segments: Vec::new(),
            lines: Vec::new(),
        }
    }

    fn push(&mut self, line: &[u8]) -> Result<()> {
        self.lines.extend_from_slice(line);
        match self.lines.len() < PIECE {
            true => Ok(()),
            false => self.write(),
        }
    }

    fn write(&mut self) -> Result<()> {
        let full = |segment: &Segment| segment.len() >= SEGMENT;
        if self.segments.last().is_none_or(full) {
            self.segments.push(Segment::create(self.directory, 0)?);
        }
        let written = match self.segments.last_mut() {
            Some(segment) => segment.append(&self.lines).map(drop),
            None => Ok(()),
        };
        self.lines.clear();
        written.map_err(|failed| failed.error)
    }

    fn sync(&mut self) -> Result<()> {
        if !self.lines.is_empty() {
            self.write()?;
        }
        let mut segments = self.segments.iter();
        segments.try_for_each(Segment::sync)
    }

    fn discard(self) {
        self.segments.into_iter().for_each(Segment::discard);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::inspect::{self, From, Item};

    const RECORD: &str = r#"{"type":"call_end","req":{"end":{"n":1e999}}}"#;

    fn planted(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("team/app");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.deadletter");
        fs::write(&path, lines.join("\n")).unwrap();
        (root, path)
    }

    fn letter(record: &str, raw: &str) -> String {
        format!(
            r#"{{"record":{record},"raw_base64":{raw},"offset":7,"reason":"r","status":422,"detail":"","attempts":1,"at":""}}"#
        )
    }

    fn logged(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for path in inspect::logs(root, None, &mut |_| ()).unwrap() {
            let mut see = |item| {
                if let Item::Record { kind, req, .. } = item {
                    found.push(format!(r#"{{"type":"{kind}","req":{req}}}"#));
                }
                Ok(true)
            };
            inspect::read(&path, From::Start, &mut see).unwrap();
        }
        found
    }

    #[test]
    fn records_are_put_back_and_the_rest_stays() {
        let refused = letter(RECORD, "null");
        let damaged = letter("null", "\"e30=\"");
        let unknown = letter(r#"{"type":"later","req":{}}"#, "null");
        let (root, path) = planted(&[&refused, &damaged, RECORD, "not even JSON", "", &unknown]);
        let done = retry(&path).unwrap();
        assert_eq!((done.retried, done.kept), (2, 3));
        assert_eq!(logged(root.path()), [RECORD, RECORD]);
        let left = fs::read_to_string(&path).unwrap();
        assert_eq!(left, format!("{damaged}\nnot even JSON\n{unknown}\n"));
        let again = retry(&path).unwrap();
        assert_eq!((again.retried, again.kept), (0, 3));
        assert_eq!(logged(root.path()).len(), 2);
    }

    #[test]
    fn a_file_without_dead_letters_is_removed() {
        let (root, path) = planted(&[&letter(RECORD, "null")]);
        assert_eq!(retry(&path).unwrap().retried, 1);
        assert!(!path.exists());
        assert_eq!(
            files(root.path(), None, &mut |_| ()).unwrap(),
            Vec::<PathBuf>::new()
        );
        assert_eq!(retry(&path).unwrap(), Retried::default());
        assert!(!path.exists());
    }

    #[test]
    fn a_failed_put_back_leaves_everything_where_it_was() {
        let (root, path) = planted(&[&letter(RECORD, "null")]);
        let before = fs::read(&path).unwrap();
        // Where the rest would be written, something stands that cannot be replaced.
        fs::create_dir(path.with_extension("deadletter.tmp")).unwrap();
        assert!(retry(&path).unwrap_err().is_io());
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(logged(root.path()), [RECORD], "rather twice than never");
    }

    #[test]
    fn discarding_counts_what_it_removes() {
        let (_root, path) = planted(&[&letter(RECORD, "null"), "damaged", ""]);
        // As where the disk has no room for another file.
        let temporary = path.with_extension("deadletter.tmp");
        fs::create_dir(&temporary).unwrap();
        assert_eq!(discard(&path).unwrap(), 2);
        fs::remove_dir(&temporary).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn only_a_dead_letter_file_is_touched() {
        let (_root, path) = planted(&["{}"]);
        for other in ["a.jsonl", "deadletter", ".deadletter", "a.deadletter.tmp"] {
            let other = path.with_file_name(other);
            assert!(discard(&other).unwrap_err().is_config(), "{other:?}");
        }
    }

    #[test]
    fn one_project_can_be_asked_for() {
        let (root, path) = planted(&["{}"]);
        assert_eq!(
            files(root.path(), Some("team/app"), &mut |_| ()).unwrap(),
            [path]
        );
        assert!(
            files(root.path(), Some("team/ap"), &mut |_| ())
                .unwrap()
                .is_empty()
        );
        assert!(
            files(root.path(), Some("team"), &mut |_| ())
                .unwrap_err()
                .is_config()
        );
        let missing = root.path().join("nowhere");
        assert!(files(&missing, None, &mut |_| ()).unwrap().is_empty());
    }
}
