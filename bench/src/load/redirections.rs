//! Servers that send clients elsewhere, as a node of a cluster does, and a load that follows them.

#![expect(
    clippy::disallowed_methods,
    reason = "the servers of a test have threads of their own"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net::resp::{Version, encode};
use net::{ErrorReply, Reply, Slot};

use super::{Crew, Keys, Load, Mix, Protocol, Topology, now};
use crate::histogram::{Recorded, Window};

const PIPELINE: usize = 8;

/// What a server answers to all that it is asked.
enum Manner {
    Serves,
    /// To this port.
    Moves(u16),
    /// To this port, for this time only.
    Asks(u16),
    /// The requests from this one to before that one, in the order they come: to this port.
    MovesSome(u64, u64, u16),
}

struct Server {
    address: SocketAddr,
    manner: Mutex<Manner>,
    asked: AtomicU64,
    /// How many of these were announced with `ASKING`.
    announced: AtomicU64,
}

impl Server {
    /// Serves until the test ends.
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            manner: Mutex::new(Manner::Serves),
            asked: AtomicU64::new(0),
            announced: AtomicU64::new(0),
        });
        let shared = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, stream) = (shared.clone(), stream.unwrap());
                // A client that goes away ends it.
                std::thread::spawn(move || server.serve(&mut BufReader::new(stream)));
            }
        });
        server
    }

    fn serve(&self, stream: &mut BufReader<std::net::TcpStream>) -> std::io::Result<()> {
        let mut announced = false;
        loop {
            let mut words = Vec::new();
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let Some(count) = line.trim_end().strip_prefix('*') else {
                return Ok(());
            };
            for _ in 0..count.parse::<usize>().unwrap() {
                stream.read_line(&mut line)?;
                line.clear();
                stream.read_line(&mut line)?;
                words.push(line.trim_end().to_owned());
            }
            let mut out = Vec::new();
            if words[0] == "ASKING" {
                announced = true;
                encode(&Reply::Ok, Version::Resp2, &mut out);
            } else {
                let slot = Slot::of(words[1].as_bytes()).number();
                encode(&self.answer(slot, announced), Version::Resp2, &mut out);
                announced = false;
            }
            stream.get_mut().write_all(&out)?;
        }
    }

    fn answer(&self, slot: u16, announced: bool) -> Reply {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        self.announced
            .fetch_add(u64::from(announced), Ordering::Relaxed);
        let moved = |port| {
            let host = "127.0.0.1".to_owned();
            Reply::Error(ErrorReply::Moved { slot, host, port })
        };
        match *self.manner.lock().unwrap() {
            Manner::Moves(port) => moved(port),
            Manner::MovesSome(from, to, port) if (from..to).contains(&asked) => moved(port),
            Manner::Asks(port) => {
                let text = format!("ASK {slot} 127.0.0.1:{port}");
                Reply::Error(ErrorReply::Other(text))
            }
            Manner::Serves | Manner::MovesSome(..) => Reply::Ok,
        }
    }

    fn behaves(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// One client writes one key, which it believes to be on this server.
fn load(server: &Server) -> Recorded {
    let load = Load {
        protocol: Protocol::Redis,
        connections: 1,
        pipeline: PIPELINE,
        threads: 1,
        keys: 1,
        value_bytes: 16,
        mix: Mix::uniform(0.0),
        rate: None,
        burst: 1,
        seed: 1,
    };
    let keys = Keys::new(1, &Topology::shared(&[server.address]));
    let crew = Crew::connect(&load, &keys).unwrap();
    let (start, measured) = (now(), Duration::from_secs(1));
    crew.run(Window { start, measured }).unwrap()
}

#[test]
fn a_request_that_has_moved_is_sent_again_and_later_ones_go_there_at_once() {
    let (old, new) = (Server::start(), Server::start());
    old.behaves(Manner::Moves(new.address.port()));
    let recorded = load(&old);
    assert_eq!(recorded.first_error, None);
    assert!(recorded.answered_in_all > 0);
    // What was under way when the first answer came was answered in the same way.
    assert!(old.asked() <= PIPELINE as u64, "{}", old.asked());
    assert!(recorded.redirected <= old.asked());
    assert!(new.asked() >= recorded.answered_in_all);
    assert_eq!(new.announced.load(Ordering::Relaxed), 0);
}

#[test]
fn a_slot_that_moves_during_a_load_and_comes_back_costs_no_request() {
    let (first, second) = (Server::start(), Server::start());
    // Fewer than a request follows.
    first.behaves(Manner::MovesSome(3, 11, second.address.port()));
    second.behaves(Manner::MovesSome(5, u64::MAX, first.address.port()));
    let both = load(&first);
    assert_eq!(both.first_error, None);
    assert!(both.redirected > 8, "away, and back again");
    assert!(second.asked() > 5);
}

#[test]
fn an_ask_redirection_is_announced_and_holds_for_one_request() {
    let (old, new) = (Server::start(), Server::start());
    old.behaves(Manner::Asks(new.address.port()));
    let recorded = load(&old);
    assert_eq!(recorded.first_error, None);
    assert!(recorded.answered_in_all > 0);
    assert!(old.asked() - recorded.redirected <= PIPELINE as u64);
    assert_eq!(new.announced.load(Ordering::Relaxed), new.asked());
    assert!(
        old.asked() >= recorded.answered_in_all,
        "each asks there first"
    );
}

#[test]
fn servers_that_send_a_request_to_each_other_for_ever_get_an_error_reported() {
    let (one, other) = (Server::start(), Server::start());
    one.behaves(Manner::Moves(other.address.port()));
    other.behaves(Manner::Moves(one.address.port()));
    let recorded = load(&one);
    assert!(recorded.errors > 0);
    let error = recorded.first_error.unwrap();
    assert!(error.starts_with("sent elsewhere 16 times"), "{error}");
}
