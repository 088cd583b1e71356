//! A shard's log: appends that are durable when they return, and reads of what was appended.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::sleep;

use super::durability::Durability;
use super::outset;
use super::reading::read_part;
use super::reads::{Number, Reads};
use super::ring::Ring;
use super::segments::Segments;
use crate::writer::contiguous;
use crate::{
    BLOCK, Cut, Entry, FlushNumber, GroupId, Location, LogIndex, Lost, Options, Record,
    RecordError, RecoveredLog, Replay, ReplayError, SegmentId, Writer, decode_entries,
};

/// How often it is looked whether reads are still under way.
const READ_PAUSE: Duration = Duration::from_millis(2);
/// Then a file is made instead of being waited for.
const READ_PAUSES_MAX: usize = 100;

/// Why the log cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    #[error("cannot {what} {path}: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("segment {segment} @{offset}: {error}")]
    Record {
        segment: SegmentId,
        offset: u32,
        error: RecordError,
    },
    #[error("entry {index} of group {group} is not in the log")]
    Absent { group: GroupId, index: LogIndex },
    /// There is no space for a segment.
    #[error(
        "cannot make {path}: {needed_bytes} bytes must be free, as much as two segments: {error}; \
         make space, or choose a smaller log.segment_size"
    )]
    Full {
        path: PathBuf,
        needed_bytes: u64,
        error: io::Error,
    },
    /// What has to be durable before a flush is not.
    #[error("{reason}")]
    Beside { reason: String },
    #[error("the log has failed before and takes nothing any more: restart the node")]
    Failed,
}

impl LogError {
    pub(super) fn io(what: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            error: error.into(),
        }
    }
}

/// What a log held when it was opened.
#[derive(Debug)]
pub struct Found {
    pub groups: BTreeMap<GroupId, RecoveredLog>,
    /// What has to be assumed of a group that the log does not mention.
    pub unmentioned: RecoveredLog,
    /// The number of the flush to append next.
    pub next_flush: FlushNumber,
    /// The flush that was cut off because it had been under way.
    pub cut: Option<Cut>,
    /// Flushes that were durable and are no longer readable.
    pub lost: Vec<Lost>,
}

/// The log of one shard, on the glommio executor that opened it.
pub struct Log {
    writer: RefCell<Writer>,
    segments: Rc<Segments>,
    failed: Cell<bool>,
    /// The first segment of this start.
    first: SegmentId,
    /// Reads under way: no file that they may need goes or becomes another segment's.
    reads: Reads,
    /// Files to be removed, in this order.
    useless: RefCell<VecDeque<SegmentId>>,
    /// Segments to be made ready, each once this flush and all before it are durable: a file that is there
    /// says so of the segment before, whatever is left of that.
    wanted: RefCell<VecDeque<(FlushNumber, SegmentId)>>,
    /// Files that become useless once this log's first flush is durable.
    given_up: RefCell<Vec<SegmentId>>,
}

impl Log {
    /// Opens the log in a directory, or begins one. Keeps up to `cache_bytes` of each group's newest
    /// payload in what it returns. What is written goes through `ring`, what is read through glommio.
    pub async fn open(
        directory: &Path,
        options: Options,
        cache_bytes: usize,
        ring: Rc<Ring>,
    ) -> Result<(Rc<Self>, Found), LogError> {
        Self::open_with(directory, options, cache_bytes, ring, Durability::Durable).await
    }

    /// The same, for appends that count as `durability` says.
    pub async fn open_with(
        directory: &Path,
        options: Options,
        cache_bytes: usize,
        ring: Rc<Ring>,
        durability: Durability,
    ) -> Result<(Rc<Self>, Found), LogError> {
        std::fs::create_dir_all(directory).map_err(|e| LogError::io("create", directory, e))?;
        let parent = directory.parent().unwrap_or(directory);
        let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|error| LogError::io("sync", parent, error))?;

        let segments = Segments::new(directory, options.segment_bytes, ring, durability);
        let segments = Rc::new(segments);
        let mut firsts = Vec::new();
        for segment in segments.list()? {
            firsts.push((segment, segments.read(segment, BLOCK as u64).await?));
        }
        let blocks = firsts
            .iter()
            .map(|(segment, block)| (*segment, block.as_slice()));
        let mut replay = Replay::new(options, cache_bytes, blocks)?;
        while let Some(segment) = replay.next_segment() {
            replay.segment(&segments.read(segment, u64::from(u32::MAX)).await?)?;
        }
        let mut recovered = replay.finish();
        for &segment in &recovered.unsynced {
            segments.sync_segment(segment).await?;
        }
        let begun = outset::begin(&segments, options, &mut recovered).await;
        let full = begun.map_err(|error| segments.take_failure().unwrap_or(error))?;
        let next = recovered.writer.next_segment();
        let next_flush = recovered.writer.next_flush();
        let found = Found {
            groups: recovered.groups,
            unmentioned: recovered.unmentioned,
            next_flush,
            cut: recovered.cut,
            lost: recovered.lost,
        };
        let log = Rc::new(Self {
            writer: RefCell::new(recovered.writer),
            segments,
            failed: Cell::new(false),
            first: next,
            reads: Reads::default(),
            useless: RefCell::default(),
            wanted: RefCell::default(),
            given_up: RefCell::new(recovered.given_up),
        });
        if full {
            log.prepare(next);
        }
        Ok((log, found))
    }

    /// Appends a flush. Its place is taken now, so calls must come in the order of the numbers; once
    /// the future is done the flush is durable, and so is everything up to the number it returns.
    /// After an error nothing is ever appended again: what reached the disk is unknown.
    pub fn append(
        self: &Rc<Self>,
        number: FlushNumber,
        records: &[Record],
    ) -> impl Future<Output = Result<FlushNumber, LogError>> + use<> {
        let prepared = (!self.failed.get()).then(|| {
            let mut writer = self.writer.borrow_mut();
            let placement = writer.place(number, records);
            let writing = self.segments.append(&placement, |piece_bytes_min, done| {
                writer.encode_pieces(&placement, records, piece_bytes_min, done);
            });
            if placement.opens_segment {
                let wanted = (number, writer.next_segment());
                self.wanted.borrow_mut().push_back(wanted);
            }
            (placement.segment, writing)
        });
        let log = self.clone();
        async move {
            let (segment, writing) = prepared.ok_or(LogError::Failed)?;
            if let Err(error) = log.segments.finish(writing, segment).await {
                log.failed.set(true);
                log.segments.stop();
                return Err(error);
            }
            if log.failed.get() {
                return Err(LogError::Failed);
            }
            let durable = log.writer.borrow_mut().written(number);
            if durable >= number {
                log.prepare_wanted(durable);
                log.reclaim();
            }
            Ok(durable)
        }
    }

    /// Makes the segments ready whose time has come. None once the log was closed: the files are
    /// another's then.
    fn prepare_wanted(self: &Rc<Self>, durable: FlushNumber) {
        if self.segments.is_stopped() {
            return;
        }
        let next = || {
            let mut wanted = self.wanted.borrow_mut();
            wanted.pop_front_if(|(opened_by, _)| *opened_by <= durable)
        };
        while let Some((_, segment)) = next() {
            self.prepare(segment);
        }
    }

    /// Makes a segment ready, of a file that is free if there is one. While there is neither that nor
    /// space, tries again and again. Whoever waits for the segment is told of a failure there.
    fn prepare(self: &Rc<Self>, segment: SegmentId) {
        let log = self.clone();
        glommio::spawn_local(async move {
            loop {
                let outcome = match log.recyclable().await {
                    Some(free) => {
                        let table = log.writer.borrow_mut().recycle(free, segment);
                        log.segments.recycle(free, segment, &table).await
                    }
                    None => log.segments.prepare(segment).await,
                };
                let full = matches!(outcome, Err(LogError::Full { .. }));
                if !(full && log.segments.wait_for_space().await) {
                    break;
                }
            }
        })
        .detach();
    }

    /// A file that may become another segment's now. Reads that may need it are waited for as long as it
    /// would take to make a file.
    async fn recyclable(&self) -> Option<SegmentId> {
        let (mut free, mut since) = (self.segments.oldest_free()?, self.reads.now());
        for _ in 0..READ_PAUSES_MAX {
            let oldest = self.segments.oldest_free()?;
            if oldest != free {
                (free, since) = (oldest, self.reads.now());
            }
            if self.reads.have_ended(since) {
                return self.segments.recyclable();
            }
            sleep(READ_PAUSE).await;
        }
        None
    }

    /// Frees the segments that nothing needs any more.
    fn reclaim(self: &Rc<Self>) {
        let mut writer = self.writer.borrow_mut();
        let mut useless = self.useless.borrow_mut();
        let idle = useless.is_empty();
        useless.extend(self.given_up.take());
        for segment in writer.reclaim() {
            if writer.is_recyclable(segment) {
                useless.extend(self.segments.keep(segment));
            } else {
                // What is kept goes first: the files that there are stay a row without a hole.
                useless.extend(self.segments.give_up());
                useless.push_back(segment);
            }
        }
        useless.iter().for_each(|&segment| writer.discard(segment));
        let begin = idle && !useless.is_empty();
        // A task that is spawned runs at once.
        drop((writer, useless));
        if begin {
            let log = self.clone();
            glommio::spawn_local(async move { log.remove().await }).detach();
        }
    }

    /// Removes files one after the other. One that cannot be removed stays until the next start, with
    /// all behind it.
    async fn remove(&self) {
        loop {
            let Some(&segment) = self.useless.borrow().front() else {
                return;
            };
            let since = self.reads.now();
            while !self.reads.have_ended(since) {
                sleep(READ_PAUSE).await;
            }
            if self.segments.discard(segment).await.is_err() {
                return;
            }
            self.useless.borrow_mut().pop_front();
        }
    }

    /// Makes as many bytes ready to be written as segments to come, so that they need not be made while
    /// others are written. Takes as long as the disk takes to write them.
    pub async fn make_ready(&self, bytes: u64) -> Result<(), LogError> {
        self.segments.make_ready(bytes).await
    }

    /// How many segments the log has. One that is to be begun counts once its file is there.
    pub fn segments(&self) -> usize {
        let writer = self.writer.borrow();
        let there = |&segment: &SegmentId| segment < self.first || self.segments.is_open(segment);
        writer.segments().filter(there).count()
    }

    /// Bytes of all flushes that were appended since the log was opened.
    pub fn appended_bytes(&self) -> u64 {
        self.segments.appended_bytes()
    }

    /// The groups that keep the oldest segment with entries from being reclaimed.
    pub fn oldest_owners(&self) -> Vec<GroupId> {
        self.writer.borrow().oldest_owners()
    }

    /// Reads entries of a group from `from` on, up to `to` and about `bytes_max`, at least one. Which
    /// entries these are is decided now: what is appended later does not change what is read.
    pub fn read(
        self: &Rc<Self>,
        group: GroupId,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, LogError>> + use<> {
        assert!(from <= to, "range runs backwards: {from}..{to}");
        let mut places: Vec<(Location, usize)> = Vec::new();
        let mut bytes = 0;
        let mut index = from;
        while index <= to {
            let Some(place) = self.writer.borrow().locate(group, index) else {
                break;
            };
            match places.last_mut() {
                // What lies at one place is read at once.
                Some((before, entries)) if *before == place => *entries += 1,
                Some(_) if bytes >= bytes_max => break,
                _ => {
                    bytes += place.bytes as usize;
                    places.push((place, 1));
                }
            }
            index = index.next();
        }
        let reading = Reading::begin(self);
        async move { read_places(&reading.0.segments, &places, group, from).await }
    }

    /// Whether there is no space for another segment. Appends that fit the current one go on; one that
    /// does not takes until there is space.
    pub fn is_full(&self) -> bool {
        self.segments.is_full()
    }

    /// Bytes that are free in the file system of the log; `None` if it does not say.
    pub fn free_bytes(&self) -> Option<u64> {
        self.segments.free_bytes()
    }

    /// Why appends fail, if a segment could not be made ready.
    pub fn failure(&self) -> Option<Rc<LogError>> {
        self.segments.failure()
    }

    /// Closes the files. Waits until none is being made or recycled, but for ten seconds at most: whoever
    /// opens the log next may make files of the same names.
    pub async fn close(&self) {
        self.segments.close().await;
    }
}

/// A read under way.
struct Reading(Rc<Log>, Number);

impl Reading {
    fn begin(log: &Rc<Log>) -> Self {
        Self(log.clone(), log.reads.begin())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reads.end(&self.1);
    }
}

/// Reads the entries at `places`, so many at each, the first of which is at index `from`.
async fn read_places(
    segments: &Segments,
    places: &[(Location, usize)],
    group: GroupId,
    from: LogIndex,
) -> Result<Vec<Entry>, LogError> {
    let mut entries = Vec::with_capacity(places.iter().map(|&(_, entries)| entries).sum());
    let mut places_left = places.iter();
    let locations: Vec<Location> = places.iter().map(|&(place, _)| place).collect();
    for (first, count, bytes) in contiguous(&locations) {
        let file = segments.existing(first.segment).await?;
        let read = read_part(&file, u64::from(first.offset), bytes as usize).await;
        let path = || file.path().map(|path| path.to_owned()).unwrap_or_default();
        let read = read.map_err(|error| LogError::io("read", &path(), error))?;
        for &(place, held) in places_left.by_ref().take(count) {
            let start = (place.offset - first.offset) as usize;
            let record = read
                .get(start..start + place.bytes as usize)
                .unwrap_or_default();
            let index = from.plus(entries.len() as u64);
            let each = |entry| entries.push(entry);
            decode_entries(record, group, (index, held), each).map_err(|error| {
                LogError::Record {
                    segment: place.segment,
                    offset: place.offset,
                    error,
                }
            })?;
        }
    }
    if entries.is_empty() {
        return Err(LogError::Absent { group, index: from });
    }
    Ok(entries)
}
