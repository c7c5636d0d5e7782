use std::fs;
use std::time::Duration;

use super::*;
use crate::http::Answer;
use crate::rehearsal::*;

/// A directory of logs, named by numbers, and who delivers them.
struct Logs {
    _dir: tempfile::TempDir,
    lane: Lane,
}

impl Logs {
    fn new(logs: &[&str]) -> Logs {
        let dir = tempfile::tempdir().unwrap();
        let mut logs_here = Logs {
            lane: Lane::new(Directory::at(dir.path())),
            _dir: dir,
        };
        for (n, log) in logs.iter().enumerate() {
            fs::write(logs_here.path(n, Extension::Jsonl), log).unwrap();
        }
        logs_here.look();
        logs_here
    }

    fn name(n: usize) -> FileName {
        FileName::parse(format!("{n}_a.jsonl").as_ref()).unwrap().0
    }

    fn path(&self, n: usize, extension: Extension) -> std::path::PathBuf {
        self.lane.directory.file(&Logs::name(n), extension)
    }

    fn append(&self, n: usize, lines: &str) {
        let path = self.path(n, Extension::Jsonl);
        let mut log = fs::OpenOptions::new().append(true).open(path).unwrap();
        std::io::Write::write_all(&mut log, lines.as_bytes()).unwrap();
    }

    /// A writer that lives as long as this.
    fn writer(&self, n: usize) -> fs::File {
        let lock = fs::File::create(self.path(n, Extension::Lock)).unwrap();
        assert!(crate::sys::try_flock(&lock).unwrap());
        lock
    }

    fn look(&mut self) {
        let names = self.lane.directory.logs().unwrap();
        self.lane.found(names);
    }

    /// Steps until there is nothing more to do; how many records were delivered.
    fn pass(&mut self, server: &mut Server<'_>) -> u64 {
        let mut delivered = 0;
        while let Some(settled) = self.lane.step(server, true) {
            delivered += settled.delivered;
        }
        delivered
    }

    fn letters(&self, n: usize) -> usize {
        let letters = fs::read_to_string(self.path(n, Extension::Deadletter)).unwrap_or_default();
        letters.lines().count()
    }

    fn unfinished(&self) -> Vec<usize> {
        let named = |name: &FileName| (0..9).find(|n| Logs::name(*n) == *name).unwrap();
        self.lane.unfinished().into_iter().map(named).collect()
    }
}

/// A project that takes whole calls only.
fn whole_calls() -> impl FnMut(&Sent) -> Answer {
    let mut known: Vec<usize> = Vec::new();
    move |sent: &Sent| {
        let asked = || {
            known
                .iter()
                .filter(|n| sent.body.contains(&format!("\"n{n}\"")))
        };
        let body = match sent.path.rsplit('/').next().unwrap() {
            "upsert_batch" => return required(),
            "end" if asked().count() == 0 => {
                return Answer::Pause {
                    why: "not found".to_owned(),
                    status: Some(404),
                };
            }
            "stream_query" => asked().map(|n| format!("{{\"id\":\"n{n}\"}}\n")).collect(),
            "query_stats" => format!("{{\"count\":{}}}", asked().count()),
            "start" => {
                known.extend(sent.numbers());
                String::new()
            }
            _ => String::new(),
        };
        Answer::Delivered {
            body: body.into_bytes(),
        }
    }
}

/// What was sent, without the questions.
fn written(server: &Server<'_>) -> Vec<(String, Vec<usize>)> {
    let sent = server.sent.iter();
    let sent = sent.filter(|sent| sent.path.starts_with("/v2") || sent.path.ends_with("_batch"));
    sent.map(|sent| {
        (
            sent.path.rsplit('/').next().unwrap().to_owned(),
            sent.numbers(),
        )
    })
    .collect()
}

#[test]
fn the_oldest_log_goes_first_and_each_is_removed_when_it_is_delivered() {
    let mut logs = Logs::new(&[&starts(0..2), &start(2), ""]);
    let mut server = Server::new(|_| accept());
    assert_eq!(logs.unfinished(), [0, 1, 2]);
    assert!(logs.lane.step(&mut server, true).is_some());
    assert_eq!(logs.unfinished(), [0, 1, 2]);
    assert_eq!(logs.pass(&mut server), 1);
    assert_eq!(server.numbers(), [vec![0, 1], vec![2]]);
    assert!(logs.unfinished().is_empty());
    assert!(logs.lane.directory.entries().unwrap().is_empty());
    assert_eq!(logs.lane.error, None);
}

#[test]
fn before_the_next_attempt_nothing_is_sent() {
    let mut logs = Logs::new(&[&start(0)]);
    let mut server = Server::new(|_| later(Some(Duration::from_secs(3600))));
    for _ in 0..3 {
        assert!(logs.lane.step(&mut server, true).is_none());
    }
    assert_eq!(server.sent.len(), 1);
    assert_eq!(logs.lane.error.as_deref(), Some("later"));
    assert_eq!(logs.unfinished(), [0]);
}

#[test]
fn a_live_log_stays_and_what_is_written_to_it_later_goes_too() {
    let mut logs = Logs::new(&[&start(0)]);
    let writer = logs.writer(0);
    let mut server = Server::new(|_| accept());
    assert_eq!(logs.pass(&mut server), 1);
    assert!(logs.path(0, Extension::Jsonl).exists());
    assert!(logs.unfinished().is_empty());
    // What comes while it is open, when the others have had their turn.
    logs.append(0, &start(1));
    logs.look();
    assert!(logs.lane.step(&mut server, true).is_some());
    logs.append(0, &start(2));
    logs.look();
    assert_eq!(logs.unfinished(), [0], "it is there once");
    assert_eq!(logs.pass(&mut server), 0);
    logs.look();
    assert_eq!(logs.pass(&mut server), 1);
    drop(writer);
    logs.look();
    logs.pass(&mut server);
    assert!(!logs.path(0, Extension::Jsonl).exists());
}

#[test]
fn a_log_that_another_delivers_is_looked_at_again_and_holds_up_no_other() {
    let mut logs = Logs::new(&[&start(0), &start(1)]);
    let other = Drain::open(&logs.lane.directory, &Logs::name(0), false).unwrap();
    let mut server = Server::new(|_| accept());
    assert_eq!(logs.pass(&mut server), 1);
    assert_eq!(logs.unfinished(), [0]);
    drop(other);
    assert_eq!(logs.pass(&mut server), 0);
    logs.look();
    assert_eq!(logs.pass(&mut server), 1);
    assert_eq!(server.numbers(), [[1], [0]]);
    // One that is gone is not waited for.
    let mut logs = Logs::new(&[&start(0)]);
    fs::remove_file(logs.path(0, Extension::Jsonl)).unwrap();
    assert_eq!(logs.pass(&mut server), 0);
    assert!(logs.unfinished().is_empty());
}

#[test]
fn while_our_configuration_is_wrong_another_may_deliver_the_log() {
    // A lost answer is another matter: here it is known what may have arrived.
    for (answer, may_be_taken) in [(pause("the key"), true), (lost(), false)] {
        let mut logs = Logs::new(&[&start(0)]);
        let mut answer = Some(answer);
        let mut server = Server::new(|_| answer.take().unwrap());
        assert!(logs.lane.step(&mut server, true).is_none());
        let taken = Drain::open(&logs.lane.directory, &Logs::name(0), false).unwrap();
        assert_eq!(taken.is_some(), may_be_taken);
        assert_eq!(logs.unfinished(), [0]);
    }
}

#[test]
fn calls_that_still_run_hold_up_no_other_log_and_it_is_known_until_when() {
    let mut logs = Logs::new(&[&start(0), &start(1)]);
    let writer = logs.writer(0);
    logs.lane.directory.remember_whole_calls();
    let mut server = Server::new(whole_calls());
    assert_eq!(logs.lane.release_at(), None);
    let before = Instant::now();
    assert_eq!(logs.pass(&mut server), 1);
    let release = logs.lane.release_at().unwrap();
    assert!(release >= before + HOLD && release <= Instant::now() + HOLD);
    assert_eq!(written(&server), [("start".to_owned(), vec![1])]);
    assert_eq!(logs.unfinished(), [0]);
    // Its end comes.
    logs.append(0, &end(0));
    logs.look();
    assert_eq!(logs.pass(&mut server), 2);
    assert_eq!(written(&server)[1..], [("complete".to_owned(), vec![0])]);
    drop(writer);
}

#[test]
fn an_end_waits_for_the_start_in_a_later_log() {
    let mut logs = Logs::new(&[&end(0), &start(0)]);
    logs.lane.directory.remember_whole_calls();
    let mut server = Server::new(whole_calls());
    assert_eq!(logs.pass(&mut server), 2);
    let sent = written(&server);
    let sent: Vec<_> = sent
        .iter()
        .map(|(route, numbers)| (route.as_str(), numbers[0]))
        .collect();
    assert_eq!(sent, [("end", 0), ("start", 0), ("end", 0)]);
    assert!(logs.lane.directory.entries().unwrap().is_empty());
}

#[test]
fn an_end_waits_for_the_start_in_a_log_that_another_delivers() {
    let mut logs = Logs::new(&[&(start(1) + &end(0)), &start(0)]);
    logs.lane.directory.remember_whole_calls();
    let other = Drain::open(&logs.lane.directory, &Logs::name(1), false).unwrap();
    let mut server = Server::new(whole_calls());
    for front in [1, 0, 0] {
        assert_eq!(logs.pass(&mut server), front);
        let mut unfinished = logs.unfinished();
        unfinished.sort_unstable();
        assert_eq!(unfinished, [0, 1]);
        logs.look();
    }
    drop(other);
    // The start, and then the end.
    assert_eq!(logs.pass(&mut server), 1);
    logs.look();
    assert_eq!(logs.pass(&mut server), 1);
    let starts = written(&server)
        .into_iter()
        .filter(|(route, _)| route == "start");
    assert_eq!(starts.count(), 2, "none is sent twice");
    assert!(!logs.path(0, Extension::Deadletter).exists());
}

#[test]
fn an_end_whose_start_is_nowhere_is_given_up_when_there_is_nothing_else() {
    let mut logs = Logs::new(&[&end(0), &starts(1..3)]);
    logs.lane.directory.remember_whole_calls();
    let mut server = Server::new(whole_calls());
    assert_eq!(logs.pass(&mut server), 2);
    assert!(logs.path(0, Extension::Deadletter).exists());
    assert!(logs.unfinished().is_empty());
}

#[test]
fn what_cannot_be_settled_is_told_once_and_kept_and_not_sent_again() {
    let mut logs = Logs::new(&[&start(0)]);
    let checkpoint = logs.path(0, Extension::Checkpoint);
    let in_the_way = crate::checkpoint::temporary(&checkpoint);
    fs::create_dir(&in_the_way).unwrap();
    let mut server = Server::new(|_| accept());
    for _ in 0..2 {
        assert!(logs.lane.step(&mut server, true).is_none());
    }
    assert!(matches!(server.events[..], [Event::Degraded { .. }]));
    assert_eq!(logs.unfinished(), [0]);
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(logs.pass(&mut server), 1);
    assert_eq!(server.sent.len(), 1);
}

#[test]
fn a_log_of_refused_records_is_in_the_way_of_no_other_and_given_up_when_others_are_taken() {
    let bad = start(0) + &end(0);
    let mut logs = Logs::new(&[&bad, &(start(1) + &end(1)), &(start(2) + &end(2))]);
    let mut server = Server::new(|sent| match sent.numbers().contains(&0) {
        true => refuse("no such id"),
        false => accept(),
    });
    for _ in 0..3 {
        logs.lane.replay.hurry();
        logs.pass(&mut server);
        logs.look();
    }
    assert!(logs.unfinished().is_empty(), "{:?}", logs.unfinished());
    let taken = server.numbers().concat();
    assert!(taken.contains(&1) && taken.contains(&2));
    assert_eq!(logs.letters(0), 2);
}

#[test]
fn a_log_of_refused_records_stays_while_nothing_else_is_taken() {
    let mut logs = Logs::new(&[&(start(0) + &end(0)), &(start(1) + &end(1))]);
    let mut server = Server::new(|_| refuse("whatever it is"));
    for _ in 0..6 {
        logs.lane.replay.hurry();
        logs.pass(&mut server);
        logs.look();
    }
    let mut unfinished = logs.unfinished();
    unfinished.sort_unstable();
    assert_eq!(unfinished, [0, 1]);
    assert_eq!((logs.letters(0), logs.letters(1)), (0, 0));
    // Both are tried.
    let tried = server.numbers().concat();
    assert!(tried.contains(&0) && tried.contains(&1));
}

#[test]
fn a_dead_letter_is_written_once_however_often_its_checkpoint_fails() {
    let mut logs = Logs::new(&[&start(0)]);
    let mut server = Server::new(|_| refuse("no such id"));
    let checkpoint = logs.path(0, Extension::Checkpoint);
    fs::create_dir(&checkpoint).unwrap();
    for _ in 0..3 {
        assert_eq!(logs.pass(&mut server), 0);
        logs.look();
    }
    fs::remove_dir(&checkpoint).unwrap();
    logs.pass(&mut server);
    assert!(logs.unfinished().is_empty());
    assert_eq!((logs.letters(0), server.sent.len()), (1, 1));
}

#[test]
fn a_few_refused_at_the_end_of_the_only_log_are_given_up_if_the_rest_of_it_was_taken() {
    let mut logs = Logs::new(&[&(start(0) + &end(0))]);
    let writer = logs.writer(0);
    let mut server = Server::new(|sent| match sent.numbers().contains(&1) {
        true => refuse("no such id"),
        false => accept(),
    });
    assert_eq!(logs.pass(&mut server), 2);
    logs.append(0, &(start(1) + &end(1)));
    drop(writer);
    logs.look();
    logs.pass(&mut server);
    assert!(logs.unfinished().is_empty());
    assert_eq!(logs.letters(0), 2);
}

#[test]
fn dead_letters_that_cannot_be_written_hold_up_no_other_log_and_nothing_goes_twice() {
    for bad in [start(0), start(0) + &end(1)] {
        let mut logs = Logs::new(&[&bad, &start(2), &start(3)]);
        let mut server = Server::new(|sent| match sent.numbers().contains(&0) {
            true => refuse("no such id"),
            false => accept(),
        });
        let letters = logs.path(0, Extension::Deadletter);
        fs::create_dir(&letters).unwrap();
        for _ in 0..3 {
            logs.pass(&mut server);
            assert_eq!(logs.unfinished(), [0]);
            assert_eq!(logs.lane.release_at(), None);
            logs.look();
        }
        let sent = server.sent.len();
        assert_eq!(server.numbers()[sent - 2..], [[2], [3]]);
        let told = |event: &&Event| matches!(event, Event::Degraded { .. });
        assert_eq!(server.events.iter().filter(told).count(), 1);
        fs::remove_dir(&letters).unwrap();
        logs.pass(&mut server);
        assert!(logs.unfinished().is_empty());
        assert_eq!((logs.letters(0), server.sent.len()), (1, sent));
    }
}

#[test]
fn among_very_many_lanes_no_file_stays_open_without_need() {
    let mut logs = Logs::new(&[&start(0), &start(1)]);
    logs.lane.room = 0;
    let mut answers = vec![lost()].into_iter();
    let mut server = Server::new(move |_| answers.next().unwrap_or_else(accept));
    let is_free = |logs: &Logs, n| {
        let drain = Drain::open(&logs.lane.directory, &Logs::name(n), false);
        drain.unwrap().is_some()
    };
    assert!(logs.lane.step(&mut server, true).is_none());
    assert!(is_free(&logs, 0));
    assert_eq!(logs.unfinished(), [0, 1]);
    logs.lane.replay.hurry();
    assert!(logs.lane.step(&mut server, true).is_some());
    assert!(is_free(&logs, 0));
    assert_eq!(logs.pass(&mut server), 1);
    assert_eq!(server.numbers(), [[0], [0], [1]]);
    assert!(logs.lane.directory.entries().unwrap().is_empty());
}

#[test]
fn among_very_many_lanes_no_call_is_held_back() {
    let mut logs = Logs::new(&[&start(0)]);
    let _writer = logs.writer(0);
    logs.lane.directory.remember_whole_calls();
    logs.lane.room = 0;
    let mut server = Server::new(whole_calls());
    assert_eq!(logs.pass(&mut server), 1);
    assert!(logs.unfinished().is_empty());
}

#[test]
fn logs_that_have_not_had_their_turn_go_before_those_that_grow() {
    let mut logs = Logs::new(&[&start(0), &start(1), &start(2)]);
    let _writers = [logs.writer(0), logs.writer(1)];
    let mut server = Server::new(|_| accept());
    for n in 3..7 {
        assert!(logs.lane.step(&mut server, true).is_some());
        logs.append(0, &start(n));
        logs.look();
    }
    assert_eq!(server.numbers()[..3], [[0], [1], [2]]);
}

#[test]
fn that_dead_letters_cannot_be_written_is_told_once_however_many_logs_that_is_about() {
    let logs: Vec<String> = (0..4).map(|n| format!("oops\n{}", start(n))).collect();
    let logs: Vec<&str> = logs.iter().map(String::as_str).collect();
    let mut logs = Logs::new(&logs);
    let mut server = Server::new(|_| accept());
    (0..4).for_each(|n| fs::create_dir(logs.path(n, Extension::Deadletter)).unwrap());
    for _ in 0..5 {
        logs.pass(&mut server);
        logs.look();
    }
    let told = |event: &&Event| matches!(event, Event::Degraded { .. });
    assert_eq!(server.events.iter().filter(told).count(), 1);
    assert!(logs.lane.error.is_some());
}

#[test]
fn while_no_dead_letter_can_be_written_no_more_is_given_up_than_otherwise() {
    let mut logs = Logs::new(&[&start(0), &start(1), &start(2)]);
    let mut server = Server::new(|_| refuse("whatever it is"));
    let letters = [0, 1, 2].map(|n| logs.path(n, Extension::Deadletter));
    for path in &letters {
        fs::create_dir(path).unwrap();
    }
    let look = |logs: &mut Logs, server: &mut Server<'_>| {
        logs.look();
        logs.lane.replay.hurry();
        logs.pass(server);
    };
    (0..4).for_each(|_| look(&mut logs, &mut server));
    for path in &letters {
        fs::remove_dir(path).unwrap();
    }
    (0..4).for_each(|_| look(&mut logs, &mut server));
    assert_eq!([0, 1, 2].map(|n| logs.letters(n)), [1, 0, 0]);
    assert_eq!(logs.unfinished().len(), 2);
    assert!(logs.lane.replay.paused().is_some());
}

#[test]
fn what_waits_for_its_dead_letters_keeps_no_more_of_its_log_in_memory() {
    let log = starts(0..3 * config::BATCH_RECORDS);
    let mut logs = Logs::new(&[&log, &start(9)]);
    let bad = config::BATCH_RECORDS + 1;
    let mut server = Server::new(|sent| match sent.numbers().contains(&bad) {
        true => refuse("no such id"),
        false => accept(),
    });
    fs::create_dir(logs.path(0, Extension::Deadletter)).unwrap();
    logs.pass(&mut server);
    let held = &logs.lane.held;
    assert!(held.len() == 1 && held[0].ahead.is_none());
}

#[test]
fn among_very_many_lanes_a_log_that_grows_keeps_no_other_back_and_comes_to_an_end() {
    let mut logs = Logs::new(&[&start(0), &start(1)]);
    let _writer = logs.writer(0);
    logs.lane.room = 0;
    let mut server = Server::new(|_| accept());
    for n in 2..9 {
        logs.lane.step(&mut server, true);
        logs.append(0, &start(n));
    }
    assert_eq!(server.numbers(), [[0], [1]]);
    assert!(logs.unfinished().is_empty());
    logs.look();
    assert_eq!(logs.pass(&mut server), 7);
}
