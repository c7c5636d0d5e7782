//! `Retry-After`, for all who share a root: a server that has asked one of them to wait has asked
//! them all.
//!
//! ```text
//! <root>/.retry_after        1763820622.250 https://trace.wandb.ai
//! ```
//!
//! The time until which to wait, in seconds since 1970, and the server that said so. The file is
//! advice and no more: one that is missing, old or makes no sense delays nothing, and so does one
//! that lies further ahead than a server may ask for, as after a clock was set back. If it cannot
//! be written, each process learns for itself.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::http::retry_after::LONGEST as LONGEST_WAIT;
use crate::lock::{if_supported, open_plain, read_plain, still_names};
use crate::sys;

const FILE: &str = ".retry_after";

/// A time and a URL; what is longer is something else.
const LONGEST_FILE: u64 = 4 << 10;

/// The file below one root, as the senders to one server use it.
#[derive(Debug, Clone)]
pub(crate) struct HoldOff {
    path: PathBuf,
    server: String,
}

impl HoldOff {
    pub fn new(root: &Path, server: &str) -> HoldOff {
        HoldOff {
            path: root.join(FILE),
            server: server.to_owned(),
        }
    }

    /// The server has asked to wait for this long from `now`.
    pub fn note(&self, wait: Duration, now: SystemTime) {
        let until = now.duration_since(UNIX_EPOCH).unwrap_or_default() + wait;
        let (seconds, milliseconds) = (until.as_secs(), until.subsec_millis());
        let line = format!("{seconds}.{milliseconds:03} {}\n", self.server);
        // Best effort: it is advice.
        let _ = self.write(&line);
    }

    /// How long the server still wants nothing to be sent, at `now`.
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        let content = self.read().ok()?;
        let (until, server) = content.trim_end().split_once(' ')?;
        let (seconds, milliseconds) = until.split_once('.')?;
        let until = Duration::from_secs(seconds.parse().ok()?)
            .checked_add(Duration::from_millis(milliseconds.parse().ok()?))?;
        let left = until.checked_sub(now.duration_since(UNIX_EPOCH).ok()?)?;
        let counts = server == self.server && !left.is_zero() && left <= LONGEST_WAIT;
        counts.then_some(left)
    }

    fn read(&self) -> io::Result<String> {
        let mut content = String::new();
        if let Some(file) = read_plain(&self.path)? {
            file.take(LONGEST_FILE).read_to_string(&mut content)?;
        }
        Ok(content)
    }

    /// By way of a second file, so that nobody reads half a line.
    fn write(&self, line: &str) -> io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let Some(mut file) = open_plain(&temporary, &mut options)? else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // Whoever holds it writes the same news; one who died over it does not hold it.
        if !if_supported(sys::try_flock(&file))? || !still_names(&temporary, &file)? {
            return Ok(());
        }
        file.set_len(0)?;
        file.write_all(line.as_bytes())?;
        fs::rename(&temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SERVER: &str = "https://trace.wandb.ai";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn seconds(wait: Option<Duration>) -> Option<f64> {
        wait.map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn what_one_notes_another_reads() {
        let dir = tempfile::tempdir().unwrap();
        let one = HoldOff::new(dir.path(), SERVER);
        assert_eq!(one.left(at(1000)), None);
        one.note(Duration::from_millis(20_500), at(1000));
        let other = HoldOff::new(dir.path(), SERVER);
        assert_eq!(seconds(other.left(at(1000))), Some(20.5));
        assert_eq!(seconds(other.left(at(1020))), Some(0.5));
        assert_eq!(other.left(at(1021)), None);
        // The server's last word counts.
        other.note(Duration::from_secs(1), at(1000));
        assert_eq!(seconds(one.left(at(1000))), Some(1.0));
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1);
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn it_is_about_one_server() {
        let dir = tempfile::tempdir().unwrap();
        HoldOff::new(dir.path(), SERVER).note(Duration::from_secs(9), at(1000));
        let other = HoldOff::new(dir.path(), "http://localhost:1");
        assert_eq!(other.left(at(1000)), None);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_wait_for_days() {
        let dir = tempfile::tempdir().unwrap();
        let hold = HoldOff::new(dir.path(), SERVER);
        hold.note(Duration::from_secs(3600), at(1_000_000));
        assert_eq!(seconds(hold.left(at(1_000_000))), Some(3600.0));
        assert_eq!(hold.left(at(999_999)), None);
        assert_eq!(hold.left(at(500)), None);
        // Set forward, it has passed.
        assert_eq!(hold.left(at(2_000_000)), None);
    }

    #[test]
    fn nonsense_delays_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let hold = HoldOff::new(dir.path(), SERVER);
        for content in [
            &b""[..],
            b"soon",
            b"1010",
            b"1010.0 https://trace.wandb",
            b"-5 https://trace.wandb.ai",
            b"NaN https://trace.wandb.ai",
            b"inf https://trace.wandb.ai",
            b"1e300 https://trace.wandb.ai",
            b"1010 https://trace.wandb.ai",
            b"1010.-5 https://trace.wandb.ai",
            b"99999999999.0 https://trace.wandb.ai",
            b"18446744073709551615.18446744073709551615 https://trace.wandb.ai",
            b"\xff\xfe https://trace.wandb.ai",
        ] {
            fs::write(dir.path().join(FILE), content).unwrap();
            assert_eq!(hold.left(at(1000)), None, "{content:?}");
        }
        fs::write(dir.path().join(FILE), vec![b'1'; 1 << 20]).unwrap();
        assert_eq!(hold.left(at(1000)), None);
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::create_dir(dir.path().join(FILE)).unwrap();
        assert_eq!(hold.left(at(1000)), None);
        hold.note(Duration::from_secs(9), at(1000));
    }

    #[test]
    fn a_link_is_neither_followed_nor_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, format!("1009.0 {SERVER}\n")).unwrap();
        let hold = HoldOff::new(dir.path(), SERVER);
        for name in [".retry_after", ".retry_after.tmp"] {
            std::os::unix::fs::symlink(&target, dir.path().join(name)).unwrap();
        }
        assert_eq!(hold.left(at(1000)), None);
        hold.note(Duration::from_secs(5), at(1000));
        assert_eq!(
            fs::read_to_string(&target).unwrap(),
            format!("1009.0 {SERVER}\n")
        );
        // What a crash has left is no obstacle.
        fs::remove_file(dir.path().join(".retry_after.tmp")).unwrap();
        fs::write(dir.path().join(".retry_after.tmp"), "half a li").unwrap();
        hold.note(Duration::from_secs(5), at(1000));
        assert_eq!(seconds(hold.left(at(1000))), Some(5.0));
    }
}
