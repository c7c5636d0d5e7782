//! Append, fail, crash, damage, deliver, append again, in any order: at the end every record that
//! was kept is delivered or a dead letter, unchanged and no more often than the crashes and failures
//! explain; no record was invented; every damaged byte is in a dead letter.

#![no_main]

#[path = "model/file.rs"]
mod file;
#[path = "model/script.rs"]
mod script;
#[path = "model/server.rs"]
mod server;

use std::collections::HashMap;
use std::fs;

use libfuzzer_sys::fuzz_target;
use weave_wal::fuzzing::{self, Batches, Delivery, Log, Options, Step, storage};
use weave_wal::{Durability, Kind};

use file::{DIR, File, LONGEST, names};
use script::Script;
use server::{Accepted, Seen, forgive, identify, note, server};

fuzz_target!(|input: &[u8]| {
    let _ = fs::remove_dir_all(&*DIR);
    fs::create_dir(&*DIR).expect("the directory is ours");
    storage::reset();
    let mut model = Model::new(Script(input));
    while let Some(step) = model.script.next() {
        model.step(step);
    }
    model.end();
    drop(model);
    fs::remove_dir_all(&*DIR).expect("the directory is ours");
});

struct Model<'a> {
    script: Script<'a>,
    records: Vec<Accepted>,
    files: Vec<File>,
    /// What the files that are being written were like when somebody read them: their writer may
    /// since have cut off what it could not sync, or given back what was delivered.
    pictures: HashMap<String, Vec<Vec<u8>>>,
    log: Option<Live>,
    /// A delivery of a file that is not the log's own, and which.
    other: Option<(String, Delivery)>,
    other_unsettled: Vec<usize>,
}

/// A log that is open.
struct Live {
    log: Log,
    durability: Durability,
    delivery: Option<Delivery>,
    unsettled: Vec<usize>,
    /// The records that were accepted, from this one on.
    first: usize,
    /// What storage had done wrong before it was opened.
    failures: u32,
}

impl<'a> Model<'a> {
    fn new(script: Script<'a>) -> Self {
        Model {
            script,
            records: Vec::new(),
            files: Vec::new(),
            pictures: HashMap::new(),
            log: None,
            other: None,
            other_unsettled: Vec::new(),
        }
    }

    fn step(&mut self, step: u8) {
        match step % 16 {
            0..=3 => self.append(step >> 4),
            4 if step >> 4 == 15 => self.fail(),
            4 => self.sync(),
            5 | 6 => self.deliver_own(),
            7 | 8 => self.deliver_other(),
            9 => self.drop_deliveries(),
            10 => self.crash(step >> 4),
            11 => self.close(),
            12 => self.flip(),
            13 => self.zero(),
            14 => self.lie(),
            _ => self.tear_dead_letters(),
        }
    }

    /// The log that is open; opens one if there is none.
    fn live(&mut self) -> &mut Live {
        let first = self.records.len();
        let script = &mut self.script;
        self.log.get_or_insert_with(|| {
            let options = script.byte();
            let durability = [
                Durability::Buffered,
                Durability::Written,
                Durability::Synced,
            ][usize::from(options % 3)];
            let options = Options {
                durability,
                segment_bytes: 64 + 16 * u64::from(options >> 4),
                queue_records: 1 + u64::from(options >> 2 & 3) * 4,
            };
            Live {
                log: Log::open(&DIR, &options).expect("a log can be opened"),
                durability,
                delivery: None,
                unsettled: Vec::new(),
                first,
                failures: storage::seen().failures,
            }
        })
    }

    fn append(&mut self, choice: u8) {
        let id = self.records.len();
        let kind = Kind::ALL[usize::from(choice) % Kind::ALL.len()];
        let text = self.script.bytes();
        // Now and then one that is longer than deliveries take.
        let text = String::from_utf8_lossy(&text).repeat(1 + usize::from(choice == 15) * 60);
        let text = serde_json::Value::from(text);
        let req =
            format!("{{\"n\":{id},\"v\":{text},\"in\":{{\"type\":\"call_end\",\"req\":{{}}}}}}");
        let mut line = fuzzing::line(kind, &req, usize::MAX).expect("an object");
        line.pop();
        let before = self.live().log.accepted();
        let failures = storage::seen().failures;
        let is_logged = self.attempt(|live| live.log.append(kind, &req).map(drop));
        let after = self.live().log.accepted();
        let is_accepted = after > before;
        // What cannot be synced is kept and tried again; what cannot be written is refused.
        let synced = self.live().durability == Durability::Synced;
        assert!(is_logged == is_accepted || is_accepted && synced);
        assert!(!is_logged || !synced || self.live().log.synced() == after);
        self.records.push(Accepted {
            kind,
            req,
            line,
            end: is_accepted.then_some(after),
            taken: 0,
            dead: 0,
            excess: storage::seen().failures - failures,
            removed: false,
            kept: false,
            synced: false,
        });
    }

    fn sync(&mut self) {
        if self.attempt(|live| live.log.sync()) {
            let log = &self.live().log;
            assert_eq!(log.synced(), log.accepted(), "sync means synced");
        }
    }

    /// The next calls of the log to its storage fail.
    fn fail(&mut self) {
        let calls = self.script.bytes();
        self.live();
        storage::plan(&calls);
    }

    /// Does what may fail; with healthy storage it does not, whatever has failed before.
    fn attempt(&mut self, act: impl FnOnce(&Live) -> weave_wal::Result<()>) -> bool {
        let (healthy, failures) = (storage::is_healthy(), storage::seen().failures);
        let live = self.live();
        let (first, synced) = (live.first, live.log.synced());
        let done = act(live);
        assert!(done.is_ok() || !healthy, "with healthy storage: {done:?}");
        if storage::seen().failures > failures {
            // What is written to a new file may have been sent from the old one by others, or be
            // in both.
            for record in &mut self.records[first..] {
                record.excess += u32::from(record.end.is_none_or(|end| end > synced));
            }
        }
        done.is_ok()
    }

    fn batches(&mut self) -> Batches {
        let choice = self.script.byte();
        Batches {
            records: 1 + usize::from(choice % 8),
            bytes: 1 + usize::from(choice >> 3) * 64,
            record: LONGEST,
        }
    }

    fn deliver_own(&mut self) {
        let limits = self.batches();
        let answers = self.script.byte();
        self.live();
        self.take_pictures();
        let Some(live) = &mut self.log else { return };
        let held = live.delivery.is_some();
        let mut seen = Seen::default();
        let step = live
            .log
            .deliver(
                &mut live.delivery,
                &limits,
                &mut server(&mut self.records, &mut seen, answers),
            )
            .expect("healthy storage");
        // Without a delivery there was nothing under way before.
        if !held {
            forgive(&mut self.records, &live.unsettled);
            live.unsettled.clear();
        }
        note(&mut live.unsettled, seen, step);
    }

    /// Another process: delivers a file that is dead, or one that is being written.
    fn deliver_other(&mut self) {
        let limits = self.batches();
        let answers = self.script.byte();
        if self.other.is_none() {
            let names = names("jsonl");
            if names.is_empty() {
                return;
            }
            let name = names[self.script.below(names.len())].clone();
            self.go_back(&name);
            let opened = Delivery::open(&DIR, &name, &limits).expect("healthy storage");
            self.other = opened.map(|delivery| (name, delivery));
        }
        self.take_pictures();
        let Some((name, delivery)) = &mut self.other else {
            return;
        };
        let mut seen = Seen::default();
        let size = fs::metadata(DIR.join(&*name)).expect("it is held").len();
        let stepped = delivery.step(&mut server(&mut self.records, &mut seen, answers));
        let step = match stepped {
            Ok(step) => step,
            // The writer has cut off what it could not sync, and writes it to a new file.
            Err(_) if storage::seen().failures > 0 => {
                note(&mut self.other_unsettled, seen, Step::Blocked);
                return self.drop_deliveries();
            }
            Err(error) => panic!("healthy storage: {error:?}"),
        };
        storage::synced_by_others(&DIR.join(&*name), size);
        note(&mut self.other_unsettled, seen, step);
        if step == Step::Idle {
            if let Some((_, delivery)) = self.other.take() {
                delivery.remove().expect("healthy storage");
            }
        }
    }

    /// Keeps what the files that are being written are like now.
    fn take_pictures(&mut self) {
        let mut here = names("jsonl");
        here.retain(|name| self.files.iter().all(|file| file.name != *name));
        for name in here {
            let content = fs::read(DIR.join(&name)).expect("healthy storage");
            let pictures = self.pictures.entry(name).or_default();
            if pictures.last() != Some(&content) {
                pictures.push(content);
            }
        }
    }

    /// A delivery that begins inside a line, for its newline is damaged, goes back to the line's
    /// start.
    fn go_back(&mut self, name: &str) {
        let Some(file) = self.files.iter().find(|file| file.name == name) else {
            return;
        };
        let checkpoint = fuzzing::read_checkpoint(&file.path().with_extension("checkpoint"));
        let again = file.from_line_start(checkpoint as usize);
        for line in file
            .lines
            .iter()
            .filter(|line| again.start <= line.place.start && line.place.end <= again.end)
        {
            self.records[line.id].excess += 1;
        }
    }

    /// Who delivers dies, and does not remember what was answered.
    fn drop_deliveries(&mut self) {
        self.other = None;
        forgive(&mut self.records, &self.other_unsettled);
        self.other_unsettled.clear();
        if let Some(live) = &mut self.log {
            live.delivery = None;
            forgive(&mut self.records, &live.unsettled);
            live.unsettled.clear();
        }
    }

    fn close(&mut self) {
        if self.log.is_some() && self.attempt(|live| live.log.close()) {
            let log = &self.live().log;
            assert_eq!(log.synced(), log.accepted(), "closed means synced");
        }
        self.bury(0);
    }

    /// The writer dies, and perhaps the machine with it.
    fn crash(&mut self, how: u8) {
        self.bury(how);
    }

    /// Takes stock of the files of a log whose writer is dead.
    fn bury(&mut self, how: u8) {
        self.drop_deliveries();
        let Some(live) = self.log.take() else { return };
        let (synced, degraded) = (live.log.synced(), live.log.is_degraded());
        drop(live.log);
        storage::plan(&[]);
        let seen = storage::seen();
        let failed = seen.failures > live.failures;

        let known: Vec<&str> = self.files.iter().map(|file| &file.name[..]).collect();
        let mut own = names("jsonl");
        own.retain(|name| !known.contains(&&name[..]));
        let mut written = 0;
        for (index, name) in own.iter().enumerate() {
            let mut file = File::new(name, &self.records, failed);
            file.versions = self.pictures.remove(name).unwrap_or_default();
            let synced_here = storage::synced(&file.path()) as usize;
            for line in &file.lines {
                let record = &mut self.records[line.id];
                assert!(record.end.is_some() || seen.not_cut, "it was refused");
                record.kept = true;
                record.synced |= line.place.end < synced_here;
                written = written.max(record.end.unwrap_or_default());
            }
            let is_last = index + 1 == own.len();
            assert!(
                is_last || failed || synced_here == file.content.len(),
                "a file that is followed by another is synced"
            );
            if is_last || synced_here < file.content.len() {
                file.lose_power(how, synced_here, &mut self.script);
            }
            // The PID of a process that does not exist any more.
            fs::write(DIR.join(name).with_extension("lock"), "0").expect("healthy storage");
            self.files.push(file);
        }
        let letters = names("deadletter").into_iter();
        let letters = letters.map(|name| fs::read(DIR.join(name)).expect("healthy storage"));
        let dead = String::from_utf8_lossy(&letters.collect::<Vec<_>>().concat()).into_owned();
        for record in &mut self.records[live.first..] {
            let Some(end) = record.end else { continue };
            // What was dealt with makes room on a full disk, also before the log itself has synced it.
            let is_dead = record.line.len() > LONGEST || dead.contains(&record.req);
            let is_dealt_with = record.taken > 0 || is_dead;
            record.removed = !record.kept && (end <= synced || is_dealt_with);
            // Of one that is dealt with there may be a copy left that a failed sync was about.
            assert!(
                end > synced || record.removed || record.synced || is_dealt_with,
                "sync means synced"
            );
            let buffered = live.durability == Durability::Buffered && end > written;
            // Nothing but memory has what a failed sync has destroyed and no new file has taken.
            let destroyed = degraded && seen.destroyed;
            let in_a_file = record.kept || record.removed;
            assert!(in_a_file || buffered || destroyed, "append means written");
        }
    }

    /// A file that nobody holds, to do something bad to.
    fn victim(&mut self) -> Option<usize> {
        self.drop_deliveries();
        let here = names("jsonl");
        let candidates: Vec<usize> = (0..self.files.len())
            .filter(|&index| here.contains(&self.files[index].name))
            .filter(|&index| !self.files[index].content.is_empty())
            .collect();
        (!candidates.is_empty()).then(|| candidates[self.script.below(candidates.len())])
    }

    fn flip(&mut self) {
        let Some(victim) = self.victim() else { return };
        let file = &mut self.files[victim];
        let at = file.place(&mut self.script);
        let bits = self.script.byte().max(1);
        if let Some(line) = file.lines.iter_mut().find(|line| line.place.contains(&at)) {
            if std::mem::replace(&mut line.flipped, true) {
                return;
            }
        }
        file.damage(at..at + 1, |byte| *byte ^= bits);
    }

    fn zero(&mut self) {
        let Some(victim) = self.victim() else { return };
        let file = &mut self.files[victim];
        let start = file.place(&mut self.script);
        let len = usize::from(self.script.byte());
        let end = file.content.len().min(start + len);
        file.damage(start..end, |byte| *byte = 0);
    }

    /// A checkpoint with anything in it.
    fn lie(&mut self) {
        let Some(victim) = self.victim() else { return };
        let file = &mut self.files[victim];
        let content = match self.script.byte() % 4 {
            0 => self.script.bytes(),
            1 => (file.content.len() + self.script.below(3))
                .to_string()
                .into_bytes(),
            _ => file.place(&mut self.script).to_string().into_bytes(),
        };
        let said = std::str::from_utf8(&content)
            .ok()
            .map(str::trim)
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse::<u64>().ok())
            .map_or(0, |offset| usize::try_from(offset).unwrap_or(usize::MAX));
        // A record that ends here without a newline counts as delivered, too.
        file.skipped = file.skipped.max(said.saturating_add(1));
        for line in &file.lines {
            self.records[line.id].excess += 1;
        }
        fs::write(DIR.join(&file.name).with_extension("checkpoint"), content).expect("written");
    }

    /// A dead-letter file that ends in the middle of a line.
    fn tear_dead_letters(&mut self) {
        let names = names("jsonl");
        if names.is_empty() {
            return;
        }
        let name = &names[self.script.below(names.len())];
        let path = DIR.join(name).with_extension("deadletter");
        let mut content = fs::read(&path).unwrap_or_default();
        if content.last().is_some_and(|byte| *byte != b'\n') {
            return;
        }
        content.extend_from_slice(b"{\"record\":{\"torn");
        fs::write(path, content).expect("healthy storage");
    }

    /// Delivers everything to a server that takes it, and compares.
    fn end(&mut self) {
        self.bury(0);
        let limits = Batches {
            records: 100,
            bytes: 1 << 16,
            record: LONGEST,
        };
        for name in names("jsonl") {
            self.go_back(&name);
            let mut delivery = Delivery::open(&DIR, &name, &limits)
                .expect("healthy storage")
                .expect("nobody else has it");
            // Once more to see that the writer is gone.
            let mut steps = 0;
            loop {
                let mut seen = Seen::default();
                let step = delivery
                    .step(&mut server(&mut self.records, &mut seen, 0))
                    .expect("healthy storage");
                assert_ne!(step, Step::Blocked, "a server that takes everything");
                if step == Step::Idle {
                    break;
                }
                steps += 1;
                assert!(steps < 10_000);
            }
            assert!(
                delivery.remove().expect("healthy storage"),
                "{name} is done"
            );
        }
        self.check();
    }

    fn check(&mut self) {
        let mut quarantined: HashMap<String, Vec<bool>> = HashMap::new();
        for name in names("deadletter") {
            self.read_dead_letters(&name, &mut quarantined);
        }
        for name in names("") {
            assert!(name.ends_with(".deadletter"), "{name} is left");
        }
        for file in &self.files {
            for line in &file.lines {
                let skipped = line.place.end < file.skipped;
                let record = &self.records[line.id];
                if !line.damaged && !line.hidden && !skipped {
                    assert!(record.taken + record.dead > 0, "{} is lost", record.req);
                }
            }
            file.check_all_accounted_for(&self.records, quarantined.get(&file.stem()));
        }
        for record in &self.records {
            if record.end.is_none() && !record.kept {
                assert_eq!(record.taken + record.dead, 0, "it was refused");
            }
            if record.removed && record.line.len() <= LONGEST {
                assert!(record.taken + record.dead > 0, "{} is lost", record.req);
            }
            assert!(
                record.taken + record.dead <= 1 + record.excess,
                "{} came {} + {} times, and {} are explained",
                record.req,
                record.taken,
                record.dead,
                1 + record.excess
            );
            if record.taken + record.dead > 0 {
                assert!(record.kept || record.removed, "only what was kept is sent");
            }
        }
    }

    fn read_dead_letters(&mut self, name: &str, quarantined: &mut HashMap<String, Vec<bool>>) {
        let stem = name.trim_end_matches(".deadletter").to_owned();
        let content = fs::read(DIR.join(name)).expect("healthy storage");
        for line in content.split(|byte| *byte == b'\n') {
            if line.is_empty() || line == b"{\"record\":{\"torn" {
                continue;
            }
            let letter = fuzzing::dead_letter(line);
            let offset = letter.offset as usize;
            if let Some(record) = &letter.record {
                assert_eq!(letter.raw, None);
                let record = weave_wal::parse(record.as_bytes()).expect("a record");
                let id = identify(record.kind, record.req, &self.records);
                self.records[id].dead += 1;
                continue;
            }
            let raw = letter.raw.as_ref().expect("a record or bytes");
            let range = offset..offset + raw.len();
            let Some(file) = self.files.iter().find(|file| file.stem() == stem) else {
                let not_cut = storage::seen().not_cut;
                let is_known = |record: &Accepted| match record.line.len() > LONGEST {
                    true => record.line.windows(raw.len()).any(|part| part == raw),
                    // A write failed half-way, and what it left could not be cut off.
                    false => not_cut && record.line.starts_with(raw),
                };
                assert!(
                    self.records.iter().any(is_known),
                    "nothing else can be wrong with a file that is gone before its writer"
                );
                continue;
            };
            assert!(
                file.versions
                    .iter()
                    .chain([&file.content])
                    .any(|version| version.get(range.clone()) == Some(&raw[..])),
                "the bytes of a dead letter stand in the file: {letter:?}"
            );
            let seen = quarantined
                .entry(stem.clone())
                .or_insert_with(|| vec![false; file.content.len()]);
            // A file may have been longer once.
            let end = range.end.min(seen.len());
            if let Some(seen) = seen.get_mut(range.start..end) {
                seen.fill(true);
            }
        }
    }
}
