//! One connection, and what is under way on it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::mix::{Chooser, Kind};
use super::wire::Wire;
use super::{Load, Mix, now};
use crate::histogram::{Recorded, Window};

/// A request that was not answered yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    due: Instant,
    /// The key to write once this read was answered.
    then: Option<u32>,
}

pub(super) struct Connection {
    stream: TcpStream,
    chooser: Chooser,
    wire: Wire,
    /// Bytes to send, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// Requests from the oldest that was not answered on; `None` for those that were.
    under_way: VecDeque<Option<Pending>>,
    /// The number of the first of those: requests are numbered from 0.
    first: u64,
    /// How many of them were not answered.
    waiting: usize,
}

impl Connection {
    pub(super) fn new(leader: SocketAddr, chooser: Chooser, load: &Load) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{leader}: {error}");
        let stream = TcpStream::connect(leader).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        let mut chooser = chooser;
        let value: Vec<u8> = (0..load.value_bytes)
            .map(|_| b"0123456789abcdef"[chooser.random.below(16)])
            .collect();
        Ok(Self {
            stream,
            chooser,
            wire: Wire::new(load.protocol, &value),
            out: Vec::new(),
            sent: 0,
            under_way: VecDeque::new(),
            first: 0,
            waiting: 0,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn under_way(&self) -> usize {
        self.waiting
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.out.len()
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
                self.read_key(number, due, None);
            }
            Kind::ReadModifyWrite => {
                let number = self.chooser.existing();
                self.read_key(number, due, Some(number));
            }
        }
    }

    /// Adds a write of this key.
    pub(super) fn update(&mut self, number: u32, due: Instant) {
        self.wire.request(number, true, &mut self.out);
        self.push(Pending { due, then: None });
    }

    fn read_key(&mut self, number: u32, due: Instant, then: Option<u32>) {
        self.wire.request(number, false, &mut self.out);
        self.push(Pending { due, then });
    }

    fn push(&mut self, pending: Pending) {
        self.under_way.push_back(Some(pending));
        self.waiting += 1;
    }

    pub(super) fn write(&mut self) -> Result<(), String> {
        while self.sent < self.out.len() {
            match (&self.stream).write(&self.out[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("write: {error}")),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
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
        loop {
            let bytes = match (&self.stream).read(input) {
                Ok(0) => return Err("the node closed the connection".to_owned()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("read: {error}")),
            };
            self.answered(&input[..bytes], window, open, recorded)?;
            if bytes < input.len() {
                return Ok(());
            }
        }
    }

    fn answered(
        &mut self,
        bytes: &[u8],
        window: Window,
        open: bool,
        recorded: &mut Recorded,
    ) -> Result<(), String> {
        let time = now();
        let (mut unasked, mut continued) = (false, Vec::new());
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
        let (under_way, first) = (&mut self.under_way, &mut self.first);
        let (mut errors, mut ended) = (0, 0);
        self.wire.feed(bytes, &mut self.out, |number, good| {
            let place = number
                .checked_sub(*first)
                .and_then(|at| usize::try_from(at).ok());
            let Some(pending) = place.and_then(|at| under_way.get_mut(at)?.take()) else {
                unasked = true;
                return;
            };
            ended += 1;
            while under_way.pop_front_if(|oldest| oldest.is_none()).is_some() {
                *first += 1;
            }
            if !good {
                errors += 1;
            } else if let Some(number) = pending.then {
                continued.push((number, pending.due));
            } else if pending.due == run.due {
                run.count += 1;
            } else {
                let due = pending.due;
                let before = std::mem::replace(&mut run, Run { due, count: 1 });
                record(before);
            }
        });
        record(run);
        self.waiting -= ended;
        self.wire.forget(self.first);
        recorded.errors += errors;
        if recorded.first_error.is_none() {
            recorded.first_error = self.wire.first_error().cloned();
        }
        for (number, due) in continued {
            self.update(number, due);
        }
        if unasked {
            return Err("a reply without a request".to_owned());
        }
        Ok(())
    }
}

/// Answers that were due at the same moment.
struct Run {
    due: Instant,
    count: u64,
}
