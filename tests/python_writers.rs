//! Files of Weave's Python client, whose writers leave a PID and hold no lock. The writer here is a
//! process that does with its files what Python's does; it may live where its PID names nobody else.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/faults.rs"]
mod faults;
mod support;

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};

use faults::*;
use serde_json::json;
use support::{Collector, LONG, files, start};

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    if std::env::var(PART).as_deref() == Ok("write-as-python") {
        write_as_python(Path::new(&std::env::var_os("ROOT").unwrap()));
    }
}

/// Five records for each line of standard input, the last one without a newline. The end is a kill.
fn write_as_python(dir: &Path) {
    let path = dir.join("1_python.jsonl");
    fs::write(path.with_extension("lock"), std::process::id().to_string()).unwrap();
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).open(&path).unwrap();
    for (round, _) in std::io::stdin().lines().enumerate() {
        let first = round * 5;
        for n in first..first + 5 {
            let line = json!({"type": "call_start", "req": start(n)}).to_string();
            let newline = if n == first { "" } else { "\n" };
            file.write_all(format!("{newline}{line}").as_bytes())
                .unwrap();
            say(&format!("A {n}"));
        }
        if round == 0 {
            file.write_all(b"\n").unwrap();
        }
        say("written");
    }
    std::process::exit(0);
}

struct Writer {
    child: Child,
    orders: ChildStdin,
    answers: std::io::Lines<BufReader<std::process::ChildStdout>>,
    acknowledged: Vec<usize>,
}

impl Writer {
    /// `wrapper` starts the program that is appended to it.
    fn start(dir: &Path, wrapper: Option<&[&str]>) -> Writer {
        let mut command = play("write-as-python", dir, "");
        if let Some([program, arguments @ ..]) = wrapper {
            command = started_by(program, arguments, &command);
        }
        let command = command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        Writer {
            orders: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
            acknowledged: Vec::new(),
        }
    }

    /// Has it write five records.
    fn write(&mut self) {
        writeln!(self.orders).unwrap();
        loop {
            let answer = self.answers.next().unwrap().unwrap();
            if answer == "written" {
                return;
            }
            let number = answer
                .strip_prefix("A ")
                .and_then(|n| n.parse::<usize>().ok());
            self.acknowledged.extend(number);
        }
    }

    /// Ends it; its parent has not noticed yet.
    fn end(self) -> Child {
        drop(self.orders);
        // Its end closes this.
        self.answers.for_each(drop);
        self.child
    }
}

fn project(root: &Path) -> PathBuf {
    let dir = root.join("team/app");
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn writer_alive(root: &Path) -> bool {
    let status = weave_wal::inspect::status(root, &mut |error| panic!("{error}"));
    status[0].files[0].writer_alive
}

/// A PID that no process has here.
fn unused_pid() -> i32 {
    let most = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let mut pids = (2..most.trim().parse().unwrap()).rev();
    // SAFETY: signal 0 only asks.
    pids.find(|&pid| unsafe { libc::kill(pid, 0) } != 0)
        .unwrap()
}

#[test]
fn a_file_that_is_written_in_another_pid_namespace_is_delivered_and_kept() {
    // SAFETY: only asks.
    if unsafe { libc::geteuid() } != 0 {
        support::skip("a PID namespace can be made by root only");
        return;
    }
    let tally = Tally::default();
    for _ in 0..if thorough() { 30 } else { 3 } {
        let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
        let project = project(dir.path());
        let pid = unused_pid();
        let script = format!(
            r#"echo {} > /proc/sys/kernel/ns_last_pid && "$0" "$@"; exit $?"#,
            pid - 1
        );
        let unshare = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            &script,
        ];
        let mut writer = Writer::start(&project, Some(&unshare));
        for _ in 0..2 {
            writer.write();
            let summary = support::send(dir.path(), &collector);
            assert_eq!((summary.pending, summary.corrupt), (0, 0), "{summary:?}");
            assert!(writer_alive(dir.path()));
        }
        let lock = fs::read_to_string(project.join("1_python.lock")).unwrap();
        assert_eq!(lock, pid.to_string());
        let acknowledged = std::mem::take(&mut writer.acknowledged);
        writer.end().wait().unwrap();
        support::send(dir.path(), &collector);
        assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
        assert_eq!(acknowledged.len(), 10);
        tally.count(&acknowledged, &arrived(&collector));
    }
    tally.tell("a Python writer in another PID namespace");
}

#[test]
fn a_writer_that_is_dead_but_not_buried_is_dead() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let mut writer = Writer::start(&project(dir.path()), None);
    writer.write();
    writer.write();
    support::send(dir.path(), &collector);
    assert!(writer_alive(dir.path()));
    let mut zombie = writer.end();
    let stat = format!("/proc/{}/stat", zombie.id());
    let begun = std::time::Instant::now();
    while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
        assert!(begun.elapsed() < LONG);
    }
    // Its last record lacks nothing but the newline.
    let summary = support::send(dir.path(), &collector);
    assert_eq!((summary.delivered, summary.pending), (1, 0), "{summary:?}");
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
    support::assert_each_start_once(&collector, 0..10);
    zombie.wait().unwrap();
}

#[test]
fn a_file_whose_pid_belongs_to_somebody_else_now_is_delivered_and_kept() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let path = project(dir.path()).join("1_python.jsonl");
    let line = json!({"type": "call_start", "req": start(0)});
    fs::write(&path, format!("{line}\n")).unwrap();
    fs::write(path.with_extension("lock"), std::process::id().to_string()).unwrap();
    for delivered in [1, 0] {
        let summary = support::send(dir.path(), &collector);
        assert_eq!((summary.delivered, summary.pending), (delivered, 0));
        assert!(path.exists() && writer_alive(dir.path()));
        let status = weave_wal::inspect::status(dir.path(), &mut |error| panic!("{error}"));
        let file = &status[0].files[0];
        assert_eq!(file.delivered_bytes, file.bytes);
    }
    support::assert_each_start_once(&collector, 0..1);
}

#[test]
fn whoever_opens_a_file_while_it_is_looked_at_hurts_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = project(dir.path()).join("1_python.jsonl");
    fs::write(&path, "").unwrap();
    let looks = std::sync::atomic::AtomicUsize::new(0);
    let looked = || looks.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            while looked() < 5_000 {
                OpenOptions::new().append(true).open(&path).unwrap();
            }
        });
        while !opener.is_finished() {
            weave_wal::inspect::status(dir.path(), &mut |error| panic!("{error}"));
            looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    // A process that is just being started by another test has a copy of what is open here.
    let begun = std::time::Instant::now();
    while writer_alive(dir.path()) {
        assert!(begun.elapsed() < LONG);
    }
}
