//! From files to keys of a running cluster.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use engine::kv::{Item, Items, Kv};
use engine::state_machine::StateMachine;
use redis::cluster::{ClusterClient, ClusterConnection, cluster_pipe};
use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::log::chunks;
use super::manifest::{File, Manifest};
use super::point::{Point, Points, state};
use super::{BackupError, damaged};

/// Of a state that is written from memory.
const CHUNK_BYTES: usize = 1 << 20;
/// Keys, and bytes, of one round trip.
const BATCH_KEYS: usize = 2000;
const BATCH_BYTES: usize = 4 << 20;
/// While leaders change a cluster does not answer. How long it is asked again, and how soon: before it is certain
/// that it serves, and afterwards.
const STARTS: Duration = Duration::from_secs(10);
const WRITES: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);
/// A node answers when its own patience has ended, if not before; one that was stopped never does.
const CONNECT_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Tries again what a cluster could not do just now.
#[expect(clippy::disallowed_methods, reason = "patience ends by the clock")]
fn patiently<T>(
    patience: Duration,
    mut ask: impl FnMut() -> Result<T, RedisError>,
) -> Result<T, RedisError> {
    let refused = |error: &RedisError| {
        matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::AuthenticationFailed
        )
    };
    let start = Instant::now();
    loop {
        match ask() {
            Err(error) if !refused(&error) && start.elapsed() < patience => sleep(PAUSE),
            done => return done,
        }
    }
}

/// Connects to a cluster, which may have only begun to serve.
pub(super) fn connect(to: &[String]) -> Result<ClusterConnection, RedisError> {
    connect_within(to, ANSWER_MAX, STARTS)
}

fn connect_within(
    to: &[String],
    answer_max: Duration,
    patience: Duration,
) -> Result<ClusterConnection, RedisError> {
    let nodes = to.iter().map(|endpoint| format!("redis://{endpoint}"));
    let client = ClusterClient::builder(nodes.collect::<Vec<_>>())
        .connection_timeout(CONNECT_MAX)
        .response_timeout(answer_max)
        .build()?;
    patiently(patience, || client.get_connection())
}

pub(super) fn restore(
    directory: &Path,
    manifest: &Manifest,
    points: &Points,
    to: &[String],
    over: bool,
) -> Result<String, BackupError> {
    let mut connection = connect(to)?;
    // The sum over all nodes, each of which counts its own keys, or those of all if it is a proxy.
    let keys: u64 = patiently(STARTS, || redis::cmd("DBSIZE").query(&mut connection))?;
    if keys > 0 && !over {
        return Err(BackupError::Holds);
    }
    let mut batch = Batch::new(&mut connection);
    let mut reached = String::new();
    for file in &manifest.files {
        let group = file.snapshot.group;
        let path = directory.join(&file.snapshot.name);
        let mut put = |chunk: &[u8]| batch.put_all(&path, chunk);
        let last = each_chunk(directory, file, points.of(group), &mut put)?;
        if let Some(last) = last.filter(|_| points.any()) {
            reached.push_str(&format!("\ngroup {group} as of entry {last}"));
        }
    }
    batch.send()?;
    let written = batch.written;
    Ok(manifest.told(&format!("{written} keys were written")) + &reached)
}

/// Hands out the state of a group as of a point, in chunks; gives the last entry in it unless that is all
/// there is.
pub(super) fn each_chunk(
    directory: &Path,
    file: &File,
    point: Point,
    each: &mut impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<Option<u64>, BackupError> {
    if file.log.is_none() && point == Point::End {
        let path = directory.join(&file.snapshot.name);
        chunks(&path, |chunk| each(chunk).map(|()| true))?;
        return Ok(None);
    }
    let (mut kv, last) = state(directory, file, point)?;
    walk(&mut kv, each)?;
    Ok(Some(last))
}

/// Hands out a state in chunks.
pub(super) fn walk(
    kv: &mut Kv,
    each: &mut impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    kv.snapshot_begin();
    let (mut chunk, mut more) = (Vec::new(), true);
    while more {
        chunk.clear();
        more = kv.snapshot_next(CHUNK_BYTES, &mut chunk);
        if let Err(error) = each(&chunk) {
            if more {
                kv.snapshot_abort();
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Keys that are written in one round trip.
pub(super) struct Batch<'a> {
    connection: &'a mut ClusterConnection,
    pipe: redis::cluster::ClusterPipeline,
    keys: usize,
    bytes: usize,
    pub(super) written: u64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(connection: &'a mut ClusterConnection) -> Self {
        Self {
            connection,
            pipe: cluster_pipe(),
            keys: 0,
            bytes: 0,
            written: 0,
        }
    }

    /// Writes the keys of a chunk, which is from this file.
    pub(super) fn put_all(&mut self, path: &Path, chunk: &[u8]) -> Result<(), BackupError> {
        for item in Items::new(chunk) {
            match item {
                Ok(Item::Entry { key, value, due }) => self.put(key, value, due)?,
                Ok(_) => {}
                Err(error) => return Err(damaged(path, error)),
            }
        }
        Ok(())
    }

    pub(super) fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        due: Option<u64>,
    ) -> Result<(), BackupError> {
        let set = self.pipe.cmd("SET").arg(key).arg(value);
        if let Some(due) = due {
            set.arg("PXAT").arg(due);
        }
        set.ignore();
        self.added(key.len() + value.len())
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> Result<(), BackupError> {
        self.pipe.cmd("DEL").arg(key).ignore();
        self.added(key.len())
    }

    fn added(&mut self, bytes: usize) -> Result<(), BackupError> {
        self.keys += 1;
        self.bytes += bytes;
        if self.keys >= BATCH_KEYS || self.bytes >= BATCH_BYTES {
            self.send()?;
        }
        Ok(())
    }

    pub(super) fn send(&mut self) -> Result<(), BackupError> {
        if self.keys > 0 {
            // To write or delete a key once more changes nothing.
            patiently(WRITES, || self.pipe.query::<()>(self.connection))?;
            self.written += self.keys as u64;
        }
        self.pipe = cluster_pipe();
        (self.keys, self.bytes) = (0, 0);
        Ok(())
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "who answers nothing is a thread of the test"
)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers what is asked before the first command, and nothing after that.
    fn stops(listener: TcpListener) {
        let port = listener.local_addr().unwrap().port();
        let slots = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n");
        for stream in listener.incoming() {
            let (mut stream, slots) = (stream.unwrap(), slots.clone());
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(end @ 1..) = stream.read(&mut bytes) {
                    let asked = String::from_utf8_lossy(&bytes[..end]).into_owned();
                    let mut answers = "+OK\r\n".repeat(asked.matches("SETINFO").count());
                    answers += &slots.repeat(asked.matches("SLOTS").count());
                    answers += &"+PONG\r\n".repeat(asked.matches("PING").count());
                    drop(stream.write_all(answers.as_bytes()));
                }
            });
        }
    }

    #[test]
    fn a_node_that_stops_is_not_waited_for_without_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        thread::spawn(|| stops(listener));
        let short = Duration::from_millis(50);
        let mut connection = connect_within(&[endpoint], short, WRITES).unwrap();
        let counted = redis::cmd("DBSIZE").query::<u64>(&mut connection);
        assert!(counted.is_err());
    }
}
