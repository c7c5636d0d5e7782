//! Dropping the oldest log file at the disk budget, for those who asked for that.

use crate::directory::Directory;
use crate::directory::budget::allocated;
use crate::drain::{Discarded, Drain};
use crate::error::{Error, IoContext, Result};
use crate::lock::{self, Writer};
use crate::name::{Extension, FileName};

/// Removes the oldest log file of a project that nobody writes to or delivers.
///
/// `None`: there is none, or all of them together would not free the `missing` bytes, so that
/// nothing is lost for nothing. What cannot be looked at or removed is told to `trouble` and is in
/// the way of no other.
pub(crate) fn drop_oldest(
    directory: &Directory,
    missing: u64,
    trouble: &mut dyn FnMut(Error),
) -> Result<Option<Discarded>> {
    for name in without_writer(directory, missing, trouble)? {
        let opened = Drain::open(directory, &name, false);
        match opened.and_then(|drain| drain.map_or(Ok(None), Drain::discard)) {
            Ok(None) => {}
            Ok(discarded) => return Ok(discarded),
            Err(error) => trouble(error),
        }
    }
    Ok(None)
}

/// The files whose writers are gone, oldest first; none, if they take less than `missing` bytes.
fn without_writer(
    directory: &Directory,
    missing: u64,
    trouble: &mut dyn FnMut(Error),
) -> Result<Vec<FileName>> {
    let mut names = Vec::new();
    let mut bytes = 0;
    for name in directory.logs()? {
        match size_without_writer(directory, &name) {
            Ok(None) => {}
            Ok(Some(size)) => {
                bytes += size;
                names.push(name);
            }
            Err(error) => trouble(error),
        }
    }
    if bytes < missing {
        names.clear();
    }
    Ok(names)
}

/// What a file takes on the disk. `None`: it has a writer, or is gone.
fn size_without_writer(directory: &Directory, name: &FileName) -> Result<Option<u64>> {
    let path = directory.file(name, Extension::Jsonl);
    let look = || match lock::read_plain(&path)? {
        Some(file) => Ok(Some((file.metadata()?, file))),
        None => Ok(None),
    };
    let Some((metadata, file)) = look().doing("look at", &path)? else {
        return Ok(None);
    };
    // The last word on the writer is asked for with the drain lock held.
    let writer = lock::writer(directory, name, &file, true)?;
    let is_gone = matches!(writer, Writer::Gone { .. });
    Ok(is_gone.then(|| allocated(&metadata)))
}
