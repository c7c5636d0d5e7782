//! What was refused by the server or found damaged: one JSON object a line, never dropped.
//!
//! ```json
//! {"record":{…},"raw_base64":null,"offset":512,"reason":"…","status":422,"detail":"…","attempts":1,"at":"2026-11-22T13:57:00Z"}
//! {"record":null,"raw_base64":"eyJ0eX…","offset":912,"reason":"torn: …","status":null,"detail":"","attempts":0,"at":"…"}
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::base64;
use crate::config;
use crate::directory::Directory;
use crate::error::{IoContext, Result};
use crate::json::{fields, number, quoted, text};
use crate::lock::{if_supported, open_plain, read_plain, still_names};
use crate::name::{Extension, FileName};
use crate::sys;

const READING: &str = "read the dead-letter file";

/// It is locked for as long as it is written, but a process may be stopped over that. Then it is an
/// error, as others are that pass: whoever waited tries again.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_TICK: Duration = Duration::from_millis(10);

/// The longest dead letter is a record of any size, as base64, with all that is said of it.
const LINE_LIMIT: u64 = (config::READ_LIMIT / 3 * 4 + (1 << 20)) as u64;

/// One dead letter, as it stands in a `.deadletter` file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The refused record: its whole line in the log, a JSON object. `None` for damaged bytes.
    pub record: Option<String>,
    /// The damaged bytes. `None` for a refused record.
    pub raw: Option<Vec<u8>>,
    /// Where it stood in the log file, in bytes.
    pub offset: u64,
    /// Why it is here.
    pub reason: String,
    /// The HTTP status of the refusal.
    pub status: Option<u16>,
    /// The beginning of the server's answer, at most 1 KiB.
    pub detail: String,
    /// How many requests held it.
    pub attempts: u32,
    /// When it came here, in UTC, as in `2026-11-22T13:57:00Z`.
    pub at: String,
}

impl DeadLetter {
    /// The line for the file, with its `\n`.
    pub(crate) fn push_to(&self, line: &mut Vec<u8>) {
        let record = self.record.as_deref().unwrap_or("null");
        let raw = match &self.raw {
            Some(bytes) => format!("\"{}\"", base64::encode(bytes)),
            None => "null".to_owned(),
        };
        let status = self
            .status
            .map_or("null".to_owned(), |status| status.to_string());
        let text = format!(
            "{{\"record\":{record},\"raw_base64\":{raw},\"offset\":{},\"reason\":{},\"status\":{status},\
             \"detail\":{},\"attempts\":{},\"at\":{}}}\n",
            self.offset,
            quoted(&self.reason),
            quoted(&self.detail),
            self.attempts,
            quoted(&self.at),
        );
        line.extend_from_slice(text.as_bytes());
    }

    /// Reads one line. What is no dead letter of this form (Python's are records as they were) is
    /// kept as a record if it is a JSON object, else as damaged bytes.
    pub(crate) fn parse(line: &[u8]) -> DeadLetter {
        let damaged = || DeadLetter {
            raw: Some(line.to_vec()),
            reason: "a line of the dead-letter file that is damaged itself".to_owned(),
            ..DeadLetter::default()
        };
        let Ok(fields) = fields(line) else {
            return damaged();
        };
        if !(fields.contains_key("record") && fields.contains_key("raw_base64")) {
            return DeadLetter {
                record: Some(String::from_utf8_lossy(line).trim().to_owned()),
                reason: "left by another program".to_owned(),
                ..DeadLetter::default()
            };
        }
        let text = |key| text(&fields, key);
        let number = |key| number(&fields, key);
        let record = Some(fields["record"].get()).filter(|record| *record != "null");
        let raw = text("raw_base64").and_then(|raw| base64::decode(&raw));
        if record.is_none() && raw.is_none() {
            // What it was about cannot be read any more; the line itself is all there is.
            return damaged();
        }
        DeadLetter {
            record: record.map(str::to_owned),
            raw,
            offset: number("offset").unwrap_or_default(),
            reason: text("reason").unwrap_or_default(),
            status: number("status").and_then(|status| status.try_into().ok()),
            detail: text("detail").unwrap_or_default(),
            attempts: number("attempts")
                .and_then(|attempts| attempts.try_into().ok())
                .unwrap_or_default(),
            at: text("at").unwrap_or_default(),
        }
    }
}

/// A `.deadletter` file, held against all who would write to it or rewrite it.
pub(crate) struct DeadLetterFile {
    directory: Directory,
    path: PathBuf,
    file: File,
    /// Where it ended before the first append.
    begun: Option<u64>,
}

impl DeadLetterFile {
    /// Opens the file for appending, making it if need be.
    pub fn open(directory: &Directory, name: &FileName) -> Result<DeadLetterFile> {
        let path = directory.file(name, Extension::Deadletter);
        let deadline = Instant::now() + LOCK_WAIT;
        let open = || loop {
            let opened = open_plain(
                &path,
                OpenOptions::new()
                    .read(true)
                    .append(true)
                    .create(true)
                    .mode(0o600),
            )?;
            let Some(file) = opened else {
                return Err(io::Error::other("there is something that is no plain file"));
            };
            // Without `flock`, two writers at one moment are the smaller evil.
            if !if_supported(sys::try_flock(&file))? {
                if Instant::now() >= deadline {
                    return Err(io::Error::other("another process has locked it"));
                }
                thread::sleep(LOCK_TICK);
            } else if still_names(&path, &file)? {
                return Ok(file);
            }
        };
        let file = open().doing("open the dead-letter file", &path)?;
        Ok(DeadLetterFile {
            directory: directory.clone(),
            path,
            file,
            begun: None,
        })
    }

    /// Takes back all that was appended, as far as that can be done.
    pub fn take_back(&self) {
        let _ = self.begun.map(|begun| self.file.set_len(begun));
    }

    /// Appends whole lines and syncs them. The file's name is synced before there is anything in
    /// it: what fails there is tried again, and nothing is written twice.
    pub fn append(&mut self, lines: &[u8]) -> Result<()> {
        let end = || (&self.file).seek(SeekFrom::End(0));
        let end = end().doing("write the dead-letter file", &self.path)?;
        self.begun.get_or_insert(end);
        if end == 0 {
            self.directory.sync()?;
        }
        let append = || {
            let result = self.append_after(end, lines);
            if result.is_err() {
                // Best effort: a torn line at the end is kept apart by the next append.
                let _ = self.file.set_len(end);
            }
            result
        };
        append().doing("write the dead-letter file", &self.path)
    }

    fn append_after(&self, end: u64, lines: &[u8]) -> io::Result<()> {
        let mut file = &self.file;
        if end > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(end - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        #[cfg(test)]
        crate::faults::write(file, lines)?;
        file.write_all(lines)?;
        file.sync_data()
    }

    /// Hands every line to `see`.
    pub fn for_each(&self, see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.rewind()?;
        read(&self.file, &self.path, &mut |line| see(line).map(|()| true))
    }

    fn rewind(&self) -> Result<()> {
        let rewind = || (&self.file).seek(SeekFrom::Start(0)).map(drop);
        rewind().doing(READING, &self.path)
    }

    /// Keeps only the lines that `keep` says; if that is none, removes the file.
    pub fn keep(&mut self, keep: &dyn Fn(&[u8]) -> bool) -> Result<()> {
        let temporary = self.path.with_extension("deadletter.tmp");
        let create = || {
            // A leftover of a crash may be anything by now; never write through a link.
            let _ = fs::remove_file(&temporary);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            options.open(&temporary)
        };
        let mut file = create().doing("create", &temporary)?;
        let mut any = false;
        let mut copy = |piece: &[u8], is_whole: bool| {
            let line = piece.trim_ascii();
            if is_whole && (line.is_empty() || !keep(line)) {
                return Ok(true);
            }
            any = true;
            // What is longer than a dead letter can be stays as it is.
            let written = match is_whole {
                true => file.write_all(&[line, b"\n"].concat()),
                false => file.write_all(piece),
            };
            written.doing("write", &temporary).map(|()| true)
        };
        let copied = self.rewind();
        let copied = copied.and_then(|()| pieces(&self.file, &self.path, &mut copy));
        if let Err(error) = copied.and_then(|()| file.sync_data().doing("write", &temporary)) {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        if any {
            fs::rename(&temporary, &self.path).doing("replace", &self.path)?;
            return self.directory.sync();
        }
        fs::remove_file(&temporary).doing("remove", &temporary)?;
        self.remove()
    }

    /// Removes the file with all that is in it. That needs no room on the disk.
    pub fn remove(&self) -> Result<()> {
        fs::remove_file(&self.path).doing("remove", &self.path)?;
        self.directory.sync()
    }
}

/// Hands every line of a file to `see`, until that says that it is enough. What is longer than a dead
/// letter can be comes in pieces: no file of whatever origin costs more memory than that.
pub(crate) fn read(
    file: &File,
    path: &Path,
    see: &mut dyn FnMut(&[u8]) -> Result<bool>,
) -> Result<()> {
    pieces(file, path, &mut |piece, _| {
        let content = piece.trim_ascii();
        Ok(content.is_empty() || see(content)?)
    })
}

/// The same, byte for byte, and whether that is a whole line.
fn pieces(
    file: &File,
    path: &Path,
    see: &mut dyn FnMut(&[u8], bool) -> Result<bool>,
) -> Result<()> {
    let mut reader = BufReader::new(file);
    let mut piece = Vec::new();
    let mut goes_on = false;
    loop {
        piece.clear();
        let mut limited = (&mut reader).take(LINE_LIMIT);
        limited.read_until(b'\n', &mut piece).doing(READING, path)?;
        let is_cut = piece.len() as u64 == LINE_LIMIT && !piece.ends_with(b"\n");
        let is_whole = !goes_on && !is_cut;
        goes_on = is_cut;
        if piece.is_empty() || !see(&piece, is_whole)? {
            return Ok(());
        }
    }
}

/// How many dead letters a file holds. One that is gone holds none.
pub(crate) fn count(path: &Path) -> Result<u64> {
    let mut letters = 0;
    if let Some(file) = read_plain(path).doing(READING, path)? {
        let mut count = |_: &[u8]| {
            letters += 1;
            Ok(true)
        };
        read(&file, path, &mut count)?;
    }
    Ok(letters)
}

/// The time now, as it stands in a dead letter.
pub(crate) fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    timestamp(since.as_secs())
}

/// Seconds since 1970 in UTC, by Howard Hinnant's `civil_from_days`
/// ("chrono-Compatible Low-Level Date Algorithms").
fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests;
