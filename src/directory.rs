//! One project's directory of log files: making it, listing it, removing what is done with.
//!
//! ```text
//! <root>/<entity>/<project>/[<client>/]<stem>.jsonl        records
//!                                      <stem>.lock         the writer's PID, flocked while it lives
//!                                      <stem>.checkpoint   the delivered offset
//!                                      <stem>.deadletter   refused and damaged records
//! ```

pub(crate) mod budget;
pub(crate) mod orphans;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::checkpoint;
use crate::error::{Error, IoContext, Result};
use crate::name::{Extension, FileName, split_project};
use crate::threads;

/// The name of an empty file that says how the project takes its calls.
const WHOLE_CALLS: &str = "calls_complete";

/// The names on the way to a log: the root, its entity and its project.
const LEVELS: usize = 3;

/// A directory with log files of one project.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Files of other writers whose sync has failed here. The kernel has marked their pages clean:
    /// a second sync would succeed and prove nothing.
    unsyncable: Arc<Mutex<Vec<FileName>>>,
}

impl Directory {
    /// Makes the directory and whatever is missing above it, private to the user and synced: a
    /// record is not safe before the names on the way to it are.
    pub fn create(path: &Path) -> Result<Directory> {
        let mut missing = Vec::new();
        let mut level = path;
        while !level.is_dir() {
            missing.push(level);
            match level.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => level = parent,
                _ => break,
            }
        }
        for level in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(level) {
                // Another process was quicker.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && level.is_dir() => {}
                made => made.doing("create the directory", level)?,
            }
            let parent = match level.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            sync_dir(parent)?;
        }
        Ok(Directory::at(path))
    }

    /// Syncs the names on the way to it. They may have been made a moment ago, by somebody who has
    /// not synced them yet or did not live to.
    pub fn sync_way(&self) -> Result<()> {
        let parents = self.path.ancestors().skip(1).take(LEVELS);
        for parent in parents.filter(|parent| !parent.as_os_str().is_empty()) {
            match File::open(parent).and_then(|dir| dir.sync_all()) {
                // Whoever could make it can sync it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced.doing("sync the directory", parent)?,
            }
        }
        Ok(())
    }

    /// A directory that is there already.
    pub fn at(path: &Path) -> Directory {
        Directory {
            path: path.to_owned(),
            unsyncable: Arc::default(),
        }
    }

    /// Runs the sync of a file that somebody else wrote, but never again once it has failed: what
    /// can still be read is safest on the server.
    pub fn sync_once(&self, name: &FileName, sync: impl FnOnce() -> io::Result<()>) {
        let mut unsyncable = threads::lock(&self.unsyncable);
        if !unsyncable.contains(name) && sync().is_err() {
            unsyncable.push(name.clone());
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self, name: &FileName, extension: Extension) -> PathBuf {
        self.path.join(name.with(extension))
    }

    /// Makes the names in this directory survive a power loss.
    pub fn sync(&self) -> Result<()> {
        sync_dir(&self.path)
    }

    /// Does this project take whole calls only? Learnt from an earlier answer of the server.
    pub fn takes_whole_calls(&self) -> bool {
        self.path.join(WHOLE_CALLS).is_file()
    }

    /// Remembers for the next start that this project takes whole calls only. If that fails, the
    /// next start asks again.
    pub fn remember_whole_calls(&self) {
        let _ = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path.join(WHOLE_CALLS));
    }

    /// The log files here, oldest first. A directory that is gone has none.
    pub fn logs(&self) -> Result<Vec<FileName>> {
        self.names(&[Extension::Jsonl])
    }

    /// The dead-letter files here, oldest first.
    pub fn dead_letters(&self) -> Result<Vec<FileName>> {
        self.names(&[Extension::Deadletter])
    }

    fn names(&self, wanted: &[Extension]) -> Result<Vec<FileName>> {
        let mut names = Vec::new();
        for (name, extension) in self.entries()? {
            if wanted.contains(&extension) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// All files of logs here, in no order. A directory that is gone has none.
    pub fn entries(&self) -> Result<Vec<(FileName, Extension)>> {
        // What is not a plain file was not written by a log: never opened, never removed.
        let names = entries(&self.path, FileType::is_file)?;
        Ok(names
            .iter()
            .filter_map(|name| FileName::parse(name))
            .collect())
    }

    /// Removes a log file that is drained to its end, and what stands beside it.
    ///
    /// The `.jsonl` goes first and for good, so that no crash leaves records without the
    /// checkpoint that says they are delivered. The `.deadletter` stays.
    pub fn remove(&self, name: &FileName) -> Result<()> {
        let log = self.file(name, Extension::Jsonl);
        remove_file(&log)?;
        self.sync()?;
        let checkpoint = self.file(name, Extension::Checkpoint);
        remove_file(&checkpoint::temporary(&checkpoint))?;
        remove_file(&checkpoint)?;
        remove_file(&self.file(name, Extension::Lock))
    }
}

/// Where the logs of one project are. A project can have several such directories: Python's
/// client adds a level below the project, named after a hash of the API key.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub entity: String,
    pub project: String,
    pub directory: Directory,
}

/// An entity and a project.
pub(crate) type Project = (String, String);

/// Every directory with log or dead-letter files below a root, in the order of their names, of all
/// projects or of one. What cannot be listed is told to `unread` and is in the way of no other.
pub(crate) fn places(
    root: &Path,
    only: Option<&Project>,
    unread: &mut dyn FnMut(Error),
) -> Vec<Place> {
    let is_log = [Extension::Jsonl, Extension::Deadletter];
    let mut places = all_places(root, only, unread);
    places.retain(|place| match place.directory.names(&is_log) {
        Ok(names) => {
            tell_links(place.directory.path(), &is_log, unread);
            !names.is_empty()
        }
        Err(error) => {
            unread(error);
            false
        }
    });
    places
}

/// The same with those that hold neither.
pub(crate) fn all_places(
    root: &Path,
    only: Option<&Project>,
    unread: &mut dyn FnMut(Error),
) -> Vec<Place> {
    let (only_entity, only_project) = only
        .map(|(entity, project)| (entity.as_str(), project.as_str()))
        .unzip();
    let mut places = Vec::new();
    for entity in subdirectories(root, only_entity, unread) {
        let entity_path = root.join(&entity);
        for project in subdirectories(&entity_path, only_project, unread) {
            let project_path = entity_path.join(&project);
            let clients = subdirectories(&project_path, None, unread);
            let mut paths = vec![project_path.clone()];
            paths.extend(clients.iter().map(|client| project_path.join(client)));
            places.extend(paths.iter().map(|path| Place {
                entity: entity.to_string_lossy().into_owned(),
                project: project.to_string_lossy().into_owned(),
                directory: Directory::at(path),
            }));
        }
    }
    places
}

/// The files of one sort below a root, of all projects or of one (`entity/project`).
pub(crate) fn files(
    root: &Path,
    project: Option<&str>,
    extension: Extension,
    unread: &mut dyn FnMut(Error),
) -> Result<Vec<PathBuf>> {
    let only = project.map(split_project).transpose()?;
    let mut files = Vec::new();
    for Place { directory, .. } in places(root, only.as_ref(), unread) {
        match directory.names(&[extension]) {
            Ok(names) => files.extend(names.iter().map(|name| directory.file(name, extension))),
            Err(error) => unread(error),
        }
    }
    Ok(files)
}

/// Tells of links that stand where logs do, for the same reason as of those to directories.
fn tell_links(path: &Path, is_log: &[Extension], unread: &mut dyn FnMut(Error)) {
    let stands_for_log =
        |name: &OsString| FileName::parse(name).is_some_and(|(_, found)| is_log.contains(&found));
    // That the directory cannot be listed was told.
    let links = entries(path, FileType::is_symlink).unwrap_or_default();
    let links = links.iter().filter(|name| stands_for_log(name));
    for link in links.map(|name| path.join(name)) {
        if link.is_file() {
            unread(is_link(&link, "read"));
        }
    }
}

fn is_link(path: &Path, doing: &'static str) -> Error {
    let why = io::Error::other("it is a link, which is not followed");
    Error::from_io(doing, path, why)
}

/// The directories in one, or the one of this name. A link to one is not followed, for what is
/// there may be anybody's, but told: logs may be behind it, and those that are passed over in
/// silence are never delivered.
fn subdirectories(path: &Path, only: Option<&str>, unread: &mut dyn FnMut(Error)) -> Vec<OsString> {
    let names = entries(path, |kind| kind.is_dir() || kind.is_symlink());
    let mut names = names.unwrap_or_else(|error| {
        unread(error);
        Vec::new()
    });
    names.retain(|name| {
        if only.is_some_and(|only| only != name) {
            return false;
        }
        let path = path.join(name);
        let is_link = path.is_symlink();
        if is_link && path.is_dir() {
            unread(self::is_link(&path, "look for logs in"));
        }
        !is_link
    });
    names.sort_unstable();
    names
}

/// The names in a directory of what is of one type. A directory that is gone has none.
fn entries(path: &Path, is_wanted: fn(&FileType) -> bool) -> Result<Vec<OsString>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing("list", path)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.doing("list", path)?;
        if entry.file_type().is_ok_and(|found| is_wanted(&found)) {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.doing("remove", path),
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .doing("sync the directory", path)
}
