//! What the machine can do without any database: durable writes to files that were written before,
//! with `O_DIRECT` and `O_DSYNC`, and round trips over loopback.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use wal::BLOCK;

use crate::histogram::Latencies;
use crate::load::now;

/// The files are written from their start again when they are full.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes of a message of a round trip: about those of a small write and its reply.
const MESSAGE_BYTES: usize = 64;

/// A file whose blocks are all on the disk, opened for durable writes; removed when dropped.
struct Prepared {
    file: File,
    path: PathBuf,
    at: u64,
}

impl Prepared {
    fn new(directory: &Path, number: usize) -> std::io::Result<Self> {
        let path = directory.join(format!("yardstick-{}-{number}", std::process::id()));
        let mut file = File::create(&path)?;
        let zeroes = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES >> 20 {
            file.write_all(&zeroes)?;
        }
        file.sync_all()?;
        let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
        let flags = i32::try_from(flags).expect("flags of open(2) are an int");
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(&path)?;
        Ok(Self { file, path, at: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.at + bytes.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Bytes for direct writes: where they lie, and from where on they are aligned.
fn aligned(bytes: usize) -> (Vec<u8>, usize) {
    let buffer = vec![b'y'; bytes + BLOCK];
    let start = buffer.as_ptr().align_offset(BLOCK);
    (buffer, start)
}

/// The latency of one durable write of 4 KiB and two round trips over loopback, one behind the other.
pub(crate) fn write_and_round_trips(
    directory: &Path,
    length: Duration,
) -> Result<Latencies, String> {
    let failed = |error: std::io::Error| format!("yardstick: {error}");
    let mut file = Prepared::new(directory, 0).map_err(failed)?;
    let (buffer, start) = aligned(BLOCK);
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let mut peer = TcpStream::connect(address).map_err(failed)?;
    let (stream, _) = listener.accept().map_err(failed)?;
    for end in [&peer, &stream] {
        end.set_nodelay(true).map_err(failed)?;
    }
    // Each on a core of its own, as nodes are: the first two.
    std::thread::scope(|scope| {
        scope.spawn(move || {
            pin(1);
            echo(stream);
        });
        let client = scope.spawn(move || {
            pin(0);
            let mut message = [0; MESSAGE_BYTES];
            let mut latencies = Latencies::new();
            let end = now() + length;
            while now() < end {
                let begun = now();
                file.write(&buffer[start..start + BLOCK])?;
                for _ in 0..2 {
                    peer.write_all(&message)?;
                    peer.read_exact(&mut message)?;
                }
                latencies.record_many(begun.elapsed(), 1);
            }
            Ok(latencies)
        });
        let measured = client
            .join()
            .map_err(|_| "the yardstick panicked".to_owned())?;
        measured.map_err(failed)
    })
}

fn pin(core: usize) {
    if let Some(core) = core_affinity::get_core_ids().unwrap_or_default().get(core) {
        core_affinity::set_for_current(*core);
    }
}

/// Answers until the connection is closed.
fn echo(mut stream: TcpStream) {
    let mut message = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut message).is_ok() {
        if stream.write_all(&message).is_err() {
            return;
        }
    }
}

/// Bytes a second that the disk takes from so many writers, each to a file of its own with so many
/// durable writes of `flush_bytes` (rounded up to blocks) under way.
pub(crate) fn disk_limit(
    directory: &Path,
    writers: usize,
    in_flight: usize,
    flush_bytes: usize,
    length: Duration,
) -> Result<f64, String> {
    let failed = |error: std::io::Error| format!("yardstick: {error}");
    let bytes = flush_bytes.next_multiple_of(BLOCK).min(16 << 20);
    let files = (0..writers * in_flight).map(|number| Prepared::new(directory, number));
    let files: Vec<Prepared> = files.collect::<Result<_, _>>().map_err(failed)?;
    let begun = now();
    let end = begun + length;
    let written = std::thread::scope(|scope| {
        let writers: Vec<_> = files
            .into_iter()
            .map(|mut file| {
                scope.spawn(move || {
                    let (buffer, start) = aligned(bytes);
                    let mut written = 0;
                    while now() < end {
                        file.write(&buffer[start..start + bytes])?;
                        written += bytes as u64;
                    }
                    Ok(written)
                })
            })
            .collect();
        let joined = writers.into_iter().map(|writer| {
            let written = writer.join().map_err(|_| "a writer panicked".to_owned())?;
            written.map_err(failed)
        });
        joined.sum::<Result<u64, String>>()
    })?;
    Ok(written as f64 / begun.elapsed().as_secs_f64())
}
