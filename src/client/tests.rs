use std::thread;

use serde_json::json;

use super::*;
use crate::config::policy::Durability;
use crate::faults;
use crate::report::Stats;

fn client(dir: &std::path::Path) -> Client {
    let config = Config::new("team", "app").root(dir).sender(false);
    Client::open(config.durability(Durability::Buffered)).unwrap()
}

fn append(client: &Client) -> Ticket {
    client.append(Kind::CallEnd, &json!({"end": {}})).unwrap()
}

#[test]
fn finish_and_flush_keep_their_deadlines_while_a_write_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    append(&client);
    let hanging = client.inner.log.hang();
    let (reply, answer) = mpsc::channel();
    let other = client.clone();
    thread::spawn(move || {
        let flushed = other.flush(Duration::from_millis(50)).unwrap();
        let finished = other.finish(Duration::from_millis(50));
        reply.send((flushed, finished)).unwrap();
    });
    let (flushed, finished) = answer.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!((flushed.pending, finished.pending), (1, 1));
    drop(hanging);
}

#[test]
fn finish_keeps_its_deadline_without_a_thread_while_a_write_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    append(&client);
    client.inner.thread.send(Message::Panic).unwrap();
    while client.inner.thread.send(Message::Wake).is_ok() {
        thread::yield_now();
    }
    let hanging = client.inner.log.hang();
    let (reply, answer) = mpsc::channel();
    let other = client.clone();
    thread::spawn(move || reply.send(other.finish(Duration::from_millis(50))).unwrap());
    let finished = answer.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(finished.pending, 1);
    assert!(finished.error.is_some());
    drop(hanging);
}

#[test]
fn statistics_and_a_drop_do_not_wait_for_a_write_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    append(&client);
    client.sync().unwrap();
    let synced = client.stats().synced_bytes;
    assert!(synced > 0);
    let log = Arc::clone(&client.inner.log);
    let hanging = log.hang();
    let (reply, answer) = mpsc::channel();
    thread::spawn(move || {
        reply.send(client.stats()).unwrap();
        drop(client);
        reply.send(Stats::default()).unwrap();
    });
    let stats = answer.recv_timeout(Duration::from_secs(20)).unwrap();
    // What could be said before, and what needs no asking.
    assert_eq!((stats.appended, stats.synced_bytes), (1, synced));
    answer.recv_timeout(Duration::from_secs(30)).unwrap();
    drop(hanging);
}

#[test]
fn without_its_thread_a_client_goes_on_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    append(&client);
    client.inner.thread.send(Message::Panic).unwrap();
    while client.inner.thread.send(Message::Wake).is_ok() {
        thread::yield_now();
    }
    while client.stats().last_error.is_none() {
        thread::yield_now();
    }
    // What a buffered append leaves to the thread is written by whoever appends.
    append(&client);
    let log = client.inner.directory.as_ref().unwrap().logs().unwrap();
    let log = client
        .inner
        .directory
        .as_ref()
        .unwrap()
        .file(&log[0], crate::name::Extension::Jsonl);
    assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 2);
    while client.stats().synced_bytes == 0 {
        append(&client);
    }
    append(&client).wait().unwrap();
    assert!(matches!(
        client.flush(Duration::MAX),
        Err(Error::Stopped(_))
    ));
    let receipt = client.finish(Duration::MAX);
    assert!(receipt.pending >= 3);
    assert!(receipt.error.unwrap().contains("panicked"));
}

#[test]
fn what_a_failed_sync_moves_behind_a_file_that_was_begun_already_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let collector = crate::collector::Collector::start().unwrap();
    let config = Config::new("team", "app").root(dir.path());
    let config = config.server(collector.url()).segment_bytes(1);
    let client = Client::open(config.sync_interval(Duration::from_secs(3600))).unwrap();
    let append = |n: usize| {
        let id = format!("{n:016x}");
        let end = json!({"project_id": "team/app", "id": id, "ended_at": "2026-01-01T12:00:00Z"});
        client.call_end(&end).unwrap()
    };
    append(0).wait().unwrap();
    for n in 1..4 {
        append(n);
        // The next file is created, then the sync of this one fails.
        faults::plan(&[0, faults::failing(0)]);
        client.sync().unwrap();
        client.flush(Duration::from_secs(60)).unwrap();
    }
    let receipt = client.finish(Duration::from_secs(60));
    assert_eq!((receipt.delivered, receipt.pending), (4, 0), "{receipt:?}");
}

#[test]
fn what_a_caller_has_synced_is_sent_without_waiting_for_the_timer() {
    for durability in [
        Durability::Buffered,
        Durability::Written,
        Durability::Synced,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let collector = crate::collector::Collector::start().unwrap();
        let config = Config::new("team", "app").root(dir.path());
        let config = config.server(collector.url()).durability(durability);
        let client = Client::open(config.sync_interval(Duration::from_secs(3600))).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        for n in 1..=3 {
            let ticket = client.append(Kind::CallEnd, &end(n)).unwrap();
            // By now the thread has set its timer.
            std::thread::sleep(Duration::from_millis(20));
            ticket.wait().unwrap();
            while client.stats().delivered < n {
                assert!(
                    Instant::now() < until,
                    "{durability:?}: {n} is not delivered"
                );
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn end(n: u64) -> serde_json::Value {
    json!({"end": {"project_id": "team/app", "id": format!("{n:016x}"), "ended_at": "2026-01-01T12:00:00Z"}})
}

#[test]
fn when_finish_has_returned_nothing_is_accepted_whatever_the_thread_is_at() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let client = client(dir.path());
        append(&client);
        client.finish(Duration::ZERO);
        let late = client.append(Kind::CallEnd, &json!({"end": {}}));
        assert!(matches!(late, Err(Error::Closed)), "{late:?}");
    }
}

#[test]
fn no_option_is_too_large_for_the_thread() {
    let dir = tempfile::tempdir().unwrap();
    let collector = crate::collector::Collector::start().unwrap();
    let refuses = crate::collector::Mode::Status(422, "no".to_owned(), Vec::new());
    collector.set_mode(refuses);
    let year = Duration::from_secs(365 * 86_400);
    let config = Config::new("team", "app").root(dir.path());
    let config = config.server(collector.url()).batch_bytes(1 << 10);
    let config = config.segment_bytes(u64::MAX).record_limit(usize::MAX);
    let config = config.queue_records(usize::MAX).queue_bytes(usize::MAX);
    let config = config.batch_records(usize::MAX).disk_budget(u64::MAX);
    let config = config.queue_wait(year).sync_interval(year);
    let client = Client::open(config.request_timeout(year)).unwrap();
    for n in 0..100 {
        client.append(Kind::CallEnd, &end(n)).unwrap();
    }
    // What is refused is looked at together with what comes behind it.
    client.flush(Duration::from_millis(500)).unwrap();
    collector.set_mode(crate::collector::Mode::Accept);
    let flushed = client.flush(Duration::from_secs(60)).unwrap();
    assert_eq!(flushed.pending, 0, "{flushed:?}");
}

#[test]
fn what_is_accepted_while_the_client_is_finished_is_delivered_or_kept_and_counted() {
    use crate::collector::{Collector, Mode};
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    const THREADS: u64 = 4;
    let ways = [
        Durability::Buffered,
        Durability::Written,
        Durability::Synced,
    ];
    let refuses = Mode::Status(503, String::new(), Vec::new());
    let servers = [
        (Mode::Accept, Duration::from_secs(60)),
        (refuses.clone(), Duration::from_millis(200)),
        (refuses, Duration::ZERO),
    ];
    for (round, durability) in (0..2).flat_map(|round| ways.map(|way| (round, way))) {
        for (mode, deadline) in servers.clone() {
            let at = format!("{durability:?}, {mode:?}, {deadline:?}, {round}");
            let dir = tempfile::tempdir().unwrap();
            let collector = Collector::start().unwrap();
            collector.set_mode(mode);
            let config = Config::new("team", "app").root(dir.path());
            let config = config.server(collector.url()).durability(durability);
            // Some wait for room when the end comes, and files follow each other.
            let config = config.queue_records(8).segment_bytes(4 << 10);
            let client = Client::open(config).unwrap();
            let (has_finished, begun) = (AtomicBool::new(false), AtomicU64::new(0));
            let append = |thread: u64| {
                let mut accepted = Vec::new();
                for n in 0.. {
                    let id = thread << 32 | n;
                    let is_late = has_finished.load(Ordering::SeqCst);
                    match client.append(Kind::CallEnd, &end(id)) {
                        Ok(_) => {
                            assert!(!is_late, "{at}");
                            begun.fetch_add(1, Ordering::SeqCst);
                            accepted.push(format!("{id:016x}"));
                        }
                        Err(Error::Closed) => break,
                        Err(error) => panic!("{at}: {error}"),
                    }
                }
                accepted
            };
            let (receipt, accepted) = thread::scope(|scope| {
                let append = &append;
                let threads = (0..THREADS).map(|thread| scope.spawn(move || append(thread)));
                let threads: Vec<_> = threads.collect();
                while begun.load(Ordering::SeqCst) < 50 + 37 * round {
                    thread::yield_now();
                }
                let receipt = client.finish(deadline);
                has_finished.store(true, Ordering::SeqCst);
                let accepted = threads.into_iter().flat_map(|one| one.join().unwrap());
                (receipt, accepted.collect::<BTreeSet<_>>())
            });
            while client.inner.thread.send(Message::Wake).is_ok() {
                thread::yield_now();
            }
            drop(client);
            let delivered = collector.counts();
            let mut found = BTreeSet::new();
            for ((_, id), times) in &delivered {
                assert_eq!(*times, 1, "{at}: {id}");
                found.insert(id.clone());
            }
            for path in
                crate::inspect::logs(dir.path(), None, &mut |error| panic!("{error}")).unwrap()
            {
                crate::inspect::read(&path, crate::inspect::From::Checkpoint, &mut |item| {
                    let crate::inspect::Item::Record { req, .. } = item else {
                        panic!("{at}: {item:?}")
                    };
                    let req: serde_json::Value = serde_json::from_str(&req).unwrap();
                    let id = req["end"]["id"].as_str().unwrap().to_owned();
                    assert!(found.insert(id.clone()), "{at}: {id} is delivered and kept");
                    Ok(true)
                })
                .unwrap();
            }
            assert_eq!(found, accepted, "{at}");
            let counted = receipt.delivered + receipt.pending;
            // Who was in the midst of an append when the time was up is not waited for.
            let at_least = match deadline.is_zero() {
                true => accepted.len() as u64 - THREADS,
                false => accepted.len() as u64,
            };
            let range = at_least..=accepted.len() as u64;
            assert!(
                range.contains(&counted),
                "{at}: {receipt:?}, {}",
                accepted.len()
            );
        }
    }
}

#[test]
fn for_a_record_that_comes_after_the_finish_nothing_is_dropped() {
    for when_full in [WhenFull::Reject, WhenFull::DropOldest] {
        let dir = tempfile::tempdir().unwrap();
        let before = client(dir.path());
        (0..1_000).for_each(|n| drop(before.append(Kind::CallEnd, &end(n)).unwrap()));
        before.finish(Duration::from_secs(60));
        let config = Config::new("team", "app").root(dir.path()).sender(false);
        let config = config.disk_budget(64 << 10).when_full(when_full);
        let client = Client::open(config).unwrap();
        client.finish(Duration::from_secs(60));
        for client in [&before, &client] {
            // Its thread holds no file any more.
            while client.inner.thread.send(Message::Wake).is_ok() {
                thread::yield_now();
            }
        }
        let late = client.append(Kind::CallEnd, &end(0));
        assert!(matches!(late, Err(Error::Closed)), "{late:?}");
        assert_eq!(client.stats().dropped, 0);
        let found = crate::inspect::status(dir.path(), &mut |error| panic!("{error}"));
        assert_eq!(found[0].pending_records, 1_000);
    }
}
