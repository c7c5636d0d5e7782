//! Weave's own Python client at the other end of a log: what it writes arrives, what it reads is
//! understood.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::helpers::*;
use super::server::{self, KEY, Server, server, value};

/// Python's client at home in `home`, with its log on and its sender off.
pub fn client(server: &Server, home: &Path, args: &[&str]) -> Command {
    let mut command = server::python();
    command
        .arg(server::path("tests/weave/client.py"))
        .args(args)
        .env("HOME", home)
        .env("PYTHONPATH", server::path(".cache/weave-client"))
        .env("WEAVE_ENABLE_WAL", "true")
        .env("WEAVE_DISABLE_WAL_SENDER", "true")
        .env("WANDB_BASE_URL", server.url())
        .env("WF_TRACE_SERVER_URL", server.url())
        .env("WANDB_API_KEY", KEY)
        .env("WANDB_ERROR_REPORTING", "false")
        .current_dir(home)
        .stderr(Stdio::null());
    command
}

/// What stands under `key` in the records of a kind.
fn logged(log: &str, kind: &str, key: &str) -> Vec<Value> {
    log.lines()
        .map(value)
        .filter(|record| record["type"] == kind)
        .map(|record| record["req"][key].clone())
        .collect()
}

fn deliver_a_log_of_pythons(server: &Server, project: &str) {
    let home = tempfile::tempdir().unwrap();
    let wrote = client(server, home.path(), &["log", project])
        .output()
        .unwrap();
    assert!(wrote.status.success());
    let root = home.path().join(".weave/wal");
    let path = &files(&root, "jsonl")[0];
    let log = fs::read_to_string(path).unwrap();
    for special in ["1180591620717411303424", "\\ud800", "\\u2028", "\\u0000"] {
        assert!(log.contains(special), "{special}");
    }
    let (starts, ends) = (
        logged(&log, "call_start", "start"),
        logged(&log, "call_end", "end"),
    );
    assert!(starts.len() > 50 && starts.len() == ends.len());
    let torn = "{\"type\":\"call_end\",\"req\":{\"end\":{\"id\":\"0";
    fs::OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(torn.as_bytes())
        .unwrap();

    let (status, said) = send(&root, &server.url());
    assert_eq!(
        (status, &said["corrupt"], &said["dead"]),
        (1, &json!(1), &json!(0)),
        "{said}"
    );
    assert_eq!(said["delivered"], log.lines().count());
    assert!(files(&root, "jsonl").is_empty());
    let dead: Value =
        serde_json::from_slice(&fs::read(&files(&root, "deadletter")[0]).unwrap()).unwrap();
    assert_eq!(
        (&dead["offset"], &dead["record"]),
        (&json!(log.len()), &Value::Null)
    );

    let mut calls = server.calls_by_id(project);
    calls.retain(|id, _| !id.starts_with("ffffffff"));
    assert_eq!(calls.len(), starts.len());
    for start in &starts {
        let call = &calls[start["id"].as_str().unwrap()];
        assert_eq!(call["inputs"], start["inputs"]);
        assert_eq!(call["op_name"], start["op_name"]);
    }
    for end in &ends {
        let call = &calls[end["id"].as_str().unwrap()];
        assert_eq!(call["output"], end["output"]);
        assert_eq!(
            call["exception"],
            *end.get("exception").unwrap_or(&Value::Null)
        );
        assert!(!call["ended_at"].is_null());
    }
    let raw = server.ask("/calls/stream_query", json!({"project_id": project}));
    assert!(
        String::from_utf8(raw)
            .unwrap()
            .contains("1180591620717411303425")
    );
    let objects = server.json("/objs/query", json!({"project_id": project}));
    let objects = objects["objs"].as_array().unwrap();
    let values: BTreeMap<_, _> = objects
        .iter()
        .map(|object| (object["object_id"].as_str().unwrap(), &object["val"]))
        .collect();
    for object in logged(&log, "obj_create", "obj") {
        assert_eq!(
            values[object["object_id"].as_str().unwrap()],
            &object["val"]
        );
    }
}

#[test]
fn every_record_of_pythons_log_arrives() {
    let Some(server) = server() else { return };
    deliver_a_log_of_pythons(server, "team/python");
}

#[test]
fn every_record_of_pythons_log_arrives_where_whole_calls_are_wanted() {
    let Some(server) = server() else { return };
    server.make_v2("team/python-whole");
    deliver_a_log_of_pythons(server, "team/python-whole");
}

#[test]
fn both_layouts_are_found_and_pythons_dead_letters_are_kept_shown_and_sent_again() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/layouts";
    let client_id = "5f".repeat(32);
    let both = |n| start_line(project, n) + &end_line(project, n);
    plant(dir.path(), project, 1, &both(0));
    let path = plant(dir.path(), &format!("{project}/{client_id}"), 2, &both(1));
    let letters = path.with_extension("deadletter");
    fs::write(&letters, both(2)).unwrap();
    assert_eq!(send_all(dir.path(), &server.url()), 4);
    assert_eq!(fs::read_to_string(&letters).unwrap(), both(2));
    let status = tool(dir.path(), &server.url(), &["status", "--json"])
        .output()
        .unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["dead_records"], 2, "{status}");
    tool(dir.path(), &server.url(), &["dead", "retry"])
        .output()
        .unwrap();
    assert_eq!(send_all(dir.path(), &server.url()), 2);
    assert!(!letters.exists());
    assert_whole(server, project, 0..3);
}

#[test]
fn a_record_of_an_unknown_type_is_kept() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/unknown";
    let unknown = "{\"type\":\"feedback_create\",\"req\":{\"n\":12345678901234567890123}}\n";
    let log = start_line(project, 0) + unknown + &end_line(project, 0);
    plant(dir.path(), project, 1, &log);
    let (status, said) = send(dir.path(), &server.url());
    assert_eq!(
        (status, &said["delivered"], &said["corrupt"]),
        (1, &json!(2), &json!(1))
    );
    let shown = tool(dir.path(), &server.url(), &["dead"]).output().unwrap();
    assert!(
        String::from_utf8(shown.stdout)
            .unwrap()
            .contains("feedback_create")
    );
    tool(dir.path(), &server.url(), &["dead", "retry"])
        .output()
        .unwrap();
    let left = fs::read_to_string(&files(dir.path(), "deadletter")[0]).unwrap();
    let left: Value = serde_json::from_str(&left).unwrap();
    assert!(
        left["reason"].as_str().unwrap().contains("feedback_create"),
        "{left}"
    );
    assert_whole(server, project, 0..1);
}

#[test]
fn weaves_own_sender_delivers_our_files() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/ours";
    let writer = writer(dir.path(), project);
    append_calls(&writer, project, 0..10);
    writer
        .obj_create(&json!({"project_id": project, "object_id": "o", "val": {"n": 1}}))
        .unwrap();
    writer
        .table_create(&json!({"project_id": project, "rows": [{"n": 1}]}))
        .unwrap();
    writer
        .file_create("text.txt", "caf\u{e9}".as_bytes())
        .unwrap();
    drop(writer);
    // By a process that is gone: to Python a log belongs to its PID.
    let records = tool(dir.path(), "", &["cat"]).output().unwrap().stdout;
    let root = dir.path().join("gone");
    fs::create_dir(&root).unwrap();
    let append = tool(&root, "", &["append", "--project", project]);
    assert_eq!(feed(append, std::str::from_utf8(&records).unwrap()).0, 0);
    let place = root.join(project);
    let ran = client(server, dir.path(), &["send", place.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), "sent 23");
    assert!(files(&root, "jsonl").is_empty() && files(&root, "deadletter").is_empty());
    assert_whole(server, project, 0..10);
    let objects = server.json("/objs/query", json!({"project_id": project}));
    assert_eq!(objects["objs"][0]["val"], json!({"n": 1}));
}
