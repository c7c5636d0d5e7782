//! The options of a client, their defaults, and how the environment sets them.

pub(crate) mod environment;
pub(crate) mod policy;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::environment::Lookup;
use self::policy::{Durability, Storage, WhenFull};
use crate::error::Error;
use crate::http::server_url::holds_key;
use crate::name::{check_entity_or_project, split_project};
use crate::report::Event;

/// The log's place when nothing else is said, below the working directory.
pub(crate) const DEFAULT_ROOT: &str = ".weave/wal";

pub(crate) const RECORD_LIMIT: usize = 16 << 20;
/// What is read back: other writers have other limits.
pub(crate) const READ_LIMIT: usize = 64 << 20;
pub(crate) const BATCH_RECORDS: usize = 10_000;
pub(crate) const BATCH_BYTES: usize = 4 << 20;
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
pub(crate) const START_JITTER: Duration = Duration::from_secs(2);

/// No wait may be longer: every one of them has an end, and no clock overflows.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is called with each event.
pub(crate) type OnEvent = Arc<dyn Fn(&Event) + Send + Sync>;

/// The options of a client. Each has a default; only the project has to be named.
///
/// ```
/// use weave_wal::{Config, Durability};
///
/// let config = Config::new("my-team", "my-app")
///     .root("/var/lib/app/wal")
///     .durability(Durability::Synced);
/// ```
///
/// Nothing is checked here: a value that cannot be used is refused when the client is opened.
#[derive(Clone)]
#[must_use = "options do nothing until a client is opened with them"]
pub struct Config {
    pub(crate) entity: String,
    pub(crate) project: String,
    pub(crate) root: PathBuf,
    pub(crate) server: String,
    pub(crate) api_key: Option<String>,
    pub(crate) storage: Storage,
    pub(crate) durability: Durability,
    pub(crate) sender: bool,
    pub(crate) sync_interval: Duration,
    pub(crate) segment_bytes: u64,
    pub(crate) record_limit: usize,
    pub(crate) queue_records: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) queue_wait: Duration,
    pub(crate) batch_records: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) disk_budget: u64,
    pub(crate) free_space_floor: Option<u64>,
    pub(crate) when_full: WhenFull,
    pub(crate) start_jitter: Duration,
    pub(crate) on_event: Option<OnEvent>,
}

impl Config {
    /// The defaults, for one project. Nothing is taken from the environment.
    pub fn new(entity: impl Into<String>, project: impl Into<String>) -> Self {
        Config {
            entity: entity.into(),
            project: project.into(),
            root: DEFAULT_ROOT.into(),
            server: environment::DEFAULT_SERVER.to_owned(),
            api_key: None,
            storage: Storage::default(),
            durability: Durability::default(),
            sender: true,
            sync_interval: Duration::from_millis(100),
            segment_bytes: 64 << 20,
            record_limit: RECORD_LIMIT,
            queue_records: 100_000,
            queue_bytes: 8 << 20,
            queue_wait: Duration::from_secs(5),
            batch_records: BATCH_RECORDS,
            batch_bytes: BATCH_BYTES,
            request_timeout: REQUEST_TIMEOUT,
            disk_budget: 4 << 30,
            free_space_floor: None,
            when_full: WhenFull::default(),
            start_jitter: START_JITTER,
            on_event: None,
        }
    }

    /// What the environment says, for a project written as `entity/project`.
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `WEAVE_ENABLE_WAL` | true: [`Storage::Disk`]; false, the default: [`Storage::Memory`] |
    /// | `WEAVE_DISABLE_WAL_SENDER` | true: [`sender(false)`](Config::sender); default false |
    /// | `WEAVE_WAL_DIR` | the root, default `.weave/wal` |
    /// | `WF_TRACE_SERVER_URL` | the server; else `WANDB_BASE_URL` + `/traces`, unless that is `https://api.wandb.ai`; else `https://trace.wandb.ai` |
    /// | `WANDB_API_KEY` | the key; else the password of `api.wandb.ai`, or of the host of `WANDB_BASE_URL`, in `~/.netrc` or the file that `NETRC` names |
    ///
    /// `1`, `true`, `yes`, `on` are true and `0`, `false`, `no`, `off` are false, in any case. An
    /// empty variable counts as not set. Every other option has the default of [`Config::new`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the project is not `entity/project`, if a switch is neither true nor
    /// false, or if a variable is not UTF-8 (a path need not be).
    pub fn from_env(project: &str) -> Result<Config, Error> {
        Config::from_lookup(project, &|name| std::env::var_os(name))
    }

    pub(crate) fn from_lookup(project: &str, lookup: Lookup) -> Result<Config, Error> {
        let (entity, project) = split_project(project)?;
        let config = Config::new(entity, project);
        let storage = match environment::flag(lookup, "WEAVE_ENABLE_WAL")? {
            true => Storage::Disk,
            false => Storage::Memory,
        };
        Ok(Config {
            root: environment::path(lookup, "WEAVE_WAL_DIR").unwrap_or(config.root),
            server: environment::server_url(lookup)?,
            api_key: environment::api_key(lookup)?,
            storage,
            sender: !environment::flag(lookup, "WEAVE_DISABLE_WAL_SENDER")?,
            ..config
        })
    }

    /// The directory below which every project has its log. Default: `.weave/wal` in the working
    /// directory.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// The trace server's address. Default: `https://trace.wandb.ai`.
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.server = server.into();
        self
    }

    /// The API key; an empty one is refused. Default: none.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.api_key = Some(api_key.into());
        self
    }

    /// Where accepted records wait for the server. Default: [`Storage::Disk`].
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// What an append waits for. Default: [`Durability::Written`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Whether records are sent. Default: true.
    ///
    /// False is for logs that something else delivers. With [`Storage::Memory`] there is nothing
    /// else: the records stay in memory until the queue is full, and are lost with the process.
    pub fn sender(mut self, sender: bool) -> Self {
        self.sender = sender;
        self
    }

    /// For how long at most a written record stays unsynced. Default: 100 ms.
    pub fn sync_interval(mut self, sync_interval: Duration) -> Self {
        self.sync_interval = sync_interval;
        self
    }

    /// The size, in bytes, at which the log goes on in a new file; an eighth of the disk budget, if
    /// that is less. Default: 64 MiB.
    pub fn segment_bytes(mut self, segment_bytes: u64) -> Self {
        self.segment_bytes = segment_bytes;
        self
    }

    /// The longest record, in bytes of its line, that is accepted. Default: 16 MiB. What others have
    /// logged is read up to 64 MiB, or up to this if it is more.
    pub fn record_limit(mut self, record_limit: usize) -> Self {
        self.record_limit = record_limit;
        self
    }

    /// How many records may wait in memory. Default: 100,000.
    pub fn queue_records(mut self, queue_records: usize) -> Self {
        self.queue_records = queue_records;
        self
    }

    /// How many bytes of records may wait in memory. Default: 8 MiB.
    pub fn queue_bytes(mut self, queue_bytes: usize) -> Self {
        self.queue_bytes = queue_bytes;
        self
    }

    /// For how long an append waits for room in a full queue before it is refused; zero refuses
    /// at once. Default: 5 s.
    pub fn queue_wait(mut self, queue_wait: Duration) -> Self {
        self.queue_wait = queue_wait;
        self
    }

    /// How many records go into one request at most. Default: 10,000.
    pub fn batch_records(mut self, batch_records: usize) -> Self {
        self.batch_records = batch_records;
        self
    }

    /// How many bytes the body of one request has at most, unless one record alone has more; the
    /// public server takes 32 MiB. Default: 4 MiB.
    pub fn batch_bytes(mut self, batch_bytes: usize) -> Self {
        self.batch_bytes = batch_bytes;
        self
    }

    /// How long one request may take in all: at least 1 s, in whole seconds; a fraction is rounded
    /// up. Default: 30 s.
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.request_timeout = request_timeout;
        self
    }

    /// How many bytes of disk the log and dead-letter files below the root may take, those of all
    /// processes and projects together; `u64::MAX` for no bound. Default: 4 GiB.
    ///
    /// Each client measures the whole root before its first append and then each time it has
    /// appended another 1 MiB (up to 64 MiB where there are thousands of files). So processes that
    /// fill the disk in the same moment can exceed the budget by as much, each. Only appends are
    /// refused, never a delivery, a checkpoint or a dead letter.
    pub fn disk_budget(mut self, disk_budget: u64) -> Self {
        self.disk_budget = disk_budget;
        self
    }

    /// How many bytes of the disk appends leave free, whatever the budget; 0 for none. Default:
    /// 64 MiB, or a twentieth of the file system if that is less.
    pub fn free_space_floor(mut self, free_space_floor: u64) -> Self {
        self.free_space_floor = Some(free_space_floor);
        self
    }

    /// What an append does at the disk budget or the free-space floor. Default:
    /// [`WhenFull::Reject`].
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// How long a client waits at most, and at random, before it begins to deliver what earlier
    /// processes have left behind, so that many that start in the same second do not send in the
    /// same second. Its own records do not wait. Default: 2 s.
    pub fn start_jitter(mut self, start_jitter: Duration) -> Self {
        self.start_jitter = start_jitter;
        self
    }

    /// Called with everything worth knowing that happens: see [`Event`]. Default: nothing is
    /// called.
    ///
    /// It runs on a short-lived thread of its own, with one event after the other, in order. It
    /// may be slow, hang or panic: that delays and stops nothing. 1,000 events wait for it; those
    /// beyond are counted in [`Stats::events_missed`](crate::Stats::events_missed), and its panics
    /// in [`Stats::event_panics`](crate::Stats::event_panics).
    pub fn on_event(mut self, on_event: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(on_event));
        self
    }

    /// Refuses what no client can work with. The server's address and the key's characters are
    /// checked by what sends.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_entity_or_project("entity", &self.entity)?;
        check_entity_or_project("project", &self.project)?;
        let refuse = |what: &str| Err(Error::Config(what.to_owned()));
        if self.root.as_os_str().is_empty() {
            return refuse("the root is an empty path; name a directory, or \".\" for this one");
        }
        let key = self.api_key.as_deref();
        if key.is_some_and(|key| key.trim().is_empty()) {
            return refuse("the API key is empty; give the key, or leave the option out");
        }
        for (name, limit) in [
            ("segment_bytes", self.segment_bytes),
            ("record_limit", self.record_limit as u64),
            ("queue_records", self.queue_records as u64),
            ("queue_bytes", self.queue_bytes as u64),
            ("batch_records", self.batch_records as u64),
            ("batch_bytes", self.batch_bytes as u64),
            ("disk_budget", self.disk_budget),
        ] {
            if limit == 0 {
                return refuse(&format!("{name} is 0; it has to be at least 1"));
            }
        }
        for (name, wait, least) in [
            ("sync_interval", self.sync_interval, 1),
            ("queue_wait", self.queue_wait, 0),
            ("start_jitter", self.start_jitter, 0),
            ("request_timeout", self.request_timeout, 1000),
        ] {
            if wait < Duration::from_millis(least) || wait > LONGEST_WAIT {
                return refuse(&format!(
                    "{name} is {}.{:03} s; it has to be from {least} ms to 365 days",
                    wait.as_secs(),
                    wait.subsec_millis()
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    /// All options but the key, which no log may show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.api_key.as_deref();
        let server = match key.is_some_and(|key| holds_key(&self.server, key)) {
            true => "(hidden: it holds the key)".to_owned(),
            false => environment::without_password(&self.server),
        };
        f.debug_struct("Config")
            .field("entity", &self.entity)
            .field("project", &self.project)
            .field("root", &self.root)
            .field("server", &server)
            .field("api_key", &self.api_key.as_ref().map(|_| "(hidden)"))
            .field("storage", &self.storage)
            .field("durability", &self.durability)
            .field("sender", &self.sender)
            .field("sync_interval", &self.sync_interval)
            .field("segment_bytes", &self.segment_bytes)
            .field("record_limit", &self.record_limit)
            .field("queue_records", &self.queue_records)
            .field("queue_bytes", &self.queue_bytes)
            .field("queue_wait", &self.queue_wait)
            .field("batch_records", &self.batch_records)
            .field("batch_bytes", &self.batch_bytes)
            .field("request_timeout", &self.request_timeout)
            .field("disk_budget", &self.disk_budget)
            .field("free_space_floor", &self.free_space_floor)
            .field("when_full", &self.when_full)
            .field("start_jitter", &self.start_jitter)
            .field("on_event", &self.on_event.as_ref().map(|_| "(a callback)"))
            .finish()
    }
}

#[cfg(test)]
mod tests;
