//! Numbered calls, the tool, and what has to be at the server in the end.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weave_wal::{Client, Config};

use super::server::{KEY, Server};

/// For what must happen, on a machine that may be busy.
pub const LONG: Duration = Duration::from_secs(60);

pub fn id(n: usize) -> String {
    format!("00000000-0000-7000-8000-{n:012x}")
}

pub fn start(project: &str, n: usize) -> Value {
    json!({
        "project_id": project, "id": id(n), "trace_id": id(n), "op_name": "work",
        "started_at": "2026-11-22T10:00:00Z", "attributes": {"a": n}, "inputs": {"n": n},
    })
}

pub fn end(project: &str, n: usize) -> Value {
    json!({
        "project_id": project, "id": id(n), "ended_at": "2026-11-22T10:00:01Z",
        "output": {"n": n}, "summary": {"usage": {"m": {"requests": n}}},
    })
}

/// As a line of a log without a checksum, which is how Python writes it.
pub fn line(kind: &str, value: Value) -> String {
    let key = kind.split('_').nth(1).unwrap();
    format!("{}\n", json!({"type": kind, "req": {key: value}}))
}

pub fn start_line(project: &str, n: usize) -> String {
    line("call_start", start(project, n))
}

pub fn end_line(project: &str, n: usize) -> String {
    line("call_end", end(project, n))
}

/// A log as a process leaves it that has died.
pub fn plant(root: &Path, project: &str, stamp: u64, content: &str) -> PathBuf {
    let dir = root.join(project);
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{stamp:020}_{stamp:032x}.jsonl"));
    std::fs::write(&path, content).unwrap();
    path
}

pub fn config(root: &Path, project: &str, url: &str) -> Config {
    let (entity, name) = project.split_once('/').unwrap();
    Config::new(entity, name)
        .root(root)
        .server(url)
        .api_key(KEY)
        .request_timeout(Duration::from_secs(10))
}

pub fn writer(root: &Path, project: &str) -> Client {
    Client::open(config(root, project, "http://127.0.0.1:9").sender(false)).unwrap()
}

pub fn append_calls(client: &Client, project: &str, numbers: Range<usize>) {
    for n in numbers {
        client.call_start(&start(project, n)).unwrap();
        client.call_end(&end(project, n)).unwrap();
    }
}

pub fn tool(root: &Path, url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weave-wal"));
    command
        .args(args)
        .arg("--root")
        .arg(root)
        .env_clear()
        .env("HOME", root)
        .env("WF_TRACE_SERVER_URL", url)
        .env("WANDB_API_KEY", KEY)
        .current_dir(root);
    command
}

/// `weave-wal send`: its exit status and what it says of itself.
pub fn send(root: &Path, url: &str) -> (i32, Value) {
    let args = ["send", "--json", "--timeout", "60"];
    let ran = tool(root, url, &args).output().unwrap();
    let said: Value = serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&ran.stderr)));
    (ran.status.code().unwrap(), said)
}

/// As [`send`], with everything delivered: how many records.
pub fn send_all(root: &Path, url: &str) -> u64 {
    let (status, said) = send(root, url);
    let dead: String = files(root, "deadletter")
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(status, 0, "{said} {dead}");
    assert_eq!(
        files(root, "jsonl"),
        Vec::<PathBuf>::new(),
        "what is delivered is removed"
    );
    said["delivered"].as_u64().unwrap()
}

pub fn feed(mut command: Command, input: &str) -> (i32, String) {
    let mut child: Child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let ran = child.wait_with_output().unwrap();
    (
        ran.status.code().unwrap(),
        String::from_utf8(ran.stdout).unwrap(),
    )
}

/// Every one of these calls is there once and has both its halves, and nothing else is there but
/// the call that made the project.
pub fn assert_whole(server: &Server, project: &str, numbers: Range<usize>) {
    let mut calls = server.calls_by_id(project);
    calls.retain(|id, _| !id.starts_with("ffffffff"));
    for n in numbers.clone() {
        let call = &calls
            .get(&id(n))
            .unwrap_or_else(|| panic!("call {n} is lost"));
        assert_eq!(call["inputs"], json!({"n": n}), "{call}");
        assert!(
            !call["ended_at"].is_null(),
            "call {n} has lost its end: {call}"
        );
        assert_eq!(call["output"], json!({"n": n}), "{call}");
    }
    assert_eq!(calls.len(), numbers.len(), "more calls than were made");
}

/// Waits until something is true.
pub fn wait_until(what: &str, mut is: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < LONG, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    since.elapsed()
}

/// The files below a directory with this extension.
pub fn files(root: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
