//! `drakkar backup log`: who looks for the entry to go back to reads here what was written when. Keys are
//! shown, values never.

use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use engine::batch::Batch;
use net::Command;
use wal::{Entry, EntryKind, GroupId, LogIndex};

use super::log::{Entries, chunks};
use super::manifest::Manifest;
use super::point::index_of;
use super::{BackupError, damaged};
use crate::timestamp::Timestamp;

/// Of a command with many keys.
const KEYS_SHOWN: usize = 8;

#[derive(Args)]
pub(crate) struct Wanted {
    /// Of this group.
    #[arg(long)]
    group: u64,
    /// From this entry on.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Up to this entry.
    #[arg(long, default_value_t = u64::MAX)]
    last: u64,
    /// Writes to this key alone, and FLUSHALL.
    #[arg(long)]
    key: Option<String>,
}

/// Prints the writes in a backup that was verified; how many there are.
pub(super) fn show(
    directory: &Path,
    manifest: &Manifest,
    wanted: &Wanted,
    to: &mut impl Write,
) -> Result<u64, BackupError> {
    let group = wanted.group;
    let file = manifest.files.iter().find(|it| it.snapshot.group == group);
    let Some(file) = file else {
        let groups = manifest.files.iter().map(|it| it.snapshot.group).collect();
        return Err(BackupError::NotInBackup { group, groups });
    };
    let Some(log) = &file.log else { return Ok(0) };
    let path = directory.join(&log.name);
    let number = u32::try_from(group).map_err(|it| damaged(&path, it))?;
    let after = LogIndex::from_raw(index_of(&file.snapshot.name));
    let mut reader = Entries::new(GroupId::from_raw(number), after);
    let (mut shown, mut failed) = (0, None);
    chunks(&path, |chunk| {
        let read = reader.read(chunk, |entry| {
            let index = entry.index.to_raw();
            if (wanted.first..=wanted.last).contains(&index) {
                match print(&entry, wanted.key.as_deref(), to)? {
                    Ok(lines) => shown += lines,
                    Err(error) => failed = Some(error),
                }
            }
            Ok(index < wanted.last && failed.is_none())
        });
        read.map_err(|it| damaged(&path, it))
    })?;
    match failed {
        // Who has seen enough reads no further.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(BackupError::Io {
            path: "-".into(),
            error,
        }),
        _ => Ok(shown),
    }
}

/// A line for each command; how many there were.
fn print(entry: &Entry, key: Option<&str>, to: &mut impl Write) -> Result<io::Result<u64>, String> {
    if entry.kind != EntryKind::Batch {
        return Ok(Ok(0));
    }
    let batch = Batch::access(&entry.payload).map_err(|it| it.to_string())?;
    let time = Timestamp(batch.stamp_ms());
    let mut lines = 0;
    for command in batch.commands() {
        let command = Command::decode(command).map_err(|it| it.to_string())?;
        let (name, keys) = named(&command);
        let all = matches!(command, Command::Flush);
        if key.is_none_or(|key| all || keys.contains(&key.as_bytes())) {
            let shown = keys.iter().take(KEYS_SHOWN);
            let mut shown: Vec<String> = shown.map(|key| key.escape_ascii().to_string()).collect();
            if keys.len() > KEYS_SHOWN {
                shown.push(format!("and {} more", keys.len() - KEYS_SHOWN));
            }
            let shown = shown.join("  ");
            let line = format!("{}  {time}  {name}  {shown}", entry.index);
            if let Err(error) = writeln!(to, "{}", line.trim_end()) {
                return Ok(Err(error));
            }
            lines += 1;
        }
    }
    Ok(Ok(lines))
}

/// What a write is called, and the keys that it names.
pub(super) fn named<'a>(command: &Command<'a>) -> (&'static str, Vec<&'a [u8]>) {
    match *command {
        Command::Set { key, .. } => ("SET", vec![key]),
        Command::Increment { key, .. } => ("INCRBY", vec![key]),
        Command::Append { key, .. } => ("APPEND", vec![key]),
        Command::Expire { key, .. } => ("PEXPIRE", vec![key]),
        Command::Persist { key } => ("PERSIST", vec![key]),
        Command::Delete { keys } => ("DEL", keys.iter().collect()),
        Command::MultiSet { pairs } => ("MSET", pairs.iter().step_by(2).collect()),
        Command::Flush => ("FLUSHALL", Vec::new()),
        // Nothing else is written to a log.
        _ => ("READ", Vec::new()),
    }
}
