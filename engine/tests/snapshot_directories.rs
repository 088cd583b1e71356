//! A thousand damaged snapshot directories: the newest good file is used, or what is lost is told.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and numbers drawn here may lose bits"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::batch::{Batch, BatchBuilder};
use engine::io::snapshots::{Options, Snapshots};
use engine::kv::Kv;
use engine::shard::{
    GroupOptions, Member, Options as ShardOptions, Shard, Snapshot, SnapshotPolicy,
};
use engine::snapshot::{Compression, Header, Membership, machine};
use engine::state_machine::StateMachine;
use engine::{Clock, Time};
use glommio::Placement;
use net::command::{Condition, Expiry};
use net::{Command, Slot};
use wal::io::executor;
use wal::{FlushNumber, GroupId, LogIndex, NodeId, RecoveredLog, ReplicaId, Term};

const STATES: u64 = 1_000;
const GROUP: GroupId = GroupId::from_raw(3);
const OTHER: GroupId = GroupId::from_raw(1);
const TERM: Term = Term::from_raw(7);
const SLOTS: (u16, u16) = (0, 63);
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// The log holds what is behind this.
const FLOOR: LogIndex = LogIndex::from_raw(30);

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 1) as usize % end
    }
}

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("drakkar-snapshot-directories-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        drop(fs::remove_dir_all(&path));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A state of about 20 KB that differs by its number.
fn state(number: u64) -> Kv {
    let mut kv = Kv::new(SLOTS);
    let mut random = Random(number);
    let keys = (0_u64..).map(|key| format!("key{key}"));
    let own = keys.filter(|key| Slot::of(key.as_bytes()).number() <= SLOTS.1);
    for key in own.take(60) {
        let value: Vec<u8> = (0..340).map(|_| random.below(256) as u8).collect();
        let mut builder = BatchBuilder::default();
        builder.push(&Command::Set {
            key: key.as_bytes(),
            value: &value,
            expiry: Expiry::Never,
            condition: Condition::Always,
            get: false,
        });
        let payload = builder.seal(1);
        kv.apply(&Batch::access(&payload).unwrap(), &mut Vec::new());
    }
    kv
}

fn options(cluster: &str) -> Options {
    Options {
        cluster: cluster.into(),
        keep: 3,
        reserve_bytes: 0,
        reserve_bytes_full: 0,
    }
}

async fn write(path: &Path, cluster: &str, group: GroupId, index: u64) -> u64 {
    let snapshots = Snapshots::open(path, options(cluster)).await.unwrap();
    let mut kv = state(index << 8 | u64::from(group.to_raw()));
    let header = Header {
        compression: Compression::Lz4,
        cluster: cluster.into(),
        instance: 5,
        group,
        index: LogIndex::from_raw(index),
        term: TERM,
        membership: Membership::default(),
        machine: machine::KV,
        items: 0,
        created_unix_ms: 0,
    };
    let mut writer = snapshots.begin(&header).await.unwrap();
    kv.snapshot_begin();
    loop {
        let mut chunk = Vec::new();
        let more = kv.snapshot_next(3_000, &mut chunk);
        writer.write(&chunk).await.unwrap();
        if !more {
            break;
        }
    }
    writer.finish().await.unwrap();
    kv.hash()
}

fn name(group: GroupId, index: u64, term: u64) -> String {
    format!("{group}-{index:016x}-{term:016x}.snap")
}

/// What was written: three snapshots of a group, one of another, and one of another cluster.
struct Written {
    path: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
    hashes: BTreeMap<u64, u64>,
    foreign: Vec<u8>,
}

impl Written {
    async fn new(scratch: &Path) -> Self {
        let (path, foreign) = (scratch.join("written"), scratch.join("foreign"));
        let mut hashes = BTreeMap::new();
        for index in [10, 20, 30] {
            hashes.insert(index, write(&path, "prod", GROUP, index).await);
        }
        write(&path, "prod", OTHER, 30).await;
        write(&foreign, "test", GROUP, 30).await;
        let read = |name: String| (name.clone(), fs::read(path.join(name)).unwrap());
        let names = [10, 20, 30].map(|index| name(GROUP, index, 7));
        let files = names.into_iter().chain([name(OTHER, 30, 7)]).map(read);
        Self {
            files: files.collect(),
            hashes,
            foreign: fs::read(foreign.join(name(GROUP, 30, 7))).unwrap(),
            path,
        }
    }
}

/// Harms something in a directory, most often the newest; says what.
fn harm(files: &mut BTreeMap<String, Vec<u8>>, written: &Written, random: &mut Random) -> String {
    let names: Vec<String> = files.keys().cloned().collect();
    let newest = name(GROUP, 30, 7);
    let pick = |random: &mut Random| names.get(random.below(names.len().max(1))).cloned();
    let Some(mut victim) = pick(random) else {
        return "nothing is left".into();
    };
    if random.below(2) == 0 && files.contains_key(&newest) {
        victim = newest;
    }
    let other = pick(random).unwrap();
    let kind = random.below(13);
    let theirs = files[&other].clone();
    let renamed = match random.below(5) {
        0 => name(GROUP, 40, 7),
        1 => name(GROUP, 30, 8),
        2 => name(OTHER, 20, 7),
        3 => format!("{victim}.part"),
        _ => format!("{victim}.old"),
    };
    let bytes = files.get_mut(&victim).unwrap();
    let length = bytes.len().max(1);
    let at = random.below(length);
    match kind {
        0 => drop(files.remove(&victim)),
        1 => bytes.truncate(at),
        2 => bytes.clear(),
        3 | 4 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        5 => bytes[at..].iter_mut().take(512).for_each(|byte| *byte = 0),
        6 => {
            let ours = std::mem::replace(bytes, theirs);
            files.insert(other.clone(), ours);
        }
        // An older copy, or that of another group.
        7 => *bytes = theirs,
        8 => bytes.clone_from(&written.foreign),
        9 => {
            let moved = files.remove(&victim).unwrap();
            files.insert(renamed.clone(), moved);
        }
        10 => bytes.extend((0..1 + at % 6000).map(|at| at as u8)),
        11 => drop(bytes.drain(at..(at + 4096).min(bytes.len()))),
        _ => {
            let from = at - at % 512;
            let moved: Vec<u8> = bytes[from..].iter().take(512).copied().collect();
            let to = random.below(length) / 512 * 512;
            let end = (to + moved.len()).min(bytes.len());
            bytes[to..end].copy_from_slice(&moved[..end - to]);
        }
    }
    format!("{victim} and {other}: {kind} at {at}, {renamed}")
}

/// Makes a directory of it. What was not harmed is there already, and needs not be written again.
fn lay_out(path: &Path, files: &BTreeMap<String, Vec<u8>>, written: &Written) {
    drop(fs::remove_dir_all(path));
    fs::create_dir(path).unwrap();
    for (name, bytes) in files {
        if written.files.get(name) == Some(bytes) {
            fs::hard_link(written.path.join(name), path.join(name)).unwrap();
        } else {
            fs::write(path.join(name), bytes).unwrap();
        }
    }
}

/// Whether a replica with this snapshot, whose log begins behind [`FLOOR`], says that it lacks something.
fn tells_of_a_loss(snapshot: Option<Snapshot>) -> bool {
    let node = NodeId::from_raw(1);
    let member = |number| Member {
        replica: ReplicaId::from_raw(number),
        node: NodeId::from_raw(number),
        voter: true,
    };
    let options = ShardOptions {
        node,
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_millis(1000),
        route_wait: Duration::from_millis(1000),
        request_timeout: Duration::from_millis(5000),
        mark_after: Duration::from_millis(20),
        flushes_in_flight_max: 2,
        flush_beside_bytes_min: 0,
        flush_bytes_max: 1 << 16,
        batch_bytes_max: 1 << 14,
        window_bytes_max: 1 << 16,
        window_messages_max: 16,
        pending_bytes_max: 1 << 16,
        pending_requests_max: 1 << 10,
        answer_bytes_max: 1 << 20,
        data_bytes_max: 0,
        cache_bytes: 1 << 16,
        snapshots: SnapshotPolicy::BY_HAND,
        seed: 1,
    };
    let group = GroupOptions {
        group: GROUP,
        members: (1..=3).map(member).collect(),
        noted: None,
        slots: SLOTS,
        preferred: None,
        recovered: RecoveredLog {
            floor: (FLOOR, TERM),
            last: FLOOR,
            ..RecoveredLog::default()
        },
        snapshot,
    };
    let clock = Clock {
        now: Time::default(),
        unix_ms: 0,
    };
    let shard = Shard::new(options, clock, vec![group], FlushNumber::from_raw(1));
    let status = shard.group_status(GROUP).unwrap();
    let claims = status
        .claim
        .is_some_and(|claim| claim.term >= TERM && claim.index.is_none_or(|index| index >= FLOOR));
    assert_eq!(status.damaged, claims, "{status:?}");
    status.damaged
}

#[test]
fn a_thousand_damaged_directories_give_the_newest_good_state_or_tell_of_the_loss() {
    let scratch = Scratch::new();
    let path = scratch.0.clone();
    let test = async move {
        let written = Written::new(&path).await;
        let (mut newest, mut older, mut none, mut refusals) = (0, 0, 0, 0);
        for seed in 0..STATES {
            let mut random = Random(seed);
            let mut files = written.files.clone();
            let mut what = format!("seed {seed}");
            for _ in 0..1 + random.below(4) {
                what = format!("{what}; {}", harm(&mut files, &written, &mut random));
            }
            let directory = path.join("harmed");
            lay_out(&directory, &files, &written);

            let snapshots = Snapshots::open(&directory, options("prod")).await;
            let snapshots = snapshots.unwrap();
            let listed = snapshots.list(GROUP);
            let loaded = snapshots.load(GROUP, || Kv::new(SLOTS), CHUNK_BYTES_MAX);
            let loaded = loaded
                .await
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            refusals += loaded.refused.len();

            // What is used is what was written under that name, and no sound one is newer.
            let found = loaded.restored.as_ref().map(|it| it.header.index.to_raw());
            let sound = |index: &u64| {
                let name = name(GROUP, *index, 7);
                files.contains_key(&name) && files.get(&name) == written.files.get(&name)
            };
            let best = [30, 20, 10].into_iter().find(sound);
            assert!(found >= best, "{what}: {found:?}, and {best:?} is good");
            if let Some(restored) = &loaded.restored {
                let hash = written.hashes.get(&restored.header.index.to_raw());
                assert_eq!(hash, Some(&restored.state.hash()), "{what}: a wrong state");
            }
            // All that were passed over are told, each by its name.
            let passed = listed
                .iter()
                .filter(|(index, _)| Some(index.to_raw()) > found);
            let passed: Vec<_> = passed.copied().collect();
            let told = loaded.refused.iter().map(|it| (it.index, it.term));
            let mut told: Vec<_> = told.collect();
            told.retain(|(index, _)| Some(index.to_raw()) > found);
            assert_eq!(told, passed, "{what}");
            // A replica that lacks what its log begins behind does not take part as if it had it.
            let snapshot = loaded.restored.map(|it| Snapshot {
                index: it.header.index,
                term: it.header.term,
                state: it.state,
                membership: it.membership,
            });
            assert_eq!(tells_of_a_loss(snapshot), found != Some(30), "{what}");
            match found {
                Some(30) => newest += 1,
                Some(_) => older += 1,
                None => none += 1,
            }
        }
        println!("{newest} newest, {older} older, {none} none, {refusals} refused");
        assert!(newest > 150 && older > 300 && none > 5 && refusals > 600);
    };
    let executor = executor::builder(Placement::Unbound).make().unwrap();
    executor.run(executor::awake(test));
}
