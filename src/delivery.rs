//! Sending one batch: which requests, in which order, and the search for the bad record.

pub(crate) mod halves;
pub(crate) mod table;
pub(crate) mod v2;
pub(crate) mod whole;

use std::cell::Cell;
use std::io;
use std::time::Duration;

use self::halves::HALVES;
use crate::batch::{Batch, Refusal, Verdict};
use crate::http::{Answer, Request};
use crate::reader::window::{Bytes, length};
use crate::record::Kind;
use crate::replay::host::Host;

/// How many records are refused one by one, and none accepted, before the server is believed to
/// refuse everything.
pub(crate) const PATIENCE: usize = 32;

/// The same while it is already believed, except each time in so many: those few may be bad.
pub(crate) const PATIENCE_OF_A_PROBE: usize = 2;
pub(crate) const FULL_PATIENCE_EVERY: u32 = 8;

/// After so many requests in a row without an answer what they hold is perhaps too much at once.
pub(crate) const TOO_OFTEN: u32 = 3;

/// The largest request that the server reads.
const LARGEST: usize = 32 << 20;

/// Why a batch cannot be settled now.
pub(crate) enum Stop {
    /// The server cannot take it at the moment.
    Retry {
        why: String,
        after: Option<Duration>,
        /// The request was out and may have been applied.
        unanswered: bool,
    },
    /// The configuration is wrong, not the records.
    Pause { why: String, status: Option<u16> },
    /// Calls that still run are not sent yet: their ends may come any moment.
    Hold,
    /// What belongs to a record of this batch may stand behind it.
    Extend,
    /// It may stand in another log.
    Defer,
    /// The log cannot be read.
    Unreadable(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Unreadable(error)
    }
}

/// A call to be sent as one: a half of it, or both halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unit {
    pub first: usize,
    pub second: Option<usize>,
}

/// How a group of calls becomes a request; `Err` inside: it cannot be sent at all.
pub(crate) type Shape<'a> =
    &'a dyn Fn(&Batch, &dyn Bytes, &[Unit]) -> io::Result<std::result::Result<Request, String>>;

/// A batch on its way to the server. Verdicts are noted in the batch, so that a delivery that
/// stops half-way goes on from there.
pub(crate) struct Delivery<'a> {
    pub batch: &'a mut Batch,
    pub source: &'a dyn Bytes,
    pub host: &'a mut dyn Host,
    /// What there is to do while a request is out.
    pub meanwhile: &'a mut dyn FnMut(),
    /// The project takes whole calls only.
    pub whole_calls: &'a mut bool,
    /// Calls of which only one half is here may wait for the other.
    pub may_hold: bool,
    /// Larger tables are sent in parts.
    pub body_limit: usize,
    /// The most records in one request.
    pub records: usize,
    /// There is more behind this batch.
    pub may_extend: bool,
    /// What belongs to a record may still come from another log.
    pub may_defer: bool,
    /// Requests sent, how many records the last one held, and how many of them were taken.
    pub requests: u64,
    pub carried: u64,
    pub taken: u64,
    /// The server has answered to something that it was given, be it that it refused it.
    pub answered: bool,
    /// Requests in a row before that were out and came to no answer.
    pub unanswered: u32,
    /// The server has taken something of this batch, now or before, or takes other records: if
    /// these are refused, it is the records.
    pub accepts: bool,
    pub patience: usize,
    /// Refusals that say nothing of what is being sent.
    pub overlooked: usize,
    /// The record that was given up last was refused alone, and nothing was taken since.
    pub gave_up_one: bool,
    pub last_refusal: String,
}

impl Delivery<'_> {
    /// Objects, tables and files first, in their order; then all calls together. When this
    /// returns `Ok`, every record has its verdict.
    pub fn run(&mut self) -> Result<(), Stop> {
        self.singles()?;
        // What is wrong with all of those need not be wrong with calls. If it is not, the others
        // were bad, and what is left of them has its turn.
        self.overlooked = self.batch.refused;
        self.all_calls()?;
        self.overlooked = 0;
        self.singles()?;
        let waiting = self.batch.count(|verdict| *verdict == Verdict::Waiting);
        let may_give_up = match self.batch.refused {
            0 => true,
            1 => self.accepts || !self.gave_up_one,
            _ => self.accepts,
        };
        if waiting == 0 && (self.batch.gives_up || may_give_up) {
            self.batch.gives_up = true;
            return Ok(());
        }
        // The server may take what stands behind them.
        if waiting == 0 && self.may_extend && !self.is_refused_altogether() {
            return Err(Stop::Extend);
        }
        Err(Stop::Pause {
            why: format!(
                "the server refuses every record it is given, so the fault is not in the records \
                 ({}); check that the URL is a Weave trace server; everything is kept",
                self.last_refusal
            ),
            status: None,
        })
    }

    fn singles(&mut self) -> Result<(), Stop> {
        for index in self.batch.waiting(false) {
            if self.is_refused_altogether() {
                break;
            }
            self.single(index)?;
        }
        Ok(())
    }

    fn all_calls(&mut self) -> Result<(), Stop> {
        let ready = self.batch.calls.take();
        if !*self.whole_calls {
            let units = self.batch.waiting(true).into_iter().map(Unit::half);
            let units: Vec<_> = units.collect();
            let ready = Cell::new(ready);
            self.calls(units, &|batch, source, units| {
                let ready = ready.take().filter(|ready| ready.count() == units.len());
                Ok(Ok(match ready {
                    // The first request is the one for all of them.
                    Some(ready) => ready.into_request(),
                    None => batch.halves(source, units)?,
                }))
            })?;
        }
        // The answer to halves may have been that this project takes whole calls only.
        match *self.whole_calls {
            true => self.all_whole_calls(),
            false => Ok(()),
        }
    }

    fn single(&mut self, index: usize) -> Result<(), Stop> {
        let entry = &self.batch.entries[index];
        if entry.kind == Kind::TableCreate && length(&entry.req) > self.body_limit {
            self.batch.entries[index].verdict = self.large_table(index)?;
            return Ok(());
        }
        let verdict = match self.batch.single(self.source, index)? {
            Ok(request) => self.send(request)?,
            Err(reason) => unsendable(reason),
        };
        self.batch.entries[index].verdict = verdict;
        Ok(())
    }

    /// Sends calls in one request; if it is refused, in halves, down to the bad ones.
    pub fn calls(&mut self, units: Vec<Unit>, shape: Shape<'_>) -> Result<(), Stop> {
        let mut groups = vec![units];
        while let Some(mut group) = groups.pop() {
            if group.len() > 1 && records(&group) > self.records as u64 {
                let right = group.split_off(group.len() / 2);
                groups.extend([right, group]);
                continue;
            }
            if group.is_empty() || self.group(&group, shape)? {
                continue;
            }
            if *self.whole_calls && group.iter().all(|unit| unit.second.is_none()) {
                return Ok(());
            }
            if !self.accepts {
                // Does it take anything? Some one by one, from all over the group.
                for unit in spread(&group, self.patience) {
                    if !self.accepts && !self.is_refused_altogether() {
                        self.group(&[unit], shape)?;
                    }
                }
                if !self.accepts {
                    return Ok(());
                }
                group.retain(|unit| self.batch.entries[unit.first].verdict == Verdict::Waiting);
            }
            let right = group.split_off(group.len() / 2);
            groups.extend([right, group]);
        }
        Ok(())
    }

    /// Sends a group. `false`: it is refused, and has to be looked at in parts.
    fn group(&mut self, group: &[Unit], shape: Shape<'_>) -> Result<bool, Stop> {
        let verdict = match shape(self.batch, self.source, group)? {
            Ok(request) if group.len() == 1 => {
                let verdict = self.exchange(request, records(group))?;
                if let (Some(second), true) = (group[0].second, is_too_large(&verdict)) {
                    self.one_by_one(group[0].first, second)?;
                    return Ok(true);
                }
                self.note_refusal(&verdict);
                verdict
            }
            Ok(request) => match self.exchange(request, records(group))? {
                Verdict::Delivered => Verdict::Delivered,
                refused => {
                    self.remember(&refused);
                    return Ok(false);
                }
            },
            Err(_) if group.len() > 1 => return Ok(false),
            Err(reason) => unsendable(reason),
        };
        if verdict == Verdict::Waiting {
            return Ok(false);
        }
        for unit in group {
            for index in [Some(unit.first), unit.second].into_iter().flatten() {
                self.batch.entries[index].verdict = verdict.clone();
            }
        }
        Ok(true)
    }

    /// Sends what cannot be halved: a refusal counts.
    pub fn send(&mut self, request: Request) -> Result<Verdict, Stop> {
        let verdict = self.exchange(request, 1)?;
        self.note_refusal(&verdict);
        Ok(verdict)
    }

    /// A refusal of the record that is being sent.
    pub fn refuse(&mut self, status: u16, detail: String) -> Verdict {
        let verdict = refused(status, detail);
        self.note_refusal(&verdict);
        verdict
    }

    fn note_refusal(&mut self, verdict: &Verdict) {
        if let Verdict::Refused(_) = verdict {
            self.batch.refused += 1;
            self.remember(verdict);
        }
    }

    /// One request, one verdict on all that it holds; `Waiting`: it has to be sent another way.
    fn exchange(&mut self, request: Request, records: u64) -> Result<Verdict, Stop> {
        let is_halves = request.path == HALVES;
        let answer = self.carry(request, records);
        // A connection that is found insecure may have carried the request all the same.
        if let Err(Stop::Retry { .. } | Stop::Pause { status: None, .. }) = answer {
            self.batch.doubt();
        }
        self.answered |= answer.is_ok();
        match answer? {
            // A refusal of anything else may quote a record that has these words in it.
            Answer::Reject { status, detail } if is_halves && v2::is_required(status, &detail) => {
                *self.whole_calls = true;
                Ok(Verdict::Waiting)
            }
            Answer::Reject { status, detail } => Ok(refused(status, detail)),
            _ => {
                self.taken += 1;
                self.accepts = true;
                Ok(Verdict::Delivered)
            }
        }
    }

    /// One request that holds no record, and its answer.
    pub fn ask(&mut self, request: Request) -> Result<Answer, Stop> {
        self.carry(request, 0)
    }

    /// One request and its answer: one that delivers or rejects.
    pub fn carry(&mut self, request: Request, records: u64) -> Result<Answer, Stop> {
        self.carried = records;
        self.requests += 1;
        self.batch.attempts = self.batch.attempts.saturating_add(1);
        let size = request.body.len();
        match self.host.exchange(request, self.meanwhile) {
            // A server may refuse what is too large without reading it: a connection that breaks
            // is all that is seen of that. A request above this limit holds one record.
            Answer::Retry {
                why,
                unanswered: true,
                ..
            } if size > LARGEST && self.unanswered >= TOO_OFTEN => Ok(Answer::Reject {
                status: 413,
                detail: format!("a request of {size} bytes is never answered: {why}"),
            }),
            Answer::Retry {
                why,
                after,
                unanswered,
            } => Err(Stop::Retry {
                why,
                after,
                unanswered,
            }),
            Answer::Pause { why, status } => Err(Stop::Pause { why, status }),
            answer => Ok(answer),
        }
    }

    fn remember(&mut self, refusal: &Verdict) {
        if let Verdict::Refused(refusal) = refusal {
            let Refusal { reason, detail, .. } = &**refusal;
            self.last_refusal = match detail.is_empty() {
                true => reason.clone(),
                false => format!("{reason}: {detail}"),
            };
        }
    }

    /// So many refused and none accepted: it is not the records.
    pub fn is_refused_altogether(&self) -> bool {
        !self.accepts && self.batch.refused - self.overlooked >= self.patience
    }
}

impl Unit {
    pub fn half(index: usize) -> Unit {
        Unit {
            first: index,
            second: None,
        }
    }
}

/// How many records a group is.
fn records(group: &[Unit]) -> u64 {
    let records = |unit: &Unit| 1 + u64::from(unit.second.is_some());
    group.iter().map(records).sum()
}

fn refused(status: u16, detail: String) -> Verdict {
    Verdict::Refused(Box::new(Refusal {
        reason: format!("the server refused this record ({status})"),
        status: Some(status),
        detail,
    }))
}

fn is_too_large(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Refused(refusal) if refusal.status == Some(413))
}

/// A record that no request can be made of.
pub(crate) fn unsendable(reason: String) -> Verdict {
    Verdict::Refused(Box::new(Refusal {
        reason,
        status: None,
        detail: String::new(),
    }))
}

/// Up to `n` members of a group, spread over it, the last one first: it may be the newest.
fn spread(group: &[Unit], n: usize) -> Vec<Unit> {
    let stride = group.len().div_ceil(n).max(1);
    group.iter().rev().step_by(stride).copied().collect()
}
