//! Checkpoints and dead letters: any content is read without a panic and without dropping any of
//! it, and what is written comes back.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use weave_wal::fuzzing::{self, DeadLetter};

/// In memory if possible, for its fsyncs cost nothing there.
static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let dir = parent.join(format!("weave-wal-fuzz-files-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory for the files");
    dir
});

fuzz_target!(|input: (u64, u16, &str, &str, &[u8], &[u8])| {
    let (offset, status, reason, detail, bytes, content) = input;
    checkpoint(offset, content);
    any_line(content);

    let mut letter = fuzzing::dead_letter(b"{");
    letter.offset = offset;
    letter.reason = reason.to_owned();
    letter.status = (status % 3 > 0).then_some(status);
    letter.detail = detail.to_owned();
    letter.attempts = u32::from(status);
    letter.at = reason.to_owned();
    letter.raw = Some(bytes.to_owned());
    round_trip(&letter, content);
    // A refused record is a line of a log.
    if let Ok(record) = weave_wal::parse(bytes) {
        if serde_json::from_slice::<&RawValue>(bytes).is_ok() {
            let line = String::from_utf8_lossy(bytes).trim_ascii().to_owned();
            assert!(line.contains(record.req));
            letter.record = Some(line);
            letter.raw = None;
            round_trip(&letter, content);
        }
    }
});

fn checkpoint(offset: u64, content: &[u8]) {
    let path = DIR.join("a.checkpoint");
    fuzzing::write_checkpoint(&path, offset).expect("healthy storage");
    assert_eq!(fuzzing::read_checkpoint(&path), offset);
    assert_eq!(fuzzing::checkpoint(offset.to_string().as_bytes()), offset);
    let parsed = fuzzing::checkpoint(content);
    if parsed != 0 {
        let text = std::str::from_utf8(content).expect("digits");
        let digits = text.trim().trim_start_matches('0');
        assert_eq!(digits, parsed.to_string());
    }
    fs::write(&path, content).expect("healthy storage");
    let read = fuzzing::read_checkpoint(&path);
    assert!(read == parsed || content.len() > 64);
}

/// Whatever stands in a dead-letter file is a record or bytes.
fn any_line(content: &[u8]) {
    for line in content.split(|byte| *byte == b'\n') {
        let letter = fuzzing::dead_letter(line);
        assert!(
            letter.record.is_some() || letter.raw.is_some(),
            "{letter:?}"
        );
        if let Some(record) = &letter.record {
            serde_json::from_str::<&RawValue>(record).expect("a record is JSON");
        }
        // What was read can be written again.
        let line = fuzzing::dead_letter_line(&letter);
        assert_eq!(fuzzing::dead_letter(line.trim_ascii()), letter);
    }
}

/// A letter comes back as it was, also behind whatever is in the file already.
fn round_trip(letter: &DeadLetter, before: &[u8]) {
    let line = fuzzing::dead_letter_line(letter);
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    let trimmed = line.trim_ascii();
    assert_eq!(&fuzzing::dead_letter(trimmed), letter);

    let path = DIR.join("b.deadletter");
    fs::write(&path, before).expect("healthy storage");
    let lines = fuzzing::append_dead_letter(&DIR, "b.deadletter", &line).expect("healthy storage");
    let mut expected: Vec<&[u8]> = before
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .collect();
    expected.push(trimmed);
    assert_eq!(lines, expected);
}
