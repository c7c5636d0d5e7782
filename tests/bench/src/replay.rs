//! Catching up after an outage, beside a bare socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use weave_wal::{Durability, Sender, Until};

use crate::harness::{entrant, scratch, Bench, Bound};
use crate::server::Sink;
use crate::{python, workload};

const RECORDS: usize = 200_000;

/// The default batch: 10,000 records, below 8 MiB.
const BATCH: usize = 10_000;

pub fn run(bench: &mut Bench) {
    let records = bench.amount(RECORDS);
    let dir = bench.dir().to_owned();
    let sink = Sink::start();
    let lines = vec![
        entrant(
            "the same bytes, a new socket for each batch",
            Bound::None,
            || bare(&sink, records),
        ),
        entrant(
            "the same bytes by minreq, from memory",
            Bound::None,
            || by_minreq(&sink, records),
        ),
        entrant(
            "weave-wal, checksums verified",
            Bound::AtLeast(0.60),
            || ours(&dir, &sink, records),
        ),
    ];
    bench.contest(
        "replay of call records to a loopback sink",
        "records/s",
        lines,
    );
    against_python(bench, &sink);
}

fn against_python(bench: &mut Bench, sink: &Sink) {
    let Some(python) = python::Python::find() else {
        return;
    };
    let dir = bench.dir().to_owned();
    let (few, many) = (bench.amount(2_000), bench.amount(RECORDS));
    let lines = vec![
        entrant("Weave's Python sender", Bound::None, || {
            let dir = scratch(&dir);
            fill(dir.path(), few);
            python.send(&dir.path().join("bench/log"), &sink.url, few)
        }),
        entrant("weave-wal", Bound::AtLeast(300.0), || {
            ours(&dir, sink, many)
        }),
    ];
    bench.contest("replay beside Python's", "records/s", lines);
}

fn fill(dir: &Path, records: usize) {
    let client = workload::writer(dir, Durability::Buffered);
    let raw = workload::raw();
    let mut append = workload::appender(&client, &raw);
    (0..records).for_each(|_| append());
    drop(append);
    client.finish(Duration::from_secs(60));
}

fn ours(dir: &Path, sink: &Sink, records: usize) -> f64 {
    let dir = scratch(dir);
    fill(dir.path(), records);
    let before = sink.bodies();
    let mut sender = Sender::new(&sink.url, None)
        .expect("a sender")
        .root(dir.path());
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let summary = sender
        .run(&Until::drained(&stop), &mut |_| {})
        .expect("a run");
    let took = begin.elapsed();
    assert_eq!(summary.delivered as usize, records, "{summary:?}");
    // The sink counts behind its answer; the least that must have come are the requests themselves.
    assert!(sink.bodies() - before >= (records - BATCH.min(records)) as u64 * 400);
    records as f64 / took.as_secs_f64()
}

/// One batch as the server gets it.
fn body(batch: usize) -> String {
    let request = workload::request().to_string();
    let entry = format!("{{\"mode\":\"start\",\"req\":{request}}},");
    let mut body = String::from("{\"batch\":[") + &entry.repeat(batch);
    body.truncate(body.len() - 1);
    body.push_str("]}");
    body
}

fn bare(sink: &Sink, records: usize) -> f64 {
    let batch = records.min(BATCH);
    let body = body(batch);
    let head = format!(
        "POST /call/upsert_batch HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        sink.address,
        body.len()
    );
    let begin = Instant::now();
    for _ in 0..records / batch {
        let mut stream = TcpStream::connect(&sink.address).expect("a connection");
        stream.write_all(head.as_bytes()).expect("a write");
        stream.write_all(body.as_bytes()).expect("a write");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    (records / batch * batch) as f64 / begin.elapsed().as_secs_f64()
}

/// What is left when nothing is read, checked or noted: the HTTP client and a copy of the bytes.
fn by_minreq(sink: &Sink, records: usize) -> f64 {
    let batch = records.min(BATCH);
    let body = body(batch);
    let url = format!("{}/call/upsert_batch", sink.url);
    let begin = Instant::now();
    for _ in 0..records / batch {
        let request = minreq::post(&url).with_timeout(30).with_body(body.clone());
        let answer = request.send().expect("an answer");
        assert_eq!(answer.status_code, 200);
    }
    (records / batch * batch) as f64 / begin.elapsed().as_secs_f64()
}
