//! `weave-wal verify`: checks every line of the logs.

use weave_wal::inspect::From;

use super::args::{Args, Known};
use super::cat::Log;
use super::output::{Output, count, say};
use super::{Command, Status, Trouble, Unread};

pub(super) const COMMAND: Command = Command {
    name: "verify",
    about: "Checks every line of the logs",
    usage: "[--root DIR] [PATH…]",
    details: "\
Prints each fault as FILE: offset N: REASON. The exit status is 1 if there is any, or something
cannot be read. The unfinished last line of a log whose writer is alive is no fault. Without PATH:
all log files below the root.

Options:
  --root DIR          where the logs are",
    example: "weave-wal verify --root /var/lib/app/wal",
    known: Known {
        flags: &["--help", "-h"],
        options: &["--root"],
        others: usize::MAX,
    },
    run,
};

fn run(args: &Args) -> Result<Status, Trouble> {
    let mut unread = Unread::default();
    let logs = Log::chosen(args, &mut unread)?;
    let mut out = Output::stdout();
    let (mut records, mut faults) = (0, 0);
    for log in &logs {
        log.read(From::Start, &mut unread, &mut |item| {
            match log.fault(&item) {
                None => records += 1,
                Some(line) => {
                    faults += 1;
                    out.line(line);
                }
            }
            out.is_open()
        });
    }
    out.finish()?;
    say(format_args!(
        "{}, {}, {}",
        count(logs.len() as u64, "file"),
        count(records, "record"),
        count(faults, "fault")
    ));
    Ok(Status::well_if(faults == 0 && unread.is_none()))
}
