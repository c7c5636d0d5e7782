//! The wall clock steps back an hour, while a client runs and between two: names of files lie about
//! their order, and nothing else changes.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/faults.rs"]
mod faults;
mod support;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use faults::*;
use support::{Collector, LONG, Mode, start};
use weave_wal::{Client, Kind};

/// Appended before the step, after it, and by the next client.
const EACH: usize = 20;

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    match std::env::var(PART).as_deref() {
        Ok("write") => write(),
        Ok("write-and-send") => write_and_send(),
        Ok(other) => panic!("no such part: {other}"),
        Err(_) => {}
    }
}

fn root() -> PathBuf {
    std::env::var_os("ROOT").unwrap().into()
}

fn step_back() {
    fs::write(std::env::var_os("FAULT_CLOCK").unwrap(), "").unwrap();
}

fn append(client: &Client, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let ticket = client.append(Kind::CallStart, &start(n)).unwrap();
        say(&format!("A {n}"));
        if n % 4 == 0 {
            // A file that is full is followed by the next one at a sync.
            ticket.wait().unwrap();
        }
    }
    // By the timer: nobody asks for it.
    let begun = Instant::now();
    while client.stats().synced_bytes < client.stats().appended_bytes {
        assert!(begun.elapsed() < LONG, "the timer stands still");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Into several files, before and after the step.
fn write() {
    let client = Client::open(small(&root(), SMALL).sender(false)).unwrap();
    append(&client, 0..EACH);
    step_back();
    append(&client, EACH..2 * EACH);
}

/// Sends what is there, and what comes before and after another step.
fn write_and_send() {
    let client = Client::open(small(&root(), SMALL)).unwrap();
    append(&client, 2 * EACH..2 * EACH + EACH / 2);
    step_back();
    append(&client, 2 * EACH + EACH / 2..3 * EACH);
    while client.stats().delivered < 3 * EACH as u64 {
        client.flush(Duration::from_millis(100)).unwrap();
    }
    assert!(client.finish(LONG).is_complete());
    say("finished");
}

#[test]
fn a_clock_that_steps_back_an_hour_changes_nothing_but_names() {
    if shim().is_none() {
        return;
    }
    let (place, collector) = (Place::new(), Collector::start().unwrap());
    let clock = |name: &str| place.disk().join(name).display().to_string();
    let played = run(place.play("write", "", &[("FAULT_CLOCK", clock("one.clock"))]));
    assert!(played.status.success(), "{}", played.errors);
    let mut acknowledged = played.numbers("A");
    // The files that were begun last come first by their names.
    let files = support::files_with(&place.root(), "jsonl");
    let oldest = fs::read_to_string(&files[0]).unwrap();
    let newest = fs::read_to_string(files.last().unwrap()).unwrap();
    let holds = |text: &str, n| text.contains(&support::id(n));
    assert!(files.len() > 4, "{files:?}");
    assert!(!holds(&oldest, 0) && !holds(&newest, 2 * EACH - 1));

    // Dates far from both clocks, two seconds apart.
    let date = |second| format!("Sun, 06 Nov 2090 08:49:0{second} GMT");
    let later = vec![
        ("Date".to_owned(), date(1)),
        ("Retry-After".to_owned(), date(3)),
    ];
    collector.script(vec![
        (Mode::DropBefore, 1),
        (Mode::Status(503, String::new(), Vec::new()), 1),
        (Mode::Status(429, String::new(), later), 1),
    ]);
    let begun = Instant::now();
    let fault = [("FAULT_CLOCK", clock("two.clock"))];
    let played = run(place.play("write-and-send", &collector.url(), &fault));
    assert!(played.text.contains("finished"), "{}", played.errors);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    acknowledged.extend(played.numbers("A"));
    assert_eq!(acknowledged.len(), 3 * EACH);
    let arrived = arrived(&collector);
    assert!(arrived.values().all(|count| *count == 1), "{arrived:?}");
    assert!(place.files("jsonl").is_empty());
    support::tell("the clock steps back an hour", acknowledged, &collector);
}
