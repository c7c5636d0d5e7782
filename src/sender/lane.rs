//! One directory of logs among those that a sender delivers: which file is next, which is waited
//! for.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::batch::{BatchLimits, End};
use crate::config;
use crate::directory::Directory;
use crate::drain::{Drain, Settled};
use crate::error::{Error, Result};
use crate::name::{Extension, FileName};
use crate::replay::host::Host;
use crate::replay::{HOLD, Progress, Replay};
use crate::report::Event;
use crate::sender::deferral::Deferrals;
use crate::sender::refused::Refused;

/// So many files stay open while they wait for something: a process has only so many descriptors,
/// and a request or a dead letter needs one, too.
pub(crate) const MOST_OPEN: usize = 100;

/// One directory of logs, and the state of sending its project.
pub(crate) struct Lane {
    pub directory: Directory,
    pub replay: Replay,
    drain: Option<Drain>,
    /// How far the open file is delivered in this run.
    end: Option<End>,
    /// The next one last.
    todo: Vec<FileName>,
    /// Open files with calls that are held back or wait for another file, or with dead letters that
    /// cannot be written, and those of them to be looked at again.
    held: Vec<Drain>,
    to_release: Vec<Drain>,
    /// Held by another process, or not to be had: looked at again.
    skipped: Vec<FileName>,
    refused: Refused,
    pub error: Option<String>,
    deferred: Deferrals,
    /// So many files may stay open while they wait: the share of one lane. None: the lanes are so
    /// many that the one that is being delivered is closed after each batch, too.
    pub room: usize,
    /// That one, and how far it is delivered in this run.
    closed: Option<(FileName, End)>,
}

impl Lane {
    pub fn new(directory: Directory) -> Lane {
        let limits = BatchLimits {
            records: config::BATCH_RECORDS,
            bytes: config::BATCH_BYTES,
            record: config::READ_LIMIT,
        };
        Lane {
            directory,
            replay: Replay::new(limits),
            drain: None,
            end: None,
            todo: Vec::new(),
            held: Vec::new(),
            to_release: Vec::new(),
            skipped: Vec::new(),
            refused: Refused::default(),
            error: None,
            deferred: Deferrals::default(),
            room: MOST_OPEN,
            closed: None,
        }
    }

    /// The files that this run has not delivered.
    pub fn unfinished(&self) -> Vec<&FileName> {
        let mut names = self.open();
        names.extend(&self.skipped);
        names.extend(self.todo.iter().rev());
        names
    }

    /// The files that are open.
    fn open(&self) -> Vec<&FileName> {
        let open = self.drain.iter().chain(&self.held).chain(&self.to_release);
        open.filter_map(Drain::name).collect()
    }

    /// These are the files that there are now. Those that have not had their turn go before those
    /// that have, and the open one is delivered as far as it was: somebody may write to them all the
    /// time.
    pub fn found(&mut self, mut names: Vec<FileName>) {
        // An open file is not one more to do; it would be counted twice.
        let known: BTreeSet<_> = self.open().into_iter().chain(&self.todo).collect();
        names.retain(|name| !known.contains(name));
        self.refused.put_last(&mut names);
        names.reverse();
        names.append(&mut self.todo);
        self.todo = names;
        self.skipped.clear();
        self.to_release.append(&mut self.held);
    }

    /// When calls have been held back for long enough.
    pub fn release_at(&self) -> Option<Instant> {
        let held = self.held.iter().filter(|drain| !self.is_deferred(drain));
        let released = held.filter_map(|drain| Some(drain.held_since? + HOLD));
        // One that has been released already waits for something else.
        released.filter(|at| *at > Instant::now()).min()
    }

    /// Sends one batch of the oldest file that has one. `None`: there is none, or none can be sent
    /// now. `alone`: no other lane has any.
    pub fn step(&mut self, desk: &mut dyn Host, alone: bool) -> Option<Settled> {
        let settled = self.step_file(desk, alone);
        if self.room == 0 {
            self.close_for_now();
        }
        settled
    }

    fn step_file(&mut self, desk: &mut dyn Host, alone: bool) -> Option<Settled> {
        if self
            .replay
            .next_attempt()
            .is_some_and(|at| at > Instant::now())
        {
            return None;
        }
        loop {
            let has_room = self.has_room();
            let (Some(drain), Some(end)) = (&mut self.drain, self.end) else {
                match self.open_next() {
                    true => continue,
                    false => return None,
                }
            };
            drain.reads_ahead = alone && self.room > 0;
            drain.may_hold = has_room;
            let is_alone = |name| self.refused.is_alone(name);
            drain.takes_others = self.replay.flows() || drain.name().is_some_and(is_alone);
            let stepped = self.replay.step(drain, end, desk);
            if let Some(error) = self.replay.take_error() {
                self.error = Some(error);
            }
            let removed = match stepped {
                Ok(Progress::Settled(settled)) => {
                    if let Some(name) = drain.name() {
                        self.refused.settled(name, settled.delivered);
                    }
                    return Some(settled);
                }
                Ok(Progress::Blocked) => {
                    // While our configuration is wrong, somebody with a better one may deliver.
                    if self.replay.paused().is_some() && drain.batch.is_none() {
                        if let Some(name) = drain.name().filter(|_| self.replay.refused_all()) {
                            self.refused.note(name);
                        }
                        self.skip_current();
                    }
                    return None;
                }
                Ok(Progress::Idle) => self.close_current(),
                Ok(Progress::Held(_)) => {
                    self.end = None;
                    self.held.extend(self.drain.take());
                    Ok(())
                }
                Ok(Progress::Deferred) => {
                    self.defer_current();
                    Ok(())
                }
                Err(error) if drain.lacks_letters() && has_room => {
                    self.end = None;
                    let mut others = self.held.iter().chain(&self.to_release);
                    let is_told = others.any(Drain::lacks_letters);
                    self.held.extend(self.drain.take());
                    match is_told {
                        true => Ok(()),
                        false => Err(error),
                    }
                }
                Err(error) if drain.has_decided() => {
                    // Perhaps it is delivered and only the checkpoint failed: kept, so that it is
                    // settled again and not sent again.
                    self.trouble(error, desk);
                    return None;
                }
                Err(error) => {
                    self.skip_current();
                    Err(error)
                }
            };
            if let Err(error) = removed {
                self.trouble(error, desk);
            }
        }
    }

    /// Opens the next file that can be had. `false`: there is none.
    fn open_next(&mut self) -> bool {
        // While calls are held back, their ends may have come. What waits for another file comes
        // behind all of them.
        self.open_again(false) || self.open_todo() || self.open_again(true)
    }

    fn open_again(&mut self, deferred: bool) -> bool {
        loop {
            let is_wanted = |drain: &Drain| self.is_deferred(drain) == deferred;
            let at = self.to_release.iter().position(is_wanted);
            let Some(at) = at else {
                return false;
            };
            let mut drain = self.to_release.remove(at);
            let may_wait = |name: &FileName| self.deferred.may_wait(&self.directory, name);
            drain.may_defer = drain.name().is_some_and(may_wait);
            match drain.foreign_end() {
                Ok(end) => {
                    self.drain = Some(drain);
                    self.end = Some(end);
                    return true;
                }
                Err(error) => {
                    self.error = Some(error.to_string());
                    self.held.push(drain);
                }
            }
        }
    }

    fn open_todo(&mut self) -> bool {
        while let Some(name) = self.todo.pop() {
            let opened = Drain::open(&self.directory, &name, false).and_then(|drain| match drain {
                Some(mut drain) => drain.foreign_end().map(|end| Some((drain, end))),
                None => Ok(None),
            });
            match opened {
                Ok(Some((mut drain, end))) => {
                    drain.may_defer = self.deferred.may_wait(&self.directory, &name);
                    let closed = self.closed.take().filter(|(closed, _)| *closed == name);
                    let end = closed.map_or(end, |(_, end)| end);
                    self.drain = Some(drain);
                    self.end = Some(end);
                    return true;
                }
                // Perhaps another sender has it; perhaps it is gone by now.
                Ok(None) => {
                    if self.directory.file(&name, Extension::Jsonl).is_file() {
                        self.skipped.push(name);
                    }
                }
                Err(error) => {
                    self.error = Some(error.to_string());
                    self.skipped.push(name);
                }
            }
        }
        false
    }

    /// The open file is delivered as far as it reached: removes it, if nobody writes to it.
    fn close_current(&mut self) -> Result<()> {
        self.end = None;
        let Some(drain) = self.drain.take() else {
            return Ok(());
        };
        if let Some(name) = drain.name() {
            self.deferred.forget(name);
        }
        drain.remove_foreign().map(drop)
    }

    /// May one more file stay open?
    fn has_room(&self) -> bool {
        self.held.len() + self.to_release.len() < self.room
    }

    /// Closes the open file, unless something would be lost with it: it is the next one again.
    fn close_for_now(&mut self) {
        if let Some(drain) = self.drain.take_if(|drain| !drain.has_decided()) {
            self.closed = drain.name().cloned().zip(self.end.take());
            self.todo.extend(drain.name().cloned());
        }
    }

    fn is_deferred(&self, drain: &Drain) -> bool {
        drain.name().is_some_and(|name| self.deferred.has(name))
    }

    /// The other files first: the open one comes behind them, and after that in the next pass.
    fn defer_current(&mut self) {
        self.end = None;
        let Some(drain) = self.drain.take() else {
            return;
        };
        let Some(name) = drain.name().cloned() else {
            return;
        };
        let is_first = self.deferred.note(&name);
        let keep = drain.has_decided() && self.has_room();
        match (keep, is_first) {
            (true, true) => self.to_release.push(drain),
            (true, false) => self.held.push(drain),
            (false, true) => self.todo.insert(0, name),
            (false, false) => self.skipped.push(name),
        }
    }

    fn skip_current(&mut self) {
        self.end = None;
        if let Some(name) = self.drain.take().as_ref().and_then(Drain::name) {
            self.skipped.push(name.clone());
        }
    }

    fn trouble(&mut self, error: Error, desk: &mut dyn Host) {
        let error = error.to_string();
        if self.error.replace(error.clone()).as_ref() != Some(&error) {
            desk.tell(Event::Degraded { error });
        }
    }
}

#[cfg(test)]
mod tests;
