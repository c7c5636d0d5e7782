use super::*;
use crate::record::Line;
use crate::rehearsal::{LIMITS, end, object, objects, start, starts};

struct Text<'a>(&'a [u8]);

impl Bytes for Text<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// What an endless hole reads as.
struct Hole;

impl Bytes for Hole {
    fn read_at(&self, buffer: &mut [u8], _: u64) -> io::Result<usize> {
        buffer.fill(0);
        Ok(buffer.len())
    }
}

fn whole(log: &str) -> End {
    End {
        offset: log.len() as u64,
        is_final: true,
    }
}

fn read(log: &str, limits: &BatchLimits) -> Batch {
    Batch::read(&Text(log.as_bytes()), 0, whole(log), limits).unwrap()
}

/// How many records and damages are in each batch of a log.
fn batches(log: &str, limits: &BatchLimits) -> Vec<(usize, usize)> {
    let (mut at, mut found) = (0, Vec::new());
    while at < log.len() as u64 {
        let batch = Batch::read(&Text(log.as_bytes()), at, whole(log), limits).unwrap();
        assert!(batch.end > at);
        at = batch.end;
        found.push((batch.entries.len(), batch.damages.len()));
    }
    found
}

fn body(request: Request) -> String {
    let (Body::Json(bytes) | Body::Multipart { bytes, .. }) = request.body;
    String::from_utf8(bytes).unwrap()
}

#[test]
fn each_record_is_found_where_it_stands() {
    let log = starts(0..2) + "oops\n" + &end(1);
    let at = start(0).len();
    let batch = Batch::read(&Text(log.as_bytes()), at as u64, whole(&log), &LIMITS).unwrap();
    let text = |range: &Range<u64>| &log[range.start as usize..range.end as usize];
    let lines: Vec<_> = batch
        .entries
        .iter()
        .map(|entry| text(&entry.line))
        .collect();
    assert_eq!(lines, [start(1), end(1)]);
    for entry in &batch.entries {
        let line = text(&entry.line);
        assert_eq!(
            format!(
                "{},\"req\":{}}}\n",
                &line[..line.find(',').unwrap()],
                text(&entry.req)
            ),
            line
        );
    }
    assert_eq!(text(&batch.damages[0].place), "oops\n");
    assert_eq!(batch.end, log.len() as u64);
    let kinds: Vec<_> = batch.entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [Kind::CallStart, Kind::CallEnd]);
}

#[test]
fn nothing_is_read_beyond_the_end_even_if_there_is_more() {
    let log = starts(0..2);
    for is_final in [false, true] {
        let offset = start(0).len() as u64;
        let batch =
            Batch::read(&Text(log.as_bytes()), 0, End { offset, is_final }, &LIMITS).unwrap();
        assert_eq!((batch.entries.len(), batch.end), (1, offset));
    }
}

#[test]
fn a_last_record_without_a_newline_is_read_when_nothing_can_follow() {
    let log = starts(0..2);
    let log = log.trim_end();
    for (is_final, records) in [(false, 1), (true, 2)] {
        let offset = log.len() as u64;
        let batch =
            Batch::read(&Text(log.as_bytes()), 0, End { offset, is_final }, &LIMITS).unwrap();
        assert_eq!((batch.entries.len(), batch.damages.len()), (records, 0));
    }
    // What is not its end is no end.
    let log = starts(0..30_000);
    assert_eq!(
        batches(&log, &LIMITS),
        [(10_000, 0), (10_000, 0), (10_000, 0)]
    );
}

#[test]
fn a_batch_of_nothing_ends_where_it_begins() {
    let log = starts(0..2);
    for at in [log.len() as u64, log.len() as u64 + 7] {
        let end = End {
            offset: at + 100,
            is_final: false,
        };
        let batch = Batch::read(&Text(log.as_bytes()), at, end, &LIMITS).unwrap();
        assert_eq!((batch.entries.len(), batch.end), (0, at));
    }
}

#[test]
fn a_batch_holds_as_many_records_as_it_may_and_no_more() {
    let limits = BatchLimits {
        records: 3,
        ..LIMITS
    };
    assert_eq!(batches(&starts(0..7), &limits), [(3, 0), (3, 0), (1, 0)]);
    assert_eq!(
        batches(&objects(0..250), &LIMITS),
        [(100, 0), (100, 0), (50, 0)]
    );
    // A request of its own takes nothing of the one for all calls.
    let limits = BatchLimits { bytes: 1, ..LIMITS };
    assert_eq!(batches(&(objects(0..99) + &start(1)), &limits), [(100, 0)]);
    let bad = "oops\n".repeat(2_500);
    assert_eq!(batches(&bad, &LIMITS), [(0, 1_000), (0, 1_000), (0, 500)]);
}

#[test]
fn the_request_for_the_calls_of_a_batch_keeps_the_limit_unless_there_is_only_one() {
    let each = start(0).len() - "{\"type\":\"call_start\",\"req\":}\n".len() + FRAME;
    for (bytes, records) in [
        (1, 1),
        (each, 1),
        (2 * each - 1, 1),
        (2 * each, 2),
        (3 * each - 1, 2),
    ] {
        let limits = BatchLimits { bytes, ..LIMITS };
        let log = starts(0..4);
        let batch = Batch::read_to_send(&Text(log.as_bytes()), 0, whole(&log), &limits).unwrap();
        assert_eq!(batch.entries.len(), records, "{bytes}");
        let request = body(batch.calls.unwrap().into_request());
        assert!(request.len() <= bytes || records == 1);
    }
}

#[test]
fn what_was_made_while_reading_is_what_is_made_of_the_places() {
    let log = start(0) + &object(1) + &end(0) + &start(2);
    let source = Text(log.as_bytes());
    let batch = Batch::read_to_send(&source, 0, whole(&log), &LIMITS).unwrap();
    let units: Vec<_> = batch.waiting(true).into_iter().map(Unit::half).collect();
    let later = batch.halves(&source, &units).unwrap();
    assert_eq!(later.path, "/call/upsert_batch");
    let later = body(later);
    let calls = batch.calls.unwrap();
    assert_eq!(calls.count(), 3);
    assert_eq!(body(calls.into_request()), later);
    let parsed: serde_json::Value = serde_json::from_str(&later).unwrap();
    let modes: Vec<_> = parsed["batch"]
        .as_array()
        .unwrap()
        .iter()
        .map(|half| half["mode"].as_str().unwrap())
        .collect();
    assert_eq!(modes, ["start", "end", "start"]);
    assert_eq!(parsed["batch"][1]["req"]["end"]["id"], "n0");
}

#[test]
fn records_that_are_no_calls_travel_alone() {
    let kinds = ["obj_create", "table_create", "file_create", "call_end"];
    let log: String = kinds.iter().map(|kind| format!("{{\"type\":\"{kind}\",\"req\":{{\"project_id\":\"e/p\",\"name\":\"a\",\"content\":\"b\"}}}}\n")).collect();
    let batch = read(&log, &LIMITS);
    assert_eq!(
        (batch.waiting(false), batch.waiting(true)),
        (vec![0, 1, 2], vec![3])
    );
    let path = |index| {
        batch
            .single(&Text(log.as_bytes()), index)
            .unwrap()
            .map(|request| request.path)
    };
    assert_eq!(path(0).unwrap(), "/obj/create");
    assert_eq!(path(1).unwrap(), "/table/create");
    assert_eq!(path(2).unwrap(), "/file/create");
    assert!(path(3).is_err());
}

#[test]
fn a_batch_does_not_end_inside_a_line_above_the_limit() {
    let limits = BatchLimits {
        record: 100,
        ..LIMITS
    };
    let long = "x".repeat(1_000) + "\n";
    let log = "oops\n".repeat(999) + &long + &start(0);
    let batch = read(&log, &limits);
    assert_eq!((batch.entries.len(), batch.damages.len()), (0, 1_000));
    let place = &batch.damages[999].place;
    assert_eq!(place.start, 999 * 5);
    assert!(place.end >= 999 * 5 + 1_000);
    assert_eq!(batches(&log, &limits), [(0, 1_000), (1, 0)]);
}

#[test]
fn a_line_above_the_limit_is_one_damage_and_the_next_is_another() {
    let limits = BatchLimits {
        record: 100,
        ..LIMITS
    };
    let long = "x".repeat(1_000) + "\n";
    let log = long.repeat(2) + "oops\n" + &long;
    let places: Vec<_> = read(&log, &limits)
        .damages
        .into_iter()
        .map(|damage| damage.place.start)
        .collect();
    assert_eq!(places, [0, 1_001, 2_002, 2_007]);
    // One that ends with its file, and so in a full piece.
    let log = "x".repeat(101 * 3);
    assert_eq!(batches(&log, &limits), [(0, 1)]);
}

#[test]
fn a_hole_is_skipped_in_portions() {
    let end = End {
        offset: 1 << 40,
        is_final: true,
    };
    let batch = Batch::read(&Hole, 5, end, &LIMITS).unwrap();
    let skipped = batch.end - 5;
    assert!((64 << 20..65 << 20).contains(&skipped), "{skipped}");
    assert_eq!((batch.entries.len(), batch.damages.len()), (0, 0));
}

#[test]
fn one_line_with_a_checksum_tells_who_wrote_the_file() {
    let mut own = Vec::new();
    Line::new(Kind::CallEnd, b"{}", 1024)
        .unwrap()
        .push_to(&mut own);
    let own = String::from_utf8(own).unwrap();
    assert!(!read(&start(0), &LIMITS).checksummed);
    assert!(read(&(own.clone() + &start(0)), &LIMITS).checksummed);
    assert!(read(&(start(0) + &own), &LIMITS).checksummed);
    let mut batch = read(&start(0), &LIMITS);
    batch.extend(read(&own, &LIMITS));
    assert!(batch.checksummed);
    batch.extend(read(&start(0), &LIMITS));
    assert!(batch.checksummed);
}

#[test]
fn a_batch_takes_in_what_comes_behind_it() {
    let log = start(0) + "oops\n" + &start(1) + "oops\n" + &start(2);
    let source = Text(log.as_bytes());
    let limits = BatchLimits {
        records: 1,
        ..LIMITS
    };
    let part = |at| Batch::read_to_send(&source, at, whole(&log), &limits).unwrap();
    let mut batch = part(0);
    for entries in 2..=3 {
        let more = part(batch.end);
        assert!(batch.extend(more));
        assert_eq!(
            (batch.entries.len(), batch.damages.len()),
            (entries, entries - 1)
        );
        // It was for the first record only.
        assert!(batch.calls.is_none());
    }
    assert_eq!(batch.end, log.len() as u64);
    let nothing = part(batch.end);
    assert!(!batch.extend(nothing));
}

#[test]
fn what_is_needed_of_a_file_is_what_is_not_delivered() {
    let log = start(0) + "oops\n" + &starts(1..3);
    let at = |lines: usize| {
        log.split_inclusive('\n')
            .take(lines)
            .map(str::len)
            .sum::<usize>() as u64
    };
    let mut batch = read(&log, &LIMITS);
    assert_eq!(batch.gone_until(), 0);
    let deliver =
        |batch: &mut Batch, index: usize| batch.entries[index].verdict = Verdict::Delivered;
    deliver(&mut batch, 2);
    assert_eq!(batch.gone_until(), 0);
    deliver(&mut batch, 0);
    assert_eq!(batch.gone_until(), at(1), "the damage");
    batch.damages.clear();
    assert_eq!(batch.gone_until(), at(2));
    batch.entries[1].verdict = crate::delivery::unsendable("so".to_owned());
    assert_eq!(batch.gone_until(), at(2), "refused and not buried");
    batch.is_buried = true;
    assert_eq!(batch.gone_until(), at(4));
    batch.is_buried = false;
    deliver(&mut batch, 1);
    assert_eq!(batch.gone_until(), at(4));
}

#[test]
fn a_record_of_a_file_that_became_shorter_is_an_error_and_not_half_of_it() {
    let log = starts(0..2);
    let batch = read(&log, &LIMITS);
    let cut = Text(&log.as_bytes()[..log.len() - 5]);
    assert_eq!(
        batch.req(&cut, 0).unwrap().len(),
        length(&batch.entries[0].req)
    );
    for error in [
        batch.req(&cut, 1).map(drop),
        batch.single(&cut, 1).map(drop),
        batch
            .halves(&cut, &[Unit::half(0), Unit::half(1)])
            .map(drop),
    ] {
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
