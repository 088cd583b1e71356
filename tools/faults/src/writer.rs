//! The process that is tormented: it opens a log, says what it found, and appends until it is killed
//! or its disk fails. It says on stdout what is durable, as soon as it is.
//!
//! ```text
//! found INDEX TERM     what replay returned
//! ack INDEX TERM       every entry up to this one is durable, and the vote of this term
//! full, space          the log waits for space; it has space again
//! error REASON         the end: nothing follows
//! ```

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use glommio::Placement;
use glommio::timer::sleep;
use wal::io::{Log, LogError, Ring, executor};
use wal::{FlushNumber, LogIndex, Term};

use crate::mark::Marker;
use crate::story::{GROUP, OPTIONS, Story};

/// Flushes under way at once, as a shard has them.
const DEPTH: usize = 4;
/// How often it is looked whether the disk is full.
const WATCH_INTERVAL: Duration = Duration::from_millis(5);
/// Entries of the longest log, about a kilobyte each.
pub(crate) const LAST: u64 = 400_000;
/// What sysexits(3) calls an I/O error.
pub(crate) const IO_ERROR: u8 = 74;

/// Appends to the log in `directory` through io_uring, up to entry `last`.
pub(crate) fn run(directory: &Path, last: u64, voice: Voice) -> ExitCode {
    // glommio opens nothing by a relative path.
    let directory = match std::path::absolute(directory) {
        Ok(directory) => directory,
        Err(error) => return end(Err(error.to_string())),
    };
    let last = LogIndex::from_raw(last);
    let outcome = match executor::builder(Placement::Unbound).make() {
        Ok(executor) => executor.run(executor::awake(async move {
            write(directory, last, &voice).await
        })),
        Err(error) => Err(error.to_string()),
    };
    end(outcome)
}

/// How a writer tells what is durable.
#[derive(Default)]
pub(crate) struct Voice {
    marker: Option<Rc<Marker>>,
    /// The log's floor does not move: it only grows.
    keep_all: bool,
}

impl Voice {
    /// Also marks the record of what is written to the disk.
    pub(crate) fn marking(marker: Rc<Marker>) -> Self {
        Self {
            marker: Some(marker),
            keep_all: false,
        }
    }

    /// Speaks for a log that only grows, if `keep_all`.
    pub(crate) fn hoarding(keep_all: bool) -> Self {
        Self {
            marker: None,
            keep_all,
        }
    }

    /// Before anything is appended.
    pub(crate) fn found(&self, story: &Story) {
        println!("found {} {}", story.last, story.term.to_raw() - 1);
    }

    pub(crate) fn acked(&self, index: LogIndex, term: Term) {
        if let Some(marker) = &self.marker {
            let marked = marker.mark(&format!("{index}:{term}"));
            marked.expect("a record that can be opened can be marked");
        }
        println!("ack {index} {term}");
    }
}

/// Says how it ended.
pub(crate) fn end(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("error {reason}");
            ExitCode::from(IO_ERROR)
        }
    }
}

/// A flush on its way to the disk.
type Task = glommio::Task<Result<FlushNumber, LogError>>;

async fn write(directory: PathBuf, last: LogIndex, voice: &Voice) -> Result<(), String> {
    let say = |error: LogError| error.to_string();
    let ring = Ring::start().map_err(|error| format!("cannot make a ring: {error}"))?;
    let (log, found) = Log::open(&directory, OPTIONS, 0, ring).await.map_err(say)?;
    if let Some(lost) = found.lost.first() {
        let place = format!("segment {} @{}", lost.segment, lost.offset);
        return Err(format!("{place} was durable and is not readable"));
    }
    let mut story = Story::resume(found.groups.get(&GROUP));
    if voice.keep_all {
        story = story.keep_all();
    }
    voice.found(&story);
    let watch = glommio::spawn_local(watch(log.clone()));
    let outcome = append(&log, found.next_flush, story, last, voice).await;
    watch.cancel().await;
    log.close().await;
    outcome.map_err(|error| match (error, log.failure()) {
        // A segment could not be made: the log knows more than the flush that waited for it.
        (LogError::Failed, Some(cause)) => cause.to_string(),
        (error, _) => error.to_string(),
    })
}

/// Tells when the log begins to wait for space and when it ends.
async fn watch(log: Rc<Log>) {
    let was_full = Cell::new(false);
    loop {
        if was_full.replace(log.is_full()) != log.is_full() {
            println!("{}", if log.is_full() { "full" } else { "space" });
        }
        sleep(WATCH_INTERVAL).await;
    }
}

async fn append(
    log: &Rc<Log>,
    mut number: FlushNumber,
    mut story: Story,
    last: LogIndex,
    voice: &Voice,
) -> Result<(), LogError> {
    let mut under_way = VecDeque::new();
    while story.last < last || !under_way.is_empty() {
        while under_way.len() < DEPTH && story.last < last {
            let flush = log.append(number, &story.next_flush());
            number = number.next();
            under_way.push_back((story.last, glommio::spawn_local(flush)));
        }
        if let Some((newest, flush)) = under_way.pop_front() {
            if let Err(error) = flush.await {
                return Err(cause(error, under_way).await);
            }
            voice.acked(newest, story.term);
        }
    }
    Ok(())
}

/// A flush also fails because one behind it did: that one knows why.
async fn cause(mut error: LogError, under_way: VecDeque<(LogIndex, Task)>) -> LogError {
    for (_, flush) in under_way {
        if let (LogError::Failed, Err(other)) = (&error, flush.await) {
            error = other;
        }
    }
    error
}
