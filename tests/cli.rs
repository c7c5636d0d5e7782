//! The tool as a user runs it: every command, every exit status, every kind of bad input.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;

/// The tool in a home of its own, with nothing in its environment.
struct Tool {
    home: TempDir,
    environment: Vec<(&'static str, String)>,
}

/// What a run came to.
#[derive(Debug)]
struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Tool {
    fn new() -> Tool {
        Tool {
            home: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
        }
    }

    fn with(collector: &Collector) -> Tool {
        Tool::new()
            .set("WF_TRACE_SERVER_URL", &collector.url())
            .set("WANDB_API_KEY", "secret-key")
    }

    fn set(mut self, name: &'static str, value: &str) -> Tool {
        self.environment.push((name, value.to_owned()));
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        self.wrapped(env!("CARGO_BIN_EXE_weave-wal"), args)
    }

    /// As `command`, in a shell that does something before.
    fn shell(&self, before: &str, args: &str) -> Command {
        let script = format!("{before}; exec {} {args}", env!("CARGO_BIN_EXE_weave-wal"));
        self.wrapped("sh", &["-c", &script])
    }

    fn wrapped(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", "/usr/bin:/bin")
            // Nobody listens there, and it needs no TLS.
            .env("WF_TRACE_SERVER_URL", "http://127.0.0.1:9")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.feed(args, b"")
    }

    fn feed(&self, args: &[&str], input: &[u8]) -> Ran {
        feed(self.command(args), input)
    }

    /// Logs some starts and leaves them.
    fn log(&self, numbers: std::ops::Range<usize>) {
        let ran = self.feed(&APPEND, records(numbers).as_bytes());
        assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    }

    fn root(&self) -> PathBuf {
        self.home.path().join(".weave/wal")
    }

    /// The only log file.
    fn log_file(&self) -> PathBuf {
        let mut found = files_with(&self.root(), "jsonl");
        assert_eq!(found.len(), 1);
        found.remove(0)
    }
}

const APPEND: [&str; 3] = ["append", "--project", PROJECT];

fn feed(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // A tool that refuses its arguments does not read on: no error of the test's.
        scope.spawn(move || stdin.write_all(input));
        ran(child)
    })
}

fn ran(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    Ran {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn record(n: usize) -> String {
    format!("{{\"type\":\"call_start\",\"req\":{}}}\n", start(n))
}

fn records(numbers: std::ops::Range<usize>) -> String {
    numbers.map(record).collect()
}

/// Standard output, line by line, while the tool runs.
fn reader(child: &mut Child) -> BufReader<std::process::ChildStdout> {
    BufReader::new(child.stdout.take().unwrap())
}

/// An `append --ack` that has acknowledged these records and waits for more.
fn open_append(tool: &Tool, numbers: std::ops::Range<usize>) -> (Child, ChildStdin) {
    let mut child = tool
        .command(&[&APPEND[..], &["--ack"]].concat())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(records(numbers.clone()).as_bytes())
        .unwrap();
    let mut acks = reader(&mut child);
    let mut line = String::new();
    for _ in numbers {
        acks.read_line(&mut line).unwrap();
    }
    child.stdout = Some(acks.into_inner());
    (child, stdin)
}

fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let tool = Tool::new();
    for command in ["append", "send", "status", "cat", "verify", "dead"] {
        let ran = tool.run(&[command, "--help"]);
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{command}");
        assert!(ran.out.contains("Example"), "{command}");
        for other in [[command, "-h"], ["help", command]] {
            assert_eq!(tool.run(&other).out, ran.out);
        }
        for overview in [&["--help"][..], &["-h"], &["help"]] {
            let ran = tool.run(overview);
            assert!(ran.status == 0 && ran.out.contains(command), "{overview:?}");
        }
    }
    let ran = tool.run(&["--version"]);
    assert_eq!(
        ran.out,
        format!("weave-wal {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(tool.run(&["-V"]).out, ran.out);
}

#[test]
fn wrong_use_says_on_stderr_what_to_do_and_exits_with_2() {
    let tool = Tool::new();
    for (args, expected) in [
        (&[][..], "Usage: weave-wal <command>"),
        (&["stauts"], "did you mean status?"),
        (&["--halp"], "did you mean --help?"),
        (&["version"], "did you mean --version?"),
        (&["help", "sned"], "did you mean send?"),
        (&["append"], "--project my-team/my-app"),
        (&["append", "--project"], "--project needs a value"),
        (
            &["append", "--project", "a/b", "--akc"],
            "did you mean --ack?",
        ),
        (
            &["append", "--project", "a/b", "--kind", "call"],
            "call_start",
        ),
        (
            &["append", "--project", "a/b", "--durability", "x"],
            "written",
        ),
        (&["append", "--project", "a/b", "--timeout", "5"], "--send"),
        (
            &["append", "--project", "a/b", "file"],
            "unexpected argument",
        ),
        (&["send", "--timeout", "0"], "whole seconds"),
        (&["send", "--timeout", "soon"], "whole seconds"),
        (&["send", "--project", "app"], "entity/project"),
        (&["send", "--server", "trace.wandb.ai"], "http"),
        (&["send", "--server", "http://h/a b"], "white space"),
        (&["status", "--josn"], "did you mean --json?"),
        (&["cat", "--project", "app"], "entity/project"),
        (&["dead", "--project", "app"], "entity/project"),
        (&["cat", "nowhere.jsonl"], "nowhere.jsonl"),
        (&["cat", "."], "--root ."),
        (&["cat", "--root", ".", "a.jsonl"], "--root"),
        (&["verify", "nowhere.jsonl"], "nowhere.jsonl"),
        (&["verify", "/dev/zero"], "no plain file /dev/zero"),
        (&["dead", "lsit"], "did you mean list?"),
        (&["dead", "list", "retry"], "unexpected argument"),
    ] {
        let ran = tool.run(args);
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{args:?}");
        assert!(ran.err.contains(expected), "{args:?}: {}", ran.err);
    }
    assert_eq!(files(tool.home.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_project_that_is_no_pair_of_plain_names_is_refused_and_makes_no_directory() {
    let tool = Tool::new();
    for project in [
        "my-app",
        "",
        "/",
        "a/",
        "/b",
        "../b",
        "a/..",
        "./b",
        "a/b/c",
        "a/b\n",
        "a\u{1b}/b",
        "a/b\\c",
    ] {
        let option = format!("--project={project}");
        let ran = tool.feed(&["append", &option], record(1).as_bytes());
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{project:?}");
        assert!(ran.err.contains("project"), "{project:?}: {}", ran.err);
    }
    assert_eq!(fs::read_dir(tool.home.path()).unwrap().count(), 0);
}

#[test]
fn a_key_or_a_url_that_cannot_be_used_is_refused_and_the_key_not_shown() {
    for (name, value, expected) in [
        ("WANDB_API_KEY", "s3cret\nX: y", "WANDB_API_KEY"),
        ("WANDB_API_KEY", "s3cret\u{7f}", "WANDB_API_KEY"),
        ("WF_TRACE_SERVER_URL", "ftp://h", "http"),
        ("WF_TRACE_SERVER_URL", "https://me:s3cret@h", "@"),
        ("WF_TRACE_SERVER_URL", "http://h:99999", "port"),
        (
            "WF_TRACE_SERVER_URL",
            "http://h/s3cret-s3cret-s3cret/",
            "holds the API key",
        ),
    ] {
        let tool = Tool::new()
            .set("WANDB_API_KEY", "s3cret-s3cret-s3cret")
            .set(name, value);
        for args in [&["send"][..], &["append", "--project", PROJECT, "--send"]] {
            let ran = tool.run(args);
            assert_eq!(
                (ran.status, ran.out.as_str()),
                (2, ""),
                "{value:?} {args:?}"
            );
            assert!(ran.err.contains(expected), "{value:?}: {}", ran.err);
            assert!(!ran.err.contains("s3cret"), "{}", ran.err);
        }
    }
}

#[test]
fn a_root_that_cannot_hold_logs_is_refused() {
    let tool = Tool::new();
    fs::write(tool.home.path().join("file"), "").unwrap();
    for (root, named) in [
        ("file", "file"),
        ("file/below", "file"),
        ("/proc/weave-wal", "/proc/weave-wal"),
    ] {
        let ran = tool.feed(
            &[&APPEND[..], &["--root", root]].concat(),
            record(1).as_bytes(),
        );
        assert_eq!(ran.status, 2, "{root}: {}", ran.err);
        assert!(ran.err.contains(named), "{}", ran.err);
    }
    for command in ["send", "status", "cat", "verify", "dead"] {
        for root in ["file", "file/below"] {
            let ran = tool.run(&[command, "--root", root]);
            assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{command}");
            assert!(ran.err.contains(root), "{}", ran.err);
        }
    }
}

#[test]
fn a_root_that_nobody_has_made_holds_nothing_and_is_no_mistake() {
    let tool = Tool::new();
    for args in [
        &["send"][..],
        &["status"],
        &["cat"],
        &["verify"],
        &["dead"],
        &["dead", "retry"],
        &["dead", "discard"],
    ] {
        let ran = tool.run(args);
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(".weave/wal does not exist"), "{}", ran.err);
    }
    let ran = tool.run(&["status", "--json"]);
    assert_eq!(
        ran.out,
        "{\"projects\":[],\"pending_records\":0,\"dead_records\":0,\"pending_bytes\":0,\
         \"oldest_seconds\":null,\"disk_bytes\":0}\n"
    );
}

/// Gives the project's directories and files these modes.
fn open_to_all(tool: &Tool, directories: u32, logs: u32) {
    for path in [
        ".weave",
        ".weave/wal",
        ".weave/wal/team",
        ".weave/wal/team/app",
    ] {
        set_mode(&tool.home.path().join(path), directories);
    }
    for path in files(&tool.root().join(PROJECT)) {
        set_mode(&path, logs);
    }
}

/// The tool as a user whom nobody has let in; `None` if that cannot be had.
fn as_nobody(tool: &Tool, args: &[&str]) -> Option<Command> {
    // Where it was built is not everybody's to enter. Copied by a process of its own: what this one
    // has open for writing, another test's child may hold for a moment, and then it cannot be run.
    let copied = feed(
        tool.wrapped("cp", &[env!("CARGO_BIN_EXE_weave-wal"), "weave-wal"]),
        b"",
    );
    assert_eq!(copied.status, 0, "{copied:?}");
    set_mode(tool.home.path(), 0o755);
    let script = "exec setpriv --reuid 65534 --regid 65534 --clear-groups ./weave-wal \"$@\"";
    let probe = tool.wrapped("sh", &["-c", script, "sh", "--version"]);
    if feed(probe, b"").status != 0 {
        return None;
    }
    Some(tool.wrapped("sh", &[&["-c", script, "sh"], args].concat()))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_may_not_be_read_is_named_with_what_was_done_to_it_and_why() {
    let tool = Tool::new();
    tool.log(0..3);
    let project = tool.root().join(PROJECT);
    let mut open = vec![tool.home.path().to_owned()];
    for part in [".weave", "wal", "team", "app"] {
        open.push(open[open.len() - 1].join(part));
    }
    for (opened, doing, path, status) in [
        (1, "look at the root", ".weave/wal", 2),
        (2, "list", ".weave/wal", 1),
        (4, "list", ".weave/wal/team/app", 1),
        (5, "open", ".weave/wal/team/app/0", 1),
    ] {
        open[..opened].iter().for_each(|path| set_mode(path, 0o755));
        if opened == 2 {
            set_mode(&open[2], 0o711);
        }
        // Somebody else may deliver what a sender may not read: it waits for that.
        let send = &["send", "--timeout", "1"][..];
        for args in [&["status"][..], &["cat"], &["verify"], send] {
            let Some(command) = as_nobody(&tool, args) else {
                return skip("becoming another user needs root and setpriv");
            };
            let ran = feed(command, b"");
            let why = ran.err.lines().next().unwrap_or_default();
            assert_eq!(ran.status, status, "{args:?}: {why}");
            assert!(
                why.starts_with(&format!("weave-wal: cannot {doing} {path}")),
                "{why}"
            );
            assert!(why.contains(": Permission denied"), "{why}");
        }
    }
    assert_eq!(files_with(&project, "jsonl").len(), 1);
}

/// Two projects, and a user who may do everything in `PROJECT` and nothing in `a/secret`.
fn with_a_secret(tool: &Tool) {
    let other = record(9).replace(PROJECT, "a/secret");
    tool.feed(&["append", "--project", "a/secret"], other.as_bytes());
    tool.log(0..3);
    open_to_all(tool, 0o777, 0o666);
}

#[test]
fn a_directory_that_may_not_be_read_is_in_the_way_of_no_other() {
    let (tool, collector) = with_collector();
    with_a_secret(&tool);
    let Some(command) = as_nobody(&tool, &["send", "--json"]) else {
        return skip("becoming another user needs root and setpriv");
    };
    let ran = feed(command, b"");
    assert_eq!(ran.status, 1);
    assert!(
        ran.out.starts_with("{\"delivered\":3,\"pending\":0,"),
        "{}",
        ran.out
    );
    assert!(
        ran.err.contains("cannot list .weave/wal/a: "),
        "{}",
        ran.err
    );
    assert_each_start_once(&collector, 0..3);
    assert_eq!(
        files_with(&tool.root().join(PROJECT), "jsonl"),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn what_cannot_be_noted_as_delivered_is_not_sent() {
    let (tool, collector) = with_collector();
    tool.log(0..3);
    open_to_all(&tool, 0o755, 0o644);
    let Some(command) = as_nobody(&tool, &["send", "--json", "--timeout", "2"]) else {
        return skip("becoming another user needs root and setpriv");
    };
    let ran = feed(command, b"");
    assert_eq!((ran.status, collector.requests()), (1, 0), "{ran:?}");
    assert!(
        ran.out.starts_with("{\"delivered\":0,\"pending\":3,"),
        "{ran:?}"
    );
    assert!(ran.err.contains("team/app"), "{ran:?}");
}

#[test]
fn what_can_be_read_is_shown_beside_what_cannot() {
    let tool = Tool::new();
    with_a_secret(&tool);
    let dir = tool.root().join(PROJECT);
    // A file that is somebody else's, in a directory that is open.
    for name in ["0_others.jsonl", "0_others.deadletter"] {
        fs::write(dir.join(name), record(8)).unwrap();
        set_mode(&dir.join(name), 0o600);
    }
    fs::write(dir.join("1_ours.deadletter"), record(7)).unwrap();
    set_mode(&dir.join("1_ours.deadletter"), 0o666);
    for (args, shown, files) in [
        (&["status"][..], "3 records", &["jsonl", "deadletter"][..]),
        (&["status", "--json"], "\"pending_records\":3", &["jsonl"]),
        (&["cat"], &record(2), &["jsonl"]),
        (&["verify"], "", &["jsonl"]),
        (&["dead"], &record(7), &["deadletter"]),
        (&["dead", "retry"], "1 record put back", &["deadletter"]),
        (&["dead", "discard"], "0 dead letters", &["deadletter"]),
    ] {
        let Some(command) = as_nobody(&tool, args) else {
            return skip("becoming another user needs root and setpriv");
        };
        let ran = feed(command, b"");
        assert_eq!(ran.status, 1, "{args:?} {ran:?}");
        assert!(ran.out.contains(shown), "{args:?} {ran:?}");
        let mut named = vec!["weave-wal: cannot list .weave/wal/a: ".to_owned()];
        named.extend(
            files
                .iter()
                .map(|end| format!("{PROJECT}/0_others.{end}: ")),
        );
        for name in named {
            assert_eq!(ran.err.matches(&name).count(), 1, "{args:?} {}", ran.err);
        }
    }
    // A named file that cannot be read is not in the way of the next one.
    fs::write(dir.join("copy.jsonl"), record(6)).unwrap();
    set_mode(&dir.join("copy.jsonl"), 0o666);
    let named = ["0_others.jsonl", "copy.jsonl"].map(|name| format!(".weave/wal/{PROJECT}/{name}"));
    let ran = feed(
        as_nobody(&tool, &["cat", &named[0], &named[1]]).unwrap(),
        b"",
    );
    assert_eq!((ran.status, ran.out), (1, record(6)));
    assert!(ran.err.contains(&named[0]), "{}", ran.err);
    fs::remove_file(dir.join("copy.jsonl")).unwrap();
    // Who asks for one project is not told of others.
    for args in [["cat"], ["dead"]] {
        let args = [&args[..], &["--project", PROJECT]].concat();
        let ran = feed(as_nobody(&tool, &args).unwrap(), b"");
        assert!(!ran.err.contains("wal/a: "), "{args:?} {}", ran.err);
    }
}

#[test]
fn a_project_without_logs_is_not_taken_for_one_that_is_delivered() {
    let tool = Tool::new();
    tool.log(0..1);
    for args in [&["send"][..], &["cat"], &["dead"], &["dead", "retry"]] {
        let ran = tool.run(&[args, &["--project", "team/misspelt"]].concat());
        assert_eq!(ran.status, 0, "{args:?}");
        let expected = "there are no logs of team/misspelt in .weave/wal\n";
        assert!(ran.err.starts_with(expected), "{args:?}: {}", ran.err);
    }
}

#[cfg(all(feature = "demo", feature = "proxy"))]
#[test]
fn the_demo_goes_through_no_proxy() {
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        // Nobody listens there.
        let ran = Tool::new().set(name, "http://127.0.0.1:9").run(&["demo"]);
        assert_eq!(ran.status, 0, "{name}: {ran:?}");
    }
}

#[cfg(feature = "demo")]
#[test]
fn a_demo_that_nobody_reads_is_played_to_its_end() {
    let tool = Tool::new();
    let mut child = tool.command(&["demo"]).spawn().unwrap();
    drop((child.stdout.take(), child.stdin.take()));
    let ran = ran(child);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.err.lines().last().unwrap().starts_with("done in "));
}

#[cfg(feature = "demo")]
#[test]
fn a_demo_without_a_place_for_it_says_where_there_is_none() {
    let ran = Tool::new().set("TMPDIR", "/nowhere").run(&["demo"]);
    assert_eq!(ran.status, 1);
    let expected = "weave-wal: cannot create /nowhere/weave-wal-demo-";
    assert!(ran.err.starts_with(expected), "{}", ran.err);
}

#[cfg(feature = "demo")]
#[test]
fn a_demo_that_is_interrupted_removes_its_directory() {
    let tool = Tool::new();
    let temporary = tool.home.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut command = tool.command(&["demo"]);
    let mut child = command.env("TMPDIR", &temporary).spawn().unwrap();
    let mut news = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    news.read_line(&mut line).unwrap();
    assert!(line.starts_with("1/"), "{line}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 1);
    signal(&child, "INT");
    news.read_to_string(&mut line).unwrap();
    let ran = ran(child);
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(line.contains("interrupted"), "{line}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn on_a_terminal_there_is_a_progress_bar_and_no_colour() {
    let (tool, _collector) = with_collector();
    tool.log(0..2_000);
    let send = format!("{} send", env!("CARGO_BIN_EXE_weave-wal"));
    let mut seen = Vec::new();
    for terminal in ["xterm-256color", "dumb"] {
        let mut command = tool.wrapped("script", &["-qec", &send, "/dev/null"]);
        command.env("TERM", terminal);
        let Ok(child) = command.spawn() else {
            return skip("a terminal needs script, of util-linux");
        };
        let ran = ran(child);
        assert_eq!(ran.status, 0, "{}", ran.out);
        seen.push(ran.out);
        tool.log(0..2_000);
    }
    assert!(seen[0].contains("of 2000 delivered"), "{}", seen[0]);
    assert!(!seen[1].contains("of 2000 delivered"), "{}", seen[1]);
    // The bar clears its line; nothing else is drawn.
    let rest = seen[0].replace("\r\u{1b}[K", "");
    assert!(!rest.contains('\u{1b}'), "{rest:?}");
}

#[test]
fn a_name_on_the_disk_neither_draws_on_the_terminal_nor_begins_a_line() {
    let (tool, _collector) = with_collector();
    let dir = tool.root().join("e\u{1b}[2J\nweave-wal: all is well/app");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.jsonl"), "damaged\n").unwrap();
    std::os::unix::fs::symlink("/", dir.join("li\u{9b}31mnk")).unwrap();
    let named = dir.join("missing");
    for args in [
        &["status"][..],
        &["cat"],
        &["verify"],
        &["send"],
        &["cat", named.to_str().unwrap()],
        &["status", "--root", named.to_str().unwrap()],
    ] {
        let ran = tool.run(args);
        let said = ran.out + &ran.err;
        assert!(said.contains("\\u{1b}[2J\\nweave-wal"), "{args:?}: {said}");
        let foul = said.chars().any(|c| c.is_control() && c != '\n');
        assert!(!foul, "{args:?}: {said:?}");
        assert!(!said.contains("\nweave-wal: all"), "{args:?}: {said}");
    }
}

#[test]
fn weave_wal_dir_is_the_root_and_the_option_goes_before_it() {
    let tool = Tool::new().set("WEAVE_WAL_DIR", "here");
    tool.feed(&APPEND, record(1).as_bytes());
    tool.feed(
        &[&APPEND[..], &["--root", "there"]].concat(),
        record(2).as_bytes(),
    );
    assert_eq!(tool.run(&["cat"]).out, record(1));
    assert_eq!(tool.run(&["cat", "--root", "there"]).out, record(2));
}

#[test]
fn a_bad_line_is_named_by_number_and_the_rest_is_logged() {
    let tool = Tool::new();
    let input = [
        record(1).as_bytes(),
        b"nonsense\n\n  \n\xff{}\n[1]\n{\"type\":\"later\",\"req\":{}}\n{\"type\":\"call_end\"}\n",
        br#"{"type":"call_end","req":{},"crc":"00000000"}"#,
        b"\n{\"type\":\"call_end\",\"req\":{\"a\":NaN}}\n{\"type\":\"call_end\",\"req\":5}\n",
        record(2).trim_end().as_bytes(),
    ]
    .concat();
    let ran = tool.feed(&[&APPEND[..], &["--ack"]].concat(), &input);
    assert_eq!((ran.status, ran.out.as_str()), (1, "1\n12\n"));
    let named: Vec<&str> = ran.err.lines().collect();
    let expected = [
        "line 2: not JSON",
        "line 5: not UTF-8",
        "line 6: not a JSON object",
        "line 7: unknown type \"later\"",
        "line 8: no \"req\"",
        "line 9: damaged",
        "line 10: not JSON",
        "line 11: no \"req\"",
    ];
    assert_eq!(named.len(), expected.len(), "{}", ran.err);
    for (line, expected) in named.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    assert_eq!(tool.run(&["cat"]).out, records(1..3));
}

#[test]
fn with_a_kind_each_line_is_the_request() {
    let tool = Tool::new();
    let input =
        "{\"end\":{\"id\":\"1\"}}\n\"text\"\n{\"end\":{}\n{ \"b\":1e999, \"a\":\"\\ud800\" }\n";
    let ran = tool.feed(
        &[&APPEND[..], &["--kind", "call_end"]].concat(),
        input.as_bytes(),
    );
    assert_eq!(ran.status, 1);
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert!(ran.err.contains("line 2: ") && ran.err.contains("line 3: not JSON"));
    assert_eq!(
        tool.run(&["cat"]).out,
        "{\"type\":\"call_end\",\"req\":{\"end\":{\"id\":\"1\"}}}\n\
         {\"type\":\"call_end\",\"req\":{ \"b\":1e999, \"a\":\"\\ud800\" }}\n"
    );
}

#[test]
fn a_record_above_16_mib_is_refused_and_its_neighbours_are_not() {
    let tool = Tool::new();
    let big = |len: usize| {
        format!(
            "{{\"type\":\"call_end\",\"req\":{{\"a\":\"{}\"}}}}\n",
            "x".repeat(len)
        )
    };
    let fits = big((16 << 20) - 100);
    let input = [
        record(1),
        big(16 << 20),
        fits.clone(),
        big(18 << 20),
        record(2),
    ];
    let ran = tool.feed(&APPEND, input.concat().as_bytes());
    assert_eq!(ran.status, 1);
    let named: Vec<&str> = ran.err.lines().map(|line| &line[..8]).collect();
    assert_eq!(named, ["line 2: ", "line 4: "], "{}", ran.err);
    let expected = [record(1), fits, record(2)].concat();
    assert!(tool.run(&["cat"]).out == expected);
}

#[test]
fn a_line_without_an_end_costs_no_memory() {
    let tool = Tool::new();
    let mut child = tool
        .shell("ulimit -v 300000", "append --project team/app --ack")
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..400 {
        stdin.write_all(&piece).unwrap();
    }
    stdin
        .write_all(format!("\n{}", record(1)).as_bytes())
        .unwrap();
    drop(stdin);
    let ran = ran(child);
    assert_eq!((ran.status, ran.out.as_str()), (1, "2\n"), "{}", ran.err);
    assert!(ran.err.starts_with("line 1: longer than"), "{}", ran.err);
}

#[test]
fn an_ack_comes_before_more_input_is_needed() {
    for durability in ["buffered", "written", "synced"] {
        let tool = Tool::new();
        let args = [&APPEND[..], &["--ack", "--durability", durability]].concat();
        let mut child = tool.command(&args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut acks = reader(&mut child);
        let mut ack = String::new();
        for (input, number) in [
            (record(1), "1\n"),
            // The beginning of the next line is there; only the rest of it would be waited for.
            (format!("\n{}{{\"type\"", record(2)), "3\n"),
            (":5}\n".to_owned() + &record(3), "5\n"),
        ] {
            stdin.write_all(input.as_bytes()).unwrap();
            ack.clear();
            acks.read_line(&mut ack).unwrap();
            assert_eq!(ack, number, "{durability}");
            let logged = fs::read_to_string(tool.log_file()).unwrap();
            assert!(logged.ends_with("\"}\n"), "{durability}: {logged}");
        }
        drop(stdin);
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert_eq!(tool.run(&["cat"]).out, records(1..4));
    }
}

#[test]
fn all_is_logged_when_nobody_reads_the_acks() {
    let tool = Tool::new();
    let (mut child, mut stdin) = open_append(&tool, 0..10);
    drop(child.stdout.take());
    stdin.write_all(records(10..3_000).as_bytes()).unwrap();
    drop(stdin);
    let ran = ran(child);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!(tool.run(&["cat"]).out, records(0..3_000));
}

#[test]
fn what_was_acknowledged_outlives_a_sigkill() {
    let tool = Tool::new();
    let mut child = tool
        .command(&[&APPEND[..], &["--ack"]].concat())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let kinds = [
        "call_start",
        "call_end",
        "obj_create",
        "table_create",
        "file_create",
    ];
    let line = move |n: usize| {
        let padding = "x".repeat(n * 37 % 1_500);
        format!(
            "{{\"type\":\"{}\",\"req\":{{\"n\":{n},\"x\":\"{padding}\"}}}}\n",
            kinds[n % 5]
        )
    };
    let writer = thread::spawn(move || (1..).all(|n| stdin.write_all(line(n).as_bytes()).is_ok()));
    let mut acks = reader(&mut child).lines();
    for n in 1..=5_000 {
        assert_eq!(acks.next().unwrap().unwrap(), n.to_string());
    }
    child.kill().unwrap();
    // What is still in the pipe was acknowledged, too.
    let acked = 5_000
        + acks
            .map_while(Result::ok)
            .filter(|ack| !ack.is_empty())
            .count();
    child.wait().unwrap();
    writer.join().unwrap();
    let logged = tool.run(&["cat"]).out;
    let mut logged = logged.lines();
    for n in 1..=acked {
        assert_eq!(logged.next(), Some(line(n).trim_end()));
    }
}

#[test]
fn a_disk_that_takes_no_more_ends_it_and_what_was_acknowledged_stays() {
    let tool = Tool::new();
    let mut input = record(1);
    input += &format!(
        "{{\"type\":\"call_end\",\"req\":{{\"a\":\"{}\"}}}}\n",
        "x".repeat(8_192)
    );
    input += &record(2);
    let command = tool.shell("ulimit -f 1", "append --project team/app --ack");
    let ran = feed(command, input.as_bytes());
    assert_eq!((ran.status, ran.out.as_str()), (1, "1\n"), "{}", ran.err);
    assert!(ran.err.contains("line 2: "), "{}", ran.err);
    assert_eq!(tool.run(&["cat"]).out, record(1));
}

#[test]
fn where_no_file_may_grow_at_all_that_is_an_error_and_no_end_by_a_signal() {
    let tool = Tool::new();
    let command = tool.shell("ulimit -f 0", "append --project team/app");
    let ran = feed(command, record(1).as_bytes());
    assert_eq!(ran.status, 2, "{}", ran.err);
    assert!(ran.err.contains("File too large"), "{}", ran.err);
    assert!(files_with(&tool.root(), "lock").is_empty());
}

#[test]
fn at_the_disk_budget_a_line_is_refused_or_the_oldest_file_is_dropped_and_both_are_told() {
    let (tool, collector) = with_collector();
    tool.log(0..100);
    let full = [&APPEND[..], &["--disk-budget", "16KiB"]].concat();
    let ran = tool.feed(&full, records(100..200).as_bytes());
    assert_eq!(ran.status, 1);
    assert!(
        ran.err.contains("line 1: record not accepted"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("a disk budget of 16384"), "{}", ran.err);
    let drop = [&full[..], &["--when-full", "drop-oldest"]].concat();
    let ran = tool.feed(&drop, records(200..220).as_bytes());
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.err.contains("dropped 100 records"), "{}", ran.err);
    assert_eq!(tool.run(&["send"]).status, 0);
    assert_each_start_once(&collector, 200..220);
    // A floor that no disk has.
    let floor = [&APPEND[..], &["--free-space-floor", "8000000000GiB"]].concat();
    let ran = tool.feed(&floor, records(0..1).as_bytes());
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("of the disk free"), "{}", ran.err);
    for bad in [
        ["--disk-budget", "0"],
        ["--disk-budget", "5MB"],
        ["--when-full", "delete"],
    ] {
        let ran = tool.run(&[&APPEND[..], &bad].concat());
        assert_eq!(ran.status, 2, "{bad:?}: {}", ran.err);
    }
}

#[test]
fn append_without_records_leaves_nothing() {
    let tool = Tool::new();
    assert_eq!(tool.feed(&APPEND, b"\n\n").status, 0);
    assert_eq!(tool.feed(&APPEND, b"nonsense").status, 1);
    assert_eq!(files(&tool.root()), Vec::<PathBuf>::new());
}

#[test]
fn cat_prints_what_append_took_and_its_output_can_be_appended() {
    let tool = Tool::new();
    tool.log(0..500);
    let printed = tool.run(&["cat"]);
    assert_eq!((printed.status, printed.err.as_str()), (0, ""));
    assert_eq!(printed.out, records(0..500));
    let path = tool.log_file();
    assert_eq!(tool.run(&["cat", path.to_str().unwrap()]).out, printed.out);
    assert_eq!(tool.run(&["cat", "--project", PROJECT]).out, printed.out);
    assert_eq!(tool.run(&["cat", "--project", "team/other"]).out, "");

    let copy = Tool::new();
    // The lines of a log, with their checksums, are records too.
    let log = fs::read(&path).unwrap();
    assert_eq!(copy.feed(&APPEND, &log).status, 0);
    assert_eq!(fs::read(copy.log_file()).unwrap(), log);
}

#[test]
fn cat_of_what_is_pending_begins_at_the_checkpoint() {
    let tool = Tool::new();
    tool.log(0..3);
    let path = tool.log_file();
    let first = fs::read_to_string(&path).unwrap().find('\n').unwrap() + 1;
    fs::write(path.with_extension("checkpoint"), first.to_string()).unwrap();
    assert_eq!(tool.run(&["cat", "--pending"]).out, records(1..3));
    assert_eq!(tool.run(&["cat"]).out, records(0..3));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let tool = Tool::new();
    tool.log(0..5_000);
    let mut child = tool.command(&["cat"]).spawn().unwrap();
    let mut first = String::new();
    reader(&mut child).read_line(&mut first).unwrap();
    assert_eq!(first, record(0));
    let ran = ran(child);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));

    let mut command = tool.command(&["cat"]);
    command.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
    let ran = feed(command, b"");
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("standard output"), "{}", ran.err);
}

#[test]
fn half_a_line_is_no_fault_while_its_writer_lives_and_one_when_it_is_dead() {
    let (tool, collector) = with_collector();
    let (mut child, stdin) = open_append(&tool, 0..3);
    let path = tool.log_file();
    let size = fs::metadata(&path).unwrap().len();
    // By another process: whatever the other tests are just starting has our descriptors for a
    // moment, and a file that is open for writing has a writer.
    let half = r#"printf '{"type":"call_end","req":{' >>"$0""#;
    let mut shell = Command::new("sh");
    assert!(
        shell
            .args(["-c", half])
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(tool.run(&["verify"]).status, 0);
    let printed = tool.run(&["cat"]);
    assert_eq!((printed.status, printed.out), (0, records(0..3)));

    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    let fault = format!(
        ".weave/wal/team/app/{}: offset {size}: torn",
        path.file_name().unwrap().to_str().unwrap()
    );
    let ran = tool.run(&["verify"]);
    assert_eq!(ran.status, 1);
    assert!(ran.out.starts_with(&fault), "{}", ran.out);
    assert_eq!(ran.out.lines().count(), 1);
    let ran = tool.run(&["cat"]);
    assert_eq!((ran.status, ran.out), (1, records(0..3)));
    assert!(ran.err.starts_with(&fault), "{}", ran.err);

    let ran = tool.run(&["send", "--json"]);
    assert_eq!(ran.status, 1);
    let expected =
        "{\"delivered\":3,\"pending\":0,\"dead\":0,\"corrupt\":1,\"requests\":1,\"paused\":null}\n";
    assert_eq!(ran.out, expected);
    assert!(ran.err.contains("torn"), "{}", ran.err);
    assert_each_start_once(&collector, 0..3);

    let ran = tool.run(&["dead"]);
    assert_eq!((ran.status, ran.out.lines().count()), (1, 1));
    let letter: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&letter["offset"], &letter["record"]),
        (&json!(size), &Value::Null)
    );
    let ran = tool.run(&["dead", "retry"]);
    assert_eq!(
        (ran.status, ran.out.as_str()),
        (1, "0 records put back, 1 dead letter kept\n")
    );
    let ran = tool.run(&["dead", "discard"]);
    assert_eq!(
        (ran.status, ran.out.as_str()),
        (0, "1 dead letter discarded\n")
    );
    assert_eq!(tool.run(&["status"]).status, 0);
    assert_eq!(files(&tool.root()), Vec::<PathBuf>::new());
}

fn with_collector() -> (Tool, Collector) {
    let collector = Collector::start().unwrap();
    collector.set_key("secret-key");
    (Tool::with(&collector), collector)
}

#[test]
fn send_delivers_each_record_once_and_leaves_nothing() {
    let (tool, collector) = with_collector();
    tool.log(0..1_000);
    tool.log(1_000..2_000);
    let ran = tool.run(&["send", "--json"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    let requests = &summary["requests"];
    let expected = format!(
        "{{\"delivered\":2000,\"pending\":0,\"dead\":0,\"corrupt\":0,\"requests\":{requests},\"paused\":null}}\n"
    );
    assert_eq!(ran.out, expected);
    assert_eq!(collector.requests() as u64, requests.as_u64().unwrap());
    assert_each_start_once(&collector, 0..2_000);
    assert_eq!(files(&tool.root()), Vec::<PathBuf>::new());
    let ran = tool.run(&["send"]);
    assert_eq!(ran.status, 0);
    assert_eq!(
        ran.out,
        "0 delivered, 0 pending, 0 rejected, 0 damaged, in 0 requests\n"
    );
}

#[test]
fn a_dead_letter_above_a_limit_on_file_sizes_is_an_error_and_nothing_is_lost() {
    let (tool, collector) = with_collector();
    tool.log(0..2);
    let damaged = "x".repeat(8_192) + "\n";
    let mut log = fs::OpenOptions::new()
        .append(true)
        .open(tool.log_file())
        .unwrap();
    log.write_all((damaged.clone() + &record(2)).as_bytes())
        .unwrap();
    drop(log);
    let ran = feed(tool.shell("ulimit -f 4", "send --timeout 1"), b"");
    assert_eq!(ran.status, 1, "{}", ran.err);
    assert!(
        ran.err.contains("write the dead-letter file"),
        "{}",
        ran.err
    );
    let left = fs::read_to_string(tool.log_file()).unwrap();
    assert!(left.contains(&damaged));
    // Without the limit it goes on, and nothing is there twice.
    let ran = tool.run(&["send"]);
    assert!(ran.out.contains("1 damaged"), "{}", ran.out);
    let letters = tool.run(&["dead", "list"]).out;
    assert_eq!(letters.lines().count(), 1, "{letters}");
    assert_eq!(files_with(&tool.root(), "jsonl"), Vec::<PathBuf>::new());
    let arrived = collector.counts();
    assert_eq!(arrived.len(), 3, "{arrived:?}");
}

#[test]
fn a_dead_letter_file_that_another_process_has_locked_is_an_error_and_tried_again() {
    let (tool, collector) = with_collector();
    tool.log(0..2);
    let log = tool.log_file();
    let damaged = "x\n".to_owned() + &fs::read_to_string(&log).unwrap();
    fs::write(&log, damaged).unwrap();
    let letters = log.with_extension("deadletter");
    let hold = ["sh", "-c", "echo held; exec sleep 5"];
    let args = [&["--no-fork", letters.to_str().unwrap()], &hold[..]].concat();
    let Ok(mut holder) = tool.wrapped("flock", &args).spawn() else {
        return skip("a lock needs flock, of util-linux");
    };
    let mut line = String::new();
    reader(&mut holder).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    let ran = tool.run(&["dead", "discard"]);
    assert_eq!(ran.status, 1);
    let expected = "another process has locked it";
    assert!(ran.err.contains(expected), "{}", ran.err);
    // What was delivered while it could not be noted is not sent again.
    let ran = tool.run(&["send"]);
    let expected = "2 delivered, 0 pending, 0 rejected, 1 damaged, in 1 request\n";
    assert_eq!(ran.out, expected, "{}", ran.err);
    assert_each_start_once(&collector, 0..2);
    assert_eq!(tool.run(&["dead"]).out.lines().count(), 1);
    holder.wait().unwrap();
}

#[test]
fn send_can_be_told_project_and_server() {
    let (tool, collector) = with_collector();
    let tool = tool.set("WF_TRACE_SERVER_URL", "http://127.0.0.1:1");
    tool.log(0..5);
    let other = record(9).replace(PROJECT, "team/other");
    tool.feed(&["append", "--project", "team/other"], other.as_bytes());
    let ran = tool.run(&["send", "--project", PROJECT, "--server", &collector.url()]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert_each_start_once(&collector, 0..5);
    assert_eq!(tool.run(&["cat"]).out, other);
}

#[cfg(feature = "proxy")]
#[test]
fn no_proxy_goes_before_a_proxy_however_that_is_spelled() {
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        let (tool, collector) = with_collector();
        // Nobody listens there.
        let tool = tool.set(name, "http://127.0.0.1:9");
        tool.log(0..5);
        let ran = tool.run(&["send", "--timeout", "1"]);
        assert_eq!(ran.status, 1, "{name}: {}", ran.err);
        assert!(
            ran.err.contains(&format!("{name} is in use")),
            "{}",
            ran.err
        );
        let tool = tool.set("NO_PROXY", "localhost,127.0.0.1");
        let ran = tool.run(&["send"]);
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{name}");
        assert_each_start_once(&collector, 0..5);
    }
}

#[test]
fn a_wrong_key_is_told_and_nothing_is_lost() {
    let (tool, collector) = with_collector();
    let tool = tool.set("WANDB_API_KEY", "wrong-key");
    tool.log(0..50);
    let ran = tool.run(&["send", "--json", "--timeout", "1"]);
    assert_eq!(ran.status, 1);
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&summary["delivered"], &summary["pending"]),
        (&json!(0), &json!(50))
    );
    assert!(
        summary["paused"].as_str().unwrap().contains("401"),
        "{summary}"
    );
    // Once, and not again as what is left: it is in the summary.
    assert_eq!(
        ran.err.matches("everything is kept").count(),
        1,
        "{}",
        ran.err
    );
    assert!(ran.err.starts_with("paused: "), "{}", ran.err);
    assert!(!(ran.err + &ran.out).contains("wrong-key"));
    assert_eq!(tool.run(&["status"]).status, 1);

    let tool = tool.set("WANDB_API_KEY", "secret-key");
    assert_eq!(tool.run(&["send"]).status, 0);
    assert_each_start_once(&collector, 0..50);
}

#[test]
fn a_server_that_is_away_leaves_all_pending_and_is_not_told_again_and_again() {
    let (tool, collector) = with_collector();
    collector.stop();
    tool.log(0..50);
    let ran = tool.run(&["send", "--json", "--timeout", "2"]);
    assert_eq!(ran.status, 1);
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&summary["delivered"], &summary["pending"]),
        (&json!(0), &json!(50))
    );
    assert!(summary["requests"].as_u64().unwrap() >= 2, "{summary}");
    let retrying = ran.err.lines().filter(|line| line.starts_with("retrying"));
    assert_eq!(retrying.count(), 1, "{}", ran.err);
    assert!(!ran.err.contains('\r'), "no progress line in a pipe");
}

#[test]
fn one_bad_record_among_a_thousand_is_put_aside_and_can_be_sent_later() {
    let (tool, collector) = with_collector();
    tool.log(0..1_000);
    collector.set_mode(Mode::Poison(id(637), 422));
    let ran = tool.run(&["send", "--json"]);
    assert_eq!(ran.status, 1, "{}", ran.err);
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&summary["delivered"], &summary["dead"]),
        (&json!(999), &json!(1))
    );
    assert_eq!(
        (&summary["pending"], &summary["paused"]),
        (&json!(0), &Value::Null)
    );
    assert_eq!(collector.counts().len(), 999);

    let ran = tool.run(&["dead", "list", "--project", PROJECT]);
    assert_eq!((ran.status, ran.out.lines().count()), (1, 1));
    let letter: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(letter["status"], 422);
    assert_eq!(letter["record"]["req"], start(637));
    assert_eq!(tool.run(&["dead", "--project", "team/other"]).status, 0);
    assert_eq!(tool.run(&["status"]).status, 1);

    collector.set_mode(Mode::Accept);
    let ran = tool.run(&["dead", "retry"]);
    assert_eq!(
        (ran.status, ran.out.as_str()),
        (0, "1 record put back, 0 dead letters kept\n")
    );
    assert_eq!(tool.run(&["dead"]).status, 0);
    assert_eq!(tool.run(&["send"]).status, 0);
    assert_each_start_once(&collector, 0..1_000);
    assert_eq!(files(&tool.root()), Vec::<PathBuf>::new());
}

#[test]
fn pythons_dead_letters_count_and_can_be_retried() {
    let (tool, collector) = with_collector();
    // Below a directory named after a hash of the key, as Python has it.
    let dir = tool.root().join(PROJECT).join("0123abcd");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("17_ab.deadletter");
    let python = format!("{{\"type\": \"call_start\", \"req\": {}}}", start(1));
    fs::write(&path, format!("{python}\n{{\"type\": \"torn")).unwrap();
    let ran = tool.run(&["dead"]);
    assert_eq!(ran.status, 1);
    let (whole, damaged) = ran.out.split_once('\n').unwrap();
    assert_eq!(whole, python);
    // Every line that is printed is JSON.
    let letter: Value = serde_json::from_str(damaged).unwrap();
    assert_eq!(letter["raw_base64"], "eyJ0eXBlIjogInRvcm4=");
    assert_eq!(letter["record"], Value::Null);
    let ran = tool.run(&["status", "--json"]);
    assert!(ran.out.contains("\"dead_records\":2,"), "{}", ran.out);
    assert_eq!(
        tool.run(&["dead", "retry"]).out,
        "1 record put back, 1 dead letter kept\n"
    );
    assert_eq!(tool.run(&["send"]).status, 0);
    assert_each_start_once(&collector, 1..2);
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"type\": \"torn\n");
}

#[test]
fn a_dead_letter_file_without_line_breaks_costs_no_memory() {
    let tool = Tool::new();
    let dir = tool.root().join(PROJECT);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("0.deadletter");
    let mut file = fs::File::create(&path).unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..400 {
        file.write_all(&piece).unwrap();
    }
    for (args, status) in [("status", 1), ("dead retry", 1), ("dead discard", 0)] {
        let ran = feed(tool.shell("ulimit -v 300000", args), b"");
        assert_eq!(ran.status, status, "{args}: {}", ran.err);
        // All of it is still there, except once it is discarded.
        let left = fs::metadata(&path).map_or(0, |found| found.len());
        assert_eq!(left >= 400 << 20, status == 1, "{args}: {left}");
    }
}

#[test]
fn watching_begins_before_there_is_a_root_and_ends_with_a_summary() {
    for name in ["TERM", "INT"] {
        let (tool, collector) = with_collector();
        let child = tool
            .command(&["send", "--watch", "--json"])
            .spawn()
            .unwrap();
        tool.log(0..10);
        assert!(collector.wait_for(|c| c.counts().len() == 10, LONG));
        tool.log(10..20);
        assert!(collector.wait_for(|c| c.counts().len() == 20, LONG));
        signal(&child, name);
        let ran = ran(child);
        assert_eq!(ran.status, 0, "{}", ran.err);
        assert!(
            ran.out.starts_with("{\"delivered\":20,\"pending\":0,"),
            "{}",
            ran.out
        );
        assert_each_start_once(&collector, 0..20);
    }
}

#[test]
fn a_watch_that_is_ended_delivers_what_was_written_last() {
    let (tool, collector) = with_collector();
    tool.log(0..5);
    let mut child = tool.command(&["send", "--watch"]).spawn().unwrap();
    assert!(collector.wait_for(|collector| collector.received().len() == 5, LONG));
    // It sees these only when it is already asked to end.
    signal(&child, "STOP");
    tool.log(5..9);
    signal(&child, "TERM");
    signal(&child, "CONT");
    let mut out = String::new();
    reader(&mut child).read_to_string(&mut out).unwrap();
    assert_eq!(ran_status(child), 0);
    assert!(out.starts_with("9 delivered, 0 pending"), "{out}");
    assert_each_start_once(&collector, 0..9);
}

#[test]
fn a_live_log_is_delivered_and_left_where_it_is() {
    let (tool, collector) = with_collector();
    let (child, stdin) = open_append(&tool, 0..5);
    let ran = tool.run(&["send"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert_each_start_once(&collector, 0..5);
    let status: Value = serde_json::from_str(&tool.run(&["status", "--json"]).out).unwrap();
    let file = &status["projects"][0]["files"][0];
    assert_eq!(
        (&file["writer"], &file["pending_records"]),
        (&json!("alive"), &json!(0))
    );
    assert_eq!(file["bytes"], file["delivered_bytes"]);
    drop(stdin);
    assert_eq!(ran_status(child), 0);
    assert_eq!(tool.run(&["send"]).status, 0);
    assert_eq!(files(&tool.root()), Vec::<PathBuf>::new());
}

fn ran_status(child: Child) -> i32 {
    ran(child).status
}

#[test]
fn append_can_send_as_well() {
    let (tool, collector) = with_collector();
    let args = [&APPEND[..], &["--send", "--timeout", "20"]].concat();
    let ran = tool.feed(&args, records(0..100).as_bytes());
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert_each_start_once(&collector, 0..100);
    assert_eq!(files(&tool.root()), Vec::<PathBuf>::new());

    collector.stop();
    let args = [&APPEND[..], &["--send", "--timeout", "1"]].concat();
    let ran = tool.feed(&args, records(100..200).as_bytes());
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("100 records not delivered"), "{}", ran.err);
    assert!(ran.err.contains(".weave/wal/team/app"), "{}", ran.err);
    assert_eq!(tool.run(&["cat", "--pending"]).out, records(100..200));
}

#[test]
fn status_counts_what_is_pending() {
    let tool = Tool::new();
    tool.log(0..3);
    let ran = tool.run(&["status", "--json"]);
    assert_eq!(ran.status, 1);
    let path = tool.log_file();
    let name = path.file_name().unwrap().to_str().unwrap();
    let bytes = fs::metadata(&path).unwrap().len();
    let status: Value = serde_json::from_str(&ran.out).unwrap();
    let project = &status["projects"][0];
    let (file, age) = (&project["files"][0], &project["oldest_seconds"]);
    assert!(age.is_u64() && *age == file["age_seconds"] && *age == status["oldest_seconds"]);
    let file = json!({"name": name, "bytes": bytes, "delivered_bytes": 0, "pending_records": 3,
        "writer": "gone", "age_seconds": age});
    let project = json!({"entity": "team", "project": "app", "dir": ".weave/wal/team/app",
        "files": [file], "pending_records": 3, "dead_records": 0, "pending_bytes": bytes,
        "oldest_seconds": age});
    let expected = json!({"projects": [project], "pending_records": 3, "dead_records": 0,
        "pending_bytes": bytes, "oldest_seconds": age, "disk_bytes": 4096});
    assert_eq!(status, expected);
    let ran = tool.run(&["status"]);
    assert_eq!((ran.status, ran.err.as_str()), (1, ""));
    let row = ran.out.lines().nth(1).unwrap();
    for cell in ["team/app", "gone", "3 records", ".weave/wal/team/app"] {
        assert!(row.contains(cell), "{row}");
    }
}

#[test]
fn the_key_is_in_no_file_and_no_message() {
    let (tool, collector) = with_collector();
    collector.set_mode(Mode::Status(
        422,
        "{\"reason\":\"no\"}".to_owned(),
        Vec::new(),
    ));
    tool.log(0..2);
    let ran = tool.run(&["send", "--timeout", "1"]);
    assert_eq!(ran.status, 1);
    let mut said = ran.out + &ran.err;
    for path in files(tool.home.path()) {
        fs::File::open(path)
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
    }
    assert!(!said.contains("secret-key"));
}
