//! A valid log, cut at any byte, with or without NUL bytes where the rest was: every record before
//! the cut comes back as it was written, and none that was not written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use weave_wal::reader::records;
use weave_wal::{Fault, Kind, fuzzing};

const LIMIT: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let [cut_high, cut_low, nuls, texts @ ..] = input else {
        return;
    };
    let mut log = Vec::new();
    let mut written = Vec::new();
    for text in texts.split(|byte| *byte == 0xFF) {
        let (kind, req) = request(text);
        log.extend(fuzzing::line(kind, &req, LIMIT).expect("an object below the limit"));
        written.push((kind, req, log.len()));
    }
    let cut = usize::from(u16::from_be_bytes([*cut_high, *cut_low])) % (log.len() + 1);
    log.truncate(cut);
    log.resize(cut + usize::from(*nuls), 0);

    // Without its newline a record is whole already.
    let whole = written.iter().filter(|(_, _, end)| end - 1 <= cut).count();
    let rest = written[..whole].last().is_none_or(|(_, _, end)| *end < cut) && cut > 0;
    let mut found = records(&log, LIMIT);
    for (kind, req, _) in &written[..whole] {
        let (_, record) = found.next().expect("a record before the cut");
        let record = record.expect("a record before the cut is whole");
        assert_eq!((record.kind, record.req), (*kind, &req[..]));
        assert!(record.checked);
    }
    if rest {
        let (offset, torn) = found.next().expect("the cut record is reported");
        assert_eq!(torn, Err(Fault::Torn));
        assert_eq!(
            offset,
            written[..whole].last().map_or(0, |(_, _, end)| *end as u64)
        );
    }
    assert_eq!(found.next(), None);
});

/// A request from any bytes: themselves if they are a JSON object, else as text in one.
fn request(text: &[u8]) -> (Kind, String) {
    let (choice, text) = text.split_first().unwrap_or((&0, text));
    let kind = Kind::ALL[usize::from(*choice) % Kind::ALL.len()];
    let req = match serde_json::from_slice::<&RawValue>(text) {
        // What is written is on one line, so that is what comes back.
        Ok(json) if json.get().starts_with('{') => json.get().replace(['\n', '\r'], " "),
        _ => serde_json::json!({ "v": String::from_utf8_lossy(text) }).to_string(),
    };
    (kind, req)
}
