//! Projects that take whole calls only: nothing lost, nothing twice, whatever breaks.

use std::fmt::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use weave_wal::Client;

use super::helpers::*;
use super::proxy::{Fate, Proxy};
use super::server::{KEY, server};

/// Starts and ends of calls, each pair together.
fn pairs(project: &str, numbers: std::ops::Range<usize>) -> String {
    numbers.fold(String::new(), |mut log, n| {
        write!(log, "{}{}", start_line(project, n), end_line(project, n)).unwrap();
        log
    })
}

#[test]
fn a_new_project_is_written_in_halves() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(server.port, |_, _| Fate::Pass);
    plant(dir.path(), "team/v1", 1, &pairs("team/v1", 0..50));
    assert_eq!(send_all(dir.path(), &proxy.url()), 100);
    assert_eq!(proxy.count("/call/upsert_batch"), 1);
    assert_whole(server, "team/v1", 0..50);
}

#[test]
fn a_project_that_takes_whole_calls_only_gets_them_and_that_is_remembered() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/v2-remembered";
    server.make_v2(project);
    let proxy = Proxy::start(server.port, |_, _| Fate::Pass);
    plant(dir.path(), project, 1, &pairs(project, 0..300));
    assert_eq!(send_all(dir.path(), &proxy.url()), 600);
    assert_eq!(proxy.count("/call/upsert_batch"), 1, "the refused one");
    assert_eq!(proxy.count("/calls/complete"), 1);
    assert_eq!(proxy.count("/call/start") + proxy.count("/call/end"), 0);
    plant(dir.path(), project, 2, &pairs(project, 300..310));
    assert_eq!(send_all(dir.path(), &proxy.url()), 20);
    assert_eq!(proxy.count("/call/upsert_batch"), 1, "it is remembered");
    assert_whole(server, project, 0..310);
}

#[test]
fn a_call_that_runs_long_is_shown_before_it_ends() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/v2-long";
    server.make_v2(project);
    let client = Client::open(config(dir.path(), project, &server.url())).unwrap();
    client.call_start(&start(project, 0)).unwrap();
    append_calls(&client, project, 1..5);
    let took = wait_until("the start is sent without its end", || {
        server.has_call(project, &id(0))
    });
    println!("held back for {took:.1?}");
    client.call_end(&end(project, 0)).unwrap();
    assert!(client.finish(LONG).is_complete());
    assert_whole(server, project, 0..5);
}

#[test]
fn calls_that_end_soon_are_not_sent_one_by_one_by_a_sidecar() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/v2-soon";
    server.make_v2(project);
    let proxy = Proxy::start(server.port, |_, _| Fate::Pass);
    // The mode is known before the calls begin.
    plant(dir.path(), project, 1, &pairs(project, 0..1));
    send_all(dir.path(), &proxy.url());
    let client = writer(dir.path(), project);
    let args = ["send", "--watch"];
    let mut sidecar = tool(dir.path(), &proxy.url(), &args).spawn().unwrap();
    for n in 1..20 {
        client.call_start(&start(project, n)).unwrap();
    }
    client.sync().unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    for n in 1..20 {
        client.call_end(&end(project, n)).unwrap();
    }
    client.sync().unwrap();
    wait_until("all calls", || server.calls(project).len() == 21);
    drop(client);
    wait_until("removal", || files(dir.path(), "jsonl").is_empty());
    sidecar.kill().unwrap();
    sidecar.wait().unwrap();
    assert_whole(server, project, 0..20);
    assert_eq!(proxy.count("/call/start"), 0, "{:?}", proxy.seen());
}

#[test]
fn an_end_far_from_its_start_is_not_lost() {
    let Some(server) = server() else { return };
    let project = "team/v2-far";
    server.make_v2(project);
    // Ends before their starts and behind them, further apart than one batch reaches.
    for (stamp, first, second) in [(1, 0, 1), (2, 1, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let base = 10_000 * stamp;
        let halves = [start_line(project, base), end_line(project, base)];
        let log = [
            &halves[first],
            &pairs(project, base + 1..base + 5001),
            &halves[second],
        ]
        .map(String::as_str)
        .concat();
        plant(dir.path(), project, stamp as u64, &log);
        assert_eq!(send_all(dir.path(), &server.url()), 10_002);
        let calls = server.calls_by_id(project);
        assert_eq!(calls[&id(base)]["output"], json!({"n": base}));
        assert_eq!(calls.len(), 1 + 5001 * stamp);
    }
}

#[test]
fn an_end_in_an_older_file_than_its_start_is_not_lost() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/v2-older";
    server.make_v2(project);
    plant(dir.path(), project, 1, &end_line(project, 0));
    plant(dir.path(), project, 2, &start_line(project, 0));
    assert_eq!(send_all(dir.path(), &server.url()), 2);
    assert_whole(server, project, 0..1);
}

#[test]
fn logs_whose_ends_wait_for_each_other_lose_none_and_send_nothing_twice() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/v2-crosswise";
    server.make_v2(project);
    let object = json!({"obj": {"project_id": project, "object_id": "o", "val": 1}});
    let object = json!({"type": "obj_create", "req": object});
    for (stamp, ends, starts) in [(1, 0, 1), (2, 1, 0)] {
        let (end, start) = (end_line(project, ends), start_line(project, starts));
        plant(
            dir.path(),
            project,
            stamp,
            &format!("{object}\n{end}{start}"),
        );
    }
    let proxy = Proxy::start(server.port, |_, _| Fate::Pass);
    assert_eq!(send_all(dir.path(), &proxy.url()), 6);
    assert_eq!(proxy.count("/obj/create"), 2);
    assert_whole(server, project, 0..2);
}

#[test]
fn an_end_without_a_start_anywhere_is_kept_as_a_dead_letter() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/v2-orphan";
    server.make_v2(project);
    let log = format!("{}{}", end_line(project, 7), pairs(project, 0..3));
    plant(dir.path(), project, 1, &log);
    let (status, said) = send(dir.path(), &server.url());
    assert_eq!(
        (status, &said["delivered"], &said["dead"]),
        (1, &json!(6), &json!(1))
    );
    // Once its start is there, it can be put back.
    plant(dir.path(), project, 2, &start_line(project, 7));
    send(dir.path(), &server.url());
    let retried = tool(dir.path(), &server.url(), &["dead", "retry"])
        .status()
        .unwrap();
    assert!(retried.success());
    assert_eq!(send_all(dir.path(), &server.url()), 1);
    let calls = server.calls_by_id(project);
    assert_eq!(calls[&id(7)]["output"], json!({"n": 7}));
}

#[test]
fn a_wrong_url_costs_no_record_in_whole_mode_either() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/v2-wrong-url";
    server.make_v2(project);
    plant(dir.path(), project, 1, &pairs(project, 0..1));
    send_all(dir.path(), &server.url());
    plant(dir.path(), project, 2, &end_line(project, 1));
    plant(dir.path(), project, 3, &pairs(project, 2..3));
    let wrong = format!("{}/nowhere", server.url());
    let args = ["send", "--json", "--timeout", "3"];
    let ran = tool(dir.path(), &wrong, &args).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(
        (&said["dead"], &said["pending"]),
        (&json!(0), &json!(3)),
        "{said}"
    );
    assert!(said["paused"].is_string(), "{said}");
    plant(dir.path(), project, 1, &start_line(project, 1));
    assert_eq!(send_all(dir.path(), &server.url()), 4);
    assert_whole(server, project, 0..3);
}

/// Everything of a v2 project behind a proxy that does as it is told.
fn through_a_bad_line(
    name: &str,
    calls: usize,
    plan: impl FnMut(&str, usize) -> Fate + Send + 'static,
) -> Option<Proxy> {
    let server = server()?;
    let dir = tempfile::tempdir().unwrap();
    let project = format!("team/{name}");
    server.make_v2(&project);
    let proxy = Proxy::start(server.port, plan);
    plant(dir.path(), &project, 1, &pairs(&project, 0..calls));
    assert_eq!(send_all(dir.path(), &proxy.url()), 2 * calls as u64);
    assert_whole(server, &project, 0..calls);
    Some(proxy)
}

#[test]
fn a_lost_answer_makes_no_duplicates() {
    let mut lost = false;
    let proxy = through_a_bad_line("v2-lost", 800, move |path, _| {
        let now = path.ends_with("/calls/complete") && !std::mem::replace(&mut lost, true);
        if now { Fate::LoseAnswer } else { Fate::Pass }
    });
    assert!(proxy.is_none_or(|proxy| proxy.has(Fate::LoseAnswer)));
}

#[test]
fn many_lost_answers_make_no_duplicates() {
    // Long enough in a row that the batches become smaller.
    let mut lost = 0;
    let proxy = through_a_bad_line("v2-lost-row", 1200, move |path, _| {
        let counts = lost > 0 || path.ends_with("/calls/complete");
        lost += usize::from(counts);
        if counts && lost <= 5 {
            Fate::LoseAnswer
        } else {
            Fate::Pass
        }
    });
    assert!(proxy.is_none_or(|proxy| proxy.has(Fate::LoseAnswer)));
}

#[test]
fn every_third_answer_lost_makes_no_duplicates() {
    through_a_bad_line("v2-lost-third", 500, |_, n| match n % 3 {
        1 => Fate::LoseAnswer,
        _ => Fate::Pass,
    });
}

#[test]
fn a_lost_request_loses_no_call() {
    through_a_bad_line("v2-lost-request", 600, |_, n| match n % 5 {
        1 | 2 => Fate::LoseRequest,
        _ => Fate::Pass,
    });
}

#[test]
fn what_a_cut_answer_leaves_out_is_not_taken_for_missing() {
    let mut completed = false;
    let mut cut = 0;
    let proxy = through_a_bad_line("v2-cut", 700, move |path, _| {
        if path.ends_with("/calls/complete") && !std::mem::replace(&mut completed, true) {
            return Fate::LoseAnswer;
        }
        cut += usize::from(path == "/calls/stream_query");
        let now = path == "/calls/stream_query" && cut <= 2;
        if now { Fate::CutAnswer } else { Fate::Pass }
    });
    assert!(proxy.is_none_or(|proxy| proxy.has(Fate::CutAnswer)));
}

#[test]
fn a_start_whose_answer_was_lost_is_not_sent_after_its_end() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/v2-start";
    server.make_v2(project);
    let mut lost = 0;
    let proxy = Proxy::start(server.port, move |path, _| {
        let half = path.ends_with("/call/start") || path.ends_with("/call/end");
        lost += usize::from(half);
        if half && lost % 2 == 1 {
            Fate::LoseAnswer
        } else {
            Fate::Pass
        }
    });
    let client = Client::open(config(dir.path(), project, &proxy.url())).unwrap();
    for n in 0..6 {
        client.call_start(&start(project, n)).unwrap();
    }
    // Held back at first, then all of them go alone.
    wait_until("the starts arrive", || server.calls(project).len() == 7);
    for n in 0..6 {
        client.call_end(&end(project, n)).unwrap();
    }
    let receipt = client.finish(LONG);
    assert!(receipt.is_complete(), "{receipt:?}");
    assert!(proxy.has(Fate::LoseAnswer));
    assert_whole(server, project, 0..6);
}

#[test]
fn a_sender_killed_between_the_servers_work_and_its_answer_duplicates_nothing() {
    let Some(server) = server() else { return };
    // At the whole calls, at a start alone, at an end alone.
    for (n, at) in ["/calls/complete", "/call/start", "/call/end"]
        .into_iter()
        .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        let project = format!("team/v2-killed-{n}");
        server.make_v2(&project);
        let proxy = Proxy::start(server.port, move |path, _| match path.ends_with(at) {
            true => Fate::HoldAnswer,
            false => Fate::Pass,
        });
        plant(dir.path(), &project, 1, &start_line(&project, 0));
        plant(
            dir.path(),
            &project,
            2,
            &(end_line(&project, 0) + &pairs(&project, 1..900)),
        );
        let args = ["send", "--timeout", "60"];
        let mut sender = tool(dir.path(), &proxy.url(), &args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the server has applied it", || proxy.has(Fate::HoldAnswer));
        sender.kill().unwrap();
        sender.wait().unwrap();
        send_all(dir.path(), &server.url());
        assert_whole(server, &project, 0..900);
    }
}

#[test]
fn a_larger_batch_of_a_dead_process_is_looked_up_as_a_whole() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let project = "team/v2-large-batch";
    server.make_v2(project);
    // What a process leaves that had applied far more than one batch here and died over it.
    for numbers in [0..500, 500..1000, 1000..1300] {
        let calls: Vec<_> = numbers
            .map(|n| {
                let (mut call, end) = (start(project, n), end(project, n));
                call.as_object_mut()
                    .unwrap()
                    .extend(end.as_object().unwrap().clone());
                call
            })
            .collect();
        server.ask(
            &format!("/v2/{project}/calls/complete"),
            json!({"batch": calls}),
        );
    }
    plant(dir.path(), project, 1, &pairs(project, 0..1500));
    assert_eq!(send_all(dir.path(), &server.url()), 3000);
    assert_whole(server, project, 0..1500);
}

#[test]
fn the_key_is_in_no_file() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = Client::open(config(dir.path(), "team/key", &server.url())).unwrap();
    append_calls(&client, "team/key", 0..3);
    client.sync().unwrap();
    for extension in ["jsonl", "lock", "checkpoint", "deadletter"] {
        for path in files(dir.path(), extension) {
            assert!(!std::fs::read_to_string(path).unwrap().contains(KEY));
        }
    }
    assert!(client.finish(LONG).is_complete());
}
