//! The kernel runs out of memory for a program in a memory cgroup and kills it: what was
//! acknowledged arrives. Needs root.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/faults.rs"]
mod faults;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use faults::*;
use support::{Collector, quick_dir};

/// Enough for the program to get well into its work.
const LIMIT: &str = "32M";

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    if std::env::var(PART).as_deref() == Ok("append-and-eat") {
        append_and_send(4, 100_000, 8 * SMALL, &|words| {
            say(words);
            // Written to, so that the memory is really there; never given back.
            std::mem::forget(vec![1_u8; 20_000]);
        });
    }
}

/// A cgroup with a limit on memory. Dropping it removes it.
struct Group {
    dir: PathBuf,
    /// Where the kernel counts its kills.
    events: &'static str,
}

impl Group {
    /// `None`: it cannot be made here.
    fn new() -> Option<Group> {
        let name = format!("weave-wal-{}", std::process::id());
        let versions = [
            (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.oom_control",
            ),
            ("/sys/fs/cgroup", "memory.max", "memory.events"),
        ];
        versions.into_iter().find_map(|(root, limit, events)| {
            if !Path::new(root).join("cgroup.procs").exists() {
                return None;
            }
            let group = Group {
                dir: Path::new(root).join(&name),
                events,
            };
            fs::create_dir(&group.dir).ok()?;
            fs::write(group.dir.join(limit), LIMIT).ok()?;
            Some(group)
        })
    }

    fn kills(&self) -> usize {
        let events = fs::read_to_string(self.dir.join(self.events)).unwrap();
        let mut lines = events.lines();
        let line = lines.find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

#[test]
fn killed_for_want_of_memory_a_program_loses_nothing() {
    let Some(group) = Group::new() else {
        support::skip("a memory cgroup can be made by root only");
        return;
    };
    let tally = Tally::default();
    for trial in 0..if thorough() { 30 } else { 3 } {
        let (dir, collector) = (quick_dir(), Collector::start().unwrap());
        let victim = play("append-and-eat", dir.path(), &collector.url());
        let enter = r#"echo $$ > "$GROUP/cgroup.procs" && exec "$0" "$@""#;
        let mut command = started_by("sh", &["-c", enter], &victim);
        command
            .env("GROUP", &group.dir)
            .env("DURABILITY", ["written", "synced"][trial % 2]);
        let kills = group.kills();
        let played = run(command);
        assert!(played.is_killed(), "{}{}", played.text, played.errors);
        assert_eq!(group.kills(), kills + 1, "killed by somebody else");

        let before = arrived(&collector);
        assert!(before.values().all(|count| *count == 1), "{before:?}");
        let summary = support::send(dir.path(), &collector);
        assert_eq!(summary.pending, 0, "{summary:?}");
        let after = arrived(&collector);
        let twice: usize = after.values().map(|count| count - 1).sum();
        assert!(twice <= BATCH, "{twice} records arrived twice");
        let acknowledged = played.numbers("A");
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());
        tally.count(&acknowledged, &after);
    }
    tally.tell("killed for want of memory");
}
