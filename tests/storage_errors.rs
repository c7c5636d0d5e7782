//! The k-th storage call fails, for every k: nothing acknowledged is lost, nothing hangs, the
//! error is told, and work goes on when the fault is gone.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/faults.rs"]
mod faults;
mod support;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use faults::*;
use support::{Collector, LONG, Mode, id, start};
use weave_wal::{Client, Config, Durability, Event, Kind, Sender, Until};

const ERRORS: [(&str, i32); 6] = [
    ("ENOSPC", libc::ENOSPC),
    ("EIO", libc::EIO),
    ("EDQUOT", libc::EDQUOT),
    ("EFBIG", libc::EFBIG),
    ("EROFS", libc::EROFS),
    ("EMFILE", libc::EMFILE),
];

const RECORDS: usize = 18;

/// Appended when the fault is gone.
const LATER: std::ops::Range<usize> = 100..104;

/// The record that the collector refuses.
const REFUSED: usize = 7;

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    match std::env::var(PART).as_deref() {
        Ok("append-in-trouble") => append_in_trouble(),
        Ok("send-in-trouble") => send_in_trouble(),
        Ok("append-after-trouble") => append_after_trouble(),
        Ok("append-slowly") => append_slowly(),
        Ok(other) => panic!("no such part: {other}"),
        Err(_) => {}
    }
}

fn root() -> PathBuf {
    std::env::var_os("ROOT").unwrap().into()
}

fn clear_the_fault() {
    fs::write(std::env::var_os("FAULT_CLEAR").unwrap(), "").unwrap();
}

/// Says what is acknowledged and what is not: A appended, S synced, E an error that the caller
/// got, D one that the thread told.
fn append_in_trouble() {
    let config = || {
        small(&root(), SMALL).on_event(|event| {
            if let Event::Degraded { error } = event {
                say(&format!("D {error}"));
            }
        })
    };
    let client = open_at_last(config);
    for n in 0..RECORDS {
        append(&client, n);
    }
    if let Err(error) = client.sync() {
        say(&format!("E sync: {error}"));
    }
    clear_the_fault();
    for n in LATER {
        // A fault that happens once may happen only now; a second one does not.
        assert!(append(&client, n) || append(&client, n));
        client.sync().or_else(|_| client.sync()).unwrap();
        say(&format!("S {n}"));
    }
    let receipt = client.finish(LONG);
    assert_eq!(receipt.pending, 0, "{receipt:?}");
    say("finished");
}

/// Returns whether the record was accepted.
fn append(client: &Client, n: usize) -> bool {
    let ticket = match client.append(Kind::CallStart, &start(n)) {
        Ok(ticket) => ticket,
        Err(error) => {
            assert!(error.is_io(), "{error}");
            say(&format!("refused {n}"));
            say(&format!("E append {n}: {error}"));
            return false;
        }
    };
    say(&format!("A {n}"));
    if n % 3 == 0 {
        match ticket.wait() {
            Ok(()) => say(&format!("S {n}")),
            Err(error) => say(&format!("E wait {n}: {error}")),
        }
    }
    true
}

fn open_at_last(config: impl Fn() -> Config) -> Client {
    for _ in 0..2 {
        match Client::open(config()) {
            Ok(client) => return client,
            Err(error) => say(&format!("E open: {error}")),
        }
    }
    clear_the_fault();
    Client::open(config()).unwrap()
}

/// Delivers what it can, then the rest when the fault is gone.
fn send_in_trouble() {
    let stop = AtomicBool::new(false);
    let mut sender = Sender::new(&std::env::var("URL").unwrap(), None)
        .unwrap()
        .root(root());
    let mut tell = |event: &Event| {
        if let Event::Degraded { error } = event {
            say(&format!("D {error}"));
        }
    };
    let until = Until {
        patience: Duration::from_millis(1_200),
        deadline: Some(Instant::now() + LONG),
        ..Until::drained(&stop)
    };
    match sender.run(&until, &mut tell) {
        Err(error) => say(&format!("E {error}")),
        Ok(summary) => {
            if summary.pending == 0 {
                say("all the same");
            }
            if let Some(error) = summary.last_error {
                say(&format!("E {error}"));
            }
        }
    }
    clear_the_fault();
    // A fault that happens once may happen only now; a second one does not.
    let summary = match sender.run(&until, &mut tell) {
        Ok(summary) => summary,
        Err(_) => sender.run(&until, &mut tell).unwrap(),
    };
    assert_eq!(summary.pending, 0, "{summary:?}");
    say("finished");
}

/// Appends, lets the delivery fail, then goes on.
fn append_after_trouble() {
    let client = Client::open(small(&root(), SMALL)).unwrap();
    append(&client, 0);
    while client.stats().last_error.is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    append(&client, 1);
    client.sync().unwrap_err();
    clear_the_fault();
    client.sync().unwrap();
    assert_eq!(client.finish(LONG).pending, 0);
    say("finished");
}

/// Appends to a disk that takes its time, then leaves all to the thread.
fn append_slowly() {
    let client = Client::open(small(&root(), SMALL).durability(Durability::Synced)).unwrap();
    for n in 0..3 {
        append(&client, n);
        let synced = Instant::now();
        while client.stats().delivered as usize <= n {
            assert!(synced.elapsed() < LONG / 2, "{:?}", client.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    say("finished");
}

/// One way for storage to fail, but for the place.
#[derive(Clone)]
struct Fault {
    name: &'static str,
    number: i32,
    persist: bool,
    /// A write there is half done first.
    half: bool,
    /// The kinds of call that count.
    only: &'static str,
}

/// All kinds of call.
const ALL: &str = "odwsytrumg";

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how_long = if self.persist { "for good" } else { "once" };
        let how = if self.half { ", half done" } else { "" };
        write!(f, "{} {how_long}{how}", self.name)
    }
}

impl Fault {
    fn at(&self, at: usize) -> Vec<(&'static str, String)> {
        vec![
            ("FAULT_MODE", "fail".to_owned()),
            ("FAULT_ERRNO", self.number.to_string()),
            ("FAULT_PERSIST", u8::from(self.persist).to_string()),
            ("FAULT_HALF", u8::from(self.half).to_string()),
            ("FAULT_AT", at.to_string()),
            ("FAULT_ONLY", self.only.to_owned()),
        ]
    }
}

fn faults() -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, number) in ERRORS {
        for persist in [false, true] {
            for half in [false, true] {
                // A write that is only half done fails for want of room or by the device.
                if half && ["EROFS", "EMFILE"].contains(&name) {
                    continue;
                }
                faults.push(Fault {
                    name,
                    number,
                    persist,
                    half,
                    only: ALL,
                });
            }
        }
    }
    // Short writes and no error at all.
    faults.push(Fault {
        name: "short",
        number: 0,
        persist: true,
        half: true,
        only: "w",
    });
    faults
}

/// Plays a part with a fault at each place in turn. `prepare` fills the directory; `check` gets
/// what happened, without the lines of the fault.
fn at_every_call(
    part: &str,
    some: usize,
    prepare: impl Fn(&Place) + Sync,
    check: impl Fn(&Place, &Collector, &Played, &str) + Sync,
) {
    let begin = || {
        let (place, collector) = (Place::new(), Collector::start().unwrap());
        collector.set_mode(Mode::Poison(id(REFUSED), 422));
        prepare(&place);
        (place, collector)
    };
    let faults = faults();
    let trials = Mutex::new(Vec::new());
    in_parallel(faults.len(), |index| {
        let (place, collector) = begin();
        let played = run(place.play(part, &collector.url(), &faults[index].at(0)));
        assert!(played.status.success(), "{}{}", played.text, played.errors);
        let calls = place.lines().len();
        println!("{part}: {} can happen at {calls} calls", faults[index]);
        let places = calls_to_try(calls, some);
        let mut trials = trials.lock().unwrap();
        trials.extend(places.into_iter().map(|at| (&faults[index], at)));
    });
    let trials = trials.into_inner().unwrap();
    let happened = AtomicUsize::new(0);
    in_parallel(trials.len(), |index| {
        let (fault, at) = trials[index];
        let (place, collector) = begin();
        let played = run(place.play(part, &collector.url(), &fault.at(at)));
        let lines = place.lines();
        let context = format!(
            "{fault} at {at}\n{}\n{}{}",
            lines[..lines.len().min(20)].join("\n"),
            played.text,
            played.errors
        );
        assert!(played.status.success(), "{context}");
        assert!(played.text.contains("\nfinished\n"), "{context}");
        let again = lines.iter().find(|line| line.starts_with("again"));
        assert_eq!(again, None, "a second sync of a file: {context}");
        happened.fetch_add(usize::from(!lines.is_empty()), Ordering::Relaxed);
        check(&place, &collector, &played, &context);
    });
    let happened = happened.into_inner();
    println!("{part}: {} trials, {happened} faults", trials.len());
    // The number of calls varies a little, so that the last ones may not be reached.
    assert!(happened * 10 >= trials.len() * 9);
}

/// Must somebody be told? What works when it is tried again is nobody's business; nor is a file
/// that grows on while the next one, which begins with its `.lock`, cannot be made.
fn must_tell(place: &Place, context: &str) -> bool {
    let lines = place.lines();
    let fired = lines.iter().filter(|line| !line.ends_with(".lock"));
    fired.count() > 2 && !context.contains("short")
}

fn told(played: &Played) -> bool {
    let is_error = |line: &str| line.starts_with("E ") || line.starts_with("D ");
    played.text.lines().any(is_error)
}

#[test]
fn a_client_with_failing_storage_loses_nothing_and_says_so() {
    if shim().is_none() {
        return;
    }
    let tally = Tally::default();
    at_every_call(
        "append-in-trouble",
        4,
        |_| {},
        |place, collector, played, context| {
            let summary = support::send(&place.root(), collector);
            assert_eq!(summary.pending, 0, "{context}\n{summary:?}");
            let arrived = arrived(collector);
            let mut acknowledged = played.numbers("A");
            if acknowledged.contains(&REFUSED) {
                assert_eq!(letters(place), [id(REFUSED)].into(), "{context}");
                acknowledged.retain(|n| *n != REFUSED);
            }
            tally.count(&acknowledged, &arrived);
            for n in &acknowledged {
                assert!(arrived.contains_key(n), "{n} is lost: {context}");
            }
            for n in played.numbers("refused") {
                let accepted = acknowledged.contains(&n);
                assert!(
                    accepted || !arrived.contains_key(&n),
                    "{n} was not accepted: {context}"
                );
            }
            let twice: usize = arrived.values().map(|count| count - 1).sum();
            assert_eq!(twice, 0, "{twice} records arrived twice: {context}");
            if must_tell(place, context) {
                assert!(told(played), "nobody was told: {context}");
            }
        },
    );
    tally.tell("a storage call of a writer fails");
}

/// The ids in the dead-letter files; a damaged place counts as "torn".
fn letters(place: &Place) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in place.files("deadletter") {
        for line in fs::read_to_string(path).unwrap().lines() {
            // What a failed sync has left of a line stands apart from its neighbours.
            let Ok(letter) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            let record = letter["record"]["req"]["start"]["id"].as_str();
            found.insert(record.unwrap_or("torn").to_owned());
        }
    }
    found
}

/// Two logs of a process that is gone; the second one ends in a torn line.
fn leave_two_logs(place: &Place) {
    for file in 0..2 {
        let client = support::writer(&place.root());
        support::append_starts(&client, file * 6..file * 6 + 6);
    }
    for lock in place.files("lock") {
        fs::write(lock, "999999999").unwrap();
    }
    let path = place.files("jsonl").pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(b"{\"type\":\"call_st");
    fs::write(&path, bytes).unwrap();
}

#[test]
fn a_sender_with_failing_storage_loses_nothing_and_repeats_nothing() {
    if shim().is_none() {
        return;
    }
    let tally = Tally::default();
    at_every_call(
        "send-in-trouble",
        3,
        leave_two_logs,
        |place, collector, played, context| {
            let arrived = arrived(collector);
            for n in (0..12).filter(|n| *n != REFUSED) {
                assert_eq!(arrived.get(&n), Some(&1), "record {n}: {context}");
            }
            let there: Vec<_> = (0..12).filter(|n| *n != REFUSED).collect();
            tally.count(&there, &arrived);
            let left = place.files("jsonl");
            assert!(left.is_empty(), "{left:?}: {context}");
            let wanted = [id(REFUSED), "torn".to_owned()].into();
            assert_eq!(letters(place), wanted, "{context}");
            // A full disk, for one, stops no file from being delivered to its end and removed.
            let all_the_same = played.text.contains("all the same");
            if must_tell(place, context) && !all_the_same {
                assert!(told(played), "nobody was told: {context}");
            }
        },
    );
    tally.tell("a storage call of a sender fails");
}

#[test]
fn a_dead_letter_is_written_once_and_only_where_the_name_of_its_file_is_synced() {
    if shim().is_none() {
        return;
    }
    let fault = Fault {
        name: "EIO",
        number: libc::EIO,
        persist: false,
        half: false,
        only: "owy",
    };
    let send = |at| {
        let (place, collector) = (Place::new(), Collector::start().unwrap());
        leave_two_logs(&place);
        let played = run(place.play("send-in-trouble", &collector.url(), &fault.at(at)));
        assert!(played.status.success(), "{}", played.errors);
        place
    };
    let calls = send(0).lines();
    let is = |kind: &str, extension: &str, call: &String| {
        call.contains(&format!(" {kind} ")) && call.ends_with(extension)
    };
    let opened = calls.iter().position(|call| is("o", ".deadletter", call));
    let opened = opened.unwrap();
    let synced = opened
        + calls[opened..]
            .iter()
            .position(|call| is("y", "app", call))
            .unwrap();
    let written = calls
        .iter()
        .position(|call| is("w", ".deadletter", call))
        .unwrap();
    assert!(opened < synced && synced < written, "{}", calls.join("\n"));
    let place = send(synced + 1);
    assert!(is("y", "app", &place.lines()[0]), "{:?}", place.lines());
    for path in place.files("deadletter") {
        let letters = fs::read_to_string(path).unwrap();
        assert_eq!(letters.lines().count(), 1, "{letters}");
    }
}

#[test]
fn what_delivers_an_own_file_never_syncs_it() {
    if shim().is_none() {
        return;
    }
    let (place, collector) = (Place::new(), Collector::start().unwrap());
    let fault = Fault {
        name: "ENOSPC",
        number: libc::ENOSPC,
        persist: true,
        half: false,
        only: "os",
    };
    // The files are made, the record is synced, and the first checkpoint finds no room.
    let played = run(place.play("append-after-trouble", &collector.url(), &fault.at(4)));
    let context = format!("{}\n{}", place.lines().join("\n"), played.errors);
    assert!(played.status.success(), "{context}");
    assert!(place.lines()[0].ends_with(".checkpoint.tmp"), "{context}");
    assert!(!context.contains("again"), "{context}");
    assert_eq!(arrived(&collector), [(0, 1), (1, 1)].into());
}

#[test]
fn what_a_caller_has_synced_is_sent_at_once() {
    if shim().is_none() {
        return;
    }
    let (place, collector) = (Place::new(), Collector::start().unwrap());
    let slow = [
        ("FAULT_MODE", "record".to_owned()),
        ("FAULT_SLOW_US", "30000".to_owned()),
    ];
    let played = run(place.play("append-slowly", &collector.url(), &slow));
    assert!(played.status.success(), "{}", played.errors);
}
