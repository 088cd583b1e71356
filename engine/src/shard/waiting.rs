//! Where a client's request goes: into this group's log or reads, to the node that leads, or into the queue of
//! those that wait until a leader is known.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use net::Command;

use super::group::Group;
use super::{Options, Outcome, Output, Token};
use crate::raft::Role;
use crate::time::{Clock, Time};

/// A request that waits until a leader is known.
#[derive(Debug)]
struct Request {
    token: Token,
    command: Vec<u8>,
    deadline: Time,
}

/// The requests of one group that wait until a leader is known, in the order of their deadlines.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    requests: VecDeque<Request>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Of their commands.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the next of them has waited long enough.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.requests.front().map(|request| request.deadline)
    }

    fn push(&mut self, request: Request) {
        self.bytes += request.command.len();
        self.requests.push_back(request);
    }

    fn pop(&mut self) -> Request {
        let request = self.requests.pop_front().expect("callers look first");
        self.bytes -= request.command.len();
        request
    }
}

impl Group {
    /// Takes a client's request.
    pub(super) fn request(
        &mut self,
        options: &Options,
        clock: Clock,
        token: Token,
        command: &Command<'_>,
        out: &mut Output,
    ) {
        if self.leads() {
            self.wake(clock.now);
            if self.is_busy(options) {
                out.replies.push((token, Outcome::Busy));
            } else if let Some(error) = self.refusal(command.is_write()) {
                out.replies.push((token, Outcome::Reply(error.into())));
            } else if command.is_write() {
                self.writes.push(clock.now, token, command);
                if self.writes.open_bytes() >= options.batch_bytes_max {
                    self.seal(options, clock);
                }
            } else {
                self.reads.push(token, command);
            }
            return;
        }
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        match self.leader() {
            Some(leader) if leader != self.node => {
                out.replies.push((
                    token,
                    Outcome::Redirect {
                        leader,
                        command: bytes,
                    },
                ));
            }
            _ if self.waiting.bytes() + bytes.len() > options.pending_bytes_max
                || self.waiting.len() >= options.pending_requests_max =>
            {
                out.replies.push((token, Outcome::Busy));
            }
            _ => self.wait(options, clock, token, bytes),
        }
    }

    /// Whether so much waits that a request is refused.
    fn is_busy(&self, options: &Options) -> bool {
        let bytes = self.writes.pending_bytes() + self.reads.pending_bytes();
        let requests = self.writes.pending() + self.reads.pending();
        bytes > options.pending_bytes_max || requests >= options.pending_requests_max
    }

    fn wait(&mut self, options: &Options, clock: Clock, token: Token, command: Vec<u8>) {
        let deadline = clock.now.after(options.route_wait);
        self.waiting.push(Request {
            token,
            command,
            deadline,
        });
    }

    /// Answers those that have waited long enough.
    pub(super) fn expire_waiting(&mut self, now: Time, out: &mut Output) {
        while self.waiting.deadline().is_some_and(|at| at <= now) {
            let request = self.waiting.pop();
            out.replies.push((request.token, self.duty.nobody_leads()));
        }
    }

    /// Gives requests that cannot go on here a place: the log, another node, or the wait for a leader.
    pub(super) fn place_waiting(&mut self, options: &Options, clock: Clock, out: &mut Output) {
        if self.duty.retired && self.raft.role() != Role::Leader {
            self.writes.abandon(out);
        }
        if !self.leads() && self.writes.is_open() {
            for (token, command) in self.writes.take_open() {
                self.wait(options, clock, token, command);
            }
        }
        if self.raft.role() != Role::Leader || self.reads.is_older_than(self.raft.term()) {
            for (token, command) in self.reads.take() {
                self.wait(options, clock, token, command);
            }
            self.expiry_proposed = None;
        }
        let leader = self.leader();
        while !self.waiting.is_empty() && (self.leads() || leader.is_some_and(|at| at != self.node))
        {
            let Request { token, command, .. } = self.waiting.pop();
            match leader {
                Some(leader) if leader != self.node => {
                    out.replies
                        .push((token, Outcome::Redirect { leader, command }));
                }
                _ => {
                    let command = Command::decode(&command).expect("encoded by this replica");
                    self.request(options, clock, token, &command, out);
                }
            }
        }
    }
}
