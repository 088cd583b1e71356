//! The cluster that a script talks to. Each command answers with what it changed, in sentences.

use std::fmt::Write as _;
use std::time::Duration;

use engine::Time;
use engine::raft::{Change, Members, Membership, Message, Mode, Role, Settings, Window};
use wal::{Entry, EntryKind, LogIndex, Payload, ReplicaId, Term};

use super::promises::Promises;
use super::replica::{Disk, Replica};

/// Leaders speak once a tick; followers wait ten for a leader.
const TICK: Duration = Duration::from_millis(10);
const ELECTION_TICKS: u32 = 10;

#[derive(Default)]
pub(crate) struct Cluster {
    now: Time,
    replicas: Vec<Replica>,
    /// Replicas whose writes are durable only when a script says so.
    slow: Vec<u32>,
    /// Followers stand for election by themselves, not only when told.
    free: bool,
    network: Vec<Sent>,
    /// Held back by a script: overtaken by all others.
    held: Vec<Sent>,
    /// No message passes between replicas of different sides.
    sides: Vec<Vec<u32>>,
    promises: Promises,
    seen: Vec<Seen>,
}

#[derive(Clone)]
struct Sent {
    from: u32,
    to: u32,
    message: Message,
}

/// A replica when it was last looked at.
#[derive(Clone, Default, PartialEq)]
struct Seen {
    up: bool,
    line: String,
    log: String,
    commit: LogIndex,
    confirmed: Option<u64>,
}

impl Cluster {
    /// Runs one command; its answer is what happened.
    pub(crate) fn run(&mut self, command: &str, args: &[&str]) -> String {
        let mut answer = String::new();
        let quiet = matches!(command, "settle" | "elect" | "tick" | "run" | "cluster");
        match command {
            "cluster" => self.found(args),
            "state" => return self.state(),
            "network" => return self.list(),
            "settle" => {}
            "elect" | "campaign" => self.campaign(number(args[0])),
            "tick" => self.tick(args[0].parse().expect("ticks")),
            "run" => {
                for _ in 0..args[0].parse().expect("ticks") {
                    self.tick(1);
                    self.pump(true, &mut answer);
                    self.settle(&mut answer);
                }
            }
            "propose" => self.propose(number(args[0]), &args[1..], &mut answer),
            "deliver" => self.deliver(pair(args)),
            "drop" | "hold" | "release" | "repeat" | "reverse" => {
                return self.meddle(command, pair(args));
            }
            "cut" => self.cut(args),
            "heal" => self.sides.clear(),
            "slow" => self.slow.extend(args.iter().map(|arg| number(arg))),
            "fast" => self
                .slow
                .retain(|id| !args.contains(&id.to_string().as_str())),
            "persist" => assert!(self.replica(number(args[0])).written(), "nothing to write"),
            "crash" => self.replica(number(args[0])).crash(0),
            // Of what it had acknowledged, so many entries are gone without a trace.
            "lose" => {
                let (id, lost): (u32, usize) = (number(args[0]), args[1].parse().expect("entries"));
                let entries = &mut self.replica(id).disk.entries;
                entries.truncate(entries.len() - lost);
            }
            "wipe" => self.replica(number(args[0])).disk = Disk::default(),
            "restart" => {
                let now = self.now;
                self.replica(number(args[0])).start(now);
            }
            "forget" => self.replica(number(args[0])).raft().0.forget_leader(),
            "read" => self.read(number(args[0]), &mut answer),
            "transfer" => {
                let (from, to) = pair(args).expect("from -> to");
                let (raft, said) = self.replica(from).raft();
                raft.transfer(ReplicaId::from_raw(to), said);
            }
            "progress" => return self.progress(number(args[0])),
            "change" => self.change(args, &mut answer),
            _ => panic!("no such command: {command}"),
        }
        self.pump(quiet, &mut answer);
        if matches!(command, "settle" | "elect") {
            self.settle(&mut answer);
        }
        self.look(&mut answer);
        if answer.is_empty() {
            answer.push_str("nothing happens\n");
        }
        answer
    }

    fn found(&mut self, args: &[&str]) {
        *self = Self::default();
        let flag = |name: &str| args.contains(&name);
        let list = |name: &str| -> Vec<ReplicaId> {
            let ids = option(args, name).unwrap_or("").split(',');
            ids.filter_map(|id| id.parse().ok())
                .map(ReplicaId::from_raw)
                .collect()
        };
        let size = |name| option(args, name).map(|size| size.parse().expect("a size"));
        self.free = flag("free");
        let members = Members {
            voters: list("voters"),
            observers: list("observers"),
        };
        let settings = Settings {
            heartbeat_interval: TICK,
            election_timeout: TICK * ELECTION_TICKS,
            pre_vote: flag("prevote"),
            check_quorum: flag("checkquorum"),
            window: Window {
                bytes_max: size("window").unwrap_or(usize::MAX),
                messages_max: usize::MAX,
            },
            append_bytes_max: size("append").unwrap_or(usize::MAX),
            seed: 0,
        };
        for id in members.all().chain(list("spares")) {
            let log: Vec<u64> = option(args, "logs")
                .and_then(|logs| option_of(logs, id.to_raw()))
                .map(|log| {
                    log.split('.')
                        .map(|term| term.parse().expect("a term"))
                        .collect()
                })
                .unwrap_or_default();
            let term = option(args, "terms")
                .and_then(|terms| option_of(terms, id.to_raw()))
                .map_or(log.last().copied().unwrap_or(0), |term| {
                    term.parse().expect("a term")
                });
            let disk = Disk::with_log(&log, Term::from_raw(term));
            let settings = Settings {
                seed: u64::from(id.to_raw()),
                ..settings.clone()
            };
            self.replicas
                .push(Replica::new(id, members.clone(), settings, disk));
            self.seen.push(Seen::default());
        }
    }

    fn campaign(&mut self, id: u32) {
        let (raft, said) = self.replica(id).raft();
        raft.campaign(said);
    }

    fn propose(&mut self, id: u32, payloads: &[&str], answer: &mut String) {
        let (raft, said) = self.replica(id).raft();
        for payload in payloads {
            match raft.propose(EntryKind::Batch, Payload::from(payload.as_bytes())) {
                Some(_) => raft.replicate(false, said),
                None => writeln!(answer, "{id} refuses {payload}").expect("a string"),
            }
        }
    }

    fn change(&mut self, args: &[&str], answer: &mut String) {
        let replica = ReplicaId::from_raw(number(args[2]));
        let change = match args[1] {
            "add" => Change::AddObserver(replica, format!("host{replica}:7379")),
            "promote" => Change::Promote(replica),
            "remove" => Change::Remove(replica),
            other => panic!("no such change: {other}"),
        };
        let (raft, said) = self.replica(number(args[0])).raft();
        match raft.change(&change, said) {
            Ok(index) => {
                raft.replicate(false, said);
                writeln!(answer, "entry {index} makes it so")
            }
            Err(why) => writeln!(answer, "refused: {why}"),
        }
        .expect("a string");
    }

    fn read(&mut self, id: u32, answer: &mut String) {
        let (raft, said) = self.replica(id).raft();
        match raft.start_read(said) {
            Some((round, index)) => writeln!(answer, "{id} asks round {round} to read at {index}"),
            None => writeln!(answer, "{id} cannot serve reads"),
        }
        .expect("a string");
    }

    fn tick(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now = self.now.after(TICK);
            let now = self.now;
            for replica in &mut self.replicas {
                if replica.raft.is_some() {
                    let (raft, said) = replica.raft();
                    raft.tick(now, said);
                }
            }
            self.hold_still();
        }
    }

    fn cut(&mut self, args: &[&str]) {
        let sides = args.iter().filter(|arg| **arg != "|");
        self.sides = sides
            .map(|side| side.split(',').map(number).collect())
            .collect();
    }

    /// Does to messages what a network may do.
    fn meddle(&mut self, how: &str, pair: Option<(u32, u32)>) -> String {
        let from = if how == "release" {
            &mut self.held
        } else {
            &mut self.network
        };
        let mut sent = take(from, pair);
        let count = sent.len();
        match how {
            "drop" => sent.clear(),
            "hold" => self.held.append(&mut sent),
            "repeat" => sent.extend(sent.clone()),
            "reverse" => sent.reverse(),
            _ => {}
        }
        self.network.append(&mut sent);
        let messages = if count == 1 { "message" } else { "messages" };
        format!("{how}: {count} {messages}\n")
    }

    /// Delivers what was on its way when the command was given, in order.
    fn deliver(&mut self, pair: Option<(u32, u32)>) {
        for Sent { from, to, message } in take(&mut self.network, pair) {
            self.receive(from, to, message);
        }
    }

    fn receive(&mut self, from: u32, to: u32, message: Message) {
        let now = self.now;
        let replica = self.replica(to);
        if replica.raft.is_some() {
            let (raft, said) = replica.raft();
            raft.step(now, ReplicaId::from_raw(from), message, said);
            raft.replicate(true, said);
        }
    }

    /// Delivers until nobody says anything any more.
    fn settle(&mut self, answer: &mut String) {
        for _ in 0..200 {
            if self.network.is_empty() {
                return;
            }
            self.deliver(None);
            self.pump(true, answer);
        }
        panic!("the replicas never stop talking:\n{}", self.list());
    }

    /// Lets disks that are not slow write, and puts what was said on its way.
    fn pump(&mut self, quiet: bool, answer: &mut String) {
        self.hold_still();
        for at in 0..self.replicas.len() {
            let id = self.replicas[at].id.to_raw();
            let slow = self.slow.contains(&id);
            let replica = &mut self.replicas[at];
            while replica.submit(usize::MAX) || (!slow && replica.written()) {}
            for (to, message) in replica.speak() {
                let (from, to) = (id, to.to_raw());
                let sent = Sent { from, to, message };
                let lost = self.apart(from, to);
                if !quiet {
                    let fate = if lost { " (lost)" } else { "" };
                    writeln!(answer, "{}{fate}", sent.tell()).expect("a string");
                }
                if !lost {
                    self.network.push(sent);
                }
            }
        }
        self.hold_still();
    }

    fn apart(&self, a: u32, b: u32) -> bool {
        let side = |id| self.sides.iter().position(|side| side.contains(&id));
        !self.sides.is_empty() && side(a) != side(b)
    }

    fn hold_still(&mut self) {
        if self.free {
            return;
        }
        let rafts = self.replicas.iter_mut().filter_map(|r| r.raft.as_mut());
        for raft in rafts.filter(|raft| raft.role() != Role::Leader) {
            raft.wait_until(Time::from_nanos(u64::MAX));
        }
    }

    /// Tells what is different since the last look, and compares every promise.
    fn look(&mut self, answer: &mut String) {
        for (replica, seen) in self.replicas.iter().zip(&mut self.seen) {
            let before = core::mem::take(seen);
            *seen = Seen::of(replica);
            let id = replica.id;
            if before.up && !seen.up {
                writeln!(answer, "{id} is down").expect("a string");
            }
            let Some(raft) = &replica.raft else { continue };
            let known = if before.up {
                before.commit
            } else {
                LogIndex::ZERO
            };
            self.promises.check(raft, known);
            let mut changes = Vec::new();
            if before.line != seen.line {
                changes.push(seen.line.clone());
            }
            if before.log != seen.log {
                changes.push(format!("log=[{}]", seen.log));
            }
            if before.commit != seen.commit {
                changes.push(format!("commit={}", seen.commit));
            }
            if !changes.is_empty() {
                writeln!(answer, "{id} {}", changes.join(" ")).expect("a string");
            }
            if before.confirmed.is_some()
                && let Some(round) = seen.confirmed.filter(|_| before.confirmed < seen.confirmed)
            {
                writeln!(answer, "{id} still led in round {round}").expect("a string");
            }
        }
    }

    fn state(&self) -> String {
        let mut answer = String::new();
        for replica in &self.replicas {
            let (id, seen) = (replica.id, Seen::of(replica));
            if seen.up {
                writeln!(
                    answer,
                    "{id} {} log=[{}] commit={}",
                    seen.line, seen.log, seen.commit
                )
            } else {
                writeln!(answer, "{id} is down")
            }
            .expect("a string");
        }
        answer
    }

    fn progress(&self, id: u32) -> String {
        let mut answer = String::new();
        let raft = self.replicas.iter().find(|r| r.id.to_raw() == id);
        let raft = raft.and_then(|r| r.raft.as_ref()).expect("it is up");
        for (peer, progress) in raft.progress() {
            let mode = match progress.mode {
                Mode::Probe { waiting: true } => "probing, waits",
                Mode::Probe { waiting: false } => "probing",
                Mode::Replicate => "replicating",
            };
            let (matched, next) = (progress.matched, progress.next);
            writeln!(answer, "{peer} {mode} matched={matched} next={next}").expect("a string");
        }
        answer
    }

    fn list(&self) -> String {
        let mut answer = String::new();
        for sent in &self.network {
            writeln!(answer, "{}", sent.tell()).expect("a string");
        }
        for sent in &self.held {
            writeln!(answer, "{} (held)", sent.tell()).expect("a string");
        }
        if answer.is_empty() {
            answer.push_str("nothing is on its way\n");
        }
        answer
    }

    fn replica(&mut self, id: u32) -> &mut Replica {
        let found = self.replicas.iter_mut().find(|r| r.id.to_raw() == id);
        found.expect("a replica of the cluster")
    }
}

impl Seen {
    fn of(replica: &Replica) -> Self {
        let Some(raft) = &replica.raft else {
            return Self::default();
        };
        let role = match raft.role() {
            Role::Follower => "follower",
            Role::PreCandidate => "pre-candidate",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        };
        let mut line = format!("{role} term={}", raft.term());
        if let Some(vote) = raft.vote() {
            write!(line, " vote={vote}").expect("a string");
        }
        if let Some(leader) = raft.leader().filter(|leader| *leader != raft.id()) {
            write!(line, " leader={leader}").expect("a string");
        }
        if raft.is_damaged() {
            line.push_str(" damaged");
        }
        let (since, membership) = raft.membership();
        if since > LogIndex::ZERO {
            write!(line, " {}", told_members(membership)).expect("a string");
        }
        Self {
            up: true,
            line,
            log: terms(raft.log()),
            commit: raft.commit(),
            confirmed: (raft.role() == Role::Leader).then(|| raft.round_confirmed()),
        }
    }
}

impl Sent {
    fn tell(&self) -> String {
        let Self { from, to, message } = self;
        let told = match message {
            Message::RequestVote {
                term,
                pre,
                last_index,
                last_term,
                transfer,
                ..
            } => {
                let what = if *pre { "would you vote" } else { "vote" };
                let why = if *transfer {
                    ", as the leader wishes"
                } else {
                    ""
                };
                format!(
                    "{what} for me in term {term}? my log ends at {last_index}/term {last_term}{why}"
                )
            }
            Message::Offer {
                term,
                index,
                index_term,
            } => format!("here is a snapshot up to {index}/term {index_term}, term {term}"),
            Message::Vote {
                term, pre, granted, ..
            } => {
                let answer = match (pre, granted) {
                    (false, true) => "my vote",
                    (true, true) => "I would vote for you",
                    (_, false) => "no vote",
                };
                format!("{answer}, term {term}")
            }
            Message::Append {
                term,
                previous_index,
                previous_term,
                commit,
                entries,
            } => format!(
                "append after {previous_index}/term {previous_term}: [{}], commit {commit}, term {term}",
                entries.iter().map(told_entry).collect::<Vec<_>>().join(" ")
            ),
            Message::Appended { term, matched } => format!("durable up to {matched}, term {term}"),
            Message::Rejected {
                term,
                previous_index,
                hint_index,
                hint_term,
            } => format!(
                "nothing like {previous_index} here, try {hint_index}/term {hint_term}, term {term}"
            ),
            Message::Heartbeat {
                term,
                commit,
                round,
            } => format!("heartbeat, commit {commit}, round {round}, term {term}"),
            Message::HeartbeatAck { term, round, .. } => {
                format!("heard round {round}, term {term}")
            }
            Message::Quiet { term, last } => format!("quiet from {last} on, term {term}"),
            Message::Pulse { groups } => format!("I lead {groups} quiet groups"),
            Message::TimeoutNow { term } => format!("lead after me, term {term}"),
            Message::Repair {
                after,
                after_term,
                held,
                ..
            } => {
                let held = held.map_or("more".to_owned(), |(index, term)| {
                    format!("up to {index}/term {term}")
                });
                format!("I lost what followed {after}/term {after_term}, {held}")
            }
            Message::Repaired {
                term,
                after,
                entries,
                ..
            } => format!(
                "after {after} there was [{}], term {term}",
                entries.iter().map(told_entry).collect::<Vec<_>>().join(" ")
            ),
        };
        format!("{from} -> {to}: {told}")
    }
}

fn told_entry(entry: &Entry) -> String {
    match entry.kind {
        EntryKind::Noop => format!("{}:-", entry.term),
        EntryKind::Membership => {
            let membership = Membership::decode(&entry.payload).expect("what was encoded");
            format!("{}:{}", entry.term, told_members(&membership))
        }
        _ => format!("{}:{}", entry.term, String::from_utf8_lossy(&entry.payload)),
    }
}

fn told_members(membership: &Membership) -> String {
    let list = |ids: &[ReplicaId]| {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        ids.join(",")
    };
    let Members { voters, observers } = &membership.members;
    let mut told = format!("voters={}", list(voters));
    for (name, ids) in [("observers", observers), ("removed", &membership.removed)] {
        if !ids.is_empty() {
            write!(told, " {name}={}", list(ids)).expect("a string");
        }
    }
    told
}

/// The term of each entry; what is not yet durable stands behind a bar.
fn terms(log: &engine::raft::Log) -> String {
    let mut told = Vec::new();
    let mut index = LogIndex::ZERO;
    while index < log.last_index() {
        if index == log.persisted() {
            told.push("|".to_owned());
        }
        index = index.next();
        told.push(log.term(index).expect("inside the log").to_string());
    }
    told.join(" ")
}

fn take(network: &mut Vec<Sent>, pair: Option<(u32, u32)>) -> Vec<Sent> {
    let wanted = |sent: &Sent| pair.is_none_or(|pair| pair == (sent.from, sent.to));
    let (taken, left) = core::mem::take(network).into_iter().partition(wanted);
    *network = left;
    taken
}

fn number(arg: &str) -> u32 {
    arg.parse()
        .unwrap_or_else(|_| panic!("{arg} names no replica"))
}

/// `A -> B`; nothing means every pair.
fn pair(args: &[&str]) -> Option<(u32, u32)> {
    match args {
        [] => None,
        [from, "->", to] => Some((number(from), number(to))),
        _ => panic!("not a pair: {args:?}"),
    }
}

fn option<'a>(args: &[&'a str], name: &str) -> Option<&'a str> {
    args.iter()
        .find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
}

/// The value of `id` in `1:a,2:b`.
fn option_of(list: &str, id: u32) -> Option<&str> {
    list.split(',')
        .find_map(|item| item.strip_prefix(&id.to_string())?.strip_prefix(':'))
}
