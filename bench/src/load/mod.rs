//! Load through sockets: each thread drives many connections, each with many requests under way.
//! A closed loop sends when something was answered; an open one when it is due, and counts latency
//! from then, however late the request could be sent. A request that is sent elsewhere goes there, and
//! so do the later ones of its slot.

mod connection;
mod etcd;
mod keys;
mod line;
mod mix;
#[cfg(test)]
mod redirections;
mod replies;
mod topology;
mod wire;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};

use crate::histogram::{Recorded, Window};
use connection::Connection;
pub(crate) use keys::Keys;
pub(crate) use mix::{Choice, Mix};
pub(crate) use topology::Topology;
pub(crate) use wire::Protocol;

/// Requests that one thread of an open loop may have to wait for: beyond that the rate is hopeless.
const BACKLOG_MAX: usize = 4 << 20;
/// How long an open loop waits at its end for what was due in the measured time.
const DRAIN: Duration = Duration::from_secs(5);
/// Writes under way while keys are written.
const FILL_DEPTH: usize = 256;
/// An open loop sends what is due together, at most this often.
const TICK: Duration = Duration::from_micros(50);

/// What load to make.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) protocol: Protocol,
    pub(crate) connections: usize,
    /// Requests under way on each connection of a closed loop.
    pub(crate) pipeline: usize,
    pub(crate) threads: usize,
    /// Keys that there are at the start.
    pub(crate) keys: u32,
    pub(crate) value_bytes: usize,
    pub(crate) mix: Mix,
    /// Requests a second in all: makes the loop open.
    pub(crate) rate: Option<f64>,
    /// Requests that are due at once on a connection of an open loop: a pipeline of so many.
    pub(crate) burst: usize,
    pub(crate) seed: u64,
}

#[expect(
    clippy::disallowed_methods,
    reason = "measuring time is what this program is for"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The threads of a load, connected and ready to begin.
pub(crate) struct Crew<'a>(Vec<Driver<'a>>);

impl<'a> Crew<'a> {
    pub(crate) fn connect(load: &'a Load, keys: &Keys) -> Result<Self, String> {
        let drivers = (0..load.threads).map(|thread| Driver::connect(load, keys, thread));
        drivers.collect::<Result<_, _>>().map(Self)
    }

    /// Makes the load until the window ends, on the last cores: nodes take the first ones.
    pub(crate) fn run(self, window: Window) -> Result<Recorded, String> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (self.0.into_iter().enumerate())
                .map(|(thread, driver)| {
                    let core = cores.iter().rev().nth(thread).copied();
                    scope.spawn(move || {
                        if let Some(core) = core {
                            core_affinity::set_for_current(core);
                        }
                        driver.run(window)
                    })
                })
                .collect();
            let mut all = Recorded::new();
            for thread in threads {
                all.add(&thread.join().map_err(|_| "a load thread panicked")??);
            }
            Ok(all)
        })
    }
}

/// Writes every key once.
pub(crate) fn fill(load: &Load, keys: &Keys) -> Result<(), String> {
    let start = now() + Duration::from_secs(3600);
    let measured = Duration::from_secs(1);
    let window = Window { start, measured };
    for (leader, numbers) in keys.by_leader() {
        let mut connection = Connection::new(*leader, keys.chooser(*leader, load, 0), load)?;
        let mut recorded = Recorded::new();
        let mut input = vec![0; 256 << 10];
        let deadline = now() + Duration::from_secs(120);
        let mut waiting = numbers.iter();
        loop {
            let room = FILL_DEPTH.saturating_sub(connection.under_way());
            for &number in waiting.by_ref().take(room) {
                connection.update(number, now());
            }
            if connection.under_way() == 0 {
                break;
            }
            connection.write()?;
            wait(
                std::slice::from_ref(&connection),
                Duration::from_millis(100),
            )?;
            connection.read(&mut input, window, false, &mut recorded)?;
            if now() > deadline {
                return Err(format!("{leader}: writing the keys took over two minutes"));
            }
        }
        if let Some(error) = recorded.first_error {
            return Err(format!("{leader}: writing the keys: {error}"));
        }
    }
    Ok(())
}

/// One thread's connections.
struct Driver<'a> {
    load: &'a Load,
    connections: Vec<Connection>,
    window: Window,
    input: Vec<u8>,
    recorded: Recorded,
}

impl<'a> Driver<'a> {
    fn connect(load: &'a Load, keys: &Keys, thread: usize) -> Result<Self, String> {
        let leaders: Vec<SocketAddr> = keys.by_leader().iter().map(|(leader, _)| *leader).collect();
        let mine = (0..load.connections).filter(|number| number % load.threads == thread);
        let connect = |number: usize| {
            let leader = leaders[number % leaders.len()];
            Connection::new(leader, keys.chooser(leader, load, number), load)
        };
        Ok(Self {
            load,
            connections: mine.map(connect).collect::<Result<_, _>>()?,
            window: Window {
                start: now(),
                measured: Duration::ZERO,
            },
            input: vec![0; 256 << 10],
            recorded: Recorded::new(),
        })
    }

    fn run(mut self, window: Window) -> Result<Recorded, String> {
        self.window = window;
        match self.load.rate {
            None => self.closed()?,
            Some(rate) => self.open(rate / self.load.threads as f64)?,
        }
        Ok(self.recorded)
    }

    fn closed(&mut self) -> Result<(), String> {
        loop {
            let time = now();
            if time >= self.window.end() {
                return Ok(());
            }
            for connection in &mut self.connections {
                while connection.under_way() < self.load.pipeline {
                    connection.request(&self.load.mix, time);
                }
                connection.write()?;
            }
            self.answers(Duration::from_millis(100))?;
        }
    }

    /// Sends so many requests a second, in pipelines that are due evenly, and round the connections.
    fn open(&mut self, rate: f64) -> Result<(), String> {
        let burst = self.load.burst;
        let gap = Duration::from_secs_f64(burst as f64 / rate);
        let (mut next, mut turn) = (now(), 0);
        let end = self.window.end();
        while now() < end {
            let time = now();
            while next <= time {
                let at = turn % self.connections.len();
                for _ in 0..burst {
                    self.connections[at].request(&self.load.mix, next);
                }
                if self.window.interval_of(next).is_some() {
                    let late = time - next;
                    self.recorded.lateness.record_many(late, burst as u64);
                }
                turn += 1;
                next += gap;
            }
            for connection in &mut self.connections {
                connection.write()?;
            }
            let backlog: usize = self.connections.iter().map(Connection::under_way).sum();
            if backlog > BACKLOG_MAX {
                return Err(format!(
                    "{rate:.0} requests a second are more than the servers take: \
                     {backlog} are unanswered; choose a lower --rate"
                ));
            }
            let due = next.max(time + TICK);
            // Answers are taken at least once, also by a thread that is late: what it leaves unread
            // holds up the servers.
            loop {
                self.answers(due.saturating_duration_since(now()))?;
                if now() >= due {
                    break;
                }
            }
        }
        let limit = end + DRAIN;
        while now() < limit && self.connections.iter().any(|c| c.under_way() > 0) {
            for connection in &mut self.connections {
                connection.write()?;
            }
            self.answers(Duration::from_millis(10))?;
        }
        let missing: usize = self.connections.iter().map(Connection::under_way).sum();
        if missing > 0 {
            self.recorded.errors += missing as u64;
            self.recorded
                .first_error
                .get_or_insert_with(|| "not answered within five seconds of the end".to_owned());
        }
        Ok(())
    }

    fn answers(&mut self, limit: Duration) -> Result<(), String> {
        let ready = wait(&self.connections, limit)?;
        let open = self.load.rate.is_some();
        for at in ready {
            self.connections[at].write()?;
            self.connections[at].read(&mut self.input, self.window, open, &mut self.recorded)?;
        }
        Ok(())
    }
}

/// Sleeps until a connection can go on or the time is over; the connections that can.
fn wait(connections: &[Connection], limit: Duration) -> Result<Vec<usize>, String> {
    let numbered = connections.iter().enumerate();
    let (owners, mut interests): (Vec<usize>, Vec<PollFd<'_>>) = numbered
        .flat_map(|(at, connection)| connection.interests().map(move |interest| (at, interest)))
        .unzip();
    let limit = Timespec::try_from(limit).map_err(|error| error.to_string())?;
    match poll(&mut interests, Some(&limit)) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
        Err(error) => return Err(format!("poll: {error}")),
    }
    let found = owners.into_iter().zip(&interests);
    let mut ready: Vec<usize> = found
        .filter(|(_, interest)| !interest.revents().is_empty())
        .map(|(at, _)| at)
        .collect();
    ready.dedup();
    Ok(ready)
}
