//! `send --watch` beside a process that logs: Python's client, or a writer of our own.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::helpers::*;
use super::proxy::{Fate, Proxy};
use super::python::client;
use super::server::{Server, server, value};

/// `weave-wal send --watch`. Does not outlive a test that fails.
pub struct Sidecar(Child);

impl Sidecar {
    pub fn start(root: &Path, url: &str) -> Sidecar {
        let mut command = tool(root, url, &["send", "--watch", "--json"]);
        Sidecar(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, name: &str) {
        let (name, id) = (format!("-{name}"), self.id().to_string());
        let sent = Command::new("kill").args([name, id]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGTERM: the exit status, and what it says of itself.
    pub fn stop(self) -> (Option<i32>, Value) {
        self.signal("TERM");
        self.ended()
    }

    fn ended(mut self) -> (Option<i32>, Value) {
        let mut said = String::new();
        let mut out = self.0.stdout.take().unwrap();
        out.read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), value(&said))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Mostly it has ended.
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// A Python process that logs, and a `weave-wal send --watch` beside it.
pub struct Pod<'a> {
    server: &'a Server,
    project: &'a str,
    pub root: PathBuf,
    url: String,
    python: Child,
    said: Lines<BufReader<ChildStdout>>,
    sidecar: Option<Sidecar>,
    _home: tempfile::TempDir,
}

impl Pod<'_> {
    fn start<'a>(server: &'a Server, project: &'a str) -> Pod<'a> {
        Pod::through(server.url(), server, project)
    }

    /// The sidecar sends to `url`.
    pub fn through<'a>(url: String, server: &'a Server, project: &'a str) -> Pod<'a> {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join(".weave/wal");
        fs::create_dir_all(&root).unwrap();
        let mut python = client(server, home.path(), &["live", project])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(python.stdout.take().unwrap()).lines();
        let sidecar = Some(Sidecar::start(&root, &url));
        Pod {
            server,
            project,
            root,
            url,
            python,
            said,
            sidecar,
            _home: home,
        }
    }

    /// Lets Python do something and waits until it has.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.python.stdin.as_mut().unwrap(), "{line}").unwrap();
        let done = |line: std::io::Result<String>| line.unwrap().starts_with("done");
        assert!(self.said.any(done), "the client has ended");
    }

    pub fn ended_calls(&self) -> usize {
        let calls = self.server.calls(self.project);
        calls
            .iter()
            .filter(|call| !call["ended_at"].is_null())
            .count()
    }

    /// How long it takes from the call's return until it is at the server.
    fn call(&mut self, n: usize, so_far: usize) -> Duration {
        self.tell(&format!("call {n}"));
        wait_until("the call arrives", || self.ended_calls() == so_far)
    }

    /// Waits until the sidecar has looked at everything twice: what it had found then is removed.
    fn let_it_look(&self) {
        for _ in 0..2 {
            let other = plant(&self.root, "team/other", 1, &start_line("team/other", 1));
            wait_until("it looks", || !other.exists());
        }
    }

    /// SIGKILL, and another one.
    pub fn replace_sidecar(&mut self) {
        self.sidecar = None;
        self.sidecar = Some(Sidecar::start(&self.root, &self.url));
    }

    /// Lets Python end, and waits until its log is delivered and gone.
    pub fn end_python(&mut self) {
        drop(self.python.stdin.take());
        // Until somebody waits for it, its PID is taken.
        self.python.wait().unwrap();
        wait_until("removal", || files(&self.root, "jsonl").is_empty());
    }

    pub fn stop_sidecar(mut self) -> (Option<i32>, Value) {
        self.sidecar.take().unwrap().stop()
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        // Nothing may outlive a test that fails; mostly they are gone.
        let _ = (self.python.kill(), self.python.wait());
    }
}

#[test]
fn a_sidecar_delivers_what_python_writes_and_cleans_up_behind_it() {
    let Some(server) = server() else { return };
    let project = "team/sidecar";
    let mut pod = Pod::start(server, project);
    pod.call(1, 1);
    pod.call(2, 2);
    // A line that is half written is waited for, and neither sent nor quarantined.
    let line = start_line(project, 7) + &end_line(project, 7);
    let (start, end) = line.trim_end().split_once('\n').unwrap();
    let (half, rest) = start.split_at(start.len() / 2);
    pod.tell(&format!("write {half}"));
    pod.let_it_look();
    assert_eq!(files(&pod.root, "deadletter"), Vec::<PathBuf>::new());
    pod.tell(&format!("write {rest}"));
    pod.tell("newline");
    pod.tell(&format!("write {end}"));
    pod.tell("newline");
    wait_until("the two halves make a whole", || pod.ended_calls() == 3);
    // Delivered to its end, and still Python's.
    assert_eq!(files(&pod.root, "jsonl").len(), 1);
    pod.call(3, 4);
    pod.end_python();
    let (status, said) = pod.stop_sidecar();
    assert_eq!(
        (status, &said["pending"], &said["corrupt"]),
        (Some(0), &json!(0), &json!(0)),
        "{said}"
    );
    assert_eq!(server.calls_by_id(project).len(), 4);
}

#[test]
fn a_sidecar_survives_a_python_process_that_is_killed_half_way_through_a_line() {
    let Some(server) = server() else { return };
    let project = "team/sidecar-killed";
    let mut pod = Pod::start(server, project);
    pod.call(1, 1);
    pod.tell("write {\"type\":\"call_start\",\"req\":{\"sta");
    pod.python.kill().unwrap();
    pod.python.wait().unwrap();
    wait_until("removal", || files(&pod.root, "jsonl").is_empty());
    assert_eq!(files(&pod.root, "deadletter").len(), 1);
    let (status, said) = pod.stop_sidecar();
    assert_eq!(
        (status, &said["pending"], &said["corrupt"]),
        (Some(1), &json!(0), &json!(1)),
        "{said}"
    );
    assert_eq!(server.calls_by_id(project).len(), 1);
}

#[test]
fn a_sidecar_works_beside_our_own_writer_as_well() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/sidecar-ours";
    let writer = writer(dir.path(), project);
    let sidecar = Sidecar::start(dir.path(), &server.url());
    for n in 0..3 {
        append_calls(&writer, project, n..n + 1);
        wait_until("the call arrives", || server.calls(project).len() == n + 1);
        assert_eq!(files(dir.path(), "jsonl").len(), 1);
    }
    drop(writer);
    wait_until("removal", || files(dir.path(), "jsonl").is_empty());
    assert_eq!(sidecar.stop().0, Some(0));
    assert_whole(server, project, 0..3);
}

#[test]
fn what_is_written_beside_a_sidecar_arrives_soon() {
    let Some(server) = server() else { return };
    // The yardstick: what a request of our own and the question for it take.
    let asked = Instant::now();
    let batch = json!({"batch": [{"mode": "start", "req": {"start": start("team/soon", 0)}}]});
    server.ask("/call/upsert_batch", batch);
    assert_eq!(server.calls("team/soon").len(), 1);
    let yardstick = asked.elapsed();

    let mut pod = Pod::start(server, "team/soon-python");
    pod.call(0, 1);
    let python: Vec<_> = (1..6).map(|n| pod.call(n, n + 1)).collect();
    assert_eq!(pod.stop_sidecar().0, Some(0));

    let beside_our_own = |project: &str| -> Vec<Duration> {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path(), project);
        append_calls(&writer, project, 0..1);
        let sidecar = Sidecar::start(dir.path(), &server.url());
        let there = |n| server.has_call(project, &id(n));
        wait_until("the first call arrives", || there(0));
        let took = (1..6).map(|n| {
            writer.call_start(&start(project, n)).unwrap();
            wait_until("a start arrives", || there(n))
        });
        let took = took.collect();
        assert_eq!(sidecar.stop().0, Some(0));
        took
    };
    let halves = beside_our_own("team/soon-ours");
    server.make_v2("team/soon-whole");
    let held = beside_our_own("team/soon-whole");
    println!(
        "written to arrived, beside {yardstick:.1?} for a request without a log: Python's calls \
         {python:.1?}; our starts {halves:.1?}; the same held back for their ends {held:.1?}"
    );
}

/// Stopped by SIGSTOP while it is written, so that SIGTERM is the first thing it knows.
fn written_just_before_the_end(server: &Server, project: &str) {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path(), project);
    append_calls(&writer, project, 0..1);
    let sidecar = Sidecar::start(dir.path(), &server.url());
    wait_until("the first call arrives", || {
        server.has_call(project, &id(0))
    });
    sidecar.signal("STOP");
    append_calls(&writer, project, 1..50);
    writer.call_start(&start(project, 50)).unwrap();
    writer.sync().unwrap();
    sidecar.signal("TERM");
    sidecar.signal("CONT");
    let (status, said) = sidecar.ended();
    assert_eq!((status, &said["pending"]), (Some(0), &json!(0)));
    assert_eq!(said["delivered"], 101, "{said}");
    assert_eq!(files(dir.path(), "jsonl").len(), 1, "it has a writer");
    // The end of the call that still ran comes to somebody else.
    writer.call_end(&end(project, 50)).unwrap();
    drop(writer);
    assert_eq!(send_all(dir.path(), &server.url()), 1);
    assert_whole(server, project, 0..51);
}

#[test]
fn what_was_written_just_before_sigterm_is_delivered() {
    let Some(server) = server() else { return };
    written_just_before_the_end(server, "team/last-pass");
    server.make_v2("team/last-pass-whole");
    written_just_before_the_end(server, "team/last-pass-whole");
}

#[test]
fn sigterm_ends_a_sidecar_whose_server_hangs_and_everything_is_kept() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/sidecar-hangs";
    let proxy = Proxy::start(server.port, |_, _| Fate::HoldAnswer);
    let writer = writer(dir.path(), project);
    append_calls(&writer, project, 0..10);
    let sidecar = Sidecar::start(dir.path(), &proxy.url());
    wait_until("a request is out", || proxy.has(Fate::HoldAnswer));
    let since = Instant::now();
    let (status, said) = sidecar.stop();
    println!("ended {:.1?} after SIGTERM", since.elapsed());
    assert_eq!((status, &said["pending"]), (Some(1), &json!(20)), "{said}");
    drop(writer);
    assert_eq!(send_all(dir.path(), &server.url()), 20);
    assert_whole(server, project, 0..10);
}

#[test]
fn a_call_that_is_held_back_holds_up_no_other_log() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/held-beside";
    server.make_v2(project);
    let proxy = Proxy::start(server.port, |_, _| Fate::Pass);
    let long = writer(dir.path(), project);
    long.call_start(&start(project, 0)).unwrap();
    let short = writer(dir.path(), project);
    append_calls(&short, project, 1..4);
    long.sync().unwrap();
    short.sync().unwrap();
    let sidecar = Sidecar::start(dir.path(), &proxy.url());
    wait_until("the start arrives", || proxy.count("/call/start") == 1);
    let seen = proxy.seen();
    let at = |route: &str| seen.iter().position(|(path, _)| path.ends_with(route));
    assert!(at("/calls/complete") < at("/call/start"), "{seen:?}");
    long.call_end(&end(project, 0)).unwrap();
    drop(long);
    drop(short);
    wait_until("removal", || files(dir.path(), "jsonl").is_empty());
    assert_eq!(sidecar.stop().0, Some(0));
    assert_whole(server, project, 0..4);
}
