//! What earlier processes have left in a client's directory, delivered beside its own log.

use std::time::{Duration, Instant};

use super::{LOOK_AGAIN, Worker};
use crate::directory::Directory;
use crate::directory::orphans;
use crate::drain::{Drain, Settled};
use crate::error::Result;
use crate::lock::{self, Adoption};
use crate::name::FileName;
use crate::replay::Progress;
use crate::sender::lane::MOST_OPEN;

/// How often the directory is searched for what other processes have left behind since.
const SEARCH_AGAIN: Duration = Duration::from_secs(30);

/// How often a client asks whether another one still delivers the leftovers.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Worker {
    /// One batch of what an earlier process has left in this directory. One file at a time: there
    /// may be thousands, and the log's timers come in between.
    pub(super) fn step_leftover(&mut self) -> Result<Progress> {
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
                let is_it = |drain: &Drain| drain.name() == Some(&name);
                let opened = match self.parked.iter().position(is_it) {
                    Some(at) => Some(self.parked.swap_remove(at)),
                    None => Drain::open(&directory, &name, false)?,
                };
                let Some(drain) = opened else {
                    return Ok(on_to_the_next);
                };
                self.leftover.insert(drain)
            }
        };
        drain.reads_ahead = self.own.as_ref().is_none_or(|own| own.ahead.is_none());
        if let Some(name) = drain.name().cloned() {
            drain.may_defer = self.deferred.may_wait(&directory, &name);
            drain.takes_others = self.leftover_replay.flows() || self.refused.is_alone(&name);
        }
        // As far as it was when its turn began: somebody may write to it all the time.
        let end = self.leftover_end.take();
        let end = end.map_or_else(|| drain.foreign_end(), Ok);
        let reached = end.as_ref().map_or(0, |end| end.offset);
        let stepped = end.and_then(|end| {
            let progress = self.leftover_replay.step(drain, end, &mut self.desk)?;
            let goes_on = matches!(progress, Progress::Settled(_));
            self.leftover_end = goes_on.then_some(end);
            Ok(progress)
        });
        match stepped {
            Ok(Progress::Idle) => {}
            Ok(Progress::Deferred) => {
                let Some(name) = drain.name().cloned() else {
                    return Ok(Progress::Deferred);
                };
                if self.deferred.note(&name) {
                    let has_room = self.parked.len() < MOST_OPEN;
                    let drain = self.leftover.take();
                    self.parked
                        .extend(drain.filter(|drain| has_room && drain.has_decided()));
                    self.leftovers.push_back(name);
                    return Ok(on_to_the_next);
                }
                // The others have been first. It stays open, so that nothing of it goes twice.
                self.leftovers_from = Some(Instant::now() + LOOK_AGAIN);
                return Ok(Progress::Deferred);
            }
            Ok(progress) => {
                if let (Progress::Settled(settled), Some(name)) = (&progress, drain.name()) {
                    self.refused.settled(name, settled.delivered);
                }
                return Ok(progress);
            }
            Err(error) => {
                // The next search finds it again; but what is delivered already is not sent again
                // because its checkpoint failed.
                let is_parked = drain.lacks_letters() && self.parked.len() < MOST_OPEN;
                let closed = |drain: &mut Drain| is_parked || !drain.has_decided();
                let leftover = self.leftover.take_if(closed);
                self.parked.extend(leftover.filter(|_| is_parked));
                return Err(error);
            }
        }
        if let Some(mut done) = self.leftover.take() {
            let name = done.name().cloned();
            if let Some(name) = &name {
                self.deferred.forget(name);
            }
            match done.foreign_end()?.offset > reached {
                true => self.grown.extend(name),
                false => drop(done.remove_foreign()?),
            }
        }
        Ok(on_to_the_next)
    }

    fn next_leftover(&mut self, directory: &Directory) -> Result<Option<FileName>> {
        if let Some(name) = self.leftovers.pop_front() {
            return Ok(Some(name));
        }
        let is_due = self
            .searched
            .is_none_or(|searched| searched.elapsed() >= SEARCH_AGAIN);
        if !is_due && !self.grown.is_empty() {
            self.leftovers.extend(self.grown.drain(..));
            return Ok(self.leftovers.pop_front());
        }
        self.adopted = None;
        if !is_due {
            return Ok(None);
        }
        let now = Instant::now();
        let adopted = lock::adopt(directory);
        if matches!(adopted, Adoption::Taken) {
            self.leftovers_from = Some(now + ASK_AGAIN);
            return Ok(None);
        }
        self.searched = Some(now);
        // What is left of it does no harm.
        let _ = orphans::remove(directory, orphans::YOUNG);
        self.grown.clear();
        let mut names = directory.logs()?;
        self.refused.put_last(&mut names);
        self.leftovers = names.into();
        self.leftovers.retain(|name| !self.desk.log.is_own(name));
        let first = self.leftovers.pop_front();
        self.adopted = first.is_some().then_some(adopted);
        Ok(first)
    }
}
