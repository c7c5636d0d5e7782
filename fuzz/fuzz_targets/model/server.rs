//! A server, and what is known of each record.

use std::collections::HashMap;

use serde_json::value::RawValue;
use weave_wal::Kind;
use weave_wal::fuzzing::{Said, Step};

/// A record that was appended.
pub struct Accepted {
    pub kind: Kind,
    pub req: String,
    /// Its line without the newline.
    pub line: Vec<u8>,
    /// The position behind it in its log; `None`: it was refused.
    pub end: Option<u64>,
    /// How often the server took it.
    pub taken: u32,
    /// How often it was found in a dead letter.
    pub dead: u32,
    /// How many further copies the crashes and lost answers explain.
    pub excess: u32,
    /// It was in a file that was delivered to its end.
    pub removed: bool,
    /// It was in a file when its writer died.
    pub kept: bool,
    /// It was in what storage had synced by then.
    pub synced: bool,
}

/// What one delivery has under way.
#[derive(Default)]
pub struct Seen {
    pub taken: Vec<usize>,
}

/// A server with its mind made up by some bits, two for each request.
pub fn server<'a>(
    records: &'a mut [Accepted],
    seen: &'a mut Seen,
    mut answers: u8,
) -> impl FnMut(&str, &[u8]) -> Said + 'a {
    move |path, body| {
        let said = match answers & 7 {
            1 => Said::Refused,
            3 => Said::Nothing,
            5 => Said::Later,
            7 => Said::WrongKey,
            _ => Said::Taken,
        };
        answers >>= 2;
        for id in requested(path, body, records) {
            match said {
                Said::Taken => {
                    records[id].taken += 1;
                    seen.taken.push(id);
                }
                Said::Nothing => {
                    records[id].taken += 1;
                    records[id].excess += 1;
                }
                Said::Refused | Said::Later | Said::WrongKey => {}
            }
        }
        said
    }
}

/// The records in a request.
pub fn requested(path: &str, body: &[u8], records: &[Accepted]) -> Vec<usize> {
    let body: &RawValue = serde_json::from_slice(body).expect("a JSON body");
    let items: Vec<(Kind, String)> = match path {
        "/call/upsert_batch" => {
            let batch: HashMap<String, &RawValue> =
                serde_json::from_str(body.get()).expect("an object");
            assert_eq!(batch.len(), 1);
            let calls: Vec<HashMap<String, &RawValue>> =
                serde_json::from_str(batch["batch"].get()).expect("a list");
            let kind = |mode: &str| match mode {
                "\"start\"" => Kind::CallStart,
                "\"end\"" => Kind::CallEnd,
                _ => panic!("a mode {mode}"),
            };
            let calls = calls.iter();
            calls
                .map(|call| (kind(call["mode"].get()), call["req"].get().to_owned()))
                .collect()
        }
        "/obj/create" => vec![(Kind::ObjCreate, body.get().to_owned())],
        "/table/create" => vec![(Kind::TableCreate, body.get().to_owned())],
        _ => panic!("a request to {path}"),
    };
    assert!(!items.is_empty());
    items
        .iter()
        .map(|(kind, req)| identify(*kind, req, records))
        .collect()
}

/// Which record this is, unchanged.
pub fn identify(kind: Kind, req: &str, records: &[Accepted]) -> usize {
    let number = req
        .strip_prefix("{\"n\":")
        .and_then(|rest| rest.split(',').next());
    let id: usize = number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{req} was never appended"));
    let record = records.get(id).expect("a record that was appended");
    assert_eq!((record.kind, &record.req[..]), (kind, req));
    id
}

/// Keeps what an answer was had for, until its batch is settled.
pub fn note(unsettled: &mut Vec<usize>, seen: Seen, step: Step) {
    unsettled.extend(seen.taken);
    if step == Step::Settled {
        unsettled.clear();
    }
}

/// What was answered, but forgotten in a crash, comes again.
pub fn forgive(records: &mut [Accepted], unsettled: &[usize]) {
    for id in unsettled {
        records[*id].excess += 1;
    }
}
