//! The thread that waits for answers, so that who needs them can keep time meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use crate::http::{Answer, Request, retry, unanswered};
use crate::threads;
use crate::worker::desk::Message;

/// Sends requests, one at a time, on a thread that ends with this.
///
/// One thread for many requests takes its memory for their bytes once, a new one each time anew.
pub(crate) struct Post {
    requests: mpsc::Sender<Message>,
}

impl Post {
    /// `send` is given each request, on that thread, and `outbox` its answer. There is an answer
    /// to each, even if sending panics: who waits for it has no other way to learn that. Without a
    /// thread the answer is here.
    pub fn start(
        send: Box<dyn Fn(Request) -> Answer + Send>,
        outbox: mpsc::Sender<Message>,
    ) -> Result<Post, Answer> {
        let (requests, inbox) = mpsc::channel();
        let run = move || {
            while let Ok(Message::Request(request)) = inbox.recv() {
                let sent = catch_unwind(AssertUnwindSafe(|| send(request)));
                // How far it had come then, nobody knows.
                let panicked = |_| unanswered("sending the request panicked".to_owned());
                // Nobody listens any more if who asked has gone.
                let _ = outbox.send(Message::Answer(sent.unwrap_or_else(panicked)));
            }
        };
        match threads::start("weave-wal-post", Box::new(run)) {
            Ok(()) => Ok(Post { requests }),
            Err(error) => Err(retry(format!(
                "cannot start a thread for the request: {error}"
            ))),
        }
    }

    /// `false`: the thread has ended before its time.
    pub fn send(&self, request: Request) -> bool {
        self.requests.send(Message::Request(request)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::json;

    #[test]
    fn a_panic_is_an_answer_and_the_next_request_is_sent() {
        let send = |request: Request| match request.path.as_str() {
            "/panic" => panic!("as the test asked"),
            _ => Answer::Delivered { body: Vec::new() },
        };
        let (outbox, inbox) = mpsc::channel();
        let post = Post::start(Box::new(send), outbox).unwrap();
        let ask = |path| {
            assert!(post.send(json(path, Vec::new())));
            match inbox.recv() {
                Ok(Message::Answer(answer)) => answer,
                _ => panic!("no answer"),
            }
        };
        let answer = ask("/panic");
        assert!(
            matches!(
                answer,
                Answer::Retry {
                    unanswered: true,
                    ..
                }
            ),
            "{answer:?}"
        );
        let answer = ask("/");
        assert!(matches!(answer, Answer::Delivered { .. }), "{answer:?}");
    }
}
