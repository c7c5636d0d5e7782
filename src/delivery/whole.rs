//! Delivering the calls of a project that takes whole calls only (see [`crate::delivery::v2`]).

use crate::batch::{Batch, Refusal, Verdict};
use crate::delivery::v2::{self, Half, Known};
use crate::delivery::{Delivery, Stop, Unit, unsendable};
use crate::http::Answer;
use crate::reader::window::Bytes;
use crate::record::Kind;

/// The halves that wait, in file order: their places in the batch, and what they say of themselves.
type Halves = [(usize, Half)];

/// What is to be sent, all in file order.
struct Sorted<'a> {
    /// By project.
    pairs: Vec<(&'a str, Vec<Unit>)>,
    ends: Vec<(usize, &'a Half)>,
    starts: Vec<(usize, &'a Half)>,
    /// Halves that are there a second time, each behind the one with which it goes.
    twins: Vec<(usize, usize)>,
}

impl Delivery<'_> {
    /// Pairs together, then single ends, then the starts of calls that still run.
    pub(crate) fn all_whole_calls(&mut self) -> Result<(), Stop> {
        let halves = self.waiting_halves()?;
        self.look_up(&halves)?;
        let mut sorted = self.sort(&halves)?;
        let twins = std::mem::take(&mut sorted.twins);
        let sent = self.sorted(sorted);
        // Not before: what nobody has taken is not delivered, whatever it goes with.
        for (first, second) in twins {
            self.batch.entries[second].verdict = self.batch.entries[first].verdict.clone();
        }
        sent
    }

    fn sorted(&mut self, sorted: Sorted<'_>) -> Result<(), Stop> {
        for (project, pairs) in sorted.pairs {
            self.calls(pairs, &|batch, source, units| {
                batch.whole(source, project, units)
            })?;
            if self.is_refused_altogether() {
                return Ok(());
            }
        }
        let mut ends = sorted.ends.into_iter();
        let sent = ends.try_for_each(|(index, half)| self.half(index, half));
        // While one waits for another log, an end there may wait for one of these starts.
        if !matches!(sent, Ok(()) | Err(Stop::Defer)) {
            return sent;
        }
        if self.is_refused_altogether() {
            return sent;
        }
        if self.may_hold && !sorted.starts.is_empty() {
            return Err(Stop::Hold);
        }
        for (index, half) in sorted.starts {
            self.half(index, half)?;
        }
        sent
    }

    /// What the calls that wait say of themselves. One that cannot be read cannot be sent.
    fn waiting_halves(&mut self) -> Result<Vec<(usize, Half)>, Stop> {
        let mut halves = Vec::new();
        for index in self.batch.waiting(true) {
            let kind = self.batch.entries[index].kind;
            match Half::read(kind, &self.batch.req(self.source, index)?) {
                Ok(half) => halves.push((index, half)),
                Err(reason) => self.batch.entries[index].verdict = unsendable(reason),
            }
        }
        Ok(halves)
    }

    /// Asks what the server has of the calls that are doubtful, and takes that as delivered.
    fn look_up(&mut self, halves: &Halves) -> Result<(), Stop> {
        let mut doubtful = by_call(halves, &|index| self.batch.entries[index].is_doubtful);
        doubtful.dedup_by_key(|(project, id, _)| (*project, *id));
        for calls in doubtful.chunk_by(|(one, ..), (other, ..)| one == other) {
            let project = calls[0].0;
            let ids: Vec<&str> = calls.iter().map(|(_, id, _)| *id).collect();
            let mut groups: Vec<_> = ids.chunks(v2::COUNTED_AT_ONCE).collect();
            while let Some(group) = groups.pop() {
                match self.known(project, group)? {
                    Some(known) => self.note_known(halves, project, group, &known),
                    None if group.len() > v2::ASKED_AT_ONCE => {
                        groups.extend(group.chunks(v2::ASKED_AT_ONCE));
                    }
                    None if group.len() > 1 => groups.extend(group.chunks(group.len().div_ceil(2))),
                    // It cannot be asked for, so it cannot be there.
                    None => self.note_known(halves, project, group, &[None]),
                }
            }
        }
        Ok(())
    }

    /// What the server has of each of some calls. `None`: it does not say it of so many at once.
    fn known(&mut self, project: &str, ids: &[&str]) -> Result<Option<Vec<Option<Known>>>, Stop> {
        if ids.len() > v2::ASKED_AT_ONCE {
            // Mostly it has none of them, and that is told in one word.
            let none = self.count(project, ids)? == Some(0);
            return Ok(none.then(|| vec![None; ids.len()]));
        }
        let rows = match self.ask(v2::question(project, ids))? {
            Answer::Delivered { body } => v2::known(&body),
            _ => return Ok(None),
        };
        let is_readable = rows.is_some();
        let rows = rows.unwrap_or_default();
        let known = |id: &&str| {
            let states = rows.iter().filter(|(known, _)| known == id);
            states.map(|(_, state)| *state).max()
        };
        let known: Vec<Option<Known>> = ids.iter().map(known).collect();
        // An answer that was cut off looks like a short one: what it leaves out has to be counted.
        let is_whole = known.iter().all(Option::is_some)
            // By calls: one can be there in more rows than one.
            || self
                .count(project, ids)?
                .map_or(is_readable, |count| count <= known.iter().flatten().count() as u64);
        match is_whole {
            true => Ok(Some(known)),
            false if ids.len() > 1 => Ok(None),
            false => Err(unclear()),
        }
    }

    /// How many of these calls the server has. `None`: it does not count these, or does not count
    /// at all. Not every server that can be asked for calls can, and none may be stuck over that.
    fn count(&mut self, project: &str, ids: &[&str]) -> Result<Option<u64>, Stop> {
        match self.ask(v2::how_many(project, ids)) {
            Ok(Answer::Delivered { body }) => v2::counted(&body).ok_or_else(unclear),
            Ok(_) => Ok(None),
            Err(Stop::Pause {
                status: Some(404 | 405),
                ..
            }) => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    fn note_known(
        &mut self,
        halves: &Halves,
        project: &str,
        asked: &[&str],
        known: &[Option<Known>],
    ) {
        for (index, half) in halves.iter().filter(|(_, half)| half.project == project) {
            let Some(id) = &half.id else { continue };
            // The ids that were asked for are sorted.
            let Ok(at) = asked.binary_search(&id.as_str()) else {
                continue;
            };
            let is_there = match half.kind {
                Kind::CallStart => known[at].is_some(),
                _ => known[at] == Some(Known::Ended),
            };
            let entry = &mut self.batch.entries[*index];
            entry.is_doubtful = false;
            if is_there {
                entry.verdict = Verdict::Delivered;
            }
        }
    }

    fn sort<'h>(&mut self, halves: &'h Halves) -> Result<Sorted<'h>, Stop> {
        let calls = by_call(halves, &|index| self.is_waiting(index));
        let mut pairs: Vec<(&str, Vec<Unit>)> = Vec::new();
        let mut twins = Vec::new();
        let mut is_seen_to = vec![false; self.batch.entries.len()];
        for call in calls.chunk_by(|one, other| (one.0, one.1) == (other.0, other.1)) {
            let (mut start, mut end) = (None, None);
            for &(_, _, index) in call {
                let place = match self.batch.entries[index].kind {
                    Kind::CallStart => &mut start,
                    _ => &mut end,
                };
                match *place {
                    None => *place = Some(index),
                    Some(first) if self.says_the_same(first, index)? => {
                        is_seen_to[index] = true;
                        twins.push((first, index));
                    }
                    Some(_) => {
                        let reason = "another record says something else of the same call";
                        self.batch.entries[index].verdict = unsendable(reason.to_owned());
                    }
                }
            }
            let (Some(first), Some(second)) = (start, end) else {
                continue;
            };
            (is_seen_to[first], is_seen_to[second]) = (true, true);
            let second = Some(second);
            match pairs.last_mut() {
                Some((project, units)) if *project == call[0].0 => {
                    units.push(Unit { first, second });
                }
                _ => pairs.push((call[0].0, vec![Unit { first, second }])),
            }
        }
        let single = |(index, half): &'h (usize, Half)| {
            let is_single = self.is_waiting(*index) && !is_seen_to[*index];
            is_single.then_some((*index, half))
        };
        let singles = halves.iter().filter_map(single);
        let (starts, ends) = singles.partition(|(_, half)| half.kind == Kind::CallStart);
        Ok(Sorted {
            pairs,
            ends,
            starts,
            twins,
        })
    }

    fn is_waiting(&self, index: usize) -> bool {
        self.batch.entries[index].verdict == Verdict::Waiting
    }

    fn says_the_same(&self, one: usize, other: usize) -> Result<bool, Stop> {
        let req = |index| self.batch.req(self.source, index);
        Ok(req(one)? == req(other)?)
    }

    /// Sends the halves of a call that are too large together.
    pub(crate) fn one_by_one(&mut self, start: usize, end: usize) -> Result<(), Stop> {
        for index in [start, end] {
            let kind = self.batch.entries[index].kind;
            match Half::read(kind, &self.batch.req(self.source, index)?) {
                Ok(half) => self.half(index, &half)?,
                Err(reason) => self.batch.entries[index].verdict = unsendable(reason),
            }
            let verdict = &self.batch.entries[start].verdict;
            if *verdict != Verdict::Delivered {
                // There is no call that could end.
                self.batch.entries[end].verdict = verdict.clone();
                break;
            }
        }
        Ok(())
    }

    /// Sends a half alone. It waits on if the server takes nothing.
    fn half(&mut self, index: usize, half: &Half) -> Result<(), Stop> {
        if self.is_refused_altogether() {
            return Ok(());
        }
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
        if self
            .known(&half.project, &[id])?
            .is_some_and(|known| known[0].is_some())
        {
            return Err(Stop::Retry {
                why,
                after: None,
                unanswered: false,
            });
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
        // No refusal that counts, and nothing taken either.
        Ok(Verdict::Refused(Box::new(Refusal {
            reason: "the server knows no call that this could be the end of".to_owned(),
            status: Some(404),
            detail: String::new(),
        })))
    }
}

/// Those with an id, sorted by project, id and place.
fn by_call<'h>(
    halves: &'h Halves,
    is_wanted: &dyn Fn(usize) -> bool,
) -> Vec<(&'h str, &'h str, usize)> {
    let call = |(index, half): &'h (usize, Half)| {
        let id = half.id.as_deref().filter(|_| is_wanted(*index))?;
        Some((half.project.as_str(), id, *index))
    };
    let mut calls: Vec<_> = halves.iter().filter_map(call).collect();
    calls.sort_unstable();
    calls
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
