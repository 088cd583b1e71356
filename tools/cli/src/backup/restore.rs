//! From files to keys of a running cluster.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use engine::kv::{Item, Items};
use engine::snapshot::{Decoder, Event};
use redis::cluster::{ClusterClient, ClusterConnection, cluster_pipe};

use super::BackupError;
use super::manifest::Manifest;

const PIECE: usize = 1 << 20;
/// No limit allows longer values.
const CHUNK_BYTES_MAX: usize = 1 << 30;
/// Keys, and bytes, of one round trip.
const BATCH_KEYS: usize = 2000;
const BATCH_BYTES: usize = 4 << 20;

pub(super) fn restore(
    directory: &Path,
    manifest: &Manifest,
    to: &[String],
    over: bool,
) -> Result<String, BackupError> {
    let nodes = to.iter().map(|endpoint| format!("redis://{endpoint}"));
    let client = ClusterClient::new(nodes.collect::<Vec<_>>())?;
    let mut connection = client.get_connection()?;
    let keys: u64 = redis::cmd("DBSIZE").query(&mut connection)?;
    if keys > 0 && !over {
        return Err(BackupError::Holds { keys });
    }
    let mut batch = Batch::new(&mut connection);
    for file in &manifest.files {
        read(&directory.join(&file.name), &mut batch)?;
    }
    batch.send()?;
    let written = batch.written;
    Ok(manifest.told(&format!("{written} keys were written")))
}

fn read(path: &Path, batch: &mut Batch<'_>) -> Result<(), BackupError> {
    let io = |error| BackupError::Io {
        path: path.to_owned(),
        error,
    };
    let damaged = |what: String| BackupError::Damaged {
        path: path.to_owned(),
        what,
    };
    let mut file = File::open(path).map_err(io)?;
    let mut decoder = Decoder::new(CHUNK_BYTES_MAX);
    let mut piece = vec![0; PIECE];
    loop {
        let bytes = file.read(&mut piece).map_err(io)?;
        decoder.push(&piece[..bytes]);
        while let Some(event) = decoder.next().map_err(|it| damaged(it.to_string()))? {
            let Event::Chunk(chunk) = event else { continue };
            for item in Items::new(chunk) {
                if let Item::Entry { key, value, due } =
                    item.map_err(|it| damaged(it.to_string()))?
                {
                    batch.put(key, value, due)?;
                }
            }
        }
        if bytes == 0 {
            break;
        }
    }
    decoder.finish().map_err(|it| damaged(it.to_string()))?;
    Ok(())
}

/// Keys that are written in one round trip.
struct Batch<'a> {
    connection: &'a mut ClusterConnection,
    pipe: redis::cluster::ClusterPipeline,
    keys: usize,
    bytes: usize,
    written: u64,
}

impl<'a> Batch<'a> {
    fn new(connection: &'a mut ClusterConnection) -> Self {
        Self {
            connection,
            pipe: cluster_pipe(),
            keys: 0,
            bytes: 0,
            written: 0,
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8], due: Option<u64>) -> Result<(), BackupError> {
        let set = self.pipe.cmd("SET").arg(key).arg(value);
        if let Some(due) = due {
            set.arg("PXAT").arg(due);
        }
        set.ignore();
        self.keys += 1;
        self.bytes += key.len() + value.len();
        if self.keys >= BATCH_KEYS || self.bytes >= BATCH_BYTES {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), BackupError> {
        if self.keys > 0 {
            self.pipe.query::<()>(self.connection)?;
            self.written += self.keys as u64;
        }
        self.pipe = cluster_pipe();
        (self.keys, self.bytes) = (0, 0);
        Ok(())
    }
}
