//! Many processes, killed, forked and limited: what was acknowledged arrives.
//!
//! The test binary starts itself again as the process that has to suffer; which part it plays
//! stands in the environment.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use support::*;
use weave_wal::{Client, Config, Durability, Error, Kind, Sender, Until};

const PART: &str = "WEAVE_WAL_TEST_PART";

/// Starts this binary again to play a part below `root`.
fn play(part: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "part", "--nocapture"])
        .env(PART, part)
        .env("ROOT", root)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let root = std::env::var("ROOT").unwrap();
    let config = Config::new("team", "app").root(&root).sender(false);
    match part.as_str() {
        "append" | "append-buffered-sync" => append_for_ever(config, &part),
        "append-limited" => append_until_refused(config),
        "send-for-ever" => send_for_ever(&root),
        other => panic!("no such part: {other}"),
    }
}

/// Prints the number of each record once it is acknowledged.
fn append_for_ever(config: Config, part: &str) {
    let buffered = part == "append-buffered-sync";
    let client = Client::open(match buffered {
        true => config.durability(Durability::Buffered),
        false => config,
    })
    .unwrap();
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nbegin").unwrap();
    let first = std::env::var("FIRST").map_or(0, |first| first.parse().unwrap());
    for n in first.. {
        let ticket = client.append(Kind::CallStart, &start(n)).unwrap();
        if buffered {
            ticket.wait().unwrap();
        }
        writeln!(out, "{n}").unwrap();
    }
}

fn send_for_ever(root: &str) {
    let stop = AtomicBool::new(false);
    let until = Until {
        watch: true,
        ..Until::drained(&stop)
    };
    let url = std::env::var("URL").unwrap();
    let mut sender = Sender::new(&url, None).unwrap().root(root);
    sender.run(&until, &mut |_| {}).unwrap();
}

fn append_until_refused(config: Config) {
    let client = Client::open(config).unwrap();
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nbegin").unwrap();
    for n in 0..1_000 {
        match client.append(Kind::CallStart, &start(n)) {
            Ok(_) => writeln!(out, "{n}").unwrap(),
            Err(error) => {
                assert!(
                    error.is_io() || matches!(error, Error::Degraded(_)),
                    "{error}"
                );
                break;
            }
        }
    }
    drop(client);
}

/// Reads acknowledgements until there are `enough`, then kills, then reads what is left.
fn acknowledged(child: &mut Child, enough: usize) -> Vec<usize> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut numbers = Vec::new();
    let mut killed = false;
    while let Some(Ok(line)) = lines.next() {
        numbers.extend(line.parse::<usize>().ok());
        if numbers.len() >= enough && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    numbers
}

#[test]
fn what_was_acknowledged_before_a_sigkill_arrives_once() {
    for part in ["append", "append-buffered-sync"] {
        let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
        let mut child = play(part, dir.path()).spawn().unwrap();
        let acknowledged = acknowledged(&mut child, 300);
        assert!(acknowledged.len() >= 300);
        send(dir.path(), &collector);
        let counts = collector.counts();
        for n in acknowledged {
            assert_eq!(counts[&("call_start".to_owned(), id(n))], 1, "record {n}");
        }
        assert!(files_with(dir.path(), "jsonl").is_empty());
    }
}

#[test]
fn a_file_size_limit_ends_in_an_error_and_not_in_a_dead_program() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let direct = play("append-limited", dir.path());
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -f 8; exec \"$0\" \"$@\""])
        .arg(direct.get_program())
        .args(direct.get_args())
        .envs(
            direct
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = limited.spawn().unwrap();
    let mut numbers = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        numbers.extend(line.unwrap().parse::<usize>().ok());
    }
    assert!(child.wait().unwrap().success());
    // More than one file's worth: the log went on in new files.
    assert_eq!(numbers.len(), 1_000);
    send(dir.path(), &collector);
    assert_each_start_once(&collector, 0..1_000);
}

#[test]
fn a_forked_child_is_told_so_and_the_parent_loses_nothing() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    let ticket = client.append(Kind::CallStart, &start(0)).unwrap();
    // SAFETY: the child only calls what answers from the PID, and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let forked = |result: Result<(), Error>| matches!(result, Err(Error::Forked));
        let finished = client.finish(Duration::from_secs(1));
        let told = forked(client.append(Kind::CallStart, &start(1)).map(drop))
            && forked(client.sync())
            && forked(ticket.wait())
            && forked(client.flush(Duration::from_secs(1)).map(drop))
            && finished.error.is_some()
            && !finished.is_complete()
            && client.stats().last_error.is_some();
        drop(client);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(!told)) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    client.append(Kind::CallStart, &start(2)).unwrap();
    assert!(client.finish(LONG).is_complete());
    let arrived: Vec<_> = collector
        .received()
        .into_iter()
        .map(|record| record.id)
        .collect();
    assert_eq!(arrived, [id(0), id(2)]);
    assert!(files(dir.path()).is_empty());
}

/// A child that does nothing and has all that this process has open.
fn sleeping_child() -> libc::pid_t {
    // SAFETY: the child only sleeps, and leaves by a signal or _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::sleep(600);
            libc::_exit(0)
        };
    }
    child
}

#[test]
fn what_a_client_lets_go_of_a_forked_child_does_not_hold() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.stop();
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    client.append(Kind::CallStart, &start(0)).unwrap();
    while client.stats().last_error.is_none() {
        // The first request has failed: the file is locked for delivery.
        std::thread::sleep(Duration::from_millis(1));
    }
    let child = sleeping_child();
    assert_eq!(client.finish(Duration::from_millis(10)).pending, 1);
    drop(client);
    let other = Collector::start().unwrap();
    let until = std::time::Instant::now() + LONG;
    while send_to(&other.url(), dir.path(), Duration::from_secs(1)).delivered == 0 {
        assert!(std::time::Instant::now() < until, "the child holds it");
    }
    // SAFETY: it is this process's child, and has not been waited for.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    assert_eq!(other.counts().len(), 1);
}

/// Kills a process after so long, and returns what it had acknowledged.
fn killed_after(child: &mut Child, after: Duration) -> Vec<usize> {
    std::thread::sleep(after);
    child.kill().unwrap();
    acknowledged(child, usize::MAX)
}

#[test]
fn writers_and_senders_killed_at_random_lose_nothing_and_only_senders_repeat() {
    let thorough = std::env::var_os("WEAVE_WAL_ALL").is_some_and(|value| value == "1");
    let (tally, mut by_victims) = (Tally::default(), 0);
    for round in 0..if thorough { 20 } else { 2 } {
        let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
        let numbers = Mutex::new(Vec::new());
        let kills = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (dir, numbers) = (&dir, &numbers);
                scope.spawn(move || {
                    for life in 0..5_u64 {
                        let first = (writer * 5 + life as usize) * 1_000_000;
                        let mut command = play("append", dir.path());
                        let mut child = command.env("FIRST", first.to_string()).spawn().unwrap();
                        let after = Duration::from_millis((round * 31 + life * 57) % 140);
                        let more = killed_after(&mut child, after);
                        numbers.lock().unwrap().extend(more);
                    }
                });
            }
            for sender in 0..2_u64 {
                let (dir, url, kills) = (&dir, collector.url(), &kills);
                scope.spawn(move || {
                    for life in 0..4_u64 {
                        let mut command = play("send-for-ever", dir.path());
                        let mut child = command.env("URL", &url).spawn().unwrap();
                        let spread = (round * 43 + sender * 71 + life * 197) % 700;
                        killed_after(&mut child, Duration::from_millis(50 + spread));
                        kills.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        by_victims += arrived(&collector).len();
        assert_eq!(send(dir.path(), &collector).pending, 0);
        let arrived = arrived(&collector);
        let numbers = numbers.into_inner().unwrap();
        assert!(numbers.len() > 100, "{}", numbers.len());
        // For each kill of a sender at most its batch in flight, which has up to 10,000 records.
        let twice: usize = arrived.values().map(|count| count - 1).sum();
        assert!(twice <= kills.into_inner() * 10_000, "{twice}");
        assert!(files_with(dir.path(), "jsonl").is_empty());
        tally.count(&numbers, &arrived);
    }
    tally.tell("20 writers and 8 senders killed at random");
    assert!(by_victims > 1_000, "the senders have hardly worked");
}
