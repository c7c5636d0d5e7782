//! Attacks on the core: storage that fails, files that vanish, many threads, and what they must
//! not cost.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]

mod support;

#[path = "support/small_disk.rs"]
mod small_disk;

use std::fs;
use std::path::Path;
use std::time::Duration;

use small_disk::SmallDisk;
use support::*;
use weave_wal::{Client, Config, Durability, Kind, Sender, Summary, Until};

/// Delivers what is below a root. What stays there for good is not waited for long.
fn send(root: &Path, collector: &Collector) -> Summary {
    send_to(&collector.url(), root, Duration::from_secs(5))
}

/// A client that only writes, until the disk takes no more.
fn writer_to_the_last_byte(root: &Path) -> Client {
    let config = Config::new("team", "app").root(root).sender(false);
    Client::open(config.free_space_floor(0)).unwrap()
}

/// Appends until that fails; returns how many were accepted.
fn append_until_refused(client: &Client, first: usize) -> usize {
    for n in first.. {
        if let Err(error) = client.append(Kind::CallStart, &start(n)) {
            assert!(error.is_io(), "{error}");
            return n;
        }
    }
    unreachable!()
}

#[test]
fn what_was_accepted_on_a_full_disk_arrives_and_makes_room() {
    let Some(disk) = SmallDisk::mount("1m") else {
        return;
    };
    let collector = Collector::start().unwrap();
    let client = writer_to_the_last_byte(disk.path());
    let mut accepted = append_until_refused(&client, 0);
    assert!(accepted > 1_000);
    // The writer lives: its file stays, and the checkpoint needs room on the full disk.
    let summary = send(disk.path(), &collector);
    assert!(summary.is_complete(), "{summary:?}");
    assert_each_start_once(&collector, 0..accepted);
    let again = append_until_refused(&client, accepted);
    assert!(again > accepted + 1_000, "{accepted} {again}");
    accepted = again;
    drop(client);
    let summary = send(disk.path(), &collector);
    assert!(summary.is_complete(), "{summary:?}");
    assert_each_start_once(&collector, 0..accepted);
    assert!(files(disk.path()).is_empty(), "{:?}", files(disk.path()));
    tell("a full disk, sent by another", 0..accepted, &collector);
}

#[test]
fn a_file_too_small_for_a_hole_is_delivered_from_a_full_disk_and_removed() {
    let Some(disk) = SmallDisk::mount("1m") else {
        return;
    };
    let collector = Collector::start().unwrap();
    let client = writer(disk.path());
    append_starts(&client, 0..5);
    drop(client);
    let ballast = disk.fill();
    let summary = send(disk.path(), &collector);
    assert!(summary.is_complete(), "{summary:?}");
    assert_each_start_once(&collector, 0..5);
    assert_eq!(files(disk.path()), [ballast]);
}

/// No hole can be made there, for that would take the half of a line for delivered.
#[test]
fn a_last_line_without_its_newline_is_delivered_from_a_full_disk_and_its_file_removed() {
    let Some(disk) = SmallDisk::mount("1m") else {
        return;
    };
    let collector = Collector::start().unwrap();
    let dir = disk.path().join("team/app");
    fs::create_dir_all(&dir).unwrap();
    let lines = (0..3).map(|n| format!("{{\"type\":\"call_start\",\"req\":{}}}", start(n)));
    let lines = lines.collect::<Vec<_>>().join("\n");
    fs::write(dir.join("1_a.jsonl"), lines).unwrap();
    let ballast = disk.fill();
    let summary = send(disk.path(), &collector);
    assert!(summary.is_complete(), "{summary:?}");
    assert_each_start_once(&collector, 0..3);
    assert_eq!(files(disk.path()), [ballast]);
}

#[test]
fn a_client_on_a_full_disk_delivers_and_goes_on() {
    let Some(disk) = SmallDisk::mount("1m") else {
        return;
    };
    for durability in [
        Durability::Buffered,
        Durability::Written,
        Durability::Synced,
    ] {
        let collector = Collector::start().unwrap();
        collector.stop();
        let client = Client::open(
            config(disk.path(), &collector)
                .durability(durability)
                // What takes long on a busy machine is no lost answer.
                .request_timeout(LONG)
                .free_space_floor(0)
                .queue_bytes(200_000),
        )
        .unwrap();
        let accepted = append_until_refused(&client, 0);
        collector.restart().unwrap();
        let receipt = client.flush(LONG).unwrap();
        assert!(receipt.is_complete(), "{durability}: {receipt:?}");
        append_starts(&client, accepted..accepted + 100);
        let receipt = client.finish(LONG);
        assert!(receipt.is_complete(), "{durability}: {receipt:?}");
        tell(
            &format!("a full disk, {durability}"),
            0..accepted + 100,
            &collector,
        );
        assert_each_start_once(&collector, 0..accepted + 100);
        assert!(files(disk.path()).is_empty(), "{:?}", files(disk.path()));
    }
}

#[test]
fn what_is_buffered_when_the_disk_is_full_outlives_the_finish() {
    let Some(disk) = SmallDisk::mount("1m") else {
        return;
    };
    let collector = Collector::start().unwrap();
    let buffered = config(disk.path(), &collector)
        .durability(Durability::Buffered)
        .free_space_floor(0);
    collector.stop();
    let client = Client::open(buffered).unwrap();
    append_starts(&client, 0..10);
    client.sync().unwrap();
    let ballast = disk.fill();
    append_starts(&client, 10..2_000);
    assert!(client.sync().is_err());
    let receipt = std::thread::scope(|scope| {
        let finish = scope.spawn(|| client.finish(LONG));
        while client.append(Kind::CallStart, &start(0)).is_ok() {}
        fs::remove_file(&ballast).unwrap();
        collector.restart().unwrap();
        finish.join().unwrap()
    });
    assert_eq!(receipt.pending, 0, "{receipt:?}");
    for n in 10..2_000 {
        assert_eq!(collector.counts()[&("call_start".to_owned(), id(n))], 1);
    }
}

#[test]
fn a_batch_whose_checkpoint_cannot_be_written_is_neither_sent_nor_buried_twice() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_mode(Mode::Poison("poison".to_owned(), 422));
    let client = writer(dir.path());
    append_starts(&client, 0..10);
    let bad =
        serde_json::json!({"start": {"project_id": PROJECT, "id": id(99), "op_name": "poison"}});
    client.append(Kind::CallStart, &bad).unwrap();
    drop(client);
    // A directory stands where the checkpoint is prepared.
    let log = files_with(dir.path(), "jsonl").remove(0);
    let obstacle = log.with_extension("checkpoint.tmp");
    fs::create_dir(&obstacle).unwrap();
    let summary = send_to(&collector.url(), dir.path(), Duration::from_secs(2));
    assert_eq!(summary.pending, 11, "{summary:?}");
    assert_each_start_once(&collector, 0..10);
    let letters = || {
        let path = log.with_extension("deadletter");
        fs::read_to_string(path).unwrap().lines().count()
    };
    assert_eq!(letters(), 1);

    let collector = Collector::start().unwrap();
    collector.set_mode(Mode::Poison("poison".to_owned(), 422));
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    assert!(collector.wait_for(|collector| collector.counts().len() == 10, LONG));
    let failing = |client: &Client| {
        client
            .stats()
            .last_error
            .is_some_and(|e| e.contains("checkpoint"))
    };
    while !failing(&client) {
        std::thread::yield_now();
    }
    // Time for an attempt more, which must not show.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(letters(), 2);
    fs::remove_dir(&obstacle).unwrap();
    while files_with(dir.path(), "jsonl").contains(&log) {
        std::thread::yield_now();
    }
    assert_each_start_once(&collector, 0..10);
    assert_eq!(letters(), 2);
}

#[test]
fn a_sender_that_was_stopped_counts_each_pending_record_once() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = writer(dir.path());
    append_starts(&client, 0..10);
    drop(client);
    collector.stop();
    let summary = send_to(&collector.url(), dir.path(), Duration::from_secs(2));
    assert_eq!(summary.pending, 10, "{summary:?}");
}

#[test]
fn a_damaged_end_of_an_own_file_is_quarantined_before_the_file_goes() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    // What is not synced is not read: nothing is until `finish`.
    let config = config(dir.path(), &collector).sync_interval(Duration::from_secs(3_600));
    let client = Client::open(config).unwrap();
    append_starts(&client, 0..3);
    let log = files_with(dir.path(), "jsonl").remove(0);
    let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    let end = file.metadata().unwrap().len();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", end - 1).unwrap();
    let receipt = client.finish(LONG);
    assert_eq!(
        (receipt.delivered, receipt.pending, receipt.corrupt),
        (2, 0, 1),
        "{receipt:?}"
    );
    assert_eq!(files_with(dir.path(), "deadletter").len(), 1);
}

#[test]
fn of_an_own_file_that_somebody_cuts_what_is_not_synced_is_written_anew_and_the_rest_reported() {
    for is_synced in [false, true] {
        let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
        collector.stop();
        // What is not synced is not read: nothing is until `finish`.
        let config = config(dir.path(), &collector).sync_interval(Duration::from_secs(3_600));
        let client = Client::open(config).unwrap();
        append_starts(&client, 0..3);
        if is_synced {
            client.sync().unwrap();
        }
        let log = files_with(dir.path(), "jsonl").remove(0);
        let len = fs::metadata(&log).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
        file.set_len(len / 3).unwrap();
        collector.restart().unwrap();
        let receipt = client.finish(LONG);
        let delivered = receipt.delivered;
        assert_eq!(receipt.pending, 0, "{receipt:?}");
        // What is synced may have been read before it was cut.
        assert!(
            delivered == 3 || (is_synced && delivered == 1),
            "{receipt:?}"
        );
        assert_eq!(receipt.is_complete(), delivered == 3, "{receipt:?}");
        assert_each_start_once(&collector, 0..delivered as usize);
    }
}

#[test]
fn a_live_file_that_somebody_removes_is_written_anew() {
    for whole_directory in [false, true] {
        for durability in [
            Durability::Buffered,
            Durability::Written,
            Durability::Synced,
        ] {
            let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
            collector.stop();
            let config = config(dir.path(), &collector).durability(durability);
            let client = Client::open(config).unwrap();
            append_starts(&client, 0..10);
            client.sync().unwrap();
            match whole_directory {
                true => fs::remove_dir_all(dir.path().join("team")).unwrap(),
                false => fs::remove_file(&files_with(dir.path(), "jsonl")[0]).unwrap(),
            }
            append_starts(&client, 10..20);
            client.sync().unwrap();
            let logs = files_with(dir.path(), "jsonl");
            assert_eq!(fs::read_to_string(&logs[0]).unwrap().lines().count(), 20);
            append_starts(&client, 20..30);
            collector.restart().unwrap();
            let receipt = client.finish(LONG);
            assert!(receipt.is_complete(), "{durability}: {receipt:?}");
            assert_each_start_once(&collector, 0..30);
            assert!(files_with(dir.path(), "jsonl").is_empty());
        }
    }
}

#[test]
fn a_log_that_was_removed_while_nobody_appends_is_delivered_from_the_open_file() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_key("another-key");
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&client, 0..10);
    client.sync().unwrap();
    // Paused: the file is let go, for somebody who may do better.
    let receipt = client.flush(Duration::from_secs(1)).unwrap();
    assert_eq!(receipt.pending, 10);
    fs::remove_dir_all(dir.path().join("team")).unwrap();
    collector.set_key("secret-key");
    let receipt = client.finish(LONG);
    assert!(receipt.is_complete(), "{receipt:?}");
    assert_each_start_once(&collector, 0..10);
}

#[test]
fn finishing_twice_at_once_or_later_is_no_error() {
    for _ in 0..50 {
        let (dir, collector) = (quick_dir(), Collector::start().unwrap());
        let client = Client::open(config(dir.path(), &collector)).unwrap();
        append_starts(&client, 0..5);
        let receipts: Vec<_> = std::thread::scope(|scope| {
            let finish: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| client.finish(LONG)))
                .collect();
            finish
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for receipt in receipts.into_iter().chain([client.finish(LONG)]) {
            assert!(receipt.is_complete(), "{receipt:?}");
            assert_eq!((receipt.delivered, receipt.error), (5, None));
        }
    }
}

#[test]
fn many_leftovers_do_not_keep_a_buffered_record_from_the_disk() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let project = dir.path().join("team/app");
    fs::create_dir_all(&project).unwrap();
    for n in 0..400 {
        let line = "{\"type\":\"call_end\",\"req\":{}}\n";
        fs::write(project.join(format!("{n:020}_{n:032x}.jsonl")), line).unwrap();
        fs::write(project.join(format!("{n:020}_{n:032x}.checkpoint")), "99").unwrap();
    }
    let client =
        Client::open(config(dir.path(), &collector).durability(Durability::Buffered)).unwrap();
    append_starts(&client, 0..1);
    let newest = || files_with(dir.path(), "jsonl").pop().unwrap();
    let own = newest();
    while fs::metadata(&own).is_ok_and(|file| file.len() == 0) {
        std::thread::yield_now();
    }
    assert!(files_with(dir.path(), "jsonl").len() > 100);
    while files_with(dir.path(), "jsonl").len() > 1 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(client.finish(LONG).is_complete());
}

/// Many threads, short rounds, all that a caller can do: a wake-up that is missed leaves one of
/// them waiting for ever, and the watchdog says so.
#[test]
fn threads_that_do_everything_at_once_never_miss_a_wake_up() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let watchdog = Duration::from_secs(30);
    let (done, finished) = std::sync::mpsc::channel();
    let rounds = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&rounds);
    let work = std::thread::spawn(move || {
        for (durability, threads) in [
            (Durability::Buffered, 2),
            (Durability::Buffered, 16),
            (Durability::Written, 3),
            (Durability::Written, 16),
            (Durability::Synced, 2),
            (Durability::Synced, 16),
        ] {
            mix(durability, threads, &counter);
        }
        done.send(()).unwrap();
    });
    match finished.recv_timeout(watchdog) {
        Ok(()) => {}
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {}
        Err(timeout) => panic!(
            "a thread waits for ever ({timeout}), after {} rounds",
            rounds.load(Ordering::Relaxed)
        ),
    }
    work.join().unwrap();
    assert!(rounds.load(Ordering::Relaxed) >= 3_000);
}

fn mix(durability: Durability, threads: usize, rounds: &std::sync::atomic::AtomicUsize) {
    const ROUNDS: usize = 600;
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    let config = config(dir.path(), &collector)
        .durability(durability)
        .segment_bytes(2_000)
        .queue_bytes(1_000)
        .sync_interval(Duration::from_millis(1));
    let client = Client::open(config).unwrap();
    let each = ROUNDS / threads;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let client = &client;
            scope.spawn(move || {
                for round in 0..each {
                    let ticket = client
                        .append(Kind::CallStart, &start(thread * each + round))
                        .unwrap();
                    match (thread + round * 7) % 11 {
                        0 | 1 => ticket.wait().unwrap(),
                        2 => client.sync().unwrap(),
                        3 if round % 5 == 0 => {
                            assert_eq!(client.flush(LONG).unwrap().pending_error(), None)
                        }
                        4 => drop(client.flush(Duration::ZERO).unwrap()),
                        _ => {}
                    }
                    rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    // The log falls quiet and the thread with it; the next append has to wake it, for nobody else
    // will sync this record.
    for n in each * threads..each * threads + 20 {
        client.append(Kind::CallStart, &start(n)).unwrap();
        while client.stats().synced_bytes < client.stats().appended_bytes {
            std::thread::yield_now();
        }
        client.flush(LONG).unwrap();
    }
    let receipt = client.finish(LONG);
    assert!(receipt.is_complete(), "{durability} {threads}: {receipt:?}");
    assert_each_start_once(&collector, 0..each * threads + 20);
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
}

/// Nothing of a flush that ran into its deadline.
trait PendingError {
    fn pending_error(&self) -> Option<String>;
}

impl PendingError for weave_wal::Receipt {
    fn pending_error(&self) -> Option<String> {
        self.error.clone()
    }
}

const PART: &str = "WEAVE_WAL_ATTACK_PART";

/// Not a test of its own: what a process that this file starts does.
#[test]
fn part() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let root = std::env::var("ROOT").unwrap();
    let config = Config::new("team", "app").root(&root).sender(false);
    match part.as_str() {
        "buffered" => {
            let client = Client::open(config.durability(Durability::Buffered)).unwrap();
            append_starts(&client, 0..10_000);
            client.sync().unwrap();
        }
        "descriptors" => without_descriptors(Path::new(&root)),
        "projects" => more_projects_than_descriptors(Path::new(&root)),
        "letters" => more_without_dead_letters_than_descriptors(Path::new(&root)),
        "nobody" => as_nobody(Path::new(&root)),
        "umask" => {
            // SAFETY: changes nothing but this process's mask.
            unsafe { libc::umask(0) };
            everything_that_makes_files(Path::new(&root));
        }
        other => panic!("no such part: {other}"),
    }
}

fn play(part: &str, root: &Path, shell: &str) {
    let status = std::process::Command::new("sh")
        .args([
            "-c",
            &format!("{shell} exec \"$0\" --exact part --nocapture"),
        ])
        .arg(std::env::current_exe().unwrap())
        .env(PART, part)
        .env("ROOT", root)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn buffered_groups_that_fit_no_file_any_more_go_on_in_the_next() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    play("buffered", dir.path(), "ulimit -f 200;");
    assert!(send(dir.path(), &collector).is_complete());
    assert_each_start_once(&collector, 0..10_000);
}

/// A log, a lock, a checkpoint and a dead letter, in directories that have to be made.
fn everything_that_makes_files(root: &Path) {
    let collector = Collector::start().unwrap();
    collector.set_mode(Mode::Poison("poison".to_owned(), 422));
    let client = Client::open(config(root, &collector)).unwrap();
    append_starts(&client, 0..10);
    let bad =
        serde_json::json!({"start": {"project_id": PROJECT, "id": id(99), "op_name": "poison"}});
    client.append(Kind::CallStart, &bad).unwrap();
    assert_eq!(client.flush(LONG).unwrap().rejected, 1);
    collector.stop();
    append_starts(&client, 10..20);
    client.sync().unwrap();
    std::process::exit(0);
}

/// Files rotate, checkpoints move, and for a while nothing can be opened.
fn without_descriptors(root: &Path) {
    let collector = Collector::start().unwrap();
    collector.stop();
    let config = config(root, &collector).segment_bytes(2_000);
    let client = Client::open(config.sync_interval(Duration::from_millis(1))).unwrap();
    append_starts(&client, 0..20);
    let limit = |n| {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the place for the limits is valid.
        unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
            limit.rlim_cur = n;
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        }
    };
    limit(3);
    let mut accepted = 20;
    for n in 20..500 {
        if client.append(Kind::CallStart, &start(n)).is_err() {
            break;
        }
        accepted = n + 1;
    }
    let _ = client.flush(Duration::from_millis(300));
    limit(512);
    collector.restart().unwrap();
    append_starts(&client, accepted..accepted + 50);
    let receipt = client.finish(LONG);
    assert!(receipt.is_complete(), "{receipt:?}");
    assert_each_start_once(&collector, 0..accepted + 50);
    assert!(files(root).is_empty(), "{:?}", files(root));
    std::process::exit(0);
}

/// A sender with more projects than it has descriptors, whose server comes back after a while.
fn more_projects_than_descriptors(root: &Path) {
    let collector = Collector::start().unwrap();
    collector.stop();
    for n in 0..150 {
        let project = root.join("e").join(format!("p{n}"));
        fs::create_dir_all(&project).unwrap();
        let line = serde_json::json!({"type": "call_start", "req": start(n)});
        fs::write(project.join("1_a.jsonl"), format!("{line}\n")).unwrap();
        fs::write(project.join("1_a.lock"), "0").unwrap();
    }
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            collector.restart().unwrap();
        });
        send_to(&collector.url(), root, LONG)
    });
    assert!(summary.is_complete(), "{summary:?}");
    assert_each_start_once(&collector, 0..150);
    std::process::exit(0);
}

#[test]
fn more_projects_than_descriptors_are_delivered_when_the_server_is_back() {
    let dir = tempfile::tempdir().unwrap();
    play("projects", dir.path(), "ulimit -n 200;");
}

/// Logs whose dead letters cannot be written for a while, more than there are descriptors.
fn more_without_dead_letters_than_descriptors(root: &Path) {
    let collector = Collector::start().unwrap();
    let projects = (0..20).map(|n| root.join("e").join(format!("p{n}")));
    let logs: Vec<_> = projects
        .flat_map(|project| (0..20).map(move |n| project.join(format!("{n}_a.jsonl"))))
        .collect();
    for (n, log) in logs.iter().enumerate() {
        fs::create_dir_all(log.with_extension("deadletter")).unwrap();
        let line = serde_json::json!({"type": "call_start", "req": start(n)});
        fs::write(log, format!("oops\n{line}\n")).unwrap();
        fs::write(log.with_extension("lock"), "0").unwrap();
    }
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            for log in &logs {
                fs::remove_dir(log.with_extension("deadletter")).unwrap();
            }
        });
        send_to(&collector.url(), root, Duration::from_secs(10))
    });
    assert_eq!((summary.pending_bytes, summary.corrupt), (0, 400));
    assert_each_start_once(&collector, 0..400);
    std::process::exit(0);
}

#[test]
fn logs_without_dead_letters_are_delivered_when_these_can_be_written_however_many_they_are() {
    let dir = tempfile::tempdir().unwrap();
    play("letters", dir.path(), "ulimit -n 300;");
}

#[test]
fn for_want_of_descriptors_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    play("descriptors", dir.path(), "");
}

/// A leftover of another user, which cannot be read.
fn as_nobody(root: &Path) {
    let project = root.join("team/app");
    let path = std::ffi::CString::new(project.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the path is a valid string; this process has only this thread's work to do.
    unsafe {
        assert_eq!(libc::chown(path.as_ptr(), 65_534, 65_534), 0);
        assert_eq!(libc::setgid(65_534), 0);
        assert_eq!(libc::setuid(65_534), 0);
    }
    let collector = Collector::start().unwrap();
    let client = Client::open(config(root, &collector)).unwrap();
    append_starts(&client, 0..50);
    assert!(client.flush(LONG).unwrap().is_complete());
    append_starts(&client, 50..100);
    assert!(client.finish(LONG).is_complete());
    assert_each_start_once(&collector, 0..100);
    std::process::exit(0);
}

#[test]
fn leftovers_that_cannot_be_opened_keep_nothing_else_back() {
    // SAFETY: only asks.
    if unsafe { libc::geteuid() } != 0 {
        skip("becoming somebody else needs root");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("team/app");
    fs::create_dir_all(&project).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for n in 0..20 {
        let path = project.join(format!("{n:020}_{n:032x}.jsonl"));
        fs::write(&path, "{\"type\":\"call_end\",\"req\":{}}\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    play("nobody", dir.path(), "");
    assert_eq!(files_with(dir.path(), "jsonl").len(), 20);
}

#[test]
fn a_leftover_whose_dead_letters_cannot_be_written_keeps_no_other_back() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    let project = dir.path().join("team/app");
    fs::create_dir_all(project.join("1_a.deadletter")).unwrap();
    for n in [1, 2] {
        let line = serde_json::json!({"type": "call_start", "req": start(n)});
        fs::write(
            project.join(format!("{n}_a.jsonl")),
            format!("oops\n{line}\n"),
        )
        .unwrap();
    }
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    let end = std::time::Instant::now() + LONG;
    while project.join("2_a.jsonl").exists() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_each_start_once(&collector, 1..3);
    assert!(project.join("1_a.jsonl").exists());
    drop(client);
}

#[test]
fn a_live_log_that_others_write_to_all_the_time_keeps_no_leftover_back() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    collector.set_mode(Mode::Slow(Duration::from_millis(20)));
    let writing = writer(dir.path());
    append_starts(&writing, 0..1);
    // Behind the live one.
    let leftover = dir.path().join(format!("team/app/{}_a.jsonl", u64::MAX));
    let line = serde_json::json!({"type": "call_end", "req": end(0)});
    fs::write(&leftover, format!("{line}\n")).unwrap();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                if is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                append_starts(&writing, n..n + 1);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let client = Client::open(config(dir.path(), &collector)).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(15);
        while leftover.exists() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(client);
    });
    assert!(!leftover.exists());
}

#[test]
fn the_backlog_of_one_project_keeps_no_sender_from_what_another_writes() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    collector.set_mode(Mode::Slow(Duration::from_millis(20)));
    let backlog = dir.path().join("team/backlog");
    fs::create_dir_all(&backlog).unwrap();
    for n in 1..500 {
        let line = serde_json::json!({"type": "call_start", "req": start(n)});
        fs::write(backlog.join(format!("{n}_a.jsonl")), format!("{line}\n")).unwrap();
    }
    let live = writer(dir.path());
    append_starts(&live, 0..1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let place = || {
        let received = collector.received();
        received.iter().position(|record| record.id == id(500))
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while collector.received().len() < 50 {
                std::thread::sleep(Duration::from_millis(10));
            }
            append_starts(&live, 500..501);
            while place().is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let until = Until {
            watch: true,
            ..Until::drained(&stop)
        };
        let sender = Sender::new(&collector.url(), None).unwrap();
        sender.root(dir.path()).run(&until, &mut |_| {}).unwrap();
    });
    assert!(place().unwrap() < 400, "{:?}", place());
}

#[test]
fn under_no_umask_files_are_private_and_none_holds_the_key() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new/wal");
    play("umask", &root, "");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let mut extensions: Vec<_> = Vec::new();
    for file in files(&root) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        let content = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        assert!(!content.contains("secret-key"));
        extensions.push(file.extension().unwrap().to_str().unwrap().to_owned());
    }
    extensions.sort();
    assert_eq!(extensions, ["checkpoint", "deadletter", "jsonl", "lock"]);
    for below in ["", "team", "team/app"] {
        assert_eq!(mode(&root.join(below)), 0o700, "{below}");
    }
    assert_eq!(mode(root.parent().unwrap()), 0o700);
}
