//! A file system that is full soon.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::skip;

/// A file system of its own that is full soon. It is gone when this is dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a message: it cannot be made here.
    pub fn mount(size: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(SmallDisk(dir));
        }
        skip("mounting a tmpfs needs root");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Uses up what is left, to the last byte; gives the file that does.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        for size in [64 << 10, 4 << 10] {
            while std::io::Write::write_all(&mut file, &vec![b'x'; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
