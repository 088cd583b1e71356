//! Snapshots that are taken while everything changes: what comes back is the state at the beginning,
//! and the state that went on does not know that one was taken.

use engine::batch::BatchBuilder;
use engine::kv::{Item, Items, Kv};
use engine::state_machine::{RestoreError, StateMachine};
use net::Command;
use net::command::{Condition, Expiry, List};
use wal::Payload;

use super::{EVERY_SLOT, Random, apply, plain_set, state, with_command};

/// Any bytes that are no number, as long as asked for.
fn value(random: &mut Random) -> Vec<u8> {
    let bytes = if random.below(50) == 0 { 3000 } else { 40 };
    let length = usize::try_from(random.below(bytes)).expect("few");
    vec![b'v'; length]
}

/// One of many keys, most of which share few slots, so that tables grow, shrink and are walked in parts.
fn key(random: &mut Random, keys: u64) -> Vec<u8> {
    let number = random.below(keys);
    match random.below(8) {
        0 => format!("{number}"),
        1 => format!("{{b}}{number}"),
        _ => format!("{{a}}{number}"),
    }
    .into_bytes()
}

/// A batch that mostly adds keys, or mostly takes them away.
fn fill(builder: &mut BatchBuilder, random: &mut Random, keys: u64, growing: bool) {
    for _ in 0..random.below(20) {
        let (key, value) = (key(random, keys), value(random));
        let delta = 1;
        match random.below(12) {
            0 => builder.push(&Command::Increment { key: &key, delta }),
            1 => builder.push(&Command::Append {
                key: &key,
                value: &value,
                bytes_max: 9000,
            }),
            2 => builder.push(&Command::Expire {
                key: &key,
                after_ms: random.below(600).cast_signed(),
            }),
            3 => builder.push(&Command::Persist { key: &key }),
            4 if random.below(40) == 0 => builder.push(&Command::Flush),
            5 => {
                let pairs: [&[u8]; 4] = [&key, &value, b"{a}0", &value];
                let pairs = List::Arguments(&pairs);
                builder.push(&Command::MultiSet { pairs });
            }
            _ if growing => builder.push(&Command::Set {
                key: &key,
                value: &value,
                expiry: match random.below(4) {
                    0 => Expiry::After(1 + random.below(500)),
                    1 => Expiry::Keep,
                    _ => Expiry::Never,
                },
                condition: Condition::Always,
                get: false,
            }),
            _ => builder.push(&Command::Delete {
                keys: List::Arguments(&[&key]),
            }),
        }
    }
}

fn take(kv: &mut Kv, bytes_about: usize, chunks: &mut Vec<Vec<u8>>) -> bool {
    let mut chunk = Vec::new();
    let more = kv.snapshot_next(bytes_about, &mut chunk);
    assert!(!chunk.is_empty(), "no chunk is empty");
    chunks.push(chunk);
    more
}

fn rest(kv: &mut Kv, bytes_about: usize) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    while take(kv, bytes_about, &mut chunks) {}
    chunks
}

fn restored(slots: (u16, u16), chunks: &[Vec<u8>]) -> Result<Kv, RestoreError> {
    let mut kv = Kv::new(slots);
    chunks.iter().try_for_each(|chunk| kv.restore(chunk))?;
    kv.restored()?;
    Ok(kv)
}

/// Compares everything that shows.
fn assert_equal(one: &Kv, other: &Kv, story: &str) {
    assert_eq!(one.hash(), other.hash(), "{story}");
    assert_eq!(one.keys(), other.keys(), "{story}");
    assert_eq!(one.clock(), other.clock(), "{story}");
    assert_eq!(one.next_expiry(), other.next_expiry(), "{story}");
}

/// A history with one snapshot in its middle.
fn history(seed: u64, next: impl Fn(&mut BatchBuilder, &mut Random, u64, bool)) {
    let mut random = Random(seed);
    let (mut one, mut twin) = (Kv::new(EVERY_SLOT), Kv::new(EVERY_SLOT));
    let mut builder = BatchBuilder::default();
    let mut unix_ms = 1000;
    let mut step = |random: &mut Random, growing: bool| -> Payload {
        unix_ms += random.below(30);
        next(&mut builder, random, unix_ms, growing);
        builder.seal(unix_ms)
    };
    for _ in 0..random.below(150) {
        let payload = step(&mut random, true);
        assert_eq!(apply(&mut one, &payload), apply(&mut twin, &payload));
    }
    let begun = format!("seed {seed}: the state it began with");
    one.snapshot_begin();
    let (hash, keys) = (one.hash(), one.keys());
    let held = one.held_bytes();
    let (mut chunks, mut since) = (Vec::new(), Vec::new());
    let growing = random.below(3) > 0;
    let patience = 1 + random.below(8);
    let bytes_about = [1, 60, 700, 5000, 100_000][usize::try_from(random.below(5)).expect("five")];
    loop {
        // Slow walks are hurried in the end.
        if since.len() < 400 && random.below(patience) == 0 {
            let payload = step(&mut random, growing);
            assert_eq!(apply(&mut one, &payload), apply(&mut twin, &payload));
            since.push(payload);
        }
        if random.below(3) == 0 && !take(&mut one, bytes_about, &mut chunks) {
            break;
        }
    }
    assert!(!one.snapshot_under_way());
    assert_eq!(one.snapshot_held_bytes(), 0);
    assert_equal(&one, &twin, &format!("seed {seed}: the state that went on"));

    let mut back = restored(EVERY_SLOT, &chunks).expect("chunks as they were made");
    assert_eq!((back.hash(), back.keys()), (hash, keys), "{begun}");
    assert_eq!(back.held_bytes(), held, "what is counted is what there is");
    for payload in &since {
        apply(&mut back, payload);
    }
    assert_equal(&back, &twin, &format!("seed {seed}: restored and replayed"));
}

#[test]
fn what_is_restored_is_the_state_at_the_beginning_whatever_was_written_since() {
    for seed in 0..250 {
        history(seed, |builder, random, _, growing| {
            fill(builder, random, 400, growing);
        });
    }
    for seed in 0..20 {
        history(seed, |builder, random, _, growing| {
            for _ in 0..30 {
                fill(builder, random, 6000, growing);
            }
        });
    }
}

#[test]
fn every_kind_of_command_saves_what_it_changes() {
    for seed in 0..400 {
        history(seed, |builder, random, unix_ms, _| {
            for _ in 0..random.below(12) {
                with_command(random, unix_ms, &mut |command| builder.push(command));
            }
        });
    }
}

/// Keys of one slot.
fn big_slot(keys: u32) -> Kv {
    let mut builder = BatchBuilder::default();
    for number in 0..keys {
        let key = format!("{{a}}{number}");
        builder.push(&plain_set(key.as_bytes(), b"value", Expiry::Never));
    }
    let mut kv = Kv::new(EVERY_SLOT);
    apply(&mut kv, &builder.seal(1));
    kv
}

fn write(kv: &mut Kv, command: &Command<'_>) {
    let mut builder = BatchBuilder::default();
    builder.push(command);
    apply(kv, &builder.seal(1));
}

#[test]
fn a_big_slot_is_split_between_keys_and_chunks_are_as_long_as_asked_for() {
    let mut kv = big_slot(5000);
    kv.snapshot_begin();
    let chunks = rest(&mut kv, 1000);
    assert!(chunks.len() > 50, "{} chunks", chunks.len());
    let longest = chunks.iter().map(Vec::len).max();
    assert!(longest < Some(1100), "{longest:?} bytes");
    let back = restored(EVERY_SLOT, &chunks).unwrap();
    assert_eq!(back.hash(), kv.hash());
}

#[test]
fn a_value_that_is_longer_than_a_chunk_comes_whole() {
    let value = vec![7; 100_000];
    let mut kv = state(&[plain_set(b"k", &value, Expiry::Never)], 1);
    kv.snapshot_begin();
    let chunks = rest(&mut kv, 10);
    assert_eq!(restored(EVERY_SLOT, &chunks).unwrap().hash(), kv.hash());
}

#[test]
fn only_what_is_written_before_its_turn_is_kept() {
    let mut kv = big_slot(5000);
    kv.snapshot_begin();
    let nothing = kv.snapshot_held_bytes();
    let same = b"other".as_slice();
    for round in 0..3 {
        write(&mut kv, &plain_set(b"{a}7", same, Expiry::Never));
        let held = kv.snapshot_held_bytes() - nothing;
        assert!((10..200).contains(&held), "{held} bytes in round {round}");
    }
    // Misses change nothing, hence keep nothing.
    let held = kv.snapshot_held_bytes();
    write(&mut kv, &Command::Persist { key: b"{a}x" });
    let keys = List::Arguments(&[b"{a}x"]);
    write(&mut kv, &Command::Delete { keys });
    assert_eq!(kv.snapshot_held_bytes(), held);

    let chunks = rest(&mut kv, 1000);
    assert_eq!(
        restored(EVERY_SLOT, &chunks).unwrap().hash(),
        big_slot(5000).hash()
    );
}

#[test]
fn a_table_that_shrinks_while_it_is_walked_loses_nothing() {
    let mut kv = big_slot(5000);
    kv.snapshot_begin();
    let mut chunks = Vec::new();
    for _ in 0..30 {
        take(&mut kv, 1000, &mut chunks);
    }
    for number in 0..4900 {
        let key = format!("{{a}}{number}");
        let keys = List::Arguments(&[key.as_bytes()]);
        write(&mut kv, &Command::Delete { keys });
    }
    chunks.extend(rest(&mut kv, 1000));
    let back = restored(EVERY_SLOT, &chunks).unwrap();
    assert_eq!(back.hash(), big_slot(5000).hash());
    assert_eq!(kv.keys(), 100);
}

#[test]
fn flushing_keeps_the_old_tables_and_gives_them_back_as_they_are_walked() {
    let mut kv = big_slot(5000);
    kv.snapshot_begin();
    let begun = kv.hash();
    let mut chunks = Vec::new();
    take(&mut kv, 1000, &mut chunks);
    write(&mut kv, &Command::Flush);
    assert_eq!(kv.keys(), 0);
    let held = kv.snapshot_held_bytes();
    assert!(held > 5000 * 5, "{held} bytes");
    write(&mut kv, &plain_set(b"{a}1", b"new", Expiry::Never));
    write(&mut kv, &Command::Flush);
    assert_eq!(kv.snapshot_held_bytes(), held);
    chunks.extend(rest(&mut kv, 1000));
    assert_eq!(restored(EVERY_SLOT, &chunks).unwrap().hash(), begun);
    assert_eq!((kv.keys(), kv.snapshot_held_bytes()), (0, 0));
}

#[test]
fn a_snapshot_that_is_given_up_leaves_nothing_and_the_next_one_is_whole() {
    let mut kv = big_slot(3000);
    kv.snapshot_begin();
    take(&mut kv, 1000, &mut Vec::new());
    write(&mut kv, &plain_set(b"{a}7", b"new", Expiry::Never));
    write(&mut kv, &Command::Flush);
    kv.snapshot_abort();
    assert_eq!(kv.snapshot_held_bytes(), 0);
    assert!(!kv.snapshot_under_way());
    write(&mut kv, &plain_set(b"{a}7", b"newer", Expiry::Never));
    kv.snapshot_begin();
    let chunks = rest(&mut kv, 1000);
    assert_eq!(restored(EVERY_SLOT, &chunks).unwrap().hash(), kv.hash());
}

#[test]
fn an_empty_state_is_restored_with_its_time() {
    let mut kv = state(&[], 77);
    kv.snapshot_begin();
    let chunks = rest(&mut kv, 1 << 20);
    assert_eq!(chunks.len(), 1);
    let back = restored(EVERY_SLOT, &chunks).unwrap();
    assert_eq!((back.clock(), back.hash()), (77, kv.hash()));
}

fn small() -> (Kv, Vec<Vec<u8>>) {
    let sets = [
        plain_set(b"a", b"1", Expiry::At(90)),
        plain_set(b"{a}b", b"2", Expiry::Never),
        plain_set(b"z", b"a longer value", Expiry::At(1 << 40)),
    ];
    let mut kv = state(&sets, 50);
    kv.snapshot_begin();
    let chunks = rest(&mut kv, 20);
    (kv, chunks)
}

#[test]
fn a_byte_that_changed_anywhere_is_noticed() {
    let (kv, chunks) = small();
    assert_eq!(restored(EVERY_SLOT, &chunks).unwrap().hash(), kv.hash());
    for chunk in 0..chunks.len() {
        for byte in 0..chunks[chunk].len() {
            for flip in [1, 0x10, 0x80, 0xff] {
                let mut damaged = chunks.clone();
                damaged[chunk][byte] ^= flip;
                let found = restored(EVERY_SLOT, &damaged);
                assert!(found.is_err(), "chunk {chunk} byte {byte} by {flip:#x}");
            }
        }
    }
}

#[test]
fn a_chunk_that_is_cut_missing_repeated_or_mixed_up_is_noticed() {
    let (_, chunks) = small();
    assert!(chunks.len() > 3);
    for chunk in 0..chunks.len() {
        for cut in 0..chunks[chunk].len() {
            let mut damaged = chunks.clone();
            damaged[chunk].truncate(cut);
            let found = restored(EVERY_SLOT, &damaged);
            assert!(found.is_err(), "chunk {chunk} cut at {cut}");
        }
        let mut missing = chunks.clone();
        missing.remove(chunk);
        assert!(restored(EVERY_SLOT, &missing).is_err(), "without {chunk}");
        let mut twice = chunks.clone();
        twice.insert(chunk, chunks[chunk].clone());
        assert!(restored(EVERY_SLOT, &twice).is_err(), "{chunk} twice");
    }
    let mut late = chunks.clone();
    late.swap(0, 1);
    assert_eq!(
        restored(EVERY_SLOT, &late).err(),
        Some(RestoreError::Order { offset: 0 })
    );
    let mut longer = chunks.clone();
    longer.push(vec![9]);
    let unknown = RestoreError::Tag { offset: 0, tag: 9 };
    assert_eq!(restored(EVERY_SLOT, &longer).err(), Some(unknown));
}

#[test]
fn another_groups_snapshot_is_refused_in_words() {
    let (_, chunks) = small();
    let error = restored((0, 99), &chunks).err().unwrap();
    let expected = "the snapshot is of slots 0-16383, the group owns 0-99: it is another group's";
    assert_eq!(error.to_string(), expected);
}

/// A head of all slots.
fn head(clock: u64, keys: u64) -> Vec<u8> {
    let slots = [1, 1, 0, 0, 0, 0xff, 0x3f];
    [&slots[..], &clock.to_le_bytes(), &keys.to_le_bytes()].concat()
}

/// A key with an empty value, in a slot.
fn entry(slot: u16, key: &[u8], due: Option<u64>) -> Vec<u8> {
    let [low, high] = slot.to_le_bytes();
    let length = u8::try_from(key.len()).expect("a short key");
    let head = [2, low, high, 1, 0, 0, 0];
    let mut bytes = [&head[..], &[length * 2 + u8::from(due.is_some()), 0]].concat();
    bytes.extend(due.iter().flat_map(|due| due.to_le_bytes()));
    [&bytes, key].concat()
}

fn end(keys: u64, hash: u64) -> Vec<u8> {
    [&[3][..], &keys.to_le_bytes(), &hash.to_le_bytes()].concat()
}

#[test]
fn what_was_forged_is_refused_in_words() {
    let slot = net::Slot::of(b"a").number();
    let (a, hash) = (entry(slot, b"a", None), state(&[], 50).hash());
    assert!(restored(EVERY_SLOT, &[[head(50, 0), end(0, hash)].concat()]).is_ok());
    #[rustfmt::skip]
    let table: &[(&[&[u8]], &str)] = &[
        (&[&head(50, 0), &head(50, 0)], "chunk @23: this does not follow what came before, chunks are missing or mixed up"),
        (&[&head(50, 0), &end(0, hash), &a], "chunk @40: this does not follow what came before, chunks are missing or mixed up"),
        (&[&head(50, 1), &a], "the snapshot ends too early, after 1 keys"),
        (&[&head(50, 1), &a, &a], "chunk @40: a key of slot 15495 comes twice"),
        (&[&head(50, 1), &entry(9, b"a", None)], "chunk @30: a key of slot 15495 lies in slot 9"),
        (&[&head(50, 1), &entry(16384, b"a", None)], "chunk @23: slot 16384 is none of the group's 0-16383"),
        (&[&head(50, 1), &entry(slot, b"a", Some(50))], "chunk @30: a key is due at 50, before the snapshot's time 50"),
        (&[&head(50, 2), &a, &end(2, 0)], "the snapshot holds 1 keys, it should be 2"),
        (&[&head(50, 2), &a, &end(1, 0)], "the snapshot holds 1 keys, it should be 2"),
        (&[&head(51, 0), &end(0, 1)], "the snapshot says 0x0000000000000001"),
        (&[&head(50, 1), &a[..9]], "chunk @32: 1 bytes should follow, 0 do"),
        (&[&head(50, 1), &a[..7], &[0xff; 9]], "chunk @30: a length of more than 35 bits"),
        (&[&[1, 2, 0]], "the state has format 2, this build reads 1: use the build that wrote it"),
    ];
    for (parts, expected) in table {
        let error = restored(EVERY_SLOT, &[parts.concat()]).err();
        let error = error.expect(expected).to_string();
        assert!(error.ends_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn promises_of_many_entries_do_not_take_memory() {
    let (_, chunks) = small();
    let mut kv = Kv::new(EVERY_SLOT);
    kv.restore(&chunks[0]).unwrap();
    let slot = [2, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let expected = RestoreError::Truncated {
        offset: 7,
        needs: 1,
        has: 0,
    };
    assert_eq!(kv.restore(&slot), Err(expected));
}

#[test]
fn chunks_can_be_read_without_a_state() {
    let (kv, chunks) = small();
    let items = chunks.iter().flat_map(|chunk| Items::new(chunk));
    let items: Vec<_> = items.collect::<Result<_, _>>().unwrap();
    let (slots, clock, keys) = (EVERY_SLOT, 50, 3);
    assert_eq!(items.first(), Some(&Item::Head { slots, clock, keys }));
    let hash = kv.hash();
    assert_eq!(items.last(), Some(&Item::End { keys, hash }));
    let z = Item::Entry {
        key: b"z",
        value: b"a longer value",
        due: Some(1 << 40),
    };
    assert!(items.contains(&z), "{items:?}");
}
