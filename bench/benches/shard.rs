//! Three shards in memory: many clients whose writes are spread over few or many groups. What is left
//! out is the network, the disk, and everything about bytes.

mod setup;

use std::collections::VecDeque;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::shard::Token;
use engine::shard::{GroupOptions, Input, Member, Options, Outcome, Output, Shard, SnapshotPolicy};
use engine::{Clock, Time};
use net::command::{Condition, Expiry};
use net::{Command, SLOTS, Slot};
use rustix::time::{ClockId, clock_gettime};
use wal::{FlushNumber, GroupId, NodeId, RecoveredLog, ReplicaId};

const NODES: u32 = 3;
/// Requests under way at once.
const IN_FLIGHT: u64 = 3072;
const VALUE: [u8; 256] = [b'v'; 256];
const KEYS: u64 = 10_000;
/// Time of a turn, in which every shard takes what came in and settles once.
const TURN: Duration = Duration::from_micros(100);
/// Turns until a flush is durable.
const FLUSH_TURNS: u64 = 10;

struct Cluster {
    shards: Vec<Shard>,
    groups: u64,
    turn: u64,
    now: Time,
    /// Messages on their way to each node.
    inboxes: Vec<Vec<(NodeId, GroupId, engine::raft::Message)>>,
    /// The turn in which each node's flushes are durable.
    flushes: Vec<VecDeque<(u64, FlushNumber)>>,
    outputs: Vec<Output>,
    /// Requests that may be asked now.
    idle: u64,
    asked: u64,
    done: u64,
    random: u64,
}

fn options(node: u32) -> Options {
    Options {
        node: NodeId::from_raw(node),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        route_wait: Duration::from_secs(1),
        request_timeout: Duration::from_secs(5),
        mark_after: Duration::from_millis(10),
        flushes_in_flight_max: 4,
        flush_beside_bytes_min: 64 << 10,
        flush_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 20,
        window_bytes_max: 1 << 24,
        window_messages_max: 256,
        pending_bytes_max: 1 << 26,
        pending_requests_max: 1 << 16,
        answer_bytes_max: 1 << 20,
        data_bytes_max: 0,
        cache_bytes: 1 << 23,
        snapshots: SnapshotPolicy::BY_HAND,
        seed: u64::from(node),
    }
}

/// The slots of a group: each has as many as it can.
fn slots(id: u64, groups: u64) -> (u16, u16) {
    let first = |id: u64| (id * u64::from(SLOTS)).div_ceil(groups);
    let slot = |slot: u64| u16::try_from(slot).expect("few slots");
    (slot(first(id)), slot(first(id + 1) - 1))
}

fn group(id: u64, groups: u64) -> GroupOptions {
    let member = |node| Member {
        replica: ReplicaId::from_raw(node),
        node: NodeId::from_raw(node),
        voter: true,
    };
    let slots = slots(id, groups);
    let id = u32::try_from(id).expect("few groups");
    GroupOptions {
        group: GroupId::from_raw(id),
        members: (1..=NODES).map(member).collect(),
        noted: None,
        slots,
        preferred: Some(NodeId::from_raw(leader(id))),
        recovered: RecoveredLog::default(),
        snapshot: None,
    }
}

fn leader(group: u32) -> u32 {
    group % NODES + 1
}

impl Cluster {
    /// Groups that all have the leaders that they should have.
    fn new(groups: u64) -> Self {
        let now = Time::default();
        let clock = clock(now);
        let shard = |node| {
            let groups = (0..groups).map(|id| group(id, groups)).collect();
            Shard::new(options(node), clock, groups, FlushNumber::ZERO.next())
        };
        let mut cluster = Self {
            shards: (1..=NODES).map(shard).collect(),
            groups,
            turn: 0,
            now,
            inboxes: (0..NODES).map(|_| Vec::new()).collect(),
            flushes: (0..NODES).map(|_| VecDeque::new()).collect(),
            outputs: (0..NODES).map(|_| Output::default()).collect(),
            idle: 0,
            asked: 0,
            done: 0,
            random: 1,
        };
        let led = |cluster: &Self| {
            (0..groups).all(|id| {
                let id = u32::try_from(id).expect("few groups");
                let leader = NodeId::from_raw(leader(id));
                let at = leader.to_raw() as usize - 1;
                cluster.shards[at].leader(GroupId::from_raw(id)) == Some(leader)
            })
        };
        while !led(&cluster) {
            cluster.turn();
        }
        cluster.idle = IN_FLIGHT;
        cluster
    }

    fn turn(&mut self) {
        self.turn += 1;
        self.now = self.now.after(TURN);
        while self.idle > 0 {
            self.idle -= 1;
            self.ask();
        }
        for at in 0..self.shards.len() {
            self.turn_of(at);
        }
    }

    fn ask(&mut self) {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let key = (self.random >> 33) % KEYS;
        let name = format!("key:{key:012}");
        let slot = u64::from(Slot::of(name.as_bytes()).number());
        let group = u32::try_from(slot * self.groups / u64::from(SLOTS)).expect("few groups");
        let command = Command::Set {
            key: name.as_bytes(),
            value: &VALUE,
            expiry: Expiry::Never,
            condition: Condition::Always,
            get: false,
        };
        self.asked += 1;
        let input = Input::Request {
            group: GroupId::from_raw(group),
            token: Token(self.asked),
            command,
        };
        let at = leader(group) as usize - 1;
        self.shards[at].step(clock(self.now), input, &mut self.outputs[at]);
    }

    fn turn_of(&mut self, at: usize) {
        let clock = clock(self.now);
        let (shard, out) = (&mut self.shards[at], &mut self.outputs[at]);
        for (from, group, message) in self.inboxes[at].drain(..) {
            let input = Input::Message {
                from,
                group,
                message,
            };
            shard.step(clock, input, out);
        }
        while let Some(&(turn, flush)) = self.flushes[at].front()
            && turn <= self.turn
        {
            self.flushes[at].pop_front();
            shard.step(clock, Input::Written { flush }, out);
        }
        if out.wake_at.is_some_and(|at| at <= self.now) {
            shard.step(clock, Input::Wake, out);
        }
        shard.settle(clock, out);
        for flush in out.flushes.drain(..) {
            self.flushes[at].push_back((self.turn + FLUSH_TURNS, flush.number));
        }
        let from = NodeId::from_raw(u32::try_from(at).expect("few nodes") + 1);
        for (to, group, message) in out.messages.drain(..) {
            self.inboxes[to.to_raw() as usize - 1].push((from, group, message));
        }
        assert!(out.reads.is_empty(), "nobody lags behind");
        out.news.clear();
        for (_, outcome) in out.replies.drain(..) {
            assert!(matches!(outcome, Outcome::Reply(_)), "{outcome:?}");
            self.done += 1;
            self.idle += 1;
        }
    }

    fn run(&mut self, requests: u64) {
        let done = self.done + requests;
        while self.done < done {
            self.turn();
        }
    }
}

fn clock(now: Time) -> Clock {
    Clock {
        now,
        unix_ms: 1_700_000_000_000,
    }
}

/// A write of 256 B, from the request to the reply, on all three nodes.
fn writes(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("shard/writes");
    bench.throughput(Throughput::Elements(1));
    for groups in [6, 100, 1000] {
        let name = BenchmarkId::from_parameter(format!("{groups} groups"));
        let mut cluster = None;
        bench.bench_function(name, |bencher| {
            let cluster = cluster.get_or_insert_with(|| {
                let mut cluster = Cluster::new(groups);
                cluster.run(200_000);
                cluster
            });
            bencher.iter_custom(|requests| {
                let begin = cpu_time();
                cluster.run(requests);
                cpu_time() - begin
            });
        });
    }
    bench.finish();
}

/// Of this thread: others may use the machine, too.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("time is not negative")
}

criterion_group! {
    name = benches;
    config = setup::short();
    targets = writes
}
criterion_main!(benches);
