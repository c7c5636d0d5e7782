//! A real file system loses its power: ext4 on a loop device is shut down in the middle of a run,
//! with nothing flushed, and mounted again. Needs root; only runs with `WEAVE_WAL_ALL=1`.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/faults.rs"]
mod faults;
mod support;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Child;
use std::time::Duration;

use disk::Disk;
use faults::*;
use support::{Collector, files_with};

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    if std::env::var(PART).as_deref() == Ok("write-for-ever") {
        append_and_send(3, 100_000, 8 * SMALL, &say);
    }
}

/// From now on nothing reaches the disk, and what was not there is gone.
fn cut_power(disk: &Disk) {
    /// `_IOR('X', 125, u32)`.
    const FS_IOC_SHUTDOWN: u64 = 0x8004_587d;
    const NO_LOG_FLUSH: u32 = 2;
    let root = File::open(disk.mounted()).unwrap();
    // SAFETY: the descriptor is open and the flags outlive the call.
    let answer = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN as _, &NO_LOG_FLUSH) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

/// Lets no call be under way: on ext4 a sync that meets the shutdown can succeed and be lost,
/// whoever calls it.
fn stop(child: &Child) {
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    let mut status = 0;
    // SAFETY: our own child, which is not waited for yet; `status` is a valid place.
    let stopped = unsafe {
        libc::kill(pid, libc::SIGSTOP);
        libc::waitpid(pid, &mut status, libc::WUNTRACED)
    };
    assert!(stopped == pid && libc::WIFSTOPPED(status), "it has ended");
}

#[test]
fn after_a_real_power_cut_what_was_synced_arrives() {
    if !thorough() {
        println!("skipped: WEAVE_WAL_ALL=1 is not set");
        return;
    }
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 || Disk::new().is_none() {
        support::skip("a file system can be made and mounted by root only");
        return;
    }
    let (tally, mut arrived_after) = (Tally::default(), 0);
    for trial in 0..40_u64 {
        let (disk, collector) = (Disk::new().unwrap(), Collector::start().unwrap());
        let root = disk.mounted().join("wal");
        let mut child = play("write-for-ever", &root, &collector.url())
            .env("DURABILITY", ["written", "synced"][trial as usize % 2])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(5 + trial * 37 % 150));
        stop(&child);
        cut_power(&disk);
        child.kill().unwrap();
        let played = finish(child, None);
        let before = arrived(&collector);
        disk.mount_again();
        let summary = support::send(&root, &collector);
        assert_eq!(summary.pending, 0, "{summary:?}");
        let after = arrived(&collector);

        let letter = if trial % 2 == 0 { "S" } else { "A" };
        for n in played.numbers(letter) {
            assert!(
                after.contains_key(&n),
                "trial {trial}: {n} was synced and is lost"
            );
        }
        let twice: usize = after.values().map(|count| count - 1).sum();
        assert!(
            twice <= BATCH,
            "trial {trial}: {twice} records arrived twice"
        );
        assert!(!root.exists() || files_with(&root, "jsonl").is_empty());
        tally.count(&played.numbers(letter), &after);
        arrived_after += after.len() - before.len();
    }
    println!("{arrived_after} arrived after the cut");
    tally.tell("power cut on ext4");
    assert!(tally.acknowledged() > 1_000 && arrived_after > 100);
}
