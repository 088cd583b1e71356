//! The recorded commands on this core. What a node says stays with the node until `process-ready`,
//! and then is on its way until `deliver-msgs`.

use engine::raft::{Members, Message, Role, Settings, Window};
use wal::{EntryKind, LogIndex, Payload, ReplicaId};

use super::changes::Changes;
use super::node::{ELECTION_TICKS, HEARTBEAT_TICKS, Node, ticks};
use super::{State, numbers};

#[derive(Default)]
pub(crate) struct Cluster {
    pub(super) nodes: Vec<Node>,
    /// `(from, to, message)`, in the order they were sent.
    under_way: Vec<(u64, u64, Message)>,
    /// A flush is durable only once `process-append-thread` ran.
    storage_is_async: bool,
    /// Nodes of which a leader's lease is relied on: they never forget it.
    keeps_leader: bool,
    pub(super) changes: Changes,
}

impl Cluster {
    /// `input` is what the command says beside its arguments: the changes of members.
    pub(crate) fn run(&mut self, command: &str, args: &[&str], input: &str) {
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
            "compact" => self.node(id(args[0])).compact(index(id(args[1]))),
            "send-snapshot" => {
                let (from, to) = (id(args[0]), id(args[1]));
                let offer = self.node(from).offer();
                self.under_way.push((from, to, offer));
            }
            "transfer-leadership" => {
                let [from, to] = ["from", "to"].map(|name| option(args, name).map(id));
                let node = self.node(from.expect("who leads"));
                let to = replica(to.expect("who follows"));
                node.raft.transfer(to, &mut node.said);
            }
            "propose-conf-change" => {
                self.ask_for_changes(id(args[0]), input, option(args, "transition"));
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

    /// How a node stands now, told as the recordings tell it.
    pub(crate) fn state(&self, id: u64) -> State {
        let node = &self.nodes[usize::try_from(id).expect("small") - 1];
        self.changes.told(State::of(node))
    }

    fn add_nodes(&mut self, args: &[&str]) {
        let flag = |name| option(args, name) == Some("true");
        self.storage_is_async = flag("async-storage-writes");
        self.keeps_leader = option(args, "read-only") == Some("lease-based");
        let members = Members {
            voters: numbers(option(args, "voters").unwrap_or(""))
                .map(replica)
                .collect(),
            observers: numbers(option(args, "learners").unwrap_or(""))
                .map(replica)
                .collect(),
        };
        if members.voters.is_empty() {
            self.changes.newcomers_from(self.nodes.len() as u64 + 1);
        }
        let floor = index(numbers(option(args, "index").unwrap_or("")).sum());
        let in_flight = option(args, "inflight").map(|max| max.parse().expect("a number"));
        for _ in 0..id(args[0]) {
            let number = self.nodes.len() as u64 + 1;
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
            let node = Node::new(replica(number), members.clone(), settings, floor);
            self.nodes.push(node);
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
        node.keep_snapshot();
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
        let class = option(args, "type");
        for to in ids(args) {
            self.deliver(to, class);
        }
        for to in numbers(option(args, "drop").unwrap_or("")) {
            self.under_way.retain(|&(_, receiver, _)| receiver != to);
        }
    }

    /// Says whether there was anything to deliver, of a class or at all.
    fn deliver(&mut self, id: u64, class: Option<&str>) -> bool {
        let wanted = |message: &Message| class.is_none_or(|class| class == class_of(message));
        let (arrive, stay): (Vec<_>, Vec<_>) = core::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|(_, to, message)| *to == id && wanted(message));
        self.under_way = stay;
        let any = !arrive.is_empty();
        for (from, _, message) in arrive {
            let node = self.node(id);
            let now = node.now();
            node.raft.step(now, replica(from), message, &mut node.said);
            node.raft.replicate(true, &mut node.said);
            self.fetch_snapshot(id);
        }
        any
    }

    /// The recorded snapshots travel in the message that says they exist; ours are fetched upon it.
    fn fetch_snapshot(&mut self, id: u64) {
        let Some(offer) = self.node(id).raft.take_offer() else {
            return;
        };
        let from = &self.node(u64::from(offer.from.to_raw())).raft;
        let (since, membership) = from.membership_at(offer.index);
        let members = Some((since, membership.clone()));
        let node = self.node(id);
        let raft = &mut node.raft;
        raft.install(offer.index, offer.term, members, &mut node.said);
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
                moved |= self.deliver(id, None);
            }
            for &id in &ids {
                while self.node(id).write() {
                    moved = true;
                }
                self.send(id);
            }
            if !moved && !self.pursue_changes() {
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

    pub(super) fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[usize::try_from(id).expect("small") - 1]
    }
}

/// What the recordings call a message like this one.
fn class_of(message: &Message) -> &'static str {
    match message {
        Message::Append { .. } => "MsgApp",
        Message::Offer { .. } => "MsgSnap",
        other => panic!("no recording names the class of {other:?}"),
    }
}

pub(super) fn replica(id: u64) -> ReplicaId {
    ReplicaId::from_raw(u32::try_from(id).expect("small"))
}

fn index(raw: u64) -> LogIndex {
    LogIndex::from_raw(raw)
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
