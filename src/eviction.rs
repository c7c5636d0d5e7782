//! Dropping the oldest log file at the disk budget, for those who asked for that.

use crate::budget::allocated;
use crate::directory::Directory;
use crate::drain::{Discarded, Drain};
use crate::error::{IoContext, Result};
use crate::lock::{self, Writer};
use crate::name::{Extension, FileName};

/// Removes the oldest log file of a project that nobody writes to or delivers.
///
/// `None`: there is none, or all of them together would not free the `missing` bytes, so that
/// nothing is lost for nothing.
pub(crate) fn drop_oldest(directory: &Directory, missing: u64) -> Result<Option<Discarded>> {
    let names = without_writer(directory, missing)?;
    for name in names {
        let Some(drain) = Drain::open(directory, &name, false)? else {
            continue;
        };
        if let Some(discarded) = drain.discard()? {
            return Ok(Some(discarded));
        }
    }
    Ok(None)
}

/// The files whose writers are gone, oldest first; none, if they take less than `missing` bytes.
fn without_writer(directory: &Directory, missing: u64) -> Result<Vec<FileName>> {
    let mut names = Vec::new();
    let mut bytes = 0;
    for name in directory.logs()? {
        let path = directory.file(&name, Extension::Jsonl);
        let look = || match lock::read_plain(&path)? {
            Some(file) => Ok(Some((file.metadata()?, file))),
            None => Ok(None),
        };
        let Some((metadata, file)) = look().doing("look at", &path)? else {
            continue;
        };
        // The last word on the writer is asked for with the drain lock held.
        let writer = lock::writer(directory, &name, &file, true)?;
        if matches!(writer, Writer::Gone { .. }) {
            bytes += allocated(&metadata);
            names.push(name);
        }
    }
    if bytes < missing {
        names.clear();
    }
    Ok(names)
}
