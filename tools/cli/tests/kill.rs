//! Real processes, real logs, SIGKILL: what was acknowledged is there afterwards, and nothing else
//! than what was written. Every key has one writer; a key whose write had no answer gets no other.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "recovery of real processes is measured"
)]

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nodes::{Addresses, Answer, Client, PATIENCE, PAUSE, Process, Scratch, admin, until};
use serde_json::Value;

/// How long a client waits for an answer before it asks another node.
const ANSWER_MAX: Duration = Duration::from_secs(3);
const WRITERS: usize = 10;
const KEYS_OF_WRITER: usize = 20;

/// Three nodes, each a process with a directory of its own.
struct Cluster {
    addresses: Addresses,
    scratch: Scratch,
    processes: Vec<Process>,
}

impl Cluster {
    /// With so many groups, and a proxy that waits so long for a leader.
    fn start(groups: u16, route_wait: Duration) -> Self {
        let scratch = Scratch::new("kill");
        let addresses = Addresses::reserve(3).unwrap();
        let members = addresses.members(&[1, 2, 3]);
        for id in 1..=3 {
            let config = format!(
                "[node]\nid = {id}\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"kill\"\nshards = 1\n\
                 groups = {groups}\nelection_timeout = \"500ms\"\nheartbeat_interval = \"50ms\"\n\
                 [log]\nsegment_size = \"32MB\"\n[client]\nproxy = true\nroute_wait = \"{}ms\"\n{members}",
                scratch.join(format!("n{id}")).display(),
                route_wait.as_millis()
            );
            fs::write(scratch.join(format!("n{id}.toml")), config).unwrap();
        }
        Self {
            processes: (1..=3).map(|id| run(&scratch, id)).collect(),
            addresses,
            scratch,
        }
    }

    /// SIGKILL.
    fn kill(&mut self, node: usize) {
        assert!(self.processes[node].kill(), "{}", self.logs());
    }

    fn run(&mut self, node: usize) {
        self.processes[node] = run(&self.scratch, node + 1);
    }

    fn client(&self, first: usize) -> Client {
        self.client_with(first, ANSWER_MAX)
    }

    fn client_with(&self, first: usize, patience: Duration) -> Client {
        let ports = [1, 2, 3].map(|id| self.addresses.client(id));
        Client::new(ports.to_vec(), first, patience)
    }

    /// The node that leads group 0, once there is one.
    fn leader(&self) -> usize {
        let mut found = None;
        let mut leads = || {
            found = (0..3).find(|&node| self.leads(node));
            found.is_some()
        };
        until(&mut leads, || format!("a leader; {}", self.logs()));
        found.unwrap()
    }

    fn admin(&self, node: usize) -> u16 {
        self.addresses.admin(u16::try_from(node).unwrap() + 1)
    }

    fn leads(&self, node: usize) -> bool {
        let groups = admin::groups(self.admin(node));
        groups
            .iter()
            .any(|group| group["group"] == 0 && group["role"] == "leader")
    }

    /// Waits until a node knows that its connection to another is down.
    fn await_loss(&self, node: usize, lost: usize) {
        let is_lost = |status: Value| {
            let peers = status["peers"].as_array().cloned().unwrap_or_default();
            let mut peers = peers.iter();
            peers.any(|peer| peer["node"] == lost + 1 && peer["connected"] == false)
        };
        until(
            || admin::status(self.admin(node)).is_some_and(is_lost),
            || format!("the loss is noticed; {}", self.logs()),
        );
    }

    /// How long it takes from `start` until keys of all groups can be written.
    fn serves(&self, what: &str, start: Instant) {
        let mut client = self.client(0);
        for key in 0..32 {
            while client.ask(&["SET", &format!("probe{key}"), what]) != Some(Answer::Ok) {
                assert!(
                    start.elapsed() < PATIENCE,
                    "{what}: it does not serve again; {}",
                    self.logs()
                );
                client.next_node();
                thread::sleep(PAUSE);
            }
        }
        println!("{what}: serves after {:?}", start.elapsed());
    }

    fn logs(&self) -> String {
        let said = |process: &Process| format!("the end of a log:\n{}\n", process.said());
        self.processes.iter().map(said).collect()
    }

    /// SIGTERM for all: each ends in time, with exit code 0.
    fn stop(&mut self) {
        self.processes.iter().for_each(Process::terminate);
        for process in &mut self.processes {
            assert_eq!(process.ended(), Some(0), "{}", process.said());
        }
    }
}

fn run(scratch: &Scratch, id: usize) -> Process {
    let path = |kind| scratch.join(format!("n{id}.{kind}"));
    let program = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    Process::serve(program, &path("toml"), &path("log")).unwrap()
}

/// What is known of a key: its value lies between.
struct Promise {
    key: String,
    acknowledged: u64,
    attempted: u64,
}

/// Writes rising numbers until told to stop.
fn write(mut client: Client, writer: usize, ended: &AtomicBool, total: &AtomicU64) -> Vec<Promise> {
    let mut promises: Vec<Promise> = Vec::new();
    let mut fresh = 0;
    let mut open = || {
        fresh += 1;
        Promise {
            key: format!("w{writer}:{fresh}"),
            acknowledged: 0,
            attempted: 0,
        }
    };
    let mut current: Vec<Promise> = (0..KEYS_OF_WRITER).map(|_| open()).collect();
    let mut at = 0;
    while !ended.load(Ordering::Relaxed) {
        at = (at + 1) % KEYS_OF_WRITER;
        let promise = &mut current[at];
        promise.attempted += 1;
        let value = promise.attempted.to_string();
        if client.ask(&["SET", &promise.key, &value]) == Some(Answer::Ok) {
            promise.acknowledged = promise.attempted;
            total.fetch_add(1, Ordering::Relaxed);
        } else {
            promises.push(std::mem::replace(&mut current[at], open()));
            client.next_node();
            thread::sleep(PAUSE);
            continue;
        }
        if at == 0
            && let Some(answer @ (Answer::Nil | Answer::Value(_))) =
                client.ask(&["GET", &promise.key])
        {
            assert_eq!(
                answer,
                Answer::Value(value),
                "stale read of {}",
                promise.key
            );
        }
    }
    promises.extend(current);
    promises
}

fn verify(cluster: &Cluster, promises: &[Promise]) {
    let mut client = cluster.client(0);
    let start = Instant::now();
    for promise in promises {
        let (key, least, most) = (&promise.key, promise.acknowledged, promise.attempted);
        let value = loop {
            match client.ask(&["GET", key]) {
                Some(Answer::Value(value)) => break value.parse::<u64>().unwrap(),
                Some(Answer::Nil) => break 0,
                Some(Answer::Ok | Answer::Error(_)) | None => {
                    assert!(start.elapsed() < PATIENCE, "{key} cannot be read");
                    client.next_node();
                    thread::sleep(PAUSE);
                }
            }
        };
        assert!(
            (least..=most).contains(&value),
            "{key} is {value}: {least} was acknowledged, {most} attempted"
        );
    }
}

/// Kills `victims` under load, starts them again, and waits until all is served.
fn strike(cluster: &mut Cluster, what: &str, victims: &[usize]) {
    thread::sleep(Duration::from_millis(700));
    let killed = Instant::now();
    for &node in victims {
        cluster.kill(node);
    }
    if victims.len() == 1 {
        cluster.serves(what, killed);
    } else {
        thread::sleep(Duration::from_millis(300));
    }
    let started = Instant::now();
    for &node in victims {
        cluster.run(node);
    }
    cluster.serves(&format!("{what}, started again"), started);
}

fn kill_under_load(groups: u16) {
    let mut cluster = Cluster::start(groups, ANSWER_MAX * 5 / 6);
    cluster.serves("first start", Instant::now());
    let (ended, total) = (AtomicBool::new(false), AtomicU64::new(0));
    let promises: Vec<Promise> = thread::scope(|scope| {
        let (ended, total) = (&ended, &total);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let client = cluster.client(writer);
                scope.spawn(move || write(client, writer, ended, total))
            })
            .collect();
        let struck = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let leader = cluster.leader();
            strike(&mut cluster, "SIGKILL of the leader", &[leader]);
            let follower = (cluster.leader() + 1) % 3;
            strike(&mut cluster, "SIGKILL of a follower", &[follower]);
            let leader = cluster.leader();
            let two = [leader, (leader + 1) % 3];
            strike(&mut cluster, "SIGKILL of two nodes", &two);
            strike(&mut cluster, "SIGKILL of all three", &[0, 1, 2]);
            thread::sleep(Duration::from_millis(500));
        }));
        // The writers must end before a failure can be reported.
        ended.store(true, Ordering::Relaxed);
        let promises = writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect();
        if let Err(panic) = struck {
            std::panic::resume_unwind(panic);
        }
        promises
    });
    let acknowledged = total.load(Ordering::Relaxed);
    println!(
        "{acknowledged} acknowledged writes, {} keys",
        promises.len()
    );
    assert!(acknowledged > 0, "nothing was written");
    verify(&cluster, &promises);
    cluster.stop();
}

#[test]
fn a_proxy_waits_for_a_new_leader_before_it_gives_up() {
    let mut cluster = Cluster::start(1, PATIENCE);
    cluster.serves("start", Instant::now());
    let leader = cluster.leader();
    let other = (leader + 1) % 3;
    let mut client = cluster.client_with(other, PATIENCE);
    assert_eq!(client.ask(&["SET", "key", "value"]), Some(Answer::Ok));
    cluster.kill(leader);
    cluster.await_loss(other, leader);
    assert_eq!(
        client.ask(&["GET", "key"]),
        Some(Answer::Value("value".into())),
        "at the first try"
    );
}

#[test]
fn acknowledged_writes_survive_every_kill_with_one_group() {
    kill_under_load(1);
}

#[test]
fn acknowledged_writes_survive_every_kill_with_groups_led_by_all_nodes() {
    kill_under_load(3);
}
