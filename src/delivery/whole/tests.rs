use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Instant;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::batch::FAULTS;
use crate::delivery::v2;
use crate::http::Answer;
use crate::name::Extension;
use crate::rehearsal::*;
use crate::replay::{HOLD, Progress};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Luck {
    Good,
    /// It does not arrive.
    LostBefore,
    /// It is done, and the answer is lost.
    LostAfter,
}

/// What the server has of a call.
#[derive(Debug, Default, PartialEq)]
struct Call {
    rows: usize,
    is_ended: bool,
}

/// A server with a project that takes whole calls only.
#[derive(Default)]
struct Weave {
    calls: BTreeMap<String, Call>,
    /// The luck of the next requests; then it is good.
    luck: Vec<Luck>,
    /// Answers to questions hold at most so many rows.
    cut: Option<usize>,
}

impl Weave {
    fn answer(&mut self, sent: &Sent) -> Answer {
        let luck = self.luck.pop().unwrap_or(Luck::Good);
        if luck == Luck::LostBefore {
            return lost();
        }
        let answer = self.apply(sent);
        match luck {
            Luck::LostAfter => lost(),
            _ => answer,
        }
    }

    fn apply(&mut self, sent: &Sent) -> Answer {
        let body: Value = serde_json::from_str(&sent.body).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let asked = |of: &Value| -> BTreeSet<String> {
            let ids = of["filter"]["call_ids"].as_array().unwrap();
            ids.iter().map(text).collect()
        };
        let answered = |body: String| Answer::Delivered {
            body: body.into_bytes(),
        };
        match sent.path.rsplit('/').next().unwrap() {
            "upsert_batch" => required(),
            "complete" => {
                for call in body["batch"].as_array().unwrap() {
                    assert_eq!((&call["start"], &call["end"]), (&json!(1), &json!(1)));
                    let known = self.calls.entry(text(&call["id"])).or_default();
                    known.rows += 1;
                    known.is_ended = true;
                }
                accept()
            }
            "start" => {
                let call = self.calls.entry(text(&body["start"]["id"])).or_default();
                call.rows += 1;
                call.is_ended = false;
                accept()
            }
            "end" => match self.calls.get_mut(&text(&body["end"]["id"])) {
                Some(call) => {
                    call.is_ended = true;
                    accept()
                }
                None => not_found(),
            },
            "stream_query" => {
                let ids = asked(&body);
                let rows = self.calls.iter().filter(|(id, _)| ids.contains(*id));
                let rows = rows.map(|(id, call)| {
                    let at = if call.is_ended {
                        json!("2026")
                    } else {
                        Value::Null
                    };
                    format!("{}\n", json!({"id": id, "ended_at": at}))
                });
                answered(rows.take(self.cut.unwrap_or(usize::MAX)).collect())
            }
            "query_stats" => {
                let ids = asked(&body);
                let known = self.calls.keys().filter(|id| ids.contains(*id));
                answered(json!({"count": known.count()}).to_string())
            }
            _ => accept(),
        }
    }

    /// Each of these calls is there once and has ended.
    fn assert_whole(&self, numbers: impl Iterator<Item = usize>) {
        let whole = numbers.map(|n| {
            (
                format!("n{n}"),
                Call {
                    rows: 1,
                    is_ended: true,
                },
            )
        });
        assert_eq!(self.calls, whole.collect());
    }

    fn knows(&mut self, n: usize, is_ended: bool) {
        self.calls
            .insert(format!("n{n}"), Call { rows: 1, is_ended });
    }
}

fn not_found() -> Answer {
    Answer::Pause {
        why: "not found".to_owned(),
        status: Some(404),
    }
}

fn pairs(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| start(n) + &end(n)).collect()
}

/// A log of a project that is known to take whole calls only.
fn whole<'s>(records: usize, log: &str, weave: &'s RefCell<Weave>) -> Rehearsal<'s> {
    let rehearsal = Rehearsal::of(records, log, |sent| weave.borrow_mut().answer(sent));
    rehearsal.directory.remember_whole_calls();
    rehearsal
}

fn paths(rehearsal: &Rehearsal<'_>) -> Vec<String> {
    let paths = rehearsal.server.sent.iter().map(|sent| sent.path.clone());
    paths.collect()
}

const COMPLETE: &str = "/v2/e/p/calls/complete";
const START: &str = "/v2/e/p/call/start";
const END: &str = "/v2/e/p/call/end";
const QUESTION: &str = "/calls/stream_query";
const COUNT: &str = "/calls/query_stats";

/// What the file holds may have been sent by somebody else.
fn without_doubt(rehearsal: &Rehearsal<'_>) -> Vec<String> {
    let mut paths = paths(rehearsal);
    paths.retain(|path| path != QUESTION && path != COUNT);
    paths
}

#[test]
fn a_project_that_takes_whole_calls_only_is_asked_once_and_that_is_remembered() {
    let weave = RefCell::default();
    let log = pairs(0..3);
    let mut rehearsal = Rehearsal::of(4, &log, |sent| Weave::answer(&mut weave.borrow_mut(), sent));
    assert!(!rehearsal.directory.takes_whole_calls());
    assert_eq!(rehearsal.deliver().delivered, 6);
    let halves = |path: &&String| *path == "/call/upsert_batch";
    assert_eq!(paths(&rehearsal).iter().filter(halves).count(), 1);
    assert!(rehearsal.directory.takes_whole_calls());
    weave.borrow().assert_whole(0..3);
    let mut rehearsal = whole(4, &log, &weave);
    rehearsal.deliver();
    assert_eq!(paths(&rehearsal).iter().filter(halves).count(), 0);
}

#[test]
fn a_project_that_takes_halves_gets_them() {
    let mut rehearsal = Rehearsal::new(&pairs(0..3), |_| accept());
    assert_eq!(rehearsal.deliver().delivered, 6);
    assert_eq!(paths(&rehearsal), ["/call/upsert_batch"]);
    assert!(!rehearsal.directory.takes_whole_calls());
}

#[test]
fn pairs_go_together_and_then_ends_and_then_starts_in_the_order_of_the_log() {
    let weave = RefCell::<Weave>::default();
    weave.borrow_mut().knows(9, false);
    weave.borrow_mut().knows(8, false);
    let log = start(7) + &end(9) + &end(1) + &start(2) + &start(6) + &end(8) + &start(1) + &end(2);
    let mut rehearsal = whole(100, &log, &weave);
    assert_eq!(rehearsal.settle().delivered, 8);
    let sent: Vec<_> = rehearsal
        .server
        .sent
        .iter()
        .filter(|sent| sent.path.starts_with("/v2"))
        .collect();
    let sent: Vec<_> = sent
        .iter()
        .map(|sent| (sent.path.as_str(), sent.numbers()))
        .collect();
    let expected = [
        (COMPLETE, vec![1, 2]),
        (END, vec![9]),
        (END, vec![8]),
        (START, vec![7]),
        (START, vec![6]),
    ];
    assert_eq!(sent, expected);
}

#[test]
fn calls_that_still_run_are_held_back_while_their_ends_may_come() {
    let weave = RefCell::default();
    let mut rehearsal = whole(100, &start(0), &weave);
    rehearsal.is_final = false;
    let before = Instant::now();
    let Progress::Held(until) = rehearsal.step().unwrap() else {
        panic!("it is sent");
    };
    assert!(until >= before + HOLD && until <= Instant::now() + HOLD);
    // Since the first time, and not anew.
    assert_eq!(rehearsal.step().unwrap(), Progress::Held(until));
    assert_eq!(without_doubt(&rehearsal), [""; 0]);
    rehearsal.append(&(end(0) + &start(1)));
    assert_eq!(rehearsal.settle().delivered, 2, "in front of what is held");
    assert_eq!(rehearsal.step().unwrap(), Progress::Held(until));
    assert_eq!(without_doubt(&rehearsal), [COMPLETE]);
    rehearsal.append(&end(1));
    assert_eq!(rehearsal.settle().delivered, 2);
    assert_eq!(without_doubt(&rehearsal), [COMPLETE, COMPLETE]);
    weave.borrow().assert_whole(0..2);
    // The next ones may wait as long.
    assert!(rehearsal.drain.held_since.is_none());
}

#[test]
fn calls_that_still_run_are_shown_when_they_waited_or_nothing_can_come_or_somebody_waits() {
    for reason in ["waited", "final", "hurry", "more behind it"] {
        let weave = RefCell::default();
        let mut rehearsal = whole(2, &starts(0..2), &weave);
        rehearsal.is_final = reason == "final";
        match reason {
            "waited" => rehearsal.drain.held_since = Instant::now().checked_sub(HOLD),
            "hurry" => rehearsal.replay.hurry(),
            "more behind it" => rehearsal.append(&starts(2..3)),
            _ => {}
        }
        assert_eq!(rehearsal.settle().delivered, 2, "{reason}");
        assert_eq!(without_doubt(&rehearsal), [START; 2], "{reason}");
    }
    // A hurry is over when it was answered.
    let weave = RefCell::default();
    let mut rehearsal = whole(2, &start(0), &weave);
    rehearsal.is_final = false;
    rehearsal.replay.hurry();
    rehearsal.settle();
    rehearsal.append(&start(1));
    assert!(matches!(rehearsal.step().unwrap(), Progress::Held(_)));
}

#[test]
fn an_end_finds_its_start_behind_it_in_the_log() {
    let weave = RefCell::default();
    let mut rehearsal = whole(2, &(end(0) + &pairs(1..3) + &start(0)), &weave);
    assert_eq!(rehearsal.deliver().delivered, 6);
    weave.borrow().assert_whole(0..3);
}

#[test]
fn a_start_is_looked_for_in_some_batches_behind_its_end_and_no_further() {
    let weave = RefCell::default();
    let mut rehearsal = whole(1, &(end(0) + &pairs(1..9)), &weave);
    let settled = rehearsal.settle();
    assert_eq!((settled.records, settled.rejected), (3, 1));
    assert_eq!(rehearsal.letters()[0]["status"], 404);
    assert_eq!(rehearsal.deliver().delivered, 14);
    weave.borrow().assert_whole(1..9);
    // Nor for longer than there is something behind it.
    let weave = RefCell::default();
    let mut rehearsal = whole(1, &(end(0) + &start(1)), &weave);
    rehearsal.settle();
    assert_eq!(without_doubt(&rehearsal), [END, END, START]);
}

#[test]
fn a_start_is_looked_for_behind_some_damage_and_no_further() {
    let weave = RefCell::default();
    let damaged = |n: usize| "x\n".repeat(99) + &pairs(n..n + 1);
    let log = (1..20 * FAULTS / 99).map(damaged).collect::<String>();
    let mut rehearsal = whole(10_000, &(end(0) + &log + &start(0)), &weave);
    let settled = rehearsal.settle();
    assert!(settled.corrupt < 4 * FAULTS as u64, "{settled:?}");
    assert_eq!(rehearsal.letters()[settled.corrupt as usize]["status"], 404);
}

#[test]
fn an_end_that_may_find_its_start_later_waits_for_it() {
    // In this log, while it is written.
    let weave = RefCell::default();
    let mut rehearsal = whole(9, &end(0), &weave);
    rehearsal.is_final = false;
    assert!(matches!(rehearsal.step().unwrap(), Progress::Held(_)));
    rehearsal.append(&start(0));
    assert_eq!(rehearsal.settle().delivered, 2);
    weave.borrow().assert_whole(0..1);
    // In another log. For a start in this one somebody may wait there.
    let weave = RefCell::default();
    let mut rehearsal = whole(9, &(end(0) + &start(1)), &weave);
    rehearsal.drain.may_defer = true;
    assert_eq!(rehearsal.step().unwrap(), Progress::Deferred);
    assert_eq!(without_doubt(&rehearsal), [END, START]);
    assert!(rehearsal.letters().is_empty());
    weave.borrow_mut().knows(0, false);
    assert_eq!(rehearsal.settle().delivered, 2);
    assert_eq!(weave.borrow().calls["n1"].rows, 1);
    // Not for ever.
    let weave = RefCell::default();
    let mut rehearsal = whole(9, &end(0), &weave);
    rehearsal.drain.may_defer = true;
    assert_eq!(rehearsal.step().unwrap(), Progress::Deferred);
    rehearsal.drain.may_defer = false;
    assert_eq!(rehearsal.settle().rejected, 1);
}

#[test]
fn an_end_that_is_not_found_although_its_start_is_there_is_tried_again() {
    let weave = RefCell::<Weave>::default();
    weave.borrow_mut().knows(0, false);
    let mut rehearsal = Rehearsal::new(&end(0), |sent| match sent.path.as_str() {
        END => not_found(),
        _ => weave.borrow_mut().answer(sent),
    });
    rehearsal.directory.remember_whole_calls();
    rehearsal.block();
    assert_eq!(rehearsal.replay.paused(), None);
    assert!(rehearsal.letters().is_empty());
}

#[test]
fn a_wrong_address_costs_no_end() {
    let mut rehearsal = Rehearsal::new(&end(0), |_| not_found());
    rehearsal.directory.remember_whole_calls();
    rehearsal.block();
    assert_eq!(rehearsal.replay.paused(), Some("not found"));
    assert!(rehearsal.letters().is_empty());
    // A start is never taken for one of nothing.
    let mut rehearsal = Rehearsal::new(&start(0), |sent| match sent.path.as_str() {
        START => not_found(),
        COUNT => Answer::Delivered {
            body: b"{\"count\":0}".to_vec(),
        },
        _ => accept(),
    });
    rehearsal.directory.remember_whole_calls();
    rehearsal.block();
    assert_eq!(rehearsal.replay.paused(), Some("not found"));
}

#[test]
fn what_a_server_has_already_is_not_sent_again() {
    let weave = RefCell::<Weave>::default();
    weave.borrow_mut().knows(0, true);
    weave.borrow_mut().knows(1, false);
    weave.borrow_mut().knows(2, false);
    let mut rehearsal = whole(9, &(pairs(0..2) + &start(2) + &start(3)), &weave);
    assert_eq!(rehearsal.settle().delivered, 6);
    assert_eq!(without_doubt(&rehearsal), [END, START]);
    let weave = weave.borrow();
    let calls: Vec<_> = weave
        .calls
        .values()
        .map(|call| (call.rows, call.is_ended))
        .collect();
    assert_eq!(calls, [(1, true), (1, true), (1, false), (1, false)]);
}

#[test]
fn what_was_never_sent_is_not_asked_for() {
    let weave = RefCell::default();
    let mut rehearsal = whole(9, "", &weave);
    rehearsal.append(&pairs(0..3));
    assert_eq!(rehearsal.settle().delivered, 6);
    assert_eq!(paths(&rehearsal), [COMPLETE]);
    // But what may have arrived is.
    rehearsal.append(&pairs(3..5));
    weave.borrow_mut().luck = vec![Luck::LostAfter];
    rehearsal.block();
    assert_eq!(rehearsal.replay.resent(), 4);
    assert_eq!(rehearsal.settle().delivered, 4);
    assert_eq!(paths(&rehearsal), [COMPLETE, COMPLETE, QUESTION]);
    weave.borrow().assert_whole(0..5);
}

#[test]
fn many_are_counted_first_and_only_asked_for_one_by_one_if_there_are_any() {
    let weave = RefCell::default();
    let mut rehearsal = whole(10_000, &pairs(0..v2::COUNTED_AT_ONCE + 1), &weave);
    rehearsal.settle();
    assert_eq!(paths(&rehearsal), [QUESTION, COUNT, COUNT, COMPLETE]);
    let ids = |sent: &Sent| sent.body.matches("\"n").count();
    assert_eq!(ids(&rehearsal.server.sent[0]), 1);
    assert_eq!(ids(&rehearsal.server.sent[2]), v2::COUNTED_AT_ONCE);
    let some = 2 * v2::ASKED_AT_ONCE + 1;
    let mut rehearsal = whole(10_000, &pairs(0..some), &weave);
    assert_eq!(rehearsal.settle().delivered as usize, 2 * some);
    assert_eq!(paths(&rehearsal), [COUNT, QUESTION, QUESTION, QUESTION]);
    assert!(
        rehearsal.server.sent[1..]
            .iter()
            .all(|sent| ids(sent) <= v2::ASKED_AT_ONCE)
    );
    // As many as can be asked for at once need not be counted.
    let mut rehearsal = whole(10_000, &pairs(0..v2::ASKED_AT_ONCE), &weave);
    rehearsal.settle();
    assert_eq!(paths(&rehearsal), [QUESTION]);
    weave.borrow().assert_whole(0..v2::COUNTED_AT_ONCE + 1);
}

#[test]
fn what_a_cut_answer_leaves_out_is_asked_for_again() {
    let weave = RefCell::<Weave>::default();
    for n in 0..7 {
        weave.borrow_mut().knows(n, true);
    }
    weave.borrow_mut().cut = Some(2);
    let mut rehearsal = whole(99, &pairs(0..8), &weave);
    assert_eq!(rehearsal.settle().delivered, 16);
    assert_eq!(without_doubt(&rehearsal), [COMPLETE]);
    weave.borrow().assert_whole(0..8);
    // One that is there, and that the server never shows: nothing is sent.
    weave.borrow_mut().cut = Some(0);
    let mut rehearsal = whole(99, &pairs(0..1), &weave);
    rehearsal.block();
    assert_eq!(rehearsal.replay.paused(), None);
    assert_eq!(without_doubt(&rehearsal), [""; 0]);
}

#[test]
fn what_cannot_be_asked_for_is_not_there() {
    let weave = RefCell::default();
    let most = v2::ASKED_AT_ONCE;
    for (refused, calls) in [
        (QUESTION, 3),
        (COUNT, 3),
        (QUESTION, most),
        (COUNT, most + 1),
    ] {
        let mut rehearsal = Rehearsal::new(&pairs(0..calls), |sent| {
            match sent.path == refused && sent.body.contains("\"n1\"") {
                true => refuse("what is that?"),
                false => Weave::answer(&mut weave.borrow_mut(), sent),
            }
        });
        rehearsal.directory.remember_whole_calls();
        weave.borrow_mut().calls.clear();
        assert_eq!(rehearsal.settle().delivered as usize, 2 * calls);
        weave.borrow().assert_whole(0..calls);
    }
}

#[test]
fn a_server_that_does_not_count_is_asked_for_the_calls_themselves() {
    let no_count = || Answer::Delivered {
        body: b"{}".to_vec(),
    };
    for (no_count, calls) in [
        (not_found as fn() -> Answer, 3),
        (no_count, 3),
        (not_found, v2::ASKED_AT_ONCE + 1),
        (no_count, v2::ASKED_AT_ONCE + 1),
    ] {
        let weave = RefCell::<Weave>::default();
        weave.borrow_mut().knows(1, true);
        let log = pairs(0..calls) + &end(calls);
        let mut rehearsal = Rehearsal::new(&log, |sent| match sent.path.as_str() {
            COUNT => no_count(),
            _ => weave.borrow_mut().answer(sent),
        });
        rehearsal.directory.remember_whole_calls();
        let settled = rehearsal.settle();
        assert_eq!(settled.delivered as usize, 2 * calls);
        // And an end of nothing is known for one.
        assert_eq!(settled.rejected, 1);
        weave.borrow().assert_whole(0..calls);
    }
    // Half an answer is none: without a count nothing is sent on it.
    let mut rehearsal = Rehearsal::new(&pairs(0..3), |sent| match sent.path.as_str() {
        QUESTION => Answer::Delivered {
            body: b"{\"id\":\"n".to_vec(),
        },
        _ => not_found(),
    });
    rehearsal.directory.remember_whole_calls();
    rehearsal.block();
    assert_eq!(without_doubt(&rehearsal), [""; 0]);
}

#[test]
fn a_call_that_is_there_twice_is_as_far_as_its_further_one() {
    for rows in [
        "{\"id\":\"n0\",\"ended_at\":\"2026\"}\n{\"id\":\"n0\"}\n",
        "{\"id\":\"n0\"}\n{\"id\":\"n0\",\"ended_at\":\"2026\"}\n",
    ] {
        let mut rehearsal =
            Rehearsal::new(&pairs(0..1), |_| Answer::Delivered { body: rows.into() });
        rehearsal.directory.remember_whole_calls();
        assert_eq!(rehearsal.settle().delivered, 2);
        assert_eq!(paths(&rehearsal), [QUESTION]);
    }
}

#[test]
fn a_half_that_is_there_twice_goes_once_and_one_that_says_something_else_is_kept() {
    let weave = RefCell::default();
    let other = end(0).replace("\"end\":1", "\"end\":2");
    let log = pairs(0..1) + &start(0) + &end(0) + &other;
    let mut rehearsal = whole(99, &log, &weave);
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.rejected), (4, 1));
    assert_eq!(rehearsal.letters()[0]["offset"], log.len() - other.len());
    weave.borrow().assert_whole(0..1);
}

#[test]
fn a_half_that_is_there_twice_is_not_delivered_before_the_first_is() {
    let log = start(0) + &start(0) + &pairs(1..64);
    let weave = RefCell::default();
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.path.starts_with("/v2") {
        true => refuse("no"),
        false => Weave::answer(&mut weave.borrow_mut(), sent),
    });
    rehearsal.directory.remember_whole_calls();
    // A server that takes nothing has not taken that either, however often it is asked.
    for _ in 0..3 {
        rehearsal.block();
        assert!(rehearsal.replay.paused().is_some());
        assert!(rehearsal.letters().is_empty(), "{:?}", rehearsal.letters());
    }
    // What becomes of the first becomes of both.
    let weave = RefCell::default();
    let log = start(0) + &start(0) + &pairs(1..3);
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.numbers() == [0] {
        true if sent.path.ends_with("/start") => refuse("no"),
        _ => Weave::answer(&mut weave.borrow_mut(), sent),
    });
    rehearsal.directory.remember_whole_calls();
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.rejected), (4, 2));
    assert_eq!(rehearsal.letters().len(), 2);
}

#[test]
fn halves_without_an_id_or_a_project_keep_nothing_else_from_the_server() {
    let weave = RefCell::<Weave>::default();
    let without = |line: String, key: &str| line.replace(key, "\"none\"");
    let log = without(start(0), "\"id\"")
        + &without(start(1), "\"project_id\"")
        + &without(end(2), "\"e/p\"")
        + &pairs(3..4);
    let mut rehearsal = whole(99, &log, &weave);
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.rejected), (3, 2));
    assert_eq!(without_doubt(&rehearsal), [COMPLETE, START]);
}

#[test]
fn the_calls_of_two_projects_do_not_meet() {
    let weave = RefCell::default();
    let log = pairs(0..2)
        + &pairs(2..4).replace("e/p", "e/q")
        + &start(5)
        + &end(5).replace("e/p", "e/q");
    let mut rehearsal = whole(99, &log, &weave);
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.rejected), (9, 1));
    let sent: Vec<_> = rehearsal
        .server
        .sent
        .iter()
        .map(|sent| (sent.path.as_str(), sent.numbers()))
        .collect();
    assert!(sent.contains(&(COMPLETE, vec![0, 1])), "{sent:?}");
    assert!(
        sent.contains(&("/v2/e/q/calls/complete", vec![2, 3])),
        "{sent:?}"
    );
}

#[test]
fn calls_of_what_is_no_project_are_kept_and_the_others_arrive() {
    for bad in 1..=3 {
        let weave = RefCell::default();
        let log = pairs(0..bad).replace("e/p", "e") + &pairs(3..5);
        let mut rehearsal = whole(99, &log, &weave);
        let settled = rehearsal.settle();
        assert_eq!((settled.delivered, settled.rejected as usize), (4, 2 * bad));
        weave.borrow().assert_whole(3..5);
    }
}

#[test]
fn a_bad_call_is_found_among_whole_ones_and_both_its_halves_are_kept() {
    let weave = RefCell::default();
    let mut rehearsal = Rehearsal::new(&(pairs(0..8)), |sent| {
        match sent.path == COMPLETE && sent.numbers().contains(&3) {
            true => refuse("bad"),
            false => Weave::answer(&mut weave.borrow_mut(), sent),
        }
    });
    rehearsal.directory.remember_whole_calls();
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.rejected), (14, 2));
    weave.borrow().assert_whole((0..8).filter(|n| *n != 3));
    let letters = rehearsal.letters();
    let types: Vec<_> = letters
        .iter()
        .map(|letter| &letter["record"]["type"])
        .collect();
    assert_eq!(types, ["call_start", "call_end"]);
}

#[test]
fn a_server_that_refuses_every_whole_call_gets_no_single_halves_and_loses_nothing() {
    let log = pairs(0..64) + &end(70);
    let weave = RefCell::default();
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.path.starts_with("/v2") {
        true => refuse("no"),
        false => Weave::answer(&mut weave.borrow_mut(), sent),
    });
    rehearsal.directory.remember_whole_calls();
    rehearsal.block();
    assert!(rehearsal.replay.paused().is_some());
    assert!(rehearsal.letters().is_empty());
    assert_eq!(without_doubt(&rehearsal), [COMPLETE; 33]);
}

#[test]
fn calls_sent_again_carry_the_same_retry_id() {
    let weave = RefCell::<Weave>::default();
    let mut rehearsal = whole(99, "", &weave);
    rehearsal.append(&pairs(0..3));
    weave.borrow_mut().luck = vec![Luck::LostBefore];
    rehearsal.deliver();
    let ids: Vec<_> = rehearsal
        .server
        .sent
        .iter()
        .filter(|sent| sent.path == COMPLETE)
        .map(|sent| &sent.headers)
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    weave.borrow().assert_whole(0..3);
}

#[test]
fn what_is_settled_is_settled_for_the_next_process() {
    let weave = RefCell::default();
    let mut rehearsal = whole(2, &pairs(0..3), &weave);
    rehearsal.settle();
    let checkpoint = fs::read_to_string(rehearsal.path(Extension::Checkpoint)).unwrap();
    assert_eq!(checkpoint, pairs(0..1).len().to_string());
}

#[test]
fn what_was_refused_before_the_batch_was_extended_counts() {
    let weave = RefCell::default();
    let log = pairs(1..6) + &end(0) + &start(0);
    let mut rehearsal = Rehearsal::of(11, &log, |sent| match sent.path == COMPLETE {
        true => refuse("no"),
        false => Weave::answer(&mut weave.borrow_mut(), sent),
    });
    rehearsal.directory.remember_whole_calls();
    rehearsal.block();
    assert!(rehearsal.letters().is_empty());
}

#[test]
fn an_end_of_nothing_is_not_taken_for_something_that_the_server_took() {
    let weave = RefCell::default();
    let log = end(99) + &starts(0..40);
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.path == START {
        true => refuse("no"),
        false => Weave::answer(&mut weave.borrow_mut(), sent),
    });
    rehearsal.directory.remember_whole_calls();
    rehearsal.block();
    assert!(rehearsal.letters().is_empty());
    assert!(rehearsal.replay.paused().is_some());
    let starts = paths(&rehearsal)
        .iter()
        .filter(|path| *path == START)
        .count();
    assert_eq!(starts, 32, "it is asked a bounded number of times");
}

#[test]
fn halves_that_are_too_large_together_go_one_after_the_other() {
    let weave = RefCell::default();
    let too_large = |sent: &Sent| sent.path == COMPLETE && sent.numbers().contains(&1);
    let mut rehearsal = Rehearsal::new(&pairs(0..3), |sent| match too_large(sent) {
        true => Answer::Reject {
            status: 413,
            detail: String::new(),
        },
        false => Weave::answer(&mut weave.borrow_mut(), sent),
    });
    rehearsal.directory.remember_whole_calls();
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.rejected), (6, 0));
    weave.borrow().assert_whole(0..3);
}

#[test]
fn calls_of_what_is_no_project_are_kept_however_many() {
    let weave = RefCell::default();
    let log = pairs(0..40).replace("e/p", "e");
    let mut rehearsal = whole(99, &log, &weave);
    assert_eq!(rehearsal.settle().rejected, 80);
    assert_eq!(without_doubt(&rehearsal), [""; 0]);
}

#[test]
fn a_row_that_nobody_asked_for_stands_for_no_call_that_an_answer_leaves_out() {
    let weave = RefCell::<Weave>::default();
    weave.borrow_mut().knows(0, true);
    weave.borrow_mut().knows(1, true);
    let mut rehearsal = Rehearsal::new(&pairs(0..3), |sent| {
        let answer = Weave::answer(&mut weave.borrow_mut(), sent);
        match answer {
            // A call that is there twice, and then the answer was cut.
            Answer::Delivered { body } if sent.path == QUESTION && body.starts_with(b"{") => {
                let row = body.split_inclusive(|&byte| byte == b'\n').next();
                let body = row.unwrap().repeat(2);
                Answer::Delivered { body }
            }
            answer => answer,
        }
    });
    rehearsal.directory.remember_whole_calls();
    assert_eq!(rehearsal.deliver().delivered, 6);
    weave.borrow().assert_whole(0..3);
}

#[test]
fn what_broke_before_there_was_an_answer_is_doubtful_although_the_configuration_may_be_wrong() {
    let weave = RefCell::<Weave>::default();
    let mut breaks = true;
    let mut rehearsal = Rehearsal::new("", |sent| {
        let answer = Weave::answer(&mut weave.borrow_mut(), sent);
        match std::mem::take(&mut breaks) {
            // As when TLS breaks under the answer.
            true => Answer::Pause {
                why: "no secure connection".to_owned(),
                status: None,
            },
            false => answer,
        }
    });
    rehearsal.directory.remember_whole_calls();
    rehearsal.append(&pairs(0..3));
    rehearsal.block();
    assert_eq!(rehearsal.settle().delivered, 6);
    weave.borrow().assert_whole(0..3);
}

#[test]
fn a_start_is_looked_for_as_far_where_batches_have_become_small() {
    let weave = RefCell::<Weave>::default();
    let log = end(0) + &pairs(1..9) + &start(0);
    let mut rehearsal = whole(100, &log, &weave);
    weave.borrow_mut().luck = vec![Luck::LostBefore; 20];
    assert_eq!(rehearsal.deliver().delivered, 18);
    weave.borrow().assert_whole(0..9);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_lost_each_call_is_there_once_and_has_ended(
        order in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
        records in 1..14_usize,
        luck in prop::collection::vec(
            prop::sample::select(vec![Luck::Good, Luck::LostBefore, Luck::LostAfter]), 0..20),
        halves_first: bool,
    ) {
        let half = |at: usize| if at % 2 == 0 { start(at / 2) } else { end(at / 2) };
        let log: String = order.into_iter().map(half).collect();
        let weave = RefCell::new(Weave { luck, ..Weave::default() });
        let mut rehearsal = match halves_first {
            true => Rehearsal::of(records, &log, |sent| weave.borrow_mut().answer(sent)),
            false => whole(records, &log, &weave),
        };
        let settled = rehearsal.deliver();
        // An end far before its start is given up where another log cannot have it.
        prop_assert_eq!(settled.delivered + settled.rejected, 12);
        for (id, call) in &weave.borrow().calls {
            prop_assert_eq!(call.rows, 1, "{}", id);
        }
        if settled.rejected == 0 {
            weave.borrow().assert_whole(0..6);
        }
    }
}
