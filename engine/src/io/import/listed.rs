//! What the manifest of a backup or an export says of a file, and whether it is that file.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::file;
use crate::snapshot::{Header, Summary};

/// A file in the format of snapshots, as a manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub group: u64,
    pub bytes: u64,
    /// Over the checksums of all its parts.
    pub crc: u64,
    /// Keys of a state, entries of a log.
    pub items: u64,
}

impl Listed {
    pub fn new(name: String, header: &Header, summary: &Summary) -> Self {
        Self {
            name,
            group: u64::from(header.group.to_raw()),
            bytes: summary.bytes,
            crc: u64::from(summary.crc),
            items: header.items,
        }
    }

    /// Reads what [`Listed::json`] wrote.
    pub fn parse(value: &Value, items: &str) -> Option<Self> {
        let name = value["name"].as_str()?;
        // A name from elsewhere must not lead elsewhere.
        let plain = Path::new(name).file_name()?.to_str()? == name;
        plain.then_some(())?;
        Some(Self {
            name: name.to_owned(),
            group: value["group"].as_u64()?,
            bytes: value["bytes"].as_u64()?,
            crc: value["crc"].as_u64()?,
            items: value[items].as_u64()?,
        })
    }

    /// `items` says what is counted.
    pub fn json(&self, items: &str) -> Value {
        let Self {
            name,
            group,
            bytes,
            crc,
            items: count,
        } = self;
        json!({ "name": name, "group": group, "bytes": bytes, "crc": crc, (items): count })
    }

    /// Reads every byte of the file: it is whole, and the one that is listed. Otherwise says why not.
    pub fn verify(&self, directory: &Path, cluster: &str) -> Result<Header, String> {
        let path = directory.join(&self.name);
        let (header, summary) = file::verify(&path).map_err(|flaw| flaw.to_string())?;
        let found = Self::new(self.name.clone(), &header, &summary);
        if header.cluster == cluster && found == *self {
            Ok(header)
        } else {
            Err("it is not the file that the manifest names".into())
        }
    }
}

/// Puts a manifest beside the files that it lists, durably.
pub fn write_manifest(directory: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let path = directory.join(name);
    fs::write(&path, text)?;
    fs::File::open(&path)?.sync_all()?;
    fs::File::open(directory)?.sync_all()
}
