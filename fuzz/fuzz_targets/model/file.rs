//! The files that dead writers left, as they should be.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use weave_wal::fuzzing;

use crate::script::Script;
use crate::server::Accepted;

/// The longest line that a delivery takes; most are shorter.
pub const LONGEST: usize = 600;

/// In memory if possible, for its fsyncs cost nothing there.
pub static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    parent.join(format!("weave-wal-fuzz-model-{}", std::process::id()))
});

/// A file whose writer is dead.
pub struct File {
    pub name: String,
    pub content: Vec<u8>,
    /// What stood there when its writer lived, and before each damage: a dead letter shows one of
    /// these.
    pub versions: Vec<Vec<u8>>,
    /// Where each record was written, its newline not counted.
    pub lines: Vec<Line>,
    /// Bytes that need not be accounted for: they were behind us when they were damaged.
    pub excused: Vec<bool>,
    /// Bytes before this were said to be delivered by a checkpoint that nobody wrote.
    pub skipped: usize,
}

pub struct Line {
    pub place: Range<usize>,
    pub id: usize,
    /// It was damaged at some time.
    pub damaged: bool,
    /// It was at some time not parted from its neighbours, so that it need not have been found.
    pub hidden: bool,
    /// One flipped byte is found by the checksum; two could hide the checksum first.
    pub flipped: bool,
}

impl File {
    /// The file as its writer left it: records in their order, and nothing else unless storage has
    /// `failed`.
    pub fn new(name: &str, records: &[Accepted], failed: bool) -> File {
        let content = fs::read(DIR.join(name)).expect("healthy storage");
        let mut lines: Vec<Line> = Vec::new();
        let mut at = 0;
        while at < content.len() {
            let next = lines.last().map_or(0, |line| line.id + 1);
            let starts = |record: &Accepted| content[at..].starts_with(&record.line);
            let Some(id) = (next..records.len()).find(|&id| starts(&records[id])) else {
                // What a failed call left: the beginning of a line, or NUL bytes.
                assert!(failed, "whole records, and each once");
                at += 1;
                continue;
            };
            let line = &records[id].line;
            let end = at + line.len();
            assert!(failed || content.get(end) == Some(&b'\n'));
            lines.push(Line {
                place: at..end,
                id,
                damaged: line.len() > LONGEST,
                hidden: false,
                flipped: false,
            });
            at = end + 1;
        }
        File {
            name: name.to_owned(),
            excused: vec![false; content.len()],
            versions: Vec::new(),
            content,
            lines,
            skipped: 0,
        }
    }

    /// Somewhere in the file, as often as not around a newline.
    pub fn place(&self, script: &mut Script<'_>) -> usize {
        if self.content.is_empty() {
            return 0;
        }
        let choice = usize::from(script.byte());
        let last = self.content.len() - 1;
        if choice % 2 == 0 || self.lines.is_empty() {
            return (choice / 2 + usize::from(script.byte()) * 128) % self.content.len();
        }
        let line = &self.lines[choice / 8 % self.lines.len()];
        (line.place.end + choice / 2 % 4)
            .saturating_sub(1)
            .min(last)
    }

    /// What stands before an offset in its line.
    pub fn from_line_start(&self, offset: usize) -> Range<usize> {
        let before = &self.content[..offset.min(self.content.len())];
        let newline = before.iter().rposition(|byte| matches!(byte, b'\n' | 0));
        newline.map_or(0, |at| at + 1)..before.len()
    }

    pub fn path(&self) -> PathBuf {
        DIR.join(&self.name)
    }

    pub fn stem(&self) -> String {
        self.name.trim_end_matches(".jsonl").to_owned()
    }

    /// What was not synced may be cut off, or NUL bytes, or both.
    pub fn lose_power(&mut self, how: u8, synced: usize, script: &mut Script<'_>) {
        if how == 0 || synced > self.content.len() {
            return;
        }
        let cut = self.place(script).max(synced);
        let nuls = match how {
            1..8 => 0,
            8..12 => self.content.len() - cut,
            _ => usize::from(script.byte()),
        };
        self.content.truncate(cut);
        self.content.resize(cut + nuls, 0);
        fs::write(self.path(), &self.content).expect("healthy storage");
        self.lines.retain(|line| line.place.start < cut);
        self.excused = vec![false; self.content.len()];
        for line in &mut self.lines {
            // Its newline is not part of a record.
            line.damaged |= line.place.end > cut;
        }
    }

    pub fn damage(&mut self, place: Range<usize>, change: impl Fn(&mut u8)) {
        self.versions.push(self.content.clone());
        let checkpoint = fuzzing::read_checkpoint(&self.path().with_extension("checkpoint"));
        for at in place {
            change(&mut self.content[at]);
            self.excused[at] |= (at as u64) < checkpoint;
        }
        let last = self.versions.last().expect("just pushed");
        for line in &mut self.lines {
            let place = line.place.clone();
            line.damaged |= self.content.get(place.clone()) != last.get(place);
        }
        for index in 0..self.lines.len() {
            let found = self.is_found(index);
            self.lines[index].hidden |= !found;
        }
        fs::write(self.path(), &self.content).expect("healthy storage");
    }

    /// Can this record be told from its neighbours? One damaged newline of two does not matter,
    /// unless it looks like JSON or the rest of both records is not whole.
    pub fn is_found(&self, index: usize) -> bool {
        let lines = &self.lines;
        let ends = |index: usize| {
            let end = lines[index].place.end;
            matches!(self.content.get(end), None | Some(b'\n' | 0))
        };
        let begins = |index: usize| index == 0 || ends(index - 1);
        let pair_is_found = |first: usize| {
            let (one, other) = (&lines[first], &lines[first + 1]);
            begins(first)
                && ends(first + 1)
                && !one.damaged
                && !other.damaged
                && self.content[one.place.end] != b','
                && other.place.end - one.place.start <= LONGEST
        };
        match (begins(index), ends(index)) {
            (true, true) => true,
            (true, false) => index + 1 < lines.len() && pair_is_found(index),
            (false, true) => pair_is_found(index - 1),
            (false, false) => false,
        }
    }

    /// Every byte is blank, in a record that arrived, or in a dead letter.
    pub fn check_all_accounted_for(&self, records: &[Accepted], quarantined: Option<&Vec<bool>>) {
        let mut seen: Vec<bool> = self
            .content
            .iter()
            .map(|byte| *byte == 0 || byte.is_ascii_whitespace())
            .collect();
        for line in &self.lines {
            if records[line.id].taken + records[line.id].dead > 0 {
                let end = line.place.end.min(seen.len());
                seen[line.place.start..end].fill(true);
            }
        }
        for (at, seen) in seen.iter().enumerate() {
            let quarantined = quarantined.is_some_and(|bytes| bytes[at]);
            assert!(
                *seen || quarantined || self.excused[at] || at < self.skipped,
                "byte {at} of {:?} was dropped",
                String::from_utf8_lossy(&self.content)
            );
        }
    }
}

/// The files in the directory that end like this, oldest first.
pub fn names(extension: &str) -> Vec<String> {
    let entries = fs::read_dir(&*DIR).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("healthy storage").file_name())
        .map(|name| name.into_string().expect("our own names"))
        .filter(|name| name.ends_with(extension))
        .filter(|name| Path::new(name).extension().is_some())
        .collect();
    names.sort();
    names
}
