//! The one thread, "weave-wal": timed writes and syncs, rotation, and the replay.
//!
//! The thread is never stuck in a request. minreq runs a request with a deadline on a short-lived
//! thread anyway; here the answer comes back as a message, and until it does the thread keeps the
//! log's timers and serves `flush` and `finish`. So a server that hangs delays no sync.

pub(crate) mod desk;
mod leftovers;
pub(crate) mod post;

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::desk::Desk;
use crate::batch::{BatchLimits, End};
use crate::checkpoint;
use crate::directory::Directory;
use crate::drain::Drain;
use crate::error::{Error, Result};
use crate::lock::Adoption;
use crate::log::OwnFile;
use crate::name::{Extension, FileName};
use crate::replay::backoff::uniform;
use crate::replay::host::Host;
use crate::replay::{Progress, Replay, random};
use crate::report::Event;
use crate::sender::deferral::Deferrals;
use crate::sender::refused::Refused;
use crate::sys;
use crate::threads;

/// How long until a file that somebody else delivers, or storage that failed, is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often what is held back is looked at again: an end may have come.
const LOOK_AT_HELD: Duration = Duration::from_millis(500);

/// How many batches of its own a client sends for each of the leftovers, while there are any.
const LIVE_FIRST: u32 = 3;

pub(crate) struct Worker {
    desk: Desk,
    replay: Replay,
    /// The own file that is being delivered.
    own: Option<Drain>,
    leftover: Option<Drain>,
    /// Leftovers have a state of their own: what is wrong with them holds nothing else up.
    leftover_replay: Replay,
    /// How far the open one is delivered before the next one has its turn.
    leftover_end: Option<End>,
    leftovers: VecDeque<FileName>,
    /// Those to which somebody has written meanwhile: they come behind all others.
    grown: Vec<FileName>,
    /// Leftovers with an end that waits, or with dead letters that cannot be written, of whose batch
    /// something is decided: what is known of that would be lost if they were closed.
    parked: Vec<Drain>,
    refused: Refused,
    deferred: Deferrals,
    searched: Option<Instant>,
    /// The right to deliver the leftovers, while there are any.
    adopted: Option<Adoption>,
    /// Leftovers are let be until then.
    leftovers_from: Option<Instant>,
    /// Own batches in a row for which leftovers have waited.
    passed_over: u32,
}

impl Worker {
    /// Leftovers are let be for a random time of up to `start_jitter`.
    pub fn new(desk: Desk, limits: BatchLimits, start_jitter: Duration) -> Worker {
        Worker {
            desk,
            replay: Replay::new(limits),
            own: None,
            leftover: None,
            leftover_replay: Replay::new(limits),
            leftover_end: None,
            leftovers: VecDeque::new(),
            grown: Vec::new(),
            parked: Vec::new(),
            refused: Refused::default(),
            deferred: Deferrals::default(),
            searched: None,
            adopted: None,
            leftovers_from: Some(Instant::now() + uniform(start_jitter, random())),
            passed_over: 0,
        }
    }

    /// Runs; should it ever panic, the callers go on without it and are told so.
    pub fn guarded(self) {
        let log = Arc::clone(&self.desk.log);
        let board = Arc::clone(&self.desk.board);
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            log.leave_unattended();
            threads::lock(&board).last_error =
                Some(Error::Stopped("it has panicked".to_owned()).to_string());
        }
    }

    /// Runs until it is told to end.
    fn run(mut self) {
        sys::block_sigxfsz();
        while !(self.desk.closing && self.desk.flushes.is_empty()) {
            if std::mem::take(&mut self.desk.hurry) {
                self.replay.hurry();
            }
            let next = self.turn();
            self.post();
            if self.desk.closing {
                self.tidy();
            }
            self.desk.answer_flushes();
            if self.desk.closing && self.desk.flushes.is_empty() {
                // Nobody waits any more: nothing is sat out with the locks in hand.
                break;
            }
            // Somebody may have come in while a request was out: another turn first.
            if !self.desk.hurry {
                if next.is_none_or(|at| at > Instant::now()) {
                    self.desk.post = None;
                }
                self.desk.wait(next);
            }
        }
        self.tidy();
    }

    /// Removes files that are delivered to their end, without a request.
    fn tidy(&mut self) {
        let Some(directory) = self.desk.directory.clone() else {
            return;
        };
        let leftover = self.leftover.take_if(|drain| drain.batch.is_none());
        // What cannot be removed now is removed by the next one who looks.
        let _ = leftover.map(Drain::remove_foreign);
        while let Some(file) = self.desk.log.oldest_file().filter(|file| file.sealed) {
            let drain = match self.own.take() {
                Some(drain) if drain.name() == Some(&file.name) => Some(drain),
                _ => match Drain::open(&directory, &file.name, true) {
                    Ok(drain) => drain,
                    Err(_) => return,
                },
            };
            let is_gone = match drain {
                Some(drain) if drain.offset() >= file.end.offset() => {
                    // Who only writes learns here that others have delivered it,
                    self.desk.log.set_delivered(file.base + file.end.offset());
                    drain.remove().is_ok()
                }
                // and here that they have removed it, too.
                None if !directory.file(&file.name, Extension::Jsonl).exists() => {
                    self.desk.log.set_delivered(file.base + file.end.offset());
                    true
                }
                drain => {
                    self.own = drain;
                    false
                }
            };
            if !is_gone {
                return;
            }
            self.desk.log.forget(&file.name);
        }
    }

    /// Sends what can be sent now: a batch of the own log, a batch of a leftover. Returns when to
    /// come back if nothing happens before.
    fn turn(&mut self) -> Option<Instant> {
        self.desk.server.as_ref()?;
        let mut is_busy = false;
        let synced = self.desk.log.synced();
        let own = match later(self.replay.next_attempt()) {
            None => {
                let step = self.step_own();
                if let Ok(Progress::Settled(settled)) = &step {
                    self.desk.board().own_records += settled.records;
                    is_busy = true;
                }
                self.come_back(step, |worker| worker.replay.next_attempt())
            }
            at => at,
        };
        if self.desk.closing {
            return own;
        }
        if is_busy && self.passed_over < LIVE_FIRST {
            self.passed_over += 1;
            return own;
        }
        self.passed_over = 0;
        let held = later(self.leftovers_from).or(later(self.leftover_replay.next_attempt()));
        let leftover = match held {
            None => {
                let step = self.step_leftover();
                let at = self.come_back(step, |worker| worker.leftover_replay.next_attempt());
                at.or(later(self.leftovers_from))
            }
            at => at,
        };
        if own.is_none() && !self.desk.closing && self.desk.log.synced() > synced {
            // What came while a request for a leftover was out does not wait for the next one.
            return Some(Instant::now());
        }
        own.into_iter().chain(leftover).min()
    }

    /// Counts a step and says when the next one is due. A failed one is told and tried again.
    fn come_back(
        &mut self,
        step: Result<Progress>,
        next_attempt: impl Fn(&Worker) -> Option<Instant>,
    ) -> Option<Instant> {
        match step {
            Ok(Progress::Idle | Progress::Deferred) => None,
            Ok(Progress::Held(until)) => Some(until.min(Instant::now() + LOOK_AT_HELD)),
            Ok(Progress::Settled(settled)) => {
                self.desk.board().settled += settled;
                Some(Instant::now())
            }
            Ok(Progress::Blocked) => {
                self.let_go();
                next_attempt(self)
            }
            Err(error) => {
                self.desk.trouble(&error);
                Some(Instant::now() + LOOK_AGAIN)
            }
        }
    }

    /// While our configuration is wrong, somebody with a better one may deliver our files.
    fn let_go(&mut self) {
        if self.replay.paused().is_some() {
            self.own
                .take_if(|drain| drain.batch.is_none() && drain.name().is_some());
        }
        let is_free = self
            .leftover
            .as_ref()
            .is_none_or(|drain| drain.batch.is_none());
        if self.leftover_replay.paused().is_some() && is_free {
            let leftover = self.leftover.take();
            if let Some(name) = leftover.as_ref().and_then(Drain::name) {
                if self.leftover_replay.refused_all() {
                    self.refused.note(name);
                }
            }
            self.leftovers.clear();
            self.adopted = None;
            self.searched = None;
        }
    }

    fn step_own(&mut self) -> Result<Progress> {
        let Some(directory) = self.desk.directory.clone() else {
            return self.step_memory();
        };
        loop {
            let Some(file) = self.desk.log.oldest_file() else {
                return Ok(Progress::Idle);
            };
            if self.own.as_ref().and_then(Drain::name) != Some(&file.name) {
                self.own = Drain::open(&directory, &file.name, true)?;
            }
            let Some(drain) = &mut self.own else {
                if self.desk.log.replace_missing(&file.name)? {
                    continue;
                }
                // Somebody else delivers it, or has done so already.
                let path = directory.file(&file.name, Extension::Jsonl);
                if file.sealed && !path.exists() {
                    self.desk.log.forget(&file.name);
                    self.desk.log.set_delivered(file.base + file.end.offset());
                    continue;
                }
                let checkpoint = directory.file(&file.name, Extension::Checkpoint);
                let delivered = checkpoint::read(&checkpoint).min(file.end.offset());
                self.desk.log.set_delivered(file.base + delivered);
                if delivered < file.end.offset() || file.sealed {
                    let other = io::Error::other("another process is at it; the records are kept");
                    return Err(Error::from_io("deliver", &path, other));
                }
                return Ok(Progress::Idle);
            };
            // A file that was written anew can begin with what is delivered already.
            drain.skip_to(self.desk.log.delivered().saturating_sub(file.base));
            drain.reads_ahead = self.leftover.is_none();
            drain.takes_others = self.replay.flows();
            let end = Drain::own_end(file.end, file.sealed);
            let progress = self.replay.step(drain, end, &mut self.desk)?;
            let offset = drain.offset();
            // What another process has delivered behind the end was cut off and stands elsewhere,
            // perhaps behind what nobody has delivered.
            let delivered = offset.min(file.end.offset());
            self.desk.log.set_delivered(file.base + delivered);
            if progress != Progress::Idle || !file.sealed {
                return Ok(progress);
            }
            if offset < file.end.offset() {
                self.report_cut(&directory, &file, offset);
            }
            if let Some(drain) = self.own.take() {
                drain.remove()?;
            }
            self.desk.log.forget(&file.name);
        }
    }

    /// Somebody has cut an own file: what stood there is gone, and nobody may think it delivered.
    fn report_cut(&mut self, directory: &Directory, file: &OwnFile, offset: u64) {
        self.desk.log.set_delivered(file.base + file.end.offset());
        self.desk.board().settled.corrupt += 1;
        self.desk.tell(Event::Corrupt {
            path: Some(directory.file(&file.name, Extension::Jsonl)),
            offset,
            bytes: file.end.offset() - offset,
            reason: "the file is shorter than what was written to it".to_owned(),
        });
    }

    fn step_memory(&mut self) -> Result<Progress> {
        let synced = self.desk.log.synced();
        let drain = match &mut self.own {
            Some(drain) => drain,
            None => self.own.insert(Drain::memory(Arc::clone(&self.desk.log))),
        };
        let end = End {
            offset: synced,
            is_final: false,
        };
        let progress = self.replay.step(drain, end, &mut self.desk)?;
        self.desk.log.set_delivered(drain.offset());
        Ok(progress)
    }

    /// Puts the replay's state on the board.
    fn post(&mut self) {
        let mut board = self.desk.board();
        board.requests = self.replay.requests() + self.leftover_replay.requests();
        board.retries = self.replay.retries() + self.leftover_replay.retries();
        let paused = self.replay.paused().or(self.leftover_replay.paused());
        board.paused = paused.map(str::to_owned);
        board.next_attempt = self.replay.next_attempt();
        board.resent = self.replay.resent() + self.leftover_replay.resent();
        let open = self.leftover.as_ref().and_then(Drain::name);
        board.leftover_files = (self.leftovers.len() + usize::from(open.is_some())) as u64;
        board.leftover_begun = open.or(self.leftovers.front()).and_then(FileName::begun);
        let error = self.leftover_replay.take_error();
        if let Some(error) = self.replay.take_error().or(error) {
            board.last_error = Some(error);
        }
    }
}

/// The time, if it has not come yet.
fn later(at: Option<Instant>) -> Option<Instant> {
    at.filter(|&at| at > Instant::now())
}
