//! The thread that waits for answers, so that who needs them can keep time meanwhile.

use std::io;
use std::sync::mpsc;
use std::thread;

use crate::http::{Answer, Request, Server};

/// Sends requests, one at a time, on a thread that ends with this.
///
/// One thread for many requests takes its memory for their bytes once, a new one each time anew.
pub(crate) struct Post {
    requests: mpsc::Sender<Request>,
}

impl Post {
    /// `tell` is given each answer, on that thread.
    pub fn start(server: Server, tell: impl Fn(Answer) + Send + 'static) -> io::Result<Post> {
        let (requests, inbox) = mpsc::channel();
        thread::Builder::new()
            .name("weave-wal-post".to_owned())
            .spawn(move || {
                while let Ok(request) = inbox.recv() {
                    tell(server.send(request));
                }
            })?;
        Ok(Post { requests })
    }

    /// `false`: the thread has ended before its time.
    pub fn send(&self, request: Request) -> bool {
        self.requests.send(request).is_ok()
    }
}
