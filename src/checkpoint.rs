//! The delivered offset: everything before it has left the log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{IoContext, Result};
use crate::lock::read_plain;

/// Longer than any decimal `u64` with white space around it; what is longer is no checkpoint.
const LONGEST: u64 = 64;

/// Reads a checkpoint's content. What is not a decimal number means 0: send again.
pub(crate) fn parse(content: &[u8]) -> u64 {
    std::str::from_utf8(content)
        .ok()
        .map(str::trim)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

/// Reads a checkpoint file; missing, unreadable, a FIFO, a link: 0.
pub(crate) fn read(path: &Path) -> u64 {
    try_read(path).unwrap_or(0)
}

/// The same for who sends what stands behind it: one that is there and cannot be read, because
/// it is somebody else's or there is no descriptor left, does not mean that nothing is delivered.
/// A disk that cannot read it any more is as good as damage: 0.
pub(crate) fn try_read(path: &Path) -> Result<u64> {
    let open = || -> io::Result<u64> {
        let mut content = Vec::new();
        if let Some(file) = read_plain(path)? {
            file.take(LONGEST + 1).read_to_end(&mut content)?;
        }
        let is_one = content.len() as u64 <= LONGEST;
        Ok(if is_one { parse(&content) } else { 0 })
    };
    match open() {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
        read => read.doing("read the checkpoint", path),
    }
}

/// Moves a checkpoint to `offset`, so that it is the old or the new one after a power loss.
///
/// The caller holds the drain lock, so the temporary file's fixed name is its own.
pub(crate) fn write(path: &Path, offset: u64) -> Result<()> {
    let temporary = temporary(path);
    let create = || {
        // A leftover of a crash may be anything by now; never write through a link.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(offset.to_string().as_bytes())?;
        file.sync_data()
    };
    create().doing("write the checkpoint", &temporary)?;
    fs::rename(&temporary, path).doing("move the checkpoint to", path)?;
    sync_parent(path).doing("sync the directory of", path)
}

/// The fixed name a checkpoint is written under before it is moved into place.
pub(crate) fn temporary(path: &Path) -> std::path::PathBuf {
    path.with_extension("checkpoint.tmp")
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.checkpoint");
        for offset in [0, 7, u64::MAX] {
            write(&path, offset).unwrap();
            assert_eq!(read(&path), offset);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!temporary(&path).exists());
    }

    #[test]
    fn pythons_checkpoint_is_read() {
        assert_eq!(parse(b"217758"), 217_758);
        assert_eq!(parse(b" 12\n"), 12);
    }

    #[test]
    fn nonsense_means_from_the_start() {
        for content in [
            &b""[..],
            b"-1",
            b"+5",
            b"1e9",
            b"0x10",
            b"99999999999999999999999",
            b"\0\0\0\0",
            b"\xff",
            b"12 34",
        ] {
            assert_eq!(parse(content), 0, "{content:?}");
        }
    }

    #[test]
    fn a_file_too_long_for_a_checkpoint_is_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.checkpoint");
        for (len, read_as) in [(LONGEST, 5), (LONGEST + 1, 0), (LONGEST + 2, 0)] {
            fs::write(&path, format!("{:<1$}", 5, len as usize)).unwrap();
            assert_eq!(read(&path), read_as, "{len} bytes");
        }
    }

    #[test]
    fn one_that_is_there_and_cannot_be_read_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(try_read(&dir.path().join("missing")).unwrap(), 0);
        // No file system has such a name, and to look for it fails otherwise than by its absence.
        let path = dir.path().join("a".repeat(5000));
        assert!(try_read(&path).is_err());
        assert_eq!(read(&path), 0);
    }

    #[test]
    fn a_link_or_a_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, "5").unwrap();
        let link = dir.path().join("a.checkpoint");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert_eq!(read(&link), 0);
        assert_eq!(read(dir.path()), 0);

        let temporary = temporary(&link);
        std::os::unix::fs::symlink(&target, &temporary).unwrap();
        write(&link, 9).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"5");
        assert_eq!(read(&link), 9);
    }
}
