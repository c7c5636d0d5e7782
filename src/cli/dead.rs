//! `weave-wal dead`: what was refused or damaged.

use std::path::PathBuf;

use weave_wal::dead::{self, DeadLetter};

use super::args::{Args, Known, unknown};
use super::output::{Output, count, say};
use super::{Command, Status, Trouble, Unread, note_if_absent, root, root_exists};

pub(super) const COMMAND: Command = Command {
    name: "dead",
    about: "Lists the dead letters, puts them back, or discards them",
    usage: "[list|retry|discard] [--root DIR] [--project E/P]",
    details: "\
Dead letters are records that the server refused, and damaged bytes.

  list                print them, one JSON object a line; the exit status is 1 if there are any
  retry               put the records back into a new log, for the next weave-wal send; damaged
                      bytes stay, and then the exit status is 1
  discard             remove them for good, damaged bytes too

Options:
  --root DIR          where the logs are
  --project E/P       only this project, as in my-team/my-app",
    example: "weave-wal dead retry --project my-team/my-app",
    known: Known {
        flags: &["--help", "-h"],
        options: &["--root", "--project"],
        others: 1,
    },
    run,
};

const ACTIONS: [&str; 3] = ["list", "retry", "discard"];

fn run(args: &Args) -> Result<Status, Trouble> {
    let action = args.others().first().map(|action| action.to_string_lossy());
    let action = action.as_deref().unwrap_or("list");
    if !ACTIONS.contains(&action) {
        return Err(unknown("action on dead letters", action, &ACTIONS).into());
    }
    let root = root(args);
    let project = args.value::<String>("--project")?;
    if root_exists(&root)? {
        note_if_absent(&root, project.as_deref());
    }
    let mut unread = Unread::default();
    let files = dead::files(&root, project.as_deref(), &mut |error| unread.note(error))?;
    let status = match action {
        "retry" => retry(&files, &mut unread),
        "discard" => discard(&files, &mut unread),
        _ => list(&files, &mut unread),
    }?;
    Ok(match unread.is_none() {
        true => status,
        false => Status::Left,
    })
}

fn list(files: &[PathBuf], unread: &mut Unread) -> Result<Status, Trouble> {
    let mut out = Output::stdout();
    let mut letters = 0;
    for path in files {
        let mut show = |line: &[u8], _: &DeadLetter| {
            letters += 1;
            out.write(line);
            out.write(b"\n");
            Ok(out.is_open())
        };
        dead::read(path, &mut show).unwrap_or_else(|error| unread.note(error));
    }
    out.finish()?;
    say(format_args!(
        "{} in {}",
        count(letters, "dead letter"),
        count(files.len() as u64, "file")
    ));
    Ok(Status::well_if(letters == 0))
}

fn retry(files: &[PathBuf], unread: &mut Unread) -> Result<Status, Trouble> {
    let (mut retried, mut kept) = (0, 0);
    for path in files {
        match dead::retry(path) {
            Ok(done) => {
                retried += done.retried;
                kept += done.kept;
            }
            Err(error) => unread.note(error),
        }
    }
    let mut out = Output::stdout();
    out.line(format_args!(
        "{} put back, {} kept",
        count(retried, "record"),
        count(kept, "dead letter")
    ));
    out.finish()?;
    Ok(Status::well_if(kept == 0))
}

fn discard(files: &[PathBuf], unread: &mut Unread) -> Result<Status, Trouble> {
    let mut discarded = 0;
    for path in files {
        match dead::discard(path) {
            Ok(letters) => discarded += letters,
            Err(error) => unread.note(error),
        }
    }
    let mut out = Output::stdout();
    out.line(format_args!(
        "{} discarded",
        count(discarded, "dead letter")
    ));
    out.finish()?;
    Ok(Status::Well)
}
