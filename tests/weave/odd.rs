//! What a log may hold that nobody would write on purpose: nothing of it is dropped, and its
//! neighbours arrive.

use std::path::Path;

use serde_json::{Value, json};

use super::helpers::*;
use super::server::{Server, server};

fn both(project: &str, n: usize) -> String {
    start_line(project, n) + &end_line(project, n)
}

/// The start of a call with something else as its inputs.
fn start_with(project: &str, n: usize, inputs: &str) -> String {
    let line = start_line(project, n);
    let odd = line.replace(&format!(r#"{{"n":{n}}}"#), inputs);
    assert_ne!(odd, line);
    odd
}

/// Runs a test in a new project, and in one that takes whole calls only.
fn in_both_modes(name: &str, test: impl Fn(&Server, &Path, &str)) {
    let Some(server) = server() else { return };
    let whole = format!("team/{name}-whole");
    server.make_v2(&whole);
    for project in [format!("team/{name}"), whole] {
        test(server, tempfile::tempdir().unwrap().path(), &project);
    }
}

/// Runs the tool: its exit status, its output and its messages.
fn run(root: &Path, server: &Server, args: &[&str]) -> (i32, String, String) {
    let ran = tool(root, &server.url(), args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        ran.status.code().unwrap(),
        text(ran.stdout),
        text(ran.stderr),
    )
}

#[test]
fn what_is_json_to_python_only_is_a_dead_letter_with_its_bytes() {
    in_both_modes("odd-json", |server, root, project| {
        let odd = [
            format!("\u{feff}{}", start_line(project, 7)),
            start_with(project, 7, r#"{"x":NaN}"#),
            start_with(project, 7, r#"{"x":Infinity}"#),
            start_with(project, 7, r#"{"x":-Infinity}"#),
        ];
        let log = [
            &odd[0],
            &both(project, 0),
            &odd[1],
            &odd[2],
            &odd[3],
            &both(project, 1),
        ];
        plant(root, project, 1, &log.map(String::as_str).concat());
        let records = || {
            let status: Value =
                serde_json::from_str(&run(root, server, &["status", "--json"]).1).unwrap();
            ["pending_records", "dead_records"].map(|key| status[key].as_u64().unwrap())
        };
        let (status, printed, named) = run(root, server, &["cat"]);
        assert_eq!((status, printed.lines().count()), (1, 4), "{named}");
        assert_eq!(named.matches("not JSON").count(), 4, "{named}");
        assert_eq!(records(), [4, 0]);

        let (status, said) = send(root, &server.url());
        let counted =
            ["delivered", "corrupt", "dead", "pending"].map(|key| said[key].as_u64().unwrap());
        assert_eq!((status, counted), (1, [4, 4, 0, 0]));
        assert_whole(server, project, 0..2);
        assert_eq!(records(), [0, 4]);

        let (status, said, _) = run(root, server, &["dead", "retry"]);
        assert_eq!(
            (status, said.as_str()),
            (1, "0 records put back, 4 dead letters kept\n")
        );
        assert!(files(root, "jsonl").is_empty());
        let mut kept = Vec::new();
        weave_wal::dead::read(&files(root, "deadletter")[0], &mut |_, letter| {
            assert!(letter.reason.starts_with("not JSON"), "{}", letter.reason);
            kept.push(String::from_utf8(letter.raw.clone().unwrap()).unwrap() + "\n");
            Ok(true)
        })
        .unwrap();
        assert_eq!(kept, odd);
    });
}

#[test]
fn odd_values_arrive() {
    in_both_modes("odd-values", |server, root, project| {
        let odd = [
            format!(r#"{{"x":1{}}}"#, "0".repeat(400)),
            format!(r#"{{"x":{}{}}}"#, "[".repeat(100), "]".repeat(100)),
            r#"{"x":1e999}"#.to_owned(),
            r#"{"\ud800":"\udfff"}"#.to_owned(),
            r#"{"a\u0000":"\u0000"}"#.to_owned(),
            r#"{"x":1,"x":2}"#.to_owned(),
            r#"{}"#.to_owned(),
        ];
        let mut log = both(project, 0).replace('\n', "\r\n");
        for (n, inputs) in odd.iter().enumerate() {
            log += &start_with(project, n + 1, inputs);
            // Of two keys the last one counts.
            log += r#"{"type":"call_start","req":{},"#;
            log += &end_line(project, n + 1)[1..];
        }
        plant(root, project, 1, &log);
        let halves = 2 * (1 + odd.len() as u64);
        assert_eq!(send_all(root, &server.url()), halves);
        let raw = server.ask("/calls/stream_query", json!({"project_id": project}));
        let raw = String::from_utf8(raw).unwrap();
        let has = |n: usize, inputs: &str| {
            let found = raw.lines().find(|line| line.contains(&id(n))).unwrap();
            assert!(found.contains(inputs), "{inputs}: {found}");
            assert!(found.contains(r#""ended_at": "2026"#), "{found}");
        };
        has(1, &format!("1{}", "0".repeat(400)));
        has(2, &"[".repeat(100));
        has(4, "\\udfff");
        has(5, "\\u0000");
        has(6, "2");
        (1..=odd.len()).for_each(|n| has(n, "inputs"));
    });
}

#[test]
fn empty_requests_are_dead_letters_and_their_neighbours_arrive() {
    in_both_modes("odd-empty", |server, root, project| {
        let kinds = [
            "call_start",
            "call_end",
            "obj_create",
            "table_create",
            "file_create",
        ];
        let mut log = both(project, 0);
        for kind in kinds {
            log += &format!("{{\"type\":\"{kind}\",\"req\":{{}}}}\n");
        }
        log += "{\"type\":\"call_start\",\"req\":{\"start\":null}}\n{\"type\":\"call_end\",\"req\":[]}\n";
        plant(root, project, 1, &(log + &both(project, 1)));
        let (status, said) = send(root, &server.url());
        let counted =
            ["delivered", "dead", "corrupt", "pending"].map(|key| said[key].as_u64().unwrap());
        assert_eq!((status, counted), (1, [4, 6, 1, 0]), "{said}");
        assert_whole(server, project, 0..2);
    });
}
