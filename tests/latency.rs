//! What a server that hangs does to the latency of an append and of a sync: nothing. A measurement,
//! not a check; for figures of a quiet machine:
//!
//! ```sh
//! cargo test --release --test latency -- --ignored --nocapture
//! ```
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::*;
use weave_wal::{Client, Kind};

const ROUNDS: usize = 20;
const APPENDS: usize = 2_000;
const SYNCS: usize = 100;

/// Latencies of one sort.
#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    fn time(&mut self, call: impl FnOnce()) {
        let begun = Instant::now();
        call();
        self.0.push(begun.elapsed());
    }

    /// In microseconds.
    fn percentile(&mut self, percent: usize) -> f64 {
        self.0.sort_unstable();
        self.0[(self.0.len() - 1) * percent / 100].as_secs_f64() * 1e6
    }
}

#[derive(Default)]
struct Measured {
    append: Latencies,
    sync: Latencies,
}

fn measure(mode: Mode, into: &mut Measured) {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let hangs = matches!(mode, Mode::Hang);
    collector.set_mode(mode);
    let client = Client::open(config(dir.path(), &collector).request_timeout(LONG)).unwrap();
    append_starts(&client, 0..1);
    // The first request is out; where the server hangs it stays out to the end.
    assert!(collector.wait_for(|collector| collector.requests() > 0, LONG));
    for n in 0..APPENDS {
        let record = start(n);
        into.append
            .time(|| drop(client.append(Kind::CallStart, &record).unwrap()));
    }
    for n in 0..SYNCS {
        let record = start(n);
        into.sync.time(|| {
            let ticket = client.append(Kind::CallStart, &record).unwrap();
            ticket.wait().unwrap();
        });
    }
    assert!(!hangs || (collector.requests() == 1 && client.stats().delivered == 0));
    client.finish(Duration::ZERO);
}

#[test]
#[ignore = "a measurement"]
fn latency_while_the_server_hangs() {
    let (mut healthy, mut hanging) = (Measured::default(), Measured::default());
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            measure(Mode::Accept, &mut healthy);
        }
        measure(Mode::Hang, &mut hanging);
        if round % 2 == 1 {
            measure(Mode::Accept, &mut healthy);
        }
    }
    println!("| | healthy server | hanging server | ratio |\n|---|---|---|---|");
    let mut row = |what, percent, of: fn(&mut Measured) -> &mut Latencies| {
        let one = of(&mut healthy).percentile(percent);
        let other = of(&mut hanging).percentile(percent);
        println!(
            "| {what}, p{percent} | {one:.1} us | {other:.1} us | {:.2} |",
            other / one
        );
    };
    for percent in [50, 99] {
        row("append", percent, |measured| &mut measured.append);
        row("append and wait for the sync", percent, |measured| {
            &mut measured.sync
        });
    }
}
