//! Load through sockets: one thread drives many connections, each with many requests under way.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::histogram::Latencies;
use crate::options::Options;
use crate::replies::Replies;
use crate::topology::Topology;

/// What was measured.
pub(crate) struct Measured {
    pub(crate) latencies: Latencies,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) elapsed: Duration,
}

/// One connection and what is under way on it.
struct Connection {
    stream: TcpStream,
    /// Keys of slots that this connection's node leads.
    keys: Vec<Vec<u8>>,
    /// Bytes to send, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// When each unanswered request should have been sent.
    under_way: VecDeque<Instant>,
    replies: Replies,
    random: u64,
}

/// The keys of a run, by the node that leads them.
pub(crate) fn keys_by_leader(
    options: &Options,
    topology: &Topology,
) -> Vec<(SocketAddr, Vec<Vec<u8>>)> {
    let mut by_leader: Vec<_> = topology
        .leaders()
        .into_iter()
        .map(|leader| (leader, Vec::new()))
        .collect();
    for number in 0..options.keys {
        let key = format!("key:{number:08}").into_bytes();
        let leader = topology.leader(&key);
        if let Some((_, keys)) = by_leader
            .iter_mut()
            .find(|(found, _)| Some(*found) == leader)
        {
            keys.push(key);
        }
    }
    by_leader.retain(|(_, keys)| !keys.is_empty());
    by_leader
}

/// Runs the load of one thread: its share of the connections.
pub(crate) fn run(
    options: &Options,
    topology: &Topology,
    thread: usize,
) -> Result<Measured, String> {
    let by_leader = keys_by_leader(options, topology);
    let mine = (0..options.connections).filter(|number| number % options.threads == thread);
    let connect = |number: usize| {
        let (leader, keys) = &by_leader[number % by_leader.len()];
        Connection::new(*leader, keys.clone(), number as u64)
    };
    let mut connections = mine.map(connect).collect::<Result<Vec<_>, _>>()?;
    let value = vec![b'v'; options.value_bytes];
    let share = options.connections as f64 / options.threads as f64;
    let mut schedule = options.rate.map(|rate| {
        let gap = Duration::from_secs_f64(1.0 / (rate / options.connections as f64 * share));
        Schedule {
            next: now(),
            gap,
            turn: 0,
        }
    });
    let mut latencies = Latencies::new();
    let mut errors = 0;
    let start = now() + options.warm_up();
    let end = start + options.measured();
    let mut input = vec![0; 256 << 10];
    loop {
        let time = now();
        if time >= end {
            break;
        }
        match &mut schedule {
            None => {
                for connection in &mut connections {
                    while connection.under_way.len() < options.pipeline {
                        connection.request(time, &value, options.read_share);
                    }
                }
            }
            Some(schedule) => schedule.send_due(time, &mut connections, &value, options),
        }
        wait(
            &connections,
            schedule.as_ref().map(|schedule| schedule.next),
        )?;
        for connection in &mut connections {
            connection.write()?;
            errors += connection.read(&mut input, start, &mut latencies)?;
        }
    }
    let first_error = connections
        .iter_mut()
        .find_map(|c| c.replies.first_error.take());
    Ok(Measured {
        latencies,
        errors,
        first_error,
        elapsed: options.measured(),
    })
}

/// When requests are due in an open loop.
struct Schedule {
    next: Instant,
    gap: Duration,
    turn: usize,
}

impl Schedule {
    /// Sends what is due; each counts from when it was due, however late it is sent.
    fn send_due(
        &mut self,
        time: Instant,
        connections: &mut [Connection],
        value: &[u8],
        options: &Options,
    ) {
        while self.next <= time {
            let at = self.turn % connections.len();
            connections[at].request(self.next, value, options.read_share);
            self.turn += 1;
            self.next += self.gap;
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "measuring time is what this program is for"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Sleeps until a connection can go on, or the next request is due.
fn wait(connections: &[Connection], next: Option<Instant>) -> Result<(), String> {
    let mut interests: Vec<PollFd<'_>> = connections
        .iter()
        .map(|connection| {
            let to_send = connection.sent < connection.out.len();
            let flags = if to_send {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            PollFd::new(&connection.stream, flags)
        })
        .collect();
    let limit = Duration::from_millis(100);
    let limit = next.map_or(limit, |next| {
        limit.min(next.saturating_duration_since(now()))
    });
    let limit = Timespec::try_from(limit).map_err(|error| error.to_string())?;
    match poll(&mut interests, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(format!("poll: {error}")),
    }
}

impl Connection {
    fn new(leader: SocketAddr, keys: Vec<Vec<u8>>, seed: u64) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{leader}: {error}");
        let stream = TcpStream::connect(leader).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            stream,
            keys,
            out: Vec::new(),
            sent: 0,
            under_way: VecDeque::new(),
            replies: Replies::default(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        })
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }

    fn request(&mut self, due: Instant, value: &[u8], read_share: f64) {
        let reads = (self.draw() % 1_000_000) as f64 / 1_000_000.0 < read_share;
        let at = usize::try_from(self.draw()).unwrap_or(0) % self.keys.len();
        let key = &self.keys[at];
        if reads {
            write_command(&mut self.out, &[b"GET", key]);
        } else {
            write_command(&mut self.out, &[b"SET", key, value]);
        }
        self.under_way.push_back(due);
    }

    fn write(&mut self) -> Result<(), String> {
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

    /// Reads replies; returns how many of them were errors. Records those of requests that were due
    /// since `start`.
    fn read(
        &mut self,
        input: &mut [u8],
        start: Instant,
        latencies: &mut Latencies,
    ) -> Result<u64, String> {
        let mut errors = 0;
        loop {
            let bytes = match (&self.stream).read(input) {
                Ok(0) => return Err("the node closed the connection".to_owned()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(errors),
                Err(error) => return Err(format!("read: {error}")),
            };
            let time = now();
            let counted = self.replies.feed(&input[..bytes]);
            errors += counted.errors as u64;
            for _ in 0..counted.replies {
                let due = self
                    .under_way
                    .pop_front()
                    .ok_or("a reply without a request")?;
                if time >= start && due >= start {
                    latencies.record(time.saturating_duration_since(due));
                }
            }
        }
    }
}

fn write_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    // Writing to memory cannot fail.
    drop(write!(out, "*{}\r\n", arguments.len()));
    for argument in arguments {
        drop(write!(out, "${}\r\n", argument.len()));
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}
