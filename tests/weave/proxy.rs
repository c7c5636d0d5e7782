//! A proxy between sender and server that can lose answers, after the server has done its part.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// Applied, and the connection closed without an answer.
    LoseAnswer,
    /// Closed without an answer and without the server having seen it.
    LoseRequest,
    /// Applied, and never answered.
    HoldAnswer,
    /// Applied, and half of the answer's body cut off at a line's end, the connection closed.
    CutAnswer,
}

type Plan = Box<dyn FnMut(&str, usize) -> Fate + Send>;

pub struct Proxy {
    port: u16,
    /// Path and fate of each request, noted once the server has answered.
    seen: Arc<Mutex<Vec<(String, Fate)>>>,
}

impl Proxy {
    /// `plan` decides over each request, from its path and its number.
    pub fn start(server: u16, plan: impl FnMut(&str, usize) -> Fate + Send + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            port: listener.local_addr().unwrap().port(),
            seen: Arc::default(),
        };
        let plan: Arc<Mutex<(Plan, usize)>> = Arc::new(Mutex::new((Box::new(plan), 0)));
        let seen = Arc::clone(&proxy.seen);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (plan, seen) = (Arc::clone(&plan), Arc::clone(&seen));
                // A sender that is killed breaks its connection: nothing to tell anybody.
                thread::spawn(move || serve(stream, server, &plan, &seen));
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn seen(&self) -> Vec<(String, Fate)> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests to a path were seen.
    pub fn count(&self, path: &str) -> usize {
        self.seen()
            .iter()
            .filter(|(seen, _)| seen.ends_with(path))
            .count()
    }

    /// Did anything meet this fate?
    pub fn has(&self, fate: Fate) -> bool {
        self.seen().iter().any(|(_, seen)| *seen == fate)
    }
}

fn serve(
    mut client: TcpStream,
    server: u16,
    plan: &Mutex<(Plan, usize)>,
    seen: &Mutex<Vec<(String, Fate)>>,
) -> Option<()> {
    let request = read_request(&client)?;
    let line = String::from_utf8_lossy(request.split(|&byte| byte == b'\r').next()?).into_owned();
    let path = line.split(' ').nth(1)?.to_owned();
    let fate = {
        let (plan, number) = &mut *plan.lock().unwrap();
        *number += 1;
        plan(&path, *number - 1)
    };
    let mut answer = Vec::new();
    if fate != Fate::LoseRequest {
        let mut server = TcpStream::connect(("127.0.0.1", server)).ok()?;
        server.write_all(&request).ok()?;
        server.read_to_end(&mut answer).ok()?;
    }
    seen.lock().unwrap().push((path, fate));
    match fate {
        Fate::Pass => client.write_all(&answer).ok()?,
        Fate::CutAnswer => client.write_all(cut(&answer)).ok()?,
        Fate::HoldAnswer => loop {
            thread::park();
        },
        Fate::LoseAnswer | Fate::LoseRequest => {}
    }
    client.shutdown(Shutdown::Both).ok()
}

/// As proxies do: what is larger is not even read.
const LARGEST: usize = 32 << 20;

/// A request with its body. All that are sent here have a length.
fn read_request(client: &TcpStream) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(client);
    let (mut request, mut length) = (Vec::new(), 0);
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&line).to_lowercase();
        if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        request.extend_from_slice(&line);
        if line == b"\r\n" {
            break;
        }
    }
    if length > LARGEST {
        return None;
    }
    let head = request.len();
    request.resize(head + length, 0);
    reader.read_exact(&mut request[head..]).ok()?;
    Some(request)
}

fn cut(answer: &[u8]) -> &[u8] {
    let body = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map_or(0, |at| at + 4);
    let half = &answer[..body + (answer.len() - body) / 2];
    let line = half
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(body, |at| at + 1);
    &answer[..line.max(body)]
}
