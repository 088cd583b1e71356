//! Runs every target over its seeds, over the corpus that is kept in `corpus/TARGET`, and over many
//! small changes of them, the same ones every time. `smoke seeds DIR` writes the seeds instead, for a
//! fuzzer to begin with.

use std::path::Path;

use drakkar_fuzz::{SEGMENT_BYTES, TARGETS};
use engine::batch::{Batch, BatchBuilder};
use engine::kv::Kv;
use engine::raft::{self, Members};
use engine::snapshot::{Compression, Encoder, Header, Member, MemberRole, Membership, machine};
use engine::state_machine::StateMachine;
use net::Command;
use net::command::{Condition, Expiry, List};
use wal::{
    Claim, Entry, EntryKind, GroupId, HardState, LogIndex, NodeId, Options, Record, Replay,
    ReplicaId, Term,
};

const ROUNDS: usize = 20_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => run(),
        [verb, directory] if verb == "seeds" => write_seeds(Path::new(directory)),
        _ => panic!("usage: smoke [seeds DIR]"),
    }
}

/// Files named by target and number.
fn write_seeds(directory: &Path) {
    for (name, _) in TARGETS {
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory).expect("the directory can be made");
        for (number, seed) in seeds(name).iter().enumerate() {
            let file = directory.join(format!("seed-{number}"));
            std::fs::write(file, seed).expect("the seed can be written");
        }
    }
}

/// What a fuzzer found worth keeping, in the order of the names; nothing for most targets.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let Ok(files) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let files = files.map(|file| file.expect("the corpus can be listed").path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    let inputs = files
        .iter()
        .map(|file| std::fs::read(file).expect("the corpus can be read"));
    inputs.collect()
}

fn run() {
    for (name, target) in TARGETS {
        let mut seeds = seeds(name);
        assert!(!seeds.is_empty(), "target {name} has no seed");
        seeds.extend(corpus(name));
        let mut random = 0x5eed_u64;
        for round in 0..ROUNDS {
            let mut bytes = seeds[round % seeds.len()].clone();
            target(&bytes);
            for _ in 0..=draw(&mut random) % 4 {
                mutate(&mut bytes, &mut random);
            }
            target(&bytes);
        }
        println!("{name}: {} inputs survived", 2 * ROUNDS);
    }
}

fn draw(random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 8) as usize
}

fn mutate(bytes: &mut Vec<u8>, random: &mut u64) {
    if bytes.is_empty() {
        return;
    }
    let at = draw(random) % bytes.len();
    match draw(random) % 5 {
        0 => bytes[at] = draw(random) as u8,
        1 => bytes[at] ^= 1 << (draw(random) % 8),
        2 => bytes.truncate(at),
        3 => bytes.insert(at, draw(random) as u8),
        _ => {
            let end = (at + draw(random) % 16).min(bytes.len());
            let copy = bytes[at..end].to_vec();
            let to = draw(random) % bytes.len();
            bytes.splice(to..to, copy);
        }
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "resp" => vec![
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n*1\r\n$4\r\nPING\r\n".to_vec(),
            b"SET \"a b\" 'c'\r\nPING\r\n".to_vec(),
            b"*-1\r\n*0\r\n*1\r\n$0\r\n\r\n".to_vec(),
        ],
        "peer_frame" => vec![hello()],
        "command" => commands().iter().map(encoded).collect(),
        "batch" => {
            let mut builder = BatchBuilder::default();
            commands().iter().for_each(|command| builder.push(command));
            vec![builder.seal(7).to_vec(), builder.seal(8).to_vec()]
        }
        "wal_replay" | "wal_survey" | "wal_sealed" => vec![log(), mixed_log(), log_of_runs()],
        // The first record of the first flush, the entry behind it, and a run of each form.
        "wal_record" => {
            let body = wal::BLOCK + wal::SECTOR;
            let mut records = vec![
                log()[body..body + 40].to_vec(),
                log()[body + 40..body + 136].to_vec(),
            ];
            records.extend([[30, 30, 30], [30, 0, 9]].map(run_of));
            records
        }
        "peer_body" => bodies(),
        "kv_chunk" => vec![chunks(1 << 20).concat(), chunks(30).concat()],
        "membership" => vec![membership()],
        "snapshot" | "snapshot_sealed" => vec![
            snapshot(Compression::None, 30),
            snapshot(Compression::Lz4, 1 << 20),
        ],
        _ => vec![],
    }
}

fn membership() -> Vec<u8> {
    let id = wal::ReplicaId::from_raw;
    let membership = raft::Membership {
        members: Members {
            voters: vec![id(1), id(2), id(4)],
            observers: vec![id(5)],
        },
        addresses: vec![(id(4), "host4 6379 7379 9379".to_owned())],
        removed: vec![id(3)],
    };
    membership.encode().to_vec()
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    net::peer::frame(net::peer::FrameKind::Messages, &mut bytes, |body| {
        body.extend([1; 64])
    });
    bytes
}

/// What both sides of a handshake say.
fn handshakes() -> Vec<Vec<u8>> {
    let standing = net::peer::Standing {
        epoch: 1,
        origin: 2,
        members: vec![1, 2, 3],
    };
    let hello = net::peer::Hello {
        cluster: "cluster".into(),
        from: 1,
        to: 2,
        shard: 0,
        version_min: 1,
        version_max: 1,
        instance: 3,
        fingerprint: 4,
        start: 5,
        manner: net::peer::Manner::Rejoins,
        standing: standing.clone(),
    };
    let refused = net::peer::HelloReply::Refused(net::peer::Refused {
        cause: net::peer::Cause::Fenced,
        standing,
        known: 6,
        reason: "fenced".into(),
    });
    let welcome = net::peer::HelloReply::Welcome {
        version: 1,
        instance: 7,
        start: 8,
        manner: net::peer::Manner::Usual,
    };
    let mut bodies = vec![vec![0], vec![1], vec![1]];
    hello.encode(&mut bodies[0]);
    refused.encode(&mut bodies[1]);
    welcome.encode(&mut bodies[2]);
    bodies
}

/// A body of each kind, behind the byte that draws it.
fn bodies() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = (0..3).map(|kind| [vec![kind], hello()].concat()).collect();
    bodies.extend(handshakes());
    let command = encoded(&Command::Get { key: b"key" });
    let (mut forwards, mut answers) = (vec![3], vec![4]);
    for request in 1..4 {
        let forward = net::peer::Forward {
            request,
            group: 1,
            command: &command,
        };
        net::peer::push_forward(&forward, &mut forwards);
        let verdict = net::peer::Verdict::Redirect {
            leader: 2,
            command: command.clone(),
        };
        net::peer::push_answer(request, &verdict, &mut answers);
    }
    let request = net::peer::PartRequest {
        group: 1,
        index: 2,
        term: 3,
        offset: 4,
        bytes: 5,
    };
    let (mut asked, mut part) = (vec![5], vec![6]);
    request.encode(&mut asked);
    let bytes = net::peer::Part::Bytes {
        total_bytes: 9,
        bytes: b"bytes",
    };
    request.answer(bytes).encode(&mut part);
    bodies.extend([forwards, answers, asked, part]);
    bodies
}

fn encoded(command: &Command<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.encode(&mut bytes);
    bytes
}

fn commands() -> Vec<Command<'static>> {
    let (expiry, condition) = (Expiry::After(5), Condition::Absent);
    vec![
        Command::Get { key: b"key" },
        Command::Set {
            key: b"key",
            value: b"value",
            expiry,
            condition,
            get: true,
        },
        Command::MultiSet {
            pairs: List::Arguments(&[b"a", b"b", b"c", b"d"]),
        },
        Command::Increment {
            key: b"n",
            delta: -3,
        },
    ]
}

/// A log of three small flushes.
fn log() -> Vec<u8> {
    let flush = |index| {
        vec![
            hard_state(1, 1),
            Record::Entry {
                group: group(1),
                entry: entry(1, index, 50),
            },
        ]
    };
    segments((1..4).map(flush))
}

/// A log with records of every kind, and a flush of several blocks.
fn mixed_log() -> Vec<u8> {
    let of = |raw, entry| Record::Entry {
        group: group(raw),
        entry,
    };
    let claim = Some(Claim {
        index: Some(LogIndex::from_raw(5)),
        term: Term::from_raw(2),
    });
    let damaged = Record::Damaged {
        group: group(2),
        claim,
        promises_lost: true,
    };
    let patch = Record::Patch {
        group: group(2),
        entry: entry(2, 4, 20),
    };
    let (index, term) = (LogIndex::from_raw(2), Term::from_raw(1));
    segments([
        vec![
            hard_state(1, 1),
            of(1, entry(1, 1, 30)),
            of(1, entry(1, 2, 30)),
            of(2, entry(1, 1, 10)),
        ],
        vec![
            hard_state(1, 2),
            hard_state(2, 2),
            of(1, entry(2, 2, 6000)),
            damaged,
        ],
        vec![
            of(2, entry(2, 2, 9)),
            of(2, entry(2, 3, 9)),
            of(2, entry(2, 4, 9)),
            of(2, entry(2, 5, 9)),
        ],
        vec![
            patch,
            Record::Intact {
                group: group(2),
                index,
                term,
            },
        ],
        vec![
            Record::Floor {
                group: group(1),
                index,
                term,
            },
            of(2, entry(3, 3, 0)),
        ],
        vec![of(1, entry(3, 3, 7)), of(2, entry(3, 4, 7))],
    ])
}

/// Entries of the group that the targets ask for, from the first on.
fn entries(term: u64, from: u64, lengths: &[usize]) -> Vec<Record> {
    let entries = (from..).zip(lengths).map(|(index, &bytes)| Record::Entry {
        group: group(1),
        entry: entry(term, index, bytes),
    });
    entries.collect()
}

/// A log whose entries are in runs: of one length and of many, continued, replaced from their middle on,
/// below a floor, and put back.
fn log_of_runs() -> Vec<u8> {
    let (index, term) = (LogIndex::from_raw(3), Term::from_raw(1));
    let floor = Record::Floor {
        group: group(1),
        index,
        term,
    };
    let patch = Record::Patch {
        group: group(1),
        entry: entry(1, 5, 20),
    };
    segments([
        [vec![hard_state(1, 1)], entries(1, 1, &[16; 20])].concat(),
        entries(1, 21, &[3, 0, 1024, 7]),
        entries(1, 25, &[0, 0]),
        vec![floor],
        entries(2, 9, &[5, 5, 5]),
        vec![patch],
        entries(2, 12, &[200; 15]),
    ])
}

/// The record of three entries from the first on.
fn run_of(lengths: [usize; 3]) -> Vec<u8> {
    let log = segments([entries(1, 1, &lengths)]);
    let record = &log[wal::BLOCK + wal::SECTOR..];
    let bytes = u32::from_le_bytes([record[4], record[5], record[6], record[7]]) as usize;
    assert_eq!(record[8], 8, "small entries are a run");
    record[..(40 + bytes).next_multiple_of(8)].to_vec()
}

fn group(raw: u32) -> GroupId {
    GroupId::from_raw(raw)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    Entry {
        term: Term::from_raw(term),
        index: LogIndex::from_raw(index),
        kind: EntryKind::Batch,
        payload: vec![9; bytes].into(),
    }
}

fn hard_state(of: u32, term: u64) -> Record {
    let state = HardState {
        term: Term::from_raw(term),
        vote: Some(ReplicaId::from_raw(1)),
        commit: LogIndex::ZERO,
    };
    Record::HardState {
        group: group(of),
        state,
    }
}

/// The segments that hold these flushes, one behind the other.
fn segments(flushes: impl IntoIterator<Item = Vec<Record>>) -> Vec<u8> {
    let options = Options {
        segment_bytes: SEGMENT_BYTES as u64,
        instance: 1,
    };
    let replay = Replay::new(options, 0, []).expect("an empty log is sound");
    let mut writer = replay.finish().writer;
    let mut log = Vec::new();
    for records in flushes {
        let placement = writer.place(writer.next_flush(), &records);
        let before = (placement.segment.to_raw() - 1) as usize * SEGMENT_BYTES;
        log.resize(before + placement.offset as usize, 0);
        let start = log.len();
        log.resize(start + placement.bytes, 0);
        writer.encode(&placement, &records, &mut log[start..]);
        writer.written(placement.number);
    }
    log
}

/// The chunks of a small state.
fn chunks(bytes_about: usize) -> Vec<Vec<u8>> {
    let mut builder = BatchBuilder::default();
    for number in 0..5u64 {
        builder.push(&Command::Set {
            key: format!("{{a}}{number}").as_bytes(),
            value: b"value value value value",
            expiry: [Expiry::Never, Expiry::After(number + 1)][number as usize % 2],
            condition: Condition::Always,
            get: false,
        });
    }
    let payload = builder.seal(7);
    let batch = Batch::access(&payload).expect("just sealed");
    let mut kv = Kv::new((drakkar_fuzz::slot(), drakkar_fuzz::slot()));
    kv.apply(&batch, &mut Vec::new());
    kv.snapshot_begin();
    let mut chunks = vec![Vec::new()];
    while kv.snapshot_next(bytes_about, chunks.last_mut().expect("one is there")) {
        chunks.push(Vec::new());
    }
    chunks
}

fn snapshot(compression: Compression, bytes_about: usize) -> Vec<u8> {
    let header = Header {
        compression,
        cluster: "c".into(),
        instance: 1,
        group: GroupId::from_raw(1),
        index: LogIndex::from_raw(9),
        term: Term::from_raw(2),
        membership: Membership {
            members: vec![Member {
                replica: ReplicaId::from_raw(1),
                node: NodeId::from_raw(1),
                role: MemberRole::Voter,
            }],
            ..Membership::default()
        },
        machine: machine::KV,
        items: 5,
        created_unix_ms: 7,
    };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&header, &mut bytes);
    for chunk in chunks(bytes_about) {
        encoder.chunk(&chunk, &mut bytes);
    }
    encoder.finish(&mut bytes);
    bytes
}
