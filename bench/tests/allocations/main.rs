//! What a node asks its allocator for while it takes writes: nothing for a command beyond what its
//! batch and flush cost, and so much for those. One node, its log on a disk, and a client that is
//! not counted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test waits for a real node, and not for ever"
)]

mod io;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::config::{ClusterOptions, NodeAddress, Options};
use engine::io::Node;
use ports::Ports;

use io::counter::{Counting, Stack, remembered, stand_apart};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PATIENCE: Duration = Duration::from_secs(120);
/// So many keys are written again and again: the data does not grow.
const KEYS: usize = 1000;

/// For each command, beyond what its burst costs: room for what grows now and then.
const PER_COMMAND_MAX: f64 = 0.05;
/// For each burst of commands that goes through parser, batch, log and back.
const PER_BURST_MAX: f64 = 25.0;

/// What is counted is that of the whole process.
static TURN: Mutex<()> = Mutex::new(());

/// A node that is a cluster by itself, and one connection to it.
struct Bench {
    _ports: Ports,
    node: Node,
    stream: TcpStream,
    directory: PathBuf,
}

/// What it cost to write.
#[derive(Clone, Copy, Debug)]
struct Cost {
    commands: f64,
    bursts: f64,
    allocations: f64,
}

impl Bench {
    fn start() -> Self {
        let name = format!("allocations-{}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let ports = Ports::reserve(2).unwrap();
        let port = ports.first();
        let address = NodeAddress {
            id: 1,
            host: "127.0.0.1".to_owned(),
            client_port: port,
            peer_port: port + 1,
            admin_port: 0,
        };
        let options = Options {
            cluster: ClusterOptions {
                id: "allocations".to_owned(),
                shards: 1,
                groups: 1,
                nodes: vec![address],
                ..ClusterOptions::default()
            },
            node_id: 1,
            data_dir: directory.display().to_string(),
            any_file_system: true,
            ..Options::default()
        };
        let node = Node::open(options.validate().unwrap()).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bench = Self {
            _ports: ports,
            node,
            stream,
            directory,
        };
        bench.await_leader();
        bench
    }

    fn await_leader(&mut self) {
        let start = Instant::now();
        let mut answer = [0; 5];
        loop {
            self.stream.write_all(b"SET key 1\r\n").unwrap();
            self.stream.read_exact(&mut answer).unwrap();
            if &answer == b"+OK\r\n" {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no leader");
            // The rest of an error.
            let mut byte = [0];
            while byte != *b"\n" {
                self.stream.read_exact(&mut byte).unwrap();
            }
        }
    }

    /// So many bursts of so many writes, each burst when the one before it is answered.
    fn write(&mut self, bursts: usize, commands: usize) {
        let mut answers = vec![0; commands * 5];
        let request: Vec<u8> = (0..commands)
            .flat_map(|at| {
                let key = at % KEYS;
                format!("*3\r\n$3\r\nSET\r\n$7\r\nkey{key:04}\r\n$16\r\n0123456789abcdef\r\n")
                    .into_bytes()
            })
            .collect();
        for _ in 0..bursts {
            self.stream.write_all(&request).unwrap();
            self.stream.read_exact(&mut answers).unwrap();
            assert!(answers.chunks(5).all(|answer| answer == b"+OK\r\n"));
        }
    }

    /// All memory that is kept is there afterwards.
    fn warm_up(&mut self) {
        self.write(50, 1000);
        self.write(500, 1);
    }

    /// Counts what our own code asks for on the way of a write. What threads ask for to sleep and to wake depends on
    /// how often they do.
    fn cost(&mut self, bursts: usize, commands: usize) -> Cost {
        let stacks = remembered(|| self.write(bursts, commands));
        let mut names = BTreeMap::new();
        let counts = stacks.into_iter().filter_map(|(stack, count)| {
            let way = way(&stack, &mut names);
            let ours = way.iter().any(|name| starts(name, OURS));
            let by_clock = way.iter().any(|name| starts(name, BY_CLOCK));
            (ours && !by_clock).then_some(count)
        });
        Cost {
            commands: (bursts * commands) as f64,
            bursts: bursts as f64,
            allocations: counts.sum::<u64>() as f64,
        }
    }
}

impl Cost {
    /// Commands in a burst.
    fn size(&self) -> f64 {
        self.commands / self.bursts
    }

    /// Allocations for a burst.
    fn of_burst(&self) -> f64 {
        self.allocations / self.bursts
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.node.stop();
        drop(self.node.wait());
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// The functions on a way to the allocator, the innermost first: ours, or the others if there are none.
fn way(stack: &Stack, names: &mut BTreeMap<usize, Vec<String>>) -> Vec<String> {
    let mut way = Vec::new();
    for &address in stack.iter().take_while(|&&address| address != 0) {
        let found = names.entry(address).or_insert_with(|| {
            let mut found = Vec::new();
            let pointer = std::ptr::without_provenance_mut(address);
            backtrace::resolve(pointer, |symbol| {
                if let Some(name) = symbol.name() {
                    found.push(format!("{name:#}"));
                }
            });
            found
        });
        way.extend(found.iter().cloned());
    }
    way.retain(|name| {
        !starts(
            name,
            &["alloc::", "core::", "std::", "backtrace::", "allocations::"],
        )
    });
    if way.iter().any(|name| starts(name, OURS)) {
        way.retain(|name| starts(name, OURS));
    }
    way
}

fn starts(name: &str, with: &[&str]) -> bool {
    let name = name.trim_start_matches('<');
    with.iter().any(|with| name.starts_with(with))
}

const OURS: &[&str] = &["engine::", "net::", "wal::"];
/// What is done as time goes by, whether or not there are writes.
const BY_CLOCK: &[&str] = &[
    "wal::io::executor::",
    "wal::io::blanks::",
    "engine::io::client::Clients::refresh",
    "engine::io::executor::Executor::watch_space",
];

/// The stage of a write that a way belongs to.
fn stage(way: &[String]) -> &'static str {
    const STAGES: &[(&str, &str)] = &[
        ("::client::read", "parse, batch"),
        ("::client::understand", "parse, batch"),
        ("::client::write", "reply"),
        ("::outcomes::", "reply"),
        ("::append", "serialise, append"),
        ("wal::", "serialise, append"),
        ("::serve_reads", "read"),
        ("::apply", "apply"),
        ("::settle", "propose, acknowledge"),
        ("::step", "propose, acknowledge"),
        ("::drive", "turn"),
    ];
    let stages = STAGES.iter();
    let mut stages = stages.filter(|(part, _)| way.iter().any(|name| name.contains(part)));
    stages.next().map_or("other", |(_, stage)| stage)
}

/// Where what is left comes from, for whoever wants to remove it.
fn tell_where(bench: &mut Bench, bursts: usize, commands: usize) {
    let stacks = remembered(|| bench.write(bursts, commands));
    let (mut names, mut stages, mut sites) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (stack, count) in stacks {
        let way = way(&stack, &mut names);
        *stages.entry(stage(&way)).or_insert(0) += count;
        let way: Vec<String> = way.into_iter().take(4).collect();
        *sites.entry((stage(&way), way)).or_insert(0) += count;
    }
    println!("by stage, for each burst of {commands} commands:");
    for (stage, count) in stages {
        println!("  {:8.2}  {stage}", count as f64 / bursts as f64);
    }
    let mut sites: Vec<_> = sites.into_iter().collect();
    sites.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    println!("by place:");
    for ((_, way), count) in sites.iter().take(24) {
        println!(
            "  {:8.2}  {}",
            *count as f64 / bursts as f64,
            way.join(" < ")
        );
    }
}

#[test]
fn a_command_costs_no_allocation_of_its_own_and_a_burst_few() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    stand_apart();
    let mut bench = Bench::start();
    bench.warm_up();
    let small = bench.cost(500, 10);
    let large = bench.cost(75, 1000);
    println!("{small:?}; {large:?}");
    // A burst of n commands costs per_burst + n x per_command.
    let per_command = (large.of_burst() - small.of_burst()) / (large.size() - small.size());
    let per_burst = small.of_burst() - per_command * small.size();
    println!("{per_command:.4} allocations for each command, {per_burst:.1} for each burst");
    assert!(
        per_command <= PER_COMMAND_MAX,
        "{per_command} for each command"
    );
    assert!(per_burst <= PER_BURST_MAX, "{per_burst} for each burst");
}

#[test]
#[ignore = "prints where what is left comes from, and checks nothing"]
fn where_allocations_come_from() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    stand_apart();
    let mut bench = Bench::start();
    bench.warm_up();
    tell_where(&mut bench, 100, 10);
    tell_where(&mut bench, 50, 1000);
}
