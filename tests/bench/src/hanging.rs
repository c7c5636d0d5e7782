//! The same appends while a request hangs for ever.

use std::path::Path;

use weave_wal::{Client, Durability, Kind};

use crate::harness::{burst, entrant, median, paced, scratch, Bench, Bound};
use crate::server::Hanging;
use crate::workload;

/// Within 10% of the same without a server.
const LEAST: f64 = 0.9;

pub fn run(bench: &mut Bench) {
    let dir = bench.dir().to_owned();
    for (durability, threads, records) in [
        (Durability::Written, 1, 10_000),
        (Durability::Written, 8, 10_000),
        (Durability::Buffered, 1, 10_000),
        (Durability::Buffered, 8, 10_000),
        (Durability::Synced, 1, 2_000),
        (Durability::Synced, 8, 8_000),
    ] {
        let records = bench.amount(records);
        let title = format!("append, {durability}, {threads} thread(s), while a request hangs");
        let lines = vec![
            entrant("without a server", Bound::None, || {
                many(&dir, durability, threads, records, false)
            }),
            entrant("while a request hangs", Bound::AtLeast(LEAST), || {
                many(&dir, durability, threads, records, true)
            }),
        ];
        bench.contest(&title, "records/s", lines);
    }
    let calls = bench.amount(5_000);
    for durability in [Durability::Written, Durability::Buffered] {
        println!("\nan append every 200 us, {durability}");
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..bench.rounds {
            for hangs in [false, true] {
                let scratch = scratch(&dir);
                let (client, _server) = client(scratch.path(), durability, hangs);
                let raw = workload::raw();
                times[usize::from(hangs)].push(paced(calls, workload::appender(&client, &raw)).0);
            }
        }
        let [mut without, mut with] = times;
        let (without, with) = (median(&mut without), median(&mut with));
        bench.figure("p50 without a server", without, "us", Bound::None);
        bench.figure("p50 while a request hangs", with, "us", Bound::None);
        let limit = Bound::AtLeast(LEAST);
        bench.figure(
            &format!("{durability}: without over with"),
            without / with,
            "",
            limit,
        );
    }
}

fn many(dir: &Path, durability: Durability, threads: usize, records: usize, hangs: bool) -> f64 {
    let dir = scratch(dir);
    let (client, _server) = client(dir.path(), durability, hangs);
    let raw = workload::raw();
    burst(threads, records, || workload::appender(&client, &raw))
}

/// A client; if it is to hang, its request is out when this returns.
fn client(dir: &Path, durability: Durability, hangs: bool) -> (Client, Option<Hanging>) {
    if !hangs {
        return (workload::writer(dir, durability), None);
    }
    let server = Hanging::start();
    let client = workload::open(workload::config(dir, durability).server(&server.url));
    let ticket = client
        .append_raw(Kind::CallStart, &workload::raw())
        .expect("an append");
    ticket.wait().expect("a sync");
    server.wait_for_a_request();
    (client, Some(server))
}
