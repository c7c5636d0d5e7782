//! The power is cut after any storage call, and everything that was not synced may be gone: what
//! was promised arrives, nothing is invented, no more than one batch is repeated.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/faults.rs"]
mod faults;
#[path = "faults/model.rs"]
mod model;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use faults::*;
use model::{Entry, Missing, Model, State};
use serde_json::Value;
use support::id;
use weave_wal::Client;

/// Records of each of the two threads of a writer.
const RECORDS: usize = 12;

/// Files that take more than a batch.
const SEGMENT: u64 = 1_500;

/// The record that the server refuses.
const REFUSED: usize = 7;

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    let root = || PathBuf::from(std::env::var_os("ROOT").unwrap());
    match std::env::var(PART).as_deref() {
        Ok("write") => append_and_send(2, RECORDS, SEGMENT, &note),
        Ok("send") => {
            let summary = support::send_to(&std::env::var("URL").unwrap(), &root(), support::LONG);
            assert_eq!(summary.pending, 0, "{summary:?}");
        }
        Ok("leftovers") => {
            let client = Client::open(small(&root(), SEGMENT)).unwrap();
            let all_gone = || client.stats().delivered as usize == RECORDS - 1;
            while !all_gone() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            assert!(client.finish(support::LONG).error.is_none());
        }
        Ok(other) => panic!("no such part: {other}"),
        Err(_) => {}
    }
}

/// Writes something down between the storage calls.
fn note(words: &str) {
    let path = std::env::var_os("FAULT_LOG").unwrap();
    append_line(Path::new(&path), words);
}

fn append_line(path: &Path, words: &str) {
    let mut log = fs::OpenOptions::new().append(true).open(path).unwrap();
    log.write_all(format!("{words}\n").as_bytes()).unwrap();
}

/// A server that says which records it takes before it says so to the client.
struct Witness {
    url: String,
    seen: Arc<Mutex<BTreeMap<usize, usize>>>,
    stop: Arc<AtomicBool>,
}

impl Witness {
    fn start(log: Option<PathBuf>) -> Witness {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let witness = Witness {
            url: format!("http://{address}"),
            seen: Arc::default(),
            stop: Arc::default(),
        };
        let (seen, stop) = (Arc::clone(&witness.seen), Arc::clone(&witness.stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // One at a time: a client has one request out, and the order is plain.
                let _ = answer(stream.unwrap(), &seen, log.as_deref());
            }
        });
        witness
    }

    fn seen(&self) -> BTreeMap<usize, usize> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.url.strip_prefix("http://").unwrap());
    }
}

fn answer(
    stream: TcpStream,
    seen: &Mutex<BTreeMap<usize, usize>>,
    log: Option<&Path>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(&stream);
    let mut len = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body)?;
    let number = |call: &Value| {
        let start = &call["req"]["start"];
        let n = start["n"].as_u64().unwrap() as usize;
        assert_eq!(start["id"], Value::from(id(n)), "a record was changed");
        n
    };
    let numbers: Vec<usize> = body["batch"]
        .as_array()
        .unwrap()
        .iter()
        .map(number)
        .collect();
    let status = if numbers.contains(&REFUSED) {
        "422 Unprocessable Entity"
    } else {
        for n in &numbers {
            *seen.lock().unwrap().entry(*n).or_default() += 1;
        }
        if let Some(log) = log {
            let words: Vec<String> = numbers.iter().map(usize::to_string).collect();
            append_line(log, &format!("P {}", words.join(" ")));
        }
        "200 OK"
    };
    write!(
        &stream,
        "HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    )
}

/// A run that was recorded.
struct Recording {
    /// The directory as it was before.
    before: Place,
    entries: Vec<Entry>,
    /// Records that were safe before.
    synced: BTreeSet<usize>,
    /// Damaged bytes that were there before.
    torn: bool,
    /// How many records may arrive twice.
    batch: usize,
}

/// What somebody else has made a moment before "write below" begins, and has not synced.
const MADE_BEFORE: [&str; 3] = ["wal", "wal/team", "wal/team/app"];

/// Records a run of a part, in a directory where files are left behind if it only sends.
fn record(part: &str) -> Recording {
    let (before, place) = (Place::new(), Place::new());
    let is_below = part == "write below";
    let part = if is_below { "write" } else { part };
    let leftovers = part != "write";
    if leftovers {
        leave_behind(&before);
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(before.root())
            .arg(place.disk())
            .status();
        assert!(copied.unwrap().success());
    }
    fs::write(place.log(), "").unwrap();
    for directory in MADE_BEFORE.iter().filter(|_| is_below) {
        fs::create_dir(place.disk().join(directory)).unwrap();
        append_line(&place.log(), &format!("M {directory}"));
    }
    let witness = Witness::start(Some(place.log()));
    let faults = [
        ("FAULT_MODE", "record".to_owned()),
        ("FAULT_SLOW_US", "300".to_owned()),
    ];
    let played = run(place.play(part, &witness.url, &faults));
    assert!(played.status.success(), "{}", played.errors);
    Recording {
        before,
        entries: model::parse(&fs::read(place.log()).unwrap()),
        synced: if leftovers {
            (0..RECORDS).collect()
        } else {
            BTreeSet::new()
        },
        torn: leftovers,
        batch: if part == "send" { RECORDS } else { BATCH },
    }
}

/// Two files of a process that is gone; the second one ends in a torn line.
fn leave_behind(place: &Place) {
    for file in 0..2 {
        let client = support::writer(&place.root());
        support::append_starts(&client, file * RECORDS / 2..(file + 1) * RECORDS / 2);
    }
    for lock in place.files("lock") {
        fs::write(lock, "999999999").unwrap();
    }
    let path = place.files("jsonl").pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(b"{\"type\":\"call_st");
    fs::write(&path, bytes).unwrap();
}

/// Recovers from a state and says what is wrong with what came of it.
fn check(state: &State, at: &Model, recording: &Recording, tally: &Tally) -> Result<(), String> {
    let place = Place::new();
    model::materialise(state, &place.disk());
    for lock in place.files("lock") {
        // The writer is gone, and what a cut has left of its number is nobody else's.
        fs::write(lock, "999999999").unwrap();
    }
    let witness = Witness::start(None);
    let summary = support::send_to(&witness.url, &place.root(), support::LONG);
    let seen = witness.seen();
    let (letters, torn) = letters(&place);
    let arrived = |n: &usize| at.applied.contains_key(n) || seen.contains_key(n);

    let promised = || at.synced.union(&recording.synced);
    let to_arrive: Vec<_> = promised().copied().filter(|n| *n != REFUSED).collect();
    let mut arrivals = seen.clone();
    for (n, count) in &at.applied {
        *arrivals.entry(*n).or_default() += count;
    }
    tally.count(&to_arrive, &arrivals);
    for n in promised() {
        let there = if *n == REFUSED {
            letters.contains(n)
        } else {
            arrived(n)
        };
        if !there {
            return Err(format!("record {n} is lost"));
        }
    }
    if recording.torn && !torn {
        return Err("the damaged bytes are lost".to_owned());
    }
    let is_known = |n: &usize| n % 100_000 < RECORDS && n / 100_000 < 2;
    if let Some(n) = seen.keys().chain(&letters).find(|n| !is_known(n)) {
        return Err(format!("record {n} is invented"));
    }
    if let Some((n, count)) = seen.iter().find(|(_, count)| **count > 1) {
        return Err(format!("the recovery itself sent {n} {count} times"));
    }
    let twice = seen.keys().filter(|n| at.applied.contains_key(n)).count();
    if twice > recording.batch {
        return Err(format!("{twice} records arrived twice"));
    }
    if summary.pending > 0 || !place.files("jsonl").is_empty() {
        return Err(format!("a file is left: {summary:?}"));
    }
    Ok(())
}

/// The refused records in the dead-letter files, and whether there are damaged bytes.
fn letters(place: &Place) -> (BTreeSet<usize>, bool) {
    let (mut records, mut torn) = (BTreeSet::new(), false);
    for path in place.files("deadletter") {
        for line in fs::read(path).unwrap().split(|byte| *byte == b'\n') {
            // What a cut has left of a line stands apart from its neighbours.
            let Ok(letter) = serde_json::from_slice::<Value>(line) else {
                continue;
            };
            let n = letter["record"]["req"]["start"]["n"].as_u64();
            records.extend(n.map(|n| n as usize));
            torn |= letter["raw_base64"].is_string();
        }
    }
    (records, torn)
}

/// Cuts the power after each call of a recording. Returns what came of it and what
/// was wrong; stops at the first thing if told so.
fn cut_everywhere(recording: &Recording, missing: Missing, most: usize) -> (Tally, Vec<String>) {
    let mut model = Model::new(&recording.before.disk(), missing);
    let mut random = 0x5eed;
    let (tally, wrong) = (Tally::default(), Mutex::new(Vec::new()));
    let mut known = BTreeSet::new();
    for (at, entry) in recording.entries.iter().enumerate() {
        model.step(entry);
        let mut states = model.states(most, &mut random);
        // Many calls lead to no new state, and to no new promise.
        let promises = (model.synced.len(), model.applied.len());
        states.retain(|state| known.insert((promises, state.clone())));
        in_parallel(states.len(), |index| {
            if let Err(error) = check(&states[index], &model, recording, &tally) {
                let names: Vec<_> = states[index].keys().collect();
                let mut call = format!("{entry:?}");
                call.truncate(120);
                let error = format!("cut after call {at}, {call}: {error}; {names:?}");
                wrong.lock().unwrap().push(error);
            }
        });
        if missing != Missing::Nothing && !wrong.lock().unwrap().is_empty() {
            break;
        }
    }
    (tally, wrong.into_inner().unwrap())
}

fn recording(part: &'static str) -> &'static Recording {
    static RECORDINGS: [OnceLock<Recording>; 4] = [const { OnceLock::new() }; 4];
    let at = ["write", "write below", "send", "leftovers"]
        .iter()
        .position(|known| *known == part);
    RECORDINGS[at.unwrap()].get_or_init(|| record(part))
}

fn no_cut_breaks_a_promise(part: &'static str) {
    if shim().is_none() {
        return;
    }
    let recording = recording(part);
    let most = if thorough() { 150 } else { 3 };
    let (tally, wrong) = cut_everywhere(recording, Missing::Nothing, most);
    assert!(
        wrong.is_empty(),
        "{}",
        wrong[..wrong.len().min(5)].join("\n")
    );
    let calls = recording.entries.len();
    tally.tell(&format!("power cut after each of {calls} calls ({part})"));
}

#[test]
fn no_cut_breaks_a_promise_of_a_writer() {
    no_cut_breaks_a_promise("write");
}

#[test]
fn no_cut_breaks_a_promise_of_a_writer_below_directories_that_nobody_has_synced() {
    no_cut_breaks_a_promise("write below");
}

#[test]
fn no_cut_breaks_a_promise_of_a_sender() {
    no_cut_breaks_a_promise("send");
}

#[test]
fn no_cut_breaks_a_promise_of_a_client_that_delivers_leftovers() {
    no_cut_breaks_a_promise("leftovers");
}

/// Takes one sync out of a recording: some state must then break a promise.
fn notices(part: &'static str, missing: Missing) {
    if shim().is_none() {
        return;
    }
    let (tally, wrong) = cut_everywhere(recording(part), missing, 12);
    let count = tally.trials();
    println!("{part}: {missing:?}: {count} states, {:?}", wrong.first());
    let breaks = |error: &String| error.contains("lost") || error.contains("twice");
    assert!(
        wrong.iter().any(breaks),
        "{part}: nobody misses {missing:?}"
    );
}

/// The same where a writer delivers its own log, which takes longer.
fn notices_late(part: &'static str, missing: Missing) {
    notices(part, missing);
    if thorough() {
        notices("write", missing);
    }
}

#[test]
fn the_model_notices_a_missing_sync_of_a_log_file() {
    notices("write", Missing::Content("jsonl"));
}

#[test]
fn the_model_notices_a_missing_sync_of_a_new_log_files_name() {
    notices("write", Missing::NewName("jsonl"));
}

#[test]
fn the_model_notices_a_missing_sync_of_a_new_directory() {
    notices("write", Missing::NewDirectory);
}

#[test]
fn the_model_notices_a_missing_sync_of_a_checkpoint() {
    notices_late("leftovers", Missing::Content("checkpoint.tmp"));
}

#[test]
fn the_model_notices_a_missing_sync_of_a_checkpoints_name() {
    notices_late("leftovers", Missing::NewName("checkpoint"));
}

#[test]
fn the_model_notices_a_missing_sync_of_a_removal() {
    notices_late("leftovers", Missing::Removal("jsonl"));
}

#[test]
fn the_model_notices_a_missing_sync_of_a_dead_letter() {
    notices_late("send", Missing::Content("deadletter"));
}

#[test]
fn the_model_notices_a_missing_sync_of_a_dead_letter_files_name() {
    notices_late("send", Missing::NewName("deadletter"));
}
