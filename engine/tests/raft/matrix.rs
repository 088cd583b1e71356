//! What becomes of a group whose disks lost entries: every combination of small logs, and samples of
//! larger ones (after the evaluation in Alagappan et al., FAST 2018, §6.1). Nothing that was committed
//! may ever be replaced; and if each committed entry is readable somewhere, the group must serve with
//! all of them, without help.

use std::time::Duration;

use engine::Time;
use engine::raft::{Members, Message, NewFloor, Role, Settings, Window};
use wal::{Claim, Entry, EntryKind, LogIndex, Payload, ReplicaId, Term};

use super::replica::{Disk, Replica};

const ELECTION: Duration = Duration::from_millis(100);
/// Time until a group that can serve does.
const PATIENCE: Duration = Duration::from_secs(8);

struct Group {
    now: Time,
    replicas: Vec<Replica>,
    network: Vec<(ReplicaId, ReplicaId, Message)>,
    /// Positions of replicas that hear and say nothing.
    down: Vec<usize>,
}

impl Group {
    fn new(disks: Vec<Disk>, seed: u64) -> Self {
        let ids = 1..=u32::try_from(disks.len()).expect("few");
        let members = Members {
            voters: ids.clone().map(ReplicaId::from_raw).collect(),
            observers: vec![],
        };
        let replicas = ids.zip(disks).map(|(id, disk)| {
            let settings = Settings {
                heartbeat_interval: Duration::from_millis(20),
                election_timeout: ELECTION,
                pre_vote: true,
                check_quorum: true,
                window: Window {
                    bytes_max: 1 << 16,
                    messages_max: 16,
                },
                append_bytes_max: 1 << 16,
                seed: (seed * 8 + u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            };
            Replica::new(ReplicaId::from_raw(id), members.clone(), settings, disk)
        });
        Self {
            now: Time::default(),
            replicas: replicas.collect(),
            network: Vec::new(),
            down: Vec::new(),
        }
    }

    /// Lets the group run until it has served a write on all replicas, or for as long as one that
    /// can serve might take. Says whether it served.
    fn serves(&mut self) -> bool {
        let mut goal = None;
        let end = self.now.after(PATIENCE);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(10));
            for at in 0..self.replicas.len() {
                if self.down.contains(&at) {
                    continue;
                }
                let (raft, said) = self.replicas[at].raft();
                if raft.deadline() <= self.now {
                    raft.tick(self.now, said);
                }
                self.flush(at);
            }
            for (from, to, message) in core::mem::take(&mut self.network) {
                let at = to.to_raw() as usize - 1;
                if self.down.contains(&at) {
                    continue;
                }
                let (raft, said) = self.replicas[at].raft();
                raft.step(self.now, from, message, said);
                self.flush(at);
            }
            goal = goal.or_else(|| self.propose());
            let all = |index| {
                let up = self.replicas.iter().enumerate();
                let up = up.filter(|(at, _)| !self.down.contains(at));
                let mut rafts = up.filter_map(|(_, replica)| replica.raft.as_ref());
                rafts.all(|raft| raft.commit() >= index && !raft.is_damaged())
            };
            if goal.is_some_and(all) {
                return true;
            }
        }
        false
    }

    fn propose(&mut self) -> Option<LogIndex> {
        self.replicas.iter_mut().find_map(|replica| {
            let (raft, said) = replica.raft();
            let index = raft.propose(EntryKind::Batch, Payload::from(*b"new"))?;
            raft.replicate(true, said);
            Some(index)
        })
    }

    fn flush(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        while replica.submit(usize::MAX) || replica.written() {}
        let (raft, said) = replica.raft();
        raft.replicate(true, said);
        let from = replica.id;
        for (to, message) in replica.speak() {
            self.network.push((from, to, message));
        }
    }

    /// Every replica that committed one of these positions committed this entry there.
    fn check(&self, committed: &[Entry], what: &str) {
        for replica in &self.replicas {
            let raft = replica.raft.as_ref().expect("it is up");
            for entry in committed {
                let reached = raft.commit() >= entry.index || raft.role() == Role::Leader;
                if !reached {
                    continue;
                }
                let found = raft.log().cached(entry.index);
                assert_eq!(
                    found,
                    Some(entry),
                    "{what}: {} lost {}",
                    replica.id,
                    entry.index
                );
            }
        }
    }
}

fn entry(index: usize, term: u64) -> Entry {
    Entry {
        term: Term::from_raw(term),
        index: LogIndex::from_raw(index as u64),
        kind: EntryKind::Batch,
        payload: Payload::from(format!("{index}/{term}").as_bytes()),
    }
}

/// A replica's disk with the first `length` entries of a log, without those that `lost` names.
fn disk(log: &[Entry], length: usize, mut lost: impl FnMut(usize) -> bool) -> Disk {
    let mut disk = Disk {
        entries: log[..length].to_vec(),
        ..Disk::default()
    };
    disk.hard_state.term = log.last().map_or(Term::ZERO, |entry| entry.term);
    let indexes = disk.entries.iter().map(|entry| entry.index);
    let holes = indexes.enumerate().filter(|&(position, _)| lost(position));
    disk.rot.holes = holes.map(|(_, index)| index).collect();
    disk
}

/// Runs one state; says whether it had to be recovered. `lost[replica][position]`.
fn run(log: &[Entry], lengths: &[usize], lost: &[Vec<bool>], seed: u64) -> bool {
    let what = format!("logs of {lengths:?} entries, lost {lost:?}");
    let holders = |position: usize| lengths.iter().filter(|&&length| length > position).count();
    let majority = lengths.len() / 2 + 1;
    let committed: Vec<Entry> = log
        .iter()
        .enumerate()
        .filter(|&(position, _)| holders(position) >= majority)
        .map(|(_, entry)| entry.clone())
        .collect();
    let readable = |position: usize| {
        let mut replicas = lengths.iter().zip(lost);
        replicas.any(|(&length, lost)| length > position && !lost[position])
    };
    let recoverable = (0..committed.len()).all(readable);
    let disks = lengths.iter().zip(lost);
    let disks = disks.map(|(&length, lost)| disk(log, length, |position| lost[position]));
    let mut group = Group::new(disks.collect(), seed);
    let served = group.serves();
    group.check(&committed, &what);
    assert_eq!(served, recoverable, "{what}");
    recoverable
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }
}

#[test]
fn each_of_4096_ways_to_lose_four_entries_on_three_disks_ends_right() {
    let log: Vec<Entry> = (1..=4).map(|index| entry(index, 1)).collect();
    let mut recovered = 0;
    for state in 0..1_usize << 12 {
        let lost = |replica: usize| (0..4).map(move |at| state >> (replica * 4 + at) & 1 == 1);
        let lost: Vec<Vec<bool>> = (0..3).map(|replica| lost(replica).collect()).collect();
        recovered += usize::from(run(&log, &[4; 3], &lost, state as u64 + 1));
    }
    assert_eq!(recovered, 2401);
}

#[test]
fn sampled_ways_to_lose_entries_on_five_disks_end_right() {
    let log: Vec<Entry> = (1..=4).map(|index| entry(index, 1)).collect();
    let mut random = Random(7);
    let mut recovered = 0;
    let samples = samples(20_000);
    for seed in 0..samples {
        let density = 1 + random.below(9);
        let mut lost = || (0..4).map(|_| random.below(10) < density).collect();
        let lost: Vec<Vec<bool>> = (0..5).map(|_| lost()).collect();
        recovered += u64::from(run(&log, &[4; 5], &lost, seed + 1));
    }
    assert!(recovered > samples / 4 && recovered < samples);
}

/// Replicas that lag, entries that only a minority has, several terms.
#[test]
fn sampled_lagging_logs_with_lost_entries_end_right() {
    let mut random = Random(11);
    let mut recovered = 0;
    let samples = samples(5_000);
    for seed in 0..samples {
        let mut term = 1;
        let log: Vec<Entry> = (1..=8)
            .map(|index| {
                term += u64::from(random.below(4) == 0);
                entry(index, term)
            })
            .collect();
        let replicas = if random.below(2) == 0 { 3 } else { 5 };
        let density = 1 + random.below(4);
        let mut lengths = Vec::new();
        let mut lost = Vec::new();
        for _ in 0..replicas {
            lengths.push(usize::try_from(random.below(9)).expect("small"));
            lost.push(
                (0..8)
                    .map(|_| random.below(10) < density)
                    .collect::<Vec<bool>>(),
            );
        }
        recovered += u64::from(run(&log, &lengths, &lost, seed + 1));
    }
    assert!(recovered > samples / 4 && recovered < samples);
}

/// Members go, and others come that hold nothing: a majority of the old ones stays, and all are told the newest
/// entry that one of these holds. Whatever the old ones held, and whoever of the new list is up.
#[test]
fn every_way_to_change_members_keeps_what_a_majority_of_the_old_ones_held() {
    let log = [entry(1, 1), entry(2, 1), entry(3, 2)];
    let mut served = [0, 0];
    #[rustfmt::skip]
    let changes = [
        // stay, go, come
        (2, 1, 1),
        (2, 0, 1),
        (1, 0, 2),
        (3, 0, 2),
        (3, 2, 0),
    ];
    for (stay, go, come) in changes {
        let (old, all) = (stay + go, stay + come);
        for state in 0..1_usize << (2 * old) {
            let lengths: Vec<usize> = (0..old).map(|at| state >> (2 * at) & 3).collect();
            let held = |position| lengths.iter().filter(|&&it| it > position).count();
            let committed = (0..log.len()).filter(|&position| held(position) > old / 2);
            let committed: Vec<Entry> = committed.map(|position| log[position].clone()).collect();
            let stayed = &lengths[..stay];
            let newest = stayed.iter().copied().max().expect("some stay");
            let disks = stayed.iter().copied().chain(vec![0; come]).map(|length| {
                let mut disk = disk(&log, length, |_| false);
                disk.hard_state.term = Term::from_raw(1 << 32);
                if let Some(last) = newest.checked_sub(1).filter(|_| length < newest) {
                    let (index, term) = (Some(log[last].index), log[last].term);
                    disk.owe(Claim { index, term });
                }
                disk
            });
            let disks: Vec<Disk> = disks.collect();
            for up in (0..1_usize << all).filter(|up| up.count_ones() as usize > all / 2) {
                let what = format!("{stay} stay with {lengths:?}, {come} come, up {up:b}");
                let mut group = Group::new(disks.clone(), state as u64 + 1);
                group.down = (0..all).filter(|at| up >> at & 1 == 0).collect();
                let holds = |at: usize| {
                    up >> at & 1 == 1 && (newest == 0 || at < stay && lengths[at] == newest)
                };
                let expected = (0..all).any(holds);
                assert_eq!(group.serves(), expected, "{what}");
                group.check(&committed, &what);
                served[usize::from(expected)] += 1;
            }
        }
    }
    assert!(served[0] > 100 && served[1] > 1000, "{served:?}");
}

#[test]
fn a_repair_that_a_crash_interrupts_goes_on_at_the_next_start() {
    let log: Vec<Entry> = (1..=3).map(|index| entry(index, 1)).collect();
    let disks = vec![
        disk(&log, 3, |position| position > 0),
        disk(&log, 3, |_| false),
        disk(&log, 1, |_| false),
    ];
    let mut group = Group::new(disks, 1);
    let append = Message::Append {
        term: Term::from_raw(1),
        previous_index: log[0].index,
        previous_term: log[0].term,
        commit: LogIndex::ZERO,
        entries: vec![log[1].clone()],
    };
    let (raft, said) = group.replicas[0].raft();
    raft.step(Time::default(), ReplicaId::from_raw(2), append, said);
    group.flush(0);
    let replica = &mut group.replicas[0];
    assert_eq!(replica.disk.entries, log[..2], "the second is there again");
    replica.crash(0);
    replica.start(Time::default());
    let (raft, _) = replica.raft();
    let claim = raft.claim().expect("the third is still missing");
    assert_eq!((claim.index, claim.term), (Some(log[2].index), log[2].term));
}

/// The snapshot of a peer fills a gap; what is readable behind it may be the only copy.
#[test]
fn a_snapshot_takes_nothing_from_what_is_readable_behind_it() {
    let log: Vec<Entry> = (1..=6).map(|index| entry(index, 1)).collect();
    let lost = |position| position < 2 || position == 3;
    let mut group = Group::new(vec![disk(&log, 6, lost), disk(&log, 1, |_| false)], 1);
    let (raft, said) = group.replicas[0].raft();
    assert_eq!(raft.log().last_index(), LogIndex::ZERO);
    let (snapshot, term) = (log[3].index, log[3].term);
    assert!(raft.install(snapshot, term, None, said));
    assert_eq!(raft.log().last_index(), log[5].index);
    let floor = raft.take_floor();
    let kept = NewFloor::Raised {
        index: snapshot,
        term,
    };
    assert_eq!(floor, Some(kept), "the disk keeps what follows");
    group.flush(0);
    let (raft, _) = group.replicas[0].raft();
    assert!(!raft.is_damaged(), "nothing is missing any more");
}

/// A tenth of the samples, unless `RAFT_MATRIX` asks for all.
fn samples(all: u64) -> u64 {
    if std::env::var_os("RAFT_MATRIX").is_some() {
        all
    } else {
        all / 10
    }
}
