//! From options to a running client: the log, the thread, and what both share.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use super::{Client, Inner};
use crate::batch::BatchLimits;
use crate::client::age::Marks;
use crate::client::events::Events;
use crate::config::policy::Storage;
use crate::config::{self, Config};
use crate::directory::Directory;
use crate::directory::budget::Budget;
use crate::error::{Error, IoContext, Result};
use crate::http::Server;
use crate::log::{Limits, Log};
use crate::sender::holdoff::HoldOff;
use crate::threads;
use crate::worker::Worker;
use crate::worker::desk::{Board, Desk, Message};

impl Client {
    /// Opens a client: makes its directory and its first file, and starts its thread. Leftovers
    /// of earlier processes in the same directory are delivered too.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting that cannot be used; [`Error::Io`] if the directory or the
    /// file cannot be made; [`Error::Stopped`] if the thread cannot be started.
    pub fn open(config: Config) -> Result<Client> {
        config.check()?;
        let (url, key) = (&config.server, config.api_key.as_deref());
        let server = || Server::new(url, key, config.request_timeout);
        let server = config.sender.then(server).transpose()?;
        // A program that changes its working directory keeps its log.
        let root = std::path::absolute(&config.root).doing("find", &config.root)?;
        let directory = match config.storage {
            Storage::Disk => {
                let path = root.join(&config.entity).join(&config.project);
                let directory = Directory::create(&path)?;
                directory.sync_way()?;
                Some(directory)
            }
            Storage::Memory => None,
        };
        let hold_off = match (&directory, &server) {
            (Some(_), Some(server)) => Some(HoldOff::new(&root, server.url())),
            _ => None,
        };
        let events = Events::new(config.on_event.clone());
        let (outbox, inbox) = mpsc::channel();
        let waker = outbox.clone();
        let log = Arc::new(Log::open(
            directory.clone(),
            limits(&config),
            Box::new(move || {
                // A thread that is gone cannot be woken; `flush` and `finish` say so.
                let _ = waker.send(Message::Wake);
            }),
        )?);
        let board = Arc::new(Mutex::new(Board::default()));
        let desk = Desk {
            log: Arc::clone(&log),
            board: Arc::clone(&board),
            directory: directory.clone(),
            server,
            events: Arc::clone(&events),
            hold_off,
            marks: Marks::default(),
            inbox,
            outbox: outbox.clone(),
            flushes: Vec::new(),
            post: None,
            answer: None,
            closing: false,
            hurry: false,
        };
        let worker = Worker::new(desk, batch_limits(&config), config.start_jitter);
        threads::start("weave-wal", Box::new(move || worker.guarded()))
            .map_err(|error| Error::Stopped(format!("it could not be started: {error}")))?;
        Ok(Client {
            inner: Arc::new(Inner {
                project_id: format!("{}/{}", config.entity, config.project),
                record_limit: config.record_limit,
                budget: Budget::new(root, config.disk_budget, config.free_space_floor),
                when_full: config.when_full,
                log,
                board,
                events,
                seen: Mutex::default(),
                directory,
                thread: outbox,
            }),
        })
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        durability: config.durability,
        sync_interval: config.sync_interval,
        // A file that is being written to can neither be removed nor dropped: it must not be what
        // fills the budget.
        segment_bytes: config.segment_bytes.min(config.disk_budget.div_ceil(8)),
        queue_records: config.queue_records as u64,
        queue_bytes: config.queue_bytes,
        queue_wait: config.queue_wait,
    }
}

fn batch_limits(config: &Config) -> BatchLimits {
    BatchLimits {
        // "No limit" is often the largest number, and two batches are counted as well.
        records: config.batch_records.min(usize::MAX / 2),
        bytes: config.batch_bytes,
        record: config.record_limit.max(config::READ_LIMIT),
    }
}
