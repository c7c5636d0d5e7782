//! File systems to spoil: ext4 on a loop device. Needs root.
#![allow(dead_code, missing_docs, unsafe_code, clippy::unwrap_used)]

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::support::{LONG, quick_dir};

fn run_tool(tool: &str, options: &[&str], paths: &[&Path]) -> bool {
    let mut command = Command::new(tool);
    command
        .args(options)
        .args(paths)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A file system in a file. Dropping it unmounts it.
pub struct Disk {
    dir: tempfile::TempDir,
    /// A setting of the device, and what it was before.
    changed: Cell<Option<(PathBuf, String)>>,
}

const SIZE: i64 = 24 << 20;

impl Disk {
    /// `None`: it cannot be made here.
    pub fn new() -> Option<Disk> {
        let disk = Disk::prepare();
        (disk.format() && disk.mount()).then_some(disk)
    }

    /// A disk that promises more than there is behind it: its unused blocks are holes in a file on
    /// a file system that [`fill`](Self::fill) fills up, and are allocated as they are written. The
    /// blocks of the file system itself are there from the beginning, and so is this directory.
    pub fn thin(directory: &str) -> Option<Disk> {
        let disk = Disk::prepare();
        let small = ["-t", "tmpfs", "-o", "size=32m", "tmpfs"];
        if !(run_tool("mount", &small, &[&disk.below()]) && disk.format() && disk.mount()) {
            return None;
        }
        fs::create_dir_all(disk.mounted().join(directory)).unwrap();
        assert!(disk.unmount());
        disk.punch_unused_blocks();
        assert!(disk.mount());
        disk.one_block_a_request();
        Some(disk)
    }

    fn prepare() -> Disk {
        let disk = Disk {
            dir: quick_dir(),
            changed: Cell::default(),
        };
        fs::create_dir(disk.below()).unwrap();
        fs::create_dir(disk.mounted()).unwrap();
        disk
    }

    fn below(&self) -> PathBuf {
        self.dir.path().join("below")
    }

    fn image(&self) -> PathBuf {
        self.below().join("image")
    }

    fn ballast(&self) -> PathBuf {
        self.below().join("ballast")
    }

    pub fn mounted(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn format(&self) -> bool {
        let image = File::create(self.image()).unwrap();
        image.set_len(SIZE as u64).unwrap();
        let options = [
            "-q",
            "-b",
            "4096",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
        ];
        run_tool("mkfs.ext4", &options, &[&self.image()])
    }

    fn mount(&self) -> bool {
        run_tool("mount", &["-o", "loop"], &[&self.image(), &self.mounted()])
    }

    fn unmount(&self) -> bool {
        if let Some((setting, before)) = self.changed.take() {
            let _ = fs::write(setting, before);
        }
        run_tool("umount", &[], &[&self.mounted()])
    }

    /// Forgets what is not on the disk.
    pub fn mount_again(&self) {
        // A thread that is about to end may still have a file open.
        let begun = Instant::now();
        while !self.unmount() {
            assert!(begun.elapsed() < LONG, "it cannot be unmounted");
        }
        assert!(self.mount());
    }

    /// The loop driver takes a request of which the first half could be written for one that was
    /// written. No real device does that, so no request may have halves.
    fn one_block_a_request(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mounted = format!(" {} ", self.mounted().display());
        let mut devices = mounts.lines().filter(|line| line.contains(&mounted));
        let device = devices.next().unwrap().split(' ').next().unwrap();
        let name = device.strip_prefix("/dev/").unwrap();
        let setting = PathBuf::from(format!("/sys/block/{name}/queue/max_sectors_kb"));
        let before = fs::read_to_string(&setting).unwrap();
        fs::write(&setting, "4").unwrap();
        self.changed.set(Some((setting, before)));
    }

    fn punch_unused_blocks(&self) {
        let image = fs::OpenOptions::new()
            .write(true)
            .open(self.image())
            .unwrap();
        let fallocate = |mode, offset, length| {
            // SAFETY: the descriptor is open; no memory is involved.
            let done = unsafe { libc::fallocate(image.as_raw_fd(), mode, offset, length) };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        };
        fallocate(0, 0, SIZE);
        let told = Command::new("dumpe2fs").arg(self.image()).output().unwrap();
        let text = String::from_utf8(told.stdout).unwrap();
        // The groups' lines are indented; the sum of all is not.
        let lines = text
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("  Free blocks: "));
        let mut holes = 0;
        for range in lines.flat_map(|line| line.split(", ")) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (i64, i64) = (first.parse().unwrap(), last.parse().unwrap());
            let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            fallocate(hole, first * 4096, (last + 1 - first) * 4096);
            holes += 1;
        }
        assert!(holes > 0, "{text}");
    }

    /// From now on there is no block behind what is written anew.
    pub fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        while file.write_all(&[b'x'; 4096]).is_ok() {}
    }

    /// There is room again.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
        run_tool("umount", &[], &[&self.below()]);
    }
}
