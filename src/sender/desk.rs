//! What the replay asks of the thread that runs a [`Sender`](super::Sender): requests that end in
//! time, whoever does not answer.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use super::Until;
use crate::http::{Answer, Request, Server, retry};
use crate::replay::host::Host;
use crate::report::Event;
use crate::sender::holdoff::HoldOff;
use crate::worker::desk::Message;
use crate::worker::post::Post;

/// How often a stop, the deadline and new files are looked for.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How long the end may take after a stop: the request in flight, and the last pass.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// The calling thread's side of a request.
pub(super) struct Desk<'a> {
    server: &'a Server,
    /// With where its answers come in. Not kept when one was not waited for.
    post: Option<(Post, mpsc::Receiver<Message>)>,
    hold_off: HoldOff,
    until: &'a Until<'a>,
    stopped: &'a mut Option<Instant>,
    on_event: &'a mut dyn FnMut(&Event),
}

impl<'a> Desk<'a> {
    pub fn new(
        server: &'a Server,
        root: &Path,
        until: &'a Until<'a>,
        stopped: &'a mut Option<Instant>,
        on_event: &'a mut dyn FnMut(&Event),
    ) -> Desk<'a> {
        Desk {
            server,
            post: None,
            hold_off: HoldOff::new(root, server.url()),
            until,
            stopped,
            on_event,
        }
    }

    /// Is it time to end, without waiting for anything?
    fn is_late(&mut self) -> bool {
        if self.until.stop.load(Ordering::Relaxed) {
            self.stopped.get_or_insert_with(Instant::now);
        }
        self.until.deadline.is_some_and(|end| end <= Instant::now())
            || self.stopped.is_some_and(|at| at.elapsed() >= GRACE)
    }
}

impl Host for Desk<'_> {
    fn exchange(&mut self, request: Request, meanwhile: &mut dyn FnMut()) -> Answer {
        // A batch can be many requests, each of which is answered at once.
        if self.is_late() {
            return retry("the run ended before it was sent".to_owned());
        }
        let (post, answers) = match self.post.take().map_or_else(|| post(self.server), Ok) {
            Ok(post) => post,
            Err(answer) => return answer,
        };
        // If it is gone, there is no answer either.
        post.send(request);
        meanwhile();
        loop {
            match answers.recv_timeout(TICK) {
                Ok(Message::Answer(answer)) => {
                    self.post = Some((post, answers));
                    return answer;
                }
                // Nobody sends it anything else.
                Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return retry("the request's thread has ended without an answer".to_owned());
                }
            }
            if self.is_late() {
                return retry("the run ended before the server answered".to_owned());
            }
        }
    }

    fn tell(&mut self, event: Event) {
        (self.on_event)(&event);
    }

    fn hold_off(&mut self, wait: Duration) {
        self.hold_off.note(wait, SystemTime::now());
    }

    fn held_off(&mut self) -> Option<Duration> {
        self.hold_off.left(SystemTime::now())
    }
}

fn post(server: &Server) -> Result<(Post, mpsc::Receiver<Message>), Answer> {
    let (outbox, answers) = mpsc::channel();
    let server = server.clone();
    let post = Post::start(Box::new(move |request| server.send(request)), outbox)?;
    Ok((post, answers))
}

/// Is the run to end, as soon as the request in flight is answered?
pub(super) fn is_over(until: &Until<'_>) -> bool {
    until.stop.load(Ordering::Relaxed) || until.deadline.is_some_and(|end| end <= Instant::now())
}
