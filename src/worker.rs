//! The one thread, "weave-wal": timed writes and syncs, rotation, and the replay.
//!
//! The thread is never stuck in a request. minreq runs a request with a deadline on a short-lived
//! thread anyway; here the answer comes back as a message, and until it does the thread keeps the
//! log's timers and serves `flush` and `finish`. So a server that hangs delays no sync.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::checkpoint;
use crate::desk::Desk;
use crate::directory::Directory;
use crate::drain::{Drain, Settled};
use crate::error::{Error, Result};
use crate::log::OwnFile;
use crate::name::{Extension, FileName};
use crate::replay::{Host, Progress, Replay};
use crate::report::Event;
use crate::sys;

/// How long until a file that somebody else delivers, or storage that failed, is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often what is held back is looked at again: an end may have come.
const LOOK_AT_HELD: Duration = Duration::from_millis(500);

/// How often the directory is searched for what other processes have left behind since.
const SEARCH_AGAIN: Duration = Duration::from_secs(30);

pub(crate) struct Worker {
    pub desk: Desk,
    pub replay: Replay,
    /// The own file that is being delivered.
    pub own: Option<Drain>,
    pub leftover: Option<Drain>,
    /// Leftovers have a state of their own: what is wrong with them holds nothing else up.
    pub leftover_replay: Replay,
    pub leftovers: VecDeque<FileName>,
    /// Leftovers that have let the others go first.
    pub deferred: BTreeSet<FileName>,
    pub searched: Option<Instant>,
}

impl Worker {
    /// Runs; should it ever panic, the callers go on without it and are told so.
    pub fn guarded(self) {
        let log = Arc::clone(&self.desk.log);
        let board = Arc::clone(&self.desk.board);
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            log.leave_unattended();
            let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
            board.last_error = Some(Error::Stopped("it has panicked".to_owned()).to_string());
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
            // Somebody may have come in while a request was out: another turn first.
            if !self.desk.hurry {
                self.desk.answer_flushes();
                self.desk.wait(next);
            }
        }
        self.tidy();
    }

    /// Removes own files that are delivered to their end, without a request.
    fn tidy(&mut self) {
        let Some(directory) = self.desk.directory.clone() else {
            return;
        };
        while let Some(file) = self.desk.log.oldest_file().filter(|file| file.sealed) {
            let drain = match self.own.take() {
                Some(drain) if drain.name() == Some(&file.name) => Some(drain),
                _ => Drain::open(&directory, &file.name, true).unwrap_or_default(),
            };
            match drain {
                Some(drain) if drain.offset() >= file.end.offset() => {
                    // What cannot be removed now is removed by the next one who looks.
                    if drain.remove().is_err() {
                        return;
                    }
                    self.desk.log.forget(&file.name);
                }
                drain => {
                    self.own = drain;
                    return;
                }
            }
        }
    }

    /// Sends what can be sent now: a batch of the own log, a batch of a leftover. Returns when to
    /// come back if nothing happens before.
    fn turn(&mut self) -> Option<Instant> {
        self.desk.server.as_ref()?;
        let own = match blocked(&self.replay) {
            None => {
                let step = self.step_own();
                self.come_back(step, |worker| worker.replay.next_attempt())
            }
            at => at,
        };
        if self.desk.closing {
            return own;
        }
        let leftover = match blocked(&self.leftover_replay) {
            None => {
                let step = self.step_leftover();
                self.come_back(step, |worker| worker.leftover_replay.next_attempt())
            }
            at => at,
        };
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
        if self.leftover_replay.paused().is_some() {
            if let Some(drain) = self.leftover.take_if(|drain| drain.batch.is_none()) {
                self.leftovers.extend(drain.name().cloned());
            }
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
                    self.desk.own_position(file.base + file.end.offset());
                    continue;
                }
                let checkpoint = directory.file(&file.name, Extension::Checkpoint);
                let delivered = checkpoint::read(&checkpoint).min(file.end.offset());
                self.desk.own_position(file.base + delivered);
                if delivered < file.end.offset() || file.sealed {
                    return Err(Error::Stopped(format!(
                        "{} is being delivered by another process",
                        path.display()
                    )));
                }
                return Ok(Progress::Idle);
            };
            // A file that was written anew can begin with what is delivered already.
            drain.skip_to(self.desk.log.delivered().saturating_sub(file.base));
            let end = Drain::own_end(file.end, file.sealed);
            let progress = self.replay.step(drain, end, &mut self.desk)?;
            let offset = drain.offset();
            self.desk.own_position(file.base + offset);
            if let Progress::Settled(settled) = progress {
                self.desk.board().own_records += settled.records;
            }
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
        self.desk.own_position(file.base + file.end.offset());
        self.desk.board().settled.corrupt += 1;
        self.desk.tell(Event::Corrupt {
            path: Some(directory.file(&file.name, Extension::Jsonl)),
            offset,
            bytes: file.end.offset() - offset,
            reason: "the file is shorter than what was written to it".to_owned(),
        });
    }

    fn step_memory(&mut self) -> Result<Progress> {
        let synced = self.desk.log.position().synced;
        let drain = match &mut self.own {
            Some(drain) => drain,
            None => self.own.insert(Drain::memory(Arc::clone(&self.desk.log))),
        };
        let end = crate::batch::End {
            offset: synced,
            is_final: false,
        };
        let progress = self.replay.step(drain, end, &mut self.desk)?;
        self.desk.own_position(drain.offset());
        if let Progress::Settled(settled) = progress {
            self.desk.board().own_records += settled.records;
        }
        Ok(progress)
    }

    /// One batch of what an earlier process has left in this directory. One file at a time: there
    /// may be thousands, and the log's timers come in between.
    fn step_leftover(&mut self) -> Result<Progress> {
        let Some(directory) = self.desk.directory.clone() else {
            return Ok(Progress::Idle);
        };
        let on_to_the_next = Progress::Settled(Settled::default());
        let drain = match &mut self.leftover {
            Some(drain) => drain,
            None => {
                let Some(name) = self.next_leftover(&directory)? else {
                    return Ok(Progress::Idle);
                };
                let Some(mut drain) = Drain::open(&directory, &name, false)? else {
                    return Ok(on_to_the_next);
                };
                drain.may_defer = !self.leftovers.is_empty() && !self.deferred.contains(&name);
                self.leftover.insert(drain)
            }
        };
        let stepped = drain
            .foreign_end()
            .and_then(|end| self.leftover_replay.step(drain, end, &mut self.desk));
        match stepped {
            Ok(Progress::Idle) => {}
            Ok(Progress::Deferred) => {
                let deferred = self.leftover.take();
                let name = deferred.as_ref().and_then(Drain::name).cloned();
                self.deferred.extend(name.clone());
                self.leftovers.extend(name);
                return Ok(on_to_the_next);
            }
            Ok(progress) => return Ok(progress),
            Err(error) => {
                // The next search finds it again; but what is delivered already is not sent again
                // because its checkpoint failed.
                self.leftover.take_if(|drain| drain.batch.is_none());
                return Err(error);
            }
        }
        if let Some(done) = self.leftover.take() {
            done.remove_foreign()?;
        }
        Ok(on_to_the_next)
    }

    fn next_leftover(&mut self, directory: &Directory) -> Result<Option<FileName>> {
        let due = self
            .searched
            .is_none_or(|searched| searched.elapsed() >= SEARCH_AGAIN);
        if self.leftovers.is_empty() && due {
            self.searched = Some(Instant::now());
            self.leftovers = directory.logs()?.into();
        }
        while let Some(name) = self.leftovers.pop_front() {
            if !self.desk.log.is_own(&name) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Puts the replay's state on the board.
    fn post(&mut self) {
        let mut board = self.desk.board();
        board.requests = self.replay.requests() + self.leftover_replay.requests();
        board.retries = self.replay.retries() + self.leftover_replay.retries();
        let paused = self.replay.paused().or(self.leftover_replay.paused());
        board.paused = paused.map(str::to_owned);
        board.next_attempt = self.replay.next_attempt();
        let error = self.leftover_replay.take_error();
        if let Some(error) = self.replay.take_error().or(error) {
            board.last_error = Some(error);
        }
    }
}

/// When the next request may go out, if that is not yet.
fn blocked(replay: &Replay) -> Option<Instant> {
    replay.next_attempt().filter(|&at| at > Instant::now())
}
