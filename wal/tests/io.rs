//! The log on a real file system, through io_uring and O_DIRECT.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::sleep;
use glommio::{Placement, spawn_local};
use wal::io::{DataDirectory, DirectoryError, Identity, Log, Ring, executor};
use wal::{
    Entry, EntryKind, FlushNumber, GroupId, LogIndex, NodeId, Options, Payload, Record, Term,
    UNREADABLE,
};

const OPTIONS: Options = Options {
    segment_bytes: 256 << 10,
    instance: 7,
};
const GROUP: GroupId = GroupId::from_raw(3);

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("drakkar-wal-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir(&path).unwrap();
        Self(path)
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

fn entry(index: u64, bytes: usize) -> Record {
    let (term, index) = (Term::from_raw(1), LogIndex::from_raw(index));
    let payload = Payload::from(vec![3; bytes]);
    Record::Entry {
        group: GROUP,
        entry: Entry {
            term,
            index,
            kind: EntryKind::Batch,
            payload,
        },
    }
}

async fn fill(log: &Rc<Log>, first: FlushNumber, flushes: u64) {
    let mut number = first;
    let mut under_way = Vec::new();
    for _ in 0..flushes {
        under_way.push(log.append(number, &[entry(number.to_raw(), 9000)]));
        number = number.next();
    }
    let mut durable = FlushNumber::ZERO;
    for flush in under_way {
        durable = flush.await.unwrap();
    }
    assert_eq!(durable.next(), number);
}

#[test]
fn what_was_appended_is_there_after_reopening_and_can_be_read() {
    let scratch = Scratch::new("reopen");
    let path = scratch.0.join("shard-0");
    for round in 0..3 {
        let path = path.clone();
        run(async move {
            let (log, found) = Log::open(&path, OPTIONS, 20_000, Ring::start().unwrap())
                .await
                .unwrap();
            let last = round * 100;
            assert_eq!(found.next_flush.to_raw(), last + 1);
            if round > 0 {
                let group = &found.groups[&GROUP];
                assert_eq!(group.last.to_raw(), last);
                assert!(group.tail.len() < 4, "the cache is bounded");
            }
            fill(&log, found.next_flush, 100).await;
            let mut index = LogIndex::from_raw(1);
            let to = LogIndex::from_raw(last + 100);
            while index <= to {
                for entry in log.read(GROUP, index, to, 100_000).await.unwrap() {
                    assert_eq!((entry.index, entry.payload.len()), (index, 9000));
                    index = index.next();
                }
            }
            log.close().await;
        });
    }
}

/// An entry of which every byte depends on its index.
fn distinct(index: u64, bytes: usize) -> Record {
    let words = (0..bytes.div_ceil(8) as u64).flat_map(|at| {
        let word = (index << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.to_le_bytes()
    });
    let payload: Payload = words.take(bytes).collect();
    let Record::Entry { group, entry } = entry(index, 0) else {
        unreachable!("it is one")
    };
    let entry = Entry { payload, ..entry };
    Record::Entry { group, entry }
}

/// Reads entries from some indexes on to `last`, with several limits, and checks that they are those that
/// were written.
async fn read_back(log: &Rc<Log>, written: &[Record]) {
    let last = LogIndex::from_raw(written.len() as u64);
    for bytes_max in [0, 5_000, 100_000] {
        let (mut index, mut reads) = (LogIndex::from_raw(1), 0);
        while index <= last {
            let to = last.min(index.plus(1500));
            let entries = log.read(GROUP, index, to, bytes_max).await.unwrap();
            assert!(entries.len() <= 1501, "{} from {index}", entries.len());
            for entry in entries {
                let Record::Entry {
                    entry: expected, ..
                } = &written[usize::try_from(index.to_raw()).unwrap() - 1]
                else {
                    unreachable!("only entries were written")
                };
                assert!(entry == *expected, "entry {index}");
                index = index.next();
            }
            reads += 1;
        }
        assert!(reads <= written.len() / 10, "{reads} reads of {bytes_max}");
    }
}

#[test]
fn small_entries_of_one_flush_are_read_back_many_at_once() {
    let scratch = Scratch::new("runs");
    let path = scratch.0.join("shard-0");
    let sizes =
        (0..2).flat_map(|_| [vec![30; 1000], (0..1000).map(|at| at % 90).collect()].concat());
    let written: Vec<Record> = (1..)
        .zip(sizes)
        .map(|(index, size)| distinct(index, size))
        .collect();
    for start in 0..2 {
        let (path, written) = (path.clone(), written.clone());
        run(async move {
            let ring = Ring::start().unwrap();
            let (log, found) = Log::open(&path, OPTIONS, 0, ring).await.unwrap();
            let mut number = found.next_flush;
            for batch in written.chunks(1700).filter(|_| start == 0) {
                log.append(number, batch).await.unwrap();
                number = number.next();
            }
            read_back(&log, &written).await;
            log.close().await;
        });
    }
}

#[test]
fn a_flush_of_several_megabytes_is_there_after_reopening() {
    const OPTIONS: Options = Options {
        segment_bytes: 16 << 20,
        instance: 7,
    };
    let scratch = Scratch::new("parts");
    let path = scratch.0.join("shard-0");
    let written: Vec<Record> = (1..=3000)
        .map(|index| distinct(index, if index % 500 == 0 { 1 << 20 } else { 100 }))
        .collect();
    for start in 0..2 {
        let (path, written) = (path.clone(), written.clone());
        run(async move {
            let ring = Ring::start().unwrap();
            let (log, found) = Log::open(&path, OPTIONS, 64 << 20, ring).await.unwrap();
            if start == 0 {
                log.append(found.next_flush, &written).await.unwrap();
            } else {
                assert_eq!((&found.lost[..], found.cut), (&[][..], None));
                let entries = found.groups[&GROUP].tail.iter().cloned();
                let group = GROUP;
                let records: Vec<_> = entries
                    .map(|entry| Record::Entry { group, entry })
                    .collect();
                assert!(
                    records == written,
                    "what was replayed is not what was written"
                );
            }
            read_back(&log, &written).await;
            log.close().await;
        });
    }
}

#[test]
fn a_log_whose_floor_follows_stays_small_over_all_starts() {
    let scratch = Scratch::new("floor");
    let path = scratch.0.join("shard-0");
    for round in 0..4 {
        let path = path.clone();
        run(async move {
            let (log, found) = Log::open(&path, OPTIONS, 0, Ring::start().unwrap())
                .await
                .unwrap();
            assert_eq!(found.lost, []);
            let first = found.next_flush.to_raw();
            append_and_let_go(&log, first..first + 300, |_| {}).await;
            assert!(log.segments() < 4, "{} segments", log.segments());
            let (from, to) = (round * 300 + 297, round * 300 + 300);
            let (from, to) = (LogIndex::from_raw(from), LogIndex::from_raw(to));
            let read = log.read(GROUP, from, to, usize::MAX).await.unwrap();
            assert_eq!(read.len(), 4);
            log.close().await;
        });
        let files = std::fs::read_dir(scratch.0.join("shard-0"))
            .unwrap()
            .count();
        assert!(files < 20, "{files} files");
    }
}

/// Appends so many entries, each of which lets those before it go but for three.
async fn append_and_let_go(
    log: &Rc<Log>,
    numbers: std::ops::Range<u64>,
    mut each: impl FnMut(u64),
) {
    for number in numbers {
        let mut records = vec![entry(number, 9000)];
        if let Some(index) = number.checked_sub(4).filter(|&index| index > 0) {
            let (index, term) = (LogIndex::from_raw(index), Term::from_raw(1));
            records.push(Record::Floor {
                group: GROUP,
                index,
                term,
            });
        }
        let appended = log.append(FlushNumber::from_raw(number), &records);
        appended.await.unwrap();
        each(number);
    }
}

#[test]
fn a_log_that_is_read_all_the_time_uses_its_files_again() {
    let scratch = Scratch::new("read");
    let path = scratch.0.clone();
    run(async move {
        let opened = Log::open(&path, OPTIONS, 0, Ring::start().unwrap()).await;
        let (log, _) = opened.unwrap();
        let mut under_way = None;
        append_and_let_go(&log, 1..1000, |number| {
            let index = LogIndex::from_raw(number);
            let next = log.read(GROUP, index, index, usize::MAX);
            drop(under_way.replace(next));
        })
        .await;
        let files = std::fs::read_dir(&path).unwrap().count();
        assert!(files < 15, "{files} files");
        log.close().await;
    });
}

#[test]
fn a_file_that_is_being_read_is_not_used_again() {
    let scratch = Scratch::new("being-read");
    let path = scratch.0.clone();
    run(async move {
        let opened = Log::open(&path, OPTIONS, 0, Ring::start().unwrap()).await;
        let (log, _) = opened.unwrap();
        append_and_let_go(&log, 1..10, |_| {}).await;
        let (from, to) = (LogIndex::from_raw(6), LogIndex::from_raw(9));
        let under_way = log.read(GROUP, from, to, usize::MAX);
        append_and_let_go(&log, 10..200, |_| {}).await;
        let read = under_way.await.unwrap();
        let indices: Vec<u64> = read.iter().map(|entry| entry.index.to_raw()).collect();
        assert_eq!(indices, [6, 7, 8, 9]);
        log.close().await;
    });
}

#[test]
fn a_log_whose_files_end_within_a_block_is_opened() {
    let scratch = Scratch::new("odd");
    let path = scratch.0.join("shard-0");
    let reopened = path.clone();
    run(async move {
        let (log, _) = Log::open(&path, OPTIONS, 0, Ring::start().unwrap())
            .await
            .unwrap();
        fill(&log, FlushNumber::from_raw(1), 10).await;
        log.close().await;
        // A file that was restored by halves, and one that is none of the log's.
        let first = path.join("00000001.seg");
        let file = std::fs::File::options().write(true).open(first).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - 100).unwrap();
        std::fs::write(path.join("0000000f.seg"), [7; 500]).unwrap();
    });
    run(async move {
        let (log, found) = Log::open(&reopened, OPTIONS, 0, Ring::start().unwrap())
            .await
            .unwrap();
        // The file that is none may have been one that began after all others.
        assert!(found.next_flush.to_raw() >= 11, "{:?}", found.lost);
        assert_eq!(found.groups[&GROUP].last.to_raw(), 10);
        let next = log.append(found.next_flush, &[entry(11, 9000)]);
        assert_eq!(next.await.unwrap(), found.next_flush);
        log.close().await;
    });
}

#[test]
fn a_log_that_rotted_is_opened_and_says_what_it_lost() {
    let scratch = Scratch::new("rot");
    let path = scratch.0.join("shard-0");
    let opened = path.clone();
    run(async move {
        let (log, found) = Log::open(&opened, OPTIONS, 0, Ring::start().unwrap())
            .await
            .unwrap();
        fill(&log, found.next_flush, 10).await;
        log.close().await;
    });
    damage(&path.join("00000001.seg"), 5 * 4096 + 700);
    let found = run(async move {
        let (log, found) = Log::open(&path, OPTIONS, 0, Ring::start().unwrap())
            .await
            .unwrap();
        log.close().await;
        found
    });
    let [lost] = &found.lost[..] else {
        panic!("{:?}", found.lost)
    };
    assert_eq!((lost.segment.to_raw(), lost.offset % 4096), (1, 0));
    let log = &found.groups[&GROUP];
    let damage = log.damage.as_ref().expect("entries are missing");
    let claim = damage.claim.expect("it names them");
    assert!(damage.named && claim.index > Some(log.last), "{damage:?}");
}

#[test]
fn what_could_not_be_read_once_is_kept_until_the_loss_is_noted() {
    let scratch = Scratch::new("given-up");
    let path = scratch.0.join("shard-0");
    // Some flushes with an entry each, or one that is empty.
    let open = |path: &Path, flushes: u64, mark: bool| {
        let path = path.to_owned();
        run(async move {
            let (log, found) = Log::open(&path, OPTIONS, 0, Ring::start().unwrap())
                .await
                .unwrap();
            if flushes > 0 {
                fill(&log, found.next_flush, flushes).await;
            }
            if mark {
                log.append(found.next_flush, &[]).await.unwrap();
                // Files are removed behind it.
                sleep(Duration::from_millis(50)).await;
            }
            log.close().await;
            found
        })
    };
    open(&path, 80, false);
    let files: Vec<PathBuf> = [3, 4].map(|id| path.join(format!("{id:08x}.seg"))).into();
    let sound: Vec<Vec<u8>> = files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    for file in &files {
        std::fs::write(file, vec![UNREADABLE; 256 << 10]).unwrap();
    }
    let found = open(&path, 0, false);
    assert!(!found.lost.is_empty());
    for (file, bytes) in files.iter().zip(&sound) {
        assert!(file.exists(), "{} is gone", file.display());
        std::fs::write(file, bytes).unwrap();
    }
    // Another start can read them, and misses nothing.
    let found = open(&path, 0, false);
    assert_eq!(
        (found.lost, found.groups[&GROUP].damage.clone()),
        (vec![], None)
    );
    assert_eq!(found.groups[&GROUP].last.to_raw(), 80);

    for file in &files {
        std::fs::write(file, vec![UNREADABLE; 256 << 10]).unwrap();
    }
    open(&path, 0, true);
    assert!(files.iter().all(|file| !file.exists()));
}

#[test]
fn a_flush_that_waits_for_a_segment_ends_when_the_log_is_closed() {
    let scratch = Scratch::new("close");
    let path = scratch.0.join("shard-0");
    run(async move {
        let (log, found) = Log::open(&path, OPTIONS, 0, Ring::start().unwrap())
            .await
            .unwrap();
        // Each needs a segment of its own; the files are made one after the other.
        let (mut number, mut under_way) = (found.next_flush, Vec::new());
        for _ in 0..4 {
            let append = log.append(number, &[entry(number.to_raw(), 200_000)]);
            under_way.push(spawn_local(append));
            number = number.next();
        }
        log.close().await;
        let mut failed = 0;
        for append in under_way {
            failed += usize::from(append.await.is_err());
        }
        assert!(failed > 0, "the last had no file yet");
    });
}

#[test]
fn a_newest_segment_that_decayed_to_zeroes_is_missed() {
    let scratch = Scratch::new("zeroes");
    let path = scratch.0.join("shard-0");
    let opened = path.clone();
    run(async move {
        let (log, found) = Log::open(&opened, OPTIONS, 0, Ring::start().unwrap())
            .await
            .unwrap();
        fill(&log, found.next_flush, 80).await;
        log.close().await;
    });
    // The one behind it was made, and never used.
    std::fs::write(path.join("00000004.seg"), vec![0; 256 << 10]).unwrap();
    assert!(path.join("00000005.seg").exists());
    let found = run(async move {
        let (log, found) = Log::open(&path, OPTIONS, 0, Ring::start().unwrap())
            .await
            .unwrap();
        log.close().await;
        found
    });
    assert!(!found.lost.is_empty() && found.groups[&GROUP].damage.is_some());
}

fn damage(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_data_directory_has_one_owner_and_one_identity() {
    let scratch = Scratch::new("identity");
    let path = scratch.0.join("data");
    let own = Identity {
        cluster_id: "test".to_owned(),
        node: NodeId::from_raw(1),
        address: "127.0.0.1:7379".to_owned(),
        shards: 2,
    };
    let instance = {
        let directory = DataDirectory::open(&path, &own).unwrap();
        let error = DataDirectory::open(&path, &own).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(matches!(&error, DirectoryError::Locked { pid: found, .. } if *found == pid));
        directory.instance()
    };
    assert_eq!(
        DataDirectory::open(&path, &own).unwrap().instance(),
        instance
    );

    let refused = |identity: Identity| {
        DataDirectory::open(&path, &identity)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(Identity {
            cluster_id: "other".to_owned(),
            ..own.clone()
        }),
        "data dir belongs to cluster test, config says other: use the right directory or cluster id"
    );
    assert_eq!(
        refused(Identity {
            node: NodeId::from_raw(2),
            ..own.clone()
        }),
        "data dir belongs to node 1, config says 2: use the right directory or node id"
    );
    assert_eq!(
        refused(Identity {
            address: "127.0.0.1:9".to_owned(),
            ..own.clone()
        }),
        "data dir belongs to 127.0.0.1:7379, config says 127.0.0.1:9: restore the old address; \
         or, if the node has moved, run drakkar repair moved --config FILE on it and change its address in \
         the configurations of all nodes"
    );
    assert_eq!(
        refused(Identity {
            shards: 3,
            ..own.clone()
        }),
        "data dir has 2 shards, config says 3: the number of shards cannot be changed while there \
         is data"
    );
    let moved = Identity {
        address: "127.0.0.1:9".to_owned(),
        ..own.clone()
    };
    let readdressed = DataDirectory::readdress(&path, &moved).unwrap();
    assert_eq!(readdressed.instance(), instance);
    drop(readdressed);
    assert!(refused(own.clone()).starts_with("data dir belongs to 127.0.0.1:9, config says"));
    damage(&path.join("identity"), 12);
    assert!(refused(own.clone()).contains("does not pass its check"));
    std::fs::remove_file(path.join("identity")).unwrap();
    std::fs::create_dir(path.join("shard-0")).unwrap();
    assert!(refused(own).contains("no identity file"));
}
