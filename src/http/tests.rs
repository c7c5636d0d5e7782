use super::answer::MAX_DETAIL;
use super::body::MAX_ANSWER;
use super::*;
use crate::collector::{Collector, Mode};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

const KEY: &str = "0123456789abcdef-the-key";
const PATH: &str = "/obj/create";
const OBJ: &str = r#"{"obj":{"project_id":"e/p","object_id":"o","val":1}}"#;
/// For answers that must not need it.
const LONG: Duration = Duration::from_secs(60);
/// The shortest that minreq knows.
const SHORT: Duration = Duration::from_secs(1);

fn server(url: &str, timeout: Duration) -> Server {
    Server::with_env(url, Some(KEY), timeout, &|_| None).unwrap()
}

fn json(path: &str, body: &str) -> Request {
    Request {
        path: path.to_owned(),
        body: Body::Json(body.as_bytes().to_vec()),
        headers: Vec::new(),
    }
}

/// What becomes of an object that is sent to a collector in this mode.
fn answer_to(mode: Mode, timeout: Duration) -> (Answer, Collector) {
    let collector = Collector::start().unwrap();
    collector.set_key(KEY);
    collector.set_mode(mode);
    let answer = server(&collector.url(), timeout).send(json(PATH, OBJ));
    (answer, collector)
}

fn answer_to_raw(bytes: impl Into<Vec<u8>>) -> Answer {
    answer_to(Mode::Raw(bytes.into()), LONG).0
}

/// A server for one connection, over which `serve` has control after the request was read.
fn raw_server<T: Send + 'static>(
    serve: impl FnOnce(TcpStream, String) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(OBJ.as_bytes()) {
            let mut piece = [0; 1024];
            let length = stream.read(&mut piece).unwrap();
            assert!(length > 0, "the request was cut");
            request.extend_from_slice(&piece[..length]);
        }
        serve(stream, String::from_utf8(request).unwrap())
    });
    (url, thread)
}

/// Writes a byte now and then, until the other side has had enough.
fn trickle(mut stream: TcpStream) {
    while stream.write_all(b"x").is_ok() {
        thread::sleep(Duration::from_millis(20));
    }
}

fn assert_retry(answer: &Answer, contains: &str) {
    match answer {
        Answer::Retry { why, .. } => {
            assert!(why.contains(contains) && why.contains("http://"), "{why}");
        }
        other => panic!("not to be tried again: {other:?}"),
    }
}

fn assert_timed_out(answer: &Answer) {
    match answer {
        Answer::Retry {
            why, unanswered, ..
        } => assert!(*unanswered && why.contains("no answer from"), "{why}"),
        other => panic!("no timeout: {other:?}"),
    }
}

fn delivered(answer: Answer) -> Vec<u8> {
    match answer {
        Answer::Delivered { body } => body,
        other => panic!("not delivered: {other:?}"),
    }
}

fn status(code: u16) -> Mode {
    Mode::Status(code, r#"{"detail":"why not"}"#.to_owned(), Vec::new())
}

#[test]
fn a_2xx_is_delivered_with_its_body() {
    let (answer, collector) = answer_to(Mode::Accept, LONG);
    assert!(delivered(answer).starts_with(br#"{"digest":"#));
    assert_eq!(collector.received()[0].req, OBJ);
    for code in [200, 201, 202, 204, 299] {
        delivered(answer_to(status(code), LONG).0);
    }
}

#[test]
fn the_request_is_on_the_wire_as_the_protocol_wants_it() {
    let (url, thread) = raw_server(|mut stream, request| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        request
    });
    let mut request = json("/v2/e/a b\r\nX-Evil: 1/calls", OBJ);
    request.headers = vec![
        ("X-Weave-Trace-Id", "fine".to_owned()),
        ("X-Weave-Retry-Id", "bad\r\nX-Evil: 1".to_owned()),
    ];
    delivered(server(&format!("{url}/traces/"), LONG).send(request));

    let text = thread.join().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.lines().collect();
    let host = format!("Host: {}", url.trim_start_matches("http://"));
    let length = format!("Content-Length: {}", OBJ.len());
    let mut expected = vec![
        "POST /traces/v2/e/a%20b%0D%0AX-Evil:%201/calls HTTP/1.1",
        &host,
        concat!("User-Agent: weave-wal/", env!("CARGO_PKG_VERSION")),
        "Accept: application/json",
        "Connection: close",
        "Content-Type: application/json",
        "Authorization: Basic YXBpOjAxMjM0NTY3ODlhYmNkZWYtdGhlLWtleQ==",
        "X-Weave-Trace-Id: fine",
        &length,
    ];
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    assert_eq!(body, OBJ);
}

#[test]
fn a_file_travels_as_multipart() {
    let collector = Collector::start().unwrap();
    let mut bytes =
        b"--b\r\nContent-Disposition: form-data; name=\"project_id\"\r\n\r\ne/p\r\n--b\r\n\
        Content-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\r\n"
            .to_vec();
    bytes.extend_from_slice(b"\x89PNG\r\n\0\r\n--b--\r\n");
    let boundary = "b".to_owned();
    delivered(server(&collector.url(), LONG).send(Request {
        path: "/file/create".to_owned(),
        body: Body::Multipart { boundary, bytes },
        headers: Vec::new(),
    }));
    let file = collector.received().remove(0);
    assert_eq!((file.id.as_str(), file.project.as_str()), ("a.png", "e/p"));
    assert_eq!(file.bytes, b"\x89PNG\r\n\0");
}

#[test]
fn no_status_but_a_2xx_is_delivered_and_only_4xx_is_refused() {
    let collector = Collector::start().unwrap();
    let server = server(&collector.url(), LONG);
    for code in 100..=599 {
        collector.set_mode(status(code));
        let answer = server.send(json(PATH, OBJ));
        let as_it_should_be = match (code, &answer) {
            (200..=299, Answer::Delivered { .. }) => true,
            (300..=399 | 401 | 403..=405 | 407, Answer::Pause { .. }) => true,
            (100..=199 | 408 | 425 | 429 | 500.., Answer::Retry { .. }) => true,
            (401 | 403..=405 | 407 | 408 | 425 | 429, _) => false,
            (400..=499, Answer::Reject { .. }) => true,
            _ => false,
        };
        assert!(as_it_should_be, "{code} gave {answer:?}");
    }
    assert_eq!(collector.requests(), 500);
}

#[test]
fn every_status_has_its_class() {
    for code in [408, 425, 429, 500, 502, 503, 504, 599] {
        assert_retry(&answer_to(status(code), LONG).0, "why not");
    }
    for code in [301, 304, 308, 401, 403, 404, 405, 407] {
        match answer_to(status(code), LONG).0 {
            Answer::Pause { why, status } => {
                assert_eq!(status, Some(code));
                assert!(why.contains(&code.to_string()), "{why}");
                assert!(why.contains("everything is kept"), "{why}");
            }
            other => panic!("{code} gave {other:?}"),
        }
    }
    for code in [400, 402, 409, 413, 418, 422, 499] {
        match answer_to(status(code), LONG).0 {
            Answer::Reject { status, detail } => {
                assert_eq!((status, detail.as_str()), (code, r#"{"detail":"why not"}"#));
            }
            other => panic!("{code} gave {other:?}"),
        }
    }
    for code in [99, 600, 2000] {
        let answer = answer_to_raw(format!("HTTP/1.1 {code} OK\r\n\r\n"));
        assert_retry(&answer, "did not answer in HTTP");
    }
}

#[test]
fn a_wrong_key_and_no_key_are_told_apart() {
    let collector = Collector::start().unwrap();
    collector.set_key("another");
    for (key, says) in [
        (Some(KEY), "check WANDB_API_KEY"),
        (None, "set WANDB_API_KEY"),
    ] {
        let server = Server::with_env(&collector.url(), key, LONG, &|_| None).unwrap();
        match server.send(json(PATH, OBJ)) {
            Answer::Pause { why, status } => {
                assert_eq!(status, Some(401));
                assert!(why.contains(says), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_refused_port_is_tried_again() {
    let collector = Collector::start().unwrap();
    collector.stop();
    let answer = server(&collector.url(), LONG).send(json(PATH, OBJ));
    assert_retry(&answer, "cannot reach");
}

#[test]
fn a_server_that_never_answers_times_out() {
    let begin = Instant::now();
    let (answer, _collector) = answer_to(Mode::Hang, SHORT);
    assert_timed_out(&answer);
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn only_a_request_that_was_out_counts_as_unanswered() {
    let is_unanswered = |mode| match answer_to(mode, SHORT).0 {
        Answer::Retry { unanswered, .. } => unanswered,
        other => panic!("not to be tried again: {other:?}"),
    };
    assert!(is_unanswered(Mode::Hang));
    assert!(is_unanswered(Mode::DropBefore));
    assert!(!is_unanswered(Mode::Status(503, String::new(), Vec::new())));
}

#[test]
fn a_connection_closed_without_an_answer_is_tried_again() {
    for (mode, applied) in [(Mode::DropBefore, 0), (Mode::DropAfter, 1)] {
        let (answer, collector) = answer_to(mode, LONG);
        assert_retry(&answer, "closed the connection");
        assert_eq!(collector.received().len(), applied);
    }
}

#[test]
fn an_answer_before_the_request_was_taken_is_lost_and_it_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 100]).unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\n\r\n").unwrap();
    });
    let large = "x".repeat(8 << 20);
    let answer = server(&url, LONG).send(json(PATH, &large));
    assert_retry(&answer, "broke");
    thread.join().unwrap();
}

#[test]
fn what_is_not_http_is_tried_again() {
    assert_retry(&answer_to(Mode::Garbage, LONG).0, "HTTP");
    assert_retry(&answer_to_raw("HTTP/1.1 20"), "HTTP");
    let latin: &[u8] = b"HTTP/1.1 200 OK\r\nX: \xe9\r\n\r\n";
    assert_retry(&answer_to_raw(latin), "HTTP");
}

#[test]
fn an_interim_answer_is_not_the_answer() {
    let begin = Instant::now();
    let (answer, collector) = answer_to(Mode::Continue100, LONG);
    assert!(delivered(answer).starts_with(br#"{"digest":"#));
    assert_eq!(collector.requests(), 1);
    assert!(begin.elapsed() < LONG);

    assert_retry(&answer_to_raw("HTTP/1.1 100 Continue\r\n\r\n"), "interim");
    let two = "HTTP/1.1 100 -\r\n\r\nHTTP/1.1 103 -\r\nLink: x\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n";
    assert_retry(&answer_to_raw(two), "503");
    assert_retry(
        &answer_to_raw("HTTP/1.1 100 -\r\n\r\nnonsense 200 OK\r\n\r\n"),
        "interim",
    );
}

#[test]
fn retry_after_is_passed_on() {
    let header = ("Retry-After".to_owned(), "17".to_owned());
    let (answer, _) = answer_to(Mode::Status(429, String::new(), vec![header]), LONG);
    match answer {
        Answer::Retry { after, .. } => assert_eq!(after, Some(Duration::from_secs(17))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_date_to_come_back_at_is_read_by_the_servers_own_clock() {
    for year in [1994, 2090] {
        let time = |seconds| format!("Sun, 06 Nov {year} 08:49:{seconds} GMT");
        let headers = vec![
            ("Date".to_owned(), time(20)),
            ("Retry-After".to_owned(), time(37)),
        ];
        match answer_to(Mode::Status(503, String::new(), headers), LONG).0 {
            Answer::Retry { after, .. } => assert_eq!(after, Some(Duration::from_secs(17))),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_redirect_is_not_followed_and_the_key_stays_here() {
    let elsewhere = Collector::start().unwrap();
    for code in [301, 302, 303, 307, 308] {
        let location = ("Location".to_owned(), elsewhere.url() + PATH);
        let mode = Mode::Status(code, String::new(), vec![location]);
        match answer_to(mode, LONG).0 {
            Answer::Pause { status, .. } => assert_eq!(status, Some(code)),
            other => panic!("{code} gave {other:?}"),
        }
    }
    assert_eq!(elsewhere.requests(), 0);
}

#[test]
fn a_huge_answer_is_read_up_to_the_limit() {
    let mut huge = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    huge.resize(4 << 20, b'x');
    assert_eq!(delivered(answer_to_raw(huge.clone())).len(), MAX_ANSWER);
    huge[9..12].copy_from_slice(b"400");
    match answer_to_raw(huge) {
        Answer::Reject { detail, .. } => assert_eq!(detail.len(), MAX_DETAIL),
        other => panic!("{other:?}"),
    }
}

#[test]
fn huge_headers_are_tried_again() {
    let line = format!("X: {}\r\n", "x".repeat(1000));
    let head = |lines| format!("HTTP/1.1 200 OK\r\n{}\r\n", line.repeat(lines));
    assert_retry(&answer_to_raw(head(100)), "headers");
    // Many, but not too many.
    delivered(answer_to_raw(head(20)));
}

// Without overflow checks minreq loses count instead of panicking.
#[cfg(debug_assertions)]
#[test]
fn headers_over_which_minreq_panics_are_tried_again() {
    let line = "x".repeat(MAX_HEADERS - 1);
    let answer = answer_to_raw(format!("HTTP/1.1 200 OK\r\n{line}\n\r\n"));
    assert_retry(&answer, "panicked");
}

#[test]
fn a_wrong_content_length_loses_no_status() {
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}";
    assert_eq!(delivered(answer_to_raw(short)), b"{}");
    let huge = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{{}}",
        u64::MAX
    );
    assert_eq!(delivered(answer_to_raw(huge)), b"{}");
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nnonsense";
    assert_eq!(delivered(answer_to_raw(chunks)), b"{}");
    // With this one minreq gives no answer out.
    let nonsense = "HTTP/1.1 200 OK\r\nContent-Length: few\r\n\r\n{}";
    assert_retry(&answer_to_raw(nonsense), "proper HTTP");
}

#[test]
fn an_answer_without_a_body_is_not_waited_for() {
    let (url, thread) = raw_server(|mut stream, _| {
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap();
        // Open until the client hangs up.
        let _ = stream.read(&mut [0; 1]);
    });
    let begin = Instant::now();
    assert_eq!(delivered(server(&url, LONG).send(json(PATH, OBJ))), b"");
    assert!(begin.elapsed() < LONG / 2);
    thread.join().unwrap();
}

#[test]
fn a_body_that_trickles_is_left_at_the_deadline() {
    let (url, thread) = raw_server(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        trickle(stream);
    });
    let begin = Instant::now();
    let body = delivered(server(&url, SHORT).send(json(PATH, OBJ)));
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert!(body.starts_with(b"xx"));
    thread.join().unwrap();
}

#[test]
fn headers_that_trickle_time_out() {
    let (url, thread) = raw_server(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").unwrap();
        trickle(stream);
    });
    assert_timed_out(&server(&url, SHORT).send(json(PATH, OBJ)));
    thread.join().unwrap();
}

/// Yields its text, then what `then` does.
struct Scripted<F>(&'static [u8], F);

impl<F: FnMut()> Read for Scripted<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.0.read(buffer)?;
        if length == 0 {
            (self.1)();
        }
        Ok(length)
    }
}

#[test]
fn a_body_behind_tls_is_left_at_the_deadline_too() {
    let (release, released) = mpsc::channel::<()>();
    let stuck = Scripted(b"begun", move || {
        let _ = released.recv();
    });
    let begin = Instant::now();
    let body = read_body(stuck, true, begin + Duration::from_millis(100));
    assert_eq!(body, b"begun");
    drop(release);
}

#[test]
fn a_panic_over_the_body_keeps_what_was_read() {
    for https in [false, true] {
        let bad = Scripted(b"begun", || panic!("on purpose"));
        assert_eq!(read_body(bad, https, Instant::now() + LONG), b"begun");
    }
}

#[test]
fn the_key_is_in_no_text_even_if_the_server_echoes_it() {
    let encoded = crate::base64::encode(format!("api:{KEY}").as_bytes());
    let echo = format!("you sent {KEY} and Basic {encoded}\u{1b}[31m\nbye");
    for code in [302, 400, 401, 404, 422, 503] {
        let (answer, _) = answer_to(Mode::Status(code, echo.clone(), Vec::new()), LONG);
        let text = format!("{answer:?}");
        assert!(
            text.contains("you sent <hidden> and Basic <hidden> [31m bye"),
            "{text}"
        );
        assert!(!text.contains(KEY) && !text.contains(&encoded), "{text}");
    }
}

#[test]
fn debug_output_hides_the_key() {
    let text = format!("{:?}", server("http://h:1/", SHORT));
    assert!(
        text.contains("<hidden>") && text.contains("http://h:1"),
        "{text}"
    );
    assert!(!text.contains(KEY), "{text}");
}

#[test]
fn what_cannot_be_sent_is_refused_before_it_is_sent() {
    for (url, key) in [("http://h", "bad\nkey"), ("http://h", ""), ("h", KEY)] {
        let refused = Server::new(url, Some(key), LONG).unwrap_err();
        assert!(refused.is_config());
        assert!(!refused.to_string().contains("bad"), "{refused}");
    }
}

#[test]
fn https_needs_a_build_with_tls() {
    let made = Server::with_env("https://h", None, LONG, &|_| None);
    if cfg!(any(feature = "https", feature = "https-native-tls")) {
        assert!(made.is_ok());
    } else {
        let message = made.unwrap_err().to_string();
        assert!(message.contains("feature `https`"), "{message}");
    }
}

#[cfg(any(feature = "https", feature = "https-native-tls"))]
#[test]
fn a_tls_fault_pauses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 400 Plain\r\n\r\n").unwrap();
        let _ = stream.read(&mut [0; 4096]);
    });
    match server(&url, LONG).send(json(PATH, OBJ)) {
        Answer::Pause { why, status: None } => assert!(why.contains("secure"), "{why}"),
        other => panic!("{other:?}"),
    }
    thread.join().unwrap();
}

#[cfg(any(feature = "https", feature = "https-native-tls"))]
#[test]
fn a_silent_tls_handshake_times_out_and_a_broken_one_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let silent = listener.accept().unwrap();
        let (mut broken, _) = listener.accept().unwrap();
        let _ = broken.read(&mut [0; 4096]);
        drop((silent, broken));
    });
    let server = server(&url, SHORT);
    assert_timed_out(&server.send(json(PATH, OBJ)));
    match server.send(json(PATH, OBJ)) {
        Answer::Retry { why, .. } => assert!(!why.contains("no answer from"), "{why}"),
        other => panic!("{other:?}"),
    }
    thread.join().unwrap();
}

#[test]
fn timeouts_are_whole_seconds_rounded_up() {
    for (given, whole) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (u64::MAX, 24 * 3600)] {
        let rounded = whole_seconds(Duration::from_millis(given));
        assert_eq!(rounded, Duration::from_secs(whole));
    }
    assert_eq!(whole_seconds(Duration::MAX), MAX_TIMEOUT);
}

#[test]
fn base64_has_the_rfc_4648_vectors() {
    for (plain, encoded) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foobar", "Zm9vYmFy"),
        ("\u{7ff}?~", "378/fg=="),
    ] {
        let text = crate::base64::encode(plain.as_bytes());
        assert_eq!(text, encoded, "{plain:?}");
    }
}

#[cfg(not(feature = "proxy"))]
#[test]
fn a_proxy_that_this_build_cannot_use_is_hinted_at() {
    let collector = Collector::start().unwrap();
    collector.stop();
    let env = |name: &str| (name == "http_proxy").then(|| "http://me:secret@proxy".to_owned());
    let server = Server::with_env(&collector.url(), None, LONG, &env).unwrap();
    match server.send(json(PATH, OBJ)) {
        Answer::Retry { why, .. } => {
            assert!(
                why.contains("http_proxy") && why.contains("feature `proxy`"),
                "{why}"
            );
            assert!(!why.contains("secret"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[cfg(feature = "proxy")]
mod proxied {
    use super::*;

    /// A proxy for one connection: it answers the `CONNECT`, then the request in the tunnel.
    fn through(reply: &'static str) -> (Answer, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut connect = Vec::new();
            while !connect.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                connect.push(byte[0]);
            }
            stream.write_all(reply.as_bytes()).unwrap();
            if reply.contains("200") {
                let mut seen = Vec::new();
                while !seen.ends_with(OBJ.as_bytes()) {
                    let mut piece = [0; 1024];
                    let length = stream.read(&mut piece).unwrap();
                    seen.extend_from_slice(&piece[..length]);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{}").unwrap();
            }
            String::from_utf8(connect).unwrap()
        });
        let proxy = format!("http://me:secret@{place}/");
        let env = move |name: &str| (name == "http_proxy").then(|| proxy.clone());
        let server = Server::with_env("http://server.invalid", None, LONG, &env).unwrap();
        let answer = server.send(json(PATH, OBJ));
        (answer, thread.join().unwrap())
    }

    #[test]
    fn a_proxy_opens_a_tunnel() {
        let (answer, connect) = through("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(delivered(answer), b"{}");
        assert!(
            connect.starts_with("CONNECT server.invalid:80 HTTP/1.1\r\n"),
            "{connect}"
        );
        assert!(
            connect.contains("Proxy-Authorization: Basic bWU6c2VjcmV0"),
            "{connect}"
        );
    }

    #[test]
    fn a_proxy_that_refuses_its_credentials_pauses() {
        match through("HTTP/1.1 407 No\r\n\r\n").0 {
            Answer::Pause { why, status: None } => {
                assert!(
                    why.contains("http_proxy") && !why.contains("secret"),
                    "{why}"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_proxy_without_a_way_is_tried_again() {
        assert_retry(&through("HTTP/1.1 502 No\r\n\r\n").0, "http_proxy");
    }

    #[test]
    fn a_proxy_that_no_proxy_forbids_but_minreq_would_use_is_refused() {
        let env = |name: &str| match name {
            "http_proxy" => Some("http://me:secret@proxy".to_owned()),
            "no_proxy" => Some("h".to_owned()),
            _ => None,
        };
        let message = Server::with_env("http://h", None, LONG, &env)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("NO_PROXY") && !message.contains("secret"),
            "{message}"
        );
    }
}
