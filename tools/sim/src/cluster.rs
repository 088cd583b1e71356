//! The run: what each event does.

use std::collections::BTreeMap;

use engine::raft::Message;
use engine::shard::{Flush, GroupStatus, Outcome, Output, Token};
use net::Reply;
use wal::{FlushNumber, GroupId, LogIndex, NodeId};

use crate::client::{Client, Histories};
use crate::events::{Event, Queue};
use crate::faults::{Counters, Fault, Plan};
use crate::nemesis::Nemesis;
use crate::network::Network;
use crate::node::{Arrival, Node, node_id, position_of};
use crate::oracle::Broken;
use crate::oracles::Oracles;
use crate::rng::{Rng, mix};
use crate::trace::{describe, describe_record};

/// A cluster, its clients and its enemies.
pub(crate) struct Cluster {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    /// Nanoseconds since the run began.
    pub(crate) now: u64,
    /// Events so far.
    pub(crate) steps: u64,
    queue: Queue,
    /// Chances of disks and turns.
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client>,
    /// Reads that were asked for: of which group, and what was committed there then.
    pub(crate) reads: BTreeMap<Token, (GroupId, LogIndex)>,
    pub(crate) histories: Histories,
    pub(crate) oracles: Oracles,
    /// Who takes part, and whom clients ask.
    pub(crate) members: Vec<usize>,
    /// A quorum was lost, and nobody has given it up yet.
    pub(crate) repairing: bool,
    pub(crate) nemesis: Nemesis,
    pub(crate) counters: Counters,
    /// Folds everything that happened: equal runs have equal ones.
    pub(crate) digest: u64,
    /// Whether to tell every event.
    pub(crate) told: bool,
    /// Once calm: by when all must be served and equal.
    pub(crate) deadline: u64,
    pub(crate) done: bool,
}

/// A turn begins this long after the first arrival, in nanoseconds: enough for a burst to gather.
const TURN_MAX: u64 = 40_000;
/// The state is hashed at indexes that are a multiple of this: a hash walks the whole state.
const HASHED_EVERY: u64 = 1024;
const FLUSH_MIN: u64 = 15_000;

impl Cluster {
    /// A cluster about to start.
    pub(crate) fn new(seed: u64, told: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let client = |rng: &mut Rng| Client::new(rng.fork(), plan.groups, 0, None);
        let mut cluster = Self {
            seed,
            now: 0,
            steps: 0,
            queue: Queue::default(),
            network: Network::new(rng.fork(), plan.nodes, &plan),
            clients: (0..plan.clients).map(|_| client(&mut rng)).collect(),
            nemesis: Nemesis::new(rng.fork(), &plan),
            rng: rng.fork(),
            nodes: (0..plan.nodes)
                .map(|position| Node::new(position, &plan))
                .collect(),
            reads: BTreeMap::new(),
            histories: Histories::new(plan.groups),
            oracles: Oracles::new(&plan),
            members: (0..plan.nodes).collect(),
            repairing: false,
            counters: Counters::default(),
            digest: seed,
            told,
            deadline: u64::MAX,
            done: false,
            plan,
        };
        for node in 0..cluster.plan.nodes {
            if cluster.plan.has(Fault::ClockDrift) {
                cluster.counters.clock_drifts += 1;
                let drift = cluster.rng.between(0, 200_000).cast_signed() - 100_000;
                cluster.nodes[node].clocks.drift_per_million = drift;
            }
            let at = cluster.rng.between(0, 1_000_000);
            cluster.plan_at(at, Event::Start { node });
        }
        for client in 0..cluster.plan.clients {
            cluster.plan_at(2_000_000, Event::Call { client });
        }
        cluster.plan_at(cluster.plan.pause_between, Event::Trouble);
        cluster.plan_at(cluster.plan.trouble, Event::Calm);
        cluster.plan_at(1_000_000_000, Event::Inspect);
        cluster
    }

    /// Runs to the end.
    pub(crate) fn run(&mut self) -> Result<(), Broken> {
        self.tell(|cluster| {
            let faults: Vec<Fault> = cluster.plan.faults().collect();
            format!("{faults:?} {:?}", cluster.plan)
        });
        while !self.done {
            let (at, event) = self.queue.next().expect("inspections go on");
            self.now = at;
            self.steps += 1;
            crate::note_step(self.steps);
            self.happen(event)?;
        }
        self.judge(true)?;
        let mut missing = self.counters.missing(&self.plan);
        match missing.find(|&fault| !Self::may_lack(fault)) {
            Some(fault) => Err(format!("{fault:?} was switched on and never happened")),
            None => Ok(()),
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Turn { node, life } if self.lives(node, life) => self.turn(node)?,
            Event::Alarm { node, life } if self.lives(node, life) => self.alarm(node),
            Event::Flushed { node, life, number } if self.lives(node, life) => {
                self.flushed(node, number);
            }
            Event::FlushFailed { node, life, number } if self.lives(node, life) => {
                self.flush_failed(node, number);
            }
            Event::Change { group } => self.change(group),
            Event::Space { node } => self.space(node),
            Event::Restart { node } => self.restart_full(node),
            Event::Fast { node } => self.nodes[node].disk.slowness = 1,
            Event::Log {
                node,
                life,
                group,
                entries,
            } if self.lives(node, life) => {
                self.arrive(node, Arrival::Log { group, entries });
            }
            Event::Crash { node, life, torn } if self.lives(node, life) => self.crash(node, torn),
            Event::Chunk { node, life, group } if self.lives(node, life) => self.chunk(node, group),
            Event::Shelved { node, life, group } if self.lives(node, life) => {
                self.shelved(node, group);
            }
            Event::Fetched { node, life, fetch } if self.lives(node, life) => {
                self.fetched(node, fetch)?;
            }
            Event::Turn { .. }
            | Event::Alarm { .. }
            | Event::Chunk { .. }
            | Event::Shelved { .. }
            | Event::Fetched { .. }
            | Event::Flushed { .. }
            | Event::FlushFailed { .. }
            | Event::Log { .. }
            | Event::Crash { .. } => {}
            Event::Message {
                from,
                to,
                group,
                message,
                caller,
            } => {
                if self.reaches(from, to) && self.lets_in(to, &caller)? {
                    self.message(from, to, group, message);
                }
            }
            Event::Request {
                node,
                token,
                request,
            } => self.requested(node, token, request),
            Event::Answer { token, outcome } => self.answered(token, outcome)?,
            Event::Impatience { token } => self.gave_up(token),
            Event::Call { client } => self.call(client),
            Event::Retry { token } => self.retry(token),
            Event::Start { node } => self.start(node)?,
            Event::Repair { survivors } => self.repair(&survivors)?,
            Event::Return { node } => self.come_back(node)?,
            Event::Trouble => self.trouble(),
            Event::Heal { partition } => self.heal(partition),
            Event::Calm => self.calm(),
            Event::Inspect => self.inspect()?,
        }
        Ok(())
    }

    pub(crate) fn plan_at(&mut self, at: u64, event: Event) {
        self.queue.plan_at(at, event);
    }

    /// A moment that orders the calls and returns of clients.
    pub(crate) fn moment(&mut self) -> u64 {
        self.queue.moment()
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        let node = &self.nodes[node];
        node.process.is_some() && node.life == life
    }

    /// Something reaches a node that runs: it will be looked at in the node's next turn.
    pub(crate) fn arrive(&mut self, node: usize, arrival: Arrival) {
        let at = self.now + self.rng.between(1_000, TURN_MAX);
        let Node {
            process,
            life,
            paused_until,
            ..
        } = &mut self.nodes[node];
        let process = process.as_mut().expect("callers look whether it runs");
        process.inbox.push(arrival);
        if !process.turn_planned {
            process.turn_planned = true;
            let turn = Event::Turn { node, life: *life };
            let at = at.max(*paused_until);
            self.plan_at(at, turn);
        }
    }

    fn turn(&mut self, node: usize) -> Result<(), Broken> {
        if self.nodes[node].paused_until > self.now {
            let (at, life) = (self.nodes[node].paused_until, self.nodes[node].life);
            self.plan_at(at, Event::Turn { node, life });
            return Ok(());
        }
        let told = self.nodes[node].told();
        let touched = self.nodes[node].turn(self.now);
        self.observe(node, touched)?;
        self.takes_for_lost(node, &told)?;
        let process = self.nodes[node]
            .process
            .as_mut()
            .expect("it just took a turn");
        let mut out = std::mem::take(&mut process.out);
        self.fold(out.messages.len() as u64 ^ (node as u64) << 32);
        let cut = self.nemesis.cuts_short(&out);
        if cut {
            self.nemesis.thin(&mut out);
        }
        self.perform(node, &mut out)?;
        if cut {
            self.counters.crashes_amid_effects += 1;
            self.crash(node, true);
            return Ok(());
        }
        out.flushes.clear();
        let process = self.nodes[node]
            .process
            .as_mut()
            .expect("nothing stopped it");
        process.out = out;
        self.set_alarm(node);
        Ok(())
    }

    fn observe(&mut self, node: usize, touched: u64) -> Result<(), Broken> {
        let touched = (0..self.plan.groups).filter(|group| touched >> group & 1 == 1);
        for group in touched.map(GroupId::from_raw) {
            let process = self.nodes[node].process.as_ref().expect("it runs");
            let status = &process.shard.group_status(group).expect("all are here");
            self.digest = mix(self.digest ^ status.applied.to_raw() ^ status.commit.to_raw());
            self.oracles
                .of(node)
                .observe(node, status, &mut self.counters)?;
            if status.applied.to_raw().is_multiple_of(HASHED_EVERY) {
                self.compare(node, status)?;
            }
            self.watch_duty(node, status)?;
        }
        self.watch_disk(node)
    }

    /// Compares a state with those of others at the same index, unless it has not moved since.
    fn compare(&mut self, node: usize, status: &GroupStatus) -> Result<(), Broken> {
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let compared = process.compared.entry(status.group).or_default();
        if std::mem::replace(compared, status.applied) == status.applied {
            return Ok(());
        }
        let hash = process.shard.hash(status.group);
        let hash = hash.expect("the group is there");
        self.digest = mix(self.digest ^ hash.1);
        self.oracles.of(node).compare(node, status.group, hash)
    }

    /// Compares the states of all replicas that are at the same index as others were.
    pub(crate) fn compare_states(&mut self) -> Result<(), Broken> {
        for node in 0..self.nodes.len() {
            let process = self.nodes[node].process.as_ref();
            let groups = process.map(|process| process.shard.status());
            for status in groups.unwrap_or_default() {
                self.compare(node, &status)?;
            }
        }
        Ok(())
    }

    /// Does what a step asks for.
    fn perform(&mut self, node: usize, out: &mut Output) -> Result<(), Broken> {
        for noted in out.memberships.drain(..) {
            self.nodes[node].noted.insert(noted.group, noted);
        }
        for flush in &out.flushes {
            self.flush(node, flush)?;
        }
        for read in out.reads.drain(..) {
            self.counters.disk_reads += 1;
            let entries = match self.nodes[node].read(&read) {
                Ok(entries) => entries,
                Err(_) if self.nodes[node].disk.has_lied() => {
                    self.read_failed(node);
                    continue;
                }
                Err(broken) => return Err(broken),
            };
            let at = self.now + self.rng.between(FLUSH_MIN, self.plan.flush_max);
            let (life, group) = (self.nodes[node].life, read.group);
            self.plan_at(
                at,
                Event::Log {
                    node,
                    life,
                    group,
                    entries,
                },
            );
        }
        for begun in out.snapshots.drain(..) {
            self.begin_snapshot(node, &begun);
        }
        for fetch in out.fetches.drain(..) {
            self.fetch(node, fetch);
        }
        out.news.clear();
        for (to, group, message) in out.messages.drain(..) {
            self.counters.quiets += u64::from(matches!(message, Message::Quiet { .. }));
            self.oracles.see(node).sent(node, to, group, &message)?;
            self.send(node, to, group, message);
        }
        for (token, outcome) in out.replies.drain(..) {
            self.judge_read(node, token, &outcome)?;
            let at = self.now + self.rng.between(10_000, 300_000);
            self.plan_at(at, Event::Answer { token, outcome });
        }
        Ok(())
    }

    /// A read shows all that was committed when it was asked for (thesis §6.4).
    fn judge_read(&mut self, node: usize, token: Token, outcome: &Outcome) -> Result<(), Broken> {
        let Some((group, committed)) = self.reads.remove(&token) else {
            return Ok(());
        };
        let process = self.nodes[node].process.as_ref().expect("it runs");
        let applied = process.shard.group_status(group);
        let applied = applied.map_or(LogIndex::ZERO, |status| status.applied);
        let read = matches!(outcome, Outcome::Reply(reply) if !matches!(reply, Reply::Error(_)));
        if read && applied < committed {
            return Err(format!(
                "node {} has applied {applied} of group {group} and answers a read that came when {committed} was committed",
                node + 1
            ));
        }
        Ok(())
    }

    fn flush(&mut self, node: usize, flush: &Flush) -> Result<(), Broken> {
        self.counters.flushes += 1;
        self.oracles
            .of(node)
            .flushed(node, flush, &mut self.counters)?;
        let number = flush.number;
        self.tell(|_| {
            let records = flush
                .records
                .iter()
                .map(describe_record)
                .collect::<Vec<_>>();
            format!("node {} flushes {number}: {}", node + 1, records.join(", "))
        });
        if self.nodes[node].begin(flush)? {
            self.write(node, number);
        } else {
            self.counters.stalled_flushes += 1;
        }
        self.make_room(node);
        Ok(())
    }

    /// A flush is on its way to the disk.
    pub(crate) fn write(&mut self, node: usize, number: FlushNumber) {
        let usual = self.rng.between(FLUSH_MIN, self.plan.flush_max);
        let stalls = self.rng.chance(self.plan.flush_stalls);
        let Node {
            disk, life, paces, ..
        } = &mut self.nodes[node];
        let takes = usual * disk.slowness.max(if stalls { 10 } else { 1 });
        paces.note(takes);
        let life = *life;
        let end = if std::mem::take(&mut disk.breaks) {
            Event::FlushFailed { node, life, number }
        } else {
            Event::Flushed { node, life, number }
        };
        self.plan_at(self.now + takes, end);
        if self.nemesis.aims_at_flush() {
            let at = self.now + self.rng.between(0, takes - 1);
            self.plan_at(
                at,
                Event::Crash {
                    node,
                    life,
                    torn: true,
                },
            );
        }
    }

    fn flushed(&mut self, node: usize, number: FlushNumber) {
        let early = self.complete(node, number);
        self.counters.flushes_out_of_order += u64::from(early);
        let process = self.nodes[node].process.as_ref().expect("it lives");
        if process.watch.failed {
            // A log that has failed confirms nothing, although this one is there.
            return self.arrive(node, Arrival::WriteFailed { flush: number });
        }
        let durable = self.nodes[node].written(number, &mut self.counters);
        self.oracles.of(node).durable(node, durable);
        self.fold(durable.to_raw());
        self.arrive(node, Arrival::Written { flush: durable });
        self.make_room(node);
    }

    fn send(&mut self, from: usize, to: NodeId, group: GroupId, message: Message) {
        let to = position_of(to);
        self.fold(message.term().to_raw() << 8 | to as u64);
        let arrivals = self.network.send(self.now, from, to, &mut self.counters);
        self.tell(|_| {
            let lost = if arrivals == [None, None] {
                " (lost)"
            } else {
                ""
            };
            format!(
                "{} -> {} group {group}{lost}: {}",
                from + 1,
                to + 1,
                describe(&message)
            )
        });
        let caller = self.nodes[from].standing.clone();
        match arrivals {
            [Some(one), Some(two)] => {
                let copy = message.clone();
                self.plan_at(
                    one,
                    Event::Message {
                        from,
                        to,
                        group,
                        message,
                        caller: caller.clone(),
                    },
                );
                self.plan_at(
                    two,
                    Event::Message {
                        from,
                        to,
                        group,
                        message: copy,
                        caller,
                    },
                );
            }
            [Some(at), None] | [None, Some(at)] => {
                self.plan_at(
                    at,
                    Event::Message {
                        from,
                        to,
                        group,
                        message,
                        caller,
                    },
                );
            }
            [None, None] => {}
        }
    }

    /// Whether what was sent arrives.
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        self.nodes[to].process.is_some() && self.network.passes(from, to)
    }

    fn message(&mut self, from: usize, to: usize, group: GroupId, message: Message) {
        self.tell(|_| {
            format!(
                "{} <- {} group {group}: {}",
                to + 1,
                from + 1,
                describe(&message)
            )
        });
        self.arrive(
            to,
            Arrival::Message {
                from: node_id(from),
                group,
                message,
            },
        );
    }

    fn set_alarm(&mut self, node: usize) {
        let life = self.nodes[node].life;
        let process = self.nodes[node]
            .process
            .as_mut()
            .expect("callers look whether it runs");
        let Some(at) = process.wake_at else { return };
        if process.alarm_at.is_none_or(|earlier| at < earlier) {
            process.alarm_at = Some(at);
            self.plan_at(at, Event::Alarm { node, life });
        }
    }

    fn alarm(&mut self, node: usize) {
        let process = self.nodes[node].process.as_mut().expect("it lives");
        if process.alarm_at.is_none_or(|at| at > self.now) {
            return;
        }
        process.alarm_at = None;
        if process.wake_at.is_some_and(|at| at <= self.now) {
            process.wake_at = None;
            self.arrive(node, Arrival::Wake);
        } else {
            self.set_alarm(node);
        }
    }

    pub(crate) fn fold(&mut self, number: u64) {
        self.digest = mix(self.digest ^ self.now).wrapping_add(number);
    }

    /// Judges the histories; at the end all of them.
    pub(crate) fn judge(&mut self, all: bool) -> Result<(), Broken> {
        match self.histories.judge(all) {
            Ok(undecided) => {
                self.counters.undecided += undecided;
                Ok(())
            }
            Err(stale) => {
                let around: Vec<String> = stale
                    .around
                    .iter()
                    .map(|operation| format!("    {operation:?}"))
                    .collect();
                Err(format!(
                    "history of key {} is not linearizable: nobody could have answered {:?}, among\n{}",
                    stale.key,
                    stale.operation,
                    around.join("\n")
                ))
            }
        }
    }
}
