//! What must survive any bytes: each function takes some and must neither panic nor run away.

use engine::batch::Batch;
use net::Command;
use net::peer::{FrameKind, FrameReader, Messages};
use net::resp::{Limits, Parser};
use wal::{BLOCK, Options, Payload, Replay, SegmentId};

/// A named target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("resp", resp),
    ("peer_frame", peer_frame),
    ("command", command),
    ("batch", batch),
    ("wal_replay", wal_replay),
];

/// A client's bytes: whole, and in two parts, which must mean the same.
pub fn resp(bytes: &[u8]) {
    let limits = Limits {
        bulk_bytes: 4096,
        arguments: 64,
        inline_bytes: 1024,
        command_bytes: 8192,
    };
    let mut parser = Parser::new(limits);
    let mut whole = Vec::new();
    let mut rest = bytes;
    while let Ok(Some(used)) = parser.parse(rest) {
        assert!(
            used <= rest.len() && used > 0,
            "a command of {used} bytes of {}",
            rest.len()
        );
        whole.push(
            parser
                .arguments(rest)
                .iter()
                .map(|argument| argument.to_vec())
                .collect::<Vec<_>>(),
        );
        rest = &rest[used..];
    }
    let mut parser = Parser::new(limits);
    let mut parts = Vec::new();
    let mut start = 0;
    for end in [bytes.len() / 2, bytes.len()] {
        while let Ok(Some(used)) = parser.parse(&bytes[start..end]) {
            let arguments = parser.arguments(&bytes[start..end]);
            parts.push(
                arguments
                    .iter()
                    .map(|argument| argument.to_vec())
                    .collect::<Vec<_>>(),
            );
            start += used;
        }
    }
    assert!(
        parts.starts_with(&whole) || whole.starts_with(&parts),
        "a split changes the meaning"
    );
}

/// A peer's bytes.
pub fn peer_frame(bytes: &[u8]) {
    let mut reader = FrameReader::new(1 << 16);
    for part in bytes.chunks(4096) {
        let mut part = part;
        while !part.is_empty() {
            let space = reader.space();
            let taken = space.len().min(part.len());
            space[..taken].copy_from_slice(&part[..taken]);
            reader.filled(taken);
            part = &part[taken..];
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => body(frame.kind, frame.body),
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }
}

fn body(kind: FrameKind, bytes: &[u8]) {
    if kind == FrameKind::Messages
        && let Ok(messages) = Messages::access(bytes)
    {
        for (_, payloads) in messages.iter() {
            std::hint::black_box(payloads);
        }
    }
}

/// A command's bytes: what decodes encodes to itself.
pub fn command(bytes: &[u8]) {
    if let Ok(command) = Command::decode(bytes) {
        let mut again = Vec::new();
        command.encode(&mut again);
        assert_eq!(Command::decode(&again), Ok(command));
    }
}

/// A batch's bytes, and each command in it.
pub fn batch(bytes: &[u8]) {
    let payload = Payload::from(bytes);
    if let Ok(batch) = Batch::access(&payload) {
        batch.commands().for_each(command);
    }
}

/// A log of one segment.
pub fn wal_replay(bytes: &[u8]) {
    let options = Options {
        segment_bytes: 8 * BLOCK as u64,
        instance: 1,
    };
    let mut segment = bytes.to_vec();
    segment.resize(8 * BLOCK, 0);
    let firsts = [(SegmentId::from_raw(1), &segment[..BLOCK])];
    let Ok(mut replay) = Replay::new(options, 4096, firsts) else {
        return;
    };
    while replay.next_segment().is_some() {
        if replay.segment(&segment).is_err() {
            return;
        }
    }
    std::hint::black_box(replay.finish());
}
