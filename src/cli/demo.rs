//! `weave-wal demo`: makes bad things happen, then counts what the server has received.

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weave_wal::{Client, Event, inspect, tool};

use super::args::{Args, Known};
use super::output::{Output, say};
use super::{Command, Status, Trouble};

// The tests use the rest of it.
#[allow(dead_code)]
#[path = "collector.rs"]
mod collector;
mod stage;
mod table;
mod writer;

use collector::Mode;
use stage::{KEY, PATIENCE, Stage, TemporaryDirectory, append, append_timed, compared, wait_for};
use table::{Row, Story};
use writer::{Sample, Writer};

type Outcome<T> = Result<T, Box<dyn Error>>;
type Scene = fn(&Stage) -> Outcome<Story>;

/// What goes wrong, and what makes it go wrong.
const SCENES: [(&str, Scene); 7] = [
    ("three writers killed", writers_killed),
    ("server down", server_down),
    ("server hangs", server_hangs),
    ("answers lost", answers_lost),
    ("wrong API key", wrong_key),
    ("one record poisoned", one_record_poisoned),
    ("last line torn", last_line_torn),
];

pub(super) const COMMAND: Command = Command {
    name: "demo",
    about: "Breaks things on purpose and counts what arrives",
    usage: "",
    details: "\
Writers are killed, a server on loopback is down, hangs, loses answers, refuses the key and refuses
a record; then everything is delivered and counted. Needs nothing, leaves nothing. The exit status
is 0 if no record was lost.

Options:",
    example: "weave-wal demo",
    known: Known {
        flags: &["--help", "-h"],
        options: &[],
        others: 0,
    },
    run,
};

/// The command that the demo starts itself with, to be killed.
pub(super) const WRITER: &str = "demo-writer";

fn run(_: &Args) -> Result<Status, Trouble> {
    let (table, well) = play().map_err(|error| Trouble::Failed(error.to_string()))?;
    let mut out = Output::stdout();
    out.write(&table);
    out.finish()?;
    Ok(Status::well_if(well))
}

/// Writes below a root, numbered so that its records are told from others', until it is killed.
pub(super) fn write(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let root = args.next().unwrap_or_default();
    let number = args.next().and_then(|number| number.to_str()?.parse().ok());
    match writer::write(root.as_ref(), number.unwrap_or(0)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("weave-wal demo: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Plays every scene, each with a directory and a server of its own: the table, and is all well?
fn play() -> Outcome<(Vec<u8>, bool)> {
    let began = Instant::now();
    // Between two scenes nobody writes to the directory, so that it can be removed for good.
    let interrupted = tool::on_terminate();
    let directory = TemporaryDirectory::create()?;
    let mut rows = Vec::new();
    for (number, (title, scene)) in (1..).zip(SCENES) {
        say(format_args!("{number}/{}  {title} ...", SCENES.len()));
        let stage = Stage::set(directory.path().join(number.to_string()))?;
        let played = scene(&stage).and_then(|story| {
            let received = stage.collector.received();
            Ok(Row::count(title, story, &received, &stage.root)?)
        });
        if interrupted.load(Ordering::Relaxed) {
            return Err("the demo was interrupted; it leaves nothing behind".into());
        }
        rows.push(played.unwrap_or_else(|error| Row::failed(title, error.to_string())));
    }
    let tenths = began.elapsed().as_millis() / 100;
    say(format_args!("done in {}.{} s", tenths / 10, tenths % 10));
    let mut table = Vec::new();
    let well = table::print(&rows, &mut table)?;
    Ok((table, well))
}

fn writers_killed(stage: &Stage) -> Outcome<Story> {
    let start = |number| Writer::start(&stage.root, number);
    let mut writers = (1..=3).map(start).collect::<Outcome<Vec<_>>>()?;
    for writer in &mut writers {
        writer.read(250)?;
    }
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.kill()?);
    }
    let (summary, _) = stage.rescue()?;
    let more = summary.delivered as i64 - acknowledged.len() as i64;
    Ok(Story {
        may_repeat: 0,
        dead_letters: 0,
        told: format!(
            "Three processes shared a directory, and SIGKILL hit them while they wrote. A sender \
             delivered what they left, in {} requests ({more} records more than they had \
             acknowledged: at most the one that each was at).",
            summary.requests
        ),
        acknowledged,
    })
}

fn server_down(stage: &Stage) -> Outcome<Story> {
    stage.collector.stop();
    let (client, events) = stage.client(KEY)?;
    let acknowledged = append(&client, 0..480)?;
    wait_for(&events, |event| matches!(event, Event::Retrying { .. }))?;
    let before = client.flush(Duration::from_millis(500))?;
    let failed = client.stats().retries;
    stage.collector.restart()?;
    let after = client.finish(PATIENCE);
    Ok(Story {
        may_repeat: 0,
        dead_letters: 0,
        told: format!(
            "The server refused {failed} connections while {} records waited on the disk. It came \
             up, and {} were delivered.",
            before.pending, after.delivered
        ),
        acknowledged,
    })
}

fn server_hangs(stage: &Stage) -> Outcome<Story> {
    let (client, _events) = stage.client(KEY)?;
    let (mut acknowledged, healthy) = append_timed(&client, 0..1_500)?;
    client.flush(PATIENCE)?;

    stage.collector.set_mode(Mode::Hang);
    let (served, arrived) = (stage.collector.requests(), stage.collector.received().len());
    acknowledged.extend(append(&client, 1_500..1_501)?);
    if !(stage.collector).wait_for(|collector| collector.requests() > served, PATIENCE) {
        return Err("no request came that could hang".into());
    }
    let (more, hanging) = append_timed(&client, 1_501..3_001)?;
    let appended = more.len();
    acknowledged.extend(more);
    if stage.collector.received().len() != arrived {
        return Err("the server did not hang".into());
    }

    stage.collector.set_mode(Mode::Accept);
    stage.collector.stop();
    stage.collector.restart()?;
    client.finish(PATIENCE);
    let (typical, slowest) = compared(hanging, healthy);
    Ok(Story {
        may_repeat: 0,
        dead_letters: 0,
        told: format!(
            "A request hung unanswered while {appended} records were appended and synced; none \
             waited for it. The typical append took {typical} times as long as with a healthy \
             server, the slowest {slowest} times.",
        ),
        acknowledged,
    })
}

fn answers_lost(stage: &Stage) -> Outcome<Story> {
    const BATCH: usize = 50;
    const LOST: usize = 3;
    for _ in 0..LOST {
        let script = vec![(Mode::DropAfter, 1), (Mode::Accept, 2)];
        stage.collector.script(script);
    }
    let client = Client::open(stage.config(KEY).batch_records(BATCH))?;
    let mut acknowledged = Vec::new();
    // Calls only: they share requests, so that an answer is lost for a whole batch.
    for sample in (0..720).map(|n| Sample::new(0, n)) {
        if sample.kind.is_call() {
            sample.append(&client)?;
            acknowledged.push(sample);
        }
    }
    client.finish(PATIENCE);
    let again = client.stats().retries;
    Ok(Story {
        may_repeat: LOST * BATCH,
        dead_letters: 0,
        told: format!(
            "{again} answers were lost after the server had taken the batch, so these batches of \
             at most {BATCH} were sent again: that is what \"at least once\" means. A call that \
             comes twice is stored once.",
        ),
        acknowledged,
    })
}

fn wrong_key(stage: &Stage) -> Outcome<Story> {
    let (client, events) = stage.client("a-wrong-key")?;
    let acknowledged = append(&client, 0..480)?;
    wait_for(&events, |event| matches!(event, Event::Paused { .. }))?;
    let receipt = client.finish(Duration::from_secs(1));
    drop(client);
    let (summary, _) = stage.rescue()?;
    Ok(Story {
        may_repeat: 0,
        dead_letters: 0,
        told: format!(
            "The server answered 401. The client delivered {} and kept {}; a sender with the \
             right key delivered {}.",
            receipt.delivered, receipt.pending, summary.delivered
        ),
        acknowledged,
    })
}

fn one_record_poisoned(stage: &Stage) -> Outcome<Story> {
    let poison = "What is 241?";
    stage.collector.set_mode(Mode::Poison(poison.into(), 422));
    let (client, events) = stage.client(KEY)?;
    let acknowledged = append(&client, 0..480)?;
    let receipt = client.finish(PATIENCE);
    let letter = wait_for(&events, |e| matches!(e, Event::DeadLettered { .. }))?;
    let Event::DeadLettered { reason, .. } = letter else {
        return Err("there is no dead letter".into());
    };
    Ok(Story {
        may_repeat: 0,
        dead_letters: 1,
        told: format!(
            "The server refuses every request that holds one certain record. After {} requests \
             that record is in the dead-letter file (\"{reason}\") and the other {} are delivered.",
            client.stats().requests,
            receipt.delivered
        ),
        acknowledged,
    })
}

fn last_line_torn(stage: &Stage) -> Outcome<Story> {
    let mut writer = Writer::start(&stage.root, 1)?;
    writer.read(480)?;
    let acknowledged = writer.kill()?;
    for path in inspect::logs(&stage.root, None, &mut |_| ())? {
        let text = fs::read_to_string(&path)?;
        let line = text.lines().next().unwrap_or_default();
        let half = &line.as_bytes()[..line.len() / 2];
        OpenOptions::new()
            .append(true)
            .open(&path)?
            .write_all(half)?;
    }
    let (summary, events) = stage.rescue()?;
    let torn = events.iter().find_map(|event| match event {
        Event::Corrupt { bytes, reason, .. } => Some(format!("{bytes} bytes ({reason})")),
        _ => None,
    });
    Ok(Story {
        may_repeat: 0,
        dead_letters: 1,
        told: format!(
            "A killed writer left half a line at the end of its file. A sender delivered the {} \
             records before it and kept the {}, with their offset, in the dead-letter file.",
            summary.delivered,
            torn.ok_or("the torn line was not reported")?
        ),
        acknowledged,
    })
}
