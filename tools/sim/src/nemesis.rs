//! Who decides when a fault that is an event strikes, and whom.

use engine::shard::Output;
use wal::GroupId;

use crate::cluster::Cluster;
use crate::disk::Damage;
use crate::events::Event;
use crate::faults::{Fault, Plan};
use crate::node::{Arrival, node_id};
use crate::rng::Rng;

/// The plans of the enemy.
pub(crate) struct Nemesis {
    pub(crate) rng: Rng,
    /// Every kind that is on, once, in any order: nothing is left to luck. Then anything.
    first: Vec<Fault>,
    all: Vec<Fault>,
    /// The next flush of any node will not survive whole.
    aims_at_flush: bool,
    /// The next turn that asks for something is cut short.
    aims_at_effects: bool,
    partition: u64,
    over: bool,
}

impl Nemesis {
    /// An enemy with the faults of the plan.
    pub(crate) fn new(mut rng: Rng, plan: &Plan) -> Self {
        let all: Vec<Fault> = plan.faults().filter(|fault| fault.is_event()).collect();
        let mut first = all.clone();
        rng.shuffle(&mut first);
        Self {
            rng,
            first,
            all,
            aims_at_flush: false,
            aims_at_effects: false,
            partition: 0,
            over: false,
        }
    }

    fn next(&mut self) -> Option<Fault> {
        let planned = self.first.pop();
        planned.or_else(|| (!self.all.is_empty()).then(|| *self.rng.pick(&self.all)))
    }

    /// Whether a flush that begins now is to be torn.
    pub(crate) fn aims_at_flush(&mut self) -> bool {
        std::mem::take(&mut self.aims_at_flush)
    }

    /// Whether the node that asks for this is to crash half way.
    pub(crate) fn cuts_short(&mut self, out: &Output) -> bool {
        let asks = !out.flushes.is_empty() || !out.messages.is_empty();
        asks && std::mem::take(&mut self.aims_at_effects)
    }

    /// Leaves only some of what a step asked for: flushes from the first on, anything else.
    pub(crate) fn thin(&mut self, out: &mut Output) {
        if !out.memberships.is_empty() && self.rng.chance(300_000) {
            // They come first: without them there is nothing else.
            *out = Output::default();
        }
        let kept = self.rng.index(out.flushes.len() + 1);
        out.flushes.truncate(kept);
        out.messages.retain(|_| self.rng.chance(500_000));
        out.replies.retain(|_| self.rng.chance(500_000));
        out.reads.clear();
        out.snapshots.clear();
        out.fetches.clear();
    }
}

impl Cluster {
    /// A fault strikes, and the next one is planned.
    pub(crate) fn trouble(&mut self) {
        if self.nemesis.over {
            return;
        }
        self.ask_for_snapshot();
        if let Some(fault) = self.nemesis.next() {
            self.tell(|_| format!("trouble: {fault:?}"));
            self.strike(fault);
        }
        let wait = self
            .nemesis
            .rng
            .between(1_000_000, 2 * self.plan.pause_between);
        self.plan_at(self.now + wait, Event::Trouble);
    }

    /// Any fault but this one strikes.
    pub(crate) fn strike_other(&mut self, than: Fault) {
        let Nemesis { all, rng, .. } = &mut self.nemesis;
        let others: Vec<Fault> = all.iter().copied().filter(|&it| it != than).collect();
        if !others.is_empty() {
            let other = *rng.pick(&others);
            self.strike(other);
        }
    }

    fn strike(&mut self, fault: Fault) {
        let victim = self.victim();
        match fault {
            Fault::Partition => {
                if self.nemesis.rng.chance(500_000) {
                    self.network.isolate(victim);
                } else {
                    self.network.split();
                }
                self.counters.partitions += 1;
                self.plan_healing();
            }
            Fault::OneWayPartition => {
                self.network.split_one_way(victim);
                self.counters.partitions_one_way += 1;
                self.plan_healing();
            }
            Fault::Crash => {
                let tears = self.plan.has(Fault::TornFlush);
                match (0..self.plan.nodes)
                    .map(|step| (victim + step) % self.plan.nodes)
                    .find(|&node| self.nodes[node].process.is_some())
                {
                    Some(node) => self.crash(node, tears),
                    None => self.postpone(fault),
                }
            }
            Fault::Blackout => {
                self.counters.blackouts += 1;
                let tears = self.plan.has(Fault::TornFlush);
                for node in 0..self.plan.nodes {
                    if self.nodes[node].process.is_some() {
                        self.crash(node, tears);
                    }
                }
            }
            Fault::CrashAmidEffects => self.nemesis.aims_at_effects = true,
            Fault::TornFlush => self.nemesis.aims_at_flush = true,
            Fault::Pause => {
                self.counters.pauses += 1;
                let until = self.now + self.nemesis.rng.between(1_000_000, self.plan.outage_max);
                self.nodes[victim].paused_until = until;
                self.excuse(victim, until);
            }
            Fault::ClockJump => {
                self.counters.clock_jumps += 1;
                let by = self.nemesis.rng.magnitude(10, 100_000_000).cast_signed();
                let by = if self.nemesis.rng.chance(500_000) {
                    by
                } else {
                    -by
                };
                self.nodes[victim].clocks.unix_offset_ms += by;
            }
            Fault::WriteFails => self.nodes[victim].disk.breaks = true,
            Fault::DiskFull => self.fill_disk(victim),
            Fault::DiskSlow => self.slow_disk(victim),
            Fault::LostWrite | Fault::MisdirectedWrite => {
                if !self.deceive(victim, fault) {
                    self.postpone(fault);
                }
            }
            Fault::Transfer => self.transfer(victim),
            Fault::Drain => self.drain(victim),
            Fault::Wipe => self.wipe(victim),
            Fault::QuorumLoss => self.lose_quorum(),
            Fault::ChangeMembers => self.change_members(),
            Fault::Loss
            | Fault::Duplication
            | Fault::Reordering
            | Fault::ClockDrift
            | Fault::Rot
            | Fault::SnapshotRot
            | Fault::LatentErrors => {
                unreachable!("{fault:?} is no event")
            }
        }
    }

    /// Whom the next fault strikes: the leader of any group, or any node.
    fn victim(&mut self) -> usize {
        let group = self.nemesis.rng.below(u64::from(self.plan.groups));
        let group = GroupId::from_raw(u32::try_from(group).expect("few groups"));
        let any = self.nemesis.rng.index(self.plan.nodes);
        let aims = self.nemesis.rng.chance(self.plan.aims);
        self.leader(group).filter(|_| aims).unwrap_or(any)
    }

    /// A node that believes it leads the group.
    fn leader(&self, group: GroupId) -> Option<usize> {
        let leads = |node: &usize| {
            let process = self.nodes[*node].process.as_ref();
            process.is_some_and(|process| process.shard.leader(group) == Some(node_id(*node)))
        };
        (0..self.plan.nodes).find(leads)
    }

    /// Lets a fault strike again, soon but not next: what it waits for may need others.
    pub(crate) fn postpone(&mut self, fault: Fault) {
        self.nemesis.first.insert(0, fault);
    }

    /// Asks for a transfer: mostly the leader, sometimes anyone; mostly to anyone, sometimes to the best.
    fn transfer(&mut self, victim: usize) {
        let number = self.nemesis.rng.below(u64::from(self.plan.groups));
        let group = GroupId::from_raw(u32::try_from(number).expect("few groups"));
        let node = self.leader(group).unwrap_or(victim);
        if self.nodes[node].process.is_none() {
            return self.postpone(Fault::Transfer);
        }
        self.counters.transfers += 1;
        let to = self.nemesis.rng.index(self.plan.nodes);
        let to = self.nemesis.rng.chance(700_000).then(|| node_id(to));
        self.arrive(node, Arrival::Transfer { group, to });
    }

    /// Stops a node in order: it hands over first, and has some time for that.
    fn drain(&mut self, victim: usize) {
        if self.nodes[victim].process.is_none() {
            return self.postpone(Fault::Drain);
        }
        self.counters.drains += 1;
        self.arrive(victim, Arrival::Drain);
        let election = u64::try_from(self.plan.election.as_nanos()).expect("a short time");
        let at = self.now + self.nemesis.rng.between(1_000_000, 2 * election);
        let life = self.nodes[victim].life;
        self.plan_at(
            at,
            Event::Crash {
                node: victim,
                life,
                torn: false,
            },
        );
    }

    fn plan_healing(&mut self) {
        self.nemesis.partition += 1;
        let partition = self.nemesis.partition;
        let lasts = self.nemesis.rng.between(10_000_000, self.plan.outage_max);
        self.plan_at(self.now + lasts, Event::Heal { partition });
    }

    /// Ends a partition, unless another one has taken its place.
    pub(crate) fn heal(&mut self, partition: u64) {
        if self.nemesis.partition == partition {
            self.network.heal();
            self.tell(|_| "all links are whole".to_owned());
        }
    }

    /// Cuts a node's power; it comes back after a while.
    pub(crate) fn crash(&mut self, node: usize, torn: bool) {
        self.counters.crashes += 1;
        let damage = if torn { Damage::Torn } else { Damage::Whole };
        let Self {
            nodes,
            nemesis,
            counters,
            ..
        } = self;
        nodes[node].process = None;
        nodes[node].disk.crash(&mut nemesis.rng, damage, counters);
        self.tell(|_| format!("node {} crashes", node + 1));
        if self.plan.has(Fault::TornFlush) && self.counters.torn_flushes == 0 {
            self.nemesis.aims_at_flush = !self.nemesis.over;
        }
        let down = self.nemesis.rng.between(1_000_000, self.plan.outage_max);
        self.plan_at(self.now + down, Event::Start { node });
    }

    /// Faults are over, if every kind that is on has happened.
    pub(crate) fn calm(&mut self) {
        // Some are postponed again and again.
        let most = if self.nemesis.first.is_empty() { 4 } else { 10 };
        let waits = self.now < most * self.plan.trouble;
        if self.repairing || waits && self.counters.missing(&self.plan).next().is_some() {
            self.network.insist(&self.plan, &self.counters);
            self.plan_at(self.now + 1_000_000_000, Event::Calm);
            return;
        }
        self.tell(|_| "faults are over".to_owned());
        self.nemesis.over = true;
        self.nemesis.aims_at_flush = false;
        self.nemesis.aims_at_effects = false;
        self.nemesis.first.clear();
        self.nemesis.all.clear();
        self.nemesis.partition += 1;
        self.network.calm();
        self.plan.strays = 0;
        for node in 0..self.plan.nodes {
            self.nodes[node].paused_until = 0;
            self.mend_disk(node);
            if let Some(process) = &mut self.nodes[node].process {
                // A turn that waits for the end of a pause is taken now.
                process.turn_planned = false;
                self.arrive(node, Arrival::Wake);
            } else {
                self.plan_at(self.now + 1_000_000, Event::Start { node });
            }
        }
        self.begin_inspection();
    }

    /// Whether faults are over.
    pub(crate) fn is_calm(&self) -> bool {
        self.nemesis.over
    }
}
