//! One node: a disk, clocks, and while it runs, a process with the real shard and the real log.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use engine::raft::{Change, Message};
use engine::shard::{
    Flush, GroupOptions, Input, Member, NewMembership, Options, Output, ReadLog, Shard, Snapshot,
    SnapshotPolicy, Token,
};
use engine::{Clock, Time, epoch};
use wal::{
    Entry, FlushNumber, GroupId, LogIndex, NodeId, Placement, Recovered, RecoveredLog, ReplicaId,
    SegmentId, Term, Writer, decode_entry,
};

use crate::client::{Request, slots};
use crate::contents::{Content, Found};
use crate::disk::Disk;
use crate::faults::{Counters, Fault, Plan};
use crate::paces::Paces;
use crate::rng::{MILLION, Rng, mix};
use crate::shelf::{Part, Shelf};
use crate::standing::Standing;

/// A node, running or not.
pub(crate) struct Node {
    pub(crate) position: usize,
    /// How often it was started: what was meant for an earlier life is dropped.
    pub(crate) life: u64,
    pub(crate) process: Option<Process>,
    pub(crate) disk: Disk,
    pub(crate) shelf: Shelf,
    pub(crate) clocks: Clocks,
    /// It takes no turn before this moment.
    pub(crate) paused_until: u64,
    /// It stays stopped until somebody starts it.
    pub(crate) held: bool,
    pub(crate) standing: Rc<Standing>,
    /// The instance that each node is known with; zero if it is not.
    pub(crate) known: Vec<u64>,
    /// As what each node came that was let in last.
    pub(crate) let_in: Vec<Option<Rc<Standing>>>,
    /// Instances that others took the place of.
    pub(crate) replaced: Vec<(usize, u64)>,
    /// How long its disk took for each of the last writes.
    pub(crate) paces: Paces,
    /// The newest members of each group that were made durable beside the log.
    pub(crate) noted: BTreeMap<GroupId, NewMembership>,
}

/// What a crash takes away.
pub(crate) struct Process {
    pub(crate) shard: Shard,
    writer: Writer,
    /// Every flush up to this one is durable.
    durable: FlushNumber,
    /// What arrived since the last turn.
    pub(crate) inbox: Vec<Arrival>,
    /// A turn is planned.
    pub(crate) turn_planned: bool,
    /// The earliest alarm that is planned.
    pub(crate) alarm_at: Option<u64>,
    /// When the shard wants to be woken.
    pub(crate) wake_at: Option<u64>,
    pub(crate) out: Output,
    /// Flushes whose segment is not there yet.
    pub(crate) stalled: Vec<Stalled>,
    /// Segments that are to be made when there is space.
    wanted: Vec<SegmentId>,
    /// Segments that are wanted once these flushes and all before them are durable.
    wanted_behind: Vec<(FlushNumber, SegmentId)>,
    /// Files that are deleted once a flush is durable.
    given_up: Vec<SegmentId>,
    /// Segments that left the log, oldest first: their files can be recycled.
    free: VecDeque<SegmentId>,
    /// The snapshot that is being written.
    pub(crate) part: Option<Part>,
    /// The first flush of this life, which needs no segment if it takes no more than so many bytes: there
    /// was no space for one, and so many were left.
    first: Option<(FlushNumber, usize)>,
    pub(crate) watch: Watch,
    /// Per group: the index after which its state was last compared with others.
    pub(crate) compared: BTreeMap<GroupId, LogIndex>,
}

/// A flush whose segment is not there yet.
pub(crate) struct Stalled {
    placement: Placement,
    bytes: Vec<u8>,
    /// Every flush up to this one was durable when it was placed.
    knows: FlushNumber,
}

/// What the shard was told of its disk, and what must follow from that.
#[derive(Default)]
pub(crate) struct Watch {
    /// A write has failed in this life.
    pub(crate) failed: bool,
    /// Since the turn in which it was told of that, or of the end of a pause after.
    pub(crate) failed_since: Option<u64>,
    /// There is no space for a segment that it wants.
    pub(crate) is_full: bool,
    /// It was told that the disk is full.
    pub(crate) full: bool,
    /// While it is full: term and end of the log of each group that it leads.
    pub(crate) ends: BTreeMap<GroupId, (Term, LogIndex)>,
    /// The disk was slow at some time in this life.
    pub(crate) was_slow: bool,
    /// Handovers seen so far.
    pub(crate) handovers: u64,
}

/// Something that waits for the node's next turn.
pub(crate) enum Arrival {
    Request {
        token: Token,
        request: Rc<Request>,
    },
    Message {
        from: NodeId,
        group: GroupId,
        message: Message,
    },
    Written {
        flush: FlushNumber,
    },
    WriteFailed {
        flush: FlushNumber,
    },
    ReadFailed,
    Space {
        full: bool,
    },
    Log {
        group: GroupId,
        entries: Vec<Entry>,
    },
    SnapshotTaken {
        group: GroupId,
        index: LogIndex,
        term: Term,
    },
    SnapshotFailed {
        group: GroupId,
    },
    SnapshotFetched {
        group: GroupId,
        snapshot: Snapshot,
    },
    SnapshotNotFetched {
        group: GroupId,
    },
    TakeSnapshot {
        group: GroupId,
        release: bool,
    },
    Wake,
    Transfer {
        group: GroupId,
        to: Option<NodeId>,
    },
    ChangeMembers {
        group: GroupId,
        change: Change,
    },
    Drain,
}

impl Arrival {
    /// The groups that it may change, a bit each.
    fn touches(&self) -> u64 {
        match self {
            Self::Request { request, .. } => 1 << request.group,
            // A pulse is of no group, and for all.
            Self::Message { group, .. } => 1_u64.checked_shl(group.to_raw()).unwrap_or(u64::MAX),
            _ => u64::MAX,
        }
    }
}

/// How a node's clocks differ from the run's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clocks {
    started: u64,
    /// How much faster its time runs.
    pub(crate) drift_per_million: i64,
    pub(crate) unix_offset_ms: i64,
}

/// Files of segments that are kept for others.
const FREE_MAX: usize = 4;

/// Unix time at the start of each run, in milliseconds.
const EPOCH_MS: i64 = 1_700_000_000_000;

impl Clocks {
    /// What the node's clocks say at `now`.
    pub(crate) fn read(&self, now: u64) -> Clock {
        let elapsed = i128::from(now - self.started);
        let rate = i128::from(MILLION) + i128::from(self.drift_per_million);
        let nanos = u64::try_from(elapsed * rate / i128::from(MILLION)).expect("drift is small");
        let unix = EPOCH_MS + i64::try_from(now / 1_000_000).expect("runs are short");
        Clock {
            now: Time::from_nanos(nanos),
            unix_ms: u64::try_from(unix + self.unix_offset_ms).expect("long after 1970"),
        }
    }

    /// The moment of the run at which the node's clock shows `time`.
    fn moment(&self, time: Time) -> u64 {
        let rate = i128::from(MILLION) + i128::from(self.drift_per_million);
        let elapsed = i128::from(time.as_nanos()) * i128::from(MILLION) / rate + 1;
        self.started + u64::try_from(elapsed).expect("drift is small")
    }
}

impl Node {
    /// A node that never ran.
    pub(crate) fn new(position: usize, plan: &Plan) -> Self {
        Self {
            position,
            life: 0,
            process: None,
            disk: Disk::new(plan.segment_bytes, 1),
            shelf: Shelf::default(),
            clocks: Clocks::default(),
            paused_until: 0,
            held: false,
            standing: Rc::new(Standing::new(position, plan.nodes)),
            known: vec![1; plan.nodes],
            let_in: vec![None; plan.nodes],
            replaced: Vec::new(),
            paces: Paces::default(),
            noted: BTreeMap::new(),
        }
    }

    /// Whether a group here is under repair.
    pub(crate) fn is_damaged(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.shard.status().iter().any(|group| group.damaged))
    }

    /// Starts the node from what is on its disk. Says what it found there, and in which groups
    /// something is missing.
    pub(crate) fn start(
        &mut self,
        plan: &Plan,
        seed: u64,
        now: u64,
        counters: &mut Counters,
    ) -> Result<(Found, Vec<GroupId>), String> {
        assert!(self.process.is_none(), "it runs already");
        self.life += 1;
        self.let_in.fill(None);
        self.clocks.started = now;
        self.paused_until = 0;
        let mut recovered = self.replay(plan, &mut Rng::new(mix(seed ^ now)))?;
        let first = self.outset(&mut recovered, counters);
        let mut found = Found::new();
        let mut damaged = Vec::new();
        let (shelf, mut refused) = (&mut self.shelf, 0);
        let standing = self.standing.clone();
        let homes: Vec<usize> = match standing.epoch {
            0 => (0..plan.founders).collect(),
            _ => standing.members.clone(),
        };
        let noted = &self.noted;
        let groups = (0..plan.groups).map(|number| {
            let group = GroupId::from_raw(number);
            let log = recovered.groups.remove(&group);
            let recovered = epoch::told_by(log, &recovered.unmentioned, standing.rejoined);
            found.insert(group, content(&recovered));
            let (snapshot, rotten) = shelf.load(group);
            refused += rotten;
            let start = snapshot.as_ref().map_or(LogIndex::ZERO, |it| it.index);
            if recovered.damage.is_some() || recovered.floor.0 > start {
                damaged.push(group);
            }
            let newest = standing.newest.get(&group).copied();
            GroupOptions {
                group,
                members: members(&homes),
                noted: noted.get(&group).cloned(),
                slots: slots(number),
                preferred: Some(node_id(homes[number as usize % homes.len()])),
                recovered: epoch::begin(recovered, standing.epoch, newest),
                snapshot,
            }
        });
        let groups = groups.collect();
        counters.refused_snapshots += refused;
        let options = options(plan, self.position, mix(seed ^ self.life));
        let clock = self.clocks.read(now);
        let next_flush = recovered.writer.next_flush();
        self.process = Some(Process {
            shard: Shard::new(options, clock, groups, next_flush),
            durable: FlushNumber::from_raw(next_flush.to_raw() - 1),
            stalled: Vec::new(),
            wanted: vec![recovered.writer.next_segment()],
            wanted_behind: Vec::new(),
            given_up: recovered.given_up,
            free: VecDeque::new(),
            part: None,
            first,
            watch: Watch {
                was_slow: self.disk.slowness > 1,
                ..Watch::default()
            },
            compared: BTreeMap::new(),
            writer: recovered.writer,
            inbox: Vec::new(),
            turn_planned: false,
            alarm_at: None,
            wake_at: None,
            out: Output::default(),
        });
        Ok((found, damaged))
    }

    /// Replays the log and deletes what is dead. Sometimes it dies half way and does it again.
    fn replay(&mut self, plan: &Plan, rng: &mut Rng) -> Result<Recovered, String> {
        loop {
            let recovered = self.disk.replay(plan.cache_bytes);
            let recovered = recovered
                .map_err(|error| format!("node {} refuses its disk: {error}", self.position + 1))?;
            let dies = plan.has(Fault::Crash) && rng.chance(100_000);
            let spare = recovered.spare.filter(|_| self.disk.full);
            let spare = spare.map(|spare| spare.segment);
            for &segment in recovered.dead.iter().filter(|&&it| Some(it) != spare) {
                if !dies || rng.chance(500_000) {
                    self.disk.delete(segment);
                }
            }
            if !dies {
                return Ok(recovered);
            }
        }
    }

    /// Where a log goes on for which there is no space: in what is on the disk. It must be able to, with a
    /// flush of so many bytes, if it misses nothing.
    fn outset(
        &self,
        recovered: &mut Recovered,
        counters: &mut Counters,
    ) -> Option<(FlushNumber, usize)> {
        if !self.disk.full {
            return None;
        }
        counters.full_starts += 1;
        let writer = &mut recovered.writer;
        if let Some(spare) = recovered.spare {
            writer.take_over(spare.segment);
        } else if let Some(rest) = recovered.rest {
            counters.resumed_segments += 1;
            writer.resume(rest);
        }
        let whole = recovered.lost.is_empty() && recovered.given_up.is_empty();
        let newest = writer.segments().last().filter(|_| whole)?;
        Some((writer.next_flush(), self.disk.left(newest)))
    }

    /// What leaders say in the inbox: up to where this node acknowledged the log to them, in which term.
    pub(crate) fn told(&self) -> Vec<(GroupId, Term, LogIndex)> {
        let inbox = self.process.iter().flat_map(|process| &process.inbox);
        let told = inbox.filter_map(|arrival| match *arrival {
            Arrival::Message {
                group,
                message: Message::Heartbeat { term, commit, .. },
                ..
            } => Some((group, term, commit)),
            _ => None,
        });
        told.collect()
    }

    /// Works off the inbox. What is to be done then is in [`Process::out`].
    ///
    /// Returns which groups may have changed, a bit each.
    pub(crate) fn turn(&mut self, now: u64) -> u64 {
        let clock = self.clocks.read(now);
        let process = self
            .process
            .as_mut()
            .expect("only a running node takes turns");
        process.turn_planned = false;
        let Process {
            shard,
            inbox,
            out,
            watch,
            ..
        } = process;
        let mut touched = 0;
        for arrival in inbox.drain(..) {
            touched |= arrival.touches();
            let mut step = |input: Input<'_>| shard.step(clock, input, out);
            match arrival {
                Arrival::Request { token, request } => {
                    let group = GroupId::from_raw(request.group);
                    request.command(|command| {
                        step(Input::Request {
                            group,
                            token,
                            command,
                        })
                    });
                }
                Arrival::Message {
                    from,
                    group,
                    message,
                } => {
                    step(Input::Message {
                        from,
                        group,
                        message,
                    });
                }
                Arrival::Written { flush } => step(Input::Written { flush }),
                Arrival::WriteFailed { flush } => {
                    watch.failed_since.get_or_insert(now);
                    step(Input::WriteFailed { flush });
                }
                Arrival::ReadFailed => {
                    watch.failed_since.get_or_insert(now);
                    step(Input::ReadFailed);
                }
                Arrival::Space { full } => {
                    watch.full = full;
                    step(Input::Space { full });
                }
                Arrival::Log { group, entries } => step(Input::Log { group, entries }),
                Arrival::SnapshotTaken { group, index, term } => {
                    step(Input::SnapshotTaken { group, index, term });
                }
                Arrival::SnapshotFailed { group } => step(Input::SnapshotFailed { group }),
                Arrival::SnapshotFetched { group, snapshot } => {
                    step(Input::SnapshotFetched { group, snapshot });
                }
                Arrival::SnapshotNotFetched { group } => step(Input::SnapshotNotFetched { group }),
                Arrival::TakeSnapshot { group, release } => {
                    step(Input::TakeSnapshot { group, release });
                }
                Arrival::Wake => step(Input::Wake),
                Arrival::Transfer { group, to } => step(Input::Transfer { group, to }),
                Arrival::ChangeMembers { group, change } => {
                    // Most are refused for a good reason; what is done is judged where it is written.
                    let _ = shard.change_members(group, &change, out);
                }
                Arrival::Drain => step(Input::Drain),
            }
        }
        shard.settle(clock, out);
        if !out.flushes.is_empty() {
            touched = u64::MAX;
        }
        if let Some(time) = process.out.wake_at.take() {
            process.wake_at = Some(self.clocks.moment(time).max(now + 1));
        }
        touched
    }

    /// Puts a flush on its way to the disk. Says whether there is space for it.
    pub(crate) fn begin(&mut self, flush: &Flush) -> Result<bool, String> {
        let process = self.process.as_mut().expect("only a running node writes");
        let placement = process.writer.place(flush.number, &flush.records);
        let mut bytes = vec![0; placement.bytes];
        process
            .writer
            .encode(&placement, &flush.records, &mut bytes);
        if placement.opens_segment {
            let next = process.writer.next_segment();
            process.wanted_behind.push((flush.number, next));
        }
        let has_space = self.disk.has(&placement);
        if has_space {
            self.disk.begin(&placement, bytes, process.durable);
        } else {
            process.stalled.push(Stalled {
                placement,
                bytes,
                knows: process.durable,
            });
            let must = |(number, left)| number == flush.number && placement.bytes <= left;
            if process.first.is_some_and(must) {
                return Err(format!(
                    "node {} started on a full disk and waits for space, but its newest segment has room",
                    self.position + 1
                ));
            }
        }
        Ok(has_space)
    }

    /// Makes the segments that are wanted, if there is space; says whether there was not. Returns the
    /// flushes that had waited for them and are under way now.
    pub(crate) fn make_room(&mut self, counters: &mut Counters) -> (bool, Vec<FlushNumber>) {
        let Self { process, disk, .. } = self;
        let process = process.as_mut().expect("only a running node wants any");
        process.wanted.retain(|&segment| {
            if let Some(free) = process.free.pop_front() {
                let table = process.writer.recycle(free, segment);
                disk.recycle(free, segment, process.writer.room(), &table);
                counters.recycled_segments += 1;
            }
            !disk.preallocate(segment)
        });
        let ready = |stalled: &mut Stalled| disk.has(&stalled.placement);
        let ready: Vec<_> = process.stalled.extract_if(.., ready).collect();
        let numbers = ready
            .iter()
            .map(|stalled| stalled.placement.number)
            .collect();
        for stalled in ready {
            disk.begin(&stalled.placement, stalled.bytes, stalled.knows);
        }
        (!process.wanted.is_empty(), numbers)
    }

    /// The disk finished a flush. Says up to which one all are durable.
    pub(crate) fn written(&mut self, number: FlushNumber, counters: &mut Counters) -> FlushNumber {
        let process = self.process.as_mut().expect("only a running node is told");
        process.durable = process.writer.written(number);
        let durable = process.durable;
        let behind = process
            .wanted_behind
            .extract_if(.., |(opened_by, _)| *opened_by <= durable);
        process.wanted.extend(behind.map(|(_, segment)| segment));
        if process.durable >= number {
            for segment in process.given_up.drain(..) {
                self.disk.delete(segment);
            }
        }
        let mut useless = Vec::new();
        for segment in process.writer.reclaim() {
            counters.reclaimed_segments += 1;
            if process.writer.is_recyclable(segment) {
                process.free.push_back(segment);
                useless.extend((process.free.len() > FREE_MAX).then(|| process.free.pop_front()));
            } else {
                // The oldest go first: those that there are stay a row without a hole.
                useless.extend(process.free.drain(..).map(Some));
                useless.push(Some(segment));
            }
        }
        for segment in useless.into_iter().flatten() {
            process.writer.discard(segment);
            self.disk.reclaim(segment);
        }
        process.durable
    }

    /// Reads entries back from the disk.
    pub(crate) fn read(&self, read: &ReadLog) -> Result<Vec<Entry>, String> {
        let process = self.process.as_ref().expect("only a running node reads");
        let mut entries = Vec::new();
        let (mut index, mut bytes) = (read.from, 0);
        while index <= read.to && (entries.is_empty() || bytes < read.bytes_max) {
            let Some(location) = process.writer.locate(read.group, index) else {
                break;
            };
            let record = self.disk.read(&location).unwrap_or_default();
            let entry = decode_entry(record, read.group, index)
                .map_err(|error| format!("node {} cannot read back: {error}", self.position + 1))?;
            bytes += entry.payload.len();
            entries.push(entry);
            index = index.next();
        }
        if entries.is_empty() {
            return Err(format!(
                "node {} holds nothing of {read:?}",
                self.position + 1
            ));
        }
        Ok(entries)
    }
}

/// The id of the node at `position`.
pub(crate) fn node_id(position: usize) -> NodeId {
    NodeId::from_raw(u32::try_from(position).expect("few nodes") + 1)
}

/// The replicas of the node at `position`.
pub(crate) fn replica_id(position: usize) -> ReplicaId {
    ReplicaId::from_raw(node_id(position).to_raw())
}

/// The position of the node with this id.
pub(crate) fn position_of(node: NodeId) -> usize {
    node.to_raw() as usize - 1
}

fn members(nodes: &[usize]) -> Vec<Member> {
    let member = |node: NodeId| Member {
        replica: ReplicaId::from_raw(node.to_raw()),
        node,
        voter: true,
    };
    nodes.iter().copied().map(node_id).map(member).collect()
}

fn options(plan: &Plan, position: usize, seed: u64) -> Options {
    Options {
        node: node_id(position),
        heartbeat_interval: plan.heartbeat,
        election_timeout: plan.election,
        route_wait: plan.election * 2,
        request_timeout: plan.election * 8,
        mark_after: Duration::from_millis(300),
        flushes_in_flight_max: plan.flushes_in_flight_max,
        // Nothing is held back with two at once, small flushes are with three.
        flush_beside_bytes_min: plan.batch_bytes_max * (plan.flushes_in_flight_max % 2),
        flush_bytes_max: plan.flush_bytes_max,
        batch_bytes_max: plan.batch_bytes_max,
        window_bytes_max: plan.window_bytes_max,
        window_messages_max: plan.window_messages_max,
        pending_bytes_max: plan.pending_bytes_max,
        // So few that some plans reach it; drawn with the bytes.
        pending_requests_max: (plan.pending_bytes_max / 64).max(2),
        answer_bytes_max: 1 << 20,
        data_bytes_max: 0,
        cache_bytes: plan.cache_bytes,
        snapshots: SnapshotPolicy {
            entries: plan.snapshot_entries,
            keeps_previous: plan.snapshots_kept > 1,
            keeps_log: false,
            ..SnapshotPolicy::BY_HAND
        },
        seed: mix(seed ^ position as u64),
    }
}

/// What a log that was found holds; of what is below its floor, nothing is known.
fn content(recovered: &RecoveredLog) -> Content {
    let (floor, floor_term) = recovered.floor;
    let below = usize::try_from(floor.to_raw()).expect("runs are short");
    let mut terms = vec![Term::ZERO; below];
    if let Some(last) = terms.last_mut() {
        *last = floor_term;
    }
    let ends = recovered.terms.iter().skip(1);
    let ends = ends.map(|&(index, _)| index.to_raw());
    let ends = ends.chain([recovered.last.to_raw() + 1]);
    for (&(first, term), end) in recovered.terms.iter().zip(ends) {
        terms.extend((first.to_raw()..end).map(|_| term));
    }
    Content {
        state: recovered.hard_state,
        floor,
        terms,
    }
}
