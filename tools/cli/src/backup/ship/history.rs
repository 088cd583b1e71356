//! A group's history up to what was fetched of it: its state, and which keys the standby may hold as they were.

use std::collections::BTreeSet;
use std::path::Path;

use engine::batch::Batch;
use engine::io::import::Listed;
use engine::kv::{Item, Items, Kv};
use engine::snapshot::{Header, machine};
use engine::state_machine::StateMachine;
use net::command::Unit;
use net::{Command, Reply};
use wal::{Entry, EntryKind, GroupId, LogIndex, encode_entry};

use super::super::entries::named;
use super::super::log::{Entries, chunks, header, write_state};
use super::super::point::{index_of, restored, term_of};
use super::super::restore::walk;
use super::super::{BackupError, damaged};
use super::ShipError;
use super::book::{Shipped, is_state};
use super::standby::Standby;

/// Epochs of a cluster begin their terms at multiples of this.
const EPOCH_TERMS: u32 = 32;

pub(super) struct History {
    group: u64,
    /// None before the first state is there.
    kv: Option<Kv>,
    /// The last entry that is applied, its term, and the checksum of its record if that was seen.
    pub(super) last: u64,
    term: u64,
    mark: Option<u32>,
    /// Keys of which the standby may hold something else than the state, or of all if `everything` is set.
    changed: BTreeSet<Vec<u8>>,
    everything: bool,
    /// Keys have had expiries: the standby counts them by a clock of its own.
    pub(super) expires: bool,
}

impl History {
    pub(super) fn new(group: u64) -> Self {
        Self {
            group,
            kv: None,
            last: 0,
            term: 0,
            mark: None,
            changed: BTreeSet::new(),
            everything: false,
            expires: false,
        }
    }

    /// As it was when it was put down.
    pub(super) fn load(directory: &Path, shipped: &Shipped) -> Result<Self, BackupError> {
        let mut history = Self::new(shipped.group);
        for part in &shipped.parts {
            history.add(directory, part, shipped.sent)?;
        }
        match history.last >= shipped.sent {
            true => Ok(history),
            false => Err(damaged(directory, "a part of what was shipped is missing")),
        }
    }

    /// Goes on with a part. The standby has what is in it if that is not behind `sent`.
    pub(super) fn add(
        &mut self,
        directory: &Path,
        part: &Listed,
        sent: u64,
    ) -> Result<(), BackupError> {
        let path = directory.join(&part.name);
        let cluster = header(&path)?.cluster;
        let verified = part.verify(directory, &cluster);
        verified.map_err(|what| damaged(&path, what))?;
        match is_state(part) {
            true => self.replace(&path, index_of(&part.name) > sent)?,
            false => self.replay(&path, sent)?,
        }
        (self.last, self.term) = (index_of(&part.name), term_of(&part.name));
        self.expires |= self.kv().next_expiry().is_some();
        Ok(())
    }

    fn kv(&self) -> &Kv {
        self.kv.as_ref().expect("its first part is a state")
    }

    pub(super) fn has_state(&self) -> bool {
        self.kv.is_some()
    }

    /// The newest stamp of a leader that was applied.
    pub(super) fn clock(&self) -> u64 {
        self.kv.as_ref().map_or(0, Kv::clock)
    }

    pub(super) fn keys(&self) -> u64 {
        self.kv.as_ref().map_or(0, StateMachine::keys)
    }

    /// A state takes the place of what there was.
    fn replace(&mut self, path: &Path, is_new: bool) -> Result<(), BackupError> {
        let kv = restored(path)?;
        self.mark = None;
        if is_new && let Some(mut old) = self.kv.take() {
            let changed = &mut self.changed;
            each_key(&mut old, |key, _| {
                if value(&kv, key).is_none() {
                    changed.insert(key.to_vec());
                }
            })?;
        }
        self.everything |= is_new;
        self.kv = Some(kv);
        Ok(())
    }

    fn replay(&mut self, path: &Path, sent: u64) -> Result<(), BackupError> {
        let group = u32::try_from(self.group).map_err(|it| damaged(path, it))?;
        let group = GroupId::from_raw(group);
        let mut reader = Entries::new(group, LogIndex::from_raw(self.last));
        let Self {
            kv, changed, mark, ..
        } = self;
        let kv = kv
            .as_mut()
            .ok_or_else(|| damaged(path, "it follows no state"))?;
        let mut replies = Vec::new();
        chunks(path, |chunk| {
            let read = reader.read(chunk, |entry| {
                if entry.kind == EntryKind::Batch {
                    let batch = Batch::access(&entry.payload).map_err(|it| it.to_string())?;
                    if entry.index.to_raw() > sent {
                        note(&batch, kv, changed)?;
                    }
                    kv.apply(&batch, &mut replies);
                    replies.clear();
                }
                *mark = Some(mark_of(group, &entry));
                Ok(true)
            });
            read.map_err(|it| damaged(path, it))
        })
    }

    /// Refuses a history that has another entry where the last was.
    pub(super) fn continues(&self, entry: &Entry) -> Result<(), ShipError> {
        let group = GroupId::from_raw(u32::try_from(self.group).unwrap_or(u32::MAX));
        let term = entry.term.to_raw();
        if term != self.term {
            return Err(self.diverged(&format!("entry {} is of term {term}", self.last)));
        }
        match self.mark {
            Some(mark) if mark != mark_of(group, entry) => {
                let what = format!("entry {} holds something else", self.last);
                Err(self.diverged(&what))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a state that cannot be a later one: entries that would tell are not there any more.
    pub(super) fn is_succeeded(&self, name: &str) -> Result<(), ShipError> {
        let (index, term) = (index_of(name), term_of(name));
        let same_epoch = term >> EPOCH_TERMS == self.term >> EPOCH_TERMS;
        match self.last == 0 || (index >= self.last && term >= self.term && same_epoch) {
            true => Ok(()),
            false => Err(self.diverged(&format!(
                "what is left begins with entry {index} of term {term}"
            ))),
        }
    }

    pub(super) fn diverged(&self, found: &str) -> ShipError {
        ShipError::Diverged {
            group: self.group,
            index: self.last,
            term: self.term,
            found: found.to_owned(),
        }
    }

    /// Writes what has changed, as it is now; how many keys that were. What was not written stays to be.
    pub(super) fn send(&mut self, standby: &mut Standby) -> Result<u64, BackupError> {
        let Some(kv) = &mut self.kv else { return Ok(0) };
        let mut batch = standby.batch();
        if self.everything {
            walk(kv, &mut |chunk| batch.put_all(Path::new("state"), chunk))?;
        }
        for key in &self.changed {
            match value(kv, key) {
                None => batch.delete(key)?,
                Some(_) if self.everything => {}
                Some((value, due)) => batch.put(key, &value, due)?,
            }
        }
        batch.send()?;
        let written = batch.written;
        self.changed.clear();
        self.everything = false;
        Ok(written)
    }

    /// Reads back what the standby should hold, and takes what differs for changed; how many keys that are.
    pub(super) fn compare(&mut self, standby: &mut Standby) -> Result<u64, BackupError> {
        let Some(kv) = &mut self.kv else { return Ok(0) };
        let before = self.changed.len();
        let changed = &mut self.changed;
        walk(kv, &mut |chunk| {
            let mut held = Vec::new();
            for item in Items::new(chunk) {
                if let Item::Entry { key, value, due } = item.map_err(unsound)? {
                    held.push((key, value, due));
                }
            }
            let differing = standby.differing(&held)?;
            changed.extend(differing.into_iter().map(<[u8]>::to_vec));
            Ok(())
        })?;
        Ok((self.changed.len() - before) as u64)
    }

    /// Writes the state to a file that takes the place of all parts.
    pub(super) fn write(
        &mut self,
        directory: &Path,
        shipped: &Shipped,
    ) -> Result<Listed, BackupError> {
        let last = shipped.parts.last().expect("there is a state at least");
        let kv = self.kv.as_mut().expect("there is a state at least");
        let header = Header {
            machine: machine::KV,
            items: kv.keys(),
            ..header(&directory.join(&last.name))?
        };
        write_state(kv, &header, directory)
    }

    /// How many keys go away by themselves.
    pub(super) fn expiring(&mut self) -> Result<u64, BackupError> {
        let mut expiring = 0;
        if let Some(kv) = &mut self.kv {
            each_key(kv, |_, due| expiring += u64::from(due.is_some()))?;
        }
        Ok(expiring)
    }
}

/// What names an entry among all that could be in its place.
fn mark_of(group: GroupId, entry: &Entry) -> u32 {
    let mut record = Vec::new();
    encode_entry(group, entry, &mut record);
    crc32c::crc32c(&record)
}

/// Adds the keys that a batch may change; in a state before it.
fn note(batch: &Batch<'_>, kv: &mut Kv, changed: &mut BTreeSet<Vec<u8>>) -> Result<(), String> {
    for command in batch.commands() {
        let command = Command::decode(command).map_err(|it| it.to_string())?;
        if command == Command::Flush {
            let all = each_key(kv, |key, _| {
                changed.insert(key.to_vec());
            });
            all.map_err(|it| it.to_string())?;
        }
        let keys = named(&command).1;
        if keys.is_empty() && command.is_write() && command != Command::Flush {
            return Err("it holds a write that this build cannot ship".into());
        }
        changed.extend(keys.into_iter().map(<[u8]>::to_vec));
    }
    Ok(())
}

fn each_key(kv: &mut Kv, mut each: impl FnMut(&[u8], Option<u64>)) -> Result<(), BackupError> {
    walk(kv, &mut |chunk| {
        for item in Items::new(chunk) {
            if let Item::Entry { key, due, .. } = item.map_err(unsound)? {
                each(key, due);
            }
        }
        Ok(())
    })
}

/// What this program wrote itself cannot be read.
fn unsound(error: impl ToString) -> BackupError {
    damaged(Path::new("state"), error)
}

/// A key's value, and when it goes away.
fn value(kv: &Kv, key: &[u8]) -> Option<(Vec<u8>, Option<u64>)> {
    let Reply::Bulk(value) = kv.read(0, usize::MAX, &Command::Get { key }) else {
        return None;
    };
    let unit = Unit::Milliseconds;
    let due = match kv.read(0, usize::MAX, &Command::TimeToLive { key, unit }) {
        Reply::Integer(left) => u64::try_from(left).ok().map(|left| kv.clock() + left),
        _ => None,
    };
    Some((value, due))
}
