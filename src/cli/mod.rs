//! The command-line tool: its commands, and what its exit statuses mean.
//!
//! What a script reads goes to standard output, everything else to standard error. The exit status
//! is 0 if all is well, 1 if something is left or was rejected, 2 for wrong use or configuration.

mod append;
mod args;
mod cat;
mod dead;
#[cfg(feature = "demo")]
mod demo;
mod events;
mod help;
mod lines;
mod output;
#[cfg(feature = "proxy")]
mod proxies;
mod send;
mod status;
mod verify;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use weave_wal::{Error, inspect};

use args::{Args, Known, unknown};
use output::{Output, say};

/// All commands, in the order in which help lists them.
const COMMANDS: &[&Command] = &[
    &append::COMMAND,
    &send::COMMAND,
    &status::COMMAND,
    &cat::COMMAND,
    &verify::COMMAND,
    &dead::COMMAND,
    #[cfg(feature = "demo")]
    &demo::COMMAND,
];

/// One command, and what help says of it.
struct Command {
    name: &'static str,
    /// One line for the list of commands.
    about: &'static str,
    /// Its arguments, as a user would type them.
    usage: &'static str,
    /// What it does, and its options.
    details: &'static str,
    example: &'static str,
    known: Known,
    run: fn(&Args) -> Result<Status, Trouble>,
}

/// How a command ended that could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// All is well: exit status 0.
    Well,
    /// Something is left or was rejected: exit status 1.
    Left,
}

impl Status {
    fn well_if(well: bool) -> Status {
        if well { Status::Well } else { Status::Left }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
enum Trouble {
    /// Wrong use or configuration, which help explains: exit status 2.
    Wrong(String),
    /// A file or a directory that cannot be used as it is: exit status 2.
    Unusable(String),
    /// It was under way and could not go on, or the disk is full, so something is left: exit status 1.
    Failed(String),
}

impl Trouble {
    fn failed(error: Error) -> Trouble {
        Trouble::Failed(error.to_string())
    }
}

impl From<Error> for Trouble {
    /// Before a command has done anything, every error is one of use or configuration, but for a full
    /// disk.
    fn from(error: Error) -> Self {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match error.io().map(io::Error::kind) {
            Some(StorageFull | QuotaExceeded) => Trouble::failed(error),
            _ if error.is_config() => Trouble::Wrong(error.to_string()),
            _ => Trouble::Unusable(error.to_string()),
        }
    }
}

/// Runs the command that the arguments name.
pub(crate) fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    #[cfg(feature = "proxy")]
    let args = {
        let args: Vec<OsString> = args.collect();
        proxies::hide_from_http_client(&args);
        args.into_iter()
    };
    let mut args = args;
    let name = args.next().map(|name| name.to_string_lossy().into_owned());
    let ended = match name.as_deref() {
        None => {
            help::overview().lines().for_each(say);
            return ExitCode::from(2);
        }
        Some("-h" | "--help" | "help") => help::run(args),
        Some("-V" | "--version") => print(concat!("weave-wal ", env!("CARGO_PKG_VERSION"), "\n")),
        #[cfg(feature = "demo")]
        Some(demo::WRITER) => return demo::write(args),
        Some(name) => match find(name) {
            Ok(command) => return ended(run_command(command, args), Some(command)),
            Err(error) => Err(error.into()),
        },
    };
    self::ended(ended, None)
}

fn run_command(command: &Command, args: impl Iterator<Item = OsString>) -> Result<Status, Trouble> {
    let args = Args::read(&command.known, args)?;
    if args.flag("--help") || args.flag("-h") {
        return print(&help::of(command));
    }
    (command.run)(&args)
}

fn find(name: &str) -> Result<&'static Command, Error> {
    let found = COMMANDS.iter().find(|command| command.name == name);
    found.copied().ok_or_else(|| {
        if name == "demo" {
            return Error::Config("this program was built without the feature demo".to_owned());
        }
        if name.starts_with('-') {
            return unknown("option", name, &["--help", "--version"]);
        }
        let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
        unknown(
            "command",
            name,
            &[&names[..], &["help", "--version"]].concat(),
        )
    })
}

/// Says what went wrong, and how to find out what is right.
fn ended(ended: Result<Status, Trouble>, command: Option<&Command>) -> ExitCode {
    match ended {
        Ok(Status::Well) => ExitCode::SUCCESS,
        Ok(Status::Left) => ExitCode::from(1),
        Err(Trouble::Failed(why)) => {
            say(format_args!("weave-wal: {why}"));
            ExitCode::from(1)
        }
        Err(Trouble::Unusable(why)) => {
            say(format_args!("weave-wal: {why}"));
            ExitCode::from(2)
        }
        Err(Trouble::Wrong(why)) => {
            match command {
                Some(Command { name, .. }) => {
                    say(format_args!("weave-wal {name}: {why}"));
                    say(format_args!("See weave-wal {name} --help"));
                }
                None => {
                    say(format_args!("weave-wal: {why}"));
                    say("See weave-wal --help");
                }
            }
            ExitCode::from(2)
        }
    }
}

fn print(text: &str) -> Result<Status, Trouble> {
    let mut out = Output::stdout();
    out.write(text.as_bytes());
    out.finish()?;
    Ok(Status::Well)
}

/// The root that is meant: `--root`, else `WEAVE_WAL_DIR`, else `.weave/wal`.
fn root(args: &Args) -> PathBuf {
    let variable = || std::env::var_os("WEAVE_WAL_DIR").filter(|dir| !dir.is_empty());
    match args.path("--root") {
        Some(root) => root.to_owned(),
        None => variable().map_or_else(|| PathBuf::from(".weave/wal"), PathBuf::from),
    }
}

/// Is there a root? One that nobody has made yet holds no logs and is no mistake.
fn root_exists(root: &Path) -> Result<bool, Trouble> {
    match fs::metadata(root) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(Trouble::Unusable(format!(
            "the root {} is not a directory; name the directory that holds the logs",
            root.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            say(format_args!(
                "{} does not exist, so there are no logs in it",
                root.display()
            ));
            Ok(false)
        }
        Err(error) => Err(Trouble::Unusable(format!(
            "cannot look at the root {}: {error}",
            root.display()
        ))),
    }
}

/// What could not be read. It is named, the rest is shown, and the exit status is 1.
#[derive(Default)]
struct Unread(u64);

impl Unread {
    fn note(&mut self, error: Error) {
        say(format_args!("weave-wal: {error}"));
        self.0 += 1;
    }

    fn is_none(&self) -> bool {
        self.0 == 0
    }
}

/// Says so if a project was asked for that has no files: a misspelt name should not look like one
/// of which everything is delivered. What cannot be listed is the command's affair.
fn note_if_absent(root: &Path, project: Option<&str>) {
    let Some(project) = project else { return };
    let mut is_known = false;
    let mut unread = |_| is_known = true;
    let logs = inspect::logs(root, Some(project), &mut unread);
    let letters = weave_wal::dead::files(root, Some(project), &mut unread);
    let is_absent = |found: weave_wal::Result<Vec<_>>| found.is_ok_and(|files| files.is_empty());
    if is_absent(logs) && is_absent(letters) && !is_known {
        say(format_args!(
            "there are no logs of {project} in {}",
            root.display()
        ));
    }
}

/// A length of time that a user may give.
struct Seconds(Duration);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const YEAR: u64 = 365 * 24 * 60 * 60;
        match text.parse() {
            Ok(seconds @ 1..=YEAR) => Ok(Seconds(Duration::from_secs(seconds))),
            _ => Err("give whole seconds, from 1 to 31536000"),
        }
    }
}

/// A size that a user may give.
struct Bytes(u64);

impl FromStr for Bytes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
        let with_unit = units
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let (digits, shift) = with_unit.unwrap_or((text, 0));
        let number = digits.parse::<u64>().ok();
        let bytes = number.and_then(|number| number.checked_mul(1 << shift));
        bytes
            .map(Bytes)
            .ok_or("give a number of bytes, or one with KiB, MiB or GiB, as in 512MiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_knows_help_and_has_an_example_of_itself() {
        for command in COMMANDS {
            for flag in ["-h", "--help"] {
                assert!(command.known.flags.contains(&flag), "{}", command.name);
            }
            assert!(
                command
                    .example
                    .contains(&format!("weave-wal {}", command.name))
            );
        }
    }

    #[test]
    fn help_names_every_option_of_a_command() {
        for command in COMMANDS {
            let help = help::of(command);
            for option in [command.known.flags, command.known.options].concat() {
                assert!(help.contains(option), "{} {option}", command.name);
            }
        }
    }

    #[test]
    fn a_full_disk_is_no_wrong_use() {
        use io::ErrorKind;
        for (kind, is_left) in [
            (ErrorKind::StorageFull, true),
            (ErrorKind::QuotaExceeded, true),
            (ErrorKind::FileTooLarge, false),
            (ErrorKind::PermissionDenied, false),
        ] {
            let trouble = Trouble::from(Error::Io {
                doing: "lock",
                path: PathBuf::from("a.lock"),
                source: io::Error::from(kind).into(),
            });
            assert_eq!(
                matches!(trouble, Trouble::Failed(_)),
                is_left,
                "{trouble:?}"
            );
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, expected) in [("0", 0), ("7", 7), ("3KiB", 3 << 10), ("4GiB", 4 << 30)] {
            let Bytes(parsed) = text.parse().unwrap();
            assert_eq!(parsed, expected, "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "5MB", "5 MiB", "99999999999GiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_whole_positive_and_have_an_end() {
        for text in [
            "",
            "0",
            "-1",
            "1.5",
            "soon",
            "31536001",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
        let Seconds(parsed) = "90".parse().unwrap();
        assert_eq!(parsed, Duration::from_secs(90));
    }
}
