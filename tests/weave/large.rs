//! What is larger than a request may be.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde_json::{Value, json};
use weave_wal::Config;

use super::helpers::*;
use super::proxy::{Fate, Proxy};
use super::server::{Server, server};
use super::sidecar::Sidecar;

fn row(n: usize, bytes: usize) -> Value {
    json!({"n": n, "text": format!("{n:08}").repeat(bytes / 8)})
}

/// The rows that the server returns of a table.
fn rows(server: &Server, project: &str, digest: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    loop {
        let question = json!({
            "project_id": project, "digest": digest, "limit": 1000, "offset": rows.len(),
        });
        let answer = server.json("/table/query", question);
        let found = answer["rows"].as_array().unwrap();
        rows.extend(found.iter().map(|row| row["val"].clone()));
        if found.len() < 1000 {
            return rows;
        }
    }
}

/// Sends a table of so many rows of 1 KiB with the tool. The most memory it ever had, in KiB, when
/// its last request was out.
fn send_table(server: &Server, project: &str, n: usize) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let table: Vec<_> = (0..n).map(|n| row(n, 1 << 10)).collect();
    let writer = writer(dir.path(), project);
    writer
        .table_create(&json!({"project_id": project, "rows": table}))
        .unwrap();
    drop(writer);
    let (pid, memory) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
    let proxy = Proxy::start(server.port, {
        let (pid, memory) = (Arc::clone(&pid), Arc::clone(&memory));
        move |_, _| {
            memory.store(most_memory(pid.load(Ordering::SeqCst)), Ordering::SeqCst);
            Fate::Pass
        }
    });
    let sender = Sidecar::start(dir.path(), &proxy.url());
    pid.store(sender.id(), Ordering::SeqCst);
    wait_until("the table arrives", || {
        files(dir.path(), "jsonl").is_empty()
    });
    assert_eq!(sender.stop().0, Some(0));
    assert_eq!(
        files(dir.path(), "deadletter"),
        Vec::<std::path::PathBuf>::new()
    );
    let parts = proxy.count("/table/create");
    assert_eq!(
        proxy.count("/table/create_from_digests"),
        usize::from(parts > 1)
    );
    println!(
        "{n} rows in {parts} parts: {} KiB",
        memory.load(Ordering::SeqCst)
    );

    // A digest depends on nothing but the rows: another project tells it, row by row.
    let mut digests = Vec::new();
    for part in table.chunks(500) {
        let part = json!({"table": {"project_id": "team/elsewhere", "rows": part}});
        let answer = server.json("/table/create", part);
        digests.extend(answer["row_digests"].as_array().unwrap().clone());
    }
    let whole =
        json!({"project_id": "team/elsewhere", "row_digests": digests, "expected_digest": null});
    let digest = server.json("/table/create_from_digests", whole)["digest"].clone();
    let found = rows(server, project, digest.as_str().unwrap());
    assert_eq!(found.len(), n);
    assert!(found == table, "the rows are others");
    memory.load(Ordering::SeqCst)
}

fn most_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default()
}

#[test]
fn a_table_above_the_body_limit_arrives_as_one_in_bounded_memory() {
    let Some(server) = server() else { return };
    let small = send_table(server, "team/table-small", 100);
    let large = send_table(server, "team/table-large", 12_000);
    assert!(
        small > 0 && large < small + (64 << 10),
        "{small} and {large} KiB"
    );
}

/// Calls around one whose inputs are larger than the server takes, as Python logs it.
fn plant_large_call(root: &Path, project: &str) {
    let mut large = start(project, 3);
    large["inputs"] = json!({"text": "x".repeat(33 << 20)});
    let mut log = String::new();
    for n in 0..3 {
        write!(log, "{}{}", start_line(project, n), end_line(project, n)).unwrap();
    }
    log += &line("call_start", large);
    log += &start_line(project, 4);
    log += &end_line(project, 4);
    plant(root, project, 1, &log);
}

#[test]
fn a_call_above_the_servers_limit_is_a_dead_letter_with_the_reason() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/large-call";
    plant_large_call(dir.path(), project);
    let (status, said) = send(dir.path(), &server.url());
    assert_eq!(
        (status, &said["delivered"], &said["dead"]),
        (1, &json!(8), &json!(1)),
        "{said}"
    );
    let dead = fs::read(&files(dir.path(), "deadletter")[0]).unwrap();
    let dead: Value = serde_json::from_slice(&dead).unwrap();
    assert_eq!(
        (&dead["status"], &dead["record"]["type"]),
        (&json!(413), &json!("call_start"))
    );
    assert!(
        dead["detail"].as_str().unwrap().contains("too large"),
        "{}",
        dead["detail"]
    );
    assert_eq!(server.calls_by_id(project).len(), 4);
}

#[test]
fn a_call_that_breaks_every_connection_by_its_size_holds_nothing_up() {
    let Some(server) = server() else { return };
    let whole = "team/large-unread-whole";
    server.make_v2(whole);
    for (project, calls) in [("team/large-unread", 4), (whole, 5)] {
        let dir = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(server.port, |_, _| Fate::Pass);
        plant_large_call(dir.path(), project);
        let sender = Sidecar::start(dir.path(), &proxy.url());
        wait_until("all are dealt with", || {
            files(dir.path(), "jsonl").is_empty()
        });
        let (status, said) = sender.stop();
        assert_eq!(
            (status, &said["delivered"], &said["dead"]),
            (Some(1), &json!(8), &json!(1)),
            "{said}"
        );
        let dead = fs::read(&files(dir.path(), "deadletter")[0]).unwrap();
        let dead: Value = serde_json::from_slice(&dead).unwrap();
        let detail = dead["detail"].as_str().unwrap();
        assert!(detail.contains("never answered"), "{detail}");
        assert_eq!(server.calls_by_id(project).len(), calls);
    }
}

#[test]
fn our_own_log_refuses_a_record_above_its_limit_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let client =
        weave_wal::Client::open(Config::new("team", "limit").root(dir.path()).sender(false));
    let mut large = start("team/limit", 1);
    large["inputs"] = json!({"text": "x".repeat(16 << 20)});
    let refused = client.unwrap().call_start(&large).unwrap_err();
    assert!(
        refused.is_record() && refused.to_string().contains("limit"),
        "{refused}"
    );
}
