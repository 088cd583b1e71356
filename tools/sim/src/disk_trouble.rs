//! Disks that fail, are full or slow, and what a node must make of that.

use engine::raft::Role;
use engine::shard::{DiskState, GroupStatus};
use wal::FlushNumber;

use crate::cluster::Cluster;
use crate::events::Event;
use crate::faults::Fault;
use crate::node::Arrival;
use crate::oracle::Broken;

/// What nodes take for eight times as long, with clocks that differ by a fifth.
const FAR_LONGER: u64 = 6;
/// A node notices the end of a write so much later, in nanoseconds.
const NOTICED_LATE: u64 = 100_000;

impl Cluster {
    /// Leaves a disk without space for another segment, for a while.
    pub(crate) fn fill_disk(&mut self, node: usize) {
        self.nodes[node].disk.full = true;
        let mut lasts = self.nemesis.rng.between(
            self.plan.outage_max,
            self.plan.outage_max + 5 * self.election(),
        );
        // Whoever finds a full disk may well restart the node, again and again.
        if self.plan.has(Fault::Crash) && self.nemesis.rng.chance(500_000) {
            for _ in 0..self.nemesis.rng.between(1, 4) {
                lasts += 2 * self.plan.outage_max;
                let at = self.now + self.nemesis.rng.between(0, lasts);
                self.plan_at(at, Event::Restart { node });
            }
        }
        self.plan_at(self.now + lasts, Event::Space { node });
    }

    /// Stops a node whose disk is full, as a crash does.
    pub(crate) fn restart_full(&mut self, node: usize) {
        let found = &self.nodes[node];
        if found.disk.full && found.process.is_some() && !self.is_calm() {
            self.crash(node, self.plan.has(Fault::TornFlush));
        }
    }

    /// Makes a disk slow for a while.
    pub(crate) fn slow_disk(&mut self, node: usize) {
        self.counters.slow_disks += 1;
        self.nodes[node].disk.slowness = self.nemesis.rng.magnitude(10, 100);
        if let Some(process) = &mut self.nodes[node].process {
            process.watch.was_slow = true;
        }
        let lasts = self.nemesis.rng.between(1, 20) * self.election();
        self.plan_at(self.now + lasts, Event::Fast { node });
    }

    /// A disk has space again, unless nobody has noticed yet that it had none.
    pub(crate) fn space(&mut self, node: usize) {
        if self.counters.full_disks == 0 && self.plan.has(Fault::DiskFull) && !self.is_calm() {
            let at = self.now + self.plan.outage_max;
            self.plan_at(at, Event::Space { node });
            return;
        }
        self.nodes[node].disk.full = false;
        if self.nodes[node].process.is_some() {
            self.make_room(node);
        }
    }

    /// Makes the segments that a node wants. It is told when there is no space for them, and when
    /// there is again.
    pub(crate) fn make_room(&mut self, node: usize) {
        let (full, ready) = self.nodes[node].make_room(&mut self.counters);
        for number in ready {
            self.write(node, number);
        }
        let watch = &mut self.nodes[node].process.as_mut().expect("it runs").watch;
        if std::mem::replace(&mut watch.is_full, full) != full {
            self.counters.full_disks += u64::from(full);
            self.tell(|_| format!("the disk of node {} is full: {full}", node + 1));
            self.arrive(node, Arrival::Space { full });
        }
    }

    /// A write failed. Whoever runs the node restarts it after a while.
    pub(crate) fn flush_failed(&mut self, node: usize, number: FlushNumber) {
        self.counters.failed_writes += 1;
        self.tell(|_| format!("flush {number} of node {} fails", node + 1));
        self.nodes[node].disk.fail(number, &mut self.rng);
        let process = self.nodes[node].process.as_mut().expect("it lives");
        process.watch.failed = true;
        self.arrive(node, Arrival::WriteFailed { flush: number });
        let at = self.now + self.nemesis.rng.between(1, 10) * self.election();
        let (life, torn) = (self.nodes[node].life, self.plan.has(Fault::TornFlush));
        self.plan_at(at, Event::Crash { node, life, torn });
    }

    /// Faults are over: whoever runs the node has put its disk in order.
    pub(crate) fn mend_disk(&mut self, node: usize) {
        let disk = &mut self.nodes[node].disk;
        (disk.breaks, disk.slowness, disk.deceit) = (false, 1, None);
        let lied = disk.has_lied();
        self.space(node);
        let process = self.nodes[node].process.as_ref();
        if process.is_some_and(|process| process.watch.failed || lied) {
            self.crash(node, false);
        }
    }

    /// A node stands still until then: what it should have done meanwhile, it cannot.
    pub(crate) fn excuse(&mut self, node: usize, until: u64) {
        if let Some(process) = &mut self.nodes[node].process
            && let Some(since) = &mut process.watch.failed_since
        {
            *since = until;
        }
    }

    /// A node whose disk failed leads no more, one whose disk is full proposes nothing.
    pub(crate) fn watch_duty(&mut self, node: usize, status: &GroupStatus) -> Result<(), Broken> {
        // Clocks run up to a tenth slower, and turns come late.
        let patience = 3 * self.election();
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let watch = &mut process.watch;
        let (group, leads) = (status.group, status.role == Role::Leader);
        let late = |since| self.now > since + patience;
        if leads && watch.failed_since.is_some_and(late) {
            return Err(format!(
                "node {} still leads group {group} although its disk failed",
                node + 1
            ));
        }
        if !(watch.full && leads) {
            watch.ends.remove(&group);
            return Ok(());
        }
        let now = (status.term, status.last);
        let before = watch.ends.insert(group, now).unwrap_or(now);
        if before.0 == now.0 && before.1 != now.1 {
            return Err(format!(
                "node {} knows that its disk is full and proposes entry {} of group {group}",
                node + 1,
                status.last
            ));
        }
        Ok(())
    }

    /// A node hands over for slowness only if its disk was slow, or by chance took far longer than
    /// another for a while: nobody there can tell the two apart.
    pub(crate) fn watch_disk(&mut self, node: usize) -> Result<(), Broken> {
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let watch = &mut process.watch;
        let disk = process.shard.disk();
        let news = disk.handovers - std::mem::replace(&mut watch.handovers, disk.handovers);
        if disk.state == DiskState::Slow {
            // Of a node that stands still, a disk may look slow.
            let steady = !self.plan.has(Fault::Pause);
            if news > 0 && !watch.was_slow && steady && !self.looks_slow(node) {
                return Err(format!(
                    "node {} hands over because of a disk that was never slow: {disk:?}",
                    node + 1
                ));
            }
            self.counters.slow_handovers += news;
        } else {
            self.counters.disk_handovers += news;
        }
        Ok(())
    }

    /// Whether a disk lately took far longer than that of another node.
    fn looks_slow(&self, node: usize) -> bool {
        let others = self.nodes.iter().filter(|other| other.position != node);
        let best = others.filter_map(|other| other.paces.best()).min();
        let own = self.nodes[node].paces.worst();
        best.zip(own)
            .is_some_and(|(best, own)| own + NOTICED_LATE > FAR_LONGER * best)
    }

    /// The election timeout in nanoseconds.
    fn election(&self) -> u64 {
        u64::try_from(self.plan.election.as_nanos()).expect("a short time")
    }
}
