//! One connection, and what is under way on it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::keys::{KEY_BYTES, write_key};
use super::mix::{Chooser, Kind};
use super::replies::Replies;
use super::{Load, Mix, now};
use crate::histogram::{Recorded, Window};

/// A request that was not answered yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    due: Instant,
    /// The key to write once this read was answered.
    then: Option<u32>,
}

/// A command of which only the key changes.
struct Template {
    bytes: Vec<u8>,
    key_at: usize,
}

impl Template {
    fn new(name: &str, value: Option<&[u8]>) -> Self {
        let arguments = if value.is_some() { 3 } else { 2 };
        let head = format!("*{arguments}\r\n$3\r\n{name}\r\n${KEY_BYTES}\r\n");
        let mut bytes = head.into_bytes();
        let key_at = bytes.len();
        bytes.extend_from_slice(&[b'0'; KEY_BYTES]);
        bytes.extend_from_slice(b"\r\n");
        if let Some(value) = value {
            bytes.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        Self { bytes, key_at }
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        let at = out.len() + self.key_at;
        out.extend_from_slice(&self.bytes);
        write_key(number, &mut out[at..at + KEY_BYTES]);
    }
}

pub(super) struct Connection {
    stream: TcpStream,
    chooser: Chooser,
    get: Template,
    set: Template,
    /// Bytes to send, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    under_way: VecDeque<Pending>,
    replies: Replies,
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
            get: Template::new("GET", None),
            set: Template::new("SET", Some(&value)),
            out: Vec::new(),
            sent: 0,
            under_way: VecDeque::new(),
            replies: Replies::default(),
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
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
        self.set.write(number, &mut self.out);
        self.under_way.push_back(Pending { due, then: None });
    }

    fn read_key(&mut self, number: u32, due: Instant, then: Option<u32>) {
        self.get.write(number, &mut self.out);
        self.under_way.push_back(Pending { due, then });
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
        let under_way = &mut self.under_way;
        let mut errors = 0;
        self.replies.feed(bytes, |good| {
            let Some(pending) = under_way.pop_front() else {
                unasked = true;
                return;
            };
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
        recorded.errors += errors;
        if recorded.first_error.is_none() {
            recorded.first_error.clone_from(&self.replies.first_error);
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
