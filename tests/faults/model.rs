//! What a directory can look like after the power was cut.
//!
//! A recording of storage calls is replayed into inodes and names. Of both, only what was synced is
//! sure: the content of a file by a sync of the file, a name by a sync of its directory. The rest
//! may be there or not, in any combination; content may also be there in part or as zeros.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// One line of a recording; the shim says what each means.
#[derive(Debug, Clone)]
pub enum Entry {
    Open {
        fd: i32,
        created: bool,
        path: String,
    },
    Write {
        fd: i32,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        fd: i32,
        len: usize,
    },
    SyncBegins {
        thread: i32,
        fd: i32,
    },
    SyncEnds {
        thread: i32,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    Mkdir {
        path: String,
    },
    /// The victim has said that a record is synced.
    Synced(usize),
    /// The server has taken these records.
    Applied(Vec<usize>),
}

/// Reads a recording.
pub fn parse(mut log: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some(end) = log.iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&log[..end]).unwrap().to_owned();
        log = &log[end + 1..];
        let words: Vec<&str> = line.split(' ').collect();
        let text = |index: usize| words[index].to_owned();
        let number = |index: usize| words[index].parse::<usize>().unwrap();
        let small = |index: usize| words[index].parse::<i32>().unwrap();
        entries.push(match words[0] {
            "O" => Entry::Open {
                fd: small(1),
                created: words[2] == "1",
                path: text(3),
            },
            "W" => {
                let (bytes, rest) = log.split_at(number(3));
                log = rest.strip_prefix(b"\n").unwrap();
                Entry::Write {
                    fd: small(1),
                    offset: number(2),
                    bytes: bytes.to_vec(),
                }
            }
            "T" => Entry::Truncate {
                fd: small(1),
                len: number(2),
            },
            "B" => Entry::SyncBegins {
                thread: small(1),
                fd: small(2),
            },
            "E" => Entry::SyncEnds { thread: small(1) },
            "R" => Entry::Rename {
                from: text(1),
                to: text(2),
            },
            "U" => Entry::Unlink { path: text(1) },
            "M" => Entry::Mkdir { path: text(1) },
            "S" => Entry::Synced(number(1)),
            "P" => Entry::Applied((1..words.len()).map(number).collect()),
            _ => continue,
        });
    }
    entries
}

/// A sync that is taken out, to see whether anyone notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Nothing,
    /// `fdatasync` of files with this extension.
    Content(&'static str),
    /// `fsync` of the directory, as far as new files with this extension need it.
    NewName(&'static str),
    /// The same for the removal of files with this extension.
    Removal(&'static str),
    /// The same for new directories.
    NewDirectory,
}

type Inode = usize;

/// What something was since the last sync; the first value is sure.
#[derive(Debug, Clone)]
struct History<T> {
    values: Vec<T>,
    /// How many values came before these.
    before: usize,
}

impl<T> History<T> {
    fn new(value: T) -> History<T> {
        History {
            values: vec![value],
            before: 0,
        }
    }

    fn sure(&self) -> &T {
        &self.values[0]
    }

    fn last(&self) -> &T {
        self.values.last().unwrap()
    }

    /// How many values there were so far.
    fn seen(&self) -> usize {
        self.before + self.values.len()
    }

    /// A sync that began when so many values were seen has ended.
    fn settle(&mut self, seen: usize) {
        let over = (seen - 1).saturating_sub(self.before);
        self.values.drain(..over);
        self.before += over;
    }
}

/// A directory has no content; its entries are names with its path before them.
#[derive(Debug, Clone)]
struct File {
    is_dir: bool,
    content: History<Vec<u8>>,
}

impl File {
    fn new(is_dir: bool, content: Vec<u8>) -> File {
        File {
            is_dir,
            content: History::new(content),
        }
    }
}

/// What a name stands for.
type Binding = History<Option<Inode>>;

#[derive(Debug, Clone)]
enum Syncing {
    /// A file, and how many versions it had.
    Content(Inode, usize),
    /// Names, and how many bindings each had.
    Names(Vec<(String, usize)>),
    Nothing,
}

/// Files and names, sure and unsure.
#[derive(Debug, Clone, Default)]
pub struct Model {
    missing: Option<Missing>,
    files: Vec<File>,
    names: BTreeMap<String, Binding>,
    open: BTreeMap<i32, (Inode, String)>,
    syncing: BTreeMap<i32, Syncing>,
    /// What is promised about records at this moment.
    pub synced: BTreeSet<usize>,
    pub applied: BTreeMap<usize, usize>,
}

/// One way to find the directory: what each name stands for, and what is in it.
pub type State = BTreeMap<String, Option<Vec<u8>>>;

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(parent, _)| parent)
}

fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap();
    name.split_once('.').map_or("", |(_, extension)| extension)
}

impl Model {
    /// What is in a directory now is sure.
    pub fn new(disk: &Path, missing: Missing) -> Model {
        let mut model = Model {
            missing: Some(missing),
            ..Model::default()
        };
        model.load(disk, "");
        model
    }

    fn load(&mut self, dir: &Path, prefix: &str) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            let is_dir = entry.path().is_dir();
            let content = if is_dir {
                Vec::new()
            } else {
                fs::read(entry.path()).unwrap()
            };
            self.files.push(File::new(is_dir, content));
            let inode = Some(self.files.len() - 1);
            self.names.insert(path.clone(), History::new(inode));
            if is_dir {
                self.load(&entry.path(), &format!("{path}/"));
            }
        }
    }

    fn now(&self, path: &str) -> Option<Inode> {
        *self.names.get(path)?.last()
    }

    fn bind(&mut self, path: &str, inode: Option<Inode>) {
        let binding = self.names.entry(path.to_owned());
        binding
            .or_insert_with(|| History::new(None))
            .values
            .push(inode);
    }

    fn create(&mut self, path: &str, is_dir: bool) {
        self.files.push(File::new(is_dir, Vec::new()));
        self.bind(path, Some(self.files.len() - 1));
    }

    fn change(&mut self, fd: i32, change: impl FnOnce(&mut Vec<u8>)) {
        let Some((inode, _)) = self.open.get(&fd) else {
            return;
        };
        let history = &mut self.files[*inode].content;
        let mut content = history.last().clone();
        change(&mut content);
        history.values.push(content);
    }

    /// One call further.
    pub fn step(&mut self, entry: &Entry) {
        match entry {
            Entry::Open { fd, created, path } => {
                if *created {
                    self.create(path, false);
                }
                let inode = if path == "." { None } else { self.now(path) };
                self.open
                    .insert(*fd, (inode.unwrap_or(usize::MAX), path.clone()));
            }
            Entry::Write { fd, offset, bytes } => self.change(*fd, |content| {
                assert!(*offset <= content.len(), "a hole is written");
                content.truncate(*offset);
                content.extend(bytes);
            }),
            Entry::Truncate { fd, len } => self.change(*fd, |content| content.truncate(*len)),
            Entry::SyncBegins { thread, fd } => {
                let syncing = self.begin_sync(*fd);
                self.syncing.insert(*thread, syncing);
            }
            Entry::SyncEnds { thread } => {
                let syncing = self.syncing.remove(thread).unwrap();
                self.end_sync(syncing);
            }
            Entry::Rename { from, to } => {
                let inode = self.now(from);
                self.bind(to, inode);
                self.bind(from, None);
            }
            Entry::Unlink { path } => self.bind(path, None),
            Entry::Mkdir { path } => self.create(path, true),
            Entry::Synced(n) => {
                // And so are those that the same thread has appended before.
                self.synced.extend(n / 100_000 * 100_000..=*n);
            }
            Entry::Applied(records) => {
                for n in records {
                    *self.applied.entry(*n).or_default() += 1;
                }
            }
        }
    }

    fn begin_sync(&self, fd: i32) -> Syncing {
        let (inode, path) = &self.open[&fd];
        let is_dir = path == "." || self.files[*inode].is_dir;
        if !is_dir {
            return match self.missing {
                Some(Missing::Content(wanted)) if extension(path) == wanted => Syncing::Nothing,
                _ => Syncing::Content(*inode, self.files[*inode].content.seen()),
            };
        }
        let inside = self.names.iter().filter(|(name, _)| parent(name) == path);
        let sure = inside.filter(|(name, binding)| !self.is_missing(name, binding));
        Syncing::Names(
            sure.map(|(name, binding)| (name.clone(), binding.seen()))
                .collect(),
        )
    }

    fn is_missing(&self, name: &str, binding: &Binding) -> bool {
        let last = binding.last();
        match self.missing {
            Some(Missing::NewName(wanted)) => last.is_some() && extension(name) == wanted,
            Some(Missing::Removal(wanted)) => last.is_none() && extension(name) == wanted,
            Some(Missing::NewDirectory) => last.is_some_and(|inode| self.files[inode].is_dir),
            _ => false,
        }
    }

    fn end_sync(&mut self, syncing: Syncing) {
        match syncing {
            Syncing::Content(inode, seen) => self.files[inode].content.settle(seen),
            Syncing::Names(names) => {
                for (name, seen) in names {
                    if let Some(binding) = self.names.get_mut(&name) {
                        binding.settle(seen);
                    }
                }
            }
            Syncing::Nothing => {}
        }
    }

    /// What may be found now: every combination if there are no more than `most`, else the two
    /// extremes and others by chance.
    pub fn states(&self, most: usize, random: &mut u64) -> Vec<State> {
        let names: Vec<_> = self.names.iter().collect();
        let bound: BTreeSet<_> = names.iter().flat_map(|(_, name)| &name.values).collect();
        let contents: Vec<Vec<Vec<u8>>> = (0..self.files.len())
            .map(|inode| match bound.contains(&Some(inode)) {
                true => contents(&self.files[inode].content),
                false => vec![Vec::new()],
            })
            .collect();
        // The choices: first of each name's bindings, then of each file's contents.
        let mut choices: Vec<usize> = names.iter().map(|(_, name)| name.values.len()).collect();
        choices.extend(contents.iter().map(Vec::len));
        let all: u128 = choices.iter().map(|choices| *choices as u128).product();
        let pick = |picked: &[usize]| self.pick(&names, &contents, picked);
        let mut states = BTreeSet::new();
        if all <= most as u128 {
            for mut number in 0..all as usize {
                let mut picked = Vec::new();
                for of in &choices {
                    picked.push(number % of);
                    number /= of;
                }
                states.insert(pick(&picked));
            }
            return states.into_iter().collect();
        }
        let none = vec![0; choices.len()];
        let everything: Vec<usize> = choices.iter().map(|of| of - 1).collect();
        let names_only: Vec<usize> = (0..choices.len())
            .map(|at| if at < names.len() { choices[at] - 1 } else { 0 })
            .collect();
        states.extend(
            [none, everything, names_only]
                .iter()
                .map(|picked| pick(picked)),
        );
        for _ in 0..most {
            let picked: Vec<usize> = choices.iter().map(|of| next(random) % of).collect();
            states.insert(pick(&picked));
        }
        states.into_iter().collect()
    }

    fn pick(
        &self,
        names: &[(&String, &Binding)],
        contents: &[Vec<Vec<u8>>],
        picked: &[usize],
    ) -> State {
        let mut state = State::new();
        // Directories come before what is in them.
        for (at, (name, binding)) in names.iter().enumerate() {
            let Some(inode) = binding.values[picked[at]] else {
                continue;
            };
            if parent(name) != "." && !state.contains_key(parent(name)) {
                continue;
            }
            let content = contents[inode][picked[names.len() + inode]].clone();
            state.insert(
                (*name).clone(),
                (!self.files[inode].is_dir).then_some(content),
            );
        }
        state
    }
}

/// What a file may hold: what is sure, all that was written, and what lies between.
fn contents(history: &History<Vec<u8>>) -> Vec<Vec<u8>> {
    let (sure, last) = (history.sure(), history.last());
    let mut contents = Vec::new();
    contents.push(sure.clone());
    for version in &history.values[1..] {
        let new = sure.len().min(version.len())..version.len();
        if new.is_empty() {
            // It was cut.
            contents.push(version.clone());
            continue;
        }
        let middle = (new.start + new.end).div_ceil(2);
        if version != last {
            contents.push(version.clone());
            continue;
        }
        let zeros = |from: usize, to: usize| {
            let mut content = version.clone();
            content[from..to].fill(0);
            content
        };
        contents.push(version[..middle].to_vec());
        contents.push(zeros(new.start, new.end));
        contents.push(zeros(middle, new.end));
        contents.push(zeros(new.start, middle));
        contents.push(version.clone());
    }
    contents.dedup();
    contents
}

/// A number by chance, the same ones in every run.
fn next(random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 16) as usize
}

/// Makes a directory what a state says.
pub fn materialise(state: &State, disk: &Path) {
    for (name, content) in state {
        let path = disk.join(name);
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::create_dir(path).unwrap(),
        }
    }
}
