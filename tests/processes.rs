//! Many processes, killed, forked and limited: what was acknowledged arrives.
//!
//! The test binary starts itself again as the process that has to suffer; which part it plays
//! stands in the environment.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
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
    for n in 0.. {
        let ticket = client.append(Kind::CallStart, &start(n)).unwrap();
        if buffered {
            ticket.wait().unwrap();
        }
        writeln!(out, "{n}").unwrap();
    }
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
        let told = forked(client.append(Kind::CallStart, &start(1)).map(drop))
            && forked(client.sync())
            && forked(ticket.wait())
            && forked(client.flush(Duration::from_secs(1)).map(drop))
            && client.finish(Duration::from_secs(1)).error.is_some();
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

#[test]
fn writers_and_senders_that_come_and_go_lose_nothing() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let stop = AtomicBool::new(false);
    let mut acknowledged_by = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let until = Until {
                    watch: true,
                    ..Until::drained(&stop)
                };
                let mut sender = Sender::new(&collector.url(), None)
                    .unwrap()
                    .root(dir.path());
                sender.run(&until, &mut |_| {}).unwrap();
            });
        }
        // The writers' numbers are the same; each one's records arrive all the same.
        for enough in [1, 50, 200, 400] {
            let mut child = play("append", dir.path()).spawn().unwrap();
            acknowledged_by.push(acknowledged(&mut child, enough));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    send(dir.path(), &collector);
    let counts = collector.counts();
    for n in 0..400 {
        let writers = acknowledged_by.iter().filter(|numbers| numbers.len() > n);
        let arrived = counts[&("call_start".to_owned(), id(n))];
        assert!(
            arrived >= writers.count() && arrived <= 4,
            "record {n}: {arrived}"
        );
    }
    assert!(files_with(dir.path(), "jsonl").is_empty());
}
