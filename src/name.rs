//! Names: an entity and a project become directories, a log becomes the files beside each other.
//!
//! Names are used as they are, as Weave's Python client uses them, never rewritten: so no two of
//! them meet in one directory. What cannot be one plain directory is refused.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Error;

/// What the file systems of Linux, macOS and the BSDs take as one name.
const LONGEST_NAME: usize = 255;

/// How much of a refused name a message shows.
const SHOWN: usize = 60;

/// Refuses what cannot be one directory directly below its parent. `what` is "entity" or
/// "project".
pub(crate) fn check_entity_or_project(what: &'static str, name: &str) -> Result<(), Error> {
    let fault = if name.is_empty() {
        "is empty".to_owned()
    } else if name == "." || name == ".." {
        "would leave its own directory".to_owned()
    } else if let Some(bad) = name.chars().find(|c| matches!(c, '/' | '\\')) {
        format!("holds a {bad:?}")
    } else if let Some(bad) = name.chars().find(|c| c.is_control()) {
        format!("holds the control character {bad:?}")
    } else if name.trim() != name {
        "begins or ends with white space".to_owned()
    } else if name.len() > LONGEST_NAME {
        format!("has {} bytes, more than {LONGEST_NAME}", name.len())
    } else {
        return Ok(());
    };
    Err(Error::Config(format!(
        "the {what} name {} {fault}; it names a directory of the log: give it as it stands in the \
         project's address, https://wandb.ai/<entity>/<project>",
        shown(name)
    )))
}

/// Takes `entity/project` apart and checks both.
pub(crate) fn split_project(id: &str) -> Result<(String, String), Error> {
    let parts = id.split_once('/');
    let Some((entity, project)) = parts.filter(|(_, project)| !project.contains('/')) else {
        let fault = if parts.is_none() {
            "does not name its entity"
        } else {
            "has more than one \"/\""
        };
        return Err(Error::Config(format!(
            "the project {} {fault}; write it as entity/project, as in my-team/my-app",
            shown(id)
        )));
    };
    check_entity_or_project("entity", entity)?;
    check_entity_or_project("project", project)?;
    Ok((entity.to_owned(), project.to_owned()))
}

/// Somebody else's text for a message: quoted, escaped, and not all of it if it is long.
pub(crate) fn shown(text: &str) -> String {
    let mut start: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        start.push('…');
    }
    format!("\"{start}\"")
}

/// What a file beside the others is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Extension {
    /// The records.
    Jsonl,
    /// The writer's PID and lock.
    Lock,
    /// How much is delivered.
    Checkpoint,
    /// What was refused or damaged.
    Deadletter,
}

impl Extension {
    pub(crate) const ALL: [Extension; 4] = [
        Extension::Jsonl,
        Extension::Lock,
        Extension::Checkpoint,
        Extension::Deadletter,
    ];

    /// The extension without its dot.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Extension::Jsonl => "jsonl",
            Extension::Lock => "lock",
            Extension::Checkpoint => "checkpoint",
            Extension::Deadletter => "deadletter",
        }
    }
}

/// The name that a log and the files beside it share: what stands before the extension.
///
/// This crate's names are `{time_ns:020}_{32 hex}`, so their order is the order of their creation
/// as far as the clock goes. Any other name is taken as it is: people rename files, and a log that
/// is not recognised is a log that is never delivered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileName {
    stem: OsString,
}

impl FileName {
    /// The name of a new log: nanoseconds since 1970, which fit 64 bits until the year 2554, and
    /// what keeps two processes of one instant apart.
    pub(crate) fn new(time_ns: u64, random: [u8; 16]) -> Self {
        let random = u128::from_be_bytes(random);
        FileName {
            stem: format!("{time_ns:020}_{random:032x}").into(),
        }
    }

    /// The log that a directory entry belongs to, and as what. Hidden files and other extensions
    /// are none of ours.
    pub(crate) fn parse(file_name: &OsStr) -> Option<(FileName, Extension)> {
        let bytes = file_name.as_bytes();
        let dot = bytes.iter().rposition(|&byte| byte == b'.')?;
        let (stem, extension) = (&bytes[..dot], &bytes[dot + 1..]);
        if matches!(stem.first(), None | Some(b'.')) || stem.iter().any(|b| b"/\0".contains(b)) {
            return None;
        }
        let extension = Extension::ALL
            .into_iter()
            .find(|known| known.as_str().as_bytes() == extension)?;
        let stem = OsStr::from_bytes(stem).to_owned();
        Some((FileName { stem }, extension))
    }

    /// When the log was begun, if its name tells.
    pub(crate) fn begun(&self) -> Option<SystemTime> {
        let nanos = self.stem.to_str()?.split_once('_')?.0.parse().ok()?;
        UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
    }

    /// The name of one of the files.
    pub(crate) fn with(&self, extension: Extension) -> OsString {
        let mut name = self.stem.clone();
        name.push(".");
        name.push(extension.as_str());
        name
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Path::new(&self.stem).display().fmt(f)
    }
}

#[cfg(test)]
mod tests;
