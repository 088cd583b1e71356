//! What a backup consists of: `MANIFEST.json`, written last.

use std::fs;
use std::path::Path;

use engine::io::import::{Listed, write_manifest};
use serde_json::{Value, json};

use super::BackupError;

pub(super) const NAME: &str = "MANIFEST.json";
/// One snapshot of each group.
const STATES: u64 = 1;
/// The same with logs, or of some groups only. Who does not know of these would restore something else.
const PARTS: u64 = 2;

/// What is in a backup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) cluster: String,
    pub(crate) created_unix_ms: u64,
    /// Groups of the cluster.
    pub(crate) groups: u64,
    /// One of each group, or of one group alone, in their order.
    pub(crate) files: Vec<File>,
}

/// What there is of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) snapshot: Listed,
    /// The entries that follow the snapshot, if there are any.
    pub(crate) log: Option<Listed>,
    /// Whatever was written up to then, by its leader's clock, is in the log. `None` without logs.
    pub(crate) until_unix_ms: Option<u64>,
}

impl File {
    fn parse(value: &Value) -> Option<Self> {
        let snapshot = Listed::parse(value, "keys")?;
        let log = match &value["log"] {
            Value::Null => None,
            log => Some(Listed::parse(log, "entries").filter(|log| log.group == snapshot.group)?),
        };
        Some(Self {
            snapshot,
            log,
            until_unix_ms: value["until_unix_ms"].as_u64(),
        })
    }

    fn json(&self) -> Value {
        let mut value = self.snapshot.json("keys");
        if let Some(log) = &self.log {
            value["log"] = log.json("entries");
        }
        if let Some(until) = self.until_unix_ms {
            value["until_unix_ms"] = until.into();
        }
        value
    }
}

impl Manifest {
    pub(crate) fn read(directory: &Path) -> Result<Self, BackupError> {
        let no = |reason: String| BackupError::Manifest {
            path: directory.to_owned(),
            reason,
        };
        let text = fs::read_to_string(directory.join(NAME)).map_err(|it| no(it.to_string()))?;
        let value: Value = serde_json::from_str(&text).map_err(|it| no(it.to_string()))?;
        if value["format"] != STATES && value["format"] != PARTS {
            let format = &value["format"];
            return Err(no(format!(
                "it has format {format}, this build reads {STATES} and {PARTS}"
            )));
        }
        let manifest = Self::parse(&value).ok_or_else(|| no("fields are missing".into()))?;
        let groups = manifest.groups;
        let found = manifest.files.iter().map(|file| file.snapshot.group);
        let expected = match value["only"].as_u64() {
            Some(only) => only..only.saturating_add(1).min(groups),
            None => 0..groups,
        };
        if !expected.is_empty() && found.eq(expected) {
            Ok(manifest)
        } else {
            Err(no(format!(
                "it does not name one file for each of {groups} groups"
            )))
        }
    }

    fn parse(value: &Value) -> Option<Self> {
        let files = value["files"].as_array()?.iter().map(File::parse);
        Some(Self {
            cluster: value["cluster"].as_str()?.to_owned(),
            created_unix_ms: value["created_unix_ms"].as_u64()?,
            groups: value["groups"].as_u64()?,
            files: files.collect::<Option<_>>()?,
        })
    }

    /// Makes the backup one.
    pub(crate) fn write(&self, directory: &Path) -> std::io::Result<()> {
        write_manifest(directory, NAME, &self.text())
    }

    /// What the file holds.
    pub(crate) fn text(&self) -> String {
        let with_logs = self.files.iter().any(|file| file.until_unix_ms.is_some());
        let partial = self.files.len() as u64 != self.groups;
        let format = if with_logs || partial { PARTS } else { STATES };
        let mut value = json!({
            "format": format,
            "cluster": self.cluster,
            "created_unix_ms": self.created_unix_ms,
            "groups": self.groups,
            "files": self.files.iter().map(File::json).collect::<Vec<_>>(),
        });
        if partial {
            value["only"] = self.files[0].snapshot.group.into();
        }
        format!("{value:#}\n")
    }

    pub(crate) fn told(&self, what: &str) -> String {
        let listed = self.files.iter().flat_map(|file| {
            let log = file.log.iter();
            log.chain([&file.snapshot])
        });
        let bytes: u64 = listed.map(|file| file.bytes).sum();
        let keys: u64 = self.files.iter().map(|file| file.snapshot.items).sum();
        let logs = self.files.iter().filter_map(|file| file.log.as_ref());
        let entries: u64 = logs.map(|log| log.items).sum();
        let (found, groups, cluster) = (self.files.len(), self.groups, &self.cluster);
        let groups = match found as u64 == groups {
            true => format!("{groups} groups"),
            false => format!("group {} of {groups}", self.files[0].snapshot.group),
        };
        let behind = match self.files.iter().any(|file| file.until_unix_ms.is_some()) {
            true => format!(" and {entries} entries behind them"),
            false => String::new(),
        };
        format!("backup of cluster {cluster}: {groups}, {keys} keys{behind}, {bytes} bytes: {what}")
    }
}
