//! How long it takes from `open` to the first accepted append.

use std::path::Path;
use std::time::{Duration, Instant};

use weave_wal::{Durability, Kind};

use crate::harness::{median, Bench, Bound};
use crate::{memory, server, workload};

pub fn run(bench: &mut Bench) {
    let files = bench.amount(10_000);
    let many = bench.scratch();
    let large = bench.scratch();
    leave_files(many.path(), files);
    memory::backlog(large.path(), 10 << 30);
    let mut times = [const { Vec::new() }; 3];
    let mut bare = Vec::new();
    for _ in 0..bench.rounds {
        bare.push(look_at_each(&many.path().join("bench/log")));
        let empty = bench.scratch();
        for (at, root) in [empty.path(), many.path(), large.path()]
            .into_iter()
            .enumerate()
        {
            times[at].push(first_append(root));
        }
    }
    let names = [
        "empty",
        "10,000 leftover files",
        "a leftover file of 10 GiB",
    ];
    for (at, (name, mut times)) in names.into_iter().zip(times).enumerate() {
        let bound = if at == 0 {
            Bound::None
        } else {
            Bound::Below(20.0)
        };
        bench.figure(
            &format!("open and append: {name}"),
            median(&mut times),
            "ms",
            bound,
        );
    }
    bench.figure(
        "yardstick: list the 10,000 and ask for the size of each",
        median(&mut bare),
        "ms",
        Bound::None,
    );
}

/// What nobody can do without who keeps a budget, in milliseconds.
fn look_at_each(dir: &Path) -> f64 {
    let begin = Instant::now();
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    let bytes: u64 = entries
        .map(|entry| entry.metadata().map_or(0, |file| file.len()))
        .sum();
    assert!(bytes > 0, "nothing was left over");
    begin.elapsed().as_secs_f64() * 1e3
}

fn leave_files(root: &Path, files: usize) {
    let dir = root.join("bench/log");
    std::fs::create_dir_all(&dir).expect("a directory");
    let line = format!(
        "{{\"type\":\"call_start\",\"req\":{}}}\n",
        workload::request()
    );
    for n in 0..files {
        let name = format!("{n:020}_{n:032x}.jsonl");
        std::fs::write(dir.join(name), &line).expect("a file");
    }
}

/// In milliseconds, with a server that is away, so that the leftovers stay.
fn first_append(root: &Path) -> f64 {
    let raw = workload::raw();
    let begin = Instant::now();
    let config = workload::config(root, Durability::Written).server(server::dead());
    let client = workload::open(config);
    client.append_raw(Kind::CallStart, &raw).expect("an append");
    let took = begin.elapsed().as_secs_f64() * 1e3;
    client.finish(Duration::ZERO);
    took
}
