//! The recorded commands on this core. What a node says stays with the node until `process-ready`,
//! and then is on its way until `deliver-msgs`.

use std::collections::VecDeque;
use std::time::Duration;

use engine::Time;
use engine::raft::{Log, Members, Message, Outbox, Raft, Role, Settings, Window};
use wal::{Entry, EntryKind, FlushNumber, HardState, LogIndex, Payload, ReplicaId, Term};

use super::Snapshot;

/// The recorded timing, in ticks.
const HEARTBEAT_TICKS: u64 = 1;
const ELECTION_TICKS: u64 = 3;
const TICK: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// `(from, to, message)`, in the order they were sent.
    under_way: Vec<(u64, u64, Message)>,
    /// A flush is durable only once `process-append-thread` ran.
    storage_is_async: bool,
    /// Nodes of which a leader's lease is relied on: they never forget it.
    keeps_leader: bool,
}

struct Node {
    raft: Raft,
    ticks: u64,
    flushes: u64,
    /// What is not yet in the storage, by flush.
    queue: VecDeque<(FlushNumber, Vec<Entry>)>,
    storage: Vec<Entry>,
    said: Outbox,
    /// Stands for election by itself at this tick.
    stands_at: Option<u64>,
}

impl Cluster {
    pub(crate) fn run(&mut self, command: &str, args: &[&str]) {
        match command {
            "log-level" | "raft-state" | "raft-log" | "status" | "process-apply-thread" => {}
            "add-nodes" => self.add_nodes(args),
            "campaign" => {
                let node = self.node(id(args[0]));
                node.raft.campaign(&mut node.said);
            }
            "propose" => {
                let node = self.node(id(args[0]));
                let payload = Payload::from(args[1].as_bytes());
                let index = node.raft.propose(EntryKind::Batch, payload);
                assert!(index.is_some(), "{} does not lead", args[0]);
                node.raft.replicate(true, &mut node.said);
            }
            "process-ready" => {
                for node in ids(args) {
                    self.process_ready(node);
                }
            }
            "process-append-thread" => {
                for node in ids(args) {
                    self.process_append(node);
                }
            }
            "deliver-msgs" => self.deliver_messages(args),
            "stabilize" => self.stabilize(ids(args)),
            "tick-heartbeat" => self.tick(id(args[0]), HEARTBEAT_TICKS),
            "tick-election" => self.tick(id(args[0]), ELECTION_TICKS),
            "set-randomized-election-timeout" => {
                let ticks: u64 = option(args, "timeout")
                    .expect("a timeout")
                    .parse()
                    .unwrap_or(0);
                let node = self.node(id(args[0]));
                node.stands_at = Some(node.ticks + ticks);
            }
            "forget-leader" => {
                if !self.keeps_leader {
                    self.node(id(args[0])).raft.forget_leader();
                }
            }
            "report-unreachable" => {
                let lost = replica(id(args[1]));
                self.node(id(args[0])).raft.unreachable(lost);
            }
            _ => panic!("no such command: {command} {args:?}"),
        }
        for node in &mut self.nodes {
            node.hold_still();
        }
    }

    pub(crate) fn snapshot(&self, id: u64) -> Snapshot {
        let node = &self.nodes[usize::try_from(id).expect("small") - 1];
        let raft = &node.raft;
        Snapshot {
            id,
            role: format!("{:?}", raft.role()),
            term: raft.term().to_raw(),
            vote: raft.vote().map_or(0, |vote| u64::from(vote.to_raw())),
            commit: raft.commit().to_raw(),
            log: node
                .storage
                .iter()
                .map(|entry| (entry.term.to_raw(), entry.index.to_raw()))
                .collect(),
        }
    }

    fn add_nodes(&mut self, args: &[&str]) {
        let flag = |name| option(args, name) == Some("true");
        self.storage_is_async = flag("async-storage-writes");
        self.keeps_leader = option(args, "read-only") == Some("lease-based");
        let members = Members {
            voters: numbers(option(args, "voters").expect("voters"))
                .map(replica)
                .collect(),
            observers: numbers(option(args, "learners").unwrap_or(""))
                .map(replica)
                .collect(),
        };
        let floor = LogIndex::from_raw(numbers(option(args, "index").expect("an index")).sum());
        let in_flight = option(args, "inflight").map(|max| max.parse().expect("a number"));
        for number in 1..=id(args[0]) {
            let settings = Settings {
                heartbeat_interval: ticks(HEARTBEAT_TICKS),
                election_timeout: ticks(ELECTION_TICKS),
                pre_vote: flag("prevote"),
                check_quorum: flag("checkquorum"),
                window: Window {
                    bytes_max: usize::MAX,
                    messages_max: in_flight.unwrap_or(usize::MAX),
                },
                append_bytes_max: usize::MAX,
                seed: number,
            };
            let hard_state = HardState {
                term: Term::ZERO,
                vote: None,
                commit: floor,
            };
            // The recorded nodes start from a snapshot whose last entry is of term 1.
            let log = Log::new((floor, Term::from_raw(1)), Vec::new(), floor, Vec::new());
            let raft = Raft::new(
                replica(number),
                members.clone(),
                settings,
                hard_state,
                log,
                Time::default(),
                Duration::MAX,
            );
            self.nodes.push(Node {
                raft,
                ticks: 0,
                flushes: 0,
                queue: VecDeque::new(),
                storage: Vec::new(),
                said: Outbox::new(),
                stands_at: None,
            });
        }
    }

    /// Sends what the node has to say and gives its storage what it has to keep. Says whether there
    /// was anything.
    fn process_ready(&mut self, id: u64) -> bool {
        let storage_is_async = self.storage_is_async;
        let node = self.node(id);
        node.raft.replicate(true, &mut node.said);
        let flushes = node.raft.has_unsubmitted();
        if flushes {
            node.submit();
        }
        // The recorded candidates ask for votes while their own is still being written; ours wait,
        // so theirs is written at once here.
        if !storage_is_async || node.raft.role() == Role::Candidate {
            while node.write() {}
        }
        let speaks = !node.said.is_empty();
        self.send(id);
        flushes || speaks
    }

    fn process_append(&mut self, id: u64) {
        self.node(id).write();
        self.send(id);
    }

    fn send(&mut self, from: u64) {
        let said = core::mem::take(&mut self.node(from).said);
        for (to, message) in said {
            self.under_way.push((from, u64::from(to.to_raw()), message));
        }
    }

    fn deliver_messages(&mut self, args: &[&str]) {
        for to in ids(args) {
            self.deliver(to);
        }
        for to in numbers(option(args, "drop").unwrap_or("")) {
            self.under_way.retain(|&(_, receiver, _)| receiver != to);
        }
    }

    /// Says whether there was anything to deliver.
    fn deliver(&mut self, id: u64) -> bool {
        let (arrive, stay): (Vec<_>, Vec<_>) = core::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|&(_, to, _)| to == id);
        self.under_way = stay;
        let any = !arrive.is_empty();
        let node = self.node(id);
        for (from, _, message) in arrive {
            let now = node.now();
            node.raft.step(now, replica(from), message, &mut node.said);
            node.raft.replicate(true, &mut node.said);
        }
        any
    }

    /// Lets these nodes (all if none is named) speak, write and listen until nothing moves.
    fn stabilize(&mut self, mut ids: Vec<u64>) {
        if ids.is_empty() {
            ids = (1..=self.nodes.len() as u64).collect();
        }
        for _ in 0..1000 {
            let mut moved = false;
            for &id in &ids {
                moved |= self.process_ready(id);
            }
            for &id in &ids {
                moved |= self.deliver(id);
            }
            for &id in &ids {
                while self.node(id).write() {
                    moved = true;
                }
                self.send(id);
            }
            if !moved {
                return;
            }
        }
        panic!("the nodes {ids:?} do not come to rest");
    }

    fn tick(&mut self, id: u64, ticks: u64) {
        let node = self.node(id);
        for _ in 0..ticks {
            node.ticks += 1;
            if node.stands_at.is_some_and(|tick| tick <= node.ticks) {
                node.stands_at = None;
                node.raft.wait_until(node.now());
            }
            node.raft.tick(node.now(), &mut node.said);
        }
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[usize::try_from(id).expect("small") - 1]
    }
}

impl Node {
    fn now(&self) -> Time {
        Time::default().after(ticks(self.ticks))
    }

    fn submit(&mut self) {
        self.flushes += 1;
        let flush = FlushNumber::from_raw(self.flushes);
        let mut entries = Vec::new();
        let keep = |entry: &Entry| entries.push(entry.clone());
        self.raft.submit(flush, usize::MAX, |_| {}, keep);
        self.queue.push_back((flush, entries));
    }

    /// Makes the oldest flush durable. Says whether there was one.
    fn write(&mut self) -> bool {
        let Some((flush, entries)) = self.queue.pop_front() else {
            return false;
        };
        for entry in entries {
            self.storage.retain(|kept| kept.index < entry.index);
            self.storage.push(entry);
        }
        self.raft.written(flush, &mut self.said);
        true
    }

    /// Nobody stands for election unless told to: the recorded commands say who does, and when.
    fn hold_still(&mut self) {
        if self.raft.role() != Role::Leader {
            self.raft.wait_until(Time::from_nanos(u64::MAX));
        }
    }
}

fn replica(id: u64) -> ReplicaId {
    ReplicaId::from_raw(u32::try_from(id).expect("small"))
}

fn ticks(ticks: u64) -> Duration {
    TICK * u32::try_from(ticks).expect("few")
}

fn id(arg: &str) -> u64 {
    arg.parse().expect("a node's id")
}

/// The arguments that name nodes.
fn ids(args: &[&str]) -> Vec<u64> {
    args.iter().filter_map(|arg| arg.parse().ok()).collect()
}

/// The value of `name=value`.
fn option<'a>(args: &[&'a str], name: &str) -> Option<&'a str> {
    args.iter()
        .find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
}

/// The numbers of `7` or `(1, 2, 3)`.
fn numbers(list: &str) -> impl Iterator<Item = u64> + '_ {
    list.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
}
