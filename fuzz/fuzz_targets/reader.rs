//! Any bytes as a log: nothing panics, every byte is accounted for exactly once, and the sizes of
//! the windows do not matter.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weave_wal::reader::{Reader, Step, Tail};
use weave_wal::{Fault, Record};

#[derive(Debug, PartialEq)]
enum Item<'a> {
    Record(Record<'a>),
    Fault(Fault, &'a [u8]),
    Skip { nuls: usize },
}

fuzz_target!(|input: &[u8]| {
    let [limit, first, more, file @ ..] = input else {
        return;
    };
    let (limit, first, more) = (
        4 * usize::from(*limit),
        usize::from(*first),
        1 + usize::from(*more),
    );
    let whole = walk(file, limit, usize::MAX, 0);
    check(file, limit, &whole);
    assert_eq!(walk(file, limit, first, more), whole);
});

/// Where each item starts, with the skips of neighbouring windows put together.
fn walk(file: &[u8], limit: usize, first: usize, more: usize) -> Vec<(usize, Item<'_>)> {
    let mut reader = Reader::new(limit);
    let mut items: Vec<(usize, Item<'_>)> = Vec::new();
    let mut offset = 0_usize;
    let mut size = first;
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
                assert!(
                    size <= limit,
                    "a window of {size} bytes is not enough for {limit}"
                );
                size += more;
                continue;
            }
            Step::End => break,
            Step::Record { record, len } => (len, Item::Record(record)),
            Step::Fault { fault, len, bytes } => (len, Item::Fault(fault, bytes)),
            Step::Skip { len, nuls } => (len, Item::Skip { nuls }),
        };
        assert!(0 < len && len <= end - offset);
        match (items.last_mut(), &item) {
            (Some((_, Item::Skip { nuls })), Item::Skip { nuls: further }) => *nuls += further,
            _ => items.push((offset, item)),
        }
        offset += len;
        size = first;
    }
    assert_eq!(offset, file.len());
    items
}

/// The items are what stands there, from the first byte to the last.
fn check(file: &[u8], limit: usize, items: &[(usize, Item<'_>)]) {
    for (at, (start, item)) in items.iter().enumerate() {
        let end = items.get(at + 1).map_or(file.len(), |(next, _)| *next);
        let bytes = &file[*start..end];
        let piece = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        match item {
            Item::Record(record) => {
                assert!(piece.len() <= limit);
                assert!(!piece.contains(&b'\n') && !piece.contains(&0));
                let req = record.req.as_bytes().as_ptr_range();
                let here = piece.as_ptr_range();
                assert!(here.start <= req.start && req.end <= here.end);
                assert!(record.req.starts_with('{') && record.req.ends_with('}'));
            }
            Item::Fault(fault, kept) => {
                assert_eq!(*kept, piece);
                assert!(piece.len() <= limit.saturating_add(1));
                assert!(!piece.contains(&b'\n') && !piece.contains(&0));
                assert!(!fault.to_string().is_empty());
            }
            Item::Skip { nuls } => {
                assert!(
                    bytes
                        .iter()
                        .all(|byte| *byte == 0 || byte.is_ascii_whitespace())
                );
                assert_eq!(*nuls, bytes.iter().filter(|byte| **byte == 0).count());
            }
        }
    }
}
