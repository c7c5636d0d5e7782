//! The thread's desk: messages and answers, the log's timers, who waits for a delivery.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crate::client::age::Marks;
use crate::client::events::Events;
use crate::directory::Directory;
use crate::drain::Settled;
use crate::error::Error;
use crate::http::{Answer, Request, Server, retry};
use crate::log::Log;
use crate::replay::host::Host;
use crate::report::Event;
use crate::sender::holdoff::HoldOff;
use crate::threads;
use crate::worker::post::Post;

/// What the thread is told, and what the one is told that sends for it.
pub(crate) enum Message {
    /// Something was appended while it slept.
    Wake,
    /// Answer when everything before the position is delivered, or at the deadline.
    Flush(Flush),
    /// Take no more records, deliver what is there until the deadline, then end.
    Finish(Flush),
    /// End; the log is closed already.
    Close,
    /// A request was answered.
    Answer(Answer),
    /// To the thread that sends: one more.
    Request(Request),
    /// For a test of what happens then.
    #[cfg(test)]
    Panic,
}

/// What the thread lets the callers know.
#[derive(Debug, Default, Clone)]
pub(crate) struct Board {
    pub settled: Settled,
    pub requests: u64,
    pub retries: u64,
    /// Own records that have left the log.
    pub own_records: u64,
    pub last_error: Option<String>,
    pub paused: Option<String>,
    pub next_attempt: Option<Instant>,
    pub resent: u64,
    /// Records dropped at the disk budget.
    pub dropped: u64,
    /// Since when the oldest own record waits, if any does.
    pub oldest: Option<Instant>,
    pub leftover_files: u64,
    /// When the oldest of them was begun.
    pub leftover_begun: Option<SystemTime>,
}

/// The thread's side of the log and the messages: everything but the replay itself.
pub(crate) struct Desk {
    pub log: Arc<Log>,
    pub board: Arc<Mutex<Board>>,
    pub directory: Option<Directory>,
    pub server: Option<Server>,
    pub events: Arc<Events>,
    pub hold_off: Option<HoldOff>,
    pub marks: Marks,
    pub inbox: Receiver<Message>,
    pub outbox: Sender<Message>,
    pub flushes: Vec<Flush>,
    /// Sends while there is more to send.
    pub post: Option<Post>,
    pub answer: Option<Answer>,
    pub closing: bool,
    /// Somebody waits for a delivery: do not sit out a backoff.
    pub hurry: bool,
}

/// Somebody waits for a delivery.
pub(crate) struct Flush {
    pub position: u64,
    pub deadline: Instant,
    pub reply: Sender<()>,
}

impl Desk {
    /// The one place where the thread waits: for a message, a timer of the log, a deadline.
    pub fn wait(&mut self, until: Option<Instant>) {
        let deadlines = self.flushes.iter().map(|flush| flush.deadline);
        let at = deadlines.chain(until).chain(self.log.keep_time()).min();
        let message = match at {
            None => self
                .inbox
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => self
                .inbox
                .recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match message {
            Ok(message) => self.serve(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.closing = true,
        }
        while let Ok(message) = self.inbox.try_recv() {
            self.serve(message);
        }
        self.note_age();
        let now = Instant::now();
        self.answer(|flush| flush.deadline <= now);
    }

    fn note_age(&mut self) {
        let delivered = self.log.delivered();
        self.marks
            .note(self.log.accepted().1, delivered, Instant::now());
        let oldest = self.marks.oldest(delivered);
        self.board().oldest = oldest;
    }

    fn serve(&mut self, message: Message) {
        match message {
            Message::Wake => {}
            Message::Flush(flush) => {
                if let Err(error) = self.log.sync_soon(flush.position) {
                    self.trouble(&error);
                }
                self.add_flush(flush);
            }
            Message::Finish(flush) => {
                if let Err(error) = self.log.close() {
                    self.trouble(&error);
                }
                self.closing = true;
                // Some may have come since that was asked for.
                let (_, position) = self.log.accepted();
                self.add_flush(Flush { position, ..flush });
            }
            Message::Close => self.closing = true,
            Message::Answer(answer) => self.answer = Some(answer),
            // That is not for this thread.
            Message::Request(_) => {}
            #[cfg(test)]
            Message::Panic => panic!("as the test asked"),
        }
    }

    fn add_flush(&mut self, flush: Flush) {
        self.hurry = true;
        self.flushes.push(flush);
    }

    /// Answers those whose records are delivered, and those who need not wait: without a sender,
    /// or when the next attempt comes after the deadline.
    pub fn answer_flushes(&mut self) {
        let position = self.log.delivered();
        let synced = self.log.synced();
        let sends = self.server.is_some();
        let next_attempt = self.board().next_attempt;
        let untidy = self.closing && self.log.oldest_file().is_some();
        let hurry = self.hurry;
        self.answer(|flush| {
            // Who has just come in is worth an attempt, whatever was planned before.
            let too_late = !hurry && next_attempt.is_some_and(|at| at > flush.deadline);
            let delivered = position >= flush.position && !untidy;
            let written = !sends && synced >= flush.position;
            delivered || written || too_late
        });
    }

    fn answer(&mut self, is_done: impl Fn(&Flush) -> bool) {
        self.flushes.retain(|flush| {
            let done = is_done(flush);
            if done {
                // Whoever asked may have gone away.
                let _ = flush.reply.send(());
            }
            !done
        });
    }

    /// Storage failed; the records are where they were.
    pub fn trouble(&mut self, error: &Error) {
        let error = error.to_string();
        let before = self.board().last_error.replace(error.clone());
        if before.as_ref() != Some(&error) {
            self.tell(Event::Degraded { error });
        }
    }

    pub fn board(&self) -> MutexGuard<'_, Board> {
        threads::lock(&self.board)
    }
}

impl Host for Desk {
    fn exchange(&mut self, request: Request, meanwhile: &mut dyn FnMut()) -> Answer {
        let Some(server) = self.server.clone() else {
            return retry("there is no server to send to".to_owned());
        };
        let start = || {
            let send = move |request| server.send(request);
            Post::start(Box::new(send), self.outbox.clone())
        };
        let post = match self.post.take().map_or_else(start, Ok) {
            Ok(post) => post,
            Err(answer) => return answer,
        };
        self.answer = None;
        if !post.send(request) {
            return retry("the thread for requests has ended".to_owned());
        }
        self.post = Some(post);
        meanwhile();
        loop {
            self.wait(None);
            if let Some(answer) = self.answer.take() {
                return answer;
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.events.tell(event);
    }

    fn hold_off(&mut self, wait: Duration) {
        if let Some(file) = &self.hold_off {
            file.note(wait, SystemTime::now());
        }
    }

    fn held_off(&mut self) -> Option<Duration> {
        self.hold_off.as_ref()?.left(SystemTime::now())
    }
}
