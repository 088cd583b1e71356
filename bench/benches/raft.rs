//! Consensus without network and disks: three replicas in memory, from a proposal to its commit on
//! all of them.

mod setup;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::Time;
use engine::raft::{Log, Members, Outbox, Raft, Role, Settings, Window};
use wal::{Entry, EntryKind, FlushNumber, HardState, LogIndex, Payload, ReplicaId, Term};

const ELECTION: Duration = Duration::from_secs(1);
const PAYLOAD_BYTES: usize = 256;
/// More than any round sends: no window ever closes.
const BYTES_MAX: usize = 1 << 24;

/// Three replicas; messages arrive at once and in order, flushes are durable at once.
struct Group {
    replicas: Vec<Raft>,
    flush: FlushNumber,
    now: Time,
}

impl Group {
    /// A group whose first replica leads.
    fn new() -> Self {
        let voters: Vec<_> = (1..=3).map(ReplicaId::from_raw).collect();
        let members = Members {
            voters: voters.clone(),
            observers: Vec::new(),
        };
        let now = Time::default();
        let replica = |id| {
            let settings = Settings {
                heartbeat_interval: ELECTION / 10,
                election_timeout: ELECTION,
                pre_vote: true,
                check_quorum: true,
                window: Window {
                    bytes_max: BYTES_MAX,
                    messages_max: 64,
                },
                append_bytes_max: BYTES_MAX,
                seed: 1,
            };
            let log = Log::new(
                (LogIndex::ZERO, Term::ZERO),
                Vec::new(),
                LogIndex::ZERO,
                Vec::new(),
            );
            let state = HardState::default();
            Raft::new(id, members.clone(), settings, state, log, now, ELECTION)
        };
        let mut group = Self {
            replicas: voters.iter().copied().map(replica).collect(),
            flush: FlushNumber::ZERO,
            now,
        };
        group.now = now.after(ELECTION * 3);
        let mut out = Outbox::new();
        group.replicas[0].tick(group.now, &mut out);
        group.settle(0, out);
        assert_eq!(group.replicas[0].role(), Role::Leader);
        group
    }

    /// Writes what there is to write, and delivers what is said until nobody says anything.
    fn settle(&mut self, from: usize, out: Outbox) {
        let mut said = vec![(from, out)];
        loop {
            for at in 0..self.replicas.len() {
                let mut out = Outbox::new();
                self.write(at, &mut out);
                said.push((at, out));
            }
            if said.iter().all(|(_, out)| out.is_empty()) {
                return;
            }
            for (from, out) in std::mem::take(&mut said) {
                let from = self.replicas[from].id();
                for (to, message) in out {
                    let to = (to.to_raw() - 1) as usize;
                    let mut answers = Outbox::new();
                    self.replicas[to].step(self.now, from, message, &mut answers);
                    said.push((to, answers));
                }
            }
        }
    }

    fn write(&mut self, at: usize, out: &mut Outbox) {
        let replica = &mut self.replicas[at];
        if !replica.has_unsubmitted() {
            return;
        }
        self.flush = self.flush.next();
        let state = |state| _ = black_box(state);
        let entry = |entry: &Entry| _ = black_box(entry.clone());
        replica.submit(self.flush, BYTES_MAX, state, entry);
        replica.written(self.flush, out);
    }

    /// Proposes `count` entries and has them committed. Followers learn of the commit with the next
    /// append, as they do under load.
    fn round(&mut self, count: u64, payload: &Payload) {
        let leader = &mut self.replicas[0];
        for _ in 0..count {
            let index = leader.propose(EntryKind::Batch, payload.clone());
            assert!(index.is_some(), "it leads");
        }
        let mut out = Outbox::new();
        leader.replicate(false, &mut out);
        self.settle(0, out);
        let leader = &self.replicas[0];
        assert_eq!(leader.commit(), leader.log().last_index());
        for replica in &mut self.replicas {
            let applied = replica.commit();
            replica.evict(applied, 0, 0);
        }
    }
}

/// Propose, append, write, acknowledge, commit: so many entries in one round of messages.
fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raft/commit");
    let payload = Payload::from([b'v'; PAYLOAD_BYTES]);
    for count in [1, 16, 128] {
        group.throughput(Throughput::Elements(count));
        let name = BenchmarkId::from_parameter(format!("{count} a round"));
        group.bench_function(name, |bencher| {
            let mut replicas = Group::new();
            bencher.iter(|| replicas.round(count, &payload));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = setup::short();
    targets = commit
}
criterion_main!(benches);
