//! What failed attempts leave behind. The only test in its process, for it counts what is there.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::*;
use weave_wal::Client;

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}"))
        .unwrap()
        .count()
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

/// Waits until no request's thread is left over but those that are there anyway.
fn settled(threads: usize) -> bool {
    let deadline = std::time::Instant::now() + LONG;
    while count("task") > threads {
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn failed_attempts_leave_no_thread_no_descriptor_and_no_memory_behind() {
    if !std::path::Path::new("/proc/self/task").exists() {
        skip("there is no /proc to count in");
        return;
    }
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let status = |status| Mode::Status(status, "x".repeat(100_000), Vec::new());
    let ways = [
        Mode::DropBefore,
        Mode::DropAfter,
        Mode::Garbage,
        status(503),
        status(401),
        status(302),
        Mode::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n".to_vec()),
        Mode::Raw(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
    ];
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..100);
    let attempt = |times: usize| {
        for n in 0..times {
            collector.set_mode(ways[n % ways.len()].clone());
            let before = client.stats().requests;
            // Whoever waits makes the thread try at once.
            client.flush(Duration::from_millis(1)).unwrap();
            while client.stats().requests == before {
                client.flush(Duration::from_millis(20)).unwrap();
            }
        }
    };
    attempt(2 * ways.len());
    // Ours, the test's, the harness's, the collector's.
    let threads = 4;
    assert!(settled(threads), "{} threads", count("task"));
    let (descriptors, memory) = (count("fd"), resident_kib());
    attempt(200);
    assert!(settled(threads), "{} threads", count("task"));
    assert!(count("fd") <= descriptors, "{}", count("fd"));
    let grown = resident_kib().saturating_sub(memory);
    assert!(grown < 8 << 10, "{grown} KiB more");
    collector.set_mode(Mode::Accept);
    assert!(client.finish(LONG).pending == 0);
    tell("216 failed attempts", 0..100, &collector);
}
