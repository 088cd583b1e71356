//! Three shards by hand: no disk, no network, no clock but the test's.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::kv::Kv;
use engine::shard::{
    FetchSnapshot, GroupOptions, Input, Member, Options, Outcome, Output, Shard, Snapshot,
    SnapshotPolicy, Token,
};
use engine::state_machine::StateMachine;
use engine::{Clock, Time};
use net::Command;
use net::command::{Condition, Expiry};
use wal::{Entry, FlushNumber, GroupId, LogIndex, NodeId, Record, RecoveredLog, ReplicaId};

pub(crate) const GROUP: GroupId = GroupId::from_raw(0);

pub(crate) fn node(raw: u32) -> NodeId {
    NodeId::from_raw(raw)
}

pub(crate) fn options(id: u32) -> Options {
    Options {
        node: node(id),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        route_wait: Duration::from_secs(1),
        request_timeout: Duration::from_secs(5),
        mark_after: Duration::from_millis(10),
        flushes_in_flight_max: 2,
        flush_beside_bytes_min: 0,
        flush_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 18,
        window_bytes_max: 1 << 22,
        window_messages_max: 256,
        pending_bytes_max: 1 << 16,
        pending_requests_max: 1 << 12,
        answer_bytes_max: 1 << 20,
        data_bytes_max: 0,
        cache_bytes: 1 << 20,
        snapshots: SnapshotPolicy::BY_HAND,
        seed: 7,
    }
}

/// Three nodes with perfect disks and a network that can cut nodes off.
pub(crate) struct Cluster {
    pub(crate) shards: Vec<Shard>,
    pub(crate) now_ms: u64,
    pub(crate) cut_off: Vec<u32>,
    /// Nodes whose disks do not finish.
    pub(crate) stalled: Vec<u32>,
    /// Nodes whose disks fail.
    pub(crate) broken: Vec<u32>,
    /// How long a flush takes on some nodes, in milliseconds; on others it is done at once.
    pub(crate) slow: Vec<(u32, u64)>,
    /// Nodes that wrote that they are damaged, and not yet that they are whole.
    damaged: Vec<u32>,
    /// When a flush of a node will be done.
    pending: Vec<(u64, u32, FlushNumber)>,
    pub(crate) replies: Vec<(Token, Outcome)>,
    /// Node, number and count of records of each flush.
    pub(crate) flushes: Vec<(u32, FlushNumber, usize)>,
    /// The most that one turn gave.
    pub(crate) replies_of_a_turn: usize,
    /// Messages about groups so far.
    pub(crate) messages: usize,
    /// What each node has written last at each position.
    pub(crate) entries: BTreeMap<(u32, LogIndex), Entry>,
    /// The chunks of the snapshots that each node has.
    pub(crate) files: BTreeMap<(u32, LogIndex), Vec<Vec<u8>>>,
}

impl Cluster {
    /// A cluster whose preferred node, the first, leads.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same, with other options.
    pub(crate) fn with(change: impl Fn(&mut Options)) -> Self {
        let mut cluster = Self::starting(change, |_| (RecoveredLog::default(), None));
        cluster.run(400);
        cluster
    }

    /// Three nodes that start with what a replay found on each, and a snapshot.
    pub(crate) fn starting(
        change: impl Fn(&mut Options),
        mut found: impl FnMut(u32) -> (RecoveredLog, Option<Snapshot>),
    ) -> Self {
        let member = |id| Member {
            replica: ReplicaId::from_raw(id),
            node: node(id),
            voter: true,
        };
        let members: Vec<Member> = (1..=3).map(member).collect();
        let shards = (1..=3).map(|id| {
            let (recovered, snapshot) = found(id);
            let group = GroupOptions {
                group: GROUP,
                members: members.clone(),
                noted: None,
                slots: (0, 16383),
                preferred: Some(node(1)),
                recovered,
                snapshot,
            };
            let mut options = options(id);
            change(&mut options);
            Shard::new(
                options,
                Clock::default(),
                vec![group],
                FlushNumber::from_raw(1),
            )
        });
        Self {
            shards: shards.collect(),
            now_ms: 0,
            cut_off: vec![],
            stalled: vec![],
            broken: vec![],
            slow: vec![],
            damaged: vec![],
            pending: vec![],
            replies: vec![],
            replies_of_a_turn: 0,
            flushes: vec![],
            messages: 0,
            entries: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock {
            now: Time::from_nanos(self.now_ms * 1_000_000),
            unix_ms: 1_000_000 + self.now_ms,
        }
    }

    pub(crate) fn give(&mut self, id: u32, input: Input<'_>) {
        let clock = self.clock();
        let woken = matches!(input, Input::Wake);
        let mut out = Output::default();
        let shard = &mut self.shards[id as usize - 1];
        shard.step(clock, input, &mut out);
        shard.settle(clock, &mut out);
        assert!(out.reads.is_empty(), "everything fits in memory here");
        let again = out.wake_at.filter(|&at| woken && at <= clock.now);
        assert_eq!(
            again, None,
            "woken, it asks to be woken at once: its thread would spin"
        );
        self.replies_of_a_turn = self.replies_of_a_turn.max(out.replies.len());
        self.replies.extend(out.replies);
        for flush in out.flushes {
            self.flushes.push((id, flush.number, flush.records.len()));
            self.check_notes(id, &flush.records);
            for record in &flush.records {
                if let Record::Entry { entry, .. } = record {
                    self.entries.insert((id, entry.index), entry.clone());
                }
            }
            let flush = flush.number;
            let takes = self.slow.iter().find(|slow| slow.0 == id);
            if self.broken.contains(&id) {
                self.give(id, Input::WriteFailed { flush });
            } else if let Some((_, ms)) = takes {
                self.pending.push((self.now_ms + ms, id, flush));
            } else if !self.stalled.contains(&id) {
                self.give(id, Input::Written { flush });
            }
        }
        for begun in out.snapshots {
            let (index, term) = (begun.index, begun.term);
            let file = self.files.entry((id, index)).or_default();
            let shard = &mut self.shards[id as usize - 1];
            loop {
                let mut chunk = Vec::new();
                let taken = shard.snapshot_chunk(GROUP, 64, &mut chunk);
                file.push(chunk);
                if !taken.unwrap().more {
                    break;
                }
            }
            let group = GROUP;
            self.give(id, Input::SnapshotTaken { group, index, term });
        }
        for fetch in out.fetches {
            self.fetch(id, fetch);
        }
        for (to, group, message) in out.messages {
            let to = to.to_raw();
            self.messages += usize::from(group == GROUP);
            if !self.cut_off.contains(&id) && !self.cut_off.contains(&to) {
                self.give(
                    to,
                    Input::Message {
                        from: node(id),
                        group,
                        message,
                    },
                );
            }
        }
    }

    /// Whatever a damaged replica writes, it says before that it is: one flush that is lost later must not take
    /// with it that something is missing.
    fn check_notes(&mut self, id: u32, records: &[Record]) {
        match records.first() {
            Some(Record::Damaged { .. }) => self.damaged.push(id),
            Some(Record::Intact { .. }) => self.damaged.retain(|&damaged| damaged != id),
            Some(_) => assert!(!self.damaged.contains(&id), "not said again: {records:?}"),
            None => {}
        }
    }

    fn fetch(&mut self, id: u32, fetch: FetchSnapshot) {
        let FetchSnapshot {
            group,
            from,
            index,
            term,
        } = fetch;
        let Some(file) = self.files.get(&(from.to_raw(), index)).cloned() else {
            return self.give(id, Input::SnapshotNotFetched { group });
        };
        let state = restored(&file);
        self.files.insert((id, index), file);
        let snapshot = Snapshot {
            index,
            term,
            state,
            membership: None,
        };
        self.give(id, Input::SnapshotFetched { group, snapshot });
    }

    /// Takes a snapshot on a node; with `release`, its log is cut behind it.
    pub(crate) fn snapshot(&mut self, id: u32, release: bool) {
        let group = GROUP;
        self.give(id, Input::TakeSnapshot { group, release });
    }

    pub(crate) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            let now = self.now_ms;
            let done: Vec<_> = self
                .pending
                .extract_if(.., |flush| flush.0 <= now)
                .collect();
            for (_, id, flush) in done {
                self.give(id, Input::Written { flush });
            }
            for id in 1..=3 {
                self.give(id, Input::Wake);
            }
        }
    }

    pub(crate) fn ask(&mut self, id: u32, token: u64, command: Command<'_>) {
        self.give(
            id,
            Input::Request {
                group: GROUP,
                token: Token(token),
                command,
            },
        );
    }

    pub(crate) fn answer(&mut self, token: u64) -> Option<Outcome> {
        let at = self
            .replies
            .iter()
            .position(|(found, _)| *found == Token(token))?;
        Some(self.replies.remove(at).1)
    }

    pub(crate) fn leader_as_seen_by(&self, id: u32) -> Option<NodeId> {
        self.shards[id as usize - 1].leader(GROUP)
    }

    pub(crate) fn keys_on(&self, id: u32) -> u64 {
        self.shards[id as usize - 1].status()[0].keys
    }

    pub(crate) fn marks_of(&self, id: u32) -> usize {
        self.flushes
            .iter()
            .filter(|flush| flush.0 == id && flush.2 == 0)
            .count()
    }
}

/// The state that the chunks of a snapshot are of.
pub(crate) fn restored(chunks: &[Vec<u8>]) -> Kv {
    let mut state = Kv::new((0, 16383));
    chunks
        .iter()
        .for_each(|chunk| state.restore(chunk).unwrap());
    state.restored().unwrap();
    state
}

pub(crate) fn set<'a>(key: &'a [u8], value: &'a [u8], expiry: Expiry) -> Command<'a> {
    Command::Set {
        key,
        value,
        expiry,
        condition: Condition::Always,
        get: false,
    }
}
