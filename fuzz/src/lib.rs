//! What must survive any bytes: each function takes some and must neither panic nor run away.
//!
//! ```text
//! cargo run --bin smoke                            seeds, what is kept in corpus/, and changes of both
//! cargo run --bin smoke -- seeds corpus-local      something for a fuzzer to begin with
//! cargo +nightly fuzz run TARGET --features libfuzzer corpus-local/TARGET corpus/TARGET
//! ```
//!
//! An input that broke something is put into `corpus/TARGET` under a name that says what it is.

use std::collections::BTreeMap;

use engine::batch::Batch;
use engine::kv::Kv;
use engine::raft::Membership;
use engine::snapshot::{Decoder, Event, Verifier};
use engine::state_machine::StateMachine;
use net::Command;
use net::peer::{
    Answers, Forwards, FrameKind, FrameReader, Hello, HelloReply, Messages, PartReply, PartRequest,
    decode_reply, frame,
};
use net::resp::{Limits, Parser};
use wal::survey::{Role, Survey};
use wal::{
    BLOCK, FORMAT, GroupId, LogIndex, Options, Payload, Replay, SECTOR, SegmentId, decode_entries,
    decode_entry,
};

/// A named target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("resp", resp),
    ("peer_frame", peer_frame),
    ("command", command),
    ("batch", batch),
    ("wal_replay", wal_replay),
    ("wal_survey", wal_survey),
    ("wal_sealed", wal_sealed),
    ("wal_record", wal_record),
    ("peer_body", peer_body),
    ("kv_chunk", kv_chunk),
    ("membership", membership),
    ("snapshot", snapshot),
    ("snapshot_sealed", snapshot_sealed),
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

/// A body of the kind that the first byte draws, in a frame whose checksums are right.
pub fn peer_body(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else {
        return;
    };
    let kind = match kind % 7 {
        0 => FrameKind::Hello,
        1 => FrameKind::HelloReply,
        2 => FrameKind::Messages,
        3 => FrameKind::Forward,
        4 => FrameKind::ForwardReply,
        5 => FrameKind::SnapshotRequest,
        _ => FrameKind::SnapshotPart,
    };
    let mut framed = Vec::new();
    frame(kind, &mut framed, |body| body.extend(bytes));
    peer_frame(&framed);
    drop(std::hint::black_box(decode_reply(bytes)));
}

fn body(kind: FrameKind, bytes: &[u8]) {
    match kind {
        FrameKind::Hello => drop(std::hint::black_box(Hello::decode(bytes))),
        FrameKind::HelloReply => drop(std::hint::black_box(HelloReply::decode(bytes))),
        FrameKind::Forward => {
            std::hint::black_box(Forwards::new(bytes).count());
        }
        FrameKind::ForwardReply => {
            std::hint::black_box(Answers::new(bytes).count());
        }
        FrameKind::SnapshotRequest => {
            if let Ok(request) = PartRequest::decode(bytes) {
                let mut again = Vec::new();
                request.encode(&mut again);
                assert_eq!(PartRequest::decode(&again), Ok(request));
            }
        }
        FrameKind::SnapshotPart => {
            if let Ok(reply) = PartReply::decode(bytes) {
                let mut again = Vec::new();
                reply.encode(&mut again);
                assert_eq!(PartReply::decode(&again), Ok(reply));
            }
        }
        FrameKind::Messages => {
            if let Ok(messages) = Messages::access(bytes) {
                for (_, payloads) in messages.iter() {
                    std::hint::black_box(payloads);
                }
            }
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

/// An entry that says who is in a group: what decodes encodes to itself.
pub fn membership(bytes: &[u8]) {
    if let Ok(membership) = Membership::decode(bytes) {
        let again = membership.encode();
        assert_eq!(Membership::decode(&again), Ok(membership));
    }
}

/// Bytes of a segment of the logs below.
pub const SEGMENT_BYTES: usize = 8 * BLOCK;

/// The segments of a log, one behind the other; what is missing of the last are zeroes.
fn segments(bytes: &[u8]) -> BTreeMap<SegmentId, Vec<u8>> {
    let count = bytes.len().div_ceil(SEGMENT_BYTES).clamp(1, 4);
    let mut bytes = bytes.to_vec();
    bytes.resize(count * SEGMENT_BYTES, 0);
    let segments = bytes.chunks_exact(SEGMENT_BYTES).map(<[u8]>::to_vec);
    (1..).map(SegmentId::from_raw).zip(segments).collect()
}

/// The first block of each segment.
fn firsts(segments: &BTreeMap<SegmentId, Vec<u8>>) -> impl Iterator<Item = (SegmentId, &[u8])> {
    segments.iter().map(|(&id, bytes)| (id, &bytes[..BLOCK]))
}

/// A log.
pub fn wal_replay(bytes: &[u8]) {
    replay(&segments(bytes));
}

fn replay(segments: &BTreeMap<SegmentId, Vec<u8>>) {
    let options = Options {
        segment_bytes: SEGMENT_BYTES as u64,
        instance: 1,
    };
    let Ok(mut replay) = Replay::new(options, 4096, firsts(segments)) else {
        return;
    };
    while let Some(id) = replay.next_segment() {
        if replay.segment(&segments[&id]).is_err() {
            return;
        }
    }
    std::hint::black_box(replay.finish());
}

/// The same log, looked at without stopping at what is wrong.
pub fn wal_survey(bytes: &[u8]) {
    survey(&segments(bytes));
}

fn survey(segments: &BTreeMap<SegmentId, Vec<u8>>) {
    for instance in [Some(1), None] {
        let mut survey = Survey::new(instance, firsts(segments));
        let found = survey.segments().to_vec();
        for one in found.iter().filter(|one| one.role != Role::Dead) {
            survey.witness(one.segment, &segments[&one.segment]);
        }
        for one in found.iter().filter(|one| one.role == Role::Live) {
            std::hint::black_box(survey.segment(one.segment, &segments[&one.segment]));
        }
        std::hint::black_box(survey.finish());
    }
}

/// A log that passes its checks whatever it says: a checksum keeps rot out, not a build that wrote
/// something else.
pub fn wal_sealed(bytes: &[u8]) {
    let mut segments = segments(bytes);
    segments.values_mut().for_each(|segment| seal_log(segment));
    replay(&segments);
    survey(&segments);
}

/// Makes all checksums of a segment right, and the format that of this build: what was found in another
/// is not lost with it.
fn seal_log(segment: &mut [u8]) {
    if segment.starts_with(b"DKSG") {
        segment[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        seal(&mut segment[..64]);
    }
    let mut rest = &mut segment[BLOCK..];
    while !rest.is_empty() {
        let mut blocks = 1;
        if rest.starts_with(b"DKFL") {
            let said = number(rest, 36).expect("a block is there") as usize;
            blocks = said.clamp(1, rest.len() / BLOCK);
            seal_flush(&mut rest[..blocks * BLOCK]);
        }
        rest = &mut rest[blocks * BLOCK..];
    }
}

/// Makes all checksums of a flush right: of its records, its sectors, its table and its header.
fn seal_flush(flush: &mut [u8]) {
    let field = |at| number(flush, at).expect("a block is there") as usize;
    let (records, body_bytes) = (field(12), field(32));
    let (copies, copies_at) = (field(52), field(56));
    let (head, body) = flush.split_at_mut(SECTOR);
    head[4..6].copy_from_slice(&FORMAT.to_le_bytes());
    let end = body_bytes.min(body.len());
    for (from, count) in [(0, records), (copies_at.min(end), copies)] {
        seal_records(&mut body[from..end], count);
    }
    for (at, sector) in body.chunks_exact(SECTOR).enumerate() {
        head[64 + 4 * at..][..4].copy_from_slice(&crc32c::crc32c(sector).to_le_bytes());
    }
    let table = crc32c::crc32c(&head[64..]);
    head[48..52].copy_from_slice(&table.to_le_bytes());
    seal(&mut head[..64]);
}

/// Makes the checksums of so many records right, or of those that are there.
fn seal_records(mut body: &mut [u8], count: usize) {
    for _ in 0..count {
        let Some(length) = number(body, 4) else {
            return;
        };
        let bytes = (40 + length as usize).next_multiple_of(8);
        let Some((record, behind)) = body.split_at_mut_checked(bytes) else {
            return;
        };
        let crc = crc32c::crc32c(&record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        body = behind;
    }
}

/// A number in a header, unless the bytes end before it.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

/// Puts the checksum of all before it behind a header.
fn seal(header: &mut [u8]) {
    let at = header.len() - 4;
    let crc = crc32c::crc32c(&header[..at]);
    header[at..].copy_from_slice(&crc.to_le_bytes());
}

/// One record: as it is, and with a checksum that is right.
pub fn wal_record(bytes: &[u8]) {
    record(bytes);
    if bytes.len() < 40 {
        return;
    }
    let mut sealed = bytes.to_vec();
    let length = u32::from_le_bytes([sealed[4], sealed[5], sealed[6], sealed[7]]) as usize;
    let end = (40 + length).next_multiple_of(8).min(sealed.len());
    let crc = crc32c::crc32c(&sealed[4..end]);
    sealed[..4].copy_from_slice(&crc.to_le_bytes());
    record(&sealed);
}

/// The first entries of a group: those of a run are the same whether one or all are asked for.
fn record(bytes: &[u8]) {
    let (group, index) = (GroupId::from_raw(1), LogIndex::from_raw(1));
    let first = decode_entry(bytes, group, index);
    for count in 1..=4 {
        let mut entries = Vec::new();
        let held = decode_entries(bytes, group, (index, count), |entry| entries.push(entry));
        if held.is_ok() {
            assert_eq!(first.as_ref(), Ok(&entries[0]));
            let last = index.plus(count as u64 - 1);
            assert_eq!(entries.len(), count);
            assert_eq!(
                decode_entry(bytes, group, last).as_ref(),
                Ok(&entries[count - 1])
            );
        }
    }
}

/// The one slot of the states below.
pub fn slot() -> u16 {
    net::Slot::of(b"{a}").number()
}

/// A chunk of a state: what is restored from one is saved alike.
pub fn kv_chunk(bytes: &[u8]) {
    let mut kv = Kv::new((slot(), slot()));
    if kv.restore(bytes).is_err() || kv.restored().is_err() {
        return;
    }
    let mut chunk = Vec::new();
    kv.snapshot_begin();
    while kv.snapshot_next(64, &mut chunk) {}
    let mut again = Kv::new((slot(), slot()));
    again.restore(&chunk).expect("a state was saved");
    again.restored().expect("a whole one");
    assert_eq!(again.hash(), kv.hash());
}

/// A snapshot: the reader that decompresses and the one that does not agree on what is whole.
pub fn snapshot(bytes: &[u8]) {
    let mut decoder = Decoder::new(1 << 20);
    let mut kv = Kv::new((slot(), slot()));
    let mut sound = true;
    for piece in bytes.chunks(1000) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(Event::Chunk(chunk))) => sound = sound && kv.restore(chunk).is_ok(),
                Ok(Some(Event::Header(header))) => drop(std::hint::black_box(header.clone())),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let mut verifier = Verifier::new();
    for piece in bytes.chunks(777) {
        verifier.push(piece).expect("the decoder found it sound");
    }
    let (decoded, verified) = (decoder.finish(), verifier.finish());
    assert_eq!(decoded, verified);
    if sound && decoded.is_ok() {
        let _ = std::hint::black_box(kv.restored());
    }
}

/// A snapshot whose checksums are right whatever it says.
pub fn snapshot_sealed(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    seal_snapshot(&mut bytes);
    snapshot(&bytes);
}

fn seal_snapshot(bytes: &mut [u8]) -> Option<()> {
    let mut at = number(bytes, 8)? as usize;
    seal(bytes.get_mut(..at).filter(|header| header.len() > 4)?);
    let header = number(bytes, at - 4)?;
    let mut all = crc32c::crc32c(&header.to_le_bytes());
    loop {
        let body = at + 32;
        let end = body.checked_add(number(bytes, at + 16)? as usize)?;
        let crc = crc32c::crc32c(bytes.get(body..end)?);
        bytes[at + 24..at + 28].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c_append(header, &bytes[at..at + 28]).to_le_bytes();
        bytes[at + 28..at + 32].copy_from_slice(&crc);
        all = crc32c::crc32c_append(all, &crc);
        let kind = bytes[at + 4];
        at = end;
        if kind == 3 {
            break;
        }
    }
    let trailer = bytes.get_mut(at..at.checked_add(64)?)?;
    trailer[52..56].copy_from_slice(&header.to_le_bytes());
    trailer[56..60].copy_from_slice(&all.to_le_bytes());
    seal(trailer);
    Some(())
}
