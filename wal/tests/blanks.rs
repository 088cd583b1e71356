//! Files that are made ready to be segments before they are needed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::Placement;
use wal::io::{Found, Log, Ring, executor};
use wal::{Entry, EntryKind, FlushNumber, GroupId, LogIndex, Options, Payload, Record, Term};

const SEGMENT_BYTES: u64 = 256 << 10;
const OPTIONS: Options = Options {
    segment_bytes: SEGMENT_BYTES,
    instance: 7,
};
const GROUP: GroupId = GroupId::from_raw(3);

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("drakkar-blanks-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
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

async fn open(path: &Path) -> (Rc<Log>, Found) {
    let ring = Ring::start().unwrap();
    Log::open(path, OPTIONS, 0, ring).await.unwrap()
}

/// Fills segments: each flush takes a sixteenth of one.
async fn append(log: &Rc<Log>, from: FlushNumber, flushes: u64) {
    for number in from.to_raw()..from.to_raw() + flushes {
        let entry = Entry {
            term: Term::from_raw(1),
            index: LogIndex::from_raw(number),
            kind: EntryKind::Batch,
            payload: Payload::from(vec![3; 12_000]),
        };
        let record = Record::Entry {
            group: GROUP,
            entry,
        };
        let appended = log.append(FlushNumber::from_raw(number), &[record]);
        appended.await.unwrap();
    }
}

/// How many files with this extension there are.
fn count(path: &Path, extension: &str) -> usize {
    let files = std::fs::read_dir(path).unwrap();
    let extensions = files.map(|file| file.unwrap().path().extension().map(ToOwned::to_owned));
    extensions
        .filter(|it| it.as_deref() == Some(extension.as_ref()))
        .count()
}

#[test]
fn segments_come_from_the_files_that_were_made_ready_and_hold_what_was_appended() {
    let scratch = Scratch::new("taken");
    let path = scratch.0.join("shard-0");
    run(async move {
        let (log, found) = open(&path).await;
        log.make_ready(4 * SEGMENT_BYTES).await.unwrap();
        assert_eq!((count(&path, "zero"), count(&path, "seg")), (4, 1));
        append(&log, found.next_flush, 40).await;
        assert!(log.segments() > 2, "{} segments", log.segments());
        let left = count(&path, "zero");
        assert!(left < 3, "{left} files were not taken");
        assert!(count(&path, "seg") + left >= 5, "a file was lost");
        log.close().await;

        let (log, found) = open(&path).await;
        assert_eq!(found.groups[&GROUP].last.to_raw(), 40);
        assert_eq!(found.lost, []);
        let (from, to) = (LogIndex::from_raw(1), LogIndex::from_raw(40));
        let read = log.read(GROUP, from, to, usize::MAX).await.unwrap();
        assert_eq!(read.len(), 40);
        log.close().await;
    });
}

#[test]
fn the_next_start_takes_over_what_is_whole_and_removes_the_rest() {
    let scratch = Scratch::new("next-start");
    let path = scratch.0.join("shard-0");
    run(async move {
        let (log, _) = open(&path).await;
        log.make_ready(2 * SEGMENT_BYTES).await.unwrap();
        log.close().await;
        std::fs::write(path.join("8.part"), [0; 4096]).unwrap();
        std::fs::write(path.join("9.zero"), [0; 4096]).unwrap();

        let (log, found) = open(&path).await;
        assert_eq!(count(&path, "part"), 0);
        assert!(!path.join("9.zero").exists(), "not as large as a segment");
        let kept = count(&path, "zero");
        log.make_ready(4 * SEGMENT_BYTES).await.unwrap();
        assert_eq!(count(&path, "zero"), 4, "{kept} were there before");
        append(&log, found.next_flush, 100).await;
        assert_eq!(count(&path, "zero"), 0, "taken before others are made");
        log.close().await;
    });
}

#[test]
fn a_log_that_is_closed_while_it_makes_a_segment_opens_again_at_once() {
    let scratch = Scratch::new("closed");
    let path = scratch.0.join("shard-0");
    let options = Options {
        segment_bytes: 16 << 20, // a quarter of a second at the least
        ..OPTIONS
    };
    run(async move {
        for round in 0..4 {
            let ring = Ring::start().unwrap();
            let (log, found) = Log::open(&path, options, 0, ring).await.unwrap();
            assert_eq!(found.next_flush.to_raw(), round + 1);
            assert_eq!(found.lost, []);
            append(&log, found.next_flush, 1).await;
            log.close().await;
        }
    });
}

#[test]
fn a_file_that_cannot_be_made_ready_is_an_error() {
    let scratch = Scratch::new("error");
    let path = scratch.0.join("shard-0");
    run(async move {
        let (log, _) = open(&path).await;
        // Where the file would be, something else is.
        std::fs::create_dir(path.join("1.part")).unwrap();
        let error = log.make_ready(SEGMENT_BYTES).await.unwrap_err();
        assert!(
            error.to_string().contains("make a segment in"),
            "unexpected: {error}"
        );
        log.close().await;
    });
}
