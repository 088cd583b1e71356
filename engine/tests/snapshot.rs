//! Snapshots as bytes: what comes back, and that nothing that happened to the bytes stays unnoticed.

use engine::batch::{Batch, BatchBuilder};
use engine::kv::Kv;
use engine::snapshot::{
    ALIGNMENT, BLOCK_BYTES_MAX, Compression, Decoder, Encoder, Event, Header, Member, MemberRole,
    Membership, SnapshotError, Summary, Verifier, machine,
};
use engine::state_machine::StateMachine;
use net::Command;
use net::command::List;
use wal::{GroupId, LogIndex, NodeId, ReplicaId, Term};

const CHUNK_BYTES_MAX: usize = 4 << 20;

fn header(compression: Compression) -> Header {
    let member = |number, role| Member {
        replica: ReplicaId::from_raw(number),
        node: NodeId::from_raw(number + 10),
        role,
    };
    Header {
        compression,
        cluster: "prod".into(),
        instance: 0x1122_3344_5566_7788,
        group: GroupId::from_raw(3),
        index: LogIndex::from_raw(1_000_001),
        term: Term::from_raw(7),
        membership: Membership {
            version: 1,
            index: LogIndex::from_raw(42),
            members: vec![
                member(1, MemberRole::Voter),
                member(2, MemberRole::Observer),
                member(3, MemberRole::Witness),
            ],
            extension: b"more".to_vec(),
        },
        machine: machine::KV,
        items: 2,
        created_unix_ms: 1_700_000_000_000,
    }
}

fn encoded(header: &Header, chunks: &[&[u8]]) -> (Vec<u8>, Summary) {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(header, &mut bytes);
    for chunk in chunks {
        encoder.chunk(chunk, &mut bytes);
    }
    assert_eq!(encoder.bytes(), bytes.len() as u64);
    let summary = encoder.finish(&mut bytes);
    assert_eq!(summary.bytes, bytes.len() as u64);
    (bytes, summary)
}

/// One chunk that becomes shorter, one that does not.
fn small(compression: Compression) -> Vec<u8> {
    let chunks: [&[u8]; 2] = [&[b'a'; 300], b"as it is"];
    encoded(&header(compression), &chunks).0
}

type Decoded = (Header, Vec<Vec<u8>>, Summary);

fn decoded(bytes: &[u8], piece: usize) -> Result<Decoded, SnapshotError> {
    let mut decoder = Decoder::new(CHUNK_BYTES_MAX);
    let (mut header, mut chunks) = (None, Vec::new());
    for piece in bytes.chunks(piece) {
        decoder.push(piece);
        while let Some(event) = decoder.next()? {
            match event {
                Event::Header(read) => header = Some(read.clone()),
                Event::Chunk(chunk) => chunks.push(chunk.to_vec()),
            }
        }
    }
    let summary = decoder.finish()?;
    Ok((header.expect("the header comes first"), chunks, summary))
}

fn verified(bytes: &[u8]) -> Result<Summary, SnapshotError> {
    let mut verifier = Verifier::new();
    bytes
        .chunks(1000)
        .try_for_each(|piece| verifier.push(piece))?;
    verifier.finish()
}

/// The error that both readers find.
fn refused(bytes: &[u8], story: &str) -> SnapshotError {
    let error = decoded(bytes, bytes.len().max(1)).expect_err(story);
    assert_eq!(verified(bytes), Err(error), "{story}");
    error
}

/// Where the blocks begin, the end's too.
fn blocks(bytes: &[u8]) -> Vec<usize> {
    let length =
        |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let mut starts = vec![length(8)];
    while let Some(&start) = starts.last()
        && bytes[start + 4] != 3
    {
        starts.push(start + 32 + length(start + 16));
    }
    starts
}

/// Makes all checksums right, for bytes that somebody meant. `starts`: of the blocks.
fn sealed(mut bytes: Vec<u8>, starts: &[usize]) -> Vec<u8> {
    let put = |bytes: &mut Vec<u8>, at: usize, crc: u32| {
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        crc
    };
    let crc = crc32c::crc32c(&bytes[..starts[0] - 4]);
    let header_crc = put(&mut bytes, starts[0] - 4, crc);
    let mut all = crc32c::crc32c(&header_crc.to_le_bytes());
    let trailer = bytes.len() - 64;
    let ends = starts[1..].iter().copied().chain([trailer]);
    for (&start, end) in starts.iter().zip(ends) {
        let crc = crc32c::crc32c(&bytes[start + 32..end]);
        put(&mut bytes, start + 24, crc);
        let crc = crc32c::crc32c_append(header_crc, &bytes[start..start + 28]);
        let crc = put(&mut bytes, start + 28, crc);
        all = crc32c::crc32c_append(all, &crc.to_le_bytes());
    }
    put(&mut bytes, trailer + 52, header_crc);
    put(&mut bytes, trailer + 56, all);
    let crc = crc32c::crc32c(&bytes[trailer..trailer + 60]);
    put(&mut bytes, trailer + 60, crc);
    bytes
}

/// A snapshot that was changed on purpose, at a place that is told where the blocks are.
fn forged(at: impl Fn(&[usize]) -> usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = small(Compression::Lz4);
    let starts = blocks(&bytes);
    assert!(
        sealed(bytes.clone(), &starts) == bytes,
        "right as they were"
    );
    let at = at(&starts);
    bytes[at..at + new.len()].copy_from_slice(new);
    sealed(bytes, &starts)
}

#[test]
fn what_went_in_comes_out_whatever_the_pieces() {
    let long: Vec<u8> = (0..2_500_000u32)
        .map(|n| (n >> 7).to_le_bytes()[0])
        .collect();
    let noise: Vec<u8> = (0..3000u32)
        .map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()[2])
        .collect();
    for compression in [Compression::None, Compression::Lz4] {
        let header = header(compression);
        let chunks: [&[u8]; 4] = [b"x", &long, &noise, &[0; 100_000]];
        let (bytes, summary) = encoded(&header, &chunks);
        assert_eq!((summary.chunks, summary.blocks), (4, 7));
        assert_eq!(verified(&bytes), Ok(summary));
        for piece in [1000, 4096, 1 << 20, bytes.len()] {
            let (found, content, total) = decoded(&bytes, piece).unwrap();
            assert_eq!((&found, total), (&header, summary));
            assert!(content.iter().zip(chunks).all(|(one, other)| one == other));
        }
    }
    for piece in 1..200 {
        let bytes = small(Compression::Lz4);
        assert_eq!(
            decoded(&bytes, piece).unwrap().1.len(),
            2,
            "pieces of {piece}"
        );
    }
}

#[test]
fn compression_makes_what_repeats_shorter() {
    let chunk = vec![7; 1 << 20];
    let (shorter, _) = encoded(&header(Compression::Lz4), &[&chunk]);
    let (as_it_is, _) = encoded(&header(Compression::None), &[&chunk]);
    assert!(shorter.len() * 50 < as_it_is.len(), "{}", shorter.len());
}

#[test]
fn a_snapshot_is_always_a_multiple_of_the_alignment() {
    for bytes in 3000..(3000 + ALIGNMENT) {
        let (encoded, _) = encoded(&header(Compression::None), &[&vec![1; bytes]]);
        assert_eq!(encoded.len() % ALIGNMENT, 0, "with {bytes} bytes");
        assert!(verified(&encoded).is_ok(), "with {bytes} bytes");
    }
    let (nothing, summary) = encoded(&header(Compression::None), &[]);
    assert_eq!(decoded(&nothing, 4096).unwrap().2, summary);
    assert_eq!((nothing.len(), summary.blocks), (ALIGNMENT, 1));
}

#[test]
fn every_changed_byte_is_noticed() {
    for compression in [Compression::None, Compression::Lz4] {
        let bytes = small(compression);
        for at in 0..bytes.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                refused(&damaged, &format!("byte {at} changed by {flip:#x}"));
            }
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    for compression in [Compression::None, Compression::Lz4] {
        let bytes = small(compression);
        for cut in 0..bytes.len() {
            let error = refused(&bytes[..cut], &format!("cut at {cut}"));
            let incomplete = matches!(
                error,
                SnapshotError::Incomplete { offset, .. } if offset == cut as u64
            );
            assert!(incomplete, "cut at {cut}: {error}");
        }
    }
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let bytes = small(Compression::Lz4);
    let offset = bytes.len() as u64;
    let another = bytes.clone();
    for more in [&[0][..], &[0; ALIGNMENT], b"x", &another] {
        let longer = [&bytes, more].concat();
        assert_eq!(refused(&longer, "more"), SnapshotError::Behind { offset });
    }
}

#[test]
fn blocks_that_changed_places_or_came_from_elsewhere_are_noticed() {
    let chunks: [&[u8]; 3] = [b"one", b"two", b"six"];
    let (bytes, _) = encoded(&header(Compression::None), &chunks);
    let starts = blocks(&bytes);
    let (first, second, third) = (starts[0], starts[1], starts[2]);
    let (expected, found) = (1, 2);

    let mut swapped = bytes.clone();
    swapped[first..third].rotate_left(second - first);
    let offset = first as u64;
    let error = SnapshotError::Number {
        offset,
        expected,
        found,
    };
    assert_eq!(refused(&swapped, "swapped"), error);

    let mut without = bytes.clone();
    without.drain(first..second);
    assert_eq!(refused(&without, "one is missing"), error);

    let mut other = header(Compression::None);
    other.index = other.index.next();
    let (other, _) = encoded(&other, &chunks);
    let mut mixed = bytes;
    mixed[first..second].copy_from_slice(&other[first..second]);
    let error = refused(&mixed, "another snapshot's block");
    let part = "block's head";
    assert!(
        matches!(error, SnapshotError::Checksum { part: found, .. } if found == part),
        "{error}"
    );
}

#[test]
fn what_is_wrong_is_noticed_under_right_checksums_too() {
    const TRAILER: usize = 4096 - 64;
    #[rustfmt::skip]
    let table: &[(Vec<u8>, &str)] = &[
        (forged(|_| 6, &[9]), "@6: this build knows no compression 9"),
        (forged(|_| 7, &[1]), "@0: the header has bytes that should be zero"),
        (forged(|_| 12, &[60]), "@12: the header's parts do not add up to its length"),
        (forged(|_| 14, &[255, 255]), "@12: the header's parts do not add up to its length"),
        (forged(|_| 88, &[4]), "@80: this build knows no role of a member 4"),
        (forged(|_| 91, &[1]), "@80: the header's list of members has bytes that should be zero"),
        (forged(|_| 116, &[0xff]), "@116: the cluster id is no text"),
        (forged(|at| at[0] + 4, &[8]), "@132: this build knows no kind of block 8"),
        (forged(|at| at[0] + 5, &[8]), "@128: the block's head has bytes that should be zero"),
        (forged(|at| at[0] + 8, &[3]), "@128: block 3 where 1 should be: blocks are missing or mixed up"),
        (forged(|at| at[0] + 22, &[99]), "@148: the block says it has 6488364 bytes, it has 1 to 1048576"),
        (forged(|at| at[1] + 4, &[2]), "the blocks end in the middle of a chunk"),
        (forged(|at| at[2] + 40, &[2]), "the padding has bytes that should be zero"),
        (forged(|_| TRAILER, &[2]), "@4032: no trailer begins here, but 0x45534b02"),
        (forged(|_| TRAILER + 4, &[2]), "the snapshot has format 2, this build reads 1: use the build that wrote it"),
        (forged(|_| TRAILER + 6, &[2]), "@4032: the trailer has bytes that should be zero"),
        (forged(|_| TRAILER + 8, &[2]), "@4040: blocks: the trailer says 2, 3 was found"),
        (forged(|_| TRAILER + 16, &[3]), "@4048: chunks: the trailer says 3, 2 was found"),
        (forged(|_| TRAILER + 24, &[0, 0]), "@4056: bytes of chunks: the trailer says 0, 308 was found"),
        (forged(|_| TRAILER + 33, &[0]), "@4064: bytes: the trailer says 0, 4096 was found"),
        (forged(|_| TRAILER + 40, &[0]), "@4072: index: the trailer says 999936, 1000001 was found"),
        (forged(|_| TRAILER + 48, &[9]), "@4080: group: the trailer says 9, 3 was found"),
    ];
    for (bytes, expected) in table {
        let error = refused(bytes, expected).to_string();
        assert!(error.ends_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn a_block_that_does_not_decompress_to_what_it_says_is_refused() {
    // 300 would be right.
    for wrong in [299u32, 301, 700] {
        let bytes = forged(|at| at[0] + 20, &wrong.to_le_bytes());
        let error = decoded(&bytes, 4096).expect_err("not the length that was compressed");
        let (offset, number, bytes) = (128, 1, wrong);
        let expected = SnapshotError::Compressed {
            offset,
            number,
            bytes,
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn other_files_and_later_formats_are_told_apart() {
    let (offset, part, found) = (0, "snapshot", u32::from_le_bytes(*b"DKSG"));
    let error = SnapshotError::Magic {
        offset,
        part,
        found,
    };
    let mut segment = small(Compression::None);
    segment[..4].copy_from_slice(b"DKSG");
    assert_eq!(refused(&segment, "a segment"), error);
    let mut later = small(Compression::None);
    later[4] = 2;
    let (found, supported) = (2, 1);
    assert_eq!(
        refused(&later, "a later format"),
        SnapshotError::Format { found, supported }
    );
}

#[test]
fn a_chunk_that_is_longer_than_the_reader_allows_is_refused() {
    let long = vec![0; 3 * BLOCK_BYTES_MAX];
    let (bytes, _) = encoded(&header(Compression::Lz4), &[&long]);
    let mut decoder = Decoder::new(2 * BLOCK_BYTES_MAX);
    decoder.push(&bytes);
    assert!(matches!(decoder.next(), Ok(Some(Event::Header(_)))));
    for _ in 0..2 {
        let error = decoder.next().expect_err("three blocks of two");
        let long = matches!(error, SnapshotError::ChunkTooLong { max, .. } if max == 2 << 20);
        assert!(long, "{error}");
    }
}

#[test]
fn a_state_goes_through_a_snapshot() {
    let slots = (0, net::SLOTS - 1);
    let (mut kv, mut builder) = (Kv::new(slots), BatchBuilder::default());
    for number in 0..20_000 {
        let key = format!("key {number}");
        let pairs: [&[u8]; 2] = [key.as_bytes(), b"a value of some bytes"];
        let pairs = List::Arguments(&pairs);
        builder.push(&Command::MultiSet { pairs });
    }
    let payload = builder.seal(77);
    kv.apply(&Batch::access(&payload).unwrap(), &mut Vec::new());
    kv.snapshot_begin();
    let (mut bytes, mut chunk) = (Vec::new(), Vec::new());
    let mut encoder = Encoder::new(&header(Compression::Lz4), &mut bytes);
    loop {
        chunk.clear();
        let more = kv.snapshot_next(64 << 10, &mut chunk);
        encoder.chunk(&chunk, &mut bytes);
        if !more {
            break;
        }
    }
    encoder.finish(&mut bytes);

    let mut back = Kv::new(slots);
    for chunk in decoded(&bytes, 4096).unwrap().1 {
        back.restore(&chunk).unwrap();
    }
    back.restored().unwrap();
    assert_eq!(back.hash(), kv.hash());
}

/// 16 bytes a row; rows of zeroes are left out.
fn dump(bytes: &[u8]) -> String {
    let rows = bytes.chunks(16).enumerate();
    let rows = rows.filter(|(_, row)| row.iter().any(|&byte| byte != 0));
    let text = |(number, row): (usize, &[u8])| {
        let hex: String = row.iter().map(|byte| format!(" {byte:02x}")).collect();
        format!("{:04x} {hex}\n", number * 16)
    };
    rows.map(text).collect()
}

/// A change of these bytes is a new format: old snapshots must stay readable.
#[test]
fn the_bytes_are_those_that_were_written_down() {
    let golden = expect_test::expect_file!["snapshot/golden.txt"];
    golden.assert_eq(&dump(&small(Compression::None)));
}

/// Another build may compress otherwise, but reads what this one compressed.
#[test]
fn compressed_bytes_that_were_written_down_stay_readable() {
    let mut bytes = vec![0; 4096];
    for row in include_str!("snapshot/lz4.txt").lines() {
        let mut fields = row
            .split_whitespace()
            .map(|hex| usize::from_str_radix(hex, 16));
        let start = fields.next().expect("a row has an offset").unwrap();
        for (at, byte) in fields.enumerate() {
            bytes[start + at] = byte.unwrap().try_into().unwrap();
        }
    }
    let (found, chunks, _) = decoded(&bytes, 4096).unwrap();
    assert_eq!(found, header(Compression::Lz4));
    assert_eq!(chunks, [vec![b'a'; 300], b"as it is".to_vec()]);
}
