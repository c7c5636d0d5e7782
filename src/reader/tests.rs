use proptest::prelude::*;

use super::*;
use crate::record::{Kind, Line};

const LIMIT: usize = 300;

fn line(req: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let line = Line::new(Kind::CallStart, req.as_bytes(), LIMIT).unwrap();
    line.push_to(&mut out);
    out
}

/// What a reader said, owned, with the skips of neighbouring windows put together.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    /// The request, and whether it was checked.
    Record(String, bool),
    /// The fault and its bytes.
    Fault(Fault, Vec<u8>),
    Skip {
        nuls: usize,
    },
}

fn ok(req: &str) -> Item {
    Item::Record(req.to_owned(), true)
}

fn torn(bytes: &[u8]) -> Item {
    Item::Fault(Fault::Torn, bytes.to_owned())
}

fn too_long(bytes: &[u8], continued: bool) -> Item {
    let limit = LIMIT;
    Item::Fault(Fault::TooLong { limit, continued }, bytes.to_owned())
}

/// Reads a dead file through windows that begin with `first` bytes and grow by `more` when they
/// are too small. Gives the items and the largest window that was needed.
fn walk(file: &[u8], limit: usize, first: usize, more: usize) -> (Vec<(usize, Item)>, usize) {
    let mut reader = Reader::new(limit);
    let mut items: Vec<(usize, Item)> = Vec::new();
    let (mut offset, mut size, mut largest) = (0_usize, first, 0);
    loop {
        let end = file.len().min(offset.saturating_add(size));
        let tail = if end == file.len() {
            Tail::End
        } else {
            Tail::More
        };
        let (len, item) = match reader.next(&file[offset..end], tail) {
            Step::More => {
                assert_eq!(tail, Tail::More);
                size += more;
                continue;
            }
            Step::End => break,
            Step::Record { record, len } => {
                (len, Item::Record(record.req.to_owned(), record.checked))
            }
            Step::Fault { fault, len, bytes } => (len, Item::Fault(fault, bytes.to_owned())),
            Step::Skip { len, nuls } => (len, Item::Skip { nuls }),
        };
        assert!(len > 0 && len <= end - offset, "{item:?} takes {len} bytes");
        match (items.last_mut(), &item) {
            (Some((_, Item::Skip { nuls })), Item::Skip { nuls: further }) => *nuls += further,
            _ => items.push((offset, item)),
        }
        largest = largest.max(size.min(end - offset));
        offset += len;
        size = first;
    }
    assert_eq!(offset, file.len());
    (items, largest)
}

fn items(file: &[u8]) -> Vec<Item> {
    let (items, _) = walk(file, LIMIT, usize::MAX, 0);
    items.into_iter().map(|(_, item)| item).collect()
}

/// Only what is a record, in order.
fn delivered(file: &[u8]) -> Vec<Item> {
    let mut items = items(file);
    items.retain(|item| matches!(item, Item::Record(..)));
    items
}

fn log(requests: &[&str]) -> Vec<u8> {
    requests.iter().flat_map(|req| line(req)).collect()
}

#[test]
fn nothing_is_read_from_nothing() {
    assert_eq!(Reader::new(LIMIT).next(b"", Tail::End), Step::End);
    assert_eq!(Reader::new(LIMIT).next(b"", Tail::More), Step::More);
}

#[test]
fn records_come_back_in_order_with_their_offsets() {
    let file = log(&[r#"{"a":1}"#, r#"{"b":2}"#]);
    let (items, _) = walk(&file, LIMIT, usize::MAX, 0);
    let second = line(r#"{"a":1}"#).len();
    assert_eq!(items, [(0, ok(r#"{"a":1}"#)), (second, ok(r#"{"b":2}"#))]);
    let offsets: Vec<u64> = records(&file, LIMIT).map(|(offset, _)| offset).collect();
    assert_eq!(offsets, [0, second as u64]);
}

#[test]
fn a_piece_is_not_judged_before_its_end_is_seen() {
    let file = log(&[r#"{"a":1}"#]);
    for end in 1..file.len() {
        assert_eq!(
            Reader::new(LIMIT).next(&file[..end], Tail::More),
            Step::More
        );
    }
}

#[test]
fn a_last_record_without_its_newline_is_delivered() {
    let file = log(&[r#"{"a":1}"#, r#"{"b":2}"#]);
    let cut = &file[..file.len() - 1];
    assert_eq!(items(cut), [ok(r#"{"a":1}"#), ok(r#"{"b":2}"#)]);
    let python = br#"{"type": "call_end", "req": {"a": 1}}"#;
    assert_eq!(items(python), [Item::Record(r#"{"a": 1}"#.into(), false)]);
}

#[test]
fn a_whole_last_object_that_is_no_record_keeps_its_own_reason() {
    let foreign = br#"{"type":"feedback_create","req":{}}"#;
    let fault = Fault::UnknownType("feedback_create".into());
    assert_eq!(items(foreign), [Item::Fault(fault, foreign.to_vec())]);
}

#[test]
fn a_log_cut_at_any_byte_gives_all_that_stands_before_the_cut_and_the_torn_rest() {
    let requests = [r#"{"a":1}"#, r#"{"b":{"c":[2,{"d":"ä"}]}}"#, "{}"];
    let file = log(&requests);
    let ends: Vec<usize> = (1..=requests.len())
        .map(|n| log(&requests[..n]).len())
        .collect();
    for cut in 0..=file.len() {
        // Without its newline a record is whole already.
        let whole = ends.iter().filter(|end| **end - 1 <= cut).count();
        let mut expected: Vec<Item> = requests[..whole].iter().map(|req| ok(req)).collect();
        let start = ends[..whole].last().copied().unwrap_or(0);
        if cut > start {
            expected.push(torn(&file[start..cut]));
        }
        assert_eq!(items(&file[..cut]), expected, "cut at {cut}");
    }
}

#[test]
fn a_cut_behind_something_that_looks_like_a_checksum_is_still_a_cut() {
    let before = br#"{"type":"call_start","req":{"a":{}"#;
    let crc = crate::record::crc::update(0, before);
    let req = format!(r#"{{"a":{{}},"crc":"{crc:08x}"}}"#);
    let file = log(&[&req]);
    let cut = before.len() + r#","crc":"00000000"}"#.len();
    assert_eq!(items(&file[..cut]), [torn(&file[..cut])]);
    assert_eq!(items(&file), [ok(&req)]);
}

#[test]
fn a_piece_ends_at_its_separator_however_far_that_is() {
    for len in (1..5_000).step_by(7).chain([1023, 1024, 1025, 2047, 2048]) {
        let text = "x".repeat(len);
        let piece = |separator| [text.as_bytes(), &[separator], b"\n\0more"].concat();
        assert_eq!(find_separator(&piece(b'\n')), Some(len));
        assert_eq!(find_separator(&piece(0)), Some(len));
        assert_eq!(find_separator(text.as_bytes()), None);
    }
}

#[test]
fn nul_bytes_between_records_are_counted_and_hide_neither() {
    let mut file = vec![0; 5];
    file.extend(line(r#"{"a":1}"#));
    file.extend([0; 4096]);
    file.extend(line(r#"{"b":2}"#));
    file.extend([0; 3]);
    let expected = [
        Item::Skip { nuls: 5 },
        ok(r#"{"a":1}"#),
        Item::Skip { nuls: 4096 },
        ok(r#"{"b":2}"#),
        Item::Skip { nuls: 3 },
    ];
    assert_eq!(items(&file), expected);
}

#[test]
fn nul_bytes_in_place_of_a_newline_end_a_record() {
    let mut file = line(r#"{"a":1}"#);
    file.pop();
    file.extend([0, 0]);
    file.extend(line(r#"{"b":2}"#));
    let expected = [ok(r#"{"a":1}"#), Item::Skip { nuls: 2 }, ok(r#"{"b":2}"#)];
    assert_eq!(items(&file), expected);
}

#[test]
fn nul_bytes_inside_a_record_make_two_faults_of_it_and_spare_its_neighbours() {
    let broken = line(r#"{"broken":1}"#);
    let mut file = line(r#"{"a":1}"#);
    file.extend(&broken[..20]);
    file.extend([0; 7]);
    file.extend(&broken[27..]);
    file.extend(line(r#"{"b":2}"#));
    let found = items(&file);
    assert_eq!(
        found[..3],
        [
            ok(r#"{"a":1}"#),
            torn(&broken[..20]),
            Item::Skip { nuls: 7 }
        ]
    );
    let rest = &broken[27..broken.len() - 1];
    assert!(matches!(&found[3], Item::Fault(Fault::Checksum { .. }, bytes) if bytes == rest));
    assert_eq!(found[4..], [ok(r#"{"b":2}"#)]);
}

#[test]
fn a_flipped_bit_anywhere_in_a_line_costs_at_most_that_record() {
    let requests = [r#"{"a":1}"#, r#"{"b":{"c":[2,{"d":"ä"}]}}"#, r#"{"e":3}"#];
    let file = log(&requests);
    let start = line(requests[0]).len();
    let end = start + line(requests[1]).len();
    for at in start..end {
        for bit in 0..8 {
            let mut file = file.clone();
            file[at] ^= 1 << bit;
            let found = delivered(&file);
            assert_eq!(
                found.first(),
                Some(&ok(requests[0])),
                "bit {bit} of byte {at}"
            );
            assert_eq!(
                found.last(),
                Some(&ok(requests[2])),
                "bit {bit} of byte {at}"
            );
            for item in &found[1..found.len() - 1] {
                // Where the flip only made another key of "crc", the record is still right.
                assert!(matches!(item, Item::Record(req, _) if req == requests[1]));
            }
            // A byte of its own was damaged, and that is not passed over in silence.
            let checked = found
                .iter()
                .filter(|item| matches!(item, Item::Record(_, true)));
            let reported = items(&file)
                .iter()
                .any(|item| !matches!(item, Item::Record(..)));
            assert!(checked.count() < 3 || reported, "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_damaged_newline_hides_neither_record() {
    let mut file = log(&[r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#]);
    let at = line(r#"{"a":1}"#).len() - 1;
    file[at] = 0x8A;
    let expected = [
        ok(r#"{"a":1}"#),
        Item::Fault(Fault::LineEnd, vec![0x8A]),
        ok(r#"{"b":2}"#),
        ok(r#"{"c":3}"#),
    ];
    assert_eq!(items(&file), expected);
}

#[test]
fn records_inside_a_damaged_request_are_not_taken_for_records_of_the_log() {
    let logged = r#"{"type":"call_end","req":{}}"#;
    let text = format!("{logged},{logged}]}}");
    let found = items(format!("\0{text}\n").as_bytes());
    assert_eq!(found[0], Item::Skip { nuls: 1 });
    assert!(
        matches!(&found[1..], [Item::Fault(Fault::NotJson(_), bytes)] if bytes == text.as_bytes())
    );
}

#[test]
fn foreign_lines_are_faults_and_hide_nothing() {
    let mut file = b"#!/bin/sh\n".to_vec();
    file.extend(line(r#"{"a":1}"#));
    file.extend(b"caf\xe9\n[1]\n");
    file.extend(line(r#"{"b":2}"#));
    let found = items(&file);
    assert!(matches!(&found[0], Item::Fault(Fault::NotJson(_), bytes) if bytes == b"#!/bin/sh"));
    let expected = [
        ok(r#"{"a":1}"#),
        Item::Fault(Fault::NotUtf8, b"caf\xe9".to_vec()),
        Item::Fault(Fault::NotAnObject, b"[1]".to_vec()),
        ok(r#"{"b":2}"#),
    ];
    assert_eq!(found[1..], expected);
}

#[test]
fn blank_lines_and_carriage_returns_do_not_matter() {
    let mut file = b"\r\n\n  \t\n".to_vec();
    file.extend(br#"  {"type":"call_end","req":{"a":1}}"#);
    file.extend(b"\r\n\r\n");
    let found = items(&file);
    let record = Item::Record(r#"{"a":1}"#.into(), false);
    assert_eq!(
        found,
        [Item::Skip { nuls: 0 }, record, Item::Skip { nuls: 0 }]
    );
}

#[test]
fn a_line_at_the_limit_is_a_record_and_one_byte_more_is_too_long() {
    let padded = |len: usize| {
        let mut text = br#"{"type":"call_end","req":{}}"#.to_vec();
        text.resize(len, b' ');
        text.push(b'\n');
        text.extend(line("{}"));
        text
    };
    let at_the_limit = padded(LIMIT);
    assert_eq!(
        items(&at_the_limit),
        [Item::Record("{}".into(), false), ok("{}")]
    );
    let above = padded(LIMIT + 1);
    let expected = [
        too_long(&above[..=LIMIT], false),
        Item::Skip { nuls: 0 },
        ok("{}"),
    ];
    assert_eq!(items(&above), expected);
}

#[test]
fn a_huge_line_needs_no_window_above_the_limit_and_every_byte_of_it_is_reported() {
    let huge = vec![b'x'; 1_000_000];
    let file = [
        line(r#"{"a":1}"#),
        huge.clone(),
        b"\n".to_vec(),
        line(r#"{"b":2}"#),
    ]
    .concat();
    let (found, largest) = walk(&file, LIMIT, 64, 64);
    assert!(largest <= LIMIT + 64, "a window of {largest} bytes");
    let found: Vec<Item> = found.into_iter().map(|(_, item)| item).collect();
    let (first, last) = (&found[0], &found[found.len() - 1]);
    assert_eq!((first, last), (&ok(r#"{"a":1}"#), &ok(r#"{"b":2}"#)));
    let pieces = found[1..found.len() - 1]
        .iter()
        .enumerate()
        .map(|(at, item)| match item {
            Item::Fault(
                Fault::TooLong {
                    limit: LIMIT,
                    continued,
                },
                bytes,
            ) => {
                assert_eq!(*continued, at > 0);
                assert!(bytes.len() <= LIMIT + 1);
                bytes.clone()
            }
            other => panic!("{other:?}"),
        });
    assert_eq!(pieces.collect::<Vec<_>>().concat(), huge);
}

#[test]
fn a_reader_says_when_it_is_inside_a_long_line() {
    let mut reader = Reader::new(10);
    assert!(reader.is_between_lines());
    reader.next(b"0123456789a", Tail::More);
    assert!(!reader.is_between_lines());
    reader.next(b"b\n", Tail::More);
    assert!(reader.is_between_lines());
}

/// Pieces of logs, whole and broken, and what may stand between them.
fn any_log() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[a-z]{0,9}".prop_map(|text| line(&format!(r#"{{"v":"{text}"}}"#))),
        1 => "[a-z]{0,9}".prop_map(|text| {
            let mut line = line(&format!(r#"{{"v":"{text}"}}"#));
            line.pop();
            line
        }),
        1 => Just(b"{\"type\": \"call_end\", \"req\": {}}\n".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (0..400_usize).prop_map(|len| vec![b'y'; len]),
        1 => (0..20_usize).prop_map(|len| vec![0; len]),
        1 => prop::sample::select(vec![&b"\n"[..], b"\r\n", b" ", b"\x8a", b"\0"])
            .prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn the_windows_do_not_matter(
        file in any_log(),
        limit in 0..200_usize,
        first in 0..100_usize,
        more in 1..100_usize,
    ) {
        let (whole, _) = walk(&file, limit, usize::MAX, 0);
        let (windowed, largest) = walk(&file, limit, first, more);
        prop_assert_eq!(windowed, whole);
        prop_assert!(largest <= first.max(limit + more));
    }

    #[test]
    fn every_byte_is_accounted_for(file in any_log(), limit in 0..200_usize) {
        let (items, _) = walk(&file, limit, usize::MAX, 0);
        let mut nuls = 0;
        for (at, (offset, item)) in items.iter().enumerate() {
            let end = items.get(at + 1).map_or(file.len(), |(next, _)| *next);
            let here = &file[*offset..end];
            match item {
                Item::Record(req, _) => {
                    prop_assert!(here.windows(req.len()).any(|part| part == req.as_bytes()))
                }
                Item::Fault(_, bytes) => prop_assert_eq!(here.strip_suffix(b"\n").unwrap_or(here), &bytes[..]),
                Item::Skip { nuls: here } => nuls += here,
            }
        }
        prop_assert_eq!(nuls, file.iter().filter(|byte| **byte == 0).count());
    }
}
