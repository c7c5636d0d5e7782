//! Delivering the calls of a project that takes whole calls only (see [`crate::v2`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::batch::{Batch, Refusal, Verdict};
use crate::delivery::{Delivery, Stop, Unit, unsendable};
use crate::http::Answer;
use crate::record::Kind;
use crate::v2::{self, Half, Known};
use crate::window::Bytes;

/// The halves of one call that are in the batch.
#[derive(Default)]
struct Call {
    start: Option<usize>,
    end: Option<usize>,
}

impl Delivery<'_> {
    /// Pairs together, then single ends, then the starts of calls that still run.
    pub(crate) fn all_whole_calls(&mut self) -> Result<(), Stop> {
        let halves = self.waiting_halves()?;
        self.look_up(&halves)?;
        let (pairs, ends, starts) = self.sort(&halves)?;
        for (project, pairs) in pairs {
            self.calls(pairs, &|batch, source, units| {
                batch.whole(source, project, units)
            })?;
            if !self.accepts && self.refused >= self.patience {
                return Ok(());
            }
        }
        let mut ends = ends.into_iter();
        let sent = ends.try_for_each(|index| self.half(index, &halves[&index]));
        // While one waits for another log, an end there may wait for one of these starts.
        if !matches!(sent, Ok(()) | Err(Stop::Defer)) {
            return sent;
        }
        if self.may_hold && !starts.is_empty() {
            return Err(Stop::Hold);
        }
        for index in starts {
            self.half(index, &halves[&index])?;
        }
        sent
    }

    /// What the calls that wait say of themselves. One that cannot be read cannot be sent.
    fn waiting_halves(&mut self) -> Result<BTreeMap<usize, Half>, Stop> {
        let mut halves = BTreeMap::new();
        for index in self.batch.waiting(true) {
            let kind = self.batch.entries[index].kind;
            match Half::read(kind, &self.batch.req(self.source, index)?) {
                Ok(half) => drop(halves.insert(index, half)),
                Err(reason) => self.batch.entries[index].verdict = unsendable(reason),
            }
        }
        Ok(halves)
    }

    /// Asks what the server has of the calls that are doubtful, and takes that as delivered.
    fn look_up(&mut self, halves: &BTreeMap<usize, Half>) -> Result<(), Stop> {
        let mut doubtful: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (&index, half) in halves {
            if self.batch.entries[index].is_doubtful {
                let ids = doubtful.entry(&half.project).or_default();
                ids.extend(half.id.as_deref());
            }
        }
        for (project, ids) in doubtful {
            let ids: Vec<_> = ids.into_iter().collect();
            let mut groups: Vec<_> = ids.chunks(v2::COUNTED_AT_ONCE).collect();
            while let Some(group) = groups.pop() {
                match self.known(project, group)? {
                    Some(known) => self.note_known(halves, project, group, &known),
                    None if group.len() > v2::ASKED_AT_ONCE => {
                        groups.extend(group.chunks(v2::ASKED_AT_ONCE));
                    }
                    None if group.len() > 1 => groups.extend(group.chunks(group.len().div_ceil(2))),
                    // It cannot be asked for, so it cannot be there.
                    None => self.note_known(halves, project, group, &BTreeMap::new()),
                }
            }
        }
        Ok(())
    }

    /// What the server has of some calls. `None`: it does not say it of so many at once.
    fn known(
        &mut self,
        project: &str,
        ids: &[&str],
    ) -> Result<Option<BTreeMap<String, Known>>, Stop> {
        if ids.len() > v2::ASKED_AT_ONCE {
            // Mostly it has none of them, and that is told in one word.
            let none = self.count(project, ids)? == Some(0);
            return Ok(none.then(BTreeMap::new));
        }
        let rows = match self.ask(v2::question(project, ids))? {
            Answer::Delivered { body } => v2::known(&body),
            _ => return Ok(None),
        };
        let rows = rows.unwrap_or_default();
        let found = rows.len() as u64;
        let mut known = BTreeMap::new();
        for (id, state) in rows {
            let known = known.entry(id).or_insert(state);
            *known = (*known).max(state);
        }
        // An answer that was cut off looks like a short one: what it leaves out has to be counted.
        let is_whole = known.len() >= ids.len()
            || match self.count(project, ids)? {
                Some(count) => count <= found,
                None => return Ok(None),
            };
        match is_whole {
            true => Ok(Some(known)),
            false if ids.len() > 1 => Ok(None),
            false => Err(unclear()),
        }
    }

    /// How many of these calls the server has. `None`: it does not say it of these.
    fn count(&mut self, project: &str, ids: &[&str]) -> Result<Option<u64>, Stop> {
        match self.ask(v2::how_many(project, ids))? {
            Answer::Delivered { body } => v2::counted(&body).map(Some).ok_or_else(unclear),
            _ => Ok(None),
        }
    }

    fn note_known(
        &mut self,
        halves: &BTreeMap<usize, Half>,
        project: &str,
        asked: &[&str],
        known: &BTreeMap<String, Known>,
    ) {
        for (&index, half) in halves.iter().filter(|(_, half)| half.project == project) {
            let Some(id) = &half.id else { continue };
            // The ids that were asked for are sorted.
            if asked.binary_search(&id.as_str()).is_err() {
                continue;
            }
            let is_there = match half.kind {
                Kind::CallStart => known.contains_key(id),
                _ => known.get(id) == Some(&Known::Ended),
            };
            let entry = &mut self.batch.entries[index];
            entry.is_doubtful = false;
            if is_there {
                entry.verdict = Verdict::Delivered;
            }
        }
    }

    /// Pairs by project, single ends, single starts; each in file order.
    #[allow(clippy::type_complexity)]
    fn sort<'h>(
        &mut self,
        halves: &'h BTreeMap<usize, Half>,
    ) -> Result<(BTreeMap<&'h str, Vec<Unit>>, Vec<usize>, Vec<usize>), Stop> {
        let mut calls: BTreeMap<(&str, &str), Call> = BTreeMap::new();
        let (mut ends, mut starts) = (Vec::new(), Vec::new());
        for (&index, half) in halves {
            if self.batch.entries[index].verdict != Verdict::Waiting {
                continue;
            }
            let Some(id) = &half.id else {
                match half.kind {
                    Kind::CallStart => starts.push(index),
                    _ => ends.push(index),
                }
                continue;
            };
            let call = calls.entry((&half.project, id)).or_default();
            let place = match half.kind {
                Kind::CallStart => &mut call.start,
                _ => &mut call.end,
            };
            match *place {
                None => *place = Some(index),
                Some(first) => self.twin(first, index)?,
            }
        }
        let mut pairs: BTreeMap<&str, Vec<Unit>> = BTreeMap::new();
        for ((project, _), call) in calls {
            match (call.start, call.end) {
                (Some(first), second @ Some(_)) => {
                    pairs
                        .entry(project)
                        .or_default()
                        .push(Unit { first, second });
                }
                (start, end) => {
                    starts.extend(start);
                    ends.extend(end);
                }
            }
        }
        starts.sort_unstable();
        ends.sort_unstable();
        Ok((pairs, ends, starts))
    }

    /// The same half of the same call a second time: it goes with the first if it says the same.
    fn twin(&mut self, first: usize, second: usize) -> Result<(), Stop> {
        let req = |index| self.batch.req(self.source, index);
        self.batch.entries[second].verdict = match req(first)? == req(second)? {
            true => Verdict::Delivered,
            false => unsendable("another record says something else of the same call".to_owned()),
        };
        Ok(())
    }

    fn half(&mut self, index: usize, half: &Half) -> Result<(), Stop> {
        let req = self.batch.req(self.source, index)?;
        let verdict = match half.request(req) {
            Ok(request) => match self.send(request) {
                Err(Stop::Pause {
                    why,
                    status: Some(404),
                }) if half.kind == Kind::CallEnd => self.end_of_nothing(half, why)?,
                sent => sent?,
            },
            Err(reason) => unsendable(reason),
        };
        self.batch.entries[index].verdict = verdict;
        Ok(())
    }

    /// The server knows no call that could end here, or it is no trace server at all. The start
    /// may still be on its way: an end can stand before it in a log.
    fn end_of_nothing(&mut self, half: &Half, why: String) -> Result<Verdict, Stop> {
        let id = half.id.as_deref().unwrap_or_default();
        match self.count(&half.project, &[id])? {
            Some(0) | None => {}
            Some(_) => {
                return Err(Stop::Retry {
                    why,
                    after: None,
                    unanswered: false,
                });
            }
        }
        if self.may_extend {
            return Err(Stop::Extend);
        }
        if self.may_hold {
            return Err(Stop::Hold);
        }
        if self.may_defer {
            return Err(Stop::Defer);
        }
        // It has answered a question: whatever it refuses, the fault is not in the address.
        self.accepts = true;
        Ok(Verdict::Refused(Box::new(Refusal {
            reason: "the server knows no call that this could be the end of".to_owned(),
            status: Some(404),
            detail: String::new(),
        })))
    }
}

fn unclear() -> Stop {
    Stop::Retry {
        why: "the server does not say which calls it has".to_owned(),
        after: None,
        unanswered: true,
    }
}

impl Batch {
    /// The request for whole calls of one project.
    fn whole(
        &self,
        source: &dyn Bytes,
        project: &str,
        units: &[Unit],
    ) -> std::io::Result<Result<crate::http::Request, String>> {
        let mut body = b"{\"batch\":[".to_vec();
        for (n, unit) in units.iter().enumerate() {
            if n > 0 {
                body.push(b',');
            }
            let start = self.req(source, unit.first)?;
            let end = match unit.second {
                Some(end) => self.req(source, end)?,
                None => Vec::new(),
            };
            if let Err(reason) = v2::push_merged(&start, &end, &mut body) {
                return Ok(Err(reason));
            }
        }
        body.extend_from_slice(b"]}");
        Ok(v2::complete(project, body))
    }
}

#[cfg(test)]
mod tests;
