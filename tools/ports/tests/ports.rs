//! Ports that are reserved by many at once, in one process and in several.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ports::{NoPorts, Ports, is_free};

/// Tells the process that is started from this file that it is to reserve ports.
const ROLE: &str = "DRAKKAR_TEST_RESERVES_PORTS";
const PROCESSES: usize = 6;
const THREADS: usize = 4;
const RESERVATIONS: usize = 20;
const COUNT: u16 = 9;
const PAUSE: Duration = Duration::from_millis(10);
const STEPS: usize = 6000;

#[test]
fn processes_and_threads_that_reserve_at_once_never_share_a_port() {
    if std::env::var_os(ROLE).is_some() {
        return reserve_and_hold();
    }
    let mut children: Vec<Child> = (0..PROCESSES).map(|_| start()).collect();
    let mut seen = BTreeSet::new();
    for child in &mut children {
        let output = BufReader::new(child.stdout.as_mut().unwrap());
        let firsts = output.lines().map(Result::unwrap);
        let firsts = firsts.filter_map(|line| line.strip_prefix("first ")?.parse::<u16>().ok());
        for first in firsts.take(THREADS * RESERVATIONS) {
            for port in first..first + COUNT {
                assert!(seen.insert(port), "{port} was reserved twice");
            }
        }
    }
    assert_eq!(
        seen.len(),
        PROCESSES * THREADS * RESERVATIONS * usize::from(COUNT)
    );
    for mut child in children {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

fn start() -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "processes_and_threads_that_reserve_at_once_never_share_a_port",
        "--nocapture",
    ]);
    command.env(ROLE, "1").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Prints what it has reserved, and keeps all of it until its input ends.
fn reserve_and_hold() {
    let reserve = || {
        let all = (0..RESERVATIONS).map(|_| Ports::reserve(COUNT).unwrap());
        all.collect::<Vec<_>>()
    };
    let all: Vec<Ports> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(reserve)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.flatten().collect()
    });
    println!();
    for ports in &all {
        println!("first {}", ports.first());
    }
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn what_is_reserved_can_be_listened_on_and_lies_below_what_connections_get() {
    let ports = Ports::reserve_at(3, &[0, 2000, 10_000]).unwrap();
    let blocks = [0, 2000, 10_000].map(|above| ports.first() + above);
    let listeners = blocks
        .into_iter()
        .flat_map(|first| first..first + 3)
        .map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    assert_eq!(listeners.count(), 9);

    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let begin: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    // A machine may be told to leave none.
    if begin >= 30_000 {
        assert!(ports.first() + 10_000 + 3 <= begin, "{ports:?}, {begin}");
    }
}

#[test]
fn a_port_is_not_free_while_somebody_listens_on_it() {
    let ports = Ports::reserve(1).unwrap();
    assert!(is_free(ports.first()));
    let listener = TcpListener::bind(("127.0.0.1", ports.first())).unwrap();
    assert!(!is_free(ports.first()));
    drop(listener);
    // A process that another test starts has a copy of it for a moment.
    let freed = (0..STEPS).any(|_| {
        thread::sleep(PAUSE);
        is_free(ports.first())
    });
    assert!(freed, "{ports:?}");
}

#[test]
fn more_ports_than_there_are_are_refused_in_words() {
    let refusal = Ports::reserve(60_000).unwrap_err();
    assert!(matches!(refusal, NoPorts { count: 60_000, .. }));
    let words = refusal.to_string();
    assert!(
        words.starts_with("no 60000 neighbouring ports are free between 10000 and "),
        "{words}"
    );
}
