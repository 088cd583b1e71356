//! Who stops in the middle of everything costs the others nothing but bounded memory: a follower's
//! process that is stopped, and a client that takes no answers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod demo;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use demo::Demo;

const PAUSE: Duration = Duration::from_millis(50);
const STEPS: usize = 1200;
const MIB: f64 = 1_048_576.0;
const VALUE_BYTES: usize = 16 << 10;

/// One cluster at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A node's process, by its number.
fn process(demo: &Demo, node: usize) -> Pid {
    let said = fs::read_to_string(demo.directory.join("demo.out")).unwrap();
    let name = format!("n{node} ");
    let after = said.split_once(&name).unwrap_or_else(|| panic!("{said}")).1;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    Pid::from_raw(digits.parse().unwrap()).unwrap()
}

/// The largest sample of a metric on a node.
fn metric(demo: &Demo, node: u16, name: &str) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", demo.port + 1999 + node)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let is_it = |line: &&str| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']);
    let values = text.lines().filter(is_it).map(|line| {
        let value = line.rsplit_once(' ').unwrap().1;
        value.parse::<f64>().unwrap()
    });
    values
        .reduce(f64::max)
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn connect(demo: &Demo, node: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", demo.port + node - 1)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(120)))
        .unwrap();
    stream
}

/// Writes so many MiB to a few keys, 64 values at a time: each must be acknowledged.
fn write(client: &mut TcpStream, mib: usize) {
    let value = "x".repeat(VALUE_BYTES);
    let burst: String = (0..64)
        .map(|key| format!("SET key{key} {value}\r\n"))
        .collect();
    let mut answers = [0; 64 * 5];
    for _ in 0..mib {
        client.write_all(burst.as_bytes()).unwrap();
        client.read_exact(&mut answers).unwrap();
        assert_eq!(String::from_utf8_lossy(&answers), "+OK\r\n".repeat(64));
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let met = (0..STEPS).any(|_| {
        let met = condition();
        if !met {
            thread::sleep(PAUSE);
        }
        met
    });
    assert!(met, "{what}");
}

/// Lets a process go on however the test ends, so that it can be ended.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).unwrap();
    }
}

#[test]
fn a_stopped_follower_holds_nobody_up_and_takes_bounded_memory_of_the_leader() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let demo = Demo::start(&["--groups", "1"]);
    wait_until("the first node leads", || {
        metric(&demo, 1, "drakkar_raft_is_leader") == 1.0
    });
    let mut client = connect(&demo, 1);
    write(&mut client, 100);
    let before = metric(&demo, 1, "process_resident_memory_bytes");

    let third = process(&demo, 3);
    kill_process(third, Signal::STOP).unwrap();
    let stopped = Stopped(third);
    // Several times as much as any queue holds.
    let mut queued: f64 = 0.0;
    for _ in 0..10 {
        write(&mut client, 25);
        queued = queued.max(metric(&demo, 1, "drakkar_transport_queue_bytes"));
    }
    assert!(
        queued <= 32.0 * MIB,
        "{queued} bytes wait for the one that is stopped"
    );
    let after = metric(&demo, 1, "process_resident_memory_bytes");
    let grown = (after - before) / MIB;
    assert!(grown < 160.0, "{grown:.0} MiB more than before: {after}");
    drop(stopped);
    let applied = |node| metric(&demo, node, "drakkar_raft_applied_index");
    let leader = applied(1);
    wait_until("it catches up", || applied(3) >= leader);
    demo.stop();
}

#[test]
fn a_client_that_takes_no_answers_is_disconnected_and_the_others_notice_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let demo = Demo::start(&["--groups", "1"]);
    wait_until("the first node leads", || {
        metric(&demo, 1, "drakkar_raft_is_leader") == 1.0
    });
    let (mut client, mut stopped) = (connect(&demo, 1), connect(&demo, 1));
    write(&mut client, 1);
    let connected = metric(&demo, 1, "drakkar_client_connections");
    // A gigabyte of answers is asked for, and none is read.
    let requests = "GET key1\r\n".repeat(1000);
    stopped
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut most: f64 = 0.0;
    for _ in 0..64 {
        if stopped.write_all(requests.as_bytes()).is_err() {
            break;
        }
        write(&mut client, 1);
        most = most.max(metric(&demo, 1, "drakkar_client_bytes"));
    }
    assert!(most <= 128.0 * MIB, "{most} bytes are held for two clients");
    write(&mut client, 20);
    let left = metric(&demo, 1, "drakkar_client_connections");
    // Disconnected, or no longer read and so held to half of limits.output_size.
    let held = metric(&demo, 1, "drakkar_client_bytes");
    assert!(
        left < connected || held <= 64.0 * MIB,
        "{left} clients, {held} bytes"
    );
    demo.stop();
}
