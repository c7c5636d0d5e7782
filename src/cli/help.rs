//! What `--help` prints.

use std::ffi::OsString;

use super::args::{Args, Known};
use super::{COMMANDS, Command, Status, Trouble, find, print};

const NO_OPTIONS: Known = Known {
    flags: &[],
    options: &[],
    others: 1,
};

const ENVIRONMENT: &str = "\
Environment:
  WF_TRACE_SERVER_URL  the trace server; default https://trace.wandb.ai
  WANDB_BASE_URL       if set, and not to https://api.wandb.ai: the server is this + /traces
  WANDB_API_KEY        the API key; else the password of api.wandb.ai in ~/.netrc
  WEAVE_WAL_DIR        the root of the logs; default .weave/wal
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY
                       in either case, with lower case first; for builds with the feature proxy

Exit status: 0 all is well, 1 something is left or was rejected, 2 wrong use or configuration.
";

/// `weave-wal help [command]`.
pub(super) fn run(args: impl Iterator<Item = OsString>) -> Result<Status, Trouble> {
    let args = Args::read(&NO_OPTIONS, args)?;
    match args.others().first() {
        None => print(&overview()),
        Some(name) => match name.to_string_lossy().as_ref() {
            "help" => print(&overview()),
            name => print(&of(find(name)?)),
        },
    }
}

/// The whole tool.
pub(super) fn overview() -> String {
    let mut text = String::from(
        "weave-wal: a durable client log for W&B Weave traces\n\n\
         Usage: weave-wal <command> [options]\n\nCommands:\n",
    );
    for command in COMMANDS {
        text.push_str(&format!("  {:<8} {}\n", command.name, command.about));
    }
    text.push_str("  help     Explains a command, as <command> --help does\n\n");
    text.push_str(
        "Example: log records, one JSON object a line, look at them, deliver them\n  \
         weave-wal append --project my-team/my-app < records.jsonl\n  \
         weave-wal status\n  \
         weave-wal send\n\n",
    );
    text + ENVIRONMENT
}

/// One command.
pub(super) fn of(command: &Command) -> String {
    format!(
        "{}\n\nUsage: weave-wal {} {}\n\n{}\n  -h, --help          print this\n\nExample:\n  {}\n\n{ENVIRONMENT}",
        command.about, command.name, command.usage, command.details, command.example
    )
}
