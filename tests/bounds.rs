//! The disk budget and the free-space floor: what is refused, what is dropped, and that everything
//! else is delivered.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]

mod support;

#[path = "support/small_disk.rs"]
mod small_disk;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;
use small_disk::SmallDisk;
use support::*;
use weave_wal::{Client, Config, Durability, Error, Event, Kind, WhenFull, inspect};

const PART: &str = "WEAVE_WAL_TEST_PART";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A client that only writes, within a budget.
fn bounded(root: &Path, budget: u64) -> Config {
    let config = Config::new("team", "app").root(root).sender(false);
    config.disk_budget(budget).free_space_floor(0)
}

/// A start of about 1 KiB.
fn large(n: usize) -> serde_json::Value {
    json!({"start": {"project_id": PROJECT, "id": id(n), "op_name": "x".repeat(900)}})
}

/// Appends from `first` on until there is no room; returns the first number that was refused.
fn append_until_full(client: &Client, first: usize) -> usize {
    for n in first.. {
        match client.append(Kind::CallStart, &large(n)) {
            Ok(_) => {}
            Err(error) if error.is_no_room() => return n,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

/// Appends as soon as there is room, which must come. (A file that a sender has open at the moment
/// is not dropped, so there may be none for a while.)
fn append_at_last(client: &Client, record: &serde_json::Value) {
    let deadline = Instant::now() + LONG;
    while let Err(error) = client.append(Kind::CallStart, record) {
        assert!(error.is_no_room(), "{error}");
        assert!(Instant::now() < deadline, "{error} {:?}", client.stats());
        std::thread::yield_now();
    }
}

/// Not a test of its own: a process that fills its share, or is somebody else's.
#[test]
fn part() {
    let Ok(first) = std::env::var(PART) else {
        return;
    };
    let root = std::env::var_os("ROOT").unwrap();
    if first == "nobody" {
        return as_nobody(Path::new(&root));
    }
    let first: usize = first.parse().unwrap();
    let client = Client::open(bounded(Path::new(&root), 4 * MIB)).unwrap();
    let refused = append_until_full(&client, first);
    client.sync().unwrap();
    println!("\naccepted {}", refused - first);
}

#[test]
fn processes_share_one_budget_and_deliver_what_it_took() {
    const PROCESSES: usize = 4;
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let children: Vec<_> = (0..PROCESSES)
        .map(|n| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "part", "--nocapture"])
                .env(PART, (n * 100_000).to_string())
                .env("ROOT", dir.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut expected = std::collections::BTreeMap::new();
    for (n, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let lines = BufReader::new(&output.stdout[..]).lines();
        let accepted = lines.map_while(Result::ok).find_map(|line| {
            let count = line.strip_prefix("accepted ")?;
            count.parse::<usize>().ok()
        });
        let accepted = accepted.unwrap();
        let numbers = n * 100_000..n * 100_000 + accepted;
        expected.extend(numbers.map(|n| (("call_start".to_owned(), id(n)), 1)));
    }
    // The bound is kept but for the piece that each may append between two looks.
    let used = inspect::disk_bytes(dir.path());
    assert!(used >= 4 * MIB - 8 * KIB, "{used}");
    assert!(used <= (4 + PROCESSES as u64) * MIB, "{used}");
    // No process took everything, nor was any locked out of what others left.
    assert!(send(dir.path(), &collector).is_complete());
    assert_eq!(collector.counts(), expected);
    assert_eq!(inspect::disk_bytes(dir.path()), 0);
}

#[test]
fn a_record_that_does_not_fit_is_refused_with_the_numbers_and_the_others_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::open(bounded(dir.path(), 100 * KIB)).unwrap();
    let accepted = append_until_full(&client, 0);
    assert!((80..110).contains(&accepted), "{accepted}");
    let refused = client.append(Kind::CallStart, &large(0)).unwrap_err();
    let Error::NoRoom {
        root, used, budget, ..
    } = &refused
    else {
        panic!("{refused}");
    };
    assert_eq!((root.as_path(), *budget), (dir.path(), 100 * KIB));
    assert!(*used > 95 * KIB && *used <= 104 * KIB, "{used}");
    let message = refused.to_string();
    assert!(message.contains("disk budget of 102400"), "{message}");
    let stats = client.stats();
    assert_eq!(stats.disk_bytes, *used);
    assert_eq!((stats.appended, stats.dropped), (accepted as u64, 0));
    // A smaller one may still fit, and what was accepted is all there.
    client.sync().unwrap();
    drop(client);
    let collector = Collector::start().unwrap();
    assert!(send(dir.path(), &collector).is_complete());
    assert_each_start_once(&collector, 0..accepted);
}

#[test]
fn when_deliveries_have_made_room_appends_go_on_by_themselves() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.stop();
    let bounds = config(dir.path(), &collector)
        .disk_budget(256 * KIB)
        .free_space_floor(0);
    let client = Client::open(bounds).unwrap();
    let mut accepted = append_until_full(&client, 0);
    collector.restart().unwrap();
    while accepted < 2_000 {
        append_at_last(&client, &large(accepted));
        accepted += 1;
    }
    assert!(client.finish(LONG).is_complete());
    assert_each_start_once(&collector, 0..accepted);
}

#[test]
fn a_live_file_that_is_delivered_does_not_use_up_the_budget() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    // One file, which its writer never leaves.
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    for n in 0..3_000 {
        client.append(Kind::CallStart, &large(n)).unwrap();
    }
    assert!(client.flush(LONG).unwrap().is_complete());
    assert_eq!(files_with(dir.path(), "jsonl").len(), 1);
    let size = std::fs::metadata(&files_with(dir.path(), "jsonl")[0]).unwrap();
    assert!(size.len() > 2 * MIB);
    let used = inspect::disk_bytes(dir.path());
    if used >= size.len() / 4096 * 4096 {
        skip("this file system cannot give back a part of a file");
        return;
    }
    assert!(used <= MIB + 8 * KIB, "{used}");
    // What is read behind the hole is whole.
    append_starts(&client, 3_000..3_010);
    drop(client);
    assert!(send(dir.path(), &collector).is_complete());
    assert_each_start_once(&collector, 0..3_010);
}

/// Collects what was dropped: records, and the files.
type Dropped = Arc<Mutex<(u64, Vec<std::path::PathBuf>)>>;

fn dropping(config: Config) -> (Client, Dropped) {
    let dropped = Dropped::default();
    let seen = Arc::clone(&dropped);
    let config = config
        .when_full(WhenFull::DropOldest)
        .on_event(move |event| {
            if let Event::Dropped { path, records, .. } = event {
                let mut seen = seen.lock().unwrap();
                seen.0 += records;
                seen.1.push(path.clone());
            }
        });
    (Client::open(config).unwrap(), dropped)
}

#[test]
fn with_drop_oldest_the_newest_stay_and_each_record_is_delivered_or_counted() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    // Synced, so that files are as small as they shall be: they end at a sync.
    let (client, dropped) = dropping(bounded(dir.path(), 256 * KIB).durability(Durability::Synced));
    for n in 0..2_000 {
        client.append(Kind::CallStart, &large(n)).unwrap();
    }
    client.flush(LONG).unwrap();
    let stats = client.stats();
    let (records, files) = dropped.lock().unwrap().clone();
    assert!(files.len() > 10 && files.is_sorted());
    assert_eq!((stats.appended, stats.dropped), (2_000, records));
    assert_eq!(stats.pending, 2_000 - records);
    assert!(inspect::disk_bytes(dir.path()) <= 256 * KIB + 8 * KIB);
    let receipt = client.finish(LONG);
    assert_eq!(receipt.dropped, records);
    assert!(!receipt.is_complete());
    assert!(send(dir.path(), &collector).is_complete());
    assert_each_start_once(&collector, records as usize..2_000);
}

#[test]
fn while_a_client_delivers_each_record_is_delivered_or_counted() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    collector.stop();
    let (client, dropped) = dropping(
        config(dir.path(), &collector)
            .durability(Durability::Synced)
            .disk_budget(256 * KIB)
            .free_space_floor(0),
    );
    let accepted = 1_500;
    (0..accepted).for_each(|n| append_at_last(&client, &large(n)));
    collector.restart().unwrap();
    let receipt = client.finish(LONG);
    let records = dropped.lock().unwrap().0;
    assert!(records > 0);
    assert_eq!(receipt.pending, 0, "{receipt:?}");
    assert_eq!(receipt.dropped, records);
    assert_eq!(receipt.delivered + records, accepted as u64);
    assert_eq!(collector.received().len() as u64, receipt.delivered);
    let sent_once = collector.counts().values().all(|&count| count == 1);
    assert!(sent_once);
}

#[test]
fn a_live_file_and_another_projects_files_are_never_dropped() {
    let dir = quick_dir();
    let collector = Collector::start().unwrap();
    // One that is dead, one that is alive, and another project's.
    let old = writer(dir.path());
    append_starts(&old, 0..100);
    drop(old);
    let live = writer(dir.path());
    append_starts(&live, 100..200);
    let other = Client::open(Config::new("team", "other").root(dir.path()).sender(false)).unwrap();
    append_starts(&other, 200..300);
    drop(other);
    let used = inspect::disk_bytes(dir.path());
    let (client, dropped) = dropping(bounded(dir.path(), used + 4 * KIB));
    // It fills the dead one's place, and then it can only drop its own.
    (1_000..1_200).for_each(|n| append_at_last(&client, &large(n)));
    let own = client.stats().dropped - 100;
    client.flush(LONG).unwrap();
    assert_eq!(dropped.lock().unwrap().0, 100 + own);
    drop((client, live));
    assert!(send(dir.path(), &collector).is_complete());
    assert_each_start_once_of(&collector, (100..300).chain(1_000 + own as usize..1_200));
}

/// Names that are older than any.
fn ancient(project: &Path, n: usize) -> std::path::PathBuf {
    project.join(format!("{n:020}_{n:032x}.jsonl"))
}

/// Fills the disk beside files of another user that are older than its own.
fn as_nobody(root: &Path) {
    // SAFETY: this process has only this thread's work to do.
    unsafe {
        assert_eq!(libc::setgid(65_534), 0);
        assert_eq!(libc::setuid(65_534), 0);
    }
    let old = writer(root);
    append_starts(&old, 0..100);
    drop(old);
    let used = inspect::disk_bytes(root);
    let (client, dropped) = dropping(bounded(root, used + 8 * KIB));
    (1_000..1_020).for_each(|n| append_at_last(&client, &large(n)));
    client.flush(LONG).unwrap();
    assert_eq!(dropped.lock().unwrap().0, 100);
    let error = client.stats().last_error.unwrap();
    assert!(
        error.contains("denied") || error.contains("permitted"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_looked_at_or_removed_is_in_the_way_of_no_other() {
    // SAFETY: only asks.
    if unsafe { libc::geteuid() } != 0 {
        skip("becoming somebody else needs root");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let dir = quick_dir();
    let project = dir.path().join("team/app");
    std::fs::create_dir_all(&project).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    // Everybody may make files there, and remove none of somebody else's.
    mode(&project, 0o1777);
    let kept = [(1, 0o600), (2, 0o644)].map(|(n, permissions)| {
        let path = ancient(&project, n);
        let line = "{\"type\":\"call_end\",\"req\":{}}\n";
        std::fs::write(&path, line.repeat(1_000)).unwrap();
        mode(&path, permissions);
        path
    });
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "part", "--nocapture"])
        .env(PART, "nobody")
        .env("ROOT", dir.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(kept.iter().all(|path| path.exists()));
}

#[test]
fn nothing_is_dropped_where_that_would_not_help() {
    let dir = quick_dir();
    let collector = Collector::start().unwrap();
    let old = writer(dir.path());
    append_starts(&old, 0..100);
    drop(old);
    let used = inspect::disk_bytes(dir.path());
    let (client, dropped) = dropping(bounded(dir.path(), 2 * used).free_space_floor(u64::MAX / 2));
    assert_eq!(append_until_full(&client, 1_000), 1_000);
    let whale = json!({"start": {"x": "x".repeat(4 * used as usize)}});
    assert!(
        client
            .append(Kind::CallStart, &whale)
            .is_err_and(|e| e.is_no_room())
    );
    assert_eq!(dropped.lock().unwrap().0, 0);
    drop(client);
    assert!(send(dir.path(), &collector).is_complete());
    assert_each_start_once(&collector, 0..100);
}

#[test]
fn a_damaged_file_is_dropped_with_its_good_records_counted_and_its_dead_letters_stay() {
    let dir = quick_dir();
    let old = writer(dir.path());
    append_starts(&old, 0..10);
    drop(old);
    let log = files_with(dir.path(), "jsonl").remove(0);
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    std::fs::write(log.with_extension("deadletter"), "{}\n").unwrap();
    let used = inspect::disk_bytes(dir.path());
    let (client, dropped) = dropping(bounded(dir.path(), used + 1));
    append_at_last(&client, &start(10));
    client.flush(LONG).unwrap();
    assert_eq!(*dropped.lock().unwrap(), (9, vec![log.clone()]));
    assert!(!log.exists() && log.with_extension("deadletter").exists());
}

#[test]
fn appends_leave_the_floor_free() {
    let Some(disk) = SmallDisk::mount("8m") else {
        return;
    };
    let free = || {
        let mut stat = Command::new("stat");
        let out = stat.args(["-f", "-c", "%a %S"]).arg(disk.path()).output();
        let out = String::from_utf8(out.unwrap().stdout).unwrap();
        let numbers: Vec<u64> = out.split_whitespace().map(|n| n.parse().unwrap()).collect();
        numbers[0] * numbers[1]
    };
    // A twentieth by default, or what was asked for.
    for floor in [None, Some(3 * MIB)] {
        let collector = Collector::start().unwrap();
        let config = Config::new("team", "app").root(disk.path()).sender(false);
        let client = Client::open(match floor {
            Some(floor) => config.free_space_floor(floor),
            None => config,
        })
        .unwrap();
        let accepted = append_until_full(&client, 0);
        let floor = floor.unwrap_or(8 * MIB / 20);
        assert!(free() >= floor - 8 * KIB, "{} {floor}", free());
        assert!(free() < floor + 64 * KIB, "{} {floor}", free());
        let refused = client.append(Kind::CallStart, &large(0)).unwrap_err();
        assert!(
            refused.to_string().contains("of the disk free"),
            "{refused}"
        );
        drop(client);
        assert!(send(disk.path(), &collector).is_complete());
        assert_each_start_once(&collector, 0..accepted);
    }
}
