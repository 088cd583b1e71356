//! Asks a node who it is, without being one. For tools; blocks.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use net::peer::{
    Cause, FrameKind, FrameReader, Hello, HelloReply, Manner, Refused, Standing, VERSION, frame,
};

const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub standing: Standing,
    /// The instance that the asking node's id is known with there; 0 if it is not known.
    pub known: u64,
    /// Whether it takes part in what its epoch decides: not while it waits for others, once.
    pub begun: bool,
    pub reason: String,
}

/// Asks the node `to` of a cluster at its peer address (`host:port`) how it knows the node `from`;
/// `None` if nobody answers there who speaks as a node does.
pub fn ask(cluster: &str, from: u32, to: u32, address: &str) -> Option<Answered> {
    let target = address.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let hello = Hello {
        cluster: cluster.to_owned(),
        from,
        to,
        shard: 0,
        version_min: VERSION,
        version_max: VERSION,
        instance: 0,
        fingerprint: 0,
        start: 0,
        manner: Manner::Asks,
        standing: Standing::default(),
    };
    let mut bytes = Vec::new();
    frame(FrameKind::Hello, &mut bytes, |body| hello.encode(body));
    stream.write_all(&bytes).ok()?;
    let mut frames = FrameReader::new(ANSWER_BYTES_MAX);
    loop {
        if let Some(frame) = frames.next_frame().ok()? {
            let reply = HelloReply::decode(frame.body).ok()?;
            let HelloReply::Refused(Refused {
                cause,
                standing,
                known,
                reason,
            }) = reply
            else {
                return None;
            };
            return Some(Answered {
                standing,
                known,
                begun: cause == Cause::Asked,
                reason,
            });
        }
        let read = stream.read(frames.space()).ok()?;
        if read == 0 {
            return None;
        }
        frames.filled(read);
    }
}
