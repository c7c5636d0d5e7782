//! The published trace server as a child process, and what can be asked of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

pub const KEY: &str = "0123456789012345678901234567890123456789";

/// Ends when this process does: its standard input is closed then.
pub struct Server {
    pub port: u16,
    _child: Child,
}

/// The one server of this test run, started at first use. `None`: it is not installed here, or
/// `WEAVE_WAL_NO_SKIP` is 0.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let skip = std::env::var("WEAVE_WAL_NO_SKIP").unwrap_or_default();
    if skip == "0" {
        return None;
    }
    let server = SERVER.get_or_init(Server::start).as_ref();
    if server.is_none() {
        assert_ne!(
            skip, "1",
            "the Weave server is not installed: run tests/weave/setup.sh"
        );
        eprintln!("skipped: the Weave server is not installed; tests/weave/setup.sh installs it");
    }
    server
}

/// A line of JSON in which there may be half a surrogate pair, which no Rust string holds.
pub fn value(line: &str) -> Value {
    serde_json::from_str(&line.replace("\\ud800", "half a pair")).unwrap()
}

pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

pub fn python() -> Command {
    let mut command = Command::new(path(".cache/weave-venv/bin/python"));
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command
}

impl Server {
    fn start() -> Option<Server> {
        if !path(".cache/weave-installed").is_file() {
            return None;
        }
        let mut child = python()
            .arg(path("tests/weave/server.py"))
            .arg(KEY)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut port).unwrap();
        Some(Server {
            port: port.trim().parse().unwrap(),
            _child: child,
        })
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The status and body of an answer.
    pub fn post(&self, path: &str, content_type: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        // "api:" and the key.
        let credentials = "YXBpOjAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODk=";
        let answer = minreq::post(format!("{}{path}", self.url()))
            .with_header("Authorization", format!("Basic {credentials}"))
            .with_header("Content-Type", content_type)
            .with_header("Connection", "close")
            .with_timeout(60)
            .with_body(body)
            .send()
            .unwrap();
        (answer.status_code as u16, answer.into_bytes())
    }

    pub fn ask(&self, path: &str, question: Value) -> Vec<u8> {
        let body = question.to_string().into_bytes();
        let (status, answer) = self.post(path, "application/json", body);
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(status, 200, "{path} {question}: {text}");
        answer
    }

    pub fn json(&self, path: &str, question: Value) -> Value {
        serde_json::from_slice(&self.ask(path, question)).unwrap()
    }

    /// Everything that the server returns of a project's calls, one object for each row.
    pub fn calls(&self, project: &str) -> Vec<Value> {
        let rows = self.ask("/calls/stream_query", json!({"project_id": project}));
        let rows = String::from_utf8(rows).unwrap();
        rows.lines().map(value).collect()
    }

    pub fn has_call(&self, project: &str, id: &str) -> bool {
        let question = json!({"project_id": project, "filter": {"call_ids": [id]}});
        self.json("/calls/query_stats", question)["count"] == 1
    }

    /// The calls by id. No call may be there twice, and the count has to agree.
    pub fn calls_by_id(&self, project: &str) -> BTreeMap<String, Value> {
        let rows = self.calls(project);
        let count = self.json("/calls/query_stats", json!({"project_id": project}));
        assert_eq!(
            count["count"],
            rows.len(),
            "{project}: rows and their count"
        );
        let (mut calls, mut twice) = (BTreeMap::new(), Vec::new());
        for row in rows {
            let id = row["id"].as_str().unwrap().to_owned();
            if calls.insert(id.clone(), row).is_some() {
                twice.push(id);
            }
        }
        twice.truncate(3);
        assert!(
            twice.is_empty(),
            "{project}: there twice: {twice:?} and perhaps more"
        );
        calls
    }

    /// Makes a project that takes whole calls only, by its first call.
    pub fn make_v2(&self, project: &str) {
        let call = json!({
            "project_id": project, "id": "ffffffff-0000-7000-8000-000000000000",
            "trace_id": "ffffffff-0000-7000-8000-000000000000", "op_name": "first",
            "started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:01Z",
            "attributes": {}, "inputs": {}, "output": null, "summary": {},
        });
        self.ask(
            &format!("/v2/{project}/calls/complete"),
            json!({"batch": [call]}),
        );
    }
}
