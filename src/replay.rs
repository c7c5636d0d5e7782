//! Sending what is in a log, step by step, and what the three classes of failure come to.
//!
//! - *Transient* (no connection, 5xx and the like): the same records again, with exponential
//!   backoff and full jitter, for ever.
//! - *Paused* (wrong key, wrong URL): all is kept, a probe goes out at a slow pace.
//! - *Rejected* (400, 422 and the like): the batch is halved until the bad record stands alone.
//!   If the server refuses whatever it is given, the fault is not in the records: pause.

pub(crate) mod backoff;
pub(crate) mod host;
mod size;

use std::io;
use std::time::{Duration, Instant};

use self::backoff::Backoff;
use self::host::Host;
use self::size::Size;
use crate::batch::{Batch, BatchLimits, End, FAULTS, Verdict};
use crate::delivery::{
    Delivery, FULL_PATIENCE_EVERY, PATIENCE, PATIENCE_OF_A_PROBE, Stop, TOO_OFTEN,
};
use crate::drain::{Drain, Settled};
use crate::error::Result;
use crate::report::Event;
use crate::sys;

/// How long a call that still runs is held back where a start sent alone costs a request of its
/// own: most calls have ended by then.
pub(crate) const HOLD: Duration = Duration::from_millis(1500);

/// What one step came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is nothing to send.
    Idle,
    /// A batch has left the log.
    Settled(Settled),
    /// Nothing can be sent before [`Replay::next_attempt`].
    Blocked,
    /// Other logs first.
    Deferred,
    /// Calls that still run are held back, at most until then. Other logs need not wait.
    Held(Instant),
}

/// The state of sending to one server.
pub(crate) struct Replay {
    limits: BatchLimits,
    size: Size,
    /// Requests in a row that were out and came to no answer.
    unanswered: u32,
    transient: Backoff,
    probe: Backoff,
    next_attempt: Option<Instant>,
    /// The server has taken something, and nothing has failed since.
    flows: bool,
    /// The server itself has said when to come back.
    retry_after: bool,
    paused: Option<String>,
    /// It is, because every record of a log was refused: another log may hold better ones.
    refused_all: bool,
    /// How often that was so since it took something.
    refusals: u32,
    /// One record was refused alone and given up, and nothing was taken since.
    gave_up_one: bool,
    /// Somebody waits: hold nothing back.
    hurried: bool,
    /// The project takes whole calls only; `None`: not looked yet.
    whole_calls: Option<bool>,
    last_error: Option<String>,
    requests: u64,
    retries: u64,
    resent: u64,
}

impl Replay {
    pub fn new(limits: BatchLimits) -> Replay {
        Replay {
            size: Size::new(limits.records),
            unanswered: 0,
            limits,
            transient: Backoff::transient(),
            probe: Backoff::probe(),
            next_attempt: None,
            flows: false,
            retry_after: false,
            paused: None,
            refused_all: false,
            refusals: 0,
            gave_up_one: false,
            hurried: false,
            whole_calls: None,
            last_error: None,
            requests: 0,
            retries: 0,
            resent: 0,
        }
    }

    /// When the next request may go out; `None`: at once.
    pub fn next_attempt(&self) -> Option<Instant> {
        self.next_attempt
    }

    /// Why nothing is sent until somebody has looked at the configuration.
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    /// Has the server taken what it was given last?
    pub fn flows(&self) -> bool {
        self.flows
    }

    /// Was every record of the log refused that was tried last?
    pub fn refused_all(&self) -> bool {
        self.refused_all
    }

    /// What has failed since this was last asked.
    pub fn take_error(&mut self) -> Option<String> {
        self.last_error.take()
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Records in requests that were out and came to no answer: they are sent again.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Sends and settles one batch of a log.
    pub fn step(&mut self, drain: &mut Drain, end: End, host: &mut dyn Host) -> Result<Progress> {
        if drain.batch.is_none() && end.offset <= drain.offset() {
            return Ok(Progress::Idle);
        }
        if let Some(wait) = host.held_off() {
            let wait = self.transient.clone().asked(wait, random());
            self.next_attempt = Some(Instant::now() + wait);
            self.retry_after = true;
            self.last_error = Some("the server has asked to wait".to_owned());
            drain.ahead = None;
            return Ok(Progress::Blocked);
        }
        let limits = BatchLimits {
            records: self.size.records(),
            ..self.limits
        };
        drain.fill(end, &limits)?;
        let Some(mut batch) = drain.batch.take() else {
            return Ok(Progress::Idle);
        };
        if batch.end == drain.offset() {
            return Ok(Progress::Idle);
        }
        let was_given_up = batch.gives_up;
        let ran = self.run(&mut batch, drain, end, &limits, host);
        // It may wait for long now.
        batch.calls = None;
        if ran.is_ok() && !was_given_up {
            // That is decided, whether or not its letter can be written.
            self.gave_up_one |= batch.refused > 0 && !batch.is_taken();
        }
        drain.batch = Some(batch);
        let stop = match ran {
            Ok(ahead) => {
                let settled = drain.settle(end, &mut |event| host.tell(event))?;
                // Not before: if that fails, many logs may be in this state.
                drain.ahead = ahead;
                return Ok(Progress::Settled(settled));
            }
            Err(stop) => stop,
        };
        let front = drain.settle_front(end, &mut |event| host.tell(event));
        let stopped = match stop {
            Stop::Unreadable(error) => {
                let front = front?;
                // Cut since the batch was read, it is read anew. A read that merely failed is
                // repeated: what the batch knows of its records keeps them from going twice.
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    drain.doubt();
                    drain.batch = None;
                }
                // If there was something in front, it is said when the rest is read again.
                return match front.records {
                    0 => Err(drain.read_error(error)),
                    _ => Ok(Progress::Settled(front)),
                };
            }
            Stop::Defer => Progress::Deferred,
            Stop::Hold => {
                let since = *drain.held_since.get_or_insert_with(Instant::now);
                drain.batch.take_if(nothing_delivered);
                Progress::Held(since + HOLD)
            }
            stop => {
                self.block(stop, drain, host);
                Progress::Blocked
            }
        };
        Ok(match front? {
            front if front.records > 0 => Progress::Settled(front),
            _ => stopped,
        })
    }

    /// Sends a batch, and more of the log with it where that is needed. Returns what was read
    /// ahead meanwhile.
    fn run(
        &mut self,
        batch: &mut Batch,
        drain: &mut Drain,
        end: End,
        limits: &BatchLimits,
        host: &mut dyn Host,
    ) -> std::result::Result<Option<(u64, Batch)>, Stop> {
        // Only while answers come: what is read ahead takes memory until then.
        let reads_ahead = drain.reads_ahead && self.flows;
        let mut ahead = None;
        // What has come while calls were held back: their ends may be among it.
        let mut extend = drain.held_since.is_some();
        // Of one that is given up all is decided, and only its letters or its checkpoint failed: what
        // came behind it would not be looked at, or not be buried, any more.
        let mut may_extend = batch.end < end.offset && !batch.gives_up;
        loop {
            if extend && may_extend {
                // Where batches have become small, its requests do so nevertheless.
                let more = drain.read_batch(batch.end, end, &self.limits)?;
                // If all are refused, as many more as it takes to believe that.
                let most = match batch.refused {
                    0 => 2 * self.limits.records,
                    _ => 2 * self.limits.records.max(PATIENCE),
                };
                let enough = batch.entries.len() >= most || batch.damages.len() >= 2 * FAULTS;
                may_extend = batch.extend(more) && batch.end < end.offset && !enough;
            }
            let start = batch.end;
            let mut meanwhile = || {
                drain.give_back_some();
                if reads_ahead && ahead.is_none() {
                    ahead = drain.peek(start, end, limits);
                }
            };
            match self.deliver(batch, drain, end, may_extend, host, &mut meanwhile) {
                Err(Stop::Extend) => extend = true,
                ran => return ran.map(|()| ahead),
            }
        }
    }

    fn deliver(
        &mut self,
        batch: &mut Batch,
        drain: &Drain,
        end: End,
        may_extend: bool,
        host: &mut dyn Host,
        meanwhile: &mut dyn FnMut(),
    ) -> std::result::Result<(), Stop> {
        let knew = *self
            .whole_calls
            .get_or_insert_with(|| drain.takes_whole_calls());
        let mut whole_calls = knew;
        // More is waiting behind this batch, or nothing will ever come: no end to wait for.
        let is_last = batch.end >= end.offset && !end.is_final;
        let held = drain
            .held_since
            .is_some_and(|since| since.elapsed() >= HOLD);
        // A few at the end of a log, with nothing to come that could show what the server takes.
        let is_rest = end.is_final && batch.end >= end.offset && batch.entries.len() < PATIENCE;
        let batch_is_taken = batch.is_taken();
        let refused_before = batch.refused;
        let mut delivery = Delivery {
            source: drain.bytes(),
            batch,
            host,
            meanwhile,
            whole_calls: &mut whole_calls,
            may_hold: drain.may_hold && is_last && !held && !self.hurried,
            body_limit: self.limits.bytes,
            records: self.size.records(),
            may_extend,
            may_defer: drain.may_defer,
            requests: 0,
            carried: 0,
            taken: 0,
            answered: false,
            unanswered: self.unanswered,
            accepts: batch_is_taken || (is_rest && drain.takes_others),
            patience: match self.refusals % FULL_PATIENCE_EVERY {
                0 => PATIENCE,
                _ => PATIENCE_OF_A_PROBE,
            },
            overlooked: 0,
            gave_up_one: self.gave_up_one,
            last_refusal: String::new(),
        };
        let ran = delivery.run();
        let (taken, answered) = (delivery.taken, delivery.answered);
        let refused = delivery.batch.refused > refused_before;
        self.refused_all = refused && matches!(ran, Err(Stop::Pause { status: None, .. }));
        self.refusals += u32::from(self.refused_all);
        self.requests += delivery.requests;
        if let Err(Stop::Retry {
            unanswered: true, ..
        }) = ran
        {
            self.resent += delivery.carried;
        }
        self.hurried = false;
        if taken > 0 {
            self.recovered(host);
        } else if refused {
            // Not twice in a row.
            self.flows = false;
        }
        if answered {
            self.unanswered = 0;
        }
        if answered && !matches!(ran, Err(Stop::Retry { .. })) {
            self.transient.reset();
        }
        if whole_calls && !knew {
            self.whole_calls = Some(true);
            drain.remember_whole_calls();
        }
        ran
    }

    /// Tries again at once, unless the server itself has said when.
    pub fn hurry(&mut self) {
        self.hurried = true;
        if !self.retry_after {
            self.next_attempt = None;
        }
    }

    fn recovered(&mut self, host: &mut dyn Host) {
        self.transient.reset();
        self.unanswered = 0;
        self.probe.reset();
        self.refusals = 0;
        self.gave_up_one = false;
        self.next_attempt = None;
        self.flows = true;
        self.size.grow();
        if self.paused.take().is_some() {
            host.tell(Event::Resumed);
        }
    }

    /// Notes when to go on, and what of the batch is worth keeping until then.
    fn block(&mut self, stop: Stop, drain: &mut Drain, host: &mut dyn Host) {
        let random = random();
        self.flows = false;
        match stop {
            Stop::Retry {
                why,
                after,
                unanswered,
            } => {
                self.retries += 1;
                drain.doubt();
                self.retry_after = after.is_some();
                let after = match after {
                    Some(asked) => {
                        host.hold_off(asked);
                        self.transient.asked(asked, random)
                    }
                    None => self.transient.next(random),
                };
                self.next_attempt = Some(Instant::now() + after);
                self.last_error = Some(why.clone());
                // What was refused may be taken when the server works again.
                let is_refused = |batch: &mut Batch| batch.refused > 0 && nothing_delivered(batch);
                drain.batch.take_if(is_refused);
                self.unanswered = if unanswered { self.unanswered + 1 } else { 0 };
                if self.unanswered >= TOO_OFTEN {
                    let waiting = |batch: &Batch| {
                        batch.count(|verdict| *verdict == Verdict::Waiting) as usize
                    };
                    if let Some(batch) = &drain.batch {
                        self.size.shrink(waiting(batch));
                    }
                    // What is known of some of it is kept, and the rest goes in smaller requests.
                    let untouched = |batch: &mut Batch| waiting(batch) == batch.entries.len();
                    drain.batch.take_if(untouched);
                }
                host.tell(Event::Retrying { why, after });
            }
            Stop::Pause { why, status } => {
                self.retries += 1;
                if status.is_none() {
                    drain.doubt();
                }
                self.retry_after = false;
                self.next_attempt = Some(Instant::now() + self.probe.next(random));
                self.last_error = Some(why.clone());
                // What was accepted one by one is remembered; the rest is read anew, together
                // with what has come since.
                drain.batch.take_if(nothing_delivered);
                if self.paused.replace(why.clone()).as_ref() != Some(&why) {
                    host.tell(Event::Paused { why });
                }
            }
            // These have been seen to.
            Stop::Unreadable(_) | Stop::Extend | Stop::Defer | Stop::Hold => {}
        }
    }
}

/// Without randomness all jitter is at its longest, which is still a backoff.
pub(crate) fn random() -> u64 {
    sys::random().map_or(u64::MAX, u64::from_le_bytes)
}

fn nothing_delivered(batch: &mut Batch) -> bool {
    !batch.is_taken()
}

#[cfg(test)]
mod tests;
