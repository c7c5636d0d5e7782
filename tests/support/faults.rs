//! Programs whose storage misbehaves: this test binary, started again under `tests/faults/shim.c`.
#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weave_wal::{Client, Config, Durability, Kind};

use super::support::{self, quick_dir, start};
pub use super::support::{Tally, arrived};

/// Which part the started binary plays.
pub const PART: &str = "WEAVE_WAL_TEST_PART";

/// The largest batch of a victim: as much as may arrive twice.
pub const BATCH: usize = 4;

/// No program under test may take longer, whatever fails.
pub const HANGS: Duration = Duration::from_secs(30);

/// Every single call, and not some of them?
pub fn thorough() -> bool {
    std::env::var_os("WEAVE_WAL_ALL").is_some_and(|value| value == "1")
}

/// The compiled shim; `None`, and a word about it, where there is no C compiler.
pub fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let shim = SHIM.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults.so");
        // Another test may be using the one that is there.
        let new = path.with_extension(std::process::id().to_string());
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&new)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c"))
            .arg("-ldl")
            .status();
        match compiled {
            Ok(status) if status.success() => {
                std::fs::rename(&new, &path).unwrap();
                Some(path)
            }
            Ok(status) => panic!("the shim does not compile: {status}"),
            Err(_) => None,
        }
    });
    if shim.is_none() {
        crate::support::skip("there is no C compiler (cc)");
    }
    shim.as_deref()
}

/// A place for one trial: the root of the logs, and the shim's log beside it.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let dir = quick_dir();
        std::fs::create_dir(dir.path().join("disk")).unwrap();
        Place { dir }
    }

    /// What the shim watches over.
    pub fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    pub fn root(&self) -> PathBuf {
        self.disk().join("wal")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Makes the fault go away.
    pub fn clear(&self) -> PathBuf {
        self.dir.path().join("clear")
    }

    /// While this is there, calls of a kind hang.
    pub fn hang(&self, kind: char) -> PathBuf {
        self.dir.path().join(format!("hang.{kind}"))
    }

    /// Waits until the shim has written down that a call hangs.
    pub fn wait_for_one_that_hangs(&self) {
        let begun = Instant::now();
        while !self.lines().iter().any(|line| line.starts_with("hangs")) {
            assert!(begun.elapsed() < HANGS, "nothing hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The files below the root, those with one extension or all ("").
    pub fn files(&self, extension: &str) -> Vec<PathBuf> {
        let mut files = support::files(&self.disk());
        files.retain(|path| {
            extension.is_empty() || path.extension().is_some_and(|found| found == extension)
        });
        files
    }

    /// What the shim and the victim have written down.
    pub fn lines(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// This binary, to play a part in this place, under the shim.
    pub fn play(&self, part: &str, url: &str, faults: &[(&str, String)]) -> Command {
        let mut command = play(part, &self.root(), url);
        self.spoil(&mut command, faults);
        command
    }

    /// Puts a program under the shim.
    pub fn spoil(&self, command: &mut Command, faults: &[(&str, String)]) {
        command
            .env("LD_PRELOAD", shim().unwrap())
            .env("FAULT_DIR", self.disk())
            .env("FAULT_LOG", self.log())
            .env("FAULT_CLEAR", self.clear())
            .env("FAULT_HANG", self.dir.path().join("hang"))
            .envs(faults.iter().map(|(key, value)| (*key, value)));
    }
}

/// This binary, to play a part.
pub fn play(part: &str, root: &Path, url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "part", "--nocapture"])
        .env(PART, part)
        .env("ROOT", root)
        .env("URL", url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The same command, started by another one, which gets it as its last arguments.
pub fn started_by(program: &str, arguments: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(program);
    outer
        .args(arguments)
        .arg(command.get_program())
        .args(command.get_args())
        .envs(
            command
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    outer
}

/// What a started program came to.
pub struct Played {
    pub status: ExitStatus,
    pub text: String,
    pub errors: String,
}

impl Played {
    /// The numbers behind one letter: `A` for appended, `S` for synced.
    pub fn numbers(&self, letter: &str) -> Vec<usize> {
        let words = self.text.lines().map(|line| line.split(' '));
        words
            .filter_map(|mut words| {
                (words.next()? == letter).then(|| words.next()?.parse().ok())?
            })
            .collect()
    }

    pub fn is_killed(&self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        self.status.signal() == Some(libc::SIGKILL)
    }
}

/// Runs a program to its end, which must come.
pub fn run(mut command: Command) -> Played {
    let child = command.spawn().unwrap();
    finish(child, None)
}

/// Waits for the end of a program; kills it after a while if told so.
pub fn finish(mut child: Child, kill_after: Option<Duration>) -> Played {
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let text = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let begun = Instant::now();
    let mut killed = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if !killed && kill_after.is_some_and(|after| begun.elapsed() >= after) {
            child.kill().unwrap();
            killed = true;
        }
        if begun.elapsed() > HANGS {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it hangs; so far: {}", text.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    Played {
        status,
        text: text.join().unwrap(),
        errors: errors.join().unwrap(),
    }
}

/// The numbers from 1 to `count`: all if the tests are to be thorough, else `some`, evenly spread.
pub fn calls_to_try(count: usize, some: usize) -> Vec<usize> {
    let stride = if thorough() { 1 } else { count.div_ceil(some) };
    (1..=count).step_by(stride).collect()
}

/// How many trials run at a time.
const AT_ONCE: usize = 12;

/// Trials that mostly wait for other processes, some at a time.
pub fn in_parallel(trials: usize, trial: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= trials {
                        return;
                    }
                    trial(index);
                }
            });
        }
    });
}

/// The size of files that take four or five records.
pub const SMALL: u64 = 700;

/// A log in small files, sent in small batches.
pub fn small(root: &Path, segment_bytes: u64) -> Config {
    Config::new("team", "app")
        .root(root)
        .server(std::env::var("URL").unwrap_or_default())
        .segment_bytes(segment_bytes)
        .batch_records(BATCH)
        .sync_interval(Duration::from_millis(5))
        .request_timeout(Duration::from_secs(10))
}

/// Says something in one write, so that a kill leaves all of it or nothing.
pub fn say(words: &str) {
    writeln!(std::io::stdout().lock(), "{words}").unwrap();
}

/// A victim: threads append numbered records and say so; some wait for the sync and say so, too.
/// In the end everything is delivered.
pub fn append_and_send(
    threads: usize,
    records: usize,
    segment_bytes: u64,
    said: &(impl Fn(&str) + Sync),
) {
    let root = PathBuf::from(std::env::var_os("ROOT").unwrap());
    let durability = match std::env::var("DURABILITY").as_deref() {
        Ok("synced") => Durability::Synced,
        _ => Durability::Written,
    };
    let client = Client::open(small(&root, segment_bytes).durability(durability)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let client = &client;
            scope.spawn(move || {
                for n in (0..records).map(|n| thread * 100_000 + n) {
                    let ticket = client.append(Kind::CallStart, &start(n)).unwrap();
                    said(&format!("A {n}"));
                    if n % 3 == 0 {
                        ticket.wait().unwrap();
                        said(&format!("S {n}"));
                    }
                }
            });
        }
    });
    let receipt = client.finish(Duration::from_secs(20));
    assert_eq!(receipt.pending, 0, "{receipt:?}");
    said("finished");
}
