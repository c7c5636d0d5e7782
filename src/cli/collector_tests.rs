//! The collector is what other tests believe in, so it has some of its own.

use super::collector::{Collector, Mode};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const START: &str =
    r#"{"mode":"start","req":{"start":{"project_id":"e/p","id":"a","trace_id":"t","x":1.0e2}}}"#;
const END: &str = r#"{"mode":"end","req":{ "end" :{"project_id":"e/p","id":"a"}}}"#;

/// The status and body of the answer; 0 if there was none.
fn post(collector: &Collector, path: &str, content_type: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", collector.port())).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) => (head[9..12].parse().unwrap(), body.to_owned()),
        None => (0, answer),
    }
}

fn batch(collector: &Collector, items: &[&str]) -> (u16, String) {
    let body = format!("{{\"batch\":[{}]}}", items.join(","));
    post(collector, "/call/upsert_batch", "application/json", &body)
}

#[test]
fn a_batch_is_applied_in_order_and_byte_for_byte() {
    let collector = Collector::start().unwrap();
    let (status, answer) = batch(&collector, &[END, START]);
    assert_eq!(status, 200);
    assert_eq!(answer, r#"{"res":[{},{"id":"a","trace_id":"t"}]}"#);
    let received = collector.received();
    assert_eq!(
        received[0].req,
        r#"{ "end" :{"project_id":"e/p","id":"a"}}"#
    );
    assert_eq!(
        (received[1].kind.as_str(), received[1].id.as_str()),
        ("call_start", "a")
    );
    assert!(received[1].req.contains(r#""x":1.0e2"#));
    let key = ("call_start".to_owned(), "a".to_owned());
    assert_eq!(collector.counts()[&key], 1);
}

#[test]
fn a_batch_with_a_bad_item_is_refused_whole() {
    let collector = Collector::start().unwrap();
    for bad in [
        r#"{"mode":"other","req":{"other":{"project_id":"e/p","id":"a"}}}"#,
        r#"{"mode":"end","req":{"end":{"project_id":"e/p"}}}"#,
        "7",
        "nonsense",
    ] {
        assert_eq!(batch(&collector, &[START, bad]).0, 422, "{bad}");
    }
    assert_eq!(collector.received(), []);
    assert_eq!(collector.requests_to("/call/upsert_batch"), 4);
}

#[test]
fn requests_are_checked_as_the_real_server_checks_them() {
    let collector = Collector::start().unwrap();
    let table = r#"{"table":{"project_id":"e/p","rows":[{"a":1},{"b":2}]}}"#;
    assert_eq!(
        post(&collector, "/table/create", "text/plain", table).0,
        422
    );
    assert_eq!(
        post(&collector, "/nowhere", "application/json", "{}").0,
        404
    );
    assert_eq!(
        post(&collector, "/file/create", "application/json", "{}").0,
        422
    );
    collector.set_key("k");
    assert_eq!(
        post(&collector, "/table/create", "application/json", table).0,
        401
    );
    assert_eq!(collector.received(), []);
}

#[test]
fn a_table_in_chunks_has_the_digest_of_the_whole() {
    let collector = Collector::start().unwrap();
    let create = |rows: &str| {
        let body = format!(r#"{{"table":{{"project_id":"e/p","rows":[{rows}]}}}}"#);
        let (_, answer) = post(&collector, "/table/create", "application/json", &body);
        serde_json::from_str::<serde_json::Value>(&answer).unwrap()
    };
    let (whole, one, two) = (create("1,2"), create("1"), create("2"));
    let rows = [&one["row_digests"][0], &two["row_digests"][0]];
    let body = serde_json::json!({"project_id": "e/p", "row_digests": rows}).to_string();
    let path = "/table/create_from_digests";
    let (status, answer) = post(&collector, path, "application/json", &body);
    assert_eq!(status, 200);
    assert!(answer.contains(whole["digest"].as_str().unwrap()));
}

#[test]
fn a_file_name_keeps_its_quotes() {
    let collector = Collector::start().unwrap();
    let part = "Content-Disposition: form-data; name";
    let body = format!(
        "--=b\r\n{part}=\"project_id\"\r\n\r\ne/p\r\n--=b\r\n{part}=\"expected_digest\"\r\n\r\nd\r\n\
         --=b\r\n{part}=\"file\"; filename=\"a\\\"b;%22.txt\"\r\nContent-Type: x/y\r\n\r\n\
         \r\n--=\r\n\r\n--=b--\r\n"
    );
    let content_type = "multipart/form-data; boundary=\"=b\"";
    let (status, answer) = post(&collector, "/file/create", content_type, &body);
    assert_eq!((status, answer.as_str()), (200, r#"{"digest":"d"}"#));
    let file = collector.received().remove(0);
    assert_eq!(file.id, "a\"b;\".txt");
    assert_eq!(file.bytes, b"\r\n--=\r\n");
}

#[test]
fn a_script_runs_out_into_the_mode() {
    let collector = Collector::start().unwrap();
    let busy = || Mode::Status(503, String::new(), Vec::new());
    collector.set_mode(Mode::Poison("\"id\":\"a\"".to_owned(), 422));
    collector.script(vec![(busy(), 2), (Mode::Accept, 0), (Mode::DropAfter, 1)]);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(batch(&collector, &[START]).0);
    }
    statuses.push(batch(&collector, &[&START.replace("\"a\"", "\"b\"")]).0);
    assert_eq!(statuses, [503, 503, 0, 422, 200]);
    assert_eq!(collector.received().len(), 2);
}

#[test]
fn stopped_it_refuses_and_restarted_it_remembers() {
    let collector = Collector::start().unwrap();
    batch(&collector, &[START]);
    collector.stop();
    assert!(TcpStream::connect(("127.0.0.1", collector.port())).is_err());
    collector.restart().unwrap();
    assert_eq!(batch(&collector, &[END]).0, 200);
    assert_eq!(collector.received().len(), 2);
    let port = collector.port();
    drop(collector);
    let fresh = Collector::start_on(port).unwrap();
    assert_eq!(fresh.received(), []);
}

#[test]
fn stopping_frees_those_who_hang() {
    let collector = Collector::start().unwrap();
    collector.set_mode(Mode::HangAfterApply);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| batch(&collector, &[START]).0);
        let applied = |collector: &Collector| collector.received().len() == 1;
        assert!(collector.wait_for(applied, Duration::from_secs(30)));
        assert!(!caller.is_finished());
        collector.stop();
        assert_eq!(caller.join().unwrap(), 0);
    });
    let never = |collector: &Collector| collector.requests() == 2;
    assert!(!collector.wait_for(never, Duration::from_millis(10)));
}
