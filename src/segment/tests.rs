use super::*;

const LINES: &[u8] = b"{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n";

#[test]
fn of_a_write_that_fails_half_way_the_whole_lines_stay() {
    let dir = tempfile::tempdir().unwrap();
    for (how_far, whole_lines) in [(0, 0), (20, 0), (30, 1), (60, 2)] {
        let mut segment = Segment::create(&Directory::at(dir.path()), 0).unwrap();
        assert!(segment.append(b"{}\n").is_ok());
        faults::plan(&[faults::failing(how_far)]);
        let failed = segment.append(LINES).unwrap_err();
        assert!(failed.intact && failed.error.is_io());
        assert_eq!(failed.written, whole_lines * 8);
        assert_eq!(segment.len(), 3 + failed.written as u64);
        assert!(segment.append(&LINES[failed.written..]).is_ok());
        let content = std::fs::read(segment.file.path(Extension::Jsonl)).unwrap();
        assert_eq!(content, [b"{}\n", LINES].concat());
        assert_eq!(segment.len(), content.len() as u64);
    }
}

#[test]
fn a_file_that_cannot_be_cut_back_to_whole_lines_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut segment = Segment::create(&Directory::at(dir.path()), 0).unwrap();
    faults::plan(&[faults::failing(30), faults::failing(0)]);
    let failed = segment.append(LINES).unwrap_err();
    assert!(!failed.intact);
    assert_eq!((failed.written, segment.len()), (8, 8));
    assert!(segment.cut(8).is_ok());
    assert_eq!(
        std::fs::read(segment.file.path(Extension::Jsonl)).unwrap(),
        LINES[..8]
    );
}

#[test]
fn a_file_whose_name_is_gone_is_not_synced() {
    let dir = tempfile::tempdir().unwrap();
    let mut segment = Segment::create(&Directory::at(dir.path()), 0).unwrap();
    assert!(segment.append(LINES).is_ok());
    assert!(!segment.is_gone() && segment.sync().is_ok());
    std::fs::rename(
        segment.file.path(Extension::Jsonl),
        dir.path().join("elsewhere"),
    )
    .unwrap();
    assert!(segment.is_gone() && segment.sync().is_err());
}

#[test]
fn a_part_of_another_file_is_copied_to_the_end_of_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::at(dir.path());
    let mut from = Segment::create(&directory, 0).unwrap();
    // More than one piece of what is copied at a time.
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    let content = line.repeat(2500);
    assert!(from.append(&content).is_ok());
    std::fs::remove_file(from.file.path(Extension::Jsonl)).unwrap();
    let mut to = Segment::create(&directory, 0).unwrap();
    assert!(to.append(b"{}\n").is_ok());
    to.append_from(&from, 1024, content.len() as u64 - 2048)
        .unwrap();
    let copied = std::fs::read(to.file.path(Extension::Jsonl)).unwrap();
    assert_eq!(copied, [b"{}\n", &content[..content.len() - 3072]].concat());
}

#[test]
fn only_whole_delivered_lines_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::at(dir.path());
    let mut segment = Segment::create(&directory, 0).unwrap();
    assert!(segment.append(b"{\"a\":1}\n{\"b\":2}\n").is_ok());
    let checkpoint = directory.file(segment.name(), Extension::Checkpoint);
    for (delivered, expected) in [
        (0, &b"{\"a\":1}\n{\"b\":2}\n"[..]),
        (1, b"{\"a\":1}\n{\"b\":2}\n"),
        (11, b"{\"a\":1}\n{\"b\":2}\n"),
        (17, b"{\"a\":1}\n{\"b\":2}\n"),
        (u64::MAX, b"{\"a\":1}\n{\"b\":2}\n"),
        (8, b"\0\0\0\0\0\0\0\n{\"b\":2}\n"),
        (16, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\n"),
    ] {
        checkpoint::write(&checkpoint, delivered).unwrap();
        let given_back = segment.file.give_back(segment.len());
        assert_eq!(given_back, delivered == 8 || delivered == 16);
        assert_eq!(
            std::fs::read(segment.file.path(Extension::Jsonl)).unwrap(),
            expected
        );
    }
}
