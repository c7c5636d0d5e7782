use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use super::*;
use crate::record::Kind;
use crate::rehearsal::*;
use crate::replay::Progress;
use crate::report::Event;
use crate::sys;

/// A log file in a directory of its own.
struct Planted {
    _dir: tempfile::TempDir,
    directory: Directory,
    name: FileName,
}

impl Planted {
    fn new(log: impl AsRef<[u8]>) -> Planted {
        let dir = tempfile::tempdir().unwrap();
        let planted = Planted {
            directory: Directory::at(dir.path()),
            name: FileName::parse("1_a.jsonl".as_ref()).unwrap().0,
            _dir: dir,
        };
        fs::write(planted.path(Extension::Jsonl), log).unwrap();
        planted
    }

    fn path(&self, extension: Extension) -> PathBuf {
        self.directory.file(&self.name, extension)
    }

    fn checkpoint(&self, offset: usize) -> &Planted {
        fs::write(self.path(Extension::Checkpoint), offset.to_string()).unwrap();
        self
    }

    /// A writer as this crate's are, for as long as that lives.
    fn writer(&self) -> fs::File {
        let lock = fs::File::create(self.path(Extension::Lock)).unwrap();
        assert!(sys::try_flock(&lock).unwrap());
        lock
    }

    /// A writer as Python's are, which lives.
    fn pid(&self) {
        let pid = std::process::id().to_string();
        fs::write(self.path(Extension::Lock), pid).unwrap();
    }

    fn open(&self) -> Drain {
        Drain::open(&self.directory, &self.name, false)
            .unwrap()
            .unwrap()
    }

    fn offset(&self) -> u64 {
        self.open().offset()
    }
}

fn end_of(offset: usize, is_final: bool) -> End {
    End {
        offset: offset as u64,
        is_final,
    }
}

#[test]
fn delivery_begins_at_the_checkpoint_or_at_the_start_of_the_line_it_points_into() {
    let long = start(0).replace("n0", &"n".repeat(200_000));
    let log = start(1) + &long + &start(2);
    let planted = Planted::new(&log);
    let starts = [0, start(1).len(), start(1).len() + long.len(), log.len()];
    assert_eq!(planted.offset(), 0);
    for (line, offset) in [
        (0, 0),
        (0, 1),
        (1, starts[1]),
        (1, starts[1] + 1),
        (1, starts[2] - 1),
        (2, starts[2]),
        (2, starts[2] + 1),
        (3, starts[3]),
    ] {
        assert_eq!(
            planted.checkpoint(offset).offset(),
            starts[line] as u64,
            "{offset}"
        );
    }
    fs::write(planted.path(Extension::Checkpoint), "nonsense").unwrap();
    assert_eq!(planted.offset(), 0);
}

#[test]
fn a_nul_is_an_end_of_a_line_as_well() {
    let planted = Planted::new("{}\0\0{\"a\":1}\n");
    for (checkpoint, offset) in [(1, 0), (2, 2), (3, 3), (4, 4), (6, 4)] {
        assert_eq!(planted.checkpoint(checkpoint).offset(), offset);
    }
}

#[test]
fn beyond_the_end_nothing_is_pending_in_a_dead_file_and_everything_in_a_live_one() {
    let planted = Planted::new(start(0));
    let len = start(0).len();
    assert_eq!(planted.checkpoint(len + 1).offset(), len as u64 + 1);
    let _writer = planted.writer();
    assert_eq!(planted.offset(), 0);
    assert_eq!(planted.checkpoint(len).offset(), len as u64);
}

#[test]
fn one_log_is_delivered_by_one_at_a_time() {
    let planted = Planted::new(start(0));
    let drain = planted.open();
    assert!(
        Drain::open(&planted.directory, &planted.name, false)
            .unwrap()
            .is_none()
    );
    drop(drain);
    drop(planted.open());
    fs::remove_file(planted.path(Extension::Jsonl)).unwrap();
    assert!(
        Drain::open(&planted.directory, &planted.name, false)
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_live_file_is_read_up_to_its_last_newline_and_a_dead_one_to_its_end() {
    let torn = "x".repeat(200_000);
    let log = start(0) + &torn;
    let planted = Planted::new(&log);
    let writer = planted.writer();
    let mut drain = planted.open();
    assert_eq!(drain.foreign_end().unwrap(), end_of(start(0).len(), false));
    // Not before what is delivered.
    drain.skip_to(start(0).len() as u64 + 7);
    assert_eq!(
        drain.foreign_end().unwrap(),
        end_of(start(0).len() + 7, false)
    );
    drop(writer);
    assert_eq!(drain.foreign_end().unwrap(), end_of(log.len(), true));
    // And it stays dead: nobody else can begin to write to it.
    let lock = fs::File::open(planted.path(Extension::Lock)).unwrap();
    assert!(!sys::try_flock(&lock).unwrap());
}

#[test]
fn a_process_id_means_a_writer_only_where_the_file_is_not_of_this_crate() {
    for (first, is_final) in [
        (start(0), false),
        (with_checksum(Kind::CallStart, "{}"), true),
        (
            with_checksum(
                Kind::CallStart,
                &format!("{{\"a\":\"{}\"}}", "x".repeat(20_000)),
            ),
            false,
        ),
    ] {
        let planted = Planted::new(first.clone() + &start(1));
        planted.pid();
        let mut drain = planted.open();
        assert_eq!(drain.foreign_end().unwrap().is_final, is_final);
        // Too long to be looked at is found out by reading.
        let end = drain.end().unwrap();
        drain.fill(end, &LIMITS).unwrap();
        let is_ours = first.contains("\"crc\"");
        assert_eq!(drain.foreign_end().unwrap().is_final, is_ours);
    }
}

#[test]
fn a_file_goes_when_it_is_delivered_to_its_end_and_nobody_writes_to_it() {
    let planted = Planted::new(start(0));
    let len = start(0).len();
    planted.checkpoint(0);
    assert!(!planted.open().remove_foreign().unwrap());
    planted.checkpoint(len);
    let writer = planted.writer();
    assert!(!planted.open().remove_foreign().unwrap());
    drop(writer);
    fs::write(planted.path(Extension::Deadletter), "").unwrap();
    assert!(planted.path(Extension::Jsonl).exists());
    assert!(planted.open().remove_foreign().unwrap());
    let left: Vec<_> = planted.directory.entries().unwrap();
    assert_eq!(left, [(planted.name.clone(), Extension::Deadletter)]);
}

#[test]
fn what_is_given_up_is_counted_from_the_checkpoint_on() {
    let log = starts(0..2) + "oops\n" + &starts(2..2_500);
    let planted = Planted::new(&log);
    let offset = start(0).len();
    planted.checkpoint(offset);
    let writer = planted.writer();
    assert!(planted.open().discard().unwrap().is_none());
    assert!(planted.path(Extension::Jsonl).exists());
    drop(writer);
    let discarded = planted.open().discard().unwrap().unwrap();
    assert_eq!(
        (discarded.records, discarded.bytes as usize),
        (2_499, log.len() - offset)
    );
    assert_eq!(discarded.path, planted.path(Extension::Jsonl));
    assert!(planted.directory.entries().unwrap().is_empty());
    let planted = Planted::new(start(0));
    planted.checkpoint(start(0).len());
    let discarded = planted.open().discard().unwrap().unwrap();
    assert_eq!((discarded.records, discarded.bytes), (0, 0));
}

#[test]
fn what_is_under_way_is_not_skipped() {
    let planted = Planted::new(starts(0..3));
    let mut drain = planted.open();
    let at = start(0).len() as u64;
    drain.skip_to(2 * at);
    drain.skip_to(at);
    assert_eq!(drain.offset(), 2 * at);
    let end = drain.foreign_end().unwrap();
    drain.fill(end, &LIMITS).unwrap();
    drain.skip_to(3 * at);
    assert_eq!(drain.offset(), 2 * at);
    assert_eq!(
        drain.batch.as_ref().map(|batch| batch.entries.len()),
        Some(1)
    );
}

#[test]
fn only_what_may_have_been_sent_before_is_doubtful() {
    let planted = Planted::new(starts(0..2));
    let mut drain = planted.open();
    let mut log = fs::OpenOptions::new()
        .append(true)
        .open(planted.path(Extension::Jsonl))
        .unwrap();
    io::Write::write_all(&mut log, starts(2..4).as_bytes()).unwrap();
    drop(log);
    let end = drain.foreign_end().unwrap();
    let doubtful = |drain: &mut Drain| -> Vec<bool> {
        drain.batch = None;
        drain.fill(end, &LIMITS).unwrap();
        let entries = &drain.batch.as_ref().unwrap().entries;
        entries.iter().map(|entry| entry.is_doubtful).collect()
    };
    assert_eq!(doubtful(&mut drain), [true, true, false, false]);
    drain.doubt();
    assert_eq!(doubtful(&mut drain), [true; 4]);
}

#[test]
fn what_was_read_ahead_is_not_used_when_its_writer_has_taken_it_back() {
    let planted = Planted::new(starts(0..4));
    let mut drain = planted.open();
    let two = (2 * start(0).len()) as u64;
    let limits = BatchLimits {
        records: 2,
        ..LIMITS
    };
    let end = drain.foreign_end().unwrap();
    for (len, records) in [(4, 2), (3, 1)] {
        drain.offset = two;
        drain.batch = None;
        drain.ahead = drain.peek(two, end, &limits);
        assert!(drain.ahead.is_some());
        let log = fs::OpenOptions::new()
            .write(true)
            .open(planted.path(Extension::Jsonl))
            .unwrap();
        log.set_len(starts(0..len).len() as u64).unwrap();
        drain.fill(end, &limits).unwrap();
        assert!(drain.ahead.is_none());
        assert_eq!(drain.batch.as_ref().unwrap().entries.len(), records);
    }
    // Nor for another place.
    drain.ahead = drain.peek(two, end, &limits);
    drain.offset = 0;
    drain.batch = None;
    drain.fill(end, &limits).unwrap();
    assert_eq!(drain.batch.as_ref().unwrap().entries[0].line.start, 0);
    assert!(drain.peek(end.offset, end, &limits).is_none());
}

#[test]
fn what_was_read_ahead_is_used_unless_batches_have_become_smaller() {
    let planted = Planted::new(starts(0..2));
    let mut drain = planted.open();
    let end = drain.foreign_end().unwrap();
    for (records, is_used) in [(3, true), (2, true), (1, false)] {
        let (at, mut batch) = drain.peek(0, end, &LIMITS).unwrap();
        batch.attempts = 7;
        drain.ahead = Some((at, batch));
        drain.batch = None;
        drain.fill(end, &BatchLimits { records, ..LIMITS }).unwrap();
        let batch = drain.batch.as_ref().unwrap();
        assert_eq!(batch.attempts == 7, is_used);
        assert_eq!(batch.entries.len(), records.min(2));
    }
}

#[test]
fn every_damaged_byte_is_kept_with_its_place_and_the_reason() {
    let long = "x".repeat(600 << 10);
    let log = start(0) + &long + "\n" + &start(1) + "to\0rn";
    let limits = BatchLimits {
        record: 1024,
        ..LIMITS
    };
    let mut rehearsal = Rehearsal::limited(limits, &log, |_| accept());
    let settled = rehearsal.settle();
    assert_eq!(
        (settled.delivered, settled.corrupt, settled.records),
        (2, 3, 2)
    );
    let letters = rehearsal.letters();
    let raw = |letter: &serde_json::Value| {
        crate::base64::decode(letter["raw_base64"].as_str().unwrap()).unwrap()
    };
    let dated = |letter: &serde_json::Value| letter["at"].as_str().unwrap().ends_with('Z');
    assert!(letters.iter().all(dated));
    let at = start(0).len() as u64;
    let mut next = at;
    for letter in &letters[..letters.len() - 2] {
        assert_eq!(letter["offset"], next);
        assert!(raw(letter).len() <= 256 << 10);
        next += raw(letter).len() as u64;
    }
    assert_eq!(next, at + long.len() as u64);
    assert_eq!(letters.len(), 3 + 2);
    let torn = (log.len() - 5) as u64;
    let last: Vec<_> = letters[3..]
        .iter()
        .map(|letter| (letter["offset"].as_u64().unwrap(), raw(letter)))
        .collect();
    assert_eq!(last, [(torn, b"to".to_vec()), (torn + 3, b"rn".to_vec())]);
    let told: Vec<_> = rehearsal
        .server
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Corrupt {
                offset,
                bytes,
                reason,
                path,
            } => {
                assert_eq!(
                    path.as_deref(),
                    Some(rehearsal.path(Extension::Jsonl).as_path())
                );
                Some((*offset, *bytes, reason.clone()))
            }
            _ => None,
        })
        .collect();
    // A newline belongs to what stands before it.
    let piece: Range<u64> = at..at + long.len() as u64;
    assert!(piece.end - piece.start <= told[0].1 && told[0].1 <= piece.end - piece.start + 1);
    let places: Vec<_> = told.iter().map(|(offset, ..)| *offset).collect();
    assert_eq!(places, [at, torn, torn + 3]);
    assert!(told[1].2.contains("torn"), "{}", told[1].2);
    assert_eq!(letters[3]["reason"], told[1].2.as_str());
}

#[test]
fn many_refused_records_are_all_kept_in_the_order_of_the_log() {
    let large = |n: usize| {
        format!(
            "{{\"type\":\"obj_create\",\"req\":{{\"id\":\"n{n}\",\"x\":\"{}\"}}}}\n",
            "x".repeat(100_000)
        )
    };
    let log = object(0) + &(1..41).map(large).collect::<String>();
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.numbers() == [0] {
        true => accept(),
        false => refuse("no"),
    });
    assert_eq!(rehearsal.settle().rejected, 40);
    let letters = rehearsal.letters();
    let found: Vec<_> = letters
        .iter()
        .map(|letter| letter["record"]["req"]["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, (1..41).map(|n| format!("n{n}")).collect::<Vec<_>>());
    let told = rehearsal
        .server
        .events
        .iter()
        .filter(|event| matches!(event, Event::DeadLettered { .. }));
    assert_eq!(told.count(), 40);
    assert_eq!(rehearsal.drain.offset(), log.len() as u64);
}

#[test]
fn a_refused_record_is_kept_without_what_ended_it() {
    for end in ["\n", "\0\0\n", " \r\n", ""] {
        let log = object(7).trim_end().to_owned() + end;
        let mut rehearsal = Rehearsal::new(&log, |_| refuse("no"));
        assert_eq!(rehearsal.settle().rejected, 1);
        let text = fs::read_to_string(rehearsal.path(Extension::Deadletter)).unwrap();
        let kept = format!(
            "{{\"record\":{},\"raw_base64\":null,\"offset\":0,",
            object(7).trim_end()
        );
        assert!(text.starts_with(&kept), "{text}");
        assert!(text.trim_end().ends_with("Z\"}"), "{text}");
        // And nothing was delivered.
        assert!(matches!(
            rehearsal.server.events[..],
            [Event::DeadLettered { .. }]
        ));
    }
}

#[test]
fn what_the_file_still_needs_is_told_by_the_checkpoint_and_nothing_is_settled_twice() {
    let mut rehearsal = Rehearsal::of(2, &starts(0..3), |_| accept());
    let checkpoint = |rehearsal: &Rehearsal<'_>| {
        fs::read_to_string(rehearsal.path(Extension::Checkpoint)).unwrap()
    };
    assert_eq!(rehearsal.settle().delivered, 2);
    assert_eq!(checkpoint(&rehearsal), starts(0..2).len().to_string());
    let end = rehearsal.end();
    assert_eq!(
        rehearsal
            .drain
            .settle(end, &mut |_| panic!("told"))
            .unwrap(),
        Settled::default()
    );
    assert_eq!(rehearsal.settle().delivered, 1);
    assert_eq!(checkpoint(&rehearsal), starts(0..3).len().to_string());
    let told: Vec<_> = rehearsal.server.events.iter().collect();
    assert_eq!(
        told,
        [
            &Event::Delivered { records: 2 },
            &Event::Delivered { records: 1 }
        ]
    );
}

#[test]
fn a_checkpoint_that_cannot_be_written_settles_nothing_and_is_tried_again() {
    let log = start(0) + "oops\n";
    let mut rehearsal = Rehearsal::new(&log, |_| accept());
    let in_the_way = checkpoint::temporary(&rehearsal.path(Extension::Checkpoint));
    fs::create_dir(&in_the_way).unwrap();
    for _ in 0..2 {
        assert!(rehearsal.step().is_err());
        assert_eq!(rehearsal.drain.offset(), 0);
    }
    fs::remove_dir(&in_the_way).unwrap();
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.corrupt), (1, 1));
    assert_eq!(rehearsal.server.sent.len(), 1);
    assert_eq!(rehearsal.letters().len(), 1);
    let corrupt = |event: &&Event| matches!(event, Event::Corrupt { .. });
    assert_eq!(rehearsal.server.events.iter().filter(corrupt).count(), 1);
}

#[test]
fn what_somebody_else_wrote_is_synced_before_it_is_read_and_only_then() {
    let planted = Planted::new(starts(0..2));
    let mut drain = planted.open();
    let synced = |drain: &Drain| match &drain.source {
        Source::File(log) => log.synced,
        Source::Memory(_) => panic!("it is a file"),
    };
    drain.end().unwrap();
    assert_eq!(synced(&drain), 0);
    let end = drain.foreign_end().unwrap().offset;
    assert_eq!(synced(&drain), end);
    // More has come, then somebody else has delivered it.
    let mut log = fs::OpenOptions::new()
        .append(true)
        .open(planted.path(Extension::Jsonl))
        .unwrap();
    io::Write::write_all(&mut log, start(2).as_bytes()).unwrap();
    drop(log);
    let end = drain.foreign_end().unwrap().offset;
    assert_eq!(synced(&drain), end);
    drop(drain);
    let mut drain = planted.checkpoint(end as usize).open();
    drain.foreign_end().unwrap();
    assert_eq!(synced(&drain), 0);
}

#[test]
fn what_batches_come_to_adds_up() {
    let each = Settled {
        delivered: 1,
        rejected: 2,
        corrupt: 3,
        records: 4,
    };
    let mut all = each;
    all += each;
    let twice = Settled {
        delivered: 2,
        rejected: 4,
        corrupt: 6,
        records: 8,
    };
    assert_eq!(all, twice);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_and_not_tried_for_ever() {
    let planted = Planted::new(start(0));
    let file = fs::OpenOptions::new()
        .write(true)
        .open(planted.path(Extension::Jsonl))
        .unwrap();
    assert!(Bytes::read_at(&file, &mut [0; 8], 0).is_err());
    let file = fs::File::open(planted.path(Extension::Jsonl)).unwrap();
    assert_eq!(Bytes::read_at(&file, &mut [0; 8], 0).unwrap(), 8);
}

#[test]
fn space_is_given_back_in_the_file_that_is_delivered_and_in_no_other() {
    let line = with_checksum(Kind::CallStart, r#"{"start":{"id":"n1"}}"#);
    let log = line.repeat(1 + (64 << 10) / line.len());
    let delivered = line.len() * (log.len() / line.len() - 1);
    let planted = Planted::new(&log);
    let drain = planted.open();
    let (path, moved) = (
        planted.path(Extension::Jsonl),
        planted.path(Extension::Lock),
    );
    // Somebody has put another file in its place.
    fs::rename(&path, &moved).unwrap();
    fs::write(&path, &log).unwrap();
    assert!(!drain.give_back(delivered as u64));
    assert!(fs::read(&path).unwrap() == log.as_bytes());

    fs::rename(&moved, &path).unwrap();
    assert!(drain.give_back(delivered as u64));
    let left = fs::read(&path).unwrap();
    assert!(left[..delivered - 1].iter().all(|byte| *byte == 0));
    assert!(left[delivered - 1..] == log.as_bytes()[delivered - 1..]);
}

/// Puts another file in the place of a log, as a restored backup or an editor does.
fn replace(planted: &Planted, log: &str) {
    let aside = planted.path(Extension::Jsonl).with_extension("new");
    fs::write(&aside, log).unwrap();
    fs::rename(aside, planted.path(Extension::Jsonl)).unwrap();
}

#[test]
fn a_file_that_took_the_place_of_the_one_being_delivered_is_left_alone() {
    let log = starts(0..3);
    let planted = Planted::new(&log);
    let mut drain = planted.open();
    let end = drain.foreign_end().unwrap();
    drain.fill(end, &LIMITS).unwrap();
    replace(&planted, &starts(0..6));
    for entry in &mut drain.batch.as_mut().unwrap().entries {
        entry.verdict = Verdict::Delivered;
    }
    assert_eq!(drain.settle(end, &mut |_| ()).unwrap().delivered, 3);
    assert!(!planted.path(Extension::Checkpoint).exists());
    assert!(!drain.remove_foreign().unwrap());
    assert!(planted.path(Extension::Jsonl).exists());
    assert_eq!(planted.offset(), 0);
}

#[test]
fn a_log_of_ours_that_somebody_has_open_for_writing_is_not_at_its_end() {
    // A copy that is being made holds no lock.
    let planted = Planted::new(with_checksum(Kind::ObjCreate, "{}"));
    let copy = fs::OpenOptions::new()
        .append(true)
        .open(planted.path(Extension::Jsonl));
    let mut drain = planted.open();
    assert!(!drain.foreign_end().unwrap().is_final);
    drop(copy);
    assert!(drain.foreign_end().unwrap().is_final);
}

#[test]
fn a_log_whose_beginning_was_given_back_is_ours_whoever_has_its_number() {
    let given_back = "\0".repeat(4095) + "\n";
    for (log, is_final) in [(given_back + &start(0), true), (start(0), false)] {
        let planted = Planted::new(log);
        planted.pid();
        assert_eq!(planted.open().foreign_end().unwrap().is_final, is_final);
    }
}

#[test]
fn letters_that_came_half_way_are_taken_back_and_none_is_there_twice() {
    let large = |n: usize| {
        let x = "x".repeat(700_000);
        format!("{{\"type\":\"obj_create\",\"req\":{{\"id\":\"n{n}\",\"x\":\"{x}\"}}}}\n")
    };
    let log = object(0) + &(1..5).map(large).collect::<String>();
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.numbers() == [0] {
        true => accept(),
        false => refuse("no"),
    });
    // The second piece fails.
    crate::faults::plan(&[0, crate::faults::too_large(30)]);
    assert!(rehearsal.step().is_err());
    assert!(rehearsal.letters().is_empty());
    crate::faults::reset();
    assert_eq!(rehearsal.settle().rejected, 4);
    assert_eq!(rehearsal.letters().len(), 4);
}

#[test]
fn a_batch_that_ends_at_a_damaged_newline_is_not_sent_again_by_the_next_process() {
    let log = object(0) + &start(1).replace('\n', "#") + &start(2) + &start(3);
    let limits = BatchLimits {
        bytes: start(1).len() + 10,
        ..LIMITS
    };
    let mut rehearsal = Rehearsal::limited(limits, &log, |_| accept());
    let mut delivered = 0;
    // Each batch by another process.
    for _ in 0..4 {
        let other = Planted::new("").open();
        drop(std::mem::replace(&mut rehearsal.drain, other));
        let opened = Drain::open(&rehearsal.directory, &rehearsal.name, false);
        rehearsal.drain = opened.unwrap().unwrap();
        if let Progress::Settled(settled) = rehearsal.step().unwrap() {
            delivered += settled.delivered;
        }
    }
    assert_eq!(delivered, 4);
}

#[test]
fn what_is_refused_and_no_json_whatever_its_checksum_says_is_kept_byte_for_byte() {
    let log = with_checksum(Kind::ObjCreate, "{bad}") + &object(1);
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.body == "{bad}" {
        true => refuse("bad"),
        false => accept(),
    });
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.rejected), (1, 1));
    let letters = rehearsal.letters();
    assert!(letters[0]["record"].is_null());
    let raw = crate::base64::decode(letters[0]["raw_base64"].as_str().unwrap()).unwrap();
    assert_eq!(String::from_utf8(raw).unwrap(), log.lines().next().unwrap());
}
