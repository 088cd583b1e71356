//! Which faults a run has, how strong they are, and what they provoked.
//!
//! Each seed draws a subset (swarm testing, Groce et al. 2012): a fault that is always on hides what
//! only shows in its absence.

use std::fmt;
use std::time::Duration;

use crate::rng::{MILLION, Rng};

/// A kind of fault that a seed may switch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Loss,
    Duplication,
    Reordering,
    Partition,
    OneWayPartition,
    Crash,
    /// A crash between what a step asks for: only some of it happens.
    CrashAmidEffects,
    /// A crash while a flush is on its way, of which some sectors survive.
    TornFlush,
    /// All nodes crash at once.
    Blackout,
    /// A node stands still for a while and does not know it.
    Pause,
    ClockJump,
    ClockDrift,
    Transfer,
    /// A node hands over what it leads and is stopped.
    Drain,
    /// While a node is down, a bit of its disk flips.
    Rot,
    /// While a node is down, a bit of a snapshot flips.
    SnapshotRot,
    /// While a node is down, some blocks of its disk become unreadable.
    LatentErrors,
    /// A disk confirms a write and forgets it.
    LostWrite,
    /// A disk confirms a write and has put it elsewhere, over whatever is there.
    MisdirectedWrite,
    /// A write fails, with any of its sectors on the disk. The node runs on until it is restarted.
    WriteFails,
    /// A disk has no space for another segment, for a while.
    DiskFull,
    /// A disk takes many times as long as usual, for a while.
    DiskSlow,
    /// A node loses all its data and comes back without.
    Wipe,
    /// A majority dies for good, is given up, and comes back after that.
    QuorumLoss,
    /// Members of groups come and go.
    ChangeMembers,
}

impl Fault {
    /// Every kind there is.
    pub const ALL: [Self; 25] = [
        Self::Loss,
        Self::Duplication,
        Self::Reordering,
        Self::Partition,
        Self::OneWayPartition,
        Self::Crash,
        Self::CrashAmidEffects,
        Self::TornFlush,
        Self::Blackout,
        Self::Pause,
        Self::ClockJump,
        Self::ClockDrift,
        Self::Transfer,
        Self::Drain,
        Self::Rot,
        Self::SnapshotRot,
        Self::LatentErrors,
        Self::LostWrite,
        Self::MisdirectedWrite,
        Self::WriteFails,
        Self::DiskFull,
        Self::DiskSlow,
        Self::Wipe,
        Self::QuorumLoss,
        Self::ChangeMembers,
    ];

    /// Whether it is something that happens at a moment, not a rate or a state.
    pub fn is_event(self) -> bool {
        use Fault::{ClockDrift, Duplication, LatentErrors, Loss, Reordering, Rot, SnapshotRot};
        !matches!(
            self,
            Loss | Duplication | Reordering | ClockDrift | Rot | SnapshotRot | LatentErrors
        )
    }
}

/// What a seed decided about its run. Durations are nanoseconds, rates per million.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    on: [bool; Fault::ALL.len()],
    pub(crate) nodes: usize,
    /// How many of them the groups are created with.
    pub(crate) founders: usize,
    pub(crate) groups: u32,
    pub(crate) clients: usize,
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) reordering: u64,
    /// The longest usual way of a message.
    pub(crate) delay_max: u64,
    /// The longest usual time of a flush.
    pub(crate) flush_max: u64,
    /// Share of flushes that take ten times as long.
    pub(crate) flush_stalls: u64,
    /// Mean time between two faults that are events.
    pub(crate) pause_between: u64,
    /// The longest time a node is down, a partition lasts.
    pub(crate) outage_max: u64,
    /// The longest time a client waits between an answer and its next call.
    pub(crate) think_max: u64,
    /// Share of answers after which a client is gone for long: groups become quiet, and are woken.
    pub(crate) rests: u64,
    /// How long the faults last.
    pub(crate) trouble: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) election: Duration,
    pub(crate) segment_bytes: u64,
    pub(crate) flush_bytes_max: usize,
    pub(crate) flushes_in_flight_max: usize,
    pub(crate) batch_bytes_max: usize,
    pub(crate) window_bytes_max: usize,
    pub(crate) window_messages_max: usize,
    pub(crate) pending_bytes_max: usize,
    pub(crate) cache_bytes: usize,
    pub(crate) value_bytes_max: u64,
    /// Entries between two snapshots of a group; zero: none are taken.
    pub(crate) snapshot_entries: u64,
    /// How many of each group a node keeps.
    pub(crate) snapshots_kept: usize,
    /// Share of calls that read.
    pub(crate) reads: u64,
    /// Share of faults that strike a leader, and not just any node.
    pub(crate) aims: u64,
    /// Share of requests that go to any node and not to the leader.
    pub(crate) strays: u64,
}

const MILLISECOND: u64 = 1_000_000;

impl Plan {
    /// Draws everything.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        use Fault::{
            ChangeMembers, LatentErrors, LostWrite, MisdirectedWrite, QuorumLoss, Rot, SnapshotRot,
            Wipe,
        };
        let share = *rng.pick(&[250_000, 500_000, 750_000]);
        let heartbeat = rng.between(30, 200);
        let size = |bytes: u64| usize::try_from(bytes).expect("small");
        let mut on = Fault::ALL.map(|_| rng.chance(share));
        let mut nodes = *rng.pick(&[2, 3, 3, 3, 3, 5, 5, 7]);
        let mut founders = nodes;
        if on[ChangeMembers as usize] {
            nodes = nodes.max(4);
            founders = 2 + rng.index(nodes - 2);
            // Who takes part then is more than one repair can tell.
            on[QuorumLoss as usize] = false;
        }
        // A disk decays while its node is down.
        for fault in [Rot, LatentErrors, SnapshotRot] {
            on[fault as usize] &= on[Fault::Crash as usize];
        }
        // Of two replicas, one cannot say what the other lost.
        for fault in [
            Rot,
            SnapshotRot,
            LatentErrors,
            LostWrite,
            MisdirectedWrite,
            Wipe,
            QuorumLoss,
        ] {
            on[fault as usize] &= nodes > 2;
        }
        // Without, starts replay all there ever was: the time for one such run would be that of many.
        let cuts_logs = rng.chance(920_000);
        let (think_min, trouble_max) = if cuts_logs {
            (30, 120_000)
        } else {
            (500, 40_000)
        };
        Self {
            on,
            nodes,
            founders,
            groups: *rng.pick(&[1, 2, 3, 4]),
            clients: size(rng.between(3, 8)),
            loss: rng.magnitude(2_000, 250_000),
            duplication: rng.magnitude(2_000, 250_000),
            reordering: rng.magnitude(2_000, 250_000),
            delay_max: rng.magnitude(50_000, 20 * MILLISECOND),
            flush_max: rng.magnitude(100_000, 50 * MILLISECOND),
            flush_stalls: *rng.pick(&[0, 1_000, 50_000]),
            pause_between: rng.magnitude(500 * MILLISECOND, 5_000 * MILLISECOND),
            outage_max: rng.magnitude(100 * MILLISECOND, 5_000 * MILLISECOND),
            think_max: rng.magnitude(think_min * MILLISECOND, 2_000 * MILLISECOND),
            rests: *rng.pick(&[0, 20_000, 100_000]),
            trouble: rng.between(30_000, trouble_max) * MILLISECOND,
            heartbeat: Duration::from_millis(heartbeat),
            election: Duration::from_millis(heartbeat * rng.between(5, 12)),
            segment_bytes: *rng.pick(&[32, 40, 64, 128]) * 4096,
            flush_bytes_max: size(*rng.pick(&[4, 16, 64]) * 1024),
            flushes_in_flight_max: size(rng.between(1, 4)),
            batch_bytes_max: size(rng.magnitude(256, 16 * 1024)),
            window_bytes_max: size(rng.magnitude(1024, 256 * 1024)),
            window_messages_max: size(rng.magnitude(1, 64)),
            pending_bytes_max: size(rng.magnitude(256, 1024 * 1024)),
            cache_bytes: size(rng.magnitude(1024, 1024 * 1024)),
            value_bytes_max: rng.magnitude(16, 2048),
            snapshot_entries: if cuts_logs {
                rng.magnitude(10, 1_000)
            } else {
                0
            },
            snapshots_kept: 1 + rng.index(2),
            reads: rng.between(20, 60) * (MILLION / 100),
            aims: rng.between(0, 100) * (MILLION / 100),
            strays: rng.between(0, 30) * (MILLION / 100),
        }
    }

    /// Whether `fault` is switched on.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.on[fault as usize]
    }

    /// The faults switched on.
    pub(crate) fn faults(&self) -> impl Iterator<Item = Fault> + '_ {
        Fault::ALL.into_iter().filter(|&fault| self.has(fault))
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a run, or many, provoked.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Adds what another run provoked.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Every counter by its name.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Terms of a group that got a leader.
    elections,
    /// Elections that another node than before won.
    leader_changes,
    transfers,
    drains,
    /// Entries that change the members of a group.
    member_changes,
    /// Such as were replaced by another leader's.
    undone_changes,
    /// Starts that found durable data rotten, and repaired it from the peers.
    rotten_disks,
    /// The same, of disks with blocks that could not be read.
    unreadable_disks,
    /// The same, of disks that had confirmed a write and lost it.
    lost_writes,
    misdirected_writes,
    /// Such writes that nothing could tell from one that was never confirmed: they were taken back.
    lies_without_trace,
    /// Of these, those that were not, since a majority could do without: a start took the rest for all.
    silent_losses,
    /// Replicas that lost promises.
    lost_promises,
    /// Replicas that lost promises while others of their group had not found out about theirs.
    forgetful_at_once,
    rotten_snapshots,
    /// Snapshots that a start found rotten.
    refused_snapshots,
    snapshots,
    failed_snapshots,
    /// Snapshots that came from a peer.
    installs,
    failed_installs,
    /// Segments that left a log, and those that became new ones.
    reclaimed_segments,
    recycled_segments,
    /// Messages with which leaders became quiet.
    quiets,
    /// Reads of entries that a disk had confirmed and did not hold.
    failed_reads,
    failed_writes,
    /// Disks that had no space for a segment when one was wanted.
    full_disks,
    /// Starts on such disks, and those that went on in a segment that an earlier one had begun.
    full_starts,
    resumed_segments,
    /// Flushes that waited for space.
    stalled_flushes,
    slow_disks,
    /// Nodes that lost all their data, and those of them that began with snapshots of a backup.
    wiped_nodes,
    seeded_nodes,
    /// Majorities that were lost for good; and starts of nodes that had been given up.
    lost_quorums,
    returned_nodes,
    /// What came from nodes of another epoch and was not let in.
    fenced,
    /// Leaderships that were handed over because a disk failed or was full.
    disk_handovers,
    /// Leaderships that were handed over because a disk was slow.
    slow_handovers,
    crashes,
    crashes_amid_effects,
    blackouts,
    restarts,
    pauses,
    clock_jumps,
    clock_drifts,
    partitions,
    partitions_one_way,
    dropped,
    duplicated,
    reordered,
    flushes,
    /// Writes finished before one that was begun earlier.
    flushes_out_of_order,
    torn_flushes,
    /// Flushes of which a crash left nothing.
    lost_flushes,
    /// Flushes that were whole on the disk at a crash although nobody had been told.
    kept_flushes,
    /// Entries replaced by one of another term.
    truncations,
    /// Reads of entries that had left memory.
    disk_reads,
    /// Entries that were applied, once per replica.
    applied,
    /// Answered calls that changed something.
    writes,
    /// Answered calls that read.
    reads,
    /// Calls of which nobody knows whether they took effect.
    unknown,
    redirects,
    /// Requests that were refused because too few disks had space, or had not failed.
    refused_full,
    refused_failed,
    no_leader,
    busy,
    /// Histories with too much at once to judge.
    undecided,
}

impl Counters {
    /// Faults that were switched on and never happened.
    pub(crate) fn missing(&self, plan: &Plan) -> impl Iterator<Item = Fault> {
        plan.faults().filter(|&fault| self.of(fault) == 0)
    }

    /// Where starts are counted that found such damage.
    pub(crate) fn damage(&mut self, fault: Fault) -> &mut u64 {
        match fault {
            Fault::Rot => &mut self.rotten_disks,
            Fault::LatentErrors => &mut self.unreadable_disks,
            Fault::LostWrite => &mut self.lost_writes,
            Fault::MisdirectedWrite => &mut self.misdirected_writes,
            other => unreachable!("{other:?} takes nothing that was durable"),
        }
    }

    /// How often `fault` happened.
    pub fn of(&self, fault: Fault) -> u64 {
        match fault {
            Fault::Loss => self.dropped,
            Fault::Duplication => self.duplicated,
            Fault::Reordering => self.reordered,
            Fault::Partition => self.partitions,
            Fault::OneWayPartition => self.partitions_one_way,
            Fault::Crash => self.crashes,
            Fault::CrashAmidEffects => self.crashes_amid_effects,
            Fault::TornFlush => self.torn_flushes,
            Fault::Blackout => self.blackouts,
            Fault::Pause => self.pauses,
            Fault::ClockJump => self.clock_jumps,
            Fault::ClockDrift => self.clock_drifts,
            Fault::Transfer => self.transfers,
            Fault::Drain => self.drains,
            Fault::Rot => self.rotten_disks,
            Fault::LatentErrors => self.unreadable_disks,
            Fault::SnapshotRot => self.rotten_snapshots,
            Fault::LostWrite => self.lost_writes,
            Fault::MisdirectedWrite => self.misdirected_writes,
            Fault::WriteFails => self.failed_writes,
            Fault::DiskFull => self.full_disks,
            Fault::DiskSlow => self.slow_disks,
            Fault::Wipe => self.wiped_nodes,
            Fault::QuorumLoss => self.lost_quorums,
            Fault::ChangeMembers => self.member_changes,
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.list().into_iter().filter(|&(_, count)| count > 0);
        for (position, (name, count)) in shown.enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{count} {}", name.replace('_', " "))?;
        }
        Ok(())
    }
}
