//! `weave-wal append`: standard input into the log.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::value::RawValue;
use weave_wal::{Client, Config, Durability, Error, Kind, Receipt, Storage, parse};

use super::args::{Args, Known};
use super::events::Reporter;
use super::lines::{Lines, Next};
use super::output::{Output, count, say};
use super::{Bytes, Command, Seconds, Status, Trouble};

/// The library's own limit on a record.
const RECORD_LIMIT: usize = 16 << 20;

/// An input line may have some white space, a checksum and other keys on top of that.
const LINE_LIMIT: usize = RECORD_LIMIT + (1 << 20);

/// How many lines are made durable together at most.
const GROUP: usize = 10_000;

/// How long the end may take when nothing is to be sent.
const CLOSING: Duration = Duration::from_secs(10);

pub(super) const COMMAND: Command = Command {
    name: "append",
    about: "Logs records from standard input",
    usage: "--project E/P [--root DIR] [--kind K] [--ack] [--send [--timeout SECS]] [--durability D] [--disk-budget SIZE] [--free-space-floor SIZE] [--when-full P]",
    details: "\
Reads one JSON object a line: a whole record, {\"type\":\"call_start\",\"req\":{…}}, or with --kind
only its req. A line that cannot be logged is named by its number, the rest goes on, and the exit
status is 1. Nothing is sent, unless --send is given.

Options:
  --project E/P       the entity and the project, as in my-team/my-app
  --root DIR          where the logs are
  --kind K            all lines are of this kind: call_start, call_end, obj_create,
                      table_create, file_create
  --ack               print the number of each line as soon as its record is durable
  --durability D      what that means. written (default): in the file, the process may die;
                      synced: on the disk, the machine may lose power; buffered: as synced for
                      --ack, and without it written within milliseconds
  --disk-budget SIZE  what the logs below the root may take, all together; default 4GiB. SIZE is
                      in bytes, or ends in KiB, MiB or GiB
  --free-space-floor SIZE
                      what is to stay free on the disk; default 64MiB, or a twentieth of it
  --when-full P       what happens there. reject (default): the line is refused and the reading
                      ends; drop-oldest: the project's oldest file is dropped, and that is told
  --send              deliver to the server as well
  --timeout SECS      with --send: how long the end may take; default 30",
    example: "weave-wal append --project my-team/my-app --ack < records.jsonl",
    known: Known {
        flags: &["--ack", "--send", "--help", "-h"],
        options: &[
            "--project",
            "--root",
            "--kind",
            "--durability",
            "--timeout",
            "--disk-budget",
            "--free-space-floor",
            "--when-full",
        ],
        others: 0,
    },
    run,
};

fn run(args: &Args) -> Result<Status, Trouble> {
    let send = args.flag("--send");
    let timeout = args.value::<Seconds>("--timeout")?;
    if timeout.is_some() && !send {
        return Err(Trouble::Wrong("--timeout is for --send".to_owned()));
    }
    let durability = args.value("--durability")?.unwrap_or_default();
    let (kind, ack) = (args.value("--kind")?, args.flag("--ack"));
    let client = Client::open(config(args, durability, send)?)?;
    if io::stdin().is_terminal() {
        say("reading records from the terminal, one a line; Ctrl-D ends them");
    }
    let input = io::stdin().as_fd().try_clone_to_owned();
    let input =
        input.map_err(|error| Trouble::Unusable(format!("cannot read standard input: {error}")))?;
    let mut append = Append {
        client: &client,
        kind,
        sync: match durability {
            Durability::Buffered => ack,
            Durability::Written => false,
            Durability::Synced => true,
        },
        acks: ack.then(Output::stdout),
        durable: Vec::new(),
        refused: 0,
    };
    let read = append.all(Lines::new(File::from(input), LINE_LIMIT));
    let all_good = append.refused == 0;
    let acks = append.acks.take().map_or(Ok(()), Output::finish);
    let timeout = match send {
        true => timeout.map_or(Duration::from_secs(30), |Seconds(timeout)| timeout),
        false => CLOSING,
    };
    let delivered = end(&client, send, timeout);
    read?;
    let delivered = delivered?;
    acks?;
    Ok(Status::well_if(all_good && delivered))
}

fn config(args: &Args, durability: Durability, send: bool) -> Result<Config, Trouble> {
    let Some(project) = args.value::<String>("--project")? else {
        return Err(Trouble::Wrong(
            "--project is missing; give it as entity/project, as in --project my-team/my-app"
                .to_owned(),
        ));
    };
    let reporter = Mutex::new(Reporter::default());
    let mut config = Config::from_env(&project)?
        .storage(Storage::Disk)
        .sender(send)
        .record_limit(RECORD_LIMIT)
        // Several lines are synced at once, here, before they are acknowledged.
        .durability(durability.min(Durability::Written))
        .when_full(args.value("--when-full")?.unwrap_or_default())
        .on_event(move |event| {
            let line = reporter.lock().ok().and_then(|mut r| r.line(event));
            line.into_iter().for_each(say);
        });
    if let Some(Bytes(budget)) = args.value("--disk-budget")? {
        config = config.disk_budget(budget);
    }
    if let Some(Bytes(floor)) = args.value("--free-space-floor")? {
        config = config.free_space_floor(floor);
    }
    if let Some(root) = args.path("--root") {
        config = config.root(root);
    }
    Ok(config)
}

struct Append<'a> {
    client: &'a Client,
    kind: Option<Kind>,
    /// Appended is not durable yet: it takes a sync.
    sync: bool,
    acks: Option<Output>,
    /// Lines that are appended and not acknowledged.
    durable: Vec<u64>,
    refused: u64,
}

/// Why a line was not logged.
enum Refusal {
    /// It is the line's fault.
    Line(String),
    /// It is not, so the next one would fare no better.
    Storage(Error),
}

impl Append<'_> {
    /// Appends every line. Never waits for input while a line that is durable, or could be, is
    /// not acknowledged.
    fn all(&mut self, mut lines: Lines<impl Read>) -> Result<(), Trouble> {
        let mut line = Vec::new();
        loop {
            let next = lines.next(&mut line);
            let number = lines.number();
            match next {
                Ok(Next::Line) if line.trim_ascii().is_empty() => {}
                Ok(Next::Line) => self.line(number, &line)?,
                Ok(Next::TooLong) => self.refuse(
                    number,
                    &format!("longer than a record may be ({RECORD_LIMIT} bytes)"),
                ),
                Ok(Next::End) => return self.commit(),
                Err(error) => {
                    self.commit()?;
                    let why = format!("cannot read standard input behind line {number}: {error}");
                    return Err(Trouble::Failed(why));
                }
            }
            if !lines.has_more() || self.durable.len() >= GROUP {
                self.commit()?;
            }
        }
    }

    fn line(&mut self, number: u64, line: &[u8]) -> Result<(), Trouble> {
        match append(self.client, self.kind, line) {
            Ok(()) => self.durable.push(number),
            Err(Refusal::Line(why)) => self.refuse(number, &why),
            Err(Refusal::Storage(error)) => {
                // Those before it may well be safe; whoever waits for them should know.
                self.commit()?;
                return Err(Trouble::Failed(format!(
                    "line {number}: {error}; neither it nor what follows is logged"
                )));
            }
        }
        Ok(())
    }

    fn refuse(&mut self, number: u64, why: &str) {
        self.refused += 1;
        say(format_args!("line {number}: {why}"));
    }

    /// Makes what is appended durable, if it is not, and acknowledges it.
    fn commit(&mut self) -> Result<(), Trouble> {
        let (Some(first), Some(last)) = (self.durable.first(), self.durable.last()) else {
            return Ok(());
        };
        if self.sync {
            self.client.sync().map_err(|error| {
                Trouble::Failed(format!("lines {first} to {last} are not safe: {error}"))
            })?;
        }
        if let Some(acks) = self.acks.as_mut().filter(|acks| acks.is_open()) {
            self.durable.iter().for_each(|number| acks.line(number));
            acks.flush();
            if !acks.is_open() {
                say("nobody reads the acknowledgements any more; logging goes on without them");
            }
        }
        self.durable.clear();
        Ok(())
    }
}

fn append(client: &Client, kind: Option<Kind>, line: &[u8]) -> Result<(), Refusal> {
    // It is the line that has a number; within it only the column tells something.
    let refuse = |why: String| Refusal::Line(why.replace(" at line 1 column ", " at column "));
    let (kind, req) = match kind {
        Some(kind) => {
            let text = std::str::from_utf8(line);
            (kind, text.map_err(|_| refuse("not UTF-8".to_owned()))?)
        }
        None => {
            let record = parse(line).map_err(|fault| refuse(fault.to_string()))?;
            (record.kind, record.req)
        }
    };
    let req: &RawValue =
        serde_json::from_str(req).map_err(|error| refuse(format!("not JSON: {error}")))?;
    match client.append_raw(kind, req) {
        Ok(_) => Ok(()),
        Err(error) if error.is_record() => Err(Refusal::Line(error.to_string())),
        Err(error) => Err(Refusal::Storage(error)),
    }
}

/// Ends the client: everything is synced, or it is said that it is not. Is everything delivered that
/// was to be sent?
fn end(client: &Client, send: bool, timeout: Duration) -> Result<bool, Trouble> {
    client.sync().map_err(Trouble::failed)?;
    let receipt = client.finish(timeout);
    if send {
        tell(&receipt);
    }
    Ok(!send || receipt.is_complete())
}

fn tell(receipt: &Receipt) {
    let dir = receipt.dir.clone().unwrap_or_default();
    let dir = dir.display();
    if receipt.pending > 0 {
        let why = receipt.error.as_deref();
        say(format_args!(
            "{} not delivered, kept in {dir}: {}; weave-wal send delivers what is left",
            count(receipt.pending, "record"),
            why.unwrap_or("the time was up"),
        ));
    }
    for (n, what) in [
        (receipt.rejected, "record"),
        (receipt.corrupt, "damaged place"),
    ] {
        if n > 0 {
            say(format_args!(
                "{} rejected, kept in {dir}; see weave-wal dead list",
                count(n, what)
            ));
        }
    }
}
