//! Random histories: messages in any order, lost and repeated, disks that are slow, crashes that
//! take what was not durable. After each step every promise of Raft is compared; in the end the
//! faults stop, and the group must serve. `RAFT_HISTORIES=10000` runs more of them.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::Time;
use engine::raft::{Members, Message, Role, Settings, Window};
use wal::{Entry, EntryKind, HardState, LogIndex, Payload, ReplicaId, Term};

use super::promises::Promises;
use super::replica::{Disk, Replica};

const HISTORIES: u64 = 400;
const STEPS: u64 = 4000;
const HEARTBEAT: Duration = Duration::from_millis(10);
const ELECTION: Duration = Duration::from_millis(100);

/// What was provoked over all histories: a test that provokes nothing proves nothing.
#[derive(Default, Debug)]
struct Provoked {
    elections: usize,
    crashes: usize,
    lost_writes: usize,
    truncations: u64,
    commits: usize,
    reads: usize,
    transfers: usize,
    fetches: usize,
    holes: usize,
    lost_tails: usize,
    stale_tails: usize,
    lost_promises: usize,
    forgetful_at_once: usize,
    repairs: usize,
}

/// A ReadIndex read that waits for its round.
struct Read {
    term: Term,
    round: u64,
    index: LogIndex,
    /// What was committed anywhere when it was asked.
    must_see: usize,
}

struct History {
    random: u64,
    /// How fast time passes, in milliseconds.
    pace: u64,
    now: Time,
    replicas: Vec<Replica>,
    commits: Vec<LogIndex>,
    network: Vec<(ReplicaId, ReplicaId, Message)>,
    cut: Vec<(ReplicaId, ReplicaId)>,
    reads: BTreeMap<usize, Vec<Read>>,
    /// Entries on their way from a replica's disk.
    fetches: BTreeMap<usize, Vec<Entry>>,
    promises: Promises,
    proposed: u64,
    provoked: Provoked,
    truncations: Vec<u64>,
    /// Disks lose what they held.
    rots: bool,
    /// What each replica once held durably of term and vote, before its newest.
    older: Vec<HardState>,
    damaged: Vec<bool>,
}

#[test]
fn random_histories_keep_every_promise() {
    let mut total = Provoked::default();
    let seeds = match std::env::var("RAFT_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("RAFT_SEED is a number");
            seed..seed + 1
        }
        Err(_) => {
            let more = std::env::var("RAFT_HISTORIES");
            1..more.map_or(HISTORIES, |more| more.parse().expect("a number")) + 1
        }
    };
    let all = seeds.end - seeds.start >= HISTORIES;
    for seed in seeds {
        let run = std::panic::catch_unwind(|| History::run(seed));
        let Ok(provoked) = run else {
            panic!("repeat with RAFT_SEED={seed} cargo test -p engine --test raft random");
        };
        total.add(&provoked);
    }
    println!("{total:?}");
    let Provoked {
        elections,
        crashes,
        lost_writes,
        truncations,
        commits,
        reads,
        transfers,
        fetches,
        holes,
        lost_tails,
        stale_tails,
        lost_promises,
        forgetful_at_once,
        repairs,
    } = total;
    if all {
        assert!(elections > 500, "{elections} elections");
        assert!(crashes > 500, "{crashes} crashes");
        assert!(lost_writes > 100, "{lost_writes} lost writes");
        assert!(truncations > 50, "{truncations} truncations");
        assert!(commits > 5000, "{commits} commits");
        assert!(reads > 1000, "{reads} reads");
        assert!(transfers > 100, "{transfers} transfers");
        assert!(fetches > 100, "{fetches} fetches");
        assert!(holes > 100, "{holes} holes");
        assert!(lost_tails > 50, "{lost_tails} lost tails");
        assert!(stale_tails > 5, "{stale_tails} stale tails");
        assert!(lost_promises > 50, "{lost_promises} lost promises");
        assert!(forgetful_at_once > 15, "{forgetful_at_once} at once");
        assert!(repairs > 200, "{repairs} repairs");
    }
}

impl History {
    fn run(seed: u64) -> Provoked {
        let mut history = Self::new(seed);
        for _ in 0..STEPS {
            history.disturb();
        }
        history.recover();
        history.provoked.elections = history.promises.elections();
        history.provoked.commits = history.promises.committed.len();
        history.provoked
    }

    fn new(seed: u64) -> Self {
        let mut history = Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            pace: 15,
            now: Time::default(),
            replicas: Vec::new(),
            commits: Vec::new(),
            network: Vec::new(),
            cut: Vec::new(),
            reads: BTreeMap::new(),
            fetches: BTreeMap::new(),
            promises: Promises::default(),
            proposed: 0,
            provoked: Provoked::default(),
            truncations: Vec::new(),
            rots: false,
            older: Vec::new(),
            damaged: Vec::new(),
        };
        history.rots = history.one_in(2);
        history.pace = [10, 30, 60][history.below(3)];
        let voters = [1, 2, 3, 3, 4, 5][history.below(6)];
        let observers = u32::from(history.one_in(3));
        let (pre_vote, check_quorum) = (history.one_in(2), history.one_in(2));
        let members = Members {
            voters: (1..=voters).map(ReplicaId::from_raw).collect(),
            observers: (voters + 1..=voters + observers)
                .map(ReplicaId::from_raw)
                .collect(),
        };
        let window = Window {
            bytes_max: 1 + history.below(60),
            messages_max: 1 + history.below(6),
        };
        let append_bytes_max = 1 + history.below(40);
        for id in 1..=voters + observers {
            let settings = Settings {
                heartbeat_interval: HEARTBEAT,
                election_timeout: ELECTION,
                pre_vote,
                check_quorum,
                window,
                append_bytes_max,
                seed: history.next(),
            };
            let id = ReplicaId::from_raw(id);
            let replica = Replica::new(id, members.clone(), settings, Disk::default());
            history.replicas.push(replica);
            history.commits.push(LogIndex::ZERO);
            history.truncations.push(0);
            history.older.push(HardState::default());
            history.damaged.push(false);
        }
        history
    }

    /// One random thing happens.
    fn disturb(&mut self) {
        let at = self.below(self.replicas.len());
        match self.below(1000) {
            0..540 => self.deliver_any(),
            540..590 => {
                let millis = 1 + self.next() % self.pace;
                self.let_time_pass(Duration::from_millis(millis));
            }
            590..680 => self.propose(at),
            680..900 => self.write(at),
            900..930 => self.read(at),
            930..933 => self.crash(at),
            933..960 => self.restart(at),
            960..964 => self.transfer(at),
            964..967 => self.cut_any(),
            967..968 => self.cut.clear(),
            968..978 => self.hurry(at),
            _ => self.evict(at),
        }
        self.after(at);
    }

    fn deliver_any(&mut self) {
        if self.network.is_empty() {
            return;
        }
        // Mostly old messages first, but any may overtake.
        let position = if self.one_in(3) {
            self.below(self.network.len())
        } else {
            0
        };
        let lost = self.one_in(20);
        let (from, to, message) = if self.one_in(20) {
            self.network[position].clone()
        } else {
            self.network.remove(position)
        };
        if !lost && !self.cut.contains(&(from, to)) {
            self.deliver(from, to, message);
        }
    }

    fn deliver(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        let at = to.to_raw() as usize - 1;
        let now = self.now;
        let replica = &mut self.replicas[at];
        if replica.raft.is_some() {
            let (raft, said) = replica.raft();
            raft.step(now, from, message, said);
            self.after(at);
        }
    }

    fn let_time_pass(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
        for at in 0..self.replicas.len() {
            let now = self.now;
            if self.replicas[at].raft.is_some() {
                let (raft, said) = self.replicas[at].raft();
                if raft.deadline() <= now {
                    raft.tick(now, said);
                }
                self.after(at);
            }
        }
    }

    fn propose(&mut self, at: usize) {
        let size = self.below(20);
        if self.replicas[at].raft.is_none() {
            return;
        }
        let mut payload = self.proposed.to_le_bytes().to_vec();
        payload.resize(8 + size, 0);
        let (raft, said) = self.replicas[at].raft();
        if raft
            .propose(EntryKind::Batch, Payload::from(payload))
            .is_some()
        {
            raft.replicate(false, said);
            self.proposed += 1;
        }
    }

    fn write(&mut self, at: usize) {
        let submit_first = self.one_in(2);
        let bytes_max = if self.one_in(2) { 10 } else { usize::MAX };
        let replica = &mut self.replicas[at];
        if submit_first && replica.writes.len() < 4 {
            replica.submit(bytes_max);
        } else {
            let before = replica.disk.hard_state;
            replica.written();
            if replica.disk.hard_state.term != before.term {
                self.older[at] = before;
            }
        }
    }

    fn read(&mut self, at: usize) {
        if self.replicas[at].raft.is_none() {
            return;
        }
        let (raft, said) = self.replicas[at].raft();
        if let Some((round, index)) = raft.start_read(said) {
            let term = raft.term();
            let must_see = self.promises.committed.len();
            self.reads.entry(at).or_default().push(Read {
                term,
                round,
                index,
                must_see,
            });
        }
    }

    fn crash(&mut self, at: usize) {
        let replica = &self.replicas[at];
        if replica.raft.is_none() {
            return;
        }
        let under_way = replica.writes.len();
        let reached = self.below(under_way + 1);
        self.replicas[at].crash(reached);
        self.provoked.crashes += 1;
        self.provoked.lost_writes += under_way - reached;
        self.reads.remove(&at);
        self.fetches.remove(&at);
        self.commits[at] = LogIndex::ZERO;
        self.truncations[at] = 0;
        if self.rots && self.one_in(2) {
            self.rot(at);
        }
    }

    /// The disk of a replica that is down loses something, but never the last readable copy of an
    /// entry. Only one at a time loses what it cannot even name; votes and terms, as many as leave
    /// enough who are sure.
    fn rot(&mut self, at: usize) {
        let entries = self.replicas[at].disk.entries.clone();
        let elsewhere = |entry: &Entry| {
            let mut others = self.replicas.iter().enumerate();
            others.any(|(other, replica)| other != at && replica.disk.holds(entry))
        };
        let copied: Vec<bool> = entries.iter().map(elsewhere).collect();
        let voters = &self.replicas[at].members.voters;
        let is_voter = voters.contains(&self.replicas[at].id);
        let others = self.replicas.iter().enumerate();
        let others = || others.clone().filter(|&(other, _)| other != at);
        let damaged = |(_, other): (usize, &Replica)| {
            let raft = other.raft.as_ref();
            raft.is_some_and(|raft| raft.claim().is_some()) || !other.disk.rot.holes.is_empty()
        };
        let named = !others().any(|(_, other)| other.disk.lacks_unnamed());
        let grave = voters.len() >= 3 && is_voter && named && !others().any(damaged);
        match self.below(5) {
            0 => {
                self.forget(at);
                let other = self.voter();
                if self.one_in(2) && self.replicas[other].raft.is_some() {
                    self.crash(other);
                    self.forget(other);
                }
            }
            1 | 2 if grave => {
                let copied = copied.iter().rev().take_while(|&&copied| copied).count();
                let lost = self.below(copied + 1);
                let disk = &mut self.replicas[at].disk;
                disk.entries.truncate(entries.len() - lost);
                let end = LogIndex::from_raw(disk.entries.len() as u64);
                disk.rot.holes.split_off(&end.next());
                disk.rot.tail = true;
                // What the lost entries had replaced comes to light again.
                let from = disk.replaced.first().map_or(usize::MAX, |entry| {
                    usize::try_from(entry.index.to_raw()).expect("small") - 1
                });
                let stale = from < entries.len()
                    && from >= entries.len() - copied
                    && disk.rot.holes.is_empty();
                if stale {
                    disk.entries = entries[..from].to_vec();
                    disk.entries.append(&mut disk.replaced);
                    let settled = LogIndex::from_raw(from as u64);
                    disk.hard_state.commit = disk.hard_state.commit.min(settled);
                    self.provoked.stale_tails += 1;
                }
                self.provoked.lost_tails += 1;
            }
            _ if named && !entries.is_empty() => {
                let first = self.below(entries.len());
                let count = 1 + self.below(4);
                for (entry, copied) in entries.iter().zip(&copied).skip(first).take(count) {
                    if *copied {
                        self.replicas[at].disk.rot.holes.insert(entry.index);
                        self.provoked.holes += 1;
                    }
                }
            }
            _ => {}
        }
    }

    /// The newest term and vote of a replica that is down are gone.
    fn forget(&mut self, at: usize) {
        let voters = &self.replicas[at].members.voters;
        let others = self.replicas.iter().enumerate();
        let forgot =
            |(other, replica): &(usize, &Replica)| *other != at && replica.disk.rot.promises;
        let forgetful = others.filter(forgot).count();
        if !voters.contains(&self.replicas[at].id) || forgetful >= voters.len() / 2 {
            return;
        }
        self.provoked.forgetful_at_once += usize::from(forgetful > 0);
        let disk = &mut self.replicas[at].disk;
        let commit = self.older[at].commit.min(disk.hard_state.commit);
        disk.hard_state = self.older[at];
        disk.hard_state.commit = commit;
        disk.rot.promises = true;
        self.provoked.lost_promises += 1;
    }

    fn restart(&mut self, at: usize) {
        if self.replicas[at].raft.is_none() {
            self.replicas[at].start(self.now);
        }
    }

    fn transfer(&mut self, at: usize) {
        let to = self.below(self.replicas.len());
        let to = self.replicas[to].id;
        if self.replicas[at].raft.is_some() {
            let (raft, said) = self.replicas[at].raft();
            raft.transfer(to, said);
            self.provoked.transfers += usize::from(raft.transferring().is_some());
        }
    }

    /// Its clock runs fast: it stands for election before others would.
    fn hurry(&mut self, at: usize) {
        let now = self.now;
        if self.replicas[at].raft.is_some() {
            let (raft, said) = self.replicas[at].raft();
            if raft.role() != Role::Leader {
                raft.wait_until(now);
                raft.tick(now, said);
            }
        }
    }

    /// Cuts a pair, one way or both, or a replica from all others; what was cut before is whole.
    fn cut_any(&mut self) {
        self.cut.clear();
        let lonely = self.below(self.replicas.len());
        let (lonely, isolated) = (self.replicas[lonely].id, !self.one_in(3));
        let both_ways = isolated || self.one_in(2);
        let other = self.below(self.replicas.len());
        for (at, replica) in self.replicas.iter().enumerate() {
            if isolated || at == other {
                self.cut.push((lonely, replica.id));
                if both_ways {
                    self.cut.push((replica.id, lonely));
                }
            }
        }
    }

    fn evict(&mut self, at: usize) {
        if self.replicas[at].raft.is_some() {
            let (raft, _) = self.replicas[at].raft();
            let commit = raft.commit();
            raft.evict(commit, 20, 10);
        }
    }

    /// What a driver does after each input; then everything is compared.
    fn after(&mut self, at: usize) {
        if self.replicas[at].raft.is_none() {
            return;
        }
        let tell_commit = self.one_in(2);
        let disk_answers = self.one_in(4);
        let replica = &mut self.replicas[at];
        let entries = replica.disk.sound().to_vec();
        let (raft, said) = replica.raft();
        raft.replicate(tell_commit, said);
        if disk_answers && let Some(fetched) = self.fetches.remove(&at) {
            raft.fetched(&fetched, said);
        }
        if let Some((from, to)) = raft.fetch_wanted()
            && !self.fetches.contains_key(&at)
        {
            let wanted = |entry: &&Entry| entry.index >= from && entry.index <= to;
            let fetched: Vec<Entry> = entries.iter().filter(wanted).take(2).cloned().collect();
            assert!(
                !fetched.is_empty(),
                "{from} is neither in memory nor on disk"
            );
            self.fetches.insert(at, fetched);
            self.provoked.fetches += 1;
        }
        let truncations = raft.truncations();
        self.provoked.truncations += truncations - self.truncations[at];
        self.truncations[at] = truncations;
        let damaged = raft.is_damaged();
        self.provoked.repairs += usize::from(self.damaged[at] && !damaged);
        self.damaged[at] = damaged;

        let from = replica.id;
        for (to, message) in replica.speak() {
            self.network.push((from, to, message));
        }
        let raft = replica.raft.as_ref().expect("it is up");
        self.promises.check(raft, self.commits[at]);
        self.commits[at] = raft.commit();
        self.check_reads(at);
    }

    fn check_reads(&mut self, at: usize) {
        let Some(reads) = self.reads.get_mut(&at) else {
            return;
        };
        let raft = self.replicas[at].raft.as_ref().expect("it is up");
        let (leads, term) = (raft.role() == Role::Leader, raft.term());
        reads.retain(|read| leads && read.term == term);
        let confirmed = raft.round_confirmed();
        let before = reads.len();
        reads.retain(|read| {
            if read.round > confirmed {
                return true;
            }
            let seen = usize::try_from(read.index.to_raw()).expect("small");
            assert!(
                seen >= read.must_see,
                "a read at {seen} misses what was committed before it was asked: {}",
                read.must_see
            );
            false
        });
        self.provoked.reads += before - reads.len();
    }

    /// The faults stop: soon there must be a leader, and what it is given must reach everyone.
    fn recover(&mut self) {
        self.cut.clear();
        self.rots = false;
        for at in 0..self.replicas.len() {
            self.restart(at);
        }
        self.expect_service("the group does not serve again");

        let intact = |history: &mut Self| {
            let mut rafts = history.replicas.iter().filter_map(|r| r.raft.as_ref());
            rafts.all(|raft| !raft.is_damaged())
        };
        self.wait_for("a damaged replica does not become intact", intact);

        // Nothing new is said after that, and still it must learn what is committed.
        let leader = self.leader().expect("it serves");
        let other = self.below(self.replicas.len());
        if other != leader {
            self.crash(other);
            self.restart(other);
            let commit = self.commits[leader];
            let knows = |history: &mut Self| history.commits[other] >= commit;
            self.wait_for("a restarted replica does not learn the commit", knows);
        }

        let leader = self.leader().expect("it serves");
        let to = self.voter();
        let to = self.replicas[to].id;
        let (raft, said) = self.replicas[leader].raft();
        raft.transfer(to, said);
        let leads = |history: &mut Self| {
            let leader = history.leader();
            leader.is_some_and(|leader| history.replicas[leader].id == to)
        };
        if self.replicas[leader].id != to {
            self.wait_for("leadership is not handed over", leads);
        }
        for _ in 0..20 {
            self.expect_service("the group serves no more");
        }
    }

    fn voter(&mut self) -> usize {
        let voters = self.replicas[0].members.voters.len();
        self.below(voters)
    }

    /// A proposal reaches everyone.
    fn expect_service(&mut self, promise: &str) {
        let mut goal: Option<(Term, LogIndex)> = None;
        self.wait_for(promise, |history| {
            let Some(leader) = history.leader() else {
                return false;
            };
            let (raft, _) = history.replicas[leader].raft();
            if goal.is_none_or(|(term, _)| term != raft.term()) {
                let index = raft.propose(EntryKind::Batch, Payload::from(*b"more"));
                goal = index.map(|index| (raft.term(), index));
            }
            goal.is_some_and(|(_, index)| history.commits.iter().all(|&commit| commit >= index))
        });
    }

    /// Without faults, `promise` must be kept soon.
    fn wait_for(&mut self, promise: &str, mut kept: impl FnMut(&mut Self) -> bool) {
        for _ in 0..600 {
            if kept(self) {
                return;
            }
            self.let_time_pass(Duration::from_millis(5));
            for _ in 0..4 {
                for at in 0..self.replicas.len() {
                    while self.replicas[at].submit(usize::MAX) || self.replicas[at].written() {}
                    self.after(at);
                }
                for (from, to, message) in core::mem::take(&mut self.network) {
                    self.deliver(from, to, message);
                }
            }
        }
        for replica in &self.replicas {
            println!("{}", replica.disk.tell(replica.id));
            println!("{:#?}", replica.raft);
        }
        panic!("{promise}");
    }

    fn leader(&mut self) -> Option<usize> {
        let leads = |replica: &Replica| {
            let raft = replica.raft.as_ref();
            raft.filter(|raft| raft.role() == Role::Leader)
                .map(|raft| raft.term())
        };
        let leaders = self.replicas.iter().enumerate();
        let (_, at) = leaders
            .filter_map(|(at, replica)| Some((leads(replica)?, at)))
            .max()?;
        Some(at)
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

impl Provoked {
    fn add(&mut self, other: &Self) {
        self.elections += other.elections;
        self.crashes += other.crashes;
        self.lost_writes += other.lost_writes;
        self.truncations += other.truncations;
        self.commits += other.commits;
        self.reads += other.reads;
        self.transfers += other.transfers;
        self.fetches += other.fetches;
        self.holes += other.holes;
        self.lost_tails += other.lost_tails;
        self.stale_tails += other.stale_tails;
        self.lost_promises += other.lost_promises;
        self.forgetful_at_once += other.forgetful_at_once;
        self.repairs += other.repairs;
    }
}
