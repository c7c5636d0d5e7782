//! What a program may do with a client that it embeds, and what it is spared.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::json;
use support::*;
use weave_wal::{Client, Config, Error, Event, Kind, Receipt, Stats, Storage, Ticket};

/// Checked by the compiler, not at run time.
const _: () = {
    const fn crosses_threads<T: Send + Sync + 'static>() {}
    crosses_threads::<Client>();
    crosses_threads::<Ticket>();
    crosses_threads::<Config>();
    crosses_threads::<Error>();
    crosses_threads::<Event>();
    crosses_threads::<Stats>();
    crosses_threads::<Receipt>();
    const fn can_be_cloned<T: Clone + std::fmt::Debug>() {}
    can_be_cloned::<Client>();
    can_be_cloned::<Ticket>();
    can_be_cloned::<Config>();
    can_be_cloned::<Error>();
};

const PART: &str = "WEAVE_WAL_TEST_PART";

/// Not a test of its own: a program that embeds clients, alone in its process.
#[test]
fn part() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let root = std::env::var_os("ROOT").unwrap();
    match part.as_str() {
        "troubles" => troubles(Path::new(&root)),
        "threads" => threads(Path::new(&root)),
        "signals" => signals(Path::new(&root)),
        other => panic!("no such part: {other}"),
    }
    // The harness is not under test.
    std::process::exit(0);
}

/// Plays a part; what it says on standard error.
fn play(part: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "part", "--nocapture"])
        .env(PART, part)
        .env("ROOT", dir.path())
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    errors
}

/// Everything that goes wrong in the life of a client.
fn troubles(root: &Path) {
    let collector = Collector::start().unwrap();
    let config = || config(root, &collector);
    assert!(Client::open(config().server("nonsense")).is_err());
    assert!(Client::open(Config::new("..", "app")).is_err());
    let client = Client::open(config()).unwrap();
    assert!(client.append(Kind::CallStart, &json!("no object")).is_err());
    for mode in [
        Mode::DropBefore,
        Mode::DropAfter,
        Mode::Garbage,
        Mode::Status(401, "no".to_owned(), Vec::new()),
        Mode::Status(503, "later".to_owned(), Vec::new()),
        Mode::Status(302, String::new(), Vec::new()),
        Mode::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".to_vec()),
        Mode::Hang,
    ] {
        collector.set_mode(mode);
        let before = collector.requests();
        append_starts(&client, 0..3);
        client.flush(Duration::from_millis(1)).unwrap();
        assert!(collector.wait_for(|collector| collector.requests() > before, LONG));
    }
    collector.set_mode(Mode::Poison("poison".to_owned(), 422));
    let bad = json!({"start": {"project_id": PROJECT, "id": id(9), "op_name": "poison"}});
    client.append(Kind::CallStart, &bad).unwrap();
    assert!(client.flush(LONG).unwrap().rejected > 0);
    // A damaged leftover, a log that somebody removes, a budget without room, a late use.
    let project = root.join(PROJECT);
    std::fs::write(project.join("1_a.jsonl"), "damaged\n").unwrap();
    append_starts(&client, 10..11);
    for log in files_with(root, "jsonl") {
        std::fs::remove_file(log).unwrap();
    }
    append_starts(&client, 11..12);
    client.finish(LONG);
    assert!(client.append(Kind::CallStart, &start(1)).is_err());
    let full = Client::open(config().disk_budget(1)).unwrap();
    assert!(full.append(Kind::CallStart, &start(1)).is_err());
}

#[test]
fn the_library_says_nothing_on_standard_error() {
    assert_eq!(play("troubles"), "");
}

fn thread_names() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    let names = tasks.filter_map(name);
    names.map(|name| name.trim().to_owned()).collect()
}

/// Waits until so many threads have the name: a thread gives it to itself when it begins.
fn named(count: usize) {
    let begun = std::time::Instant::now();
    let is_ours = |name: &&String| *name == "weave-wal";
    while thread_names().iter().filter(is_ours).count() != count {
        assert!(begun.elapsed() < LONG, "{:?}", thread_names());
        std::thread::yield_now();
    }
}

/// Each client has one thread, with its name; when the client is gone the thread is.
fn threads(root: &Path) {
    let collector = Collector::start().unwrap();
    let client = Client::open(config(root, &collector).on_event(|_| {})).unwrap();
    append_starts(&client, 0..10);
    client.flush(LONG).unwrap();
    let begun = std::time::Instant::now();
    let alone = || {
        thread_names()
            .iter()
            .all(|name| !name.starts_with("weave-wal-"))
    };
    while !alone() {
        assert!(begun.elapsed() < LONG, "{:?}", thread_names());
        std::thread::yield_now();
    }
    named(1);
    let second = Client::open(config(root, &collector)).unwrap();
    let clone = second.clone();
    named(2);
    drop((second, client));
    append_starts(&clone, 10..11);
    drop(clone);
    named(0);
}

#[test]
fn each_client_has_one_thread_with_its_name() {
    if !Path::new("/proc/self/task").exists() {
        skip("there is no /proc to count in");
        return;
    }
    assert_eq!(play("threads"), "");
}

/// The lines of `/proc/thread-self/status` about signals: what is caught, ignored and blocked here.
fn dispositions() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let about = |line: &&str| {
        ["SigBlk", "SigIgn", "SigCgt"]
            .iter()
            .any(|key| line.starts_with(key))
    };
    status.lines().filter(about).map(str::to_owned).collect()
}

fn signals(root: &Path) {
    let collector = Collector::start().unwrap();
    let before = dispositions();
    let client = Client::open(config(root, &collector)).unwrap();
    append_starts(&client, 0..10);
    client.flush(LONG).unwrap();
    assert_eq!(dispositions(), before);
    client.finish(LONG);
    assert_eq!(dispositions(), before);
}

#[test]
fn no_signal_is_caught_ignored_or_blocked_in_the_callers_threads() {
    if !Path::new("/proc/thread-self/status").exists() {
        skip("there is no /proc that tells");
        return;
    }
    assert_eq!(play("signals"), "");
}

#[test]
fn several_clients_live_in_one_process_of_one_project_and_of_others() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let other = |project: &str, storage| {
        let config = Config::new("team", project)
            .root(dir.path())
            .storage(storage);
        Client::open(config.server(collector.url()).api_key("k")).unwrap()
    };
    let clients = [
        Client::open(config(dir.path(), &collector)).unwrap(),
        Client::open(config(dir.path(), &collector)).unwrap(),
        other("other", Storage::Disk),
        other("memory", Storage::Memory),
    ];
    std::thread::scope(|scope| {
        for (n, client) in clients.iter().enumerate() {
            scope.spawn(move || append_starts(client, n * 1_000..n * 1_000 + 200));
        }
    });
    for client in &clients {
        let receipt = client.finish(LONG);
        assert_eq!((receipt.pending, receipt.rejected), (0, 0));
    }
    let numbers = (0..clients.len()).flat_map(|n| n * 1_000..n * 1_000 + 200);
    assert_each_start_once_of(&collector, numbers);
}

#[test]
fn after_finish_every_use_is_refused_and_nothing_is_lost() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..5);
    let clone = client.clone();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(client.finish(LONG).is_complete()));
        }
    });
    let (start, end) = (start(1), end(1));
    for refused in [
        clone.append(Kind::CallStart, &start),
        clone.call_start(&start),
        clone.call_end(&end),
        clone.obj_create(&json!({})),
        clone.table_create(&json!({})),
        clone.file_create("a", b"b"),
    ] {
        assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    }
    clone.sync().unwrap();
    assert_eq!(clone.stats().appended, 5);
    assert!(clone.finish(Duration::ZERO).is_complete());
    drop((client, clone));
    assert_each_start_once(&collector, 0..5);
}

#[test]
fn a_ticket_outlives_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let client = writer(dir.path());
    let tickets: Vec<_> = (0..10)
        .map(|n| client.append(Kind::CallStart, &start(n)).unwrap())
        .collect();
    let late = tickets[9].clone();
    let waiting = std::thread::spawn(move || late.wait());
    drop(client);
    for ticket in &tickets {
        ticket.wait().unwrap();
    }
    waiting.join().unwrap().unwrap();
    let finished = writer(dir.path());
    let ticket = finished.append(Kind::CallStart, &start(10)).unwrap();
    finished.finish(LONG);
    ticket.wait().unwrap();
}

#[test]
fn a_client_that_is_dropped_by_a_panic_keeps_what_was_accepted() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let root = dir.path().to_owned();
    let panicked = std::thread::spawn(move || {
        let buffered = Config::new("team", "app").root(&root).sender(false);
        let client = Client::open(buffered.durability(weave_wal::Durability::Buffered)).unwrap();
        append_starts(&client, 0..100);
        // What a test may do and a library may not.
        panic!("as the test asked");
    });
    assert!(panicked.join().is_err());
    assert!(send(dir.path(), &collector).is_complete());
    assert_each_start_once(&collector, 0..100);
}

#[test]
fn a_callback_that_panics_stops_nothing_and_is_counted() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let config = config(dir.path(), &collector).batch_records(5);
    let client = Client::open(config.on_event(|_| panic!("as the test asked"))).unwrap();
    append_starts(&client, 0..20);
    assert!(client.finish(LONG).is_complete());
    assert!(client.stats().event_panics >= 4);
    assert_each_start_once(&collector, 0..20);
}

#[test]
fn a_callback_that_hangs_delays_no_append_no_sync_no_delivery_and_no_end() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    let (entered, inside) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (entered, released) = (Mutex::new(entered), Mutex::new(released));
    let config = config(dir.path(), &collector).batch_records(1);
    let client = Client::open(config.on_event(move |_| {
        let _ = entered.lock().unwrap().send(());
        let _ = released.lock().unwrap().recv();
    }))
    .unwrap();
    append_starts(&client, 0..1);
    inside.recv_timeout(LONG).unwrap();
    // It hangs, and goes on doing so.
    for n in 1..100 {
        client.append(Kind::CallStart, &start(n)).unwrap();
    }
    client.sync().unwrap();
    assert!(client.finish(2 * LONG).is_complete());
    assert_each_start_once(&collector, 0..100);
    drop(release);
}

#[test]
fn a_callback_may_use_its_own_client() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let place: Arc<Mutex<Option<Client>>> = Arc::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let (inside, counter) = (Arc::clone(&place), Arc::clone(&calls));
    let client = Client::open(config(dir.path(), &collector).on_event(move |_| {
        if counter.fetch_add(1, Ordering::SeqCst) == 0 {
            let client = inside.lock().unwrap().clone().unwrap();
            append_starts(&client, 1..2);
            client.flush(LONG).unwrap();
            assert!(client.stats().delivered > 0);
        }
    }))
    .unwrap();
    *place.lock().unwrap() = Some(client.clone());
    append_starts(&client, 0..1);
    assert!(collector.wait_for(|collector| collector.counts().len() == 2, LONG));
    assert!(client.finish(LONG).is_complete());
    assert_eq!(client.stats().event_panics, 0);
    place.lock().unwrap().take();
}

#[test]
fn statistics_tell_the_life_of_records() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_mode(Mode::DropAfter);
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..10);
    client.sync().unwrap();
    let deadline = std::time::Instant::now() + LONG;
    while client.stats().resent == 0 {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    collector.stop();
    let stats = client.stats();
    assert_eq!(stats.appended, 10);
    assert_eq!(stats.written_bytes, stats.appended_bytes);
    assert_eq!(stats.synced_bytes, stats.appended_bytes);
    assert_eq!((stats.pending, stats.delivered), (10, 0));
    assert_eq!(stats.resent % 10, 0, "whole batches: {}", stats.resent);
    assert!(stats.oldest_pending.is_some() && stats.last_error.is_some());
    collector.restart().unwrap();
    collector.set_mode(Mode::Accept);
    let receipt = client.flush(LONG).unwrap();
    assert_eq!(receipt.pending, 0);
    let stats = client.stats();
    assert_eq!(
        (stats.pending, stats.pending_bytes, stats.oldest_pending),
        (0, 0, None)
    );
    assert_eq!(stats.delivered, 10);
    // As often as an answer was lost, and no more, the server has a record again.
    let again: usize = collector.counts().values().map(|count| count - 1).sum();
    assert!(again as u64 <= stats.resent, "{again} {}", stats.resent);
    let names: BTreeSet<_> = collector.counts().into_keys().collect();
    assert_eq!(names.len(), 10);
}
