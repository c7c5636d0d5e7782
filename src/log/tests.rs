use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::timer::{LONGEST_NAP, NAP};
use super::*;
use crate::faults;
use crate::name::{Extension, FileName};
use crate::record::Kind;

const LIMITS: Limits = Limits {
    durability: Durability::Written,
    sync_interval: Duration::from_secs(86_400),
    segment_bytes: 1 << 20,
    queue_records: 100,
    queue_bytes: 1 << 20,
    queue_wait: Duration::ZERO,
};

fn open(dir: &Path) -> Log {
    let directory = Directory::create(dir).unwrap();
    Log::open(Some(directory), LIMITS, Box::new(|| ())).unwrap()
}

fn line(n: usize) -> String {
    format!("{{\"n\":{n}}}")
}

fn append(log: &Log, n: usize) -> Result<u64> {
    log.append(&Line::new(Kind::ObjCreate, line(n).as_bytes(), usize::MAX)?)
}

/// The numbers of the records in each file, oldest file first.
fn files(dir: &Path) -> Vec<Vec<usize>> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == "jsonl"))
        .collect();
    paths.sort();
    let records = |path| {
        let content = fs::read_to_string(path).unwrap();
        let number = |line: &str| {
            let record = crate::parse(line.as_bytes()).unwrap();
            (0..100).find(|&n| record.req == self::line(n)).unwrap()
        };
        // What is destroyed, or given back up to a newline, reads as NUL bytes.
        let left = content.trim_matches('\0').trim_start();
        left.lines().map(number).collect()
    };
    paths.into_iter().map(records).collect()
}

const WORKS: u8 = 0;

/// A call that fails, and of a sync, destroys what it should have synced.
fn fails() -> u8 {
    faults::failing(0)
}

#[test]
fn what_a_failed_sync_has_destroyed_is_synced_in_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1).unwrap();
    log.sync().unwrap();
    append(&log, 2).unwrap();
    append(&log, 3).unwrap();
    faults::plan(&[fails()]);
    log.sync().unwrap();
    assert_eq!(files(dir.path()), [vec![1], vec![2, 3]]);
    // It goes on there, and nothing is written twice.
    append(&log, 4).unwrap();
    log.sync().unwrap();
    assert_eq!(files(dir.path()), [vec![1], vec![2, 3, 4]]);
    let file = log.oldest_file().unwrap();
    assert!(file.sealed && file.end.offset() > 0);
    log.forget(&file.name);
    let file = log.oldest_file().unwrap();
    assert_eq!((file.sealed, file.base), (false, log.accepted().1 / 4));
}

#[test]
fn a_file_begun_behind_a_failed_sync_is_no_sign_that_what_came_before_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        segment_bytes: 1,
        ..LIMITS
    };
    let directory = Directory::create(dir.path()).unwrap();
    let log = Log::open(Some(directory), limits, Box::new(|| ())).unwrap();
    append(&log, 1).unwrap();
    log.sync().unwrap();
    let synced = log.accepted().1;
    append(&log, 2).unwrap();
    // The next file is begun, the sync of the one before fails, and with it all that is new.
    faults::plan(&[WORKS, fails()]);
    log.sync().unwrap();
    let mut bases = Vec::new();
    while let Some(file) = log.oldest_file() {
        bases.push((file.base, file.end.offset()));
        if !file.sealed {
            break;
        }
        log.forget(&file.name);
    }
    let line = synced;
    assert_eq!(bases, [(0, line), (line, 0), (line, 0), (line, line)]);
}

#[test]
fn while_no_file_can_be_had_every_call_says_so_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1).unwrap();
    // The sync, then each new file's creation.
    faults::plan(&[fails(); 4]);
    for _ in 0..2 {
        assert!(matches!(log.sync(), Err(Error::Degraded(_))));
    }
    assert!(matches!(append(&log, 2), Err(Error::Degraded(_))));
    assert_eq!(log.oldest_file().unwrap().end.offset(), 0);
    faults::plan(&[]);
    append(&log, 3).unwrap();
    log.close().unwrap();
    assert_eq!(files(dir.path()), [vec![], vec![1, 3]]);
    assert!(matches!(append(&log, 4), Err(Error::Closed)));
}

#[test]
fn a_new_file_that_cannot_be_filled_or_synced_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1).unwrap();
    for plan in [
        [fails(), WORKS, fails()].as_slice(),
        &[WORKS, WORKS, fails()],
    ] {
        faults::plan(plan);
        assert!(log.sync().is_err());
        assert_eq!(files(dir.path()).len(), 1);
    }
    log.sync().unwrap();
    assert_eq!(files(dir.path()), [vec![], vec![1]]);
}

#[test]
fn a_line_that_cannot_be_written_is_refused_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1).unwrap();
    for how_far in [0, 30, 63] {
        faults::plan(&[faults::failing(how_far)]);
        assert!(append(&log, 2).unwrap_err().is_io());
    }
    append(&log, 3).unwrap();
    // What cannot be cut off is left behind in a file of its own.
    faults::plan(&[faults::failing(30), fails()]);
    append(&log, 4).unwrap();
    log.sync().unwrap();
    assert_eq!(files(dir.path()), [vec![], vec![1, 3, 4]]);
}

#[test]
fn a_file_that_may_grow_no_more_is_followed_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1).unwrap();
    faults::plan(&[faults::too_large(20)]);
    append(&log, 2).unwrap();
    log.sync().unwrap();
    assert_eq!(files(dir.path()), [[1], [2]]);
    // If there is none to be had, the line is refused, and the next one tries again.
    faults::plan(&[faults::too_large(20), WORKS, fails()]);
    assert!(append(&log, 3).is_err());
    append(&log, 4).unwrap();
    log.sync().unwrap();
    assert_eq!(files(dir.path()), [vec![1], vec![2, 4], vec![]]);
}

fn log_path(dir: &Path, name: &FileName, extension: Extension) -> std::path::PathBuf {
    Directory::at(dir).file(name, extension)
}

#[test]
fn of_a_file_that_somebody_removes_what_is_not_delivered_goes_to_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let first_end = append(&log, 1).unwrap();
    (2..4).for_each(|n| assert!(append(&log, n).is_ok()));
    log.sync().unwrap();
    log.set_delivered(first_end);
    let name = log.oldest_file().unwrap().name;
    assert!(!log.replace_missing(&name).unwrap(), "it is there");
    let lock = log_path(dir.path(), &name, Extension::Lock);
    assert!(lock.exists());
    fs::remove_file(log_path(dir.path(), &name, Extension::Jsonl)).unwrap();
    append(&log, 4).unwrap();
    assert!(log.replace_missing(&name).unwrap());
    assert!(!log.replace_missing(&name).unwrap(), "it is replaced");
    assert_eq!(files(dir.path()), [[2, 3, 4]]);
    assert!(!lock.exists());
    let file = log.oldest_file().unwrap();
    assert_eq!((file.base, file.sealed), (first_end, false));
    assert_eq!(file.base + file.end.offset(), log.accepted().1);
    append(&log, 5).unwrap();
    log.sync().unwrap();
    assert_eq!(files(dir.path()), [[2, 3, 4, 5]]);
}

#[test]
fn a_sync_and_a_close_find_out_that_the_file_was_removed() {
    let end: [fn(&Log) -> Result<()>; 2] = [Log::sync, Log::close];
    for end in end {
        for is_synced in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let log = open(dir.path());
            append(&log, 1).unwrap();
            log.sync().unwrap();
            if !is_synced {
                append(&log, 2).unwrap();
            }
            let name = log.oldest_file().unwrap().name;
            fs::remove_file(log_path(dir.path(), &name, Extension::Jsonl)).unwrap();
            end(&log).unwrap();
            if is_synced {
                log.close().unwrap();
                assert_eq!(files(dir.path()), [[1]]);
            } else {
                assert_eq!(files(dir.path()), [[1, 2]]);
            }
        }
    }
}

#[test]
fn a_removed_file_that_follows_another_is_replaced_from_its_own_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        segment_bytes: 1,
        ..LIMITS
    };
    let directory = Directory::create(dir.path()).unwrap();
    let log = Log::open(Some(directory), limits, Box::new(|| ())).unwrap();
    for n in 1..4 {
        append(&log, n).unwrap();
        log.sync().unwrap();
    }
    append(&log, 4).unwrap();
    assert_eq!(files(dir.path()), [vec![1], vec![2], vec![3], vec![4]]);
    let last = Directory::at(dir.path()).logs().unwrap().remove(3);
    fs::remove_file(log_path(dir.path(), &last, Extension::Jsonl)).unwrap();
    log.close().unwrap();
    // The next file was begun before anybody knew.
    let expected = [vec![1], vec![2], vec![3], vec![], vec![4]];
    assert_eq!(files(dir.path()), expected);
}

/// A log that buffers, with a file whose first line is synced and delivered.
fn open_with_one_delivered(dir: &Path) -> Log {
    let limits = Limits {
        durability: Durability::Buffered,
        ..LIMITS
    };
    let directory = Directory::create(dir).unwrap();
    let log = Log::open(Some(directory.clone()), limits, Box::new(|| ())).unwrap();
    append(&log, 0).unwrap();
    log.sync().unwrap();
    let file = log.oldest_file().unwrap();
    let checkpoint = directory.file(&file.name, Extension::Checkpoint);
    crate::checkpoint::write(&checkpoint, file.end.offset()).unwrap();
    log
}

#[test]
fn on_a_full_disk_what_is_delivered_makes_room() {
    for how_far in [0, 30, 50, 63] {
        let dir = tempfile::tempdir().unwrap();
        let log = open_with_one_delivered(dir.path());
        (1..4).for_each(|n| assert!(append(&log, n).is_ok()));
        // The write, and cutting off what of it is no whole line.
        faults::plan(&[faults::no_space(how_far), WORKS]);
        log.sync().unwrap();
        assert_eq!(files(dir.path()), [[1, 2, 3]]);
        append(&log, 4).unwrap();
        log.sync().unwrap();
        assert_eq!(files(dir.path()), [[1, 2, 3, 4]]);
    }
}

#[test]
fn if_that_room_is_not_enough_every_line_is_still_written_once() {
    for (first, second) in [(0, 0), (0, 50), (30, 40), (50, 0), (50, 50)] {
        let dir = tempfile::tempdir().unwrap();
        let log = open_with_one_delivered(dir.path());
        (1..5).for_each(|n| assert!(append(&log, n).is_ok()));
        faults::plan(&[
            faults::no_space(first),
            WORKS,
            faults::no_space(second),
            WORKS,
        ]);
        assert!(log.sync().unwrap_err().is_no_space());
        let written = files(dir.path()).remove(0);
        assert_eq!(
            log.position().written,
            (1 + written.len() as u64) * log.accepted().1 / 5
        );
        log.sync().unwrap();
        assert_eq!(files(dir.path()), [[1, 2, 3, 4]]);
    }
}

#[test]
fn a_full_disk_takes_nothing_back_that_is_not_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1).unwrap();
    faults::plan(&[faults::no_space(30), WORKS]);
    assert!(append(&log, 2).unwrap_err().is_no_space());
    append(&log, 3).unwrap();
    assert_eq!(files(dir.path()), [[1, 3]]);
}

#[test]
fn of_several_blocks_those_that_came_in_are_not_written_again() {
    const LINES: usize = 70;
    for plan in [
        [faults::failing(30)].as_slice(),
        &[WORKS, faults::failing(0)],
        &[WORKS, faults::failing(30)],
        &[WORKS, WORKS, faults::failing(30)],
        // In the block that is open.
        &[WORKS, WORKS, WORKS, faults::failing(30)],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = open_with_one_delivered(dir.path());
        (1..LINES).for_each(|n| assert!(append(&log, n).is_ok()));
        faults::plan(plan);
        assert!(log.sync().unwrap_err().is_io());
        log.sync().unwrap();
        assert_eq!(files(dir.path()), [(0..LINES).collect::<Vec<_>>()]);
    }
}

/// Blocks are small here, so that appends, writes without the mutex, syncs and rotations meet. A
/// wake-up that is missed leaves a thread waiting for ever, and the channel says so.
#[test]
fn every_line_is_in_the_files_once_and_in_its_order_whoever_writes_it() {
    const EACH: usize = 400;
    for (durability, threads) in [
        (Durability::Buffered, 2),
        (Durability::Buffered, 16),
        (Durability::Written, 8),
        (Durability::Synced, 8),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::create(dir.path()).unwrap();
        let limits = Limits {
            durability,
            segment_bytes: 20_000,
            queue_bytes: 16_000,
            queue_wait: Duration::from_secs(60),
            ..LIMITS
        };
        let log = Log::open(Some(directory), limits, Box::new(|| ())).unwrap();
        let log = std::sync::Arc::new(log);
        let (done, finished) = std::sync::mpsc::channel();
        for thread in 0..threads {
            let (log, done) = (log.clone(), done.clone());
            std::thread::spawn(move || {
                for n in 0..EACH {
                    let req = format!(
                        "{{\"thread\":{thread},\"n\":{n},\"x\":\"{}\"}}",
                        "x".repeat(n)
                    );
                    let line = Line::new(Kind::CallEnd, req.as_bytes(), usize::MAX).unwrap();
                    let position = log.append(&line).unwrap();
                    match (thread + n * 7) % 16 {
                        0 => log.sync_to(position).unwrap(),
                        1 => drop(log.keep_time()),
                        2 => log.write(),
                        _ => {}
                    }
                }
                done.send(()).unwrap();
            });
        }
        for _ in 0..threads {
            let waited = finished.recv_timeout(Duration::from_secs(60));
            waited.expect("a thread waits for ever, or has panicked");
        }
        log.close().unwrap();
        let mut next = vec![0; threads];
        for path in Directory::at(dir.path()).logs().unwrap() {
            let path = Directory::at(dir.path()).file(&path, Extension::Jsonl);
            for line in fs::read_to_string(path).unwrap().lines() {
                let req: serde_json::Value =
                    serde_json::from_str(crate::parse(line.as_bytes()).unwrap().req).unwrap();
                let thread = req["thread"].as_u64().unwrap() as usize;
                assert_eq!(req["n"].as_u64().unwrap(), next[thread]);
                next[thread] += 1;
            }
        }
        assert_eq!(next, vec![EACH as u64; threads]);
    }
}

#[test]
fn a_sync_of_what_is_written_leaves_the_rest_to_the_next_one() {
    for storage in [WORKS, fails()] {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::create(dir.path()).unwrap();
        let limits = Limits {
            durability: Durability::Buffered,
            queue_bytes: 1 << 10,
            ..LIMITS
        };
        let log = Log::open(Some(directory), limits, Box::new(|| ())).unwrap();
        // More than half of the queue.
        for n in 0..14 {
            append(&log, n).unwrap();
        }
        log.write();
        let written = log.accepted().1;
        append(&log, 14).unwrap();
        faults::plan(&[storage]);
        log.keep_time();
        if storage == WORKS {
            assert_eq!(log.lock().synced, written);
            assert_eq!(files(dir.path()).concat(), Vec::from_iter(0..14));
        }
        append(&log, 15).unwrap();
        log.close().unwrap();
        assert_eq!(files(dir.path()).concat(), Vec::from_iter(0..16));
        assert_eq!(log.lock().synced, log.accepted().1);
        assert_eq!(log.lock().lines.count(), 0);
    }
}

/// Whoever waits for a write is woken by its end, for here nobody else comes along who would do it.
#[test]
fn a_sync_that_meets_a_write_goes_on_when_that_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        durability: Durability::Buffered,
        queue_records: u64::MAX,
        segment_bytes: u64::MAX,
        ..LIMITS
    };
    let directory = Directory::create(dir.path()).unwrap();
    let log = Log::open(Some(directory), limits, Box::new(|| ())).unwrap();
    let log = std::sync::Arc::new(log);
    let part = |work: fn(&Log)| {
        let (orders, order) = std::sync::mpsc::channel::<()>();
        let (done, finished) = std::sync::mpsc::channel();
        let log = log.clone();
        std::thread::spawn(move || {
            while order.recv().is_ok() {
                work(&log);
                done.send(()).unwrap();
            }
        });
        (orders, finished)
    };
    let writes = part(|log| {
        let req = format!("{{\"x\":\"{}\"}}", "x".repeat(lines::BLOCK / 2));
        let line = Line::new(Kind::CallEnd, req.as_bytes(), usize::MAX).unwrap();
        (0..20).for_each(|_| assert!(log.append(&line).is_ok()));
    });
    let syncs = part(|log| {
        while log.position().written == 0 {
            std::thread::yield_now();
        }
        log.sync().unwrap();
    });
    for _ in 0..2_000 {
        for (orders, _) in [&writes, &syncs] {
            orders.send(()).unwrap();
        }
        for (_, finished) in [&writes, &syncs] {
            let waited = finished.recv_timeout(Duration::from_secs(60));
            waited.expect("one waits for ever, or has panicked");
        }
    }
}

#[test]
fn without_the_thread_what_was_left_to_it_goes_before_the_next_line() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        durability: Durability::Buffered,
        ..LIMITS
    };
    let directory = Directory::create(dir.path()).unwrap();
    let log = Log::open(Some(directory), limits, Box::new(|| ())).unwrap();
    // More than a block, and less than an append writes out by itself.
    let before = 2 * lines::BLOCK / 64;
    (0..before).for_each(|n| assert!(append(&log, n).is_ok()));
    assert_eq!(log.position().written, 0);
    log.leave_unattended();
    append(&log, before).unwrap();
    assert_eq!(files(dir.path()), [(0..=before).collect::<Vec<_>>()]);
}

/// A log, and how often its thread was woken.
fn open_counting(dir: &Path, limits: Limits) -> (Log, Arc<AtomicU64>) {
    let wakes = Arc::new(AtomicU64::new(0));
    let directory = Directory::create(dir).unwrap();
    let counter = Arc::clone(&wakes);
    let wake = move || {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    let log = Log::open(Some(directory), limits, Box::new(wake)).unwrap();
    (log, wakes)
}

#[test]
fn while_there_is_traffic_nobody_wakes_the_thread() {
    let dir = tempfile::tempdir().unwrap();
    let (log, wakes) = open_counting(dir.path(), LIMITS);
    for (round, first) in [0, 10].into_iter().enumerate() {
        assert_eq!(log.keep_time(), None);
        for n in first..first + 10 {
            append(&log, n).unwrap();
            log.sync().unwrap();
            // What was synced can be sent, and then the thread naps.
            let begun = Instant::now();
            assert!(log.keep_time().unwrap() <= Instant::now());
            let naps_until = log.keep_time().unwrap();
            assert!(naps_until > begun && naps_until <= Instant::now() + LONGEST_NAP);
        }
        assert_eq!(wakes.load(Ordering::Relaxed), round as u64 + 1);
    }
    assert_eq!(log.keep_time(), None);
}

#[test]
fn what_is_buffered_is_looked_after_within_a_millisecond() {
    let dir = tempfile::tempdir().unwrap();
    let durability = Durability::Buffered;
    let (log, _) = open_counting(
        dir.path(),
        Limits {
            durability,
            ..LIMITS
        },
    );
    append(&log, 0).unwrap();
    assert!(log.keep_time().unwrap() <= Instant::now() + NAP);
    log.sync().unwrap();
    assert!(log.keep_time().unwrap() <= Instant::now());
    assert!(log.keep_time().unwrap() <= Instant::now() + NAP);
    assert_eq!(log.keep_time(), None);
}

#[test]
fn before_a_timer_that_is_far_away_a_sync_wakes_the_thread_and_an_append_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (log, wakes) = open_counting(dir.path(), LIMITS);
    append(&log, 0).unwrap();
    assert!(log.keep_time().unwrap() > Instant::now() + LIMITS.sync_interval / 2);
    append(&log, 1).unwrap();
    assert_eq!(wakes.load(Ordering::Relaxed), 0);
    log.sync().unwrap();
    assert_eq!(wakes.load(Ordering::Relaxed), 1);
    append(&log, 2).unwrap();
    assert_eq!(wakes.load(Ordering::Relaxed), 1);
    // Near enough: the timer does.
    let sync_interval = LONGEST_NAP / 2;
    let (log, wakes) = open_counting(
        dir.path(),
        Limits {
            sync_interval,
            ..LIMITS
        },
    );
    append(&log, 3).unwrap();
    assert!(log.keep_time().unwrap() <= Instant::now() + LONGEST_NAP);
    log.sync().unwrap();
    assert_eq!(wakes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_sync_that_ends_well_after_the_file_was_given_up_does_not_confuse_the_timer() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path()));
    append(&log, 1).unwrap();
    let other = Arc::clone(&log);
    faults::during_sync(move || {
        // Neither written, nor cut off, nor moved to a new file.
        faults::plan(&[faults::failing(30), fails(), fails()]);
        assert!(matches!(append(&other, 2), Err(Error::Degraded(_))));
    });
    log.sync().unwrap();
    // The first time for what can be sent now.
    for _ in 0..2 {
        log.keep_time();
    }
    let (position, end) = (log.position(), log.accepted().1);
    assert_eq!((position.written, position.synced), (end, end));
    append(&log, 3).unwrap();
    log.close().unwrap();
    assert_eq!(files(dir.path()), [[1], [3]]);
}

#[test]
fn what_comes_after_somebody_has_cut_the_file_is_moved_to_a_new_one() {
    for left in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        (0..4).for_each(|n| assert!(append(&log, n).is_ok()));
        log.sync().unwrap();
        let file = log.oldest_file().unwrap();
        let line = file.end.offset() / 4;
        let path = log_path(dir.path(), &file.name, Extension::Jsonl);
        let cut = fs::OpenOptions::new().write(true).open(path).unwrap();
        cut.set_len(left * line).unwrap();
        // More than was there before.
        (4..9).for_each(|n| assert!(append(&log, n).is_ok()));
        log.close().unwrap();
        let left: Vec<_> = (0..left as usize).collect();
        assert_eq!(files(dir.path()), [left, (4..9).collect()]);
        let cut = log.oldest_file().unwrap();
        assert_eq!((cut.base, cut.end.offset()), (0, 4 * line));
        log.forget(&cut.name);
        let new = log.oldest_file().unwrap();
        assert_eq!((new.base, new.end.offset()), (4 * line, 5 * line));
    }
}

#[test]
fn what_comes_after_somebody_has_added_to_the_file_is_moved_to_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 0).unwrap();
    log.sync().unwrap();
    append(&log, 1).unwrap();
    let name = log.oldest_file().unwrap().name;
    let path = log_path(dir.path(), &name, Extension::Jsonl);
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, b"no record\n").unwrap();
    append(&log, 2).unwrap();
    log.close().unwrap();
    assert_eq!(files(dir.path()), [vec![0], vec![1, 2]]);
}

#[test]
fn a_file_that_was_cut_and_then_removed_stops_nothing() {
    for left in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        (0..4).for_each(|n| assert!(append(&log, n).is_ok()));
        log.sync().unwrap();
        let file = log.oldest_file().unwrap();
        let path = log_path(dir.path(), &file.name, Extension::Jsonl);
        let cut = fs::OpenOptions::new().write(true).open(&path).unwrap();
        cut.set_len(left).unwrap();
        fs::remove_file(path).unwrap();
        append(&log, 4).unwrap();
        log.sync().unwrap();
        append(&log, 5).unwrap();
        log.close().unwrap();
        assert_eq!(files(dir.path()), [[4, 5]]);
    }
}

#[test]
fn a_file_that_was_given_up_during_its_last_sync_is_let_go_when_the_log_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path()));
    append(&log, 1).unwrap();
    let other = Arc::clone(&log);
    faults::during_sync(move || {
        faults::plan(&[faults::failing(30), fails(), fails()]);
        assert!(matches!(append(&other, 2), Err(Error::Degraded(_))));
    });
    log.sync().unwrap();
    log.close().unwrap();
    while let Some(file) = log.oldest_file() {
        assert!(file.sealed, "it would never be removed");
        log.forget(&file.name);
    }
}

#[test]
fn however_far_the_timer_is_storage_that_works_again_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open_counting(dir.path(), LIMITS);
    append(&log, 1).unwrap();
    // The sync, and the new file.
    faults::plan(&[fails(), fails()]);
    assert!(matches!(log.sync(), Err(Error::Degraded(_))));
    log.keep_time();
    assert_eq!(files(dir.path()), [vec![], vec![1]]);
    assert_eq!(log.synced(), log.accepted().1);
}

#[test]
fn however_far_the_timer_is_who_waits_is_served_as_soon_as_the_disk_has_room() {
    let waits: [fn(&Log) -> Result<()>; 2] = [|log| log.sync_soon(log.accepted().1), Log::close];
    for wait in waits {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            durability: Durability::Buffered,
            ..LIMITS
        };
        let (log, _) = open_counting(dir.path(), limits);
        append(&log, 1).unwrap();
        faults::plan(&[faults::no_space(0), WORKS]);
        assert!(wait(&log).unwrap_err().is_no_space());
        log.keep_time();
        assert_eq!(files(dir.path()), [[1]]);
        assert_eq!(log.synced(), log.accepted().1);
    }
}

#[test]
fn a_full_queue_in_memory_is_handed_to_the_thread_also_if_nobody_waits_for_that() {
    let limits = Limits {
        queue_records: 1,
        ..LIMITS
    };
    let log = Log::open(None, limits, Box::new(|| ())).unwrap();
    append(&log, 1).unwrap();
    assert!(matches!(append(&log, 2), Err(Error::QueueFull { .. })));
    assert_eq!(log.synced(), log.accepted().1);
}

#[test]
fn what_is_buffered_is_written_also_if_somebody_looks_at_the_log_just_then() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_with_one_delivered(dir.path());
    append(&log, 1).unwrap();
    std::thread::scope(|scope| {
        let (held, holds) = std::sync::mpsc::channel();
        let log = &log;
        scope.spawn(move || {
            let state = log.hang();
            held.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            drop(state);
        });
        holds.recv().unwrap();
        log.write();
    });
    assert_eq!(files(dir.path()), [[0, 1]]);
}

#[test]
fn in_the_smallest_queue_what_is_buffered_is_written_too() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        durability: Durability::Buffered,
        queue_bytes: 1,
        ..LIMITS
    };
    let (log, _) = open_counting(dir.path(), limits);
    append(&log, 1).unwrap();
    log.keep_time();
    assert_eq!(files(dir.path()), [[1]]);
}
