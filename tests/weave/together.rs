//! Several senders at one directory, and one that is killed and started again, while answers are
//! lost: every call is there once, with its end.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weave_wal::Client;

use super::helpers::*;
use super::proxy::{Fate, Proxy};
use super::server::server;
use super::sidecar::{Pod, Sidecar};

/// Starts `weave-wal send`. It says nothing, and ends on its own.
fn sender(root: &Path, url: &str) -> Child {
    let mut command = tool(root, url, &["send", "--timeout", "60"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Each half of each call in a log of its own.
fn plant_scattered(root: &Path, project: &str, calls: usize) {
    for n in 0..calls {
        plant(root, project, 2 * n as u64, &start_line(project, n));
        plant(root, project, 2 * n as u64 + 1, &end_line(project, n));
    }
}

/// Two senders at once, and many answers are lost.
fn two_senders(project: &str, calls: usize) {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let proxies = [0, 1].map(|_| {
        Proxy::start(server.port, |_, n| match n % 7 {
            1 => Fate::LoseAnswer,
            _ => Fate::Pass,
        })
    });
    plant_scattered(dir.path(), project, calls);
    let both = [0, 1].map(|n: usize| sender(dir.path(), &proxies[n].url()));
    for mut sender in both {
        sender.wait().unwrap();
    }
    assert!(proxies.iter().all(|proxy| proxy.has(Fate::LoseAnswer)));
    let dead: Vec<String> = files(dir.path(), "deadletter")
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(dead, Vec::<String>::new());
    send_all(dir.path(), &server.url());
    assert_whole(server, project, 0..calls);
}

#[test]
fn two_senders_and_lost_answers_count_each_call_once() {
    two_senders("team/together", 30);
}

#[test]
fn two_senders_and_lost_answers_count_each_call_once_where_whole_calls_are_wanted() {
    let Some(server) = server() else { return };
    server.make_v2("team/together-whole");
    two_senders("team/together-whole", 12);
}

/// A sender that cannot reach the server has the log with a start in its hands. Somebody else who
/// can, started by `second`, finds the end in another log.
fn an_end_is_found<T>(project: &str, second: impl FnOnce(&Path, &str) -> T) {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    server.make_v2(project);
    plant(dir.path(), project, 1, &start_line(project, 0));
    let may_pass = Arc::new(AtomicBool::new(false));
    let bad = Proxy::start(server.port, {
        let may_pass = Arc::clone(&may_pass);
        move |_, _| match may_pass.load(Ordering::SeqCst) {
            true => Fate::Pass,
            false => Fate::LoseRequest,
        }
    });
    let good = Proxy::start(server.port, |_, _| Fate::Pass);
    let mut first = sender(dir.path(), &bad.url());
    wait_until("it tries the start", || bad.has(Fate::LoseRequest));
    let end = plant(dir.path(), project, 2, &end_line(project, 0));
    let _second = second(dir.path(), &good.url());
    wait_until("the end is tried twice", || good.count("/call/end") > 1);
    may_pass.store(true, Ordering::SeqCst);
    assert!(first.wait().unwrap().success());
    wait_until("the end is dealt with", || !end.exists());
    assert_eq!(files(dir.path(), "deadletter"), Vec::<PathBuf>::new());
    assert_whole(server, project, 0..1);
}

#[test]
fn an_end_waits_for_a_start_that_another_sender_has_in_its_hands() {
    an_end_is_found("team/hands", Sidecar::start);
}

#[test]
fn an_end_that_a_client_finds_waits_for_a_start_in_a_senders_hands() {
    an_end_is_found("team/hands-client", |root, url| {
        Client::open(config(root, "team/hands-client", url)).unwrap()
    });
}

/// A sidecar beside a Python process whose log rotates. Three times it is killed between the server's
/// work on a request to `route` and its answer, and another one comes.
fn killed_sidecars(project: &str, route: &'static str, of_its_own: usize) {
    let Some(server) = server() else { return };
    let hold = Arc::new(AtomicBool::new(false));
    let proxy = Proxy::start(server.port, {
        let hold = Arc::clone(&hold);
        move |path, _| match path.starts_with(route) && hold.swap(false, Ordering::SeqCst) {
            true => Fate::HoldAnswer,
            false => Fate::Pass,
        }
    });
    let held = || {
        let seen = proxy.seen();
        let held = seen.iter().filter(|(_, fate)| *fate == Fate::HoldAnswer);
        held.count()
    };
    let mut pod = Pod::through(proxy.url(), server, project);
    pod.tell("rotate 1000");
    for kill in 0..3 {
        hold.store(true, Ordering::SeqCst);
        pod.tell("call 1");
        pod.tell("call 2");
        wait_until("an answer is held", || held() > kill);
        pod.replace_sidecar();
    }
    pod.end_python();
    assert_eq!(files(&pod.root, "deadletter"), Vec::<PathBuf>::new());
    assert_eq!(pod.ended_calls(), of_its_own + 6);
    assert_eq!(server.calls_by_id(project).len(), of_its_own + 6);
    assert_eq!(pod.stop_sidecar().0, Some(0));
}

#[test]
fn sidecars_that_are_killed_again_and_again_beside_python_deliver_each_call_once() {
    killed_sidecars("team/killed-sidecars", "/call/upsert_batch", 0);
}

#[test]
fn sidecars_that_are_killed_deliver_each_call_once_where_whole_calls_are_wanted() {
    let Some(server) = server() else { return };
    server.make_v2("team/killed-sidecars-whole");
    killed_sidecars("team/killed-sidecars-whole", "/v2/", 1);
}
