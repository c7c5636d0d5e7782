use super::*;

fn letter() -> DeadLetter {
    DeadLetter {
        record: Some(
            r#"{"type":"call_end","req":{"end":{"n":123456789012345678901234567890}}}"#.to_owned(),
        ),
        raw: None,
        offset: 7,
        reason: "a \"bad\" one\n".to_owned(),
        status: Some(422),
        detail: "ünsinn \u{1}".to_owned(),
        attempts: 3,
        at: now(),
    }
}

#[test]
fn a_line_reads_back_with_the_records_bytes_kept() {
    for letter in [
        letter(),
        DeadLetter {
            record: None,
            raw: Some(vec![0, 255, b'{', b'\n']),
            status: None,
            ..letter()
        },
    ] {
        let mut line = Vec::new();
        letter.push_to(&mut line);
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert_eq!(DeadLetter::parse(line.trim_ascii()), letter);
    }
}

#[test]
fn a_letter_whose_content_cannot_be_read_any_more_is_kept_as_its_line() {
    for line in [
        r#"{"record":null,"raw_base64":"eyJ0eX!=","offset":912,"reason":"torn"}"#,
        r#"{"record":null,"raw_base64":null}"#,
        r#"{"record":null,"raw_base64":5}"#,
    ] {
        let letter = DeadLetter::parse(line.as_bytes());
        assert_eq!(letter.raw.as_deref(), Some(line.as_bytes()));
        assert_eq!(letter.record, None);
        assert!(letter.reason.contains("damaged itself"), "{letter:?}");
    }
}

#[test]
fn foreign_and_damaged_lines_are_kept_whole() {
    let foreign = DeadLetter::parse(br#"{"type":"call_end","req":{}}"#);
    assert_eq!(
        foreign.record.as_deref(),
        Some(r#"{"type":"call_end","req":{}}"#)
    );
    let damaged = DeadLetter::parse(b"{\"record\":\xff");
    assert_eq!(damaged.raw.as_deref(), Some(&b"{\"record\":\xff"[..]));
}

#[test]
fn a_torn_last_line_does_not_swallow_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::at(dir.path());
    let name = FileName::new(1, [7; 16]);
    let path = directory.file(&name, Extension::Deadletter);
    fs::write(&path, b"{\"record\":{\"torn").unwrap();
    let mut line = Vec::new();
    letter().push_to(&mut line);
    let mut file = DeadLetterFile::open(&directory, &name).unwrap();
    file.append(&line).unwrap();
    let mut seen = Vec::new();
    file.for_each(&mut |line| {
        seen.push(DeadLetter::parse(line));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1], letter());
    assert_eq!(count(&path).unwrap(), 2);
}

#[test]
fn what_is_longer_than_a_dead_letter_can_be_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::at(dir.path());
    let name = FileName::new(1, [7; 16]);
    let path = directory.file(&name, Extension::Deadletter);
    // With white space where it is read in pieces.
    let mut long = vec![b'x'; LINE_LIMIT as usize + 8];
    long[LINE_LIMIT as usize - 4..][..8].fill(b' ');
    long.push(b'\n');
    let line: &[u8] = b"{\"n\":1}\n";
    fs::write(&path, [&long, line, line].concat()).unwrap();
    let mut file = DeadLetterFile::open(&directory, &name).unwrap();
    file.keep(&|line| line.starts_with(b"x")).unwrap();
    assert!(fs::read(&path).unwrap() == long);
}

#[test]
fn timestamps_are_utc_calendar_time() {
    assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
    assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
    assert_eq!(timestamp(1_795_355_820), "2026-11-22T13:57:00Z");
    assert_eq!(timestamp(4_107_542_399), "2100-02-28T23:59:59Z");
}
