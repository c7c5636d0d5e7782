use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

/// Bytes that tell where they stand, and who has read what.
struct Source {
    bytes: Vec<u8>,
    reads: RefCell<Vec<Range<u64>>>,
}

impl Source {
    fn new(len: usize) -> Source {
        Source {
            bytes: (0..len).map(|at| (at % 251) as u8).collect(),
            reads: RefCell::default(),
        }
    }
}

impl Bytes for Source {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.reads
            .borrow_mut()
            .push(offset..offset + buffer.len() as u64);
        Ok(n)
    }
}

#[test]
fn a_window_begins_where_it_is_told_and_ends_at_the_limit_or_with_the_file() {
    let source = Source::new(1000);
    let mut window = Window::new(100);
    assert_eq!((window.bytes().len(), window.end()), (0, 100));
    assert!(window.refill(&source, 400).unwrap());
    assert_eq!(
        (window.bytes(), window.end()),
        (&source.bytes[100..400], 400)
    );
    assert!(!window.refill(&source, 400).unwrap());
    window.consume(250);
    assert_eq!((window.bytes(), window.at), (&source.bytes[350..400], 350));
    assert!(window.refill(&source, 5_000).unwrap());
    assert_eq!((window.bytes(), window.at), (&source.bytes[350..], 350));
    assert!(!window.refill(&source, 5_000).unwrap());
    assert_eq!(window.bytes(), &source.bytes[350..]);
    assert!(
        source.reads.borrow()[..2]
            .iter()
            .all(|read| read.end <= 400)
    );
}

#[test]
fn a_window_grows_by_as_much_as_it_holds_and_reads_nothing_twice() {
    let source = Source::new(20 * CHUNK);
    let mut window = Window::new(0);
    while window.refill(&source, source.bytes.len() as u64).unwrap() {}
    assert_eq!(window.bytes(), source.bytes);
    let reads = source.reads.borrow();
    let lengths: Vec<_> = reads.iter().map(|read| length(read) / CHUNK).collect();
    assert_eq!(lengths, [1, 1, 2, 4, 8, 4, 0]);
    assert!(reads.windows(2).all(|pair| pair[0].end == pair[1].start));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_passes_through_a_window_is_the_file(
        len in 0..3 * CHUNK, start in 0..1000_usize, steps in prop::collection::vec(1..2 * CHUNK, 1..20),
    ) {
        let source = Source::new(len);
        let mut window = Window::new(start as u64);
        let mut seen = Vec::new();
        let mut steps = steps.iter().cycle();
        while window.refill(&source, len.max(start) as u64).unwrap() {
            prop_assert_eq!(window.at as usize, start + seen.len());
            let n = window.bytes().len().min(*steps.next().unwrap());
            seen.extend_from_slice(&window.bytes()[..n]);
            window.consume(n);
        }
        seen.extend_from_slice(window.bytes());
        prop_assert_eq!(seen, source.bytes.get(start..).unwrap_or_default());
    }

    #[test]
    fn any_ranges_are_the_bytes_that_stand_there(
        ranges in prop::collection::vec((0..3 * CHUNK, 0..CHUNK + 2), 1..20),
    ) {
        let source = Source::new(3 * CHUNK);
        let mut reader = Ranges::new(&source);
        for (start, len) in ranges {
            let range = start as u64..(start + len) as u64;
            match reader.bytes(&range) {
                Ok(bytes) => prop_assert_eq!(bytes, &source.bytes[start..start + len]),
                Err(error) => {
                    prop_assert!(start + len > source.bytes.len());
                    prop_assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                }
            }
        }
    }
}

#[test]
fn ranges_in_file_order_cost_a_read_for_each_chunk() {
    let source = Source::new(3 * CHUNK);
    let mut reader = Ranges::new(&source);
    for start in (0..3 * CHUNK).step_by(1024) {
        let range = start as u64..start as u64 + 1024;
        assert_eq!(
            reader.bytes(&range).unwrap(),
            &source.bytes[start..start + 1024]
        );
    }
    assert_eq!(source.reads.borrow().len(), 3);
    // One above that size is read at once, and no more than it.
    source.reads.borrow_mut().clear();
    let large = 7..7 + 2 * CHUNK as u64;
    assert_eq!(
        reader.bytes(&large).unwrap(),
        &source.bytes[7..7 + 2 * CHUNK]
    );
    assert_eq!(*source.reads.borrow(), [large]);
}
