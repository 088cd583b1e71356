//! Three shards by hand: no disk, no network, no clock but the test's.

use std::time::Duration;

use engine::shard::{
    GroupOptions, Input, Member, Options, Outcome, Output, RecoveredGroup, Shard, Token,
};
use engine::{Clock, Time};
use net::command::{Condition, Expiry};
use net::{Command, Reply};
use wal::{FlushNumber, GroupId, NodeId, ReplicaId};

const GROUP: GroupId = GroupId::from_raw(0);

fn node(raw: u32) -> NodeId {
    NodeId::from_raw(raw)
}

fn options(id: u32) -> Options {
    Options {
        node: node(id),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        route_wait: Duration::from_secs(1),
        request_timeout: Duration::from_secs(5),
        mark_after: Duration::from_millis(10),
        flushes_in_flight_max: 2,
        flush_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 18,
        window_bytes_max: 1 << 22,
        window_messages_max: 256,
        pending_bytes_max: 1 << 16,
        cache_bytes: 1 << 20,
        seed: 7,
    }
}

/// Three nodes with perfect disks and a network that can cut nodes off.
struct Cluster {
    shards: Vec<Shard>,
    now_ms: u64,
    cut_off: Vec<u32>,
    /// Nodes whose disks do not finish.
    stalled: Vec<u32>,
    replies: Vec<(Token, Outcome)>,
    /// Node, number and count of records of each flush.
    flushes: Vec<(u32, FlushNumber, usize)>,
}

impl Cluster {
    /// A cluster whose preferred node, the first, leads.
    fn new() -> Self {
        let member = |id| Member {
            replica: ReplicaId::from_raw(id),
            node: node(id),
            voter: true,
        };
        let members: Vec<Member> = (1..=3).map(member).collect();
        let shards = (1..=3).map(|id| {
            let group = GroupOptions {
                group: GROUP,
                members: members.clone(),
                slots: (0, 16383),
                preferred: Some(node(1)),
                recovered: RecoveredGroup::default(),
            };
            Shard::new(
                options(id),
                Clock::default(),
                vec![group],
                FlushNumber::from_raw(1),
            )
        });
        let mut cluster = Self {
            shards: shards.collect(),
            now_ms: 0,
            cut_off: vec![],
            stalled: vec![],
            replies: vec![],
            flushes: vec![],
        };
        cluster.run(400);
        cluster
    }

    fn clock(&self) -> Clock {
        Clock {
            now: Time::from_nanos(self.now_ms * 1_000_000),
            unix_ms: 1_000_000 + self.now_ms,
        }
    }

    fn give(&mut self, id: u32, input: Input<'_>) {
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
        self.replies.extend(out.replies);
        for flush in out.flushes {
            self.flushes.push((id, flush.number, flush.records.len()));
            if !self.stalled.contains(&id) {
                self.give(
                    id,
                    Input::Written {
                        flush: flush.number,
                    },
                );
            }
        }
        for (to, group, message) in out.messages {
            let to = to.to_raw();
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

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            for id in 1..=3 {
                self.give(id, Input::Wake);
            }
        }
    }

    fn ask(&mut self, id: u32, token: u64, command: Command<'_>) {
        self.give(
            id,
            Input::Request {
                group: GROUP,
                token: Token(token),
                command,
            },
        );
    }

    fn answer(&mut self, token: u64) -> Option<Outcome> {
        let at = self
            .replies
            .iter()
            .position(|(found, _)| *found == Token(token))?;
        Some(self.replies.remove(at).1)
    }

    fn leader_as_seen_by(&self, id: u32) -> Option<NodeId> {
        self.shards[id as usize - 1].leader(GROUP)
    }

    fn keys_on(&self, id: u32) -> u64 {
        self.shards[id as usize - 1].status()[0].keys
    }

    fn marks_of(&self, id: u32) -> usize {
        self.flushes
            .iter()
            .filter(|flush| flush.0 == id && flush.2 == 0)
            .count()
    }
}

fn set<'a>(key: &'a [u8], value: &'a [u8], expiry: Expiry) -> Command<'a> {
    Command::Set {
        key,
        value,
        expiry,
        condition: Condition::Always,
        get: false,
    }
}

#[test]
fn the_preferred_node_leads_and_answers_what_was_written() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)));
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    assert_eq!(cluster.answer(1), Some(Outcome::Reply(Reply::Ok)));
    cluster.ask(1, 2, Command::Get { key: b"a" });
    assert_eq!(cluster.answer(2), Some(Outcome::Reply(Reply::bulk(*b"1"))));

    cluster.run(200);
    let hashes: Vec<_> = cluster
        .shards
        .iter()
        .map(|shard| shard.hash(GROUP))
        .collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

#[test]
fn a_follower_names_the_leader_and_gives_the_request_back() {
    let mut cluster = Cluster::new();
    cluster.ask(2, 1, Command::Get { key: b"a" });
    let Some(Outcome::Redirect { leader, command }) = cluster.answer(1) else {
        panic!()
    };
    assert_eq!(leader, node(1));
    assert_eq!(
        Command::decode(&command).unwrap(),
        Command::Get { key: b"a" }
    );
}

#[test]
fn nothing_is_acknowledged_before_a_quorum_of_disks_has_it() {
    let mut cluster = Cluster::new();
    cluster.stalled = vec![2, 3];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    cluster.run(50);
    assert_eq!(cluster.answer(1), None);
    cluster.stalled.clear();
    let newest = cluster
        .flushes
        .iter()
        .filter(|flush| flush.0 == 2)
        .map(|flush| flush.1)
        .max();
    cluster.give(
        2,
        Input::Written {
            flush: newest.unwrap(),
        },
    );
    assert_eq!(cluster.answer(1), Some(Outcome::Reply(Reply::Ok)));
}

#[test]
fn without_a_quorum_reads_and_writes_end_and_say_how() {
    let mut cluster = Cluster::new();
    cluster.cut_off = vec![1];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    cluster.ask(1, 2, Command::Get { key: b"a" });
    cluster.run(6000);
    assert_eq!(
        cluster.answer(1),
        Some(Outcome::Unknown),
        "it is in a log: it may take effect"
    );
    assert_eq!(cluster.answer(2), Some(Outcome::NoLeader));
    assert_ne!(
        cluster.leader_as_seen_by(2),
        Some(node(1)),
        "the others went on without it"
    );

    // Once it is back, it leads again, and what it had alone is gone.
    cluster.cut_off.clear();
    cluster.run(20_000);
    assert_eq!(cluster.leader_as_seen_by(2), Some(node(1)));
    cluster.ask(1, 3, Command::Get { key: b"a" });
    assert_eq!(cluster.answer(3), Some(Outcome::Reply(Reply::Nil)));
}

#[test]
fn too_many_waiting_bytes_are_refused() {
    let mut cluster = Cluster::new();
    cluster.stalled = vec![1, 2, 3];
    let value = vec![7; 10_000];
    for token in 1..=20 {
        cluster.ask(1, token, set(b"a", &value, Expiry::Never));
    }
    let busy = cluster
        .replies
        .iter()
        .filter(|reply| reply.1 == Outcome::Busy)
        .count();
    assert!((10..20).contains(&busy), "{busy} of 20 refused");
}

#[test]
fn keys_expire_through_the_log_although_nobody_asks() {
    let mut cluster = Cluster::new();
    cluster.ask(1, 1, set(b"a", b"1", Expiry::After(300)));
    cluster.run(200);
    assert_eq!(cluster.keys_on(2), 1);
    cluster.run(400);
    assert_eq!(cluster.keys_on(2), 0);
}

#[test]
fn an_idle_shard_marks_its_last_flush_once() {
    let mut cluster = Cluster::new();
    let before = cluster.marks_of(1);
    assert!(before > 0);
    cluster.run(1000);
    assert_eq!(cluster.marks_of(1), before);
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    cluster.run(100);
    assert_eq!(cluster.marks_of(1), before + 1);
}

#[test]
fn a_shard_whose_disk_is_slow_sleeps_until_it_is_done() {
    let mut cluster = Cluster::new();
    cluster.stalled = vec![1];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    cluster.ask(1, 2, set(b"a", b"2", Expiry::Never));
    let flushes = cluster
        .flushes
        .iter()
        .filter(|flush| flush.0 == 1)
        .map(|flush| flush.1);
    let (newest, before) = (
        flushes.clone().max().unwrap(),
        flushes.rev().nth(1).unwrap(),
    );
    assert_eq!(before.next(), newest);
    // The first is done; the mark would be due long before the second is.
    cluster.give(1, Input::Written { flush: before });
    cluster.run(100);
}

#[test]
fn a_draining_node_hands_over_and_leads_no_more() {
    let mut cluster = Cluster::new();
    cluster.give(1, Input::Drain);
    cluster.run(20_000);
    assert_ne!(cluster.leader_as_seen_by(2), Some(node(1)));
    assert!(cluster.leader_as_seen_by(2).is_some());
}
