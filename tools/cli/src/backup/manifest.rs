//! What a backup consists of: `MANIFEST.json`, written last.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::BackupError;

pub(super) const NAME: &str = "MANIFEST.json";
const FORMAT: u64 = 1;

/// What is in a backup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) cluster: String,
    pub(crate) created_unix_ms: u64,
    /// One of each group, in their order.
    pub(crate) files: Vec<File>,
}

/// The snapshot of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) group: u64,
    pub(crate) bytes: u64,
    /// Over the checksums of all its parts.
    pub(crate) crc: u64,
    pub(crate) keys: u64,
}

impl Manifest {
    pub(crate) fn read(directory: &Path) -> Result<Self, BackupError> {
        let no = |reason: String| BackupError::Manifest {
            path: directory.to_owned(),
            reason,
        };
        let text = fs::read_to_string(directory.join(NAME)).map_err(|it| no(it.to_string()))?;
        let value: Value = serde_json::from_str(&text).map_err(|it| no(it.to_string()))?;
        if value["format"] != FORMAT {
            let format = &value["format"];
            return Err(no(format!(
                "it has format {format}, this build reads {FORMAT}"
            )));
        }
        let manifest = Self::parse(&value).ok_or_else(|| no("fields are missing".into()))?;
        let groups = value["groups"].as_u64().unwrap_or(u64::MAX);
        let complete = (0..groups).eq(manifest.files.iter().map(|file| file.group));
        if complete {
            Ok(manifest)
        } else {
            Err(no(format!(
                "it does not name one file for each of {groups} groups"
            )))
        }
    }

    fn parse(value: &Value) -> Option<Self> {
        let file = |value: &Value| {
            let name = value["name"].as_str()?;
            // A name from elsewhere must not lead elsewhere.
            let plain = Path::new(name).file_name()?.to_str()? == name;
            plain.then_some(())?;
            Some(File {
                name: name.to_owned(),
                group: value["group"].as_u64()?,
                bytes: value["bytes"].as_u64()?,
                crc: value["crc"].as_u64()?,
                keys: value["keys"].as_u64()?,
            })
        };
        Some(Self {
            cluster: value["cluster"].as_str()?.to_owned(),
            created_unix_ms: value["created_unix_ms"].as_u64()?,
            files: value["files"]
                .as_array()?
                .iter()
                .map(file)
                .collect::<Option<_>>()?,
        })
    }

    /// Makes the backup one.
    pub(crate) fn write(&self, directory: &Path) -> std::io::Result<()> {
        let path = directory.join(NAME);
        fs::write(&path, self.text())?;
        fs::File::open(&path)?.sync_all()?;
        fs::File::open(directory)?.sync_all()
    }

    /// What the file holds.
    pub(crate) fn text(&self) -> String {
        let files = self.files.iter().map(|file| {
            let File {
                name,
                group,
                bytes,
                crc,
                keys,
            } = file;
            json!({ "name": name, "group": group, "bytes": bytes, "crc": crc, "keys": keys })
        });
        let value = json!({
            "format": FORMAT,
            "cluster": self.cluster,
            "created_unix_ms": self.created_unix_ms,
            "groups": self.files.len(),
            "files": files.collect::<Vec<_>>(),
        });
        format!("{value:#}\n")
    }

    pub(crate) fn told(&self, what: &str) -> String {
        let keys: u64 = self.files.iter().map(|file| file.keys).sum();
        let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        let groups = self.files.len();
        let cluster = &self.cluster;
        format!("backup of cluster {cluster}: {groups} groups, {keys} keys, {bytes} bytes: {what}")
    }
}
