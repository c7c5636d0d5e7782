//! `weave-wal send`: delivers what is below the root.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use weave_wal::{Event, Sender, Summary, Until, inspect, tool};

use super::args::{Args, Known};
use super::events::Reporter;
use super::output::{Output, count, quoted, say};
use super::{Command, Seconds, Status, Trouble, note_if_absent, root, root_exists};

pub(super) const COMMAND: Command = Command {
    name: "send",
    about: "Delivers the logs to the server",
    usage: "[--root DIR] [--project E/P] [--server URL] [--watch] [--timeout SECS] [--json]",
    details: "\
Delivers what is below the root, whoever wrote it, then exits. Logs that are still being written
are delivered too and left where they are. Without --timeout it gives up when nothing could be
delivered for 30 seconds. What is not delivered stays in the logs.

Options:
  --root DIR          where the logs are
  --project E/P       only this project, as in my-team/my-app
  --server URL        the trace server
  --watch             go on with what is written from now on, until SIGTERM or SIGINT; then
                      what is left is tried once more, for at most 5 seconds
  --timeout SECS      end after this time, whatever is left
  --json              print one line of JSON at the end: delivered, pending, dead, corrupt,
                      requests, paused (null, or why)",
    example: "weave-wal send --root /var/lib/app/wal --timeout 60 --json",
    known: Known {
        flags: &["--watch", "--json", "--help", "-h"],
        options: &["--root", "--project", "--server", "--timeout"],
        others: 0,
    },
    run,
};

fn run(args: &Args) -> Result<Status, Trouble> {
    let server = args.value::<String>("--server")?;
    let project = args.value::<String>("--project")?;
    let timeout = args.value::<Seconds>("--timeout")?;
    let (watch, root) = (args.flag("--watch"), root(args));
    let mut sender = Sender::from_env(server.as_deref())?.root(&root);
    if let Some(project) = &project {
        sender = sender.project(project)?;
    }
    let exists = root_exists(&root)?;
    if exists {
        note_if_absent(&root, project.as_deref());
    }
    let summary = match exists || watch {
        true => {
            let stop = tool::on_terminate();
            let until = until(timeout, watch, stop);
            let mut screen = Screen::new(&root, project.as_deref(), exists);
            let summary = sender.run(&until, &mut |event| screen.show(event));
            screen.clear();
            // A script gets its line whatever happened.
            summary.unwrap_or_else(|error| {
                let mut summary = Summary::default();
                summary.unread = Some(error.to_string());
                summary
            })
        }
        false => Summary::default(),
    };
    let mut out = Output::stdout();
    match args.flag("--json") {
        true => out.line(json(&summary)),
        false => out.line(text(&summary)),
    }
    // Of what could not be read it is said below, why it is paused was said above.
    let is_left = summary.pending > 0 || (summary.pending_bytes > 0 && summary.unread.is_none());
    let is_news = |why: &&String| is_left && summary.paused.as_ref() != Some(*why);
    if let Some(why) = summary.last_error.as_ref().filter(is_news) {
        say(format_args!("not delivered, kept in the logs: {why}"));
    }
    out.finish()?;
    let is_complete = summary.is_complete();
    match summary.unread {
        Some(why) => Err(Trouble::Failed(why)),
        None => Ok(Status::well_if(is_complete)),
    }
}

fn until(timeout: Option<Seconds>, watch: bool, stop: &AtomicBool) -> Until<'_> {
    let drained = Until::drained(stop);
    let timeout = timeout.map(|Seconds(timeout)| timeout);
    Until {
        watch,
        deadline: timeout.map(|timeout| Instant::now() + timeout),
        // Who says how long it may take wants it tried for that long.
        patience: timeout.unwrap_or(drained.patience),
        ..drained
    }
}

fn json(summary: &Summary) -> String {
    let paused = summary.paused.as_deref();
    format!(
        "{{\"delivered\":{},\"pending\":{},\"dead\":{},\"corrupt\":{},\"requests\":{},\"paused\":{}}}",
        summary.delivered,
        summary.pending,
        summary.rejected,
        summary.corrupt,
        summary.requests,
        paused.map_or("null".to_owned(), quoted),
    )
}

fn text(summary: &Summary) -> String {
    let mut text = format!(
        "{} delivered, {} pending, {} rejected, {} damaged, in {}",
        summary.delivered,
        summary.pending,
        summary.rejected,
        summary.corrupt,
        count(summary.requests, "request"),
    );
    if let Some(why) = &summary.paused {
        text.push_str(&format!("\npaused: {why}"));
    }
    text
}

/// Standard error while it runs: news as lines and, on a terminal, the progress below them.
struct Screen {
    reporter: Reporter,
    progress: Option<Progress>,
}

struct Progress {
    total: u64,
    delivered: u64,
    since: Instant,
    drawn: Option<Instant>,
}

impl Screen {
    fn new(root: &Path, project: Option<&str>, exists: bool) -> Screen {
        // A dumb terminal cannot clear a line.
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let wanted = io::stderr().is_terminal() && !is_dumb && exists;
        Screen {
            reporter: Reporter::default(),
            progress: wanted.then(|| Progress {
                total: pending(root, project),
                delivered: 0,
                since: Instant::now(),
                drawn: None,
            }),
        }
    }

    fn show(&mut self, event: &Event) {
        if let Some(line) = self.reporter.line(event) {
            self.clear();
            say(line);
        }
        if let (Some(progress), Event::Delivered { records }) = (&mut self.progress, event) {
            progress.delivered += records;
            progress.draw();
        }
    }

    fn clear(&mut self) {
        if let Some(progress) = &mut self.progress {
            if progress.drawn.take().is_some() {
                progress.print("");
            }
        }
    }
}

impl Progress {
    fn draw(&mut self) {
        let often = |at: Instant| at.elapsed() < Duration::from_millis(100);
        if self.drawn.is_some_and(often) {
            return;
        }
        self.drawn = Some(Instant::now());
        let milliseconds = (self.since.elapsed().as_millis() as u64).max(1);
        let rate = self.delivered.saturating_mul(1000) / milliseconds;
        // While it is watched, more comes than there was at the beginning.
        let total = self.total.max(self.delivered);
        let percent = 100 * self.delivered / total.max(1);
        let bar = "#".repeat(percent as usize / 5);
        self.print(&format!(
            "[{bar:<20}] {percent:>3} % {} of {total} delivered, {rate}/s",
            self.delivered
        ));
    }

    /// Replaces the line that the cursor is in.
    fn print(&self, text: &str) {
        // A terminal that is gone is no reason to stop.
        let _ = io::stderr().write_all(format!("\r\x1b[K{text}").as_bytes());
    }
}

/// How many records there are to deliver; if that cannot be found out, the run will say why.
fn pending(root: &Path, project: Option<&str>) -> u64 {
    let projects = inspect::status(root, &mut |_| ());
    projects
        .iter()
        .filter(|found| project.is_none_or(|p| p == format!("{}/{}", found.entity, found.project)))
        .map(|found| found.pending_records)
        .sum()
}
