//! From append to delivered: what arrives, how often, and what is left on the disk.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;
use support::*;
use weave_wal::{Client, Durability, Error, Event, Kind, Storage};

#[test]
fn every_record_arrives_once_in_few_requests_and_nothing_is_left() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    for n in 0..1_000 {
        client.append(Kind::CallStart, &start(n)).unwrap();
        client.append(Kind::CallEnd, &end(n)).unwrap();
    }
    let receipt = client.finish(LONG);
    assert!(receipt.is_complete(), "{receipt:?}");
    assert_eq!(receipt.delivered, 2_000);
    let counts = collector.counts();
    assert_eq!(counts.len(), 2_000);
    assert!(counts.values().all(|&count| count == 1));
    assert!(collector.requests() <= 10, "{}", collector.requests());
    assert_eq!(files(dir.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn objects_arrive_in_order_and_before_the_calls_of_their_batch() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    client.call_start(&start(1)["start"]).unwrap();
    for n in 0..3 {
        client
            .obj_create(&json!({"project_id": PROJECT, "object_id": format!("o{n}"), "val": n}))
            .unwrap();
    }
    client
        .table_create(&json!({"project_id": PROJECT, "rows": [{"a": 1}]}))
        .unwrap();
    client.file_create("a.txt", "täxt".as_bytes()).unwrap();
    client.file_create("b.bin", &[0, 255, 13, 10, 0]).unwrap();
    client.call_end(&end(1)["end"]).unwrap();
    assert!(client.finish(LONG).is_complete());
    let received = collector.received();
    let kinds: Vec<_> = received.iter().map(|record| record.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "obj_create",
            "obj_create",
            "obj_create",
            "table_create",
            "file_create",
            "file_create",
            "call_start",
            "call_end"
        ]
    );
    let objects: Vec<_> = received[..3]
        .iter()
        .map(|record| record.id.as_str())
        .collect();
    assert_eq!(objects, ["o0", "o1", "o2"]);
}

#[test]
fn the_bytes_of_a_raw_record_are_kept() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    let req = format!(
        r#"{{"start":{{"project_id":"{PROJECT}","id":"{}","big":123456789012345678901234567890.10,"z":1,"a":"\ud800\u0000 \u2028"}}}}"#,
        id(1)
    );
    let raw = RawValue::from_string(req.clone()).unwrap();
    client.append_raw(Kind::CallStart, &raw).unwrap();
    assert!(client.finish(LONG).is_complete());
    assert_eq!(collector.received()[0].req, req);
}

#[test]
fn a_written_record_is_in_the_file_when_append_returns() {
    let dir = tempfile::tempdir().unwrap();
    let client = writer(dir.path());
    for n in 1..=10 {
        client.append(Kind::CallStart, &start(n)).unwrap();
        let log = std::fs::read_to_string(&files_with(dir.path(), "jsonl")[0]).unwrap();
        assert_eq!(log.lines().count(), n);
        assert!(log.ends_with('\n'));
    }
}

#[test]
fn what_one_client_leaves_the_next_one_delivers() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let first = writer(dir.path());
    append_starts(&first, 0..100);
    drop(first);
    assert_eq!(collector.requests(), 0);
    let next = Client::open(config(dir.path(), &collector)).unwrap();
    assert!(collector.wait_for(|collector| collector.counts().len() == 100, LONG));
    assert!(next.finish(LONG).is_complete());
    assert_each_start_once(&collector, 0..100);
}

#[test]
fn a_server_that_is_down_costs_nothing() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.stop();
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..50);
    let receipt = client.flush(Duration::from_millis(300)).unwrap();
    assert_eq!((receipt.delivered, receipt.pending), (0, 50));
    assert!(receipt.error.is_some());
    collector.restart().unwrap();
    assert!(client.finish(LONG).is_complete());
    assert_each_start_once(&collector, 0..50);
}

#[test]
fn transient_answers_are_tried_again_until_they_pass() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let status = |status| Mode::Status(status, String::new(), Vec::new());
    collector.script(vec![
        (status(503), 1),
        (status(429), 1),
        (Mode::Garbage, 1),
        (Mode::DropBefore, 1),
        (status(408), 1),
    ]);
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..50);
    while collector.requests() < 6 {
        // Whoever waits makes the thread try at once.
        client.flush(Duration::from_millis(20)).unwrap();
    }
    assert!(client.finish(LONG).is_complete());
    assert_each_start_once(&collector, 0..50);
    assert_eq!(collector.requests(), 6);
}

#[test]
fn a_wrong_key_pauses_and_discards_nothing() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_key("another-key");
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let client = Client::open(
        config(dir.path(), &collector)
            .on_event(move |event| seen.lock().unwrap().push(event.clone())),
    )
    .unwrap();
    append_starts(&client, 0..50);
    let receipt = client.flush(Duration::from_secs(1)).unwrap();
    assert_eq!(
        (receipt.delivered, receipt.pending, receipt.rejected),
        (0, 50, 0)
    );
    let paused = client.stats().paused.unwrap();
    assert!(paused.contains("401"), "{paused}");
    assert!(!paused.contains("secret-key"));
    collector.set_key("secret-key");
    assert!(client.finish(LONG).is_complete());
    assert_each_start_once(&collector, 0..50);
    let events = events.lock().unwrap();
    let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    assert_eq!(count(|event| matches!(event, Event::Paused { .. })), 1);
    assert_eq!(count(|event| matches!(event, Event::Resumed)), 1);
}

#[test]
fn one_bad_record_in_a_thousand_is_set_apart() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_mode(Mode::Poison("poison".to_owned(), 422));
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..400);
    let bad = json!({"start": {"project_id": PROJECT, "id": id(9_999), "op_name": "poison"}});
    client.append(Kind::CallStart, &bad).unwrap();
    append_starts(&client, 400..1_000);
    let receipt = client.finish(LONG);
    assert_eq!(
        (receipt.delivered, receipt.pending, receipt.rejected),
        (1_000, 0, 1)
    );
    assert_each_start_once(&collector, 0..1_000);
    assert!(collector.requests() < 40, "{}", collector.requests());
    let left = files(dir.path());
    assert_eq!(left, files_with(dir.path(), "deadletter"));
    let letter = std::fs::read_to_string(&left[0]).unwrap();
    let letter: serde_json::Value = serde_json::from_str(&letter).unwrap();
    assert_eq!(letter["record"]["req"], bad);
    assert_eq!(letter["status"], 422);
}

#[test]
fn a_server_that_refuses_everything_pauses_and_discards_nothing() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_mode(Mode::Poison("project_id".to_owned(), 400));
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..200);
    let receipt = client.flush(Duration::from_secs(2)).unwrap();
    assert_eq!(
        (receipt.delivered, receipt.pending, receipt.rejected),
        (0, 200, 0)
    );
    assert!(client.stats().paused.is_some());
    assert!(collector.requests() < 60, "{}", collector.requests());
    collector.set_mode(Mode::Accept);
    assert!(client.finish(LONG).is_complete());
    assert_each_start_once(&collector, 0..200);
}

#[test]
fn a_lost_answer_sends_at_most_one_batch_twice() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.script(vec![(Mode::DropAfter, 1)]);
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..20);
    assert!(client.flush(LONG).unwrap().is_complete());
    append_starts(&client, 20..40);
    assert!(client.finish(LONG).is_complete());
    let counts = collector.counts();
    assert_eq!(counts.len(), 40);
    assert_eq!(counts.values().filter(|&&count| count == 2).count(), 20);
}

#[test]
fn a_request_that_hangs_delays_no_append_no_sync_and_no_timer() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_mode(Mode::Hang);
    let client = Client::open(config(dir.path(), &collector).request_timeout(LONG)).unwrap();
    append_starts(&client, 0..1);
    assert!(collector.wait_for(|collector| collector.requests() == 1, LONG));
    // The request is out and stays out. Everything below happens before it ends.
    for n in 1..100 {
        client
            .append(Kind::CallStart, &start(n))
            .unwrap()
            .wait()
            .unwrap();
    }
    append_starts(&client, 100..101);
    while client.stats().synced_bytes < client.stats().appended_bytes {
        std::thread::yield_now();
    }
    let receipt = client.flush(Duration::from_millis(50)).unwrap();
    assert_eq!(receipt.pending, 101);
    let asked = Instant::now();
    let receipt = client.finish(Duration::from_millis(50));
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert_eq!((receipt.delivered, receipt.pending), (0, 101));
    assert_eq!(collector.requests(), 1);
}

#[test]
fn retry_after_is_honoured() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let busy = vec![("Retry-After".to_owned(), "2".to_owned())];
    collector.script(vec![(Mode::Status(429, String::new(), busy), 1)]);
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    let begun = Instant::now();
    append_starts(&client, 0..5);
    assert!(client.finish(LONG).is_complete());
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(collector.requests(), 2);
}

#[test]
fn full_files_are_followed_by_new_ones() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = Client::open(
        config(dir.path(), &collector)
            .segment_bytes(4_000)
            .durability(Durability::Synced),
    )
    .unwrap();
    append_starts(&client, 0..300);
    assert!(client.finish(LONG).is_complete());
    assert_each_start_once(&collector, 0..300);
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));

    let writer = Client::open(
        weave_wal::Config::new("team", "app")
            .root(dir.path())
            .sender(false)
            .segment_bytes(4_000)
            .durability(Durability::Synced),
    )
    .unwrap();
    append_starts(&writer, 0..300);
    drop(writer);
    assert!(files_with(dir.path(), "jsonl").len() > 5);
}

#[test]
fn many_threads_append_and_nothing_is_lost_in_any_durability() {
    for durability in [
        Durability::Buffered,
        Durability::Written,
        Durability::Synced,
    ] {
        let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
        let config = config(dir.path(), &collector).durability(durability);
        let client = Client::open(config.segment_bytes(50_000)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let client = &client;
                scope.spawn(move || append_starts(client, thread * 100..thread * 100 + 100));
            }
        });
        assert!(client.finish(LONG).is_complete());
        assert_each_start_once(&collector, 0..800);
    }
}

#[test]
fn memory_storage_delivers_and_leaves_no_file() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.script(vec![(Mode::Status(503, String::new(), Vec::new()), 1)]);
    let config = config(dir.path(), &collector).storage(Storage::Memory);
    let client = Client::open(config).unwrap();
    append_starts(&client, 0..500);
    let receipt = client.finish(LONG);
    assert!(receipt.is_complete(), "{receipt:?}");
    assert_eq!(receipt.dir, None);
    assert_each_start_once(&collector, 0..500);
    assert!(files(dir.path()).is_empty());
}

#[test]
fn a_full_memory_queue_makes_the_caller_wait_and_then_says_so() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_mode(Mode::Hang);
    let config = config(dir.path(), &collector)
        .storage(Storage::Memory)
        .queue_records(10)
        .queue_wait(Duration::from_millis(100));
    let client = Client::open(config).unwrap();
    append_starts(&client, 0..10);
    let refused = client.append(Kind::CallStart, &start(10)).unwrap_err();
    assert!(matches!(refused, Error::QueueFull { .. }), "{refused}");
    collector.set_mode(Mode::Accept);
    collector.stop();
    collector.restart().unwrap();
    assert!(client.finish(LONG).is_complete());
    assert_each_start_once(&collector, 0..10);
}

#[test]
fn after_finish_the_client_is_closed_and_says_so() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    let ticket = client.append(Kind::CallStart, &start(0)).unwrap();
    assert!(client.finish(LONG).is_complete());
    let refused = client.append(Kind::CallStart, &start(1)).unwrap_err();
    assert!(matches!(refused, Error::Closed));
    assert_eq!(client.finish(LONG).delivered, 1);
    drop(client);
    ticket.wait().unwrap();
}

#[test]
fn a_table_above_the_body_limit_arrives_in_parts_as_one_table() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let rows: Vec<_> = (0..2_000)
        .map(|n| json!({"n": n, "text": "x".repeat(20)}))
        .collect();
    let table = json!({"project_id": PROJECT, "rows": rows});
    let whole = Client::open(config(dir.path(), &collector)).unwrap();
    whole.table_create(&table).unwrap();
    assert!(whole.finish(LONG).is_complete());
    assert_eq!(collector.requests(), 1);
    let parts = Client::open(config(dir.path(), &collector).batch_bytes(20_000)).unwrap();
    parts.table_create(&table).unwrap();
    assert!(parts.finish(LONG).is_complete());
    assert_eq!(collector.requests_to("/table/create_from_digests"), 1);
    assert!(collector.requests_to("/table/create") > 4);
    let received = collector.received();
    let digests: Vec<_> = received.iter().map(|table| &table.id).collect();
    assert_eq!(digests.first(), digests.last());
}

#[test]
fn a_record_above_the_servers_limit_is_a_dead_letter_with_the_reason() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_mode(Mode::Poison("huge".to_owned(), 413));
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..2);
    let mut huge = start(2);
    huge["start"]["inputs"] = json!({"huge": "x".repeat(1 << 20)});
    client.append(Kind::CallStart, &huge).unwrap();
    let receipt = client.finish(LONG);
    assert_eq!((receipt.delivered, receipt.rejected), (2, 1));
    let letter = std::fs::read_to_string(&files_with(dir.path(), "deadletter")[0]).unwrap();
    assert!(letter.contains("(413)"));
}

#[test]
fn a_client_dropped_while_a_request_is_out_lets_its_files_go_when_that_is_answered() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, is_asked) = mpsc::channel();
    let (answer, may_answer) = mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 65536]).unwrap() > 0);
        asked.send(()).unwrap();
        may_answer.recv().unwrap();
        let answer = b"HTTP/1.1 503 No\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).unwrap();
    });
    let client = Client::open(config(dir.path(), &collector).server(url)).unwrap();
    client.append(Kind::CallStart, &start(0)).unwrap();
    is_asked.recv_timeout(LONG).unwrap();
    drop(client);
    answer.send(()).unwrap();
    server.join().unwrap();
    let until = Instant::now() + LONG;
    while send_to(&collector.url(), dir.path(), Duration::from_secs(1)).delivered == 0 {
        assert!(Instant::now() < until, "it is still held");
    }
    assert_eq!(collector.counts().len(), 1);
}

/// Reads a request as far as its first record, and says which.
fn first_record(stream: &mut TcpStream) -> usize {
    let (mut request, mut piece) = (Vec::new(), [0; 65536]);
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some(n) = (0..2).find(|n| text.contains(&id(*n))) {
            return n;
        }
        let len = stream.read(&mut piece).unwrap();
        assert!(len > 0, "{text}");
        request.extend_from_slice(&piece[..len]);
    }
}

#[test]
fn a_record_that_comes_while_a_leftover_is_out_does_not_wait_until_that_is_due_again() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    append_starts(&writer(dir.path()), 0..1);
    // Whoever is asked to wait cannot say so to others: each learns it for itself.
    std::fs::create_dir(dir.path().join(".retry_after")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, is_asked) = mpsc::channel();
    let (answer, may_answer) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let n = first_record(&mut stream);
            asked.send(n).unwrap();
            let answer = match n {
                0 => {
                    may_answer.recv().unwrap();
                    "503 No\r\nRetry-After: 600"
                }
                _ => "200 OK",
            };
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
        }
    });
    let config = config(dir.path(), &collector).server(url);
    let config = config.start_jitter(Duration::from_millis(1));
    let client = Client::open(config.request_timeout(LONG)).unwrap();
    assert_eq!(is_asked.recv_timeout(LONG), Ok(0));
    append_starts(&client, 1..2);
    // The thread itself syncs it while the request is out, and so knows of it by now.
    while client.stats().synced_bytes < client.stats().appended_bytes {
        std::thread::yield_now();
    }
    answer.send(()).unwrap();
    assert_eq!(is_asked.recv_timeout(LONG), Ok(1));
    let receipt = client.finish(LONG);
    assert_eq!((receipt.delivered, receipt.pending), (1, 0));
}

#[test]
fn a_run_ends_at_its_deadline_though_each_request_is_answered_at_once() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = Client::open(config(dir.path(), &collector).sender(false)).unwrap();
    for n in 0..90 {
        let object = json!({"project_id": PROJECT, "object_id": format!("o{n}"), "val": n});
        client.obj_create(&object).unwrap();
    }
    client.finish(LONG);
    // All of them are one batch, which takes more than four seconds.
    collector.set_mode(Mode::Slow(Duration::from_millis(50)));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let until = weave_wal::Until {
        deadline: Some(Instant::now() + Duration::from_millis(500)),
        ..weave_wal::Until::drained(&stop)
    };
    let sender = weave_wal::Sender::new(&collector.url(), Some("secret-key")).unwrap();
    let summary = sender.root(dir.path()).run(&until, &mut |_| {}).unwrap();
    assert!(collector.requests() < 60, "{}", collector.requests());
    assert!(!summary.is_complete(), "{summary:?}");
}

#[test]
fn who_waits_for_a_delivery_is_told_of_it_whoever_else_asks_meanwhile() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_mode(Mode::Slow(Duration::from_millis(20)));
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // There is always more to send, and somebody asks again and again.
        scope.spawn(|| {
            for n in 1.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                client.append(Kind::CallStart, &start(n)).unwrap();
                client.flush(Duration::from_millis(2)).unwrap();
            }
        });
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(50));
            let begun = Instant::now();
            client.flush(LONG).unwrap();
            let took = begun.elapsed();
            if took > LONG / 3 {
                stop.store(true, Ordering::Relaxed);
                panic!("{took:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
