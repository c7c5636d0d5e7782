//! A backlog of 10 GiB. The only test in its process, for it measures the process.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use support::*;
use weave_wal::{Client, Kind};

/// A line of `/proc/…`, as a number.
fn proc(file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What one file of the backlog is: 32 MiB of records.
fn one_file(path: &Path) -> usize {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
    let padding = "x".repeat(15_000);
    let mut written = 0;
    let mut records = 0;
    while written < 32 << 20 {
        let req = format!(
            "{{\"start\":{{\"project_id\":\"{PROJECT}\",\"id\":\"{}\",\"op_name\":\"{padding}\"}}}}",
            id(1_000_000 + records)
        );
        let line = format!("{{\"type\":\"call_start\",\"req\":{req}}}\n");
        file.write_all(line.as_bytes()).unwrap();
        written += line.len();
        records += 1;
    }
    file.flush().unwrap();
    records
}

#[test]
fn behind_10_gib_open_reads_nothing_memory_is_flat_and_fresh_records_pass() {
    const FILES: usize = 320;
    const FRESH: usize = 200;
    if !Path::new("/proc/thread-self/io").exists() {
        skip("there is no /proc that counts what a thread reads");
        return;
    }
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    let project = dir.path().join(PROJECT);
    fs::create_dir_all(&project).unwrap();
    // One file under 160 names: 10 GiB to deliver, and the space of one.
    let name = |n: usize| project.join(format!("{n:020}_{n:032x}.jsonl"));
    let records = one_file(&name(1));
    (2..=FILES).for_each(|n| fs::hard_link(name(1), name(n)).unwrap());

    let read = || proc("/proc/thread-self/io", "rchar:");
    let before = read();
    let client = Client::open(
        config(dir.path(), &collector)
            .start_jitter(std::time::Duration::ZERO)
            .disk_budget(u64::MAX),
    )
    .unwrap();
    let opening = read() - before;
    assert!(opening < 64 << 10, "{opening} bytes read to open");

    let is_fresh = |record: &collector::Received| record.id < id(1_000_000);
    // Some of the backlog is under way; now records come that nobody should wait for.
    assert!(collector.wait_for(|collector| collector.counts().len() > 1_000, LONG));
    let resident = || proc("/proc/self/status", "VmRSS:");
    for n in 0..FRESH {
        client.append(Kind::CallStart, &start(n)).unwrap();
        if n % 20 == 0 {
            client.sync().unwrap();
        }
    }
    let all_fresh = |collector: &Collector| {
        let fresh = |(_, found): &&(String, String)| *found < id(1_000_000);
        collector.counts().keys().filter(fresh).count() == FRESH
    };
    assert!(collector.wait_for(all_fresh, LONG));
    let received = collector.received();
    let first = received.iter().position(is_fresh).unwrap();
    let last = received.iter().rposition(is_fresh).unwrap();
    let between = last - first + 1 - FRESH;
    // A batch of the backlog has 4 MiB: fresh ones wait for one of them, not for the backlog.
    assert!(between <= records, "{between} of the backlog in between");
    assert!(received.len() < 4 * records, "{}", received.len());
    let stats = client.stats();
    assert!(stats.leftover_files as usize > FILES - 5, "{stats:?}");
    assert_eq!(stats.pending, 0);
    assert!(stats.oldest_pending.is_some());

    // From here on the collector says that it takes everything and keeps nothing.
    collector.set_mode(Mode::Status(200, "{}".to_owned(), Vec::new()));
    drop(received);
    let delivered = |at_least: u64| {
        let begun = client.stats().delivered;
        let deadline = std::time::Instant::now() + 3 * LONG;
        while client.stats().delivered < begun + at_least {
            assert!(std::time::Instant::now() < deadline, "{:?}", client.stats());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    delivered(records as u64 / 2);
    let memory = resident();
    delivered(records as u64);
    let grown = resident().saturating_sub(memory);
    assert!(grown < 32 << 10, "{grown} KiB more");
    assert!(client.finish(LONG).pending == 0);
}
