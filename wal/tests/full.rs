//! Starts without space for a segment: a limit on the size of files stands for a disk that is full.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use glommio::Placement;
use glommio::timer::{sleep, timeout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wal::io::{Found, Log, LogError, Ring, executor};
use wal::{
    Entry, EntryKind, FlushNumber, GroupId, HardState, LogIndex, Options, Payload, Record,
    ReplicaId, Term,
};

const SEGMENT_BYTES: u64 = 2 << 20;
const OPTIONS: Options = Options {
    segment_bytes: SEGMENT_BYTES,
    instance: 7,
};
/// More than is left of a segment after so many starts.
const LARGE: usize = 1800 << 10;
const GROUP: GroupId = GroupId::from_raw(3);
const STARTS: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(60);

fn run<T: 'static>(test: impl Future<Output = T> + 'static) -> T {
    let executor = executor::builder(Placement::Unbound).make().unwrap();
    executor.run(executor::awake(test))
}

async fn open(path: &Path) -> (Rc<Log>, Found) {
    let ring = Ring::start().unwrap();
    Log::open(path, OPTIONS, 1 << 20, ring).await.unwrap()
}

fn entry(term: u64, index: u64, bytes: usize) -> Record {
    Record::Entry {
        group: GROUP,
        entry: Entry {
            term: Term::from_raw(term),
            index: LogIndex::from_raw(index),
            kind: EntryKind::Batch,
            payload: Payload::from(vec![3; bytes]),
        },
    }
}

fn vote(term: u64) -> Record {
    let state = HardState {
        term: Term::from_raw(term),
        vote: Some(ReplicaId::from_raw(2)),
        commit: LogIndex::ZERO,
    };
    Record::HardState {
        group: GROUP,
        state,
    }
}

/// The segments that have their size: one that is tried again and again may be there for a moment.
fn segments(path: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    let whole = files.filter(|it| it.metadata().is_ok_and(|it| it.len() == SEGMENT_BYTES));
    let mut segments: Vec<_> = whole.map(|it| it.path()).collect();
    segments.sort();
    segments
}

/// Files up to so many bytes, or of any size. What is written beyond fails, as on a full disk.
fn limit(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let current = bytes.or(maximum);
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
}

/// The only test of this program: the limit is for all of it.
#[test]
fn a_log_starts_on_a_full_disk_as_often_as_it_must_votes_and_goes_on_once_there_is_space() {
    let name = format!("drakkar-wal-full-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    drop(std::fs::remove_dir_all(&path));

    let empty = path.join("none");
    limit(Some(SEGMENT_BYTES - 1));
    run(async move {
        let ring = Ring::start().unwrap();
        let error = Log::open(&empty, OPTIONS, 0, ring).await.err();
        assert!(matches!(error, Some(LogError::Full { .. })), "{error:?}");
    });
    limit(None);

    let log = path.join("shard-0");
    let shard = log.clone();
    run(async move {
        let (log, found) = open(&shard).await;
        let flush = log.append(found.next_flush, &[vote(1), entry(1, 1, 9000)]);
        flush.await.unwrap();
        log.close().await;
    });
    limit(Some(SEGMENT_BYTES - 1));
    let mut before = None;
    for start in 1..=STARTS {
        let shard = log.clone();
        run(async move {
            let (log, found) = open(&shard).await;
            let group = &found.groups[&GROUP];
            assert_eq!((&found.lost[..], &group.damage), (&[][..], &None));
            assert_eq!(group.last.to_raw(), start, "start {start}");
            assert_eq!(group.hard_state.term.to_raw(), start, "start {start}");
            let mine = [vote(start + 1), entry(start + 1, start + 1, 16)];
            let appended = log.append(found.next_flush, &mine);
            let appended = timeout(PATIENCE, async { Ok(appended.await) }).await;
            assert!(matches!(appended, Ok(Ok(_))), "start {start} cannot vote");
            assert!(log.is_full());
            if start % 2 == 0 {
                log.close().await;
            }
        });
        let now = segments(&log);
        assert_eq!(*before.get_or_insert(now.clone()), now, "start {start}");
    }
    run(async move {
        let shard = path.join("shard-0");
        let (log, found) = open(&shard).await;
        let last = found.groups[&GROUP].last;
        assert_eq!(last.to_raw(), STARTS + 1);
        let mut number = found.next_flush;
        log.append(number, &[]).await.unwrap();
        // One that needs another segment waits, and that does not count before it is there.
        number = number.next();
        let next = LogIndex::from_raw(last.to_raw() + 1);
        let large = entry(STARTS + 2, next.to_raw(), LARGE);
        let waiting = glommio::spawn_local(log.append(number, &[large]));
        sleep(Duration::from_millis(50)).await;
        assert_eq!(log.segments(), segments(&shard).len());
        limit(None);
        waiting.await.unwrap();
        while log.is_full() {
            sleep(Duration::from_millis(10)).await;
        }
        // More than was left.
        for index in 2..=60 {
            number = number.next();
            let index = last.to_raw() + index;
            let record = entry(STARTS + 2, index, 60_000);
            assert!(log.append(number, &[record]).await.unwrap() > FlushNumber::ZERO);
        }
        let first = LogIndex::from_raw(1);
        let read = log.read(GROUP, first, last, usize::MAX).await.unwrap();
        assert_eq!(read.len() as u64, STARTS + 1);
        log.close().await;
        std::fs::remove_dir_all(&path).unwrap();
    });
}
