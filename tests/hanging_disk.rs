//! A disk that hangs for a while, at a call of the test's choice: deadlines hold, and what happens
//! meanwhile beside the one who waits costs nothing.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/faults.rs"]
mod faults;
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use faults::*;
use serde_json::json;
use support::{Collector, LONG, PROJECT, append_starts, files_with, id, send, send_to};
use weave_wal::{Client, Config, Durability, Kind};

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    match std::env::var(PART).as_deref() {
        Ok("finish") => finish_meanwhile(),
        Ok("go on behind a sync") => go_on_behind_a_sync(),
        Ok(other) => panic!("no such part: {other}"),
        Err(_) => {}
    }
}

fn root() -> PathBuf {
    std::env::var_os("ROOT").unwrap().into()
}

/// While this file is there, calls of a kind hang in this process.
fn hanging(kind: &str) -> PathBuf {
    let path = std::env::var("FAULT_HANG").unwrap();
    PathBuf::from(format!("{path}.{kind}"))
}

fn wait_until_one_hangs() {
    let log = std::env::var("FAULT_LOG").unwrap();
    let begun = Instant::now();
    while !fs::read_to_string(&log).unwrap().contains("hangs") {
        assert!(begun.elapsed() < HANGS, "nothing hangs");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn hang(errno: i32) -> Vec<(&'static str, String)> {
    vec![
        ("FAULT_MODE", "hang".to_owned()),
        ("FAULT_ERRNO", errno.to_string()),
    ]
}

/// From here on the thread has nothing to do, and its first file is its own to deliver.
fn deliver_one(client: &Client) {
    append_starts(client, 0..1);
    client.sync().unwrap();
    let begun = Instant::now();
    while client.stats().delivered == 0 {
        assert!(begun.elapsed() < LONG, "{:?}", client.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Finishes while the thread is in a sync that hangs, and a write would hang as well.
fn finish_meanwhile() {
    let durability = match std::env::var("DURABILITY").as_deref() {
        Ok("buffered") => Durability::Buffered,
        _ => Durability::Written,
    };
    let client = Client::open(small(&root(), 1 << 20).durability(durability)).unwrap();
    deliver_one(&client);
    fs::write(hanging("s"), "").unwrap();
    append_starts(&client, 1..2);
    wait_until_one_hangs();
    append_starts(&client, 2..3);
    fs::write(hanging("w"), "").unwrap();
    for _ in 0..2 {
        let begun = Instant::now();
        let receipt = client.finish(Duration::from_millis(300));
        assert!(begun.elapsed() < LONG / 3, "{:?}", begun.elapsed());
        assert!(receipt.pending >= 2, "{receipt:?}");
    }
    say("in time");
    fs::remove_file(hanging("w")).unwrap();
    fs::remove_file(hanging("s")).unwrap();
    client.sync().unwrap();
    say("finished");
}

#[test]
fn finish_keeps_its_deadline_while_the_disk_hangs() {
    if shim().is_none() {
        return;
    }
    for durability in ["written", "buffered"] {
        let (place, collector) = (Place::new(), Collector::start().unwrap());
        let mut command = place.play("finish", &collector.url(), &hang(0));
        let played = run({
            command.env("DURABILITY", durability);
            command
        });
        let context = format!("{durability}: {}{}", played.text, played.errors);
        assert!(played.status.success(), "{context}");
        send(&place.root(), &collector);
        assert_eq!(arrived(&collector), [(0, 1), (1, 1), (2, 1)].into());
    }
}

/// Fills a file whose sync hangs, and goes on in the next one.
fn go_on_behind_a_sync() {
    let config = small(&root(), SMALL).sync_interval(Duration::from_secs(3600));
    let client = Client::open(config).unwrap();
    deliver_one(&client);
    append_starts(&client, 1..6);
    fs::write(hanging("s"), "").unwrap();
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| client.sync());
        wait_until_one_hangs();
        append_starts(&client, 6..8);
        say("ready");
        sync.join().unwrap().unwrap();
    });
    let receipt = client.finish(LONG);
    assert_eq!(receipt.pending, 0, "{receipt:?}");
    say("finished");
}

#[test]
fn what_another_process_has_delivered_behind_a_sync_that_fails_stands_for_nothing_before_it() {
    if shim().is_none() {
        return;
    }
    let (place, collector) = (Place::new(), Collector::start().unwrap());
    let mut command = place.play("go on behind a sync", &collector.url(), &hang(libc::EIO));
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_ready = |line: std::io::Result<String>| line.is_ok_and(|line| line == "ready");
    let ready = said.by_ref().any(is_ready);
    assert!(ready, "{}", finish_quietly(child));
    // The first file is the other's, and so this delivers what stands behind it.
    let begun = Instant::now();
    while !arrived(&collector).contains_key(&7) {
        assert!(begun.elapsed() < LONG, "{:?}", arrived(&collector));
        send_to(&collector.url(), &place.root(), Duration::from_millis(100));
    }
    assert_eq!(files_with(&place.root(), "jsonl").len(), 2);
    fs::remove_file(place.hang('s')).unwrap();
    let finished = said.any(|line| line.is_ok_and(|line| line == "finished"));
    assert!(finished, "{}", finish_quietly(child));
    assert!(child.wait().unwrap().success());
    assert!(send(&place.root(), &collector).is_complete());
    let arrived = arrived(&collector);
    let lost: Vec<_> = (0..8).filter(|n| !arrived.contains_key(n)).collect();
    assert_eq!(lost, Vec::<usize>::new(), "{arrived:?}");
}

/// What a process that went wrong has to say.
fn finish_quietly(child: std::process::Child) -> String {
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Records so large that a piece of a file that is read ends in the middle of one.
const LARGE: usize = 12;

fn append_large(client: &Client) {
    for n in 0..LARGE {
        let inputs = "x".repeat(100_000);
        let record =
            json!({"start": {"project_id": PROJECT, "id": id(n), "n": n, "inputs": inputs}});
        client.append(Kind::CallStart, &record).unwrap();
    }
    client.sync().unwrap();
}

fn verify(place: &Place, mode: &str, at: usize) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weave-wal"));
    command
        .args(["verify", "--root"])
        .arg(place.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let faults = [
        ("FAULT_MODE", mode.to_owned()),
        ("FAULT_ONLY", "dog".to_owned()),
        ("FAULT_AT", at.to_string()),
    ];
    place.spoil(&mut command, &faults);
    command
}

fn writer(root: &Path) -> Client {
    Client::open(Config::new("team", "app").root(root).sender(false)).unwrap()
}

#[test]
fn what_is_delivered_while_it_is_verified_is_no_damage() {
    if shim().is_none() {
        return;
    }
    for is_alive in [true, false] {
        let begin = || {
            let place = Place::new();
            let client = writer(&place.root());
            append_large(&client);
            // Delivered, the file of a live one is emptied, and that of another one removed.
            (place, Some(client).filter(|_| is_alive))
        };
        let (place, client) = begin();
        assert!(run(verify(&place, "fail", 0)).status.success());
        let calls = place.lines().len();
        drop(client);
        assert!(calls > LARGE, "{calls} calls");
        let places = calls_to_try(calls, 14);
        in_parallel(places.len(), |index| {
            let ((place, client), collector) = (begin(), Collector::start().unwrap());
            for kind in ['d', 'o', 'g'] {
                fs::write(place.hang(kind), "").unwrap();
            }
            let child = verify(&place, "hang", places[index]).spawn().unwrap();
            place.wait_for_one_that_hangs();
            assert!(send(&place.root(), &collector).is_complete());
            for kind in ['d', 'o', 'g'] {
                fs::remove_file(place.hang(kind)).unwrap();
            }
            let played = finish(child, None);
            let context = format!(
                "alive: {is_alive}, {}\n{}{}",
                place.lines()[0],
                played.text,
                played.errors
            );
            assert!(played.status.success(), "{context}");
            drop(client);
        });
    }
}
