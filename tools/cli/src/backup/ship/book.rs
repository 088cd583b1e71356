//! What the standby holds, as it is remembered: a file that is replaced as a whole, and beside it what it
//! names: for each group a state, and the entries behind it that were fetched since.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use engine::io::import::Listed;
use serde_json::{Value, json};

use super::super::point::Extent;
use super::super::{BackupError, damaged};
use crate::timestamp::Timestamp;

const NAME: &str = "SHIPPED.json";
const PART: &str = "SHIPPED.part";
/// Whoever has it locked ships.
pub(super) const LOCK: &str = "lock";
const FORMAT: u64 = 1;
const STATE: &str = ".snap";
const LOG: &str = ".log";
/// What the logs of a group may take beside its state, and how many they may be, before they become part of it.
const LOGS_BYTES: u64 = 16 << 20;
const LOGS: usize = 1000;

/// What was shipped of a cluster.
pub(in super::super) struct Book {
    pub(super) directory: PathBuf,
    pub(in super::super) cluster: String,
    /// In their order.
    pub(in super::super) groups: Vec<Shipped>,
}

/// What was shipped of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Shipped {
    pub(in super::super) group: u64,
    /// States, and logs that follow each other. A state that is not the first is one that the log before it does not
    /// reach; the first is then needed to know what the standby holds and should not.
    pub(super) parts: Vec<Listed>,
    /// The standby holds everything up to this entry, and maybe some of what follows.
    pub(super) sent: u64,
    /// Whatever was written up to then, by the leader's clock, is in that.
    pub(super) until_unix_ms: u64,
}

impl Shipped {
    pub(super) fn new(group: u64) -> Self {
        Self {
            group,
            parts: Vec::new(),
            sent: 0,
            until_unix_ms: 0,
        }
    }

    /// The standby holds all of the parts.
    pub(super) fn was_sent(&mut self, last: u64, clock_ms: u64) {
        self.sent = last;
        self.until_unix_ms = self.until_unix_ms.max(clock_ms);
        let newest = self.parts.iter().rposition(is_state).unwrap_or(0);
        self.parts.drain(..newest);
    }

    /// Whether it takes more than its state would.
    pub(super) fn is_long(&self) -> bool {
        let bytes = |part: &Listed| part.bytes;
        let states: u64 = self.parts.iter().filter(|it| is_state(it)).map(bytes).sum();
        let all: u64 = self.parts.iter().map(bytes).sum();
        self.parts.len() > LOGS || all - states > LOGS_BYTES.max(states)
    }

    /// What the standby has, as of a backup.
    pub(in super::super) fn extent(&self) -> Extent {
        let until = Timestamp(self.until_unix_ms);
        Extent {
            group: self.group,
            first: self.sent,
            last: self.sent,
            from: until,
            until,
        }
    }

    fn parse(value: &Value) -> Option<Self> {
        let parts = value["parts"].as_array()?.iter();
        Some(Self {
            group: value["group"].as_u64()?,
            parts: parts
                .map(|part| Listed::parse(part, "items"))
                .collect::<Option<_>>()?,
            sent: value["sent"].as_u64()?,
            until_unix_ms: value["until_unix_ms"].as_u64()?,
        })
    }

    fn json(&self) -> Value {
        let parts = self.parts.iter().map(|part| part.json("items"));
        json!({
            "group": self.group,
            "parts": parts.collect::<Vec<_>>(),
            "sent": self.sent,
            "until_unix_ms": self.until_unix_ms,
        })
    }
}

/// Whether a file holds a state, and not a log.
pub(super) fn is_state(part: &Listed) -> bool {
    part.name.ends_with(STATE)
}

impl Book {
    pub(super) fn new(directory: &Path, cluster: &str, groups: Vec<Shipped>) -> Self {
        Self {
            directory: directory.to_owned(),
            cluster: cluster.to_owned(),
            groups,
        }
    }

    /// What is remembered in a directory, if anything is.
    pub(in super::super) fn read(directory: &Path) -> Result<Option<Self>, BackupError> {
        let path = directory.join(NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BackupError::Io { path, error }),
        };
        let value: Value = serde_json::from_str(&text).map_err(|it| damaged(&path, it))?;
        let (format, shipped) = (&value["format"], &value["shipped"]);
        if format != FORMAT {
            let what = format!("it has format {format}, this build reads {FORMAT}");
            return Err(damaged(&path, what));
        }
        if value["crc32c"] != checksum(shipped) {
            return Err(damaged(
                &path,
                "its bytes have changed since they were written",
            ));
        }
        let book = Self::parse(directory, shipped);
        book.map(Some)
            .ok_or_else(|| damaged(&path, "fields are missing"))
    }

    /// Whether there is nothing in a directory but what is left before anything is remembered.
    pub(super) fn is_absent(directory: &Path) -> Result<bool, BackupError> {
        let others = fs::read_dir(directory).and_then(|entries| {
            let names: Vec<_> = entries
                .map(|entry| Ok(entry?.file_name()))
                .collect::<std::io::Result<_>>()?;
            Ok(names.iter().any(|name| name != LOCK && name != PART))
        });
        let path = || directory.to_owned();
        others.map(|any| !any).map_err(|error| BackupError::Io {
            path: path(),
            error,
        })
    }

    fn parse(directory: &Path, value: &Value) -> Option<Self> {
        let groups = value["groups"].as_array()?.iter().map(Shipped::parse);
        let groups = groups.collect::<Option<Vec<_>>>()?;
        Some(Self::new(directory, value["cluster"].as_str()?, groups))
    }

    /// Replaces what was remembered, durably.
    pub(super) fn write(&self) -> Result<(), BackupError> {
        let groups: Vec<Value> = self.groups.iter().map(Shipped::json).collect();
        let shipped = json!({ "cluster": self.cluster, "groups": groups });
        let text = json!({ "format": FORMAT, "crc32c": checksum(&shipped), "shipped": shipped });
        let (path, part) = (self.directory.join(NAME), self.directory.join(PART));
        let written = File::create(&part).and_then(|mut file| {
            writeln!(file, "{text:#}")?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            File::open(&self.directory)?.sync_all()
        });
        written.map_err(|error| BackupError::Io { path, error })
    }

    /// Removes files that are of no use any more.
    pub(super) fn sweep(&self) -> Result<(), BackupError> {
        let io = |error| BackupError::Io {
            path: self.directory.clone(),
            error,
        };
        let parts = || self.groups.iter().flat_map(|group| &group.parts);
        for entry in fs::read_dir(&self.directory).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let ours = [STATE, LOG, ".part"].iter().any(|end| name.ends_with(end));
            if ours && !parts().any(|part| part.name == name) {
                fs::remove_file(entry.path()).map_err(io)?;
            }
        }
        Ok(())
    }
}

/// Of what a value is written as: its fields are in the order of their names.
fn checksum(value: &Value) -> u64 {
    crc32c::crc32c(value.to_string().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str) -> Listed {
        Listed {
            name: name.to_owned(),
            group: 0,
            bytes: 4096,
            crc: 7,
            items: 2,
        }
    }

    fn book(directory: &Path) -> Book {
        let mut shipped = Shipped::new(0);
        shipped.parts = vec![part("0-1-1.snap"), part("0-5-1.log"), part("0-9-2.snap")];
        (shipped.sent, shipped.until_unix_ms) = (5, 1000);
        Book::new(directory, "prod", vec![shipped, Shipped::new(1)])
    }

    #[test]
    fn what_is_remembered_comes_back_and_no_changed_byte_of_it_does() {
        let directory = std::env::temp_dir().join(format!("drakkar-book-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        assert!(Book::read(&directory).unwrap().is_none());
        let book = book(&directory);
        book.write().unwrap();
        let found = Book::read(&directory).unwrap().unwrap();
        assert_eq!((found.cluster, found.groups), (book.cluster, book.groups));
        let path = directory.join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        for (at, byte) in text.bytes().enumerate() {
            if !byte.is_ascii_alphanumeric() {
                continue;
            }
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(Book::read(&directory).is_err(), "byte {at} of {text}");
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn parts_before_the_newest_state_go_once_the_standby_has_it() {
        let mut shipped = book(Path::new("")).groups.remove(0);
        shipped.was_sent(9, 500);
        assert_eq!(shipped.parts, [part("0-9-2.snap")]);
        assert_eq!((shipped.sent, shipped.until_unix_ms), (9, 1000));
    }

    #[test]
    fn logs_become_part_of_the_state_when_they_are_many_or_larger_than_it() {
        let sized = |logs: &[u64], state| {
            let mut shipped = Shipped::new(0);
            let with = |name, bytes| Listed {
                bytes,
                ..part(name)
            };
            shipped.parts.push(with("0-1-1.snap", state));
            shipped
                .parts
                .extend(logs.iter().map(|&bytes| with("0-2-1.log", bytes)));
            shipped.is_long()
        };
        assert!(!sized(&[], LOGS_BYTES));
        assert!(!sized(&[LOGS_BYTES], 1));
        assert!(sized(&[LOGS_BYTES, 1], 1));
        assert!(!sized(&[LOGS_BYTES, 1], LOGS_BYTES + 1));
        assert!(sized(&[1; LOGS], 1));
    }
}
