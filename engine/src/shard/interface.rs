//! What goes into a shard and what comes out.

use alloc::vec::Vec;
use core::time::Duration;

use net::{Command, Reply};
use wal::{Entry, FlushNumber, GroupId, LogIndex, NodeId, Record, RecoveredLog, ReplicaId, Term};

use crate::kv::Kv;
use crate::raft::{Members, Membership, Message, Pace, Role};
use crate::time::Time;

/// The caller's name for a request; comes back with its [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Everything that can happen to a shard.
#[derive(Debug)]
pub enum Input<'a> {
    /// A client asked for something of one group.
    Request {
        group: GroupId,
        token: Token,
        command: Command<'a>,
    },
    /// A peer's message arrived whole.
    Message {
        from: NodeId,
        group: GroupId,
        message: Message,
    },
    /// Every flush up to and including this one is durable.
    Written { flush: FlushNumber },
    /// The write of a flush failed: what of it and of those behind it is on the disk is unknown.
    /// The shard asks for no flush any more, and nothing is durable from here on.
    WriteFailed { flush: FlushNumber },
    /// The log could not read what it holds: the disk has failed as if a write had.
    ReadFailed,
    /// Whether the disk has no space for another segment. Flushes that were asked for may take until
    /// there is space again.
    Space { full: bool },
    /// A [`ReadLog`] is done. May hold fewer entries than asked for, but at least one.
    Log { group: GroupId, entries: Vec<Entry> },
    /// A snapshot that was begun is durable.
    SnapshotTaken {
        group: GroupId,
        index: LogIndex,
        term: Term,
    },
    /// A snapshot that was begun could not be written, or was given up.
    SnapshotFailed { group: GroupId },
    /// A [`FetchSnapshot`] is done: the snapshot is durable here, and this is its state.
    SnapshotFetched { group: GroupId, snapshot: Snapshot },
    /// A [`FetchSnapshot`] could not be done.
    SnapshotNotFetched { group: GroupId },
    /// Takes a snapshot of a group soon. With `release`, all that it holds leaves the log, too: the
    /// snapshot before it is of no use then.
    TakeSnapshot { group: GroupId, release: bool },
    /// The newest snapshot of a group turned out to be of no use: another is taken soon.
    SnapshotLost { group: GroupId },
    /// [`Output::wake_at`] has come.
    Wake,
    /// Hands over the leadership of a group; to the most up-to-date replica if `to` is `None`.
    Transfer { group: GroupId, to: Option<NodeId> },
    /// Hands over all leaderships and never leads again: the node is about to stop.
    Drain,
}

/// What the caller must do now. Order between and within the lists does not matter (but memberships come first, and flushes are
/// laid out in the log in the order of their numbers): whatever must wait for the disk is kept
/// inside the shard until the matching [`Input::Written`].
#[derive(Debug, Default)]
pub struct Output {
    /// Made durable apart from the log before anything else is done: should the log lose what made them, the node
    /// must still know who its peers are.
    pub memberships: Vec<NewMembership>,
    /// To the log.
    pub flushes: Vec<Flush>,
    /// From the log.
    pub reads: Vec<ReadLog>,
    /// Snapshots that were begun: take their chunks with [`super::Shard::snapshot_chunk`].
    pub snapshots: Vec<BegunSnapshot>,
    /// Snapshots that peers have and replicas here need.
    pub fetches: Vec<FetchSnapshot>,
    /// To peers. May be lost, repeated, or reordered.
    pub messages: Vec<(NodeId, GroupId, Message)>,
    /// Groups of which the leader changed, as far as known here, or whether something is missing.
    pub news: Vec<GroupNews>,
    /// To clients.
    pub replies: Vec<(Token, Outcome)>,
    /// Step with [`Input::Wake`] by then, even if nothing happens. The latest value counts.
    pub wake_at: Option<Time>,
}

/// What is new of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupNews {
    pub group: GroupId,
    pub leader: Option<NodeId>,
    /// Its disk lost something; it is under repair.
    pub damaged: bool,
}

/// One durable write: what every group of the shard had to persist at that moment. Without records
/// it is the mark that an idle shard writes behind its last flush.
#[derive(Debug)]
pub struct Flush {
    pub number: FlushNumber,
    pub records: Vec<Record>,
}

/// Who is in a group from now on, as far as its replica here knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMembership {
    pub group: GroupId,
    /// The entry that made it; zero: it is again as the group was created.
    pub since: LogIndex,
    /// Of that entry; zero if it is not known any more.
    pub term: Term,
    pub membership: Membership,
}

/// Asks for entries of a group that are durable but no longer in memory, from `from` up to at most
/// `to` (inclusive) or about `bytes_max` of payload, whichever is less, but at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLog {
    pub group: GroupId,
    pub from: LogIndex,
    pub to: LogIndex,
    pub bytes_max: usize,
}

/// A state, and the last entry that it is of.
#[derive(Debug)]
pub struct Snapshot {
    pub index: LogIndex,
    pub term: Term,
    pub state: Kv,
    /// Who was in the group, and since which entry; nothing if no entry had changed that.
    pub membership: Option<(LogIndex, Membership)>,
}

/// A snapshot that was begun. Ends with [`Input::SnapshotTaken`] or [`Input::SnapshotFailed`]; a shard
/// takes one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunSnapshot {
    pub group: GroupId,
    /// The last entry that the state is of.
    pub index: LogIndex,
    pub term: Term,
    pub keys: u64,
    pub unix_ms: u64,
    /// Who is in the group at that entry, and since which.
    pub membership: (LogIndex, Membership),
}

/// A chunk of a snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Whether another follows.
    pub more: bool,
    /// Memory that is kept for those that follow.
    pub held_bytes: usize,
}

/// Asks for the snapshot of a group that ends with an entry, from the node that has it. It may have
/// gone there meanwhile. Ends with [`Input::SnapshotFetched`] or [`Input::SnapshotNotFetched`]; a group
/// asks for one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchSnapshot {
    pub group: GroupId,
    pub from: NodeId,
    pub index: LogIndex,
    pub term: Term,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done: a write is durable on a quorum and applied, a read is linearizable. Or refused because
    /// of a disk, and nothing happened: [`net::ErrorReply::DiskFull`], [`net::ErrorReply::DiskFailed`].
    Reply(Reply),
    /// Not done, nothing happened: `leader` leads the group. `command` is the request in the
    /// encoding of [`Command`], so that it can be forwarded.
    Redirect { leader: NodeId, command: Vec<u8> },
    /// Not done, nothing happened: nobody led the group for [`Options::route_wait`].
    NoLeader,
    /// Not done, nothing happened: a queue is full.
    Busy,
    /// A write that may or may not take effect.
    Unknown,
}

impl Outcome {
    /// Bytes of what it carries.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Reply(reply) => reply.held_bytes(),
            Self::Redirect { command, .. } => command.len(),
            Self::NoLeader | Self::Busy | Self::Unknown => 0,
        }
    }

    /// What somebody is told instead for whom too much waits already: the same without what it carries.
    /// Of a write that was done the answer is lost, so its outcome is unknown to who asked.
    pub fn without_bytes(self, write: bool) -> Self {
        match self {
            Self::Reply(_) if write && self.held_bytes() > 0 => Self::Unknown,
            Self::Reply(_) | Self::Redirect { .. } if self.held_bytes() > 0 => Self::Busy,
            outcome => outcome,
        }
    }
}

/// One member of a group. Replicas have the number of their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub replica: ReplicaId,
    pub node: NodeId,
    pub voter: bool,
}

/// A group that lives on this shard.
#[derive(Debug)]
pub struct GroupOptions {
    pub group: GroupId,
    /// With whom it was created. The node need not be among them: it may come in later.
    pub members: Vec<Member>,
    /// The newest [`NewMembership`] that was made durable here.
    pub noted: Option<NewMembership>,
    /// First and last slot it owns.
    pub slots: (u16, u16),
    /// The node that should lead it when all are well.
    pub preferred: Option<NodeId>,
    /// What replay found; `Default` for a group that starts empty.
    pub recovered: RecoveredLog,
    /// The newest good snapshot here, if there is one.
    pub snapshot: Option<Snapshot>,
}

/// When a group takes a snapshot: whichever comes first, if anything was applied since the last one.
/// Zero: never for that reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// Entries applied since the last.
    pub entries: u64,
    /// Bytes of their payload, and twice the bytes of the last snapshot: of what is written to the disk,
    /// snapshots are a third at most.
    pub bytes: u64,
    /// Time since the last.
    pub interval: Duration,
    /// Time after a failure before the next is tried.
    pub retry_after: Duration,
    /// Whether the snapshot before the newest stays usable, and with it what follows it in the log.
    pub keeps_previous: bool,
    /// Whether nothing leaves the log because it is in a snapshot.
    pub keeps_log: bool,
}

impl SnapshotPolicy {
    /// Only when asked.
    pub const BY_HAND: Self = Self {
        entries: 0,
        bytes: 0,
        interval: Duration::ZERO,
        retry_after: Duration::from_secs(1),
        keeps_previous: true,
        keeps_log: false,
    };
}

/// Timing and limits of a shard.
#[derive(Clone, Debug)]
pub struct Options {
    pub node: NodeId,
    pub heartbeat_interval: Duration,
    /// Silence after which a follower stands for election; the wait is drawn from 1-2 times this.
    pub election_timeout: Duration,
    /// How long a request waits for a leader to be known.
    pub route_wait: Duration,
    /// How long a write waits for its commit before its outcome is called unknown.
    pub request_timeout: Duration,
    /// Quiet time after the last flush before the mark is written behind it.
    pub mark_after: Duration,
    /// Flushes on their way to the disk at once.
    pub flushes_in_flight_max: usize,
    /// Payload from which on a flush is begun while another is under way. What is less waits for it: each
    /// flush costs the disk the same, however little it holds.
    pub flush_beside_bytes_min: usize,
    /// Payload of one flush beyond which the next one is used.
    pub flush_bytes_max: usize,
    /// Payload of one entry beyond which a batch is sealed.
    pub batch_bytes_max: usize,
    /// Bytes on their way to one follower of a group, and messages.
    pub window_bytes_max: usize,
    pub window_messages_max: usize,
    /// Bytes of requests not yet committed, per group, beyond which the answer is `Busy`.
    pub pending_bytes_max: usize,
    /// Their number, beyond which the answer is the same.
    pub pending_requests_max: usize,
    /// Bytes that the answer to one read may carry.
    pub answer_bytes_max: usize,
    /// Memory of the data of all groups, roughly, beyond which writes that may add to it are refused;
    /// zero: no limit. What was taken before that was known still adds.
    pub data_bytes_max: u64,
    /// Payload of entries that all groups keep in memory for followers and apply. Where it becomes short,
    /// each keeps its share. Of entries that no follower lacks, little is kept.
    pub cache_bytes: usize,
    pub snapshots: SnapshotPolicy,
    /// Seeds election jitter.
    pub seed: u64,
}

/// How a shard's disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskState {
    Well,
    /// So much slower than those of its peers that leaderships were handed over.
    Slow,
    /// No space for another segment: it leads only where nobody else can, and refuses writes.
    Full,
    /// A write failed: it leads nothing, votes for nobody and acknowledges nothing.
    Failed,
}

/// What there is to know about a shard's disk here and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    pub state: DiskState,
    /// How long a durable write takes lately.
    pub pace: Pace,
    /// Leaderships that were handed over because of the disk.
    pub handovers: u64,
}

/// What there is to know about a group here and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    pub group: GroupId,
    pub role: Role,
    pub term: Term,
    pub leader: Option<NodeId>,
    pub commit: LogIndex,
    pub applied: LogIndex,
    pub last: LogIndex,
    /// Durable here up to.
    pub persisted: LogIndex,
    /// The log starts behind this.
    pub floor: LogIndex,
    /// The last entry of the newest snapshot here; zero without one.
    pub snapshot: LogIndex,
    /// The last entry of a peer's snapshot that is on its way here.
    pub fetching: Option<LogIndex>,
    pub keys: u64,
    /// Memory that the data takes, roughly.
    pub data_bytes: u64,
    /// How often a leader was found, the one before or another.
    pub leader_changes: u64,
    /// How often it stood for election, or asked whether it should, because it heard no leader.
    pub campaigns: u64,
    /// How often uncommitted entries were dropped here because a leader's conflicted.
    pub truncations: u64,
    /// How often it got back, since the start, what its disk had lost.
    pub repairs: u64,
    /// Its disk lost something that it may have acknowledged or promised; it is under repair.
    pub damaged: bool,
    /// It is damaged and has no peer: what is missing stays missing.
    pub lost: bool,
    /// The newest entry it may have acknowledged, while entries are missing.
    pub claim: Option<wal::Claim>,
    /// It may have forgotten a term or a vote, and says nothing until it knows which.
    pub promises_lost: bool,
    /// Whose answers it lacks for that. One that is down has to be started; if those left wait as
    /// well, too many forgot at once, and the group needs a backup.
    pub waits_for: Vec<NodeId>,
    /// Requests that wait: for their commit, for a round of heartbeats, or for a leader.
    pub pending_requests: usize,
    pub pending_bytes: usize,
    /// Who is in it, as far as known here, and the entry that made it so; zero if none did.
    pub members: Members,
    pub members_since: LogIndex,
    /// Per other member, on a leader: what it is known to hold.
    pub matched: Vec<(NodeId, LogIndex)>,
}
