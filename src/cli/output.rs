//! What the tool prints: data on standard output, everything else on standard error.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use super::Trouble;

/// What is printed in one piece.
const PIECE: usize = 64 << 10;

/// Standard output. Errors are kept for the end, so that what prints need not care: a reader that
/// has seen enough (`weave-wal cat | head`) is none, a full disk is.
pub(super) struct Output<W: Write = File> {
    out: io::Result<W>,
    buffer: Vec<u8>,
}

impl Output {
    /// Past the buffer that std keeps, which would print line by line.
    pub(super) fn stdout() -> Output {
        let out = io::stdout().as_fd().try_clone_to_owned();
        Output::to(out.map(File::from))
    }
}

impl<W: Write> Output<W> {
    fn to(out: io::Result<W>) -> Output<W> {
        Output {
            out,
            buffer: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush();
        }
    }

    pub(super) fn line(&mut self, line: impl fmt::Display) {
        self.write(format!("{line}\n").as_bytes());
    }

    pub(super) fn flush(&mut self) {
        if let Ok(out) = &mut self.out {
            if let Err(error) = out.write_all(&self.buffer) {
                self.out = Err(error);
            }
        }
        self.buffer.clear();
    }

    /// Does anybody still read what is printed?
    pub(super) fn is_open(&self) -> bool {
        self.out.is_ok()
    }

    /// Prints what is left in the buffer.
    pub(super) fn finish(mut self) -> Result<(), Trouble> {
        self.flush();
        match &self.out {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Trouble::Failed(format!(
                "cannot write to standard output: {error}"
            ))),
            _ => Ok(()),
        }
    }
}

impl<W: Write> Drop for Output<W> {
    /// A command that has failed half-way has printed the half.
    fn drop(&mut self) {
        self.flush();
    }
}

/// A line on standard error, whatever names are in it. If nobody reads it, the work goes on.
pub(super) fn say(line: impl fmt::Display) {
    let line = plain(&line.to_string()) + "\n";
    let _ = io::stderr().write_all(line.as_bytes());
}

/// As in "1 record", "2 records".
pub(super) fn count(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut shown = String::new();
    for unit in units {
        // To the nearest; what would be rounded to 1024.0 is one of the next.
        let rounded = ((tenths + 512) >> 10) as u64;
        shown = format!("{}.{} {unit}", rounded / 10, rounded % 10);
        if rounded < 10240 {
            break;
        }
        tenths >>= 10;
    }
    shown
}

/// An age for people, in its largest unit.
pub(super) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    // There is no text that cannot be one.
    serde_json::to_string(text).unwrap_or_default()
}

/// Text with a name that somebody else chose, without what would move the cursor or begin a line.
pub(super) fn plain(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_debug().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
        for (kind, is_error) in [
            (ErrorKind::BrokenPipe, false),
            (ErrorKind::StorageFull, true),
        ] {
            let mut out = Output::to(Ok(Broken(kind)));
            out.line("one");
            assert!(out.is_open());
            out.flush();
            assert!(!out.is_open());
            out.line("two");
            assert_eq!(out.finish().is_err(), is_error);
        }
    }

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!(count(1, "record"), "1 record");
        assert_eq!(count(0, "record"), "0 records");
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1700, "1.7 KiB"),
            (1023 << 10, "1023.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
        for (seconds, shown) in [
            (59, "59 s"),
            (60, "1 min"),
            (7_200, "2 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn a_name_cannot_draw_on_the_terminal() {
        assert_eq!(plain("té am\u{1b}[2J\n"), "té am\\u{1b}[2J\\n");
    }
}
