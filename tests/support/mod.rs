//! What the tests share: a project on a loopback collector, and numbered records.
#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used)]

#[path = "../../src/cli/collector.rs"]
pub mod collector;
pub mod tally;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weave_wal::{Client, Config, Kind, Sender, Summary, Until};

pub use collector::{Collector, Mode};
pub use tally::{Tally, arrived, tell};

/// As long as a test waits for what must happen; long, because the machine may be busy.
pub const LONG: Duration = Duration::from_secs(30);

pub const PROJECT: &str = "team/app";

/// A call id as the server wants it, made from a number.
pub fn id(n: usize) -> String {
    format!("00000000-0000-7000-8000-{n:012x}")
}

pub fn start(n: usize) -> Value {
    json!({"start": {"project_id": PROJECT, "id": id(n), "op_name": "work", "n": n}})
}

pub fn end(n: usize) -> Value {
    json!({"end": {"project_id": PROJECT, "id": id(n), "output": n}})
}

pub fn config(root: &Path, collector: &Collector) -> Config {
    Config::new("team", "app")
        .root(root)
        .server(collector.url())
        .api_key("secret-key")
        .request_timeout(Duration::from_secs(2))
}

/// A client that only writes.
pub fn writer(root: &Path) -> Client {
    Client::open(Config::new("team", "app").root(root).sender(false)).unwrap()
}

pub fn append_starts(client: &Client, numbers: std::ops::Range<usize>) {
    for n in numbers {
        client.append(Kind::CallStart, &start(n)).unwrap();
    }
}

/// Every start with one of these numbers has arrived exactly once, and nothing else has.
pub fn assert_each_start_once(collector: &Collector, numbers: std::ops::Range<usize>) {
    assert_each_start_once_of(collector, numbers);
}

/// The same for any numbers.
pub fn assert_each_start_once_of(collector: &Collector, numbers: impl Iterator<Item = usize>) {
    let wanted: BTreeMap<_, _> = numbers
        .map(|n| (("call_start".to_owned(), id(n)), 1))
        .collect();
    assert_eq!(collector.counts(), wanted);
}

/// A directory where a sync costs nothing, if there is such a place: for tests of what is in the
/// files, with many files.
pub fn quick_dir() -> tempfile::TempDir {
    let shared_memory = Path::new("/dev/shm");
    match shared_memory.is_dir() {
        true => tempfile::tempdir_in(shared_memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// Delivers what is below a root, and gives up when nothing has moved for `patience`.
pub fn send_to(url: &str, root: &Path, patience: Duration) -> Summary {
    let stop = AtomicBool::new(false);
    let until = Until {
        patience,
        deadline: Some(Instant::now() + LONG),
        ..Until::drained(&stop)
    };
    let sender = Sender::new(url, Some("secret-key")).unwrap();
    sender.root(root).run(&until, &mut |_| {}).unwrap()
}

/// Delivers what is below a root.
pub fn send(root: &Path, collector: &Collector) -> Summary {
    send_to(&collector.url(), root, LONG)
}

/// Says why a test cannot be run here; where none may be left out, fails.
pub fn skip(why: &str) {
    let must = std::env::var_os("WEAVE_WAL_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!must, "cannot be tested here: {why}");
    println!("skipped: {why}");
}

/// All files below a directory, by name.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The files with one extension.
pub fn files_with(root: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = files(root);
    found.retain(|path| path.extension().is_some_and(|found| found == extension));
    found
}
