//! Delivering everything below a root, whoever wrote it: the rescue of what others left behind.

pub(crate) mod deferral;
mod desk;
pub(crate) mod holdoff;
pub(crate) mod lane;
pub(crate) mod refused;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use self::desk::{Desk, GRACE, TICK, is_over};
use self::lane::{Lane, MOST_OPEN};
use crate::config;
use crate::config::environment;
use crate::directory::orphans;
use crate::directory::{Directory, all_places, places};
use crate::drain::Settled;
use crate::error::{Error, IoContext, Result};
use crate::http::Server;
use crate::inspect;
use crate::name::split_project;
use crate::replay::backoff::uniform;
use crate::replay::random;
use crate::report::Event;
use crate::sys;

/// How often the directories are searched while watching.
const SEARCH: Duration = Duration::from_millis(500);

/// How long what is found keeps a sender that watches from looking for more: who writes does not wait
/// until the backlog of others is delivered.
const PASS: Duration = Duration::from_secs(2);

/// Delivers the logs below a root, on the thread that calls [`run`](Self::run).
///
/// Files that are still being written, by this crate or by Weave's Python client, are delivered
/// up to their last whole line and left where they are. Files that another process delivers at
/// the moment are waited for.
pub struct Sender {
    root: PathBuf,
    only: Option<(String, String)>,
    server: Server,
    /// Sorted by path.
    lanes: Vec<Lane>,
    done: Settled,
    /// When a stop was first seen.
    stopped: Option<Instant>,
}

/// How long [`Sender::run`] goes on.
#[derive(Debug, Clone)]
pub struct Until<'a> {
    /// Go on with what is written from now on. It begins after a random time of up to 2 s: many
    /// that are started in the same second do not send in the same second. Default: false.
    pub watch: bool,
    /// The end of the whole run, whatever is left. Default: none.
    pub deadline: Option<Instant>,
    /// Without `watch`: how long nothing may be delivered before the run ends. Default: 30 s.
    pub patience: Duration,
    /// Ends the run when it becomes true, within 5 s: a request in flight may still be answered,
    /// and with `watch` what was written until then is delivered, as far as that time allows.
    pub stop: &'a AtomicBool,
}

impl<'a> Until<'a> {
    /// Until everything that is there now is delivered, or `stop`.
    pub fn drained(stop: &'a AtomicBool) -> Until<'a> {
        Until {
            watch: false,
            deadline: None,
            patience: Duration::from_secs(30),
            stop,
        }
    }
}

/// What a run of the [`Sender`] came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Records that the server has taken.
    pub delivered: u64,
    /// Records that are still in the logs.
    pub pending: u64,
    /// Bytes that are still in the logs, damaged ones too.
    pub pending_bytes: u64,
    /// Records that the server refused; they are in dead-letter files.
    pub rejected: u64,
    /// Damaged places; they are in dead-letter files.
    pub corrupt: u64,
    /// Requests sent, failed ones included.
    pub requests: u64,
    /// Why sending is paused: the configuration is wrong.
    pub paused: Option<String>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// A directory or a file that could not be read, and why: there may be records in it. All
    /// others were looked at.
    pub unread: Option<String>,
}

impl Summary {
    /// Is nothing left, was nothing refused or damaged, and could everything be read?
    pub fn is_complete(&self) -> bool {
        self.pending == 0
            && self.pending_bytes == 0
            && self.rejected == 0
            && self.corrupt == 0
            && self.unread.is_none()
    }
}

impl Sender {
    /// A sender for what is below `.weave/wal`, to `server`.
    ///
    /// # Errors
    /// [`Error::Config`] if the URL or the key cannot be used.
    pub fn new(server: &str, api_key: Option<&str>) -> Result<Sender> {
        Ok(Sender {
            root: PathBuf::from(config::DEFAULT_ROOT),
            only: None,
            server: Server::new(server, api_key, config::REQUEST_TIMEOUT)?,
            lanes: Vec::new(),
            done: Settled::default(),
            stopped: None,
        })
    }

    /// A sender with the root, the server and the key from the environment, as
    /// [`Config::from_env`](crate::Config::from_env) takes them; `server` goes before it.
    ///
    /// # Errors
    /// As [`new`](Self::new), and for variables that cannot be used.
    pub fn from_env(server: Option<&str>) -> Result<Sender> {
        let lookup: environment::Lookup<'_> = &|name| std::env::var_os(name);
        let server = match server {
            Some(server) => server.to_owned(),
            None => environment::server_url(lookup)?,
        };
        let sender = Sender::new(&server, environment::api_key(lookup)?.as_deref())?;
        Ok(match environment::path(lookup, "WEAVE_WAL_DIR") {
            Some(root) => sender.root(root),
            None => sender,
        })
    }

    /// Where the logs are. Default: `.weave/wal`.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Sender {
        self.root = root.into();
        self
    }

    /// Delivers one project only, named as `entity/project`. Default: all.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not of that form.
    pub fn project(mut self, project: &str) -> Result<Sender> {
        self.only = Some(split_project(project)?);
        Ok(self)
    }

    /// Delivers what is there, and tells what happens to `on_event`.
    ///
    /// # Errors
    /// [`Error::Io`] if the root cannot be listed; while watching, that is told
    /// and tried again. What cannot be delivered, or not be read below the root, is no error: the
    /// [`Summary`] says so.
    pub fn run(&mut self, until: &Until<'_>, on_event: &mut dyn FnMut(&Event)) -> Result<Summary> {
        // A dead letter above a limit on file sizes is an error, and not the end of the program.
        sys::without_sigxfsz(|| self.deliver(until, on_event))
    }

    fn deliver(&mut self, until: &Until<'_>, on_event: &mut dyn FnMut(&Event)) -> Result<Summary> {
        self.done = Settled::default();
        self.stopped = None;
        if !until.watch {
            match fs::read_dir(&self.root) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                listed => drop(listed.doing("list", &self.root)?),
            }
        } else {
            // Those that start in the same second do not send in the same second.
            self.sleep(until, uniform(config::START_JITTER, random()));
        }
        for place in all_places(&self.root, None, &mut |_| ()) {
            // What is left of it does no harm.
            let _ = orphans::remove(&place.directory, orphans::YOUNG);
        }
        let mut moved = Instant::now();
        let mut left_before = u64::MAX;
        loop {
            let unread = self.search();
            if let (Some(error), true) = (&unread, until.watch) {
                let error = error.to_string();
                on_event(&Event::Degraded { error });
            }
            let (settled, is_busy) = self.pass(until, on_event);
            // That takes long where there are many files, and who watches does not end by it.
            let left = match until.watch {
                true => 0,
                false => self.pending_bytes(),
            };
            // Another process that delivers a file we wait for is progress, too.
            if settled || left < left_before {
                moved = Instant::now();
            }
            left_before = left;
            let given_up = moved.elapsed() >= until.patience;
            if is_over(until) || (!until.watch && (left == 0 || given_up)) {
                if until.watch {
                    self.last_pass(until, on_event);
                }
                return Ok(self.summary(unread));
            }
            if !is_busy {
                self.sleep(until, SEARCH);
            }
        }
    }

    /// Finds directories and files that were not known, and says what could not be looked at.
    fn search(&mut self) -> Option<Error> {
        let mut unread = None;
        let found = places(&self.root, self.only.as_ref(), &mut |error| {
            unread.get_or_insert(error);
        });
        for directory in found.into_iter().map(|place| place.directory) {
            match directory.logs() {
                Ok(names) => self.lane(directory).found(names),
                Err(error) => {
                    unread.get_or_insert(error);
                }
            }
        }
        let room = MOST_OPEN / self.lanes.len().max(1);
        self.lanes.iter_mut().for_each(|lane| lane.room = room);
        unread
    }

    /// The lane of a directory, a new one if need be.
    fn lane(&mut self, directory: Directory) -> &mut Lane {
        let path = directory.path();
        let place = self
            .lanes
            .binary_search_by(|lane| lane.directory.path().cmp(path));
        let at = place.unwrap_or_else(|at| {
            self.lanes.insert(at, Lane::new(directory));
            at
        });
        &mut self.lanes[at]
    }

    /// One batch of each directory in turn, until none has more to send or it is time to look for
    /// more. Was anything settled, and is there more to send?
    fn pass(&mut self, until: &Until<'_>, on_event: &mut dyn FnMut(&Event)) -> (bool, bool) {
        let began = Instant::now();
        let stopped = &mut self.stopped;
        let mut desk = Desk::new(&self.server, &self.root, until, stopped, on_event);
        let mut any = false;
        let mut busy_before = self.lanes.len();
        loop {
            let mut busy = 0;
            for lane in &mut self.lanes {
                if is_over(until) {
                    return (any, busy > 0);
                }
                let alone = busy == 0 && busy_before == 1;
                if let Some(settled) = lane.step(&mut desk, alone) {
                    self.done += settled;
                    busy += 1;
                }
            }
            any |= busy > 0;
            busy_before = busy;
            if busy == 0 || (until.watch && began.elapsed() >= PASS) {
                return (any, busy > 0);
            }
        }
    }

    /// What was written until the stop is delivered too, as far as it goes quickly.
    fn last_pass(&mut self, until: &Until<'_>, on_event: &mut dyn FnMut(&Event)) {
        let grace = self.stopped.unwrap_or_else(Instant::now) + GRACE;
        let until = Until {
            watch: false,
            deadline: Some(until.deadline.map_or(grace, |end| end.min(grace))),
            patience: GRACE,
            stop: &AtomicBool::new(false),
        };
        // What cannot be looked at has been told before.
        let _ = self.search();
        let stopped = &mut self.stopped;
        let mut desk = Desk::new(&self.server, &self.root, &until, stopped, on_event);
        let mut lanes: Vec<_> = self.lanes.iter_mut().collect();
        while !lanes.is_empty() && !is_over(&until) {
            lanes.retain_mut(|lane| {
                lane.replay.hurry();
                let settled = lane.step(&mut desk, false);
                self.done += settled.unwrap_or_default();
                settled.is_some()
            });
        }
    }

    /// Sleeps, but not for longer than the run goes on, nor beyond the next attempt with calls that
    /// are held back.
    fn sleep(&self, until: &Until<'_>, time: Duration) {
        let released = self.lanes.iter().filter_map(Lane::release_at);
        let next = released.fold(Instant::now() + time, Instant::min);
        while Instant::now() < next && !is_over(until) {
            thread::sleep(TICK.min(next.saturating_duration_since(Instant::now())));
        }
    }

    /// Bytes in files that this run has not delivered to their end. What cannot be told is not
    /// waited for.
    fn pending_bytes(&self) -> u64 {
        let mut pending = 0;
        for lane in &self.lanes {
            for name in lane.unfinished() {
                pending += inspect::pending_bytes(&lane.directory, name).unwrap_or(0);
            }
        }
        pending
    }

    fn summary(&self, mut unread: Option<Error>) -> Summary {
        let mut pending = 0;
        for lane in &self.lanes {
            for name in lane.unfinished() {
                match inspect::pending_records(&lane.directory, name) {
                    Ok(records) => pending += records,
                    Err(error) => {
                        unread.get_or_insert(error);
                    }
                }
            }
        }
        let lanes = || self.lanes.iter();
        Summary {
            delivered: self.done.delivered,
            pending,
            pending_bytes: self.pending_bytes(),
            rejected: self.done.rejected,
            corrupt: self.done.corrupt,
            requests: lanes().map(|lane| lane.replay.requests()).sum(),
            paused: lanes().find_map(|lane| lane.replay.paused().map(str::to_owned)),
            last_error: lanes().find_map(|lane| lane.error.clone()),
            unread: unread.map(|error| error.to_string()),
        }
    }
}
