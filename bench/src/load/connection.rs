//! One client: a connection to the leader of its keys and, once it was sent elsewhere, to others.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Instant;

use net::Slot;
use rustix::event::{PollFd, PollFlags};

use super::keys::{KEY_BYTES, write_key};
use super::line::{Line, Request};
use super::mix::{Chooser, Kind};
use super::replies::{Answer, Redirection};
use super::wire::Protocol;
use super::{Load, Mix, now};
use crate::histogram::{Recorded, Window};

/// A request that was sent elsewhere more often has failed, as with other clients.
const HOPS_MAX: u8 = 16;

pub(super) struct Connection {
    chooser: Chooser,
    protocol: Protocol,
    value: Vec<u8>,
    /// The first is to the leader of its keys at the start.
    lines: Vec<Line>,
    /// Slots that have moved, and the line to the server that has them.
    moved: BTreeMap<u16, usize>,
}

impl Connection {
    pub(super) fn new(leader: SocketAddr, chooser: Chooser, load: &Load) -> Result<Self, String> {
        let mut chooser = chooser;
        let value: Vec<u8> = (0..load.value_bytes)
            .map(|_| b"0123456789abcdef"[chooser.random.below(16)])
            .collect();
        Ok(Self {
            chooser,
            protocol: load.protocol,
            lines: vec![Line::connect(leader, load.protocol, &value)?],
            value,
            moved: BTreeMap::new(),
        })
    }

    /// What can happen on its lines.
    pub(super) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.lines.iter().map(|line| {
            let flags = if line.has_unsent() {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            PollFd::new(&line.stream, flags)
        })
    }

    pub(super) fn under_way(&self) -> usize {
        self.lines.iter().map(|line| line.waiting).sum()
    }

    /// Adds a request that is due at this moment.
    pub(super) fn request(&mut self, mix: &Mix, due: Instant) {
        match mix.draw(&mut self.chooser.random) {
            Kind::Update => {
                let number = self.chooser.existing();
                self.update(number, due);
            }
            Kind::Insert => {
                let number = self.chooser.inserted();
                self.update(number, due);
            }
            Kind::Read => {
                let number = self.chooser.existing();
                self.read_key(number, due, false);
            }
            Kind::ReadModifyWrite => {
                let number = self.chooser.existing();
                self.read_key(number, due, true);
            }
        }
    }

    /// Adds a write of this key.
    pub(super) fn update(&mut self, number: u32, due: Instant) {
        self.send(Request {
            due,
            number,
            writes: true,
            then_write: false,
            hops: 0,
        });
    }

    fn read_key(&mut self, number: u32, due: Instant, then_write: bool) {
        self.send(Request {
            due,
            number,
            writes: false,
            then_write,
            hops: 0,
        });
    }

    fn send(&mut self, request: Request) {
        let line = if self.moved.is_empty() {
            0
        } else {
            let mut key = [0; KEY_BYTES];
            write_key(request.number, &mut key);
            let slot = Slot::of(&key).number();
            self.moved.get(&slot).copied().unwrap_or(0)
        };
        self.lines[line].request(request);
    }

    /// Sends a request again, where its answer says.
    fn follow(&mut self, mut request: Request, to: &Redirection) -> Result<(), String> {
        let line = self.line_to(&to.address)?;
        request.hops += 1;
        if to.once {
            self.lines[line].ask(request);
        } else {
            self.moved.insert(to.slot, line);
            self.lines[line].request(request);
        }
        Ok(())
    }

    fn line_to(&mut self, address: &str) -> Result<usize, String> {
        let mut servers = address
            .to_socket_addrs()
            .map_err(|error| format!("sent to {address}: {error}"))?;
        let server = servers
            .next()
            .ok_or_else(|| format!("sent to {address}, which has no address"))?;
        if let Some(at) = self.lines.iter().position(|line| line.server == server) {
            return Ok(at);
        }
        let line = Line::connect(server, self.protocol, &self.value)?;
        self.lines.push(line);
        Ok(self.lines.len() - 1)
    }

    pub(super) fn write(&mut self) -> Result<(), String> {
        self.lines.iter_mut().try_for_each(Line::write)
    }

    /// Reads what has come. A closed loop counts what is answered in the measured time; an open one
    /// what was due in it, whenever it is answered.
    pub(super) fn read(
        &mut self,
        input: &mut [u8],
        window: Window,
        open: bool,
        recorded: &mut Recorded,
    ) -> Result<(), String> {
        for line in 0..self.lines.len() {
            loop {
                let bytes = self.lines[line].receive(input)?;
                self.answered(line, &input[..bytes], window, open, recorded)?;
                if bytes < input.len() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        line: usize,
        bytes: &[u8],
        window: Window,
        open: bool,
        recorded: &mut Recorded,
    ) -> Result<(), String> {
        let time = now();
        let (mut continued, mut redirected) = (Vec::new(), Vec::new());
        let (mut errors, mut lost) = (0, None);
        let mut run = Run {
            due: time,
            count: 0,
        };
        let mut record = |run: Run| {
            let counted = if open { run.due } else { time };
            if let Some(interval) = window.interval_of(counted) {
                let latency = time.saturating_duration_since(run.due);
                recorded.intervals[interval].record_many(latency, run.count);
            }
            recorded.answered_in_all += run.count;
        };
        self.lines[line].answered(bytes, |request, answer| match answer {
            Answer::Failed => errors += 1,
            Answer::Elsewhere(to) if request.hops < HOPS_MAX => redirected.push((request, to)),
            Answer::Elsewhere(to) => {
                errors += 1;
                lost = Some(to.address);
            }
            Answer::Good if request.then_write => continued.push(request),
            Answer::Good if request.due == run.due => run.count += 1,
            Answer::Good => {
                let next = Run {
                    due: request.due,
                    count: 1,
                };
                record(std::mem::replace(&mut run, next));
            }
        })?;
        record(run);
        recorded.errors += errors;
        recorded.redirected += redirected.len() as u64;
        if recorded.first_error.is_none() {
            let lost = lost.map(|to| format!("sent elsewhere {HOPS_MAX} times, at last to {to}"));
            recorded.first_error = self.lines[line].first_error().cloned().or(lost);
        }
        for request in continued {
            self.update(request.number, request.due);
        }
        for (request, to) in redirected {
            self.follow(request, &to)?;
        }
        Ok(())
    }
}

/// Answers that were due at the same moment.
struct Run {
    due: Instant,
    count: u64,
}
