//! Clients that ask for far more than a node may hold for them. One that takes its answers gets them all;
//! one whose process is stopped meanwhile costs memory up to `limits.clients_size`, and the other clients
//! are served as before.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are given real time"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nodes::{Addresses, Answer, Client, PATIENCE, Process, Scratch, admin, until};
use rustix::process::{Pid, Signal, kill_process};

const MIB: usize = 1 << 20;

/// What the node may hold for all clients.
const CLIENTS_BYTES: usize = 96 * MIB;
const VALUE_BYTES: usize = 256 << 10;
const KEYS: usize = 8;
/// Of the client that is stopped.
const CONNECTIONS: usize = 12;
/// Requests that each has under way: together they ask for several times what the node may hold.
const PIPELINE: usize = 256;
/// Requests of the client that goes on.
const ROUNDS: usize = 400;
/// Tells the process that is started from this file where its node is.
const NODE_PORT: &str = "DRAKKAR_TEST_NODE_PORT";

/// One node at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A node that is a cluster by itself.
struct Node {
    process: Process,
    addresses: Addresses,
    _scratch: Scratch,
}

impl Node {
    fn start() -> Self {
        let addresses = Addresses::reserve(1).unwrap();
        let scratch = Scratch::new("stopped-client");
        let config = format!(
            "[node]\nid = 1\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"stopped\"\n\
             shards = 1\ngroups = 1\n[log]\nsegment_size = \"20MB\"\n\
             [limits]\nconnections = 1000\noutput_size = \"16MiB\"\nclients_size = \"{CLIENTS_BYTES}B\"\n{}",
            scratch.join("data").display(),
            addresses.members(&[1]),
        );
        let path = scratch.join("toml");
        fs::write(&path, config).unwrap();
        let program = Command::new(env!("CARGO_BIN_EXE_drakkar"));
        let mut node = Self {
            process: Process::serve(program, &path, &scratch.join("log")).unwrap(),
            addresses,
            _scratch: scratch,
        };
        let mut client = node.client();
        node.process.until("it takes writes", || {
            client.ask(&["SET", "begin", "1"]) == Some(Answer::Ok)
        });
        node
    }

    fn port(&self) -> u16 {
        self.addresses.client(1)
    }

    fn client(&self) -> Client {
        Client::new(vec![self.port()], 0, PATIENCE)
    }

    /// The sample of a metric.
    fn metric(&self, name: &str) -> usize {
        let text = admin::get(self.addresses.admin(1), "/metrics").unwrap();
        let is_it =
            |line: &&str| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']);
        let line = text.lines().find(is_it);
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    fn resident(&self) -> usize {
        self.metric("process_resident_memory_bytes")
    }
}

/// The process that is stopped; ends with the test, however that ends.
struct Stopped(Child);

impl Stopped {
    /// Runs the client below, and returns when all its connections have begun.
    fn start(port: u16) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "asks_for_ever", "--nocapture"])
            .env(NODE_PORT, port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let stopped = Self(child);
        let read = said.lines().map_while(Result::ok);
        let connected = read.filter(|line| line.contains("has begun"));
        assert_eq!(connected.take(CONNECTIONS).count(), CONNECTIONS);
        stopped
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Reads one answer, whatever it is.
fn skip_answer(from: &mut impl BufRead) -> std::io::Result<()> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let count = |text: &str| text.trim_end().parse().unwrap_or(0_u64);
    match line.split_at_checked(1) {
        Some(("$", length)) => {
            let value = &mut from.take(count(length) + 2);
            std::io::copy(value, &mut std::io::sink()).map(drop)
        }
        Some(("*", items)) => (0..count(items)).try_for_each(|_| skip_answer(from)),
        Some(_) => Ok(()),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Says when it is dropped that a connection was answered, or was closed before that: to who holds most,
/// that may happen at once.
struct Begun(usize);

impl Drop for Begun {
    fn drop(&mut self) {
        println!("connection {} has begun", self.0);
    }
}

/// One connection: many requests under way, for ever. Each asks for values in another way.
fn ask_for_ever(number: usize, port: u16) -> std::io::Result<()> {
    let mut begun = Some(Begun(number));
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let key = format!("key{}", number % KEYS);
    let request = match number % 3 {
        0 => format!("GET {key}\r\n"),
        1 => format!("MGET{}\r\n", format!(" {key}").repeat(KEYS)),
        _ => format!("SET {key} other NX GET\r\n"),
    };
    stream.write_all(request.repeat(PIPELINE).as_bytes())?;
    let mut answers = BufReader::new(stream.try_clone()?);
    loop {
        skip_answer(&mut answers)?;
        drop(begun.take());
        stream.write_all(request.as_bytes())?;
    }
}

#[test]
#[ignore = "the client that the other test starts and stops; does nothing by itself"]
fn asks_for_ever() {
    let Ok(port) = std::env::var(NODE_PORT) else {
        return;
    };
    let port = port.parse().unwrap();
    let clients = (0..CONNECTIONS).map(|number| {
        // Ends when the node closes the connection.
        thread::spawn(move || drop(ask_for_ever(number, port)))
    });
    let clients: Vec<_> = clients.collect();
    clients.into_iter().for_each(|it| it.join().unwrap());
}

/// Writes and reads: how long it took until all was answered.
fn work(client: &mut Client, rounds: usize, mut each: impl FnMut()) -> Duration {
    let start = Instant::now();
    for round in 0..rounds {
        let key = format!("other{round}");
        assert_eq!(client.ask(&["SET", &key, "value"]), Some(Answer::Ok));
        let read = client.ask(&["GET", "key0"]);
        assert!(matches!(read, Some(Answer::Value(value)) if value.len() == VALUE_BYTES));
        if round % 20 == 0 {
            each();
        }
    }
    start.elapsed()
}

#[test]
fn a_client_that_takes_its_answers_gets_all_of_them_however_many_it_asks_for_at_once() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let node = Node::start();
    let value = "y".repeat(VALUE_BYTES);
    let mut client = node.client();
    assert_eq!(client.ask(&["SET", "key0", &value]), Some(Answer::Ok));
    let requests = 2 * PIPELINE;
    let mut stream = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all("GET key0\r\n".repeat(requests).as_bytes())
        .unwrap();
    let expected = format!("${VALUE_BYTES}\r\n{value}\r\n");
    let mut answer = vec![0; expected.len()];
    for at in 0..requests {
        let read = stream.read_exact(&mut answer);
        assert!(
            read.is_ok(),
            "answer {at}: {read:?}; {}",
            node.process.log()
        );
        assert!(answer == expected.as_bytes(), "answer {at}");
    }
}

/// Asks for the length of the value.
fn length(stream: &mut BufReader<TcpStream>) -> usize {
    stream.get_mut().write_all(b"STRLEN key0\r\n").unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line.trim_start_matches(':').trim_end().parse().unwrap()
}

#[test]
fn a_client_that_asks_for_large_answers_after_small_ones_is_closed_only_if_it_takes_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let node = Node::start();
    let value = "z".repeat(VALUE_BYTES);
    let mut client = node.client();
    assert_eq!(client.ask(&["SET", "key0", &value]), Some(Answer::Ok));
    // From small answers the node expects more of the same, and takes many requests at once.
    let ask = |requests: usize| {
        let stream = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        for _ in 0..200 {
            assert_eq!(length(&mut stream), VALUE_BYTES);
        }
        let asked = "GET key0\r\n".repeat(requests);
        stream.get_mut().write_all(asked.as_bytes()).unwrap();
        stream
    };
    // One that reads: it gets what the node has room for, in its turn, and is told of the rest.
    let requests = 2 * PIPELINE;
    let mut slow = ask(requests);
    let mut whole = 0;
    for at in 0..requests {
        let mut line = String::new();
        let read = slow.read_line(&mut line);
        assert!(
            matches!(read, Ok(1..)),
            "answer {at}: {read:?}; {}",
            node.process.log()
        );
        if line.starts_with("-BUSY") {
            continue;
        }
        assert_eq!(line, format!("${VALUE_BYTES}\r\n"), "answer {at}");
        let mut answer = vec![0; VALUE_BYTES + 2];
        slow.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(value.as_bytes()), "answer {at}");
        whole += 1;
        thread::sleep(Duration::from_millis(2));
    }
    assert!(whole * VALUE_BYTES >= 16 * MIB, "{whole} of {requests}");
    assert_eq!(length(&mut slow), VALUE_BYTES);

    // One that does not.
    let idle = ask(requests);
    until(
        || node.metric("drakkar_client_connections") <= 2,
        || node.process.said(),
    );
    assert!(
        node.process.log().contains("client.slow"),
        "{}",
        node.process.log()
    );
    let expected = Answer::Value(VALUE_BYTES.to_string());
    assert_eq!(client.ask(&["STRLEN", "key0"]), Some(expected));
    drop(idle);
}

#[test]
fn a_stopped_process_that_is_owed_large_answers_takes_bounded_memory_and_slows_nobody_down() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let node = Node::start();
    let mut client = node.client();
    let value = "x".repeat(VALUE_BYTES);
    for key in 0..KEYS {
        let key = format!("key{key}");
        assert_eq!(client.ask(&["SET", &key, &value]), Some(Answer::Ok));
    }
    let (alone, before) = (work(&mut client, ROUNDS, || {}), node.resident());

    let stopped = Stopped::start(node.port());
    stopped.signal(Signal::STOP);
    let (mut held, mut resident) = (0, 0);
    let beside = work(&mut client, ROUNDS, || {
        held = held.max(node.metric("drakkar_client_bytes"));
        resident = resident.max(node.resident());
    });
    println!(
        "{ROUNDS} writes and reads in {alone:?} alone, in {beside:?} beside the process that was stopped, for which the \
         node held at most {} MiB; it grew by {} MiB",
        held / MIB,
        resident.saturating_sub(before) / MIB
    );
    assert!(held <= CLIENTS_BYTES, "{held} bytes are held for clients");
    // Beside the buffers: the answers of one turn and of one batch, buffers that grow, and what the allocator
    // keeps.
    let bound = before + CLIENTS_BYTES + 160 * MIB;
    assert!(
        resident <= bound,
        "{resident} of {bound} bytes; {}",
        node.process.log()
    );

    stopped.signal(Signal::CONT);
    // It takes as much as the node can give.
    work(&mut client, ROUNDS / 20, || {});
    drop(stopped);
    until(
        || node.metric("drakkar_client_connections") <= 1,
        || node.process.said(),
    );
    assert!(node.metric("drakkar_client_bytes") < 4 * MIB);
}
