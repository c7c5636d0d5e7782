//! `weave-wal cat`: the records of the logs, one a line.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use weave_wal::inspect::{self, From, Item};

use super::args::{Args, Known};
use super::output::{Output, count, plain, say};
use super::{Command, Status, Trouble, Unread, note_if_absent, root, root_exists};

pub(super) const COMMAND: Command = Command {
    name: "cat",
    about: "Prints the records, one JSON object a line",
    usage: "[--root DIR] [--project E/P] [--pending] [PATH…]",
    details: "\
Prints every good record as {\"type\":…,\"req\":…}, the request's bytes as they would be sent.
Damaged places and what cannot be read are named on standard error, and the exit status is 1.
Without PATH: all log files below the root.

Options:
  --root DIR          where the logs are
  --project E/P       only this project, as in my-team/my-app
  --pending           only what is not delivered",
    example: "weave-wal cat --pending | head -n 3",
    known: Known {
        flags: &["--pending", "--help", "-h"],
        options: &["--root", "--project"],
        others: usize::MAX,
    },
    run,
};

fn run(args: &Args) -> Result<Status, Trouble> {
    let from = match args.flag("--pending") {
        true => From::Checkpoint,
        false => From::Start,
    };
    let mut out = Output::stdout();
    let mut damaged = false;
    let mut unread = Unread::default();
    for log in Log::chosen(args, &mut unread)? {
        log.read(from, &mut unread, &mut |item| {
            match item {
                Item::Record { kind, req, .. } => {
                    out.line(format_args!("{{\"type\":\"{kind}\",\"req\":{req}}}"));
                }
                Item::Damage { .. } => {
                    damaged = true;
                    say(log.fault(&item).unwrap_or_default());
                }
                _ => {}
            }
            out.is_open()
        });
    }
    out.finish()?;
    Ok(Status::well_if(!damaged && unread.is_none()))
}

/// A log file that is to be read.
pub(super) struct Log {
    path: PathBuf,
    /// It was found, not named: if it is gone by now, it was delivered.
    found: bool,
}

impl Log {
    /// The files that the arguments name, or all below the root.
    pub(super) fn chosen(args: &Args, unread: &mut Unread) -> Result<Vec<Log>, Trouble> {
        let project = args.value::<String>("--project")?;
        if args.others().is_empty() {
            let root = root(args);
            if root_exists(&root)? {
                note_if_absent(&root, project.as_deref());
            }
            let found = inspect::logs(&root, project.as_deref(), &mut |error| unread.note(error))?;
            let log = |path| Log { path, found: true };
            return Ok(found.into_iter().map(log).collect());
        }
        for option in ["--root", "--project"] {
            if args.path(option).is_some() {
                let why = format!("{option} finds the files itself; leave it out, or the paths");
                return Err(Trouble::Wrong(why));
            }
        }
        args.others().iter().map(Log::named).collect()
    }

    fn named(path: impl AsRef<Path>) -> Result<Log, Trouble> {
        let path = path.as_ref().to_owned();
        if path.is_dir() {
            return Err(Trouble::Wrong(format!(
                "{} is a directory; for all logs below it write --root {0}",
                path.display()
            )));
        }
        match path.symlink_metadata() {
            Ok(found) if found.is_file() => {}
            // Why it cannot be read is said where that is tried.
            Err(error) if error.kind() != ErrorKind::NotFound => {}
            _ => {
                let why = format!("there is no plain file {}", path.display());
                return Err(Trouble::Unusable(why));
            }
        }
        Ok(Log { path, found: false })
    }

    /// Hands everything in the file to `see`, until that says that it is enough. One that cannot be
    /// read is in the way of no other.
    pub(super) fn read(&self, from: From, unread: &mut Unread, see: &mut dyn FnMut(Item) -> bool) {
        match inspect::read(&self.path, from, &mut |item| Ok(see(item))) {
            Err(error) if !self.found || self.path.exists() => unread.note(error),
            _ => {}
        }
    }

    /// A damaged place, as a line.
    pub(super) fn fault(&self, item: &Item) -> Option<String> {
        let Item::Damage {
            offset,
            bytes,
            fault,
        } = item
        else {
            return None;
        };
        Some(plain(&format!(
            "{}: offset {offset}: {fault} ({})",
            self.path.display(),
            count(*bytes, "byte")
        )))
    }
}
