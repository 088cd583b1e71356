//! A group's log in a backup: the entries that follow a snapshot, as records of the log, in the format of
//! snapshots. So a change of any byte is noticed twice, and a missing entry as well.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use engine::batch::Batch;
use engine::config::ClusterOptions;
use engine::io::import::Listed;
use engine::kv::Kv;
use engine::snapshot::{Compression, Decoder, Encoder, Event, Header, Membership, machine};
use wal::{Entry, EntryKind, GroupId, LogIndex, Term, decode_entry, entry_bytes};

use super::create::{Source, copy_at};
use super::manifest::File;
use super::restore::walk;
use super::{BackupError, damaged};
use crate::http;

const PIECE: usize = 1 << 20;
/// No limit allows longer entries.
const CHUNK_BYTES_MAX: usize = 1 << 30;
/// Entries that are applied may not be on the leader's own disk yet.
const PAUSES: usize = 400;
const PAUSE: Duration = Duration::from_millis(25);

/// Copies the oldest state of a group that its log continues, and the log behind that.
pub(super) fn copy(
    source: &Source,
    cluster: &str,
    groups: u64,
    to: &Path,
) -> Result<File, BackupError> {
    Copying::new(source, cluster, groups)?.copy(to)
}

/// What a leader holds of a group.
pub(super) struct Copying<'a> {
    source: &'a Source,
    cluster: &'a str,
    slots: (u16, u16),
    group: GroupId,
    /// The log begins behind this entry.
    pub(super) floor: u64,
    /// The last entry that is copied: what is behind it is not applied yet.
    pub(super) last: u64,
    /// The last of the log.
    pub(super) end: u64,
    /// The leader's clock, if nothing was under way then.
    pub(super) settled_ms: Option<u64>,
}

impl<'a> Copying<'a> {
    pub(super) fn new(
        source: &'a Source,
        cluster: &'a str,
        groups: u64,
    ) -> Result<Self, BackupError> {
        let failed = |reason: &str| source.failed(reason.to_owned());
        let range = source.ask("GET", &format!("/v1/log?group={}", source.group));
        let range = range.map_err(|reason| source.failed(reason))?;
        if range["role"] != "leader" {
            return Err(failed("it leads the group no more"));
        }
        let number = |name: &str| {
            let number = range[name].as_u64();
            number.ok_or_else(|| failed("it does not tell how long its log is"))
        };
        let few = |number: u64| u32::try_from(number).map_err(|_| failed("too many groups"));
        let group = GroupId::from_raw(few(source.group)?);
        let options = ClusterOptions {
            groups: few(groups)?,
            ..ClusterOptions::default()
        };
        let last = number("applied")?;
        Ok(Self {
            source,
            cluster,
            slots: options.slots_of_group(group),
            group,
            floor: number("floor")?,
            last,
            end: number("last")?,
            settled_ms: Some(number("unix_ms")?).filter(|_| range["last"] == last),
        })
    }

    pub(super) fn copy(&self, to: &Path) -> Result<File, BackupError> {
        let (snapshot, base) = if self.floor == 0 {
            (self.empty_state(to)?, 0)
        } else {
            let kept = self.source.snapshots();
            let kept = kept.map_err(|reason| self.source.failed(reason))?;
            let oldest = kept.into_iter().find(|&(index, _)| index >= self.floor);
            let none = || "it has no snapshot that its log follows".to_owned();
            let oldest = oldest.ok_or_else(|| self.source.failed(none()))?;
            (copy_at(self.source, oldest, to)?, oldest.0)
        };
        let (log, until) = if base < self.last {
            let (log, clock) = self.entries(base, to)?;
            (Some(log), self.settled_ms.unwrap_or(clock))
        } else {
            (None, self.settled_ms.unwrap_or(0))
        };
        Ok(File {
            snapshot,
            log,
            until_unix_ms: Some(until),
        })
    }

    fn header(&self, machine: u32, index: u64, term: Term, items: u64) -> Header {
        Header {
            compression: Compression::Lz4,
            cluster: self.cluster.to_owned(),
            instance: 0,
            group: self.group,
            index: LogIndex::from_raw(index),
            term,
            membership: Membership::default(),
            machine,
            items,
            created_unix_ms: self.settled_ms.unwrap_or(0),
        }
    }

    /// The state before the first entry.
    fn empty_state(&self, to: &Path) -> Result<Listed, BackupError> {
        let header = self.header(machine::KV, 0, Term::ZERO, 0);
        write_state(&mut Kv::new(self.slots), &header, to)
    }

    /// An entry that is in the log.
    pub(super) fn entry(&self, index: u64) -> Result<Entry, BackupError> {
        let index = LogIndex::from_raw(index);
        let entry = decode_entry(&self.read(index)?, self.group, index);
        entry.map_err(|error| self.source.failed(error.to_string()))
    }

    /// Copies the entries behind one; gives the newest stamp in them as well.
    pub(super) fn entries(&self, base: u64, to: &Path) -> Result<(Listed, u64), BackupError> {
        let failed = |reason: String| self.source.failed(reason);
        let term = self.entry(self.last)?.term;
        let header = self.header(machine::LOG, self.last, term, self.last - base);
        let name = name(&header, "log");
        let path = to.join(format!("{name}.part"));
        let io = |error| BackupError::Io {
            path: path.clone(),
            error,
        };
        let mut file = fs::File::create(&path).map_err(io)?;
        let mut stream = Vec::new();
        let mut encoder = Encoder::new(&header, &mut stream);
        let mut reader = Entries::new(self.group, LogIndex::from_raw(base));
        let mut clock = 0;
        while reader.last.to_raw() < self.last {
            let bytes = self.read(reader.last.next())?;
            let mut wanted = 0;
            let read = reader.read(&bytes, |entry| {
                wanted += entry_bytes(&entry);
                clock = clock.max(stamp(&entry)?.unwrap_or(0));
                Ok(entry.index.to_raw() < self.last)
            });
            read.map_err(failed)?;
            encoder.chunk(&bytes[..wanted], &mut stream);
            file.write_all(&stream).map_err(io)?;
            stream.clear();
        }
        let summary = encoder.finish(&mut stream);
        let done = file.write_all(&stream).and_then(|()| file.sync_all());
        done.and_then(|()| fs::rename(&path, to.join(&name)))
            .map_err(io)?;
        Ok((Listed::new(name, &header, &summary), clock))
    }

    /// Some records from an entry on.
    fn read(&self, from: LogIndex) -> Result<Vec<u8>, BackupError> {
        let Source { group, endpoint } = self.source;
        let path = format!("/v1/log/entries?group={group}&from={from}");
        for _ in 0..PAUSES {
            let bytes = http::get_bytes(endpoint, &path);
            let bytes = bytes.map_err(|reason| self.source.failed(reason))?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            sleep(PAUSE);
        }
        let reason = format!("entry {from} does not come to its disk");
        Err(self.source.failed(reason))
    }
}

/// Writes a state to a new file.
pub(super) fn write_state(kv: &mut Kv, header: &Header, to: &Path) -> Result<Listed, BackupError> {
    let name = name(header, "snap");
    let path = to.join(&name);
    let io = |error| BackupError::Io {
        path: path.clone(),
        error,
    };
    let mut file = fs::File::create(&path).map_err(io)?;
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(header, &mut bytes);
    walk(kv, &mut |chunk| {
        if !chunk.is_empty() {
            encoder.chunk(chunk, &mut bytes);
        }
        file.write_all(&bytes).map_err(io)?;
        bytes.clear();
        Ok(())
    })?;
    let summary = encoder.finish(&mut bytes);
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    written.map_err(io)?;
    Ok(Listed::new(name, header, &summary))
}

fn name(header: &Header, kind: &str) -> String {
    let (index, term) = (header.index.to_raw(), header.term.to_raw());
    format!("{}-{index:016x}-{term:016x}.{kind}", header.group)
}

/// Reads records of entries that follow each other.
pub(super) struct Entries {
    group: GroupId,
    /// The last that was read.
    pub(super) last: LogIndex,
}

impl Entries {
    /// Those behind an entry.
    pub(super) fn new(group: GroupId, last: LogIndex) -> Self {
        Self { group, last }
    }

    /// Gives out one entry after the other until `each` wants no more; whether it did to the end.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Entry) -> Result<bool, String>,
    ) -> Result<bool, String> {
        while !bytes.is_empty() {
            let index = self.last.next();
            let entry = decode_entry(bytes, self.group, index);
            let entry = entry.map_err(|error| format!("entry {index}: {error}"))?;
            bytes = &bytes[entry_bytes(&entry)..];
            self.last = index;
            if !each(entry)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The leader's time on an entry, if it has one.
pub(super) fn stamp(entry: &Entry) -> Result<Option<u64>, String> {
    if entry.kind != EntryKind::Batch {
        return Ok(None);
    }
    match Batch::access(&entry.payload) {
        Ok(batch) => Ok(Some(batch.stamp_ms())),
        Err(error) => Err(format!("entry {}: {error}", entry.index)),
    }
}

/// What a file says of itself.
pub(super) fn header(path: &Path) -> Result<Header, BackupError> {
    let io = |error| BackupError::Io {
        path: path.to_owned(),
        error,
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(io)?;
    file.take(PIECE as u64)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    let mut decoder = Decoder::new(CHUNK_BYTES_MAX);
    decoder.push(&bytes);
    match decoder.next().map_err(|it| damaged(path, it))? {
        Some(Event::Header(header)) => Ok(header.clone()),
        _ => Err(damaged(path, "it has no header")),
    }
}

/// Hands the chunks of a file out until `each` wants no more.
pub(super) fn chunks(
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<bool, BackupError>,
) -> Result<(), BackupError> {
    let io = |error| BackupError::Io {
        path: path.to_owned(),
        error,
    };
    let mut file = fs::File::open(path).map_err(io)?;
    let mut decoder = Decoder::new(CHUNK_BYTES_MAX);
    let mut piece = vec![0; PIECE];
    loop {
        let bytes = file.read(&mut piece).map_err(io)?;
        decoder.push(&piece[..bytes]);
        while let Some(event) = decoder.next().map_err(|it| damaged(path, it))? {
            let Event::Chunk(chunk) = event else { continue };
            if !each(chunk)? {
                return Ok(());
            }
        }
        if bytes == 0 {
            break;
        }
    }
    decoder.finish().map_err(|it| damaged(path, it))?;
    Ok(())
}

/// Reads every entry of a log: they follow each other from the snapshot to the end that is listed.
pub(super) fn verify(directory: &Path, log: &Listed, first: u64) -> Result<(), BackupError> {
    let path = directory.join(&log.name);
    let group = u32::try_from(log.group).map_err(|it| damaged(&path, it))?;
    let mut reader = Entries::new(GroupId::from_raw(group), LogIndex::from_raw(first));
    chunks(&path, |chunk| {
        let read = reader.read(chunk, |entry| stamp(&entry).map(|_| true));
        read.map_err(|what| damaged(&path, what))
    })?;
    match reader.last.to_raw() - first == log.items {
        true => Ok(()),
        false => Err(damaged(&path, "it lacks its last entries")),
    }
}
