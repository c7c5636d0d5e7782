//! Servers on loopback: one that takes everything as fast as it can, one that hangs for ever.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc};

/// Reads requests to their end, throws them away and answers 200.
pub struct Sink {
    pub url: String,
    pub address: String,
    bodies: Arc<AtomicU64>,
}

impl Sink {
    pub fn start() -> Sink {
        let listener = listener();
        let address = listener.local_addr().expect("an address").to_string();
        let bodies = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bodies);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            for stream in listener.incoming() {
                // A client that goes away is its own affair.
                if let Ok(len) = stream.and_then(|stream| take(stream, &mut buffer)) {
                    counter.fetch_add(len as u64, Ordering::Relaxed);
                }
            }
        });
        Sink {
            url: format!("http://{address}"),
            address,
            bodies,
        }
    }

    /// Bytes of all bodies taken so far.
    pub fn bodies(&self) -> u64 {
        self.bodies.load(Ordering::Relaxed)
    }
}

fn take(mut stream: TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut have = 0;
    let head = loop {
        let n = stream.read(&mut buffer[have..])?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        have += n;
        if let Some(at) = buffer[..have]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        {
            break at + 4;
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
    let len = text.split_once("content-length:").map(|(_, rest)| rest);
    let len = len.and_then(|rest| rest.split("\r\n").next()?.trim().parse().ok());
    let len: usize = len.unwrap_or(0);
    let mut left = len.saturating_sub(have - head);
    while left > 0 {
        let n = stream.read(buffer)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(n);
    }
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                  Content-Length: 2\r\nConnection: close\r\n\r\n{}";
    stream.write_all(answer.as_bytes())?;
    Ok(len)
}

/// Accepts connections and never answers.
pub struct Hanging {
    pub url: String,
    accepted: mpsc::Receiver<()>,
}

impl Hanging {
    pub fn start() -> Hanging {
        let listener = listener();
        let address = listener.local_addr().expect("an address");
        let (tell, accepted) = mpsc::channel();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().flatten() {
                kept.push(stream);
                if tell.send(()).is_err() {
                    break;
                }
            }
        });
        let url = format!("http://{address}");
        Hanging { url, accepted }
    }

    pub fn wait_for_a_request(&self) {
        self.accepted.recv().expect("a request");
    }
}

/// Nobody listens there.
pub fn dead() -> String {
    let address = listener().local_addr().expect("an address");
    format!("http://{address}")
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a listener on loopback")
}
