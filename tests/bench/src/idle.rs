//! How often the client's thread wakes up when there is nothing to do.

use std::time::{Duration, Instant};

use weave_wal::{Durability, Kind};

use crate::harness::{Bench, Bound};
use crate::{server, workload};

pub fn run(bench: &mut Bench) {
    let span = Duration::from_secs(if bench.smoke { 1 } else { 20 });
    let raw = workload::raw();
    {
        let dir = bench.scratch();
        let sink = server::Sink::start();
        let config = workload::config(dir.path(), Durability::Written).server(&sink.url);
        // The one look at what others have left behind is no part of being idle.
        let config = config.start_jitter(Duration::ZERO);
        let client = workload::open(config);
        client.append_raw(Kind::CallStart, &raw).expect("an append");
        client.flush(Duration::from_secs(60)).expect("a flush");
        std::thread::sleep(Duration::from_millis(300));
        let before = wakeups();
        std::thread::sleep(span);
        let woken = (wakeups() - before) as f64;
        bench.figure(
            "wake-ups with nothing pending",
            woken,
            "",
            Bound::Below(1.0),
        );
    }
    let dir = bench.scratch();
    let config = workload::config(dir.path(), Durability::Written).server(server::dead());
    let config = config.start_jitter(Duration::ZERO);
    let client = workload::open(config);
    client.append_raw(Kind::CallStart, &raw).expect("an append");
    // From one attempt on, to the end of some later one.
    let attempts = || client.stats().requests;
    while attempts() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(50));
    let (first, before, begin) = (attempts(), wakeups(), Instant::now());
    while begin.elapsed() < span {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (steps, woken) = (attempts() - first, wakeups() - before);
    println!("  an outage of {span:?}: {steps} attempts, {woken} wake-ups of the thread");
    // Each attempt is two: the backoff is over, and the request has come to an end.
    let others = woken.saturating_sub(2 * steps) as f64 / steps.max(1) as f64;
    bench.figure(
        "wake-ups in an outage beyond the attempts, each",
        others,
        "",
        Bound::Below(1.0),
    );
}

/// How often the threads of the clients of this process have gone to sleep of themselves.
fn wakeups() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc");
    let mut sum = 0;
    for task in tasks.flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim() != "weave-wal" {
            continue;
        }
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line
            .and_then(|number| number.trim().parse::<u64>().ok())
            .unwrap_or(0);
    }
    sum
}
