//! What becomes of a group whose disks lost entries, snapshots or both: samples of where each replica's
//! log begins and ends, which entries of it are gone, and what is left of its newest snapshot and of the
//! one before. If each committed entry is in a snapshot that is whole, or readable behind the newest such,
//! the group must serve with exactly that state, without help. If not, it must stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engine::shard::{Input, Outcome, Snapshot};
use net::command::Expiry;
use net::{Command, Reply};
use wal::{Claim, Damage, Entry, HardState, LogIndex, RecoveredLog, ReplicaId, Term};

use crate::cluster::{Cluster, GROUP, node, restored, set};

/// States that are sampled.
const STATES: u64 = 3000;
/// Virtual time after which a group that can serve does, in milliseconds.
const PATIENCE: u64 = 20_000;
const STEP: u64 = 20;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// A log that three replicas agreed on, and a snapshot of each state.
struct History {
    entries: Vec<Entry>,
    files: BTreeMap<LogIndex, Vec<Vec<u8>>>,
    /// The key that was written at a position.
    keys: BTreeMap<LogIndex, String>,
}

impl History {
    /// Keys of several leaders, each written once.
    fn new() -> Self {
        let mut cluster = Cluster::new();
        let mut keys = BTreeMap::new();
        for token in 0..9 {
            let leader = cluster.leader_as_seen_by(1).unwrap().to_raw();
            let key = format!("key {token}");
            cluster.ask(leader, token, set(key.as_bytes(), b"value", Expiry::Never));
            cluster.run(1);
            assert_eq!(cluster.answer(token), Some(Outcome::Reply(Reply::Ok)));
            cluster.run(200);
            cluster.snapshot(leader, false);
            keys.insert(cluster.shards[0].status()[0].applied, key);
            if token % 3 == 2 {
                let (group, to) = (GROUP, Some(node(leader % 3 + 1)));
                cluster.give(leader, Input::Transfer { group, to });
                cluster.run(50);
            }
        }
        let mut entries: BTreeMap<LogIndex, Entry> = BTreeMap::new();
        for ((_, index), entry) in &cluster.entries {
            entries.insert(*index, entry.clone());
        }
        let files = cluster.files.iter();
        let files = files.map(|((_, index), chunks)| (*index, chunks.clone()));
        Self {
            entries: entries.into_values().collect(),
            files: files.collect(),
            keys,
        }
    }

    fn term(&self, index: LogIndex) -> Term {
        let at = index.to_raw().checked_sub(1);
        at.map_or(Term::ZERO, |at| self.entries[at as usize].term)
    }

    fn snapshot(&self, index: LogIndex) -> Snapshot {
        Snapshot {
            index,
            term: self.term(index),
            state: restored(&self.files[&index]),
            membership: None,
        }
    }
}

/// What one disk holds.
#[derive(Debug)]
struct Disk {
    /// Where its log ended, and what it knew committed.
    last: u64,
    commit: u64,
    floor: u64,
    /// Positions that cannot be read.
    lost: BTreeSet<u64>,
    /// Snapshots that are whole.
    whole: Vec<LogIndex>,
}

impl Disk {
    fn reads(&self, position: u64) -> bool {
        position > self.floor && position <= self.last && !self.lost.contains(&position)
    }

    fn newest(&self) -> Option<LogIndex> {
        self.whole.iter().max().copied()
    }

    /// As replay finds it.
    fn replayed(&self, history: &History) -> RecoveredLog {
        let index = LogIndex::from_raw;
        let entry = |position: u64| history.entries[position as usize - 1].clone();
        let sound = self.lost.first().map_or(self.last, |first| first - 1);
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for position in self.floor + 1..=sound {
            let term = history.term(index(position));
            if terms.last().is_none_or(|run| run.1 != term) {
                terms.push((index(position), term));
            }
        }
        let ends = self.lost.iter();
        let ends = ends.filter(|&&at| !self.lost.contains(&(at + 1)));
        let damage = (!self.lost.is_empty()).then(|| Damage {
            claim: Some(Claim {
                index: Some(index(self.last)),
                term: history.term(index(self.last)),
            }),
            named: true,
            gap_ends: ends
                .map(|&at| (index(at), history.term(index(at))))
                .collect(),
            spares: (sound + 1..=self.last)
                .filter(|&at| self.reads(at))
                .map(entry)
                .collect(),
            committed: index(self.commit),
            promises_lost: false,
        });
        RecoveredLog {
            hard_state: HardState {
                term: history.term(index(history.entries.len() as u64)),
                vote: Some(ReplicaId::from_raw(1)),
                commit: index(self.commit.min(sound)),
            },
            floor: (index(self.floor), history.term(index(self.floor))),
            terms,
            last: index(sound),
            tail: (self.floor + 1..=sound).map(entry).collect(),
            memberships: Vec::new(),
            damage,
        }
    }
}

/// Three disks, and how far the group had committed.
fn sample(history: &History, random: &mut Random) -> (Vec<Disk>, u64) {
    let end = history.entries.len() as u64;
    let mut lasts: Vec<u64> = (0..3).map(|_| end - random.below(1 + end / 2)).collect();
    if random.below(2) == 0 {
        lasts = vec![end; 3];
    }
    let mut sorted = lasts.clone();
    sorted.sort_unstable();
    let committed = sorted[1];
    let density = random.below(7);
    let disks = lasts.iter().map(|&last| {
        let commit = last.min(committed);
        let taken = history.files.keys().map(|index| index.to_raw());
        let mut taken: Vec<u64> = taken.filter(|&index| index <= commit).collect();
        taken.insert(0, 0);
        let newest = random.pick(&taken);
        taken.retain(|&index| index <= newest);
        let previous = random.pick(&taken);
        let floor = random.pick(&[0, previous, previous, newest]);
        let whole = [previous, newest].into_iter();
        let whole = whole.filter(|&index| index > 0 && random.below(8) >= density);
        let whole = whole.map(LogIndex::from_raw).collect();
        let lost = (floor + 1..=last)
            .filter(|_| random.below(10) < density)
            .collect();
        Disk {
            last,
            commit,
            floor,
            lost,
            whole,
        }
    });
    (disks.collect(), committed)
}

/// Whether every committed entry is still somewhere.
fn is_recoverable(disks: &[Disk], committed: u64) -> bool {
    let newest = disks.iter().filter_map(Disk::newest).max();
    let newest = newest.map_or(0, |index| index.to_raw());
    (newest + 1..=committed).all(|at| disks.iter().any(|disk| disk.reads(at)))
}

/// Lets the group run until it has taken a write, all are whole and equal. Says whether that came.
fn serves(cluster: &mut Cluster) -> bool {
    let (mut token, mut written) = (1000, false);
    let end = cluster.now_ms + PATIENCE;
    while cluster.now_ms < end {
        cluster.now_ms += STEP - 1;
        cluster.run(1);
        let leader = (1..=3).find_map(|id| cluster.leader_as_seen_by(id));
        if let Some(leader) = leader.filter(|_| !written) {
            token += 1;
            cluster.ask(leader.to_raw(), token, set(b"new", b"value", Expiry::Never));
            cluster.run(1);
            written = cluster.answer(token) == Some(Outcome::Reply(Reply::Ok));
            continue;
        }
        let mut statuses = cluster.shards.iter().map(|shard| shard.status().remove(0));
        if !written || statuses.any(|it| it.damaged || it.applied < it.last) {
            continue;
        }
        let hashes = cluster.shards.iter().map(|shard| shard.hash(GROUP));
        let hashes: Vec<_> = hashes.collect();
        if hashes.iter().all(|hash| *hash == hashes[0]) {
            return true;
        }
    }
    false
}

/// Runs one state; says whether it had to be recovered, and whether it was.
fn run(history: &History, disks: &[Disk], committed: u64) -> (bool, bool) {
    let mut cluster = Cluster::starting(
        |options| {
            options.election_timeout = Duration::from_millis(500);
        },
        |id| {
            let disk = &disks[id as usize - 1];
            let snapshot = disk.newest().map(|index| history.snapshot(index));
            (disk.replayed(history), snapshot)
        },
    );
    for (id, disk) in (1..).zip(disks) {
        for index in &disk.whole {
            cluster
                .files
                .insert((id, *index), history.files[index].clone());
        }
    }
    for id in 1..=3 {
        cluster.give(id, Input::Space { full: false });
    }
    let served = serves(&mut cluster);
    if served {
        let leader = cluster.leader_as_seen_by(1).unwrap().to_raw();
        for (token, (index, key)) in (2000..).zip(&history.keys) {
            cluster.ask(
                leader,
                token,
                Command::Get {
                    key: key.as_bytes(),
                },
            );
            cluster.run(1);
            let there = cluster.answer(token) == Some(Outcome::Reply(Reply::bulk(*b"value")));
            assert!(
                there || index.to_raw() > committed,
                "{key} is lost: {disks:?}"
            );
        }
    }
    (is_recoverable(disks, committed), served)
}

#[test]
fn sampled_ways_to_lose_entries_and_snapshots_end_right() {
    let history = History::new();
    let mut random = Random(23);
    let mut recovered = 0;
    for state in 0..STATES {
        let (disks, committed) = sample(&history, &mut random);
        let (recoverable, served) = run(&history, &disks, committed);
        assert_eq!(
            served, recoverable,
            "state {state}: committed {committed}, {disks:?}"
        );
        recovered += u64::from(recoverable);
    }
    let some = STATES / 4..STATES * 9 / 10;
    assert!(some.contains(&recovered), "{recovered} of {STATES}");
}
