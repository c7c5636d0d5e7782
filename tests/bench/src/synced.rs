//! Appends that wait for the disk.

use std::io::Write;
use std::path::Path;
use std::sync::Barrier;

use weave_wal::{Durability, Kind};

use crate::harness::{burst, entrant, scratch, Bench, Bound};
use crate::{others, workload};

pub fn run(bench: &mut Bench) {
    for (threads, records, least) in [(1, 2_000, 0.95), (8, 8_000, 0.75)] {
        let records = bench.amount(records);
        let (dir, line) = (bench.dir().to_owned(), workload::line(&workload::request()));
        let yardstick = match threads {
            1 => "write(2) and fdatasync of each record",
            _ => "one fdatasync for each 8 records",
        };
        let mut lines = vec![
            entrant(yardstick, Bound::None, || {
                ideal(&dir, threads, records, &line)
            }),
            entrant("weave-wal, append and wait", Bound::AtLeast(least), || {
                ours(&dir, Durability::Written, threads, records)
            }),
            entrant("weave-wal, Buffered, append and wait", Bound::None, || {
                ours(&dir, Durability::Buffered, threads, records)
            }),
            entrant("weave-wal, Synced", Bound::None, || {
                ours(&dir, Durability::Synced, threads, records)
            }),
        ];
        if threads > 1 {
            let name = "write(2) in each thread, a Barrier, fdatasync";
            lines.push(entrant(name, Bound::None, || {
                barrier(&dir, threads, records, &line)
            }));
        }
        lines.extend(others::synced(&dir, threads, records, &line));
        let title = format!("append, synced on return, {threads} thread(s)");
        bench.contest(&title, "records/s", lines);
    }
}

/// As fast as it gets when all threads share each sync and nobody ever waits for another.
fn ideal(dir: &Path, threads: usize, records: usize, line: &[u8]) -> f64 {
    let dir = scratch(dir);
    let mut file = crate::append::new_file(dir.path());
    let group = line.repeat(threads);
    let groups = burst(1, records / threads, || {
        let mut file = &file;
        let group = &group;
        move || {
            file.write_all(group).expect("a write");
            file.sync_data().expect("a sync");
        }
    });
    file.flush().expect("a flush");
    groups * threads as f64
}

/// The least that threads of their own can do to share a sync.
fn barrier(dir: &Path, threads: usize, records: usize, line: &[u8]) -> f64 {
    let dir = scratch(dir);
    let file = &crate::append::new_file(dir.path());
    let meeting = &Barrier::new(threads);
    burst(threads, records, || {
        let mut file = file;
        move || {
            file.write_all(line).expect("a write");
            if meeting.wait().is_leader() {
                file.sync_data().expect("a sync");
            }
            meeting.wait();
        }
    })
}

pub fn ours(dir: &Path, durability: Durability, threads: usize, records: usize) -> f64 {
    let dir = scratch(dir);
    let client = workload::writer(dir.path(), durability);
    let (client, raw) = (&client, &workload::raw());
    burst(threads, records, || {
        move || {
            let ticket = client.append_raw(Kind::CallStart, raw).expect("an append");
            ticket.wait().expect("a sync");
        }
    })
}
