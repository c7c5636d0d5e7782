use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;

use super::*;
use crate::http::Answer;
use crate::name::Extension;
use crate::record::Kind;
use crate::rehearsal::*;

/// Answers that come in this order, and then acceptance.
fn in_order(answers: Vec<Answer>) -> impl FnMut(&Sent) -> Answer {
    let mut answers = answers.into_iter();
    move |_| answers.next().unwrap_or_else(accept)
}

/// How often each number was in a request that was accepted.
type Taken = Rc<RefCell<BTreeMap<usize, usize>>>;

fn taken(answer: impl Fn(&Sent) -> Answer) -> (impl FnMut(&Sent) -> Answer, Taken) {
    let counts = Taken::default();
    let taken = Rc::clone(&counts);
    let answer = move |sent: &Sent| {
        let answer = answer(sent);
        if matches!(answer, Answer::Delivered { .. }) {
            for n in sent.numbers() {
                *taken.borrow_mut().entry(n).or_default() += 1;
            }
        }
        answer
    };
    (answer, counts)
}

fn once(numbers: impl Iterator<Item = usize>) -> BTreeMap<usize, usize> {
    numbers.map(|n| (n, 1)).collect()
}

#[test]
fn where_nothing_is_to_be_sent_no_request_goes_out() {
    let mut rehearsal = Rehearsal::new("", |_| accept());
    assert_eq!(rehearsal.step().unwrap(), Progress::Idle);
    rehearsal.append(&starts(0..3));
    assert_eq!(rehearsal.settle().delivered, 3);
    assert_eq!(rehearsal.step().unwrap(), Progress::Idle);
    assert_eq!(rehearsal.server.numbers(), [[0, 1, 2]]);
    assert_eq!(rehearsal.replay.requests(), 1);
    assert_eq!(rehearsal.replay.next_attempt(), None);
    assert_eq!(rehearsal.replay.take_error(), None);
}

#[test]
fn while_the_server_wants_nothing_nothing_is_sent_however_great_the_hurry() {
    let mut rehearsal = Rehearsal::new(&starts(0..3), |_| accept());
    let wait = Duration::from_secs(30);
    rehearsal.server.held_off = Some(wait);
    let before = Instant::now();
    rehearsal.block();
    rehearsal.replay.hurry();
    let next = rehearsal.replay.next_attempt().unwrap();
    assert!(next > before + wait && next <= Instant::now() + wait + wait / 2);
    assert!(rehearsal.replay.take_error().is_some());
    assert_eq!(rehearsal.replay.take_error(), None);
    assert!(rehearsal.server.sent.is_empty());
    rehearsal.server.held_off = None;
    assert_eq!(rehearsal.settle().delivered, 3);
}

#[test]
fn what_failed_for_now_is_tried_again_later_or_at_once_if_somebody_waits() {
    let mut rehearsal = Rehearsal::new(&starts(0..3), in_order(vec![later(None), lost()]));
    for failed in 1..=2 {
        let before = Instant::now();
        rehearsal.block();
        assert!(rehearsal.replay.next_attempt().unwrap() > before);
        assert!(rehearsal.replay.take_error().is_some());
        assert_eq!(rehearsal.replay.retries(), failed);
        rehearsal.replay.hurry();
        assert_eq!(rehearsal.replay.next_attempt(), None);
    }
    assert_eq!(rehearsal.settle().delivered, 3);
    assert_eq!(rehearsal.replay.next_attempt(), None);
    assert_eq!(rehearsal.replay.requests(), 3);
    let retrying = |event: &&Event| matches!(event, Event::Retrying { .. });
    assert_eq!(rehearsal.server.events.iter().filter(retrying).count(), 2);
}

#[test]
fn when_the_server_says_when_everybody_is_told_and_no_hurry_helps() {
    let wait = Duration::from_secs(7);
    let answers = vec![later(Some(wait)), pause("the key")];
    let mut rehearsal = Rehearsal::new(&starts(0..1), in_order(answers));
    let before = Instant::now();
    rehearsal.block();
    assert_eq!(rehearsal.server.told, [wait]);
    rehearsal.replay.hurry();
    assert!(rehearsal.replay.next_attempt().unwrap() > before + wait);
    // It has said no such thing the next time.
    rehearsal.block();
    assert!(rehearsal.replay.next_attempt().is_some());
    rehearsal.replay.hurry();
    assert_eq!(rehearsal.replay.next_attempt(), None);
}

#[test]
fn only_what_was_out_and_not_answered_counts_as_sent_again() {
    let answers = vec![later(None), lost(), pause("the key"), lost()];
    let mut rehearsal = Rehearsal::new(&starts(0..3), in_order(answers));
    let resent: Vec<_> = (0..4)
        .map(|_| {
            rehearsal.block();
            rehearsal.replay.resent()
        })
        .collect();
    assert_eq!(resent, [0, 3, 3, 6]);
}

#[test]
fn what_is_never_answered_is_sent_in_smaller_pieces_until_it_is_and_then_in_larger_ones() {
    let most = Cell::new(8);
    let answer = |sent: &Sent| match sent.numbers().len() > most.get() {
        true => lost(),
        false => accept(),
    };
    let mut rehearsal = Rehearsal::of(8, &starts(0..40), answer);
    let sizes = |rehearsal: &mut Rehearsal<'_>, steps: usize| -> Vec<usize> {
        let before = rehearsal.server.sent.len();
        for _ in 0..steps {
            rehearsal.step().unwrap();
        }
        rehearsal.server.numbers()[before..]
            .iter()
            .map(Vec::len)
            .collect()
    };
    assert_eq!(sizes(&mut rehearsal, 1), [8]);
    most.set(0);
    assert_eq!(sizes(&mut rehearsal, 7), [8, 8, 8, 4, 2, 1, 1]);
    most.set(8);
    assert_eq!(sizes(&mut rehearsal, 6), [1, 2, 4, 8, 8, 8]);
    assert_eq!(
        rehearsal.step().unwrap(),
        Progress::Settled(Settled {
            delivered: 1,
            records: 1,
            ..Settled::default()
        })
    );
}

#[test]
fn an_answer_of_any_sort_between_them_ends_the_count_of_those_that_never_came() {
    for answered in [later(None), refuse("no")] {
        let answers = vec![lost(), lost(), answered];
        let mut answers = answers.into_iter();
        let answer = move |_: &Sent| answers.next().unwrap_or_else(lost);
        let mut rehearsal = Rehearsal::of(8, &starts(0..2), answer);
        for _ in 0..4 {
            rehearsal.block();
        }
        let batch = rehearsal.drain.batch.as_ref();
        assert_eq!(batch.map(|batch| batch.entries.len()), Some(2));
    }
}

#[test]
fn what_was_taken_of_a_batch_is_not_sent_again_however_often_the_rest_fails() {
    let log = objects(0..2) + &starts(2..5);
    let failures = Cell::new(6);
    let (answer, taken) = taken(|sent: &Sent| match sent.path.as_str() {
        "/call/upsert_batch" if failures.get() > 0 => {
            failures.set(failures.get() - 1);
            match failures.get() % 3 {
                0 => pause("the key"),
                _ => lost(),
            }
        }
        _ => accept(),
    });
    let mut rehearsal = Rehearsal::new(&log, answer);
    assert_eq!(rehearsal.deliver().delivered, 5);
    assert_eq!(*taken.borrow(), once(0..5));
}

#[test]
fn a_pause_is_told_once_for_each_reason_and_so_is_its_end() {
    let answers = ["the key", "the key", "the URL", "the URL", "the key"];
    let answers = answers.map(pause).into_iter().collect();
    let mut rehearsal = Rehearsal::new(&starts(0..2), in_order(answers));
    for _ in 0..5 {
        let before = Instant::now();
        rehearsal.block();
        assert!(rehearsal.replay.next_attempt().unwrap() > before);
        assert!(rehearsal.replay.take_error().is_some());
    }
    assert_eq!(rehearsal.replay.paused(), Some("the key"));
    assert_eq!(rehearsal.replay.retries(), 5);
    // What has come since goes along.
    rehearsal.append(&starts(2..4));
    assert_eq!(rehearsal.settle().delivered, 4);
    assert_eq!(rehearsal.replay.paused(), None);
    rehearsal.append(&starts(4..5));
    rehearsal.settle();
    let told: Vec<_> = rehearsal
        .server
        .events
        .iter()
        .map(|event| match event {
            Event::Paused { why } => why.as_str(),
            Event::Resumed => "resumed",
            Event::Delivered { .. } => "delivered",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        [
            "the key",
            "the URL",
            "the key",
            "resumed",
            "delivered",
            "delivered"
        ]
    );
}

#[test]
fn a_server_that_refuses_everything_is_asked_a_bounded_number_of_times_and_loses_nothing() {
    for (log, once_more, first, further) in [
        // The whole of it, then some that stand alone.
        (starts(0..64), 1, PATIENCE, PATIENCE_OF_A_PROBE),
        (objects(0..64), 0, PATIENCE, PATIENCE_OF_A_PROBE),
        // The call is tried, too.
        (
            objects(0..32) + &start(32),
            1,
            PATIENCE,
            PATIENCE_OF_A_PROBE,
        ),
    ] {
        let mut rehearsal = Rehearsal::new(&log, |_| refuse("I take nothing"));
        rehearsal.block();
        assert_eq!(rehearsal.server.sent.len(), once_more + first);
        let why = rehearsal.replay.paused().unwrap();
        assert!(why.contains("I take nothing"), "{why}");
        assert!(why.contains("422"), "{why}");
        rehearsal.server.sent.clear();
        rehearsal.block();
        assert_eq!(rehearsal.server.sent.len(), once_more + further);
        assert!(rehearsal.letters().is_empty());
        assert_eq!(rehearsal.drain.offset(), 0);
    }
}

#[test]
fn two_that_are_refused_where_nothing_is_taken_are_not_given_up_and_one_is() {
    for log in [objects(0..2), starts(0..2)] {
        let mut rehearsal = Rehearsal::new(&log, |_| refuse("no"));
        rehearsal.block();
        assert!(rehearsal.replay.paused().is_some());
        assert!(rehearsal.letters().is_empty());
    }
    for log in [objects(0..1), starts(0..1)] {
        let mut rehearsal = Rehearsal::new(&log, |_| refuse("no"));
        assert_eq!(rehearsal.settle().rejected, 1);
        let letter = &rehearsal.letters()[0];
        assert_eq!(
            (&letter["status"], &letter["detail"]),
            (&422.into(), &"no".into())
        );
    }
}

#[test]
fn where_one_is_taken_all_that_are_refused_are_given_up_however_many() {
    let answer = |sent: &Sent| match sent.numbers() == [0] {
        true => accept(),
        false => refuse("no"),
    };
    let mut rehearsal = Rehearsal::new(&objects(0..50), answer);
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.rejected), (1, 49));
    assert_eq!(rehearsal.server.sent.len(), 50);
    // Also if that was at an earlier attempt.
    let mut answers = vec![accept(), pause("the key")].into_iter();
    let answer = move |_: &Sent| answers.next().unwrap_or_else(|| refuse("no"));
    let mut rehearsal = Rehearsal::new(&objects(0..50), answer);
    assert_eq!(rehearsal.settle().delivered, 1);
    assert!(rehearsal.replay.paused().is_some());
    let settled = rehearsal.settle();
    assert_eq!((settled.delivered, settled.rejected), (0, 49));
}

#[test]
fn the_bad_ones_are_found_wherever_they_stand_and_all_others_arrive_once() {
    for bad in [
        vec![0],
        vec![15],
        vec![7, 8],
        vec![0, 5, 15],
        (1..16).collect(),
    ] {
        let is_bad = |sent: &Sent| sent.numbers().iter().any(|n| bad.contains(n));
        let (answer, taken) = taken(|sent: &Sent| match is_bad(sent) {
            true => refuse("bad"),
            false => accept(),
        });
        let mut rehearsal = Rehearsal::new(&starts(0..16), answer);
        let settled = rehearsal.settle();
        assert_eq!(settled.rejected as usize, bad.len());
        let good = (0..16).filter(|n| !bad.contains(n));
        assert_eq!(*taken.borrow(), once(good));
        // No more than the path down to each.
        let most = 2 + 8 * bad.len();
        assert!(
            rehearsal.server.sent.len() <= most,
            "{}",
            rehearsal.server.sent.len()
        );
        let letters = rehearsal.letters();
        let found = letters
            .iter()
            .map(|letter| letter["record"]["req"]["start"]["id"].clone());
        let expected: Vec<_> = bad
            .iter()
            .map(|n| serde_json::Value::from(format!("n{n}")))
            .collect();
        assert_eq!(found.collect::<Vec<_>>(), expected);
        assert_eq!(letters[0]["attempts"], rehearsal.server.sent.len());
    }
}

#[test]
fn whether_a_server_takes_anything_is_asked_with_the_newest_first_and_from_all_over() {
    let mut rehearsal = Rehearsal::new(&starts(0..100), |_| refuse("no"));
    rehearsal.block();
    let alone: Vec<_> = rehearsal.server.numbers()[1..].concat();
    assert_eq!(alone, (0..100).rev().step_by(4).collect::<Vec<_>>());
}

#[test]
fn a_request_too_large_for_any_server_is_given_up_when_it_is_never_answered() {
    const LARGEST: usize = 32 << 20;
    let of_size = |size: usize| {
        let req = format!("{{\"id\":{}0}}", " ".repeat(size - 8));
        with_checksum(Kind::ObjCreate, &req)
    };
    let mut rehearsal = Rehearsal::new(&of_size(LARGEST + 1), |_| lost());
    for _ in 0..3 {
        rehearsal.block();
    }
    assert_eq!(rehearsal.settle().rejected, 1);
    assert_eq!(rehearsal.letters()[0]["status"], 413);
    // One that may be read is sent again and again, and so is one that is answered.
    for (size, answer) in [(LARGEST, lost()), (LARGEST + 1, later(None))] {
        let mut rehearsal = Rehearsal::new(
            &of_size(size),
            in_order(vec![lost(), lost(), lost(), answer]),
        );
        for _ in 0..4 {
            rehearsal.block();
        }
    }
}

#[test]
fn a_log_that_is_cut_below_what_was_read_of_it_is_read_anew() {
    let mut rehearsal = Rehearsal::new(&starts(0..3), in_order(vec![lost()]));
    rehearsal.block();
    let log = fs::OpenOptions::new()
        .write(true)
        .open(rehearsal.path(Extension::Jsonl))
        .unwrap();
    log.set_len(starts(0..1).len() as u64).unwrap();
    assert!(rehearsal.step().is_err());
    assert_eq!(rehearsal.settle().delivered, 1);
    assert_eq!(rehearsal.server.numbers(), [vec![0, 1, 2], vec![0]]);
}

#[test]
fn while_answers_come_the_next_batch_is_read_ahead_and_none_is_sent_twice() {
    let mut rehearsal = Rehearsal::of(2, &starts(0..9), in_order(vec![accept(), accept(), lost()]));
    rehearsal.drain.reads_ahead = true;
    rehearsal.settle();
    assert!(rehearsal.drain.ahead.is_none(), "nothing had been answered");
    rehearsal.settle();
    let ahead = |rehearsal: &Rehearsal<'_>| {
        rehearsal
            .drain
            .ahead
            .as_ref()
            .map(|(start, batch)| (*start, batch.entries.len()))
    };
    let at = starts(0..4).len() as u64;
    assert_eq!(ahead(&rehearsal), Some((at, 2)));
    rehearsal.block();
    assert_eq!(ahead(&rehearsal), None);
    rehearsal.settle();
    assert_eq!(ahead(&rehearsal), None, "it has only just come back");
    rehearsal.settle();
    assert!(ahead(&rehearsal).is_some());
    // It takes memory.
    rehearsal.server.held_off = Some(Duration::from_secs(1));
    rehearsal.block();
    assert_eq!(ahead(&rehearsal), None);
    rehearsal.server.held_off = None;
    assert_eq!(rehearsal.deliver().delivered, 1);
    assert_eq!(
        rehearsal.server.numbers(),
        [
            vec![0, 1],
            vec![2, 3],
            vec![4, 5],
            vec![4, 5],
            vec![6, 7],
            vec![8]
        ]
    );
}

#[test]
fn nothing_is_read_ahead_where_that_is_not_wanted() {
    let mut rehearsal = Rehearsal::of(2, &starts(0..6), |_| accept());
    for _ in 0..2 {
        rehearsal.settle();
        assert!(rehearsal.drain.ahead.is_none());
    }
}

#[test]
fn a_table_goes_whole_if_it_fits_into_a_request_and_in_parts_if_not() {
    let table = r#"{"table":{"project_id":"e/p","rows":[1,2,3],"other":"what is not in a part"}}"#;
    let log = format!("{{\"type\":\"table_create\",\"req\":{table}}}\n");
    let paths = |bytes| {
        let limits = BatchLimits { bytes, ..LIMITS };
        let mut rehearsal = Rehearsal::limited(limits, &log, |_| Answer::Delivered {
            body: br#"{"row_digests":["a","b","c"]}"#.to_vec(),
        });
        assert_eq!(rehearsal.settle().delivered, 1);
        let paths = rehearsal.server.sent.into_iter().map(|sent| sent.path);
        paths.collect::<Vec<_>>()
    };
    assert_eq!(paths(table.len()), ["/table/create"]);
    let parts = paths(table.len() - 1);
    assert_eq!(parts, ["/table/create", "/table/create_from_digests"]);
}

#[test]
fn waits_are_not_the_same_for_all() {
    let numbers: Vec<_> = (0..8).map(|_| random()).collect();
    assert!(numbers.iter().any(|number| *number != numbers[0]));
}

/// A project that takes whole calls only, and has none yet.
fn without_calls(sent: &Sent) -> Option<Answer> {
    let body = match sent.path.as_str() {
        "/calls/query_stats" => br#"{"count":0}"#.to_vec(),
        "/calls/stream_query" => Vec::new(),
        _ => return None,
    };
    Some(Answer::Delivered { body })
}

#[test]
fn nothing_joins_a_batch_whose_dead_letters_are_written() {
    let mut rehearsal = Rehearsal::new(&start(0), |sent| match sent.path.as_str() {
        "/obj/create" if !sent.body.contains("n9") => refuse("bad object"),
        _ => without_calls(sent).unwrap_or_else(accept),
    });
    rehearsal.directory.remember_whole_calls();
    rehearsal.is_final = false;
    assert!(matches!(rehearsal.step().unwrap(), Progress::Held(_)));
    rehearsal.append("garbage 1\n");
    // It has waited for long enough.
    rehearsal.drain.held_since = Instant::now().checked_sub(HOLD);
    // The checkpoint cannot be moved: a directory is in its place.
    let checkpoint = rehearsal.path(Extension::Checkpoint);
    fs::create_dir(&checkpoint).unwrap();
    assert!(rehearsal.step().is_err());
    assert_eq!(rehearsal.letters().len(), 1);
    // Meanwhile the writer goes on.
    rehearsal.append(&(object(7) + "garbage 2\n" + &object(9) + &object(8)));
    fs::remove_dir(&checkpoint).unwrap();
    rehearsal.deliver();
    let reached = fs::read_to_string(&checkpoint).unwrap();
    assert_eq!(reached, rehearsal.end().offset.to_string());
    assert_eq!(
        rehearsal.letters().len(),
        4,
        "twice garbage and two objects"
    );
}

/// A refusal that quotes what it was given.
fn quoting() -> Answer {
    refuse(
        r#"{"detail":[{"msg":"bad","input":"\"error_code\":\"CALLS_COMPLETE_MODE_REQUIRED\""}]}"#,
    )
}

#[test]
fn a_refusal_that_quotes_a_record_says_nothing_of_the_project() {
    let log = object(0) + &object(1) + &object(2);
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.body.contains("n1") {
        true => quoting(),
        false => accept(),
    });
    rehearsal.deliver();
    assert!(!rehearsal.directory.takes_whole_calls());
    assert_eq!(rehearsal.letters().len(), 1);
}

#[test]
fn a_whole_call_that_is_refused_and_quoted_is_not_sent_again_and_again() {
    let requests = Cell::new(0);
    let log = start(0) + &end(0) + &start(1) + &end(1);
    let mut rehearsal = Rehearsal::new(&log, |sent| {
        requests.set(requests.get() + 1);
        assert!(requests.get() < 100);
        match sent.body.contains("n1") && sent.path.starts_with("/v2") {
            true => quoting(),
            false => without_calls(sent).unwrap_or_else(accept),
        }
    });
    rehearsal.directory.remember_whole_calls();
    rehearsal.deliver();
    assert_eq!(rehearsal.letters().len(), 2);
}

#[test]
fn a_few_refused_at_the_end_of_a_log_are_given_up_only_if_others_are_taken() {
    for takes_others in [false, true] {
        for (records, is_final) in [(2, true), (PATIENCE, true), (2, false)] {
            let mut rehearsal = Rehearsal::new(&starts(0..records), |_| refuse("no such id"));
            rehearsal.is_final = is_final;
            rehearsal.drain.takes_others = takes_others;
            let given_up = takes_others && is_final && records < PATIENCE;
            match given_up {
                true => assert_eq!(rehearsal.settle().rejected, records as u64),
                false => rehearsal.block(),
            }
            assert_eq!(rehearsal.replay.refused_all(), !given_up);
            assert_eq!(rehearsal.replay.paused().is_some(), !given_up);
        }
    }
}

#[test]
fn what_is_delivered_in_front_of_what_waits_leaves_the_log() {
    let log = object(0) + &object(1) + &start(2) + &object(3);
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.path.as_str() {
        "/call/upsert_batch" => later(None),
        _ => accept(),
    });
    let front = rehearsal.settle();
    assert_eq!((front.delivered, front.records), (2, 2));
    let reached = fs::read_to_string(rehearsal.path(Extension::Checkpoint)).unwrap();
    assert_eq!(reached, (object(0) + &object(1)).len().to_string());
    // Here it is known that the last one is delivered, too.
    rehearsal.replay.hurry();
    rehearsal.block();
    let paths: Vec<_> = rehearsal
        .server
        .sent
        .iter()
        .map(|sent| sent.path.as_str())
        .collect();
    let objects = ["/obj/create"; 3];
    assert_eq!(paths[..3], objects);
    assert_eq!(paths[3..], ["/call/upsert_batch"; 2]);
}

#[test]
fn damage_in_front_stays_with_its_batch_and_a_front_that_cannot_be_noted_is_not_sent_again() {
    let log = object(0) + "garbage\n" + &object(1) + &start(2);
    let fails = Cell::new(true);
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.path.as_str() {
        "/call/upsert_batch" if fails.replace(false) => later(None),
        _ => accept(),
    });
    let checkpoint = rehearsal.path(Extension::Checkpoint);
    fs::create_dir(&checkpoint).unwrap();
    assert!(rehearsal.step().is_err());
    assert!(rehearsal.replay.next_attempt().is_some());
    fs::remove_dir(&checkpoint).unwrap();
    rehearsal.replay.hurry();
    let settled = rehearsal.settle();
    assert_eq!(
        (settled.delivered, settled.corrupt, settled.records),
        (3, 1, 3)
    );
    assert_eq!(rehearsal.letters().len(), 1);
    assert_eq!(rehearsal.server.numbers(), [[0], [1], [2], [2]]);
}

#[test]
fn a_server_that_refuses_everything_has_taken_nothing_if_it_is_away_in_between() {
    let mut answers = vec![refuse("no"), later(None)].into_iter();
    let answer = move |_: &Sent| answers.next().unwrap_or_else(|| refuse("no"));
    let mut rehearsal = Rehearsal::new(&objects(0..2), answer);
    for _ in 0..3 {
        rehearsal.block();
        assert!(rehearsal.letters().is_empty());
    }
    assert!(rehearsal.replay.paused().is_some());
}

#[test]
fn what_is_never_answered_is_sent_in_smaller_pieces_whatever_else_was_taken_of_its_batch() {
    let (answer, taken) = taken(|sent: &Sent| match sent.numbers().len() > 3 {
        true => lost(),
        false => accept(),
    });
    let log = starts(0..8) + &object(8) + &starts(9..17);
    let mut rehearsal = Rehearsal::new(&log, answer);
    assert_eq!(rehearsal.deliver().delivered, 17);
    assert_eq!(*taken.borrow(), once(0..17));
}

#[test]
fn a_table_with_a_row_too_large_for_any_server_is_given_up_when_that_is_never_answered() {
    let row = format!(r#"{{"x":"{}"}}"#, "x".repeat(33 << 20));
    let table = format!(r#"{{"table":{{"project_id":"e/p","rows":[1,{row}]}}}}"#);
    let log = with_checksum(Kind::TableCreate, &table);
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.body.len() > 32 << 20 {
        true => lost(),
        false => Answer::Delivered {
            body: br#"{"row_digests":["a"]}"#.to_vec(),
        },
    });
    for _ in 0..3 {
        rehearsal.block();
    }
    assert_eq!(rehearsal.settle().rejected, 1);
    assert_eq!(rehearsal.letters()[0]["status"], 413);
}

/// Refuses requests with one of these numbers in them.
fn without(bad: &[usize]) -> impl Fn(&Sent) -> Answer {
    |sent: &Sent| match sent.numbers().iter().any(|n| bad.contains(n)) {
        true => refuse("bad"),
        false => accept(),
    }
}

#[test]
fn a_pause_for_another_reason_is_no_reason_to_believe_that_everything_is_refused() {
    for log in [objects(0..3), starts(0..3)] {
        let bad = if log == objects(0..3) { [0, 1] } else { [0, 2] };
        let wrong_key = Cell::new(true);
        let mut rehearsal = Rehearsal::new(&log, |sent| match wrong_key.replace(false) {
            true => pause("the key"),
            false => without(&bad)(sent),
        });
        rehearsal.block();
        let settled = rehearsal.settle();
        assert_eq!((settled.delivered, settled.rejected), (1, 2));
    }
}

#[test]
fn once_the_server_takes_records_again_the_good_ones_are_found_wherever_they_stand() {
    for log in [objects(0..3), starts(0..3)] {
        let bad = if log == objects(0..3) { [0, 1] } else { [0, 2] };
        let away = Cell::new(true);
        let mut rehearsal = Rehearsal::new(&log, |sent| match away.get() {
            true => refuse("nothing"),
            false => without(&bad)(sent),
        });
        rehearsal.block();
        away.set(false);
        assert_eq!(rehearsal.deliver().delivered, 1);
        assert_eq!(rehearsal.letters().len(), 2);
    }
}

#[test]
fn where_a_whole_batch_is_bad_what_stands_behind_it_tells_whether_the_server_takes_anything() {
    for log in [objects(0..7), starts(0..7)] {
        let mut rehearsal = Rehearsal::of(2, &log, without(&[0, 1, 2]));
        let settled = rehearsal.deliver();
        assert_eq!((settled.delivered, settled.rejected), (4, 3));
    }
}

#[test]
fn one_after_the_other_no_more_than_one_is_given_up_where_nothing_is_taken() {
    for log in [objects(0..40), starts(0..40)] {
        let mut rehearsal = Rehearsal::of(1, &log, |_| refuse("nothing"));
        assert_eq!(rehearsal.settle().rejected, 1);
        for _ in 0..20 {
            rehearsal.block();
        }
        assert_eq!(rehearsal.letters().len(), 1);
        // Nor where batches have become small because nothing was answered.
        let answered = Cell::new(false);
        let mut rehearsal = Rehearsal::new(&log, |_| match answered.get() {
            true => refuse("nothing"),
            false => lost(),
        });
        for _ in 0..20 {
            rehearsal.block();
        }
        answered.set(true);
        for _ in 0..20 {
            rehearsal.step().unwrap();
        }
        assert!(rehearsal.letters().len() <= 1);
    }
}

#[test]
fn what_is_given_up_stays_given_up_if_it_cannot_be_noted_at_once() {
    for extension in [Extension::Checkpoint, Extension::Deadletter] {
        let mut rehearsal = Rehearsal::new(&starts(0..2), |_| refuse("no such id"));
        let path = rehearsal.path(extension);
        fs::create_dir(&path).unwrap();
        rehearsal.drain.takes_others = true;
        assert!(rehearsal.step().is_err());
        // By now it is not known any more that others are taken.
        rehearsal.drain.takes_others = false;
        fs::remove_dir(&path).unwrap();
        assert_eq!(rehearsal.settle().rejected, 2);
        assert_eq!(rehearsal.letters().len(), 2);
        assert_eq!(rehearsal.server.sent.len(), 3);
    }
}

#[test]
fn what_was_delivered_before_the_rest_was_cut_off_is_not_sent_again() {
    // What is left holds both that were delivered, or does not.
    for (left, numbers, delivered) in [(2, vec![0, 1], 2), (1, vec![0, 1, 0], 1)] {
        let path = RefCell::new(std::path::PathBuf::new());
        let mut rehearsal = Rehearsal::new(&objects(0..4), |sent| {
            if sent.numbers() == [1] {
                // As by a writer that writes elsewhere what it could not sync.
                let log = fs::File::options().write(true).open(&*path.borrow());
                log.unwrap().set_len(objects(0..left).len() as u64).unwrap();
            }
            accept()
        });
        path.replace(rehearsal.path(Extension::Jsonl));
        let mut settled = 0;
        for _ in 0..3 {
            if let Ok(Progress::Settled(more)) = rehearsal.step() {
                settled += more.delivered;
            }
        }
        assert_eq!(rehearsal.server.numbers().concat(), numbers);
        assert_eq!(settled, delivered);
    }
}

#[test]
fn what_was_refused_before_the_server_was_away_is_not_given_up_when_it_works_again() {
    for log in [objects(0..3), starts(0..3)] {
        let answers = vec![refuse("no"), refuse("no"), later(None)];
        let mut rehearsal = Rehearsal::new(&log, in_order(answers));
        rehearsal.block();
        assert_eq!(rehearsal.settle().delivered, 3);
    }
}

#[test]
fn what_stands_behind_a_damaged_newline_is_no_damage_when_it_is_read_anew() {
    let log = format!("{}x{}", object(0).trim_end(), object(1));
    let away = Cell::new(true);
    let mut rehearsal = Rehearsal::new(&log, |sent| match sent.numbers() == [1] && away.get() {
        true => lost(),
        false => accept(),
    });
    // So often that the batch is read anew.
    for _ in 0..4 {
        rehearsal.step().unwrap();
    }
    away.set(false);
    rehearsal.deliver();
    assert_eq!(rehearsal.letters().len(), 1);
    assert_eq!(rehearsal.letters()[0]["raw_base64"], "eA==");
    assert_eq!(rehearsal.server.sent.last().unwrap().numbers(), [1]);
}

#[test]
fn where_no_object_is_taken_the_calls_are_and_a_bad_one_among_them_is_found() {
    for (calls, bad) in [(40..50, 0), (40..41, 0), (40..50, 45), (40..50, 49)] {
        let good = calls.len() - usize::from(bad > 0);
        let mut rehearsal = Rehearsal::new(&(objects(0..40) + &starts(calls)), |sent| {
            match sent.path == "/obj/create" || sent.numbers().contains(&bad) {
                true => refuse("no such type"),
                false => accept(),
            }
        });
        assert_eq!(rehearsal.settle().delivered as usize, good);
        assert_eq!(rehearsal.letters().len(), 40 + usize::from(bad > 0));
        assert!(rehearsal.server.sent.len() < 50);
    }
}

/// A server without this route, or without this answer.
fn older(route: Option<&str>, digests: &str) -> impl FnMut(&Sent) -> Answer {
    move |sent: &Sent| match Some(sent.path.as_str()) == route {
        true => Answer::Pause {
            why: "not found".to_owned(),
            status: Some(404),
        },
        false => Answer::Delivered {
            body: digests.into(),
        },
    }
}

#[test]
fn a_large_table_goes_whole_where_the_server_does_not_put_tables_together() {
    let table = r#"{"table":{"project_id":"e/p","rows":[1,2,3],"other":"what is not in a part"}}"#;
    let log = format!("{{\"type\":\"table_create\",\"req\":{table}}}\n");
    let route = "/table/create_from_digests";
    for (route, digests) in [
        (Some(route), r#"{"row_digests":["a","b","c"]}"#),
        (None, r#"{"digest":"d"}"#),
        (None, r#"{"digest":"d","row_digests":[]}"#),
    ] {
        let limits = BatchLimits {
            bytes: table.len() - 1,
            ..LIMITS
        };
        let mut rehearsal = Rehearsal::limited(limits, &log, older(route, digests));
        assert_eq!(rehearsal.settle().delivered, 1);
        let last = rehearsal.server.sent.last().unwrap();
        assert_eq!(
            (last.path.as_str(), last.body.as_str()),
            ("/table/create", table)
        );
    }
    // An answer that was cut off says nothing of that, nor does a wrong address.
    for (route, digests) in [
        (None, r#"{"digest":"d","row_dig"#),
        (None, r#"{"row_digests":["a"]}"#),
        (Some("/table/create"), ""),
    ] {
        let limits = BatchLimits {
            bytes: table.len() - 1,
            ..LIMITS
        };
        let mut rehearsal = Rehearsal::limited(limits, &log, older(route, digests));
        rehearsal.block();
        assert_eq!(rehearsal.server.sent.len(), 1);
    }
}

#[test]
fn where_large_requests_are_never_answered_few_of_them_are_sent() {
    let in_vain = Cell::new(0);
    let mut rehearsal = Rehearsal::of(8, &starts(0..400), |sent| match sent.numbers().len() > 3 {
        true => {
            in_vain.set(in_vain.get() + 1);
            lost()
        }
        false => accept(),
    });
    assert_eq!(rehearsal.deliver().delivered, 400);
    assert!(in_vain.get() < 30, "{}", in_vain.get());
}
