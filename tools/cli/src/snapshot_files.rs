//! What the files of snapshots hold, and whether they are whole. Only reads.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use engine::io::import::{Flaw, verify};
use engine::snapshot::{Compression, Header, Summary};
use serde_json::{Value, json};
use wal::{GroupId, LogIndex, Term};

use crate::status::{columns, size};

/// One file, and what it is.
pub(crate) struct Finding {
    pub(crate) path: PathBuf,
    outcome: Result<(Header, Summary), Flaw>,
}

/// The snapshots at a path: a file, or all below a directory.
pub(crate) fn find(path: &Path) -> io::Result<Vec<Finding>> {
    let mut files = Vec::new();
    if path.is_dir() {
        gather(path, &mut files)?;
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let finding = |path: PathBuf| Finding {
        outcome: verify(&path),
        path,
    };
    Ok(files.into_iter().map(finding).collect())
}

/// Shards and the directories of their snapshots lie no deeper.
const DEPTH_MAX: usize = 3;

fn gather(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut directories = vec![(directory.to_owned(), 0)];
    while let Some((directory, depth)) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if depth < DEPTH_MAX {
                    directories.push((path, depth + 1));
                }
            } else if path.extension().is_some_and(|it| it == "snap") {
                files.push(path);
            }
        }
    }
    Ok(())
}

impl Finding {
    pub(crate) fn is_sound(&self) -> bool {
        self.outcome.is_ok()
    }

    /// What it is of, if it is whole.
    pub(crate) fn sound_position(&self) -> Option<(GroupId, LogIndex, Term)> {
        let (header, _) = self.outcome.as_ref().ok()?;
        Some((header.group, header.index, header.term))
    }

    /// What is wrong, in words.
    pub(crate) fn damage(&self) -> Option<String> {
        let flaw = self.outcome.as_ref().err()?;
        Some(format!("snapshot {}: {flaw}", self.path.display()))
    }

    pub(crate) fn json(&self) -> Value {
        let path = self.path.display().to_string();
        match &self.outcome {
            Err(flaw) => json!({ "path": path, "sound": false, "what": flaw.to_string() }),
            Ok((header, summary)) => json!({
                "path": path,
                "sound": true,
                "cluster": header.cluster,
                "instance": format!("{:016x}", header.instance),
                "group": header.group.to_raw(),
                "index": header.index.to_raw(),
                "term": header.term.to_raw(),
                "items": header.items,
                "created_unix_ms": header.created_unix_ms,
                "compression": compression(header),
                "members": header.membership.members.iter().map(|it| it.node.to_raw()).collect::<Vec<_>>(),
                "bytes": summary.bytes,
                "state_bytes": summary.chunk_bytes,
                "chunks": summary.chunks,
                "crc": format!("{:08x}", summary.crc),
            }),
        }
    }

    fn row(&self) -> Vec<String> {
        let name = self.path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        match &self.outcome {
            Err(flaw) => vec![name, format!("damaged: {flaw}")],
            Ok((header, summary)) => vec![
                name,
                header.group.to_string(),
                header.index.to_string(),
                header.term.to_string(),
                header.items.to_string(),
                size(summary.bytes),
                size(summary.chunk_bytes),
                compression(header).to_owned(),
                header.cluster.clone(),
            ],
        }
    }
}

fn compression(header: &Header) -> &'static str {
    match header.compression {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
    }
}

const COLUMNS: [&str; 9] = [
    "FILE",
    "GROUP",
    "INDEX",
    "TERM",
    "ITEMS",
    "SIZE",
    "STATE",
    "COMPRESSION",
    "CLUSTER",
];

/// A line for each.
pub(crate) fn table(findings: &[Finding]) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned).to_vec()];
    rows.extend(findings.iter().map(Finding::row));
    columns(&rows)
}
