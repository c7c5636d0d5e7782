//! The thread that waits for answers, so that who needs them can keep time meanwhile.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use crate::http::{Answer, Request};

/// Sends requests, one at a time, on a thread that ends with this.
///
/// One thread for many requests takes its memory for their bytes once, a new one each time anew.
pub(crate) struct Post {
    requests: mpsc::Sender<Request>,
}

impl Post {
    /// `send` is given each request and `tell` its answer, both on that thread. There is an answer
    /// to each, even if sending panics: who waits for it has no other way to learn that.
    pub fn start(
        send: impl Fn(Request) -> Answer + Send + 'static,
        tell: impl Fn(Answer) + Send + 'static,
    ) -> io::Result<Post> {
        let (requests, inbox) = mpsc::channel();
        thread::Builder::new()
            .name("weave-wal-post".to_owned())
            .spawn(move || {
                while let Ok(request) = inbox.recv() {
                    let sent = catch_unwind(AssertUnwindSafe(|| send(request)));
                    tell(sent.unwrap_or_else(|_| panicked()));
                }
            })?;
        Ok(Post { requests })
    }

    /// `false`: the thread has ended before its time.
    pub fn send(&self, request: Request) -> bool {
        self.requests.send(request).is_ok()
    }
}

/// How far the request had come, nobody knows.
fn panicked() -> Answer {
    Answer::Retry {
        why: "sending the request panicked".to_owned(),
        after: None,
        unanswered: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::json;

    #[test]
    fn a_panic_is_an_answer_and_the_next_request_is_sent() {
        let (outbox, answers) = mpsc::channel();
        let send = |request: Request| match request.path.as_str() {
            "/panic" => panic!("as the test asked"),
            _ => Answer::Delivered { body: Vec::new() },
        };
        let post = Post::start(send, move |answer| outbox.send(answer).unwrap()).unwrap();
        assert!(post.send(json("/panic", Vec::new())));
        let unanswered = |answer| matches!(answer, Answer::Retry { unanswered, .. } if unanswered);
        assert!(unanswered(answers.recv().unwrap()));
        assert!(post.send(json("/", Vec::new())));
        let answer = answers.recv().unwrap();
        assert!(matches!(answer, Answer::Delivered { .. }), "{answer:?}");
    }
}
