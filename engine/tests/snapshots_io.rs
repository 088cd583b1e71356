//! Snapshots as files, through io_uring and O_DIRECT: what is there after a crash, damage or a transfer.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::future::Future;
use std::path::{Path, PathBuf};

use engine::batch::{Batch, BatchBuilder};
use engine::io::snapshots::{Options, SnapshotFileError, Snapshots};
use engine::kv::Kv;
use engine::snapshot::{Compression, Header, Membership, SnapshotError, machine};
use engine::state_machine::StateMachine;
use glommio::Placement;
use net::Command;
use net::command::{Condition, Expiry};
use wal::io::executor;
use wal::{GroupId, LogIndex, Term};

const GROUP: GroupId = GroupId::from_raw(3);
const TERM: Term = Term::from_raw(7);
const CHUNK_BYTES_MAX: usize = 4 << 20;

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("drakkar-snap-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn run<T: 'static>(test: impl Future<Output = T> + 'static) -> T {
    let executor = executor::builder(Placement::Unbound).make().unwrap();
    executor.run(executor::awake(test))
}

fn options() -> Options {
    Options {
        cluster: "prod".into(),
        keep: 2,
        reserve_bytes: 0,
        reserve_bytes_full: 0,
    }
}

fn header(index: LogIndex) -> Header {
    Header {
        compression: Compression::Lz4,
        cluster: "prod".into(),
        instance: 5,
        group: GROUP,
        index,
        term: TERM,
        membership: Membership::default(),
        machine: machine::KV,
        items: 0,
        created_unix_ms: 0,
    }
}

fn empty() -> Kv {
    Kv::new((0, net::SLOTS - 1))
}

/// A state of about 3 MB that does not compress, and differs by index.
fn state(index: LogIndex) -> Kv {
    let mut kv = empty();
    let mut random = index.to_raw();
    for key in 0..300_u64 {
        let mut value = Vec::new();
        while value.len() < 10_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            value.extend((random >> 24).to_le_bytes());
        }
        let mut builder = BatchBuilder::default();
        builder.push(&Command::Set {
            key: &key.to_le_bytes(),
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

fn at(index: u64) -> LogIndex {
    LogIndex::from_raw(index)
}

/// Writes a snapshot of the state of that index; gives the state's hash.
async fn write(snapshots: &Snapshots, index: LogIndex) -> u64 {
    let mut kv = state(index);
    let hash = kv.hash();
    let mut writer = snapshots.begin(&header(index)).await.unwrap();
    kv.snapshot_begin();
    loop {
        let mut chunk = Vec::new();
        let more = kv.snapshot_next(100_000, &mut chunk);
        writer.write(&chunk).await.unwrap();
        if !more {
            break;
        }
    }
    let bytes = writer.finish().await.unwrap().bytes;
    assert_eq!(snapshots.size(GROUP, index, TERM).unwrap(), bytes);
    hash
}

async fn open(path: &Path) -> Snapshots {
    Snapshots::open(path, options()).await.unwrap()
}

/// Index and hash of what is loaded, and why newer ones were not.
async fn load(snapshots: &Snapshots) -> (Option<(LogIndex, u64)>, Vec<SnapshotFileError>) {
    let loaded = snapshots.load(GROUP, empty, CHUNK_BYTES_MAX).await.unwrap();
    let found = loaded.restored.map(|it| (it.header.index, it.state.hash()));
    let errors = loaded.refused.into_iter().map(|it| it.error);
    (found, errors.collect())
}

fn file(path: &Path, index: u64) -> PathBuf {
    path.join(format!("3-{index:016x}-{:016x}.snap", 7))
}

fn names(path: &Path) -> Vec<String> {
    let files = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn damage(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_written_is_loaded_after_reopening() {
    let scratch = Scratch::new("reopen");
    let path = scratch.snapshots();
    run(async move {
        let snapshots = open(&path).await;
        assert_eq!(load(&snapshots).await.0, None);
        let hash = write(&snapshots, at(10)).await;
        assert_eq!(load(&snapshots).await.0, Some((at(10), hash)));
        drop(snapshots);

        let snapshots = open(&path).await;
        assert_eq!(snapshots.groups(), [GROUP]);
        assert_eq!(snapshots.list(GROUP), [(at(10), TERM)]);
        assert_eq!(snapshots.list(GroupId::from_raw(4)), []);
        let (found, refused) = load(&snapshots).await;
        assert_eq!(found, Some((at(10), hash)));
        assert!(refused.is_empty());
    });
}

#[test]
fn a_snapshot_that_cannot_be_used_is_told_of_and_the_one_before_it_is_used() {
    type Harm = fn(&Path);
    type Expected = fn(&SnapshotFileError) -> bool;
    let harms: [(&str, Harm, Expected); 6] = [
        ("a bit", |path| damage(path, 1_234_567), is_damaged),
        ("cut", |path| cut(path, 1 << 20), is_damaged),
        ("cut askew", |path| cut(path, 700_001), is_damaged),
        ("empty", |path| cut(path, 0), is_damaged),
        (
            "removed",
            |path| std::fs::remove_file(path).unwrap(),
            |error| matches!(error, SnapshotFileError::Gone { .. }),
        ),
        (
            "another's",
            |path| {
                std::fs::copy(file(path.parent().unwrap(), 10), path).unwrap();
            },
            |error| matches!(error, SnapshotFileError::Misnamed { index, .. } if *index == at(10)),
        ),
    ];
    for (name, harm, expected) in harms {
        let scratch = Scratch::new("harmed");
        let path = scratch.snapshots();
        run(async move {
            let snapshots = open(&path).await;
            let hash = write(&snapshots, at(10)).await;
            write(&snapshots, at(20)).await;
            harm(&file(&path, 20));
            let (found, refused) = load(&snapshots).await;
            assert_eq!(found, Some((at(10), hash)), "{name}");
            assert!(
                refused.len() == 1 && expected(&refused[0]),
                "{name}: {refused:?}"
            );
            assert_eq!(snapshots.list(GROUP), [(at(10), TERM)], "{name}");

            write(&snapshots, at(30)).await;
            let kept = [(at(30), TERM), (at(10), TERM)];
            assert_eq!(
                snapshots.list(GROUP),
                kept,
                "{name}: it takes no one's place"
            );
            assert!(!file(&path, 20).exists(), "{name}");
        });
    }
}

fn cut(path: &Path, bytes: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
}

fn is_damaged(error: &SnapshotFileError) -> bool {
    matches!(error, SnapshotFileError::Damaged { .. })
}

#[test]
fn where_only_a_limit_is_in_the_way_no_older_one_is_used() {
    let scratch = Scratch::new("limit");
    let path = scratch.snapshots();
    run(async move {
        let snapshots = open(&path).await;
        write(&snapshots, at(10)).await;
        let error = snapshots.load(GROUP, empty, 5000).await.err();
        let Some(SnapshotFileError::Damaged { error, .. }) = error else {
            panic!("{error:?}")
        };
        assert!(
            matches!(error, SnapshotError::ChunkTooLong { .. }),
            "{error}"
        );
        assert!(load(&snapshots).await.0.is_some());
    });
}

#[test]
fn a_snapshot_of_another_cluster_is_refused() {
    let scratch = Scratch::new("foreign");
    let path = scratch.snapshots();
    run(async move {
        write(&open(&path).await, at(10)).await;
        let mut other = options();
        other.cluster = "test".into();
        let snapshots = Snapshots::open(&path, other).await.unwrap();
        let (found, refused) = load(&snapshots).await;
        assert_eq!(found, None);
        let foreign = |error: &_| matches!(error, SnapshotFileError::Foreign { found, .. } if found == "prod");
        assert!(refused.len() == 1 && foreign(&refused[0]), "{refused:?}");
    });
}

#[test]
fn as_many_as_asked_for_are_kept_of_each_group() {
    let scratch = Scratch::new("keep");
    let path = scratch.snapshots();
    run(async move {
        let snapshots = open(&path).await;
        let other = Header {
            group: GroupId::from_raw(1),
            ..header(at(1))
        };
        let mut writer = snapshots.begin(&other).await.unwrap();
        writer.write(b"anything").await.unwrap();
        writer.finish().await.unwrap();
        for index in 1..=4 {
            write(&snapshots, at(index)).await;
        }
        assert_eq!(snapshots.list(GROUP), [(at(4), TERM), (at(3), TERM)]);
        assert_eq!(snapshots.groups(), [other.group, GROUP]);
        let zeroes = "0".repeat(15);
        let names_expected = ["1-?1", "3-?3", "3-?4"]
            .map(|name| format!("{}-{zeroes}7.snap", name.replace('?', &zeroes)));
        assert_eq!(names(&path), names_expected);
        let gone = snapshots.read(GROUP, at(1), TERM, 0, 100).await;
        assert!(
            matches!(gone, Err(SnapshotFileError::Gone { .. })),
            "{gone:?}"
        );
    });
}

#[test]
fn what_was_not_finished_is_not_listed_and_does_not_stay() {
    let scratch = Scratch::new("part");
    let path = scratch.snapshots();
    run(async move {
        let snapshots = open(&path).await;
        let mut writer = snapshots.begin(&header(at(10))).await.unwrap();
        writer.write(&vec![1; 3 << 20]).await.unwrap();
        assert_eq!(snapshots.list(GROUP), []);
        drop(writer);
        assert!(names(&path)[0].ends_with(".part"));
        write(&snapshots, at(10)).await;
        assert_eq!(
            names(&path).len(),
            1,
            "what was dropped is removed by the next"
        );

        std::mem::forget(snapshots.begin(&header(at(20))).await.unwrap());
        assert_eq!(names(&path).len(), 2);
        let snapshots = open(&path).await;
        assert_eq!(
            names(&path).len(),
            1,
            "what a crash left is removed at open"
        );
        assert_eq!(snapshots.list(GROUP), [(at(10), TERM)]);
    });
}

#[test]
fn without_space_a_snapshot_is_given_up_and_what_was_there_stays() {
    let scratch = Scratch::new("full");
    let path = scratch.snapshots();
    run(async move {
        write(&open(&path).await, at(10)).await;
        let mut full = options();
        full.reserve_bytes = u64::MAX;
        let snapshots = Snapshots::open(&path, full).await.unwrap();
        let error = snapshots.begin(&header(at(20))).await.err();
        assert!(
            matches!(error, Some(SnapshotFileError::Full { .. })),
            "{error:?}"
        );
        assert_eq!(names(&path).len(), 1);
        assert!(load(&snapshots).await.0.is_some());
    });
}

/// Sends the snapshot at 10 in pieces of such sizes, each through `wire`, to another directory.
async fn send(
    from: &Snapshots,
    to: &Snapshots,
    wire: impl Fn(u64, &mut Vec<u8>),
) -> Result<(), SnapshotFileError> {
    let mut receiver = to.receive(GROUP, at(10), TERM).await?;
    let size = from.size(GROUP, at(10), TERM)?;
    let mut sizes = [1, 4095, 300_000, 1 << 20].into_iter().cycle();
    while receiver.offset() < size {
        let offset = receiver.offset();
        let bytes = sizes.next().expect("it goes on for ever");
        let mut bytes = from.read(GROUP, at(10), TERM, offset, bytes).await?;
        wire(offset, &mut bytes);
        receiver.write(offset, &bytes).await?;
    }
    assert!(from.read(GROUP, at(10), TERM, size, 9).await?.is_empty());
    receiver.finish().await.map(drop)
}

#[test]
fn what_was_received_in_pieces_is_the_file_that_was_sent() {
    let scratch = Scratch::new("receive");
    let (from, to) = (scratch.0.join("from"), scratch.0.join("to"));
    run(async move {
        let (sender, receiver) = (open(&from).await, open(&to).await);
        let hash = write(&sender, at(10)).await;
        send(&sender, &receiver, |_, _| ()).await.unwrap();
        let [sent, received] = [&from, &to].map(|path| std::fs::read(file(path, 10)).unwrap());
        assert!(sent == received, "the files are equal");
        assert_eq!(load(&receiver).await.0, Some((at(10), hash)));
    });
}

#[test]
fn what_was_damaged_on_its_way_is_refused_and_gives_its_space_back() {
    let scratch = Scratch::new("damaged");
    let (from, to) = (scratch.0.join("from"), scratch.0.join("to"));
    run(async move {
        let (sender, receiver) = (open(&from).await, open(&to).await);
        write(&sender, at(10)).await;
        let error = send(&sender, &receiver, |offset, bytes| {
            if offset > 2_000_000 {
                bytes[0] ^= 0x10;
            }
        });
        let error = error.await.expect_err("a bit has changed");
        assert!(is_damaged(&error), "{error}");
        assert_eq!(names(&to), [""; 0]);
        assert_eq!(receiver.list(GROUP), []);
    });
}

#[test]
fn a_transfer_that_is_out_of_order_incomplete_or_of_something_else_is_refused() {
    let scratch = Scratch::new("order");
    let (from, to) = (scratch.0.join("from"), scratch.0.join("to"));
    run(async move {
        let (sender, snapshots) = (open(&from).await, open(&to).await);
        write(&sender, at(10)).await;
        let bytes = std::fs::read(file(&from, 10)).unwrap();
        let (first, rest) = bytes.split_at(10_000);

        let mut receiver = snapshots.receive(GROUP, at(10), TERM).await.unwrap();
        receiver.write(0, first).await.unwrap();
        for offset in [0, 9999, 10_001] {
            let error = receiver.write(offset, rest).await.err();
            let Some(SnapshotFileError::Order {
                expected, found, ..
            }) = error
            else {
                panic!("{error:?}")
            };
            assert_eq!((expected, found), (10_000, offset));
        }
        receiver.write(10_000, &rest[..1_000_000]).await.unwrap();
        let error = receiver.finish().await.expect_err("bytes are missing");
        assert!(is_damaged(&error), "{error}");

        let mut receiver = snapshots.receive(GROUP, at(11), TERM).await.unwrap();
        let error = receiver.write(0, first).await.err();
        assert!(
            matches!(error, Some(SnapshotFileError::Misnamed { .. })),
            "{error:?}"
        );
        let error = receiver.write(10_000, rest).await.err();
        assert!(
            matches!(error, Some(SnapshotFileError::Over { .. })),
            "{error:?}"
        );
        drop(receiver);
        assert_eq!(names(&to), [""; 0]);
    });
}

#[test]
fn messages_name_the_file_and_what_to_do() {
    let error = SnapshotFileError::Full {
        path: "/data/x.part".into(),
        needed_bytes: 4096,
        error: std::io::ErrorKind::StorageFull.into(),
    };
    let text = error.to_string();
    assert!(
        text.contains("/data/x.part: 4096 bytes") && text.contains("make space"),
        "{text}"
    );
    let error = SnapshotFileError::Order {
        path: "x.part".into(),
        expected: 5,
        found: 9,
    };
    assert_eq!(
        error.to_string(),
        "x.part: bytes from 9 on were received, those from 5 on come next"
    );
}
