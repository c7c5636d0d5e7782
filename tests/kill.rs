//! SIGKILL at every storage call, and at any time: what was acknowledged arrives.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/faults.rs"]
mod faults;
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use faults::*;
use support::Collector;

const RECORDS: usize = 12;

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    match std::env::var(PART).as_deref() {
        Ok("append-and-send") => append_and_send(2, RECORDS, SMALL, &say),
        Ok("append-and-send-for-ever") => append_and_send(8, 100_000, SMALL, &say),
        Ok(other) => panic!("no such part: {other}"),
        Err(_) => {}
    }
}

/// Kills a victim, then lets a sender deliver what it has left.
fn killed(part: &str, faults: &[(&str, String)], after: Option<Duration>, tally: &Tally) {
    let (place, collector) = (Place::new(), Collector::start().unwrap());
    let child = place.play(part, &collector.url(), faults).spawn().unwrap();
    let played = finish(child, after);
    let context = format!("{faults:?}: {}", played.errors);
    assert!(played.is_killed() || played.status.success(), "{context}");
    let before = arrived(&collector);
    let summary = support::send(&place.root(), &collector);
    assert_eq!(summary.pending, 0, "{context}: {summary:?}");

    let after = arrived(&collector);
    for n in played.numbers("A") {
        assert!(
            after.contains_key(&n),
            "{context}: {n} was acknowledged and is lost"
        );
    }
    for (n, count) in &before {
        assert_eq!(
            *count, 1,
            "{context}: the victim itself sent {n} {count} times"
        );
    }
    let twice: usize = after.values().map(|count| count - 1).sum();
    assert!(twice <= BATCH, "{context}: {twice} records arrived twice");

    // What is left: a torn line that nobody was told of, and names without records.
    let left = place.files("");
    assert!(place.files("jsonl").is_empty(), "{context}: {left:?}");
    let stems: BTreeSet<_> = left.iter().map(|path| path.with_extension("")).collect();
    assert!(stems.len() <= 3, "{context}: {left:?}");
    if !played.is_killed() {
        assert_eq!(twice, 0, "{context}");
        assert!(left.is_empty(), "{context}: {left:?}");
    }
    // The end may have come first.
    if played.is_killed() {
        tally.count(&played.numbers("A"), &arrived(&collector));
    }
}

#[test]
fn killed_at_any_storage_call_a_program_loses_and_repeats_nothing() {
    if shim().is_none() {
        return;
    }
    for (durability, half) in [("written", 0), ("written", 1), ("synced", 0)] {
        let fault = |at: usize| {
            [
                ("FAULT_MODE", "kill".to_owned()),
                ("FAULT_AT", at.to_string()),
                ("FAULT_HALF", half.to_string()),
                ("DURABILITY", durability.to_owned()),
            ]
        };
        let calls = {
            let (place, collector) = (Place::new(), Collector::start().unwrap());
            let played = run(place.play("append-and-send", &collector.url(), &fault(0)));
            assert!(played.status.success(), "{}", played.errors);
            place.lines().len()
        };
        assert!(calls > 100, "only {calls} storage calls");
        let tally = Tally::default();
        let places = calls_to_try(calls, 40);
        let trials = places.len();
        in_parallel(trials, |index| {
            killed("append-and-send", &fault(places[index]), None, &tally);
        });
        // On average a kill comes half-way.
        assert!(tally.acknowledged() >= trials * RECORDS / 4);
        let how = if half == 1 { ", a write half done" } else { "" };
        tally.tell(&format!(
            "SIGKILL at one of {calls} storage calls ({durability}{how})"
        ));
    }
}

#[test]
fn killed_at_any_time_with_many_threads_a_program_loses_and_repeats_nothing() {
    if shim().is_none() {
        return;
    }
    let trials = if thorough() { 200 } else { 16 };
    let tally = Tally::default();
    in_parallel(trials, |trial| {
        // From before the first file to well into the traffic, never twice the same.
        let after = Duration::from_micros(3_000 + (trial as u64 * 7_919) % 90_000);
        let durability = ["written", "synced"][trial % 2].to_owned();
        let part = "append-and-send-for-ever";
        let fault = [
            ("FAULT_MODE", "kill".to_owned()),
            ("FAULT_AT", usize::MAX.to_string()),
            ("DURABILITY", durability),
        ];
        killed(part, &fault, Some(after), &tally);
    });
    tally.tell("SIGKILL at any time, 8 threads");
    assert!(tally.acknowledged() >= trials * 10);
}
