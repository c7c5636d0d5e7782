//! Appends that need not be on the disk: written when they return, or only buffered.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use weave_wal::{Durability, Kind};

use crate::harness::{burst, entrant, median, paced, Bench, Bound};
use crate::{others, python, workload};

/// 114 MB, and what a program logs in a busy moment.
const SUSTAINED: usize = 200_000;
const MOMENT: usize = 10_000;

pub fn run(bench: &mut Bench) {
    for (name, full) in [("sustained", SUSTAINED), ("a moment", MOMENT)] {
        for threads in [1, 8] {
            written(bench, name, threads, bench.amount(full));
        }
        for threads in [1, 8] {
            buffered(bench, name, threads, bench.amount(full));
        }
    }
    values(bench);
    now_and_then(bench);
}

fn written(bench: &mut Bench, name: &str, threads: usize, records: usize) {
    let (dir, line) = (bench.dir().to_owned(), workload::line(&workload::request()));
    let mut lines = vec![
        entrant("write(2) of each record", Bound::None, || {
            raw_writes(&dir, threads, records, &line)
        }),
        entrant("the same, fdatasync every 100 ms", Bound::None, || {
            synced_writes(&dir, threads, records, &line)
        }),
        entrant(
            "weave-wal, Written",
            Bound::AtLeast(if threads == 1 { 0.80 } else { 0.75 }),
            || ours(&dir, Durability::Written, threads, records),
        ),
    ];
    lines.extend(others::written(&dir, threads, records, &line));
    let title = format!("append, written on return, {threads} thread(s), {name}");
    bench.contest(&title, "records/s", lines);
}

fn buffered(bench: &mut Bench, name: &str, threads: usize, records: usize) {
    let (dir, line) = (bench.dir().to_owned(), workload::line(&workload::request()));
    let lines = vec![
        entrant("write(2) of 64 KiB", Bound::None, || {
            coalesced_writes(&dir, threads, records, &line)
        }),
        entrant("the same, at most 8 MiB not synced", Bound::None, || {
            bounded_writes(&dir, threads, records, &line)
        }),
        entrant("weave-wal, Buffered", Bound::AtLeast(0.80), || {
            ours(&dir, Durability::Buffered, threads, records)
        }),
        entrant("tracing-appender", Bound::None, || {
            others::tracing_appender(&dir, threads, records, &line)
        }),
    ];
    let title = format!("append, buffered, {threads} thread(s), {name}");
    bench.contest(&title, "records/s", lines);
}

fn values(bench: &mut Bench) {
    let Some(python) = python::Python::find() else {
        return;
    };
    let records = bench.amount(MOMENT);
    let dir = bench.dir().to_owned();
    let request = workload::request();
    let lines = vec![
        entrant(
            "Weave's Python writer, from a dict, no fsync",
            Bound::None,
            || python.write(&dir, records),
        ),
        entrant(
            "weave-wal, Written, from a &Value",
            Bound::AtLeast(4.0),
            || {
                let dir = crate::harness::scratch(&dir);
                let client = workload::writer(dir.path(), Durability::Written);
                burst(1, records, || {
                    || {
                        client.append(Kind::CallStart, &request).expect("an append");
                    }
                })
            },
        ),
    ];
    bench.contest(
        "append of a value, written on return, 1 thread",
        "records/s",
        lines,
    );
}

fn now_and_then(bench: &mut Bench) {
    println!("\none append every 200 us");
    let (calls, rounds) = (bench.amount(5_000), bench.rounds);
    let (raw, line) = (workload::raw(), workload::line(&workload::request()));
    let mut results = [const { (Vec::new(), Vec::new()) }; 3];
    for _ in 0..rounds {
        let dir = bench.scratch();
        let mut file = new_file(dir.path());
        let written = workload::writer(dir.path(), Durability::Written);
        let buffered = workload::writer(dir.path(), Durability::Buffered);
        let times = [
            paced(calls, || file.write_all(&line).expect("a write")),
            paced(calls, workload::appender(&written, &raw)),
            paced(calls, workload::appender(&buffered, &raw)),
        ];
        for (at, (half, most)) in times.into_iter().enumerate() {
            results[at].0.push(half);
            results[at].1.push(most);
        }
    }
    let names = ["write(2)", "weave-wal, Written", "weave-wal, Buffered"];
    for (name, (mut half, mut most)) in names.into_iter().zip(results) {
        let bound = |most: f64| match name {
            "weave-wal, Buffered" => Bound::Below(most),
            _ => Bound::None,
        };
        bench.figure(&format!("{name}, p50"), median(&mut half), "us", bound(0.5));
        bench.figure(&format!("{name}, p99"), median(&mut most), "us", bound(5.0));
    }
}

pub fn ours(dir: &Path, durability: Durability, threads: usize, records: usize) -> f64 {
    let dir = crate::harness::scratch(dir);
    let client = workload::writer(dir.path(), durability);
    let raw = workload::raw();
    burst(threads, records, || workload::appender(&client, &raw))
}

fn raw_writes(dir: &Path, threads: usize, records: usize, line: &[u8]) -> f64 {
    let dir = crate::harness::scratch(dir);
    let file = new_file(dir.path());
    each_written(&file, threads, records, line)
}

fn coalesced_writes(dir: &Path, threads: usize, records: usize, line: &[u8]) -> f64 {
    let dir = crate::harness::scratch(dir);
    let file = &new_file(dir.path());
    each_coalesced(threads, records, line, &|mut buffer| {
        let mut file = file;
        file.write_all(&buffer).expect("a write");
        buffer.clear();
        buffer
    })
}

/// What a program can do that must not hold more in memory than our default queue, and not let go
/// of what is not on the disk.
fn bounded_writes(dir: &Path, threads: usize, records: usize, line: &[u8]) -> f64 {
    const MOST: u64 = 8 << 20;
    let dir = crate::harness::scratch(dir);
    let file = &new_file(dir.path());
    let (written, synced) = (&AtomicU64::new(0), &AtomicU64::new(0));
    let done = &AtomicBool::new(false);
    let unsynced = move || written.load(Ordering::Acquire) - synced.load(Ordering::Acquire);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !done.load(Ordering::Acquire) {
                if unsynced() < MOST / 2 {
                    std::thread::yield_now();
                    continue;
                }
                let so_far = written.load(Ordering::Acquire);
                file.sync_data().expect("a sync");
                synced.store(so_far, Ordering::Release);
            }
        });
        let rate = each_coalesced(threads, records, line, &|mut buffer| {
            while unsynced() > MOST {
                std::thread::yield_now();
            }
            let mut file = file;
            file.write_all(&buffer).expect("a write");
            written.fetch_add(buffer.len() as u64, Ordering::AcqRel);
            buffer.clear();
            buffer
        });
        done.store(true, Ordering::Release);
        rate
    })
}

fn each_coalesced(
    threads: usize,
    records: usize,
    line: &[u8],
    write: &(impl Fn(Vec<u8>) -> Vec<u8> + Sync),
) -> f64 {
    burst(threads, records, move || {
        let mut buffer = Vec::with_capacity(64 << 10);
        move || {
            if buffer.len() + line.len() > 64 << 10 {
                buffer = write(std::mem::take(&mut buffer));
            }
            buffer.extend_from_slice(line);
        }
    })
}

/// What the disk leaves of it when somebody syncs as often as a log has to.
fn synced_writes(dir: &Path, threads: usize, records: usize, line: &[u8]) -> f64 {
    let dir = crate::harness::scratch(dir);
    let file = new_file(dir.path());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let timer = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(100));
                file.sync_data().expect("a sync");
            }
        });
        let rate = each_written(&file, threads, records, line);
        done.store(true, Ordering::Relaxed);
        timer.thread().unpark();
        rate
    })
}

fn each_written(file: &File, threads: usize, records: usize, line: &[u8]) -> f64 {
    burst(threads, records, || {
        let mut file = file;
        move || file.write_all(line).expect("a write")
    })
}

pub fn new_file(dir: &Path) -> File {
    let mut options = OpenOptions::new();
    options.append(true).create_new(true);
    options.open(dir.join("yardstick")).expect("a file")
}
