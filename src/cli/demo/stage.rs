//! What every scene of the demo needs: a directory, a server, clients, and patience.

use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use weave_wal::{Client, Config, Event, Sender, Summary, Until};

use super::Outcome;
use super::collector::Collector;
use super::say;
use super::writer::{ENTITY, PROJECT, Sample};

/// What must happen is waited for this long; on a healthy machine it takes a fraction of it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The key that the server takes.
pub const KEY: &str = "the-right-key";

/// A scene's own directory and its own server.
pub struct Stage {
    pub root: PathBuf,
    pub collector: Collector,
}

impl Stage {
    pub fn set(root: PathBuf) -> Outcome<Stage> {
        let collector = Collector::start()?;
        collector.set_key(KEY);
        Ok(Stage { root, collector })
    }

    pub fn config(&self, key: &str) -> Config {
        Config::new(ENTITY, PROJECT)
            .root(&self.root)
            .server(self.collector.url())
            .api_key(key)
    }

    /// A client, and what it tells about itself.
    pub fn client(&self, key: &str) -> Outcome<(Client, Receiver<Event>)> {
        let (tell, events) = mpsc::channel();
        let config = self.config(key).on_event(move |event| {
            // Nobody listens in a scene that needs no events.
            let _ = tell.send(event.clone());
        });
        Ok((Client::open(config)?, events))
    }

    /// Delivers what others have left, as `weave-wal send` does.
    pub fn rescue(&self) -> Outcome<(Summary, Vec<Event>)> {
        let stop = AtomicBool::new(false);
        let until = Until {
            deadline: Some(Instant::now() + PATIENCE),
            ..Until::drained(&stop)
        };
        let mut events = Vec::new();
        let summary = Sender::new(&self.collector.url(), Some(KEY))?
            .root(&self.root)
            .run(&until, &mut |event| events.push(event.clone()))?;
        Ok((summary, events))
    }
}

pub fn append(client: &Client, numbers: Range<usize>) -> Outcome<Vec<Sample>> {
    Ok(append_timed(client, numbers)?.0)
}

/// Appends, syncs now and then, and returns what was acknowledged and how long each append took.
pub fn append_timed(
    client: &Client,
    numbers: Range<usize>,
) -> Outcome<(Vec<Sample>, Vec<Duration>)> {
    let (mut acknowledged, mut times) = (Vec::new(), Vec::new());
    for n in numbers {
        let sample = Sample::new(0, n);
        let began = Instant::now();
        sample.append(client)?;
        times.push(began.elapsed());
        acknowledged.push(sample);
        if n % 150 == 149 {
            client.sync()?;
        }
    }
    Ok((acknowledged, times))
}

/// The median and the longest of some durations, as multiples of those of others.
pub fn compared(mut these: Vec<Duration>, mut those: Vec<Duration>) -> (String, String) {
    these.sort_unstable();
    those.sort_unstable();
    let nanoseconds = |found: Option<&Duration>| found.map_or(0, Duration::as_nanos);
    let middle = |sorted: &[Duration]| nanoseconds(sorted.get(sorted.len() / 2));
    let last = |sorted: &[Duration]| nanoseconds(sorted.last());
    let ratio = |this: u128, that: u128| {
        let hundredths = this * 100 / that.max(1);
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    };
    let typical = ratio(middle(&these), middle(&those));
    (typical, ratio(last(&these), last(&those)))
}

pub fn wait_for(events: &Receiver<Event>, wanted: fn(&Event) -> bool) -> Outcome<Event> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(event) = events.recv_timeout(left) else {
            return Err("what should have gone wrong did not".into());
        };
        if wanted(&event) {
            return Ok(event);
        }
    }
}

/// Private to the user, and removed with all that is in it.
pub struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    pub fn create() -> io::Result<TemporaryDirectory> {
        // The standard library's only source of randomness.
        let random = RandomState::new().build_hasher().finish();
        let path = std::env::temp_dir().join(format!("weave-wal-demo-{random:016x}"));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| {
            io::Error::other(format!("cannot create {}: {error}", path.display()))
        })?;
        Ok(TemporaryDirectory(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            let path = self.0.display();
            say(format_args!(
                "weave-wal demo: cannot remove {path}: {error}"
            ));
        }
    }
}
