//! Every kind of record, through the library and through the tool, read back and compared.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weave_wal::{Client, Kind};

use super::helpers::*;
use super::server::{Server, server};

const TEXT: &str = "caf\u{e9} \u{1f980}, a\u{2028}b, nul\0, \"quoted\"\r\nnew line\n";

/// Every byte there is, in an order in which nothing of it is UTF-8, and what looks like the end
/// of a form.
fn binary() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).rev().cycle().take(70_000).collect();
    bytes.extend_from_slice(b"\r\n--boundary--\r\n\r\n\0\n");
    bytes
}

fn rows() -> Value {
    json!([{"n": 1, "text": TEXT}, {"n": 2, "list": [1, [2, {"three": 3.5}]]}, {"n": null}])
}

fn object(project: &str) -> Value {
    json!({"project_id": project, "object_id": "settings", "val": {"text": TEXT, "n": [1, 2.5, null]}})
}

/// A call with everything a call can have, ended by an exception.
fn failed_start(project: &str) -> Value {
    json!({
        "project_id": project, "id": id(1), "trace_id": id(2), "parent_id": id(3),
        "op_name": "answer", "display_name": "The Answer", "thread_id": "t", "turn_id": "u",
        "started_at": "2026-11-22T10:00:00.123456Z", "attributes": {"a": {"b": TEXT}},
        "inputs": {"text": TEXT, "list": [1, {"two": 2}], "none": null, "yes": true},
        "wb_run_id": format!("{project}/run-1"),
    })
}

fn failed_end(project: &str) -> Value {
    json!({
        "project_id": project, "id": id(1), "ended_at": "2026-11-22T10:00:02.654321Z",
        "exception": "ValueError: on purpose", "output": [TEXT, {"n": 1.25}],
        "summary": {"usage": {"model": {"requests": 3, "prompt_tokens": 5}}, "mine": TEXT},
    })
}

fn assert_everything_is_there(server: &Server, project: &str) {
    let calls = server.calls_by_id(project);
    let (call, start, end) = (&calls[&id(1)], failed_start(project), failed_end(project));
    for key in [
        "project_id",
        "id",
        "trace_id",
        "parent_id",
        "op_name",
        "display_name",
    ] {
        assert_eq!(call[key], start[key], "{key}");
    }
    for key in [
        "thread_id",
        "turn_id",
        "started_at",
        "attributes",
        "inputs",
        "wb_run_id",
    ] {
        assert_eq!(call[key], start[key], "{key}");
    }
    for key in ["ended_at", "exception", "output"] {
        assert_eq!(call[key], end[key], "{key}");
    }
    for key in ["usage", "mine"] {
        assert_eq!(call["summary"][key], end["summary"][key], "{key}");
    }
    let running = &calls[&id(5)];
    assert_eq!(running["inputs"], json!({"n": 5}));
    assert!(running["ended_at"].is_null());
    assert_eq!(calls.len(), 2);

    let objects = server.json("/objs/query", json!({"project_id": project}));
    let objects = objects["objs"].as_array().unwrap();
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0]["object_id"], "settings");
    let digest = &objects[0]["digest"];
    let question = json!({"project_id": project, "object_id": "settings", "digest": digest});
    let read = server.json("/obj/read", question);
    assert_eq!(read["obj"]["val"], object(project)["val"]);

    // A digest depends on nothing but the rows, so another project can tell it.
    let elsewhere = json!({"table": {"project_id": "team/elsewhere", "rows": rows()}});
    let digest = &server.json("/table/create", elsewhere)["digest"];
    let question = json!({"project_id": project, "digest": digest});
    let table = server.json("/table/query", question);
    let found: Vec<_> = table["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["val"])
        .collect();
    assert_eq!(json!(found), rows());

    // The server takes an empty file, too, but keeps none.
    for content in [binary(), TEXT.as_bytes().to_vec()] {
        assert_eq!(file(server, project, &content), content);
    }
}

/// A file by its content's digest, which another project can tell as well.
fn file(server: &Server, project: &str, content: &[u8]) -> Vec<u8> {
    let mut form = Vec::new();
    form.extend_from_slice(
        b"--x\r\nContent-Disposition: form-data; name=\"project_id\"\r\n\r\nteam/elsewhere\r\n\
          --x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n",
    );
    form.extend_from_slice(content);
    form.extend_from_slice(b"\r\n--x--\r\n");
    let (status, answer) = server.post("/file/create", "multipart/form-data; boundary=x", form);
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let question = json!({"project_id": project, "digest": answer["digest"]});
    server.ask("/file/content", question)
}

fn append_everything(client: &Client, project: &str) {
    client.file_create("all bytes.bin", &binary()).unwrap();
    client
        .file_create("a \"text\".txt", TEXT.as_bytes())
        .unwrap();
    client.file_create("empty", b"").unwrap();
    client.obj_create(&object(project)).unwrap();
    let table = json!({"project_id": project, "rows": rows()});
    client.table_create(&table).unwrap();
    client.call_start(&failed_start(project)).unwrap();
    client.call_end(&failed_end(project)).unwrap();
    let running = json!({"start": start(project, 5)});
    client.append(Kind::CallStart, &running).unwrap();
}

fn through_the_library(server: &Server, project: &str, root: &Path) {
    let client = Client::open(config(root, project, &server.url())).unwrap();
    append_everything(&client, project);
    let receipt = client.finish(Duration::from_secs(60));
    assert!(receipt.is_complete(), "{receipt:?}");
    assert_eq!(receipt.delivered, 8);
    assert_everything_is_there(server, project);
}

#[test]
fn every_kind_of_record_arrives_through_the_library_as_it_was_appended() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    through_the_library(server, "team/kinds-library", dir.path());
}

#[test]
fn every_kind_of_record_arrives_in_a_project_that_takes_whole_calls_only() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/kinds-whole";
    server.make_v2(project);
    let client = Client::open(config(dir.path(), project, &server.url())).unwrap();
    append_everything(&client, project);
    let receipt = client.finish(Duration::from_secs(60));
    assert!(receipt.is_complete(), "{receipt:?}");
    assert_eq!(receipt.delivered, 8);
    let calls = server.calls_by_id(project);
    assert_eq!(calls.len(), 3, "with the one that made the project");
    assert_eq!(calls[&id(1)]["inputs"], failed_start(project)["inputs"]);
    assert_eq!(calls[&id(1)]["output"], failed_end(project)["output"]);
    assert_eq!(calls[&id(1)]["exception"], failed_end(project)["exception"]);
    assert!(calls[&id(5)]["ended_at"].is_null());
    assert_eq!(file(server, project, &binary()), binary());
}

#[test]
fn every_kind_of_record_arrives_through_the_tool_as_it_was_appended() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/kinds-tool";
    // What the library writes is the tool's input; the checksum it has is of no use there.
    append_everything(&writer(&dir.path().join("library"), project), project);
    let cat = tool(&dir.path().join("library"), "", &["cat"])
        .output()
        .unwrap();
    let records = String::from_utf8(cat.stdout).unwrap();
    assert_eq!(records.lines().count(), 8);
    let root = dir.path().join("tool");
    std::fs::create_dir(&root).unwrap();
    let append = tool(
        &root,
        &server.url(),
        &["append", "--project", project, "--ack"],
    );
    let (status, acknowledged) = feed(append, &records);
    assert_eq!((status, acknowledged.lines().count()), (0, 8));
    assert_eq!(send_all(&root, &server.url()), 8);
    assert_everything_is_there(server, project);
}

#[test]
fn a_poisoned_record_is_kept_with_the_servers_reason_and_its_neighbours_arrive() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/kinds-poison";
    let client = writer(dir.path(), project);
    append_calls(&client, project, 0..3);
    let mut poisoned = start(project, 3);
    poisoned["started_at"] = json!("no time at all");
    client.call_start(&poisoned).unwrap();
    append_calls(&client, project, 4..6);
    drop(client);
    let (status, said) = send(dir.path(), &server.url());
    assert_eq!(
        (status, &said["delivered"], &said["dead"]),
        (1, &json!(10), &json!(1))
    );
    let calls = server.calls_by_id(project);
    assert_eq!(calls.len(), 5);
    let dead = std::fs::read_to_string(&files(dir.path(), "deadletter")[0]).unwrap();
    let dead: Value = serde_json::from_str(&dead).unwrap();
    assert_eq!(dead["record"]["req"]["start"], poisoned);
    assert_eq!(dead["status"], 422);
    assert!(
        dead["detail"].as_str().unwrap().contains("started_at"),
        "{dead}"
    );
}
