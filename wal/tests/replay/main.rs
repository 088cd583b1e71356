//! What replay makes of logs that were cut, torn, reordered and rotten.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

#[path = "../disk/mod.rs"]
mod disk;
mod patches;
mod runs;
mod scribe;

use wal::{
    BLOCK, FlushNumber, GroupId, LogIndex, Placement, ReplayError, ReplicaId, SECTOR, SegmentId,
    Term,
};

use scribe::{Scribe, covered, entry, last_of, vote};

#[test]
fn a_sound_log_comes_back_whole_and_goes_on_in_a_new_segment() {
    let mut scribe = Scribe::story(true);
    assert!(scribe.disk.files.len() >= 3, "the story spans segments");
    let recovered = scribe.disk.replay();
    let log = &recovered.groups[&GroupId::from_raw(1)];
    assert_eq!(
        (log.last.to_raw(), log.tail.len()),
        (scribe.index, scribe.index as usize)
    );
    assert_eq!(log.hard_state.vote, Some(ReplicaId::from_raw(2)));
    assert!(recovered.dead.is_empty());
    let locate = |index| {
        let index = LogIndex::from_raw(index);
        let found = recovered.writer.locate(GroupId::from_raw(1), index);
        assert_eq!(
            found,
            scribe.writer.locate(GroupId::from_raw(1), index),
            "entry {index}"
        );
        found.unwrap()
    };
    assert_eq!(locate(1), locate(3), "they are a run");
    assert_ne!(locate(5), locate(6), "they are not");
    assert_eq!(locate(scribe.index - 2), locate(scribe.index));
    for index in 1..=scribe.index {
        let at = locate(index);
        let bytes = &scribe.disk.files[&at.segment][at.offset as usize..][..at.bytes as usize];
        let read = wal::decode_entry(bytes, GroupId::from_raw(1), LogIndex::from_raw(index));
        assert_eq!(read.unwrap(), log.tail[index as usize - 1]);
    }
    let segments = scribe.disk.files.len();
    scribe.writer = recovered.writer;
    scribe.entries(&[8]);
    assert_eq!(scribe.disk.files.len(), segments + 1);
    assert_eq!(last_of(&scribe.disk.replay()), scribe.index);
}

#[test]
fn a_later_entry_replaces_those_at_its_index_and_above() {
    let mut scribe = Scribe::new();
    scribe.entries(&[10, 10, 10, 10]);
    scribe.flush(&[entry(2, 2, 20), entry(3, 3, 20)]);
    let recovered = scribe.disk.replay();
    let log = &recovered.groups[&GroupId::from_raw(1)];
    let terms: Vec<_> = log
        .terms
        .iter()
        .map(|(at, term)| (at.to_raw(), term.to_raw()))
        .collect();
    assert_eq!(
        (log.last.to_raw(), terms),
        (3, vec![(1, 1), (2, 2), (3, 3)])
    );
    assert_eq!(
        recovered
            .writer
            .locate(GroupId::from_raw(1), LogIndex::from_raw(4)),
        None
    );
}

#[test]
fn a_cut_anywhere_loses_only_what_was_not_wholly_written() {
    let scribe = Scribe::story(true);
    for (&segment, bytes) in &scribe.disk.files {
        for cut in 0..=bytes.len() {
            // Sectors are written or not: what lies in the sector of the cut was not.
            let from = cut / SECTOR * SECTOR;
            if cut % SECTOR > 1 {
                continue; // the same image
            }
            let mut disk = scribe.disk.clone();
            disk.files.get_mut(&segment).unwrap()[from..].fill(0);
            disk.files.retain(|&id, _| id <= segment);
            let whole = |(at, _): &&(Placement, u64)| {
                let end = usize::try_from(at.offset).unwrap() + at.bytes;
                at.segment < segment || (at.segment == segment && end <= from)
            };
            let acknowledged = scribe
                .flushes
                .iter()
                .filter(whole)
                .map(|(_, last)| *last)
                .max();
            let recovered = disk.try_replay();
            let recovered = recovered.unwrap_or_else(|error| panic!("{segment} @{cut}: {error}"));
            let found = last_of(&recovered);
            assert_eq!(found, acknowledged.unwrap_or(0), "{segment} cut at {cut}");
        }
    }
}

#[test]
fn a_flipped_byte_is_found_or_does_no_harm() {
    for marked in [true, false] {
        let scribe = Scribe::story(marked);
        let mut noticed = 0;
        for (&segment, bytes) in &scribe.disk.files {
            for at in 0..bytes.len() {
                for mask in [0xff, 1 << (at % 8)] {
                    let mut disk = scribe.disk.clone();
                    disk.files.get_mut(&segment).unwrap()[at] ^= mask;
                    let recovered = disk.try_replay();
                    let place = format!("{segment} @{at} ^ {mask:#x}");
                    let recovered = recovered.unwrap_or_else(|error| panic!("{place}: {error}"));
                    covered(&recovered, scribe.index, &place);
                    let log = recovered.groups.get(&GroupId::from_raw(1));
                    noticed += usize::from(log.is_none_or(|log| log.damage.is_some()));
                }
            }
        }
        assert!(noticed > 5_000, "only {noticed} flips were noticed");
    }
}

#[test]
fn a_lost_sector_of_what_was_known_durable_is_rot() {
    let scribe = Scribe::story(true);
    // The mark itself is known durable to nobody.
    for (at, _) in &scribe.flushes[..scribe.flushes.len() - 1] {
        let start = usize::try_from(at.offset).unwrap();
        let header = if at.opens_segment { BLOCK } else { 0 };
        for sector in (start + header..start + at.bytes).step_by(SECTOR) {
            for fill in [0, 0x77] {
                let mut disk = scribe.disk.clone();
                let lost = &mut disk.files.get_mut(&at.segment).unwrap()[sector..sector + SECTOR];
                if lost.iter().all(|&byte| byte == fill) {
                    continue; // nothing is lost
                }
                lost.fill(fill);
                let place = format!("{} @{sector} filled with {fill}", at.segment);
                let recovered = disk.try_replay();
                let recovered = recovered.unwrap_or_else(|error| panic!("{place}: {error}"));
                assert!(!recovered.lost.is_empty(), "{place}: not noticed");
                covered(&recovered, scribe.index, &place);
            }
        }
    }
}

#[test]
fn a_tail_of_zeroes_is_missed_unless_it_begins_inside_of_the_newest_segment() {
    let mut scribe = Scribe::story(true);
    scribe.entries(&[16]);
    scribe.entries(&[16]);
    let (newest, _) = scribe.flushes.last().unwrap();
    let next_file = newest.segment.next();
    let mut undecidable = 0;
    for (first, _) in &scribe.flushes {
        let mut disk = scribe.disk.clone();
        // It was made once the first flush of the newest segment was durable.
        disk.make(next_file);
        for (&segment, bytes) in disk.files.range_mut(first.segment..) {
            let own = segment == first.segment;
            let from = if own { first.offset } else { 0 };
            bytes[usize::try_from(from).unwrap()..].fill(0);
        }
        let place = format!("zeroes from {} @{}", first.segment, first.offset);
        let recovered = disk
            .try_replay()
            .unwrap_or_else(|error| panic!("{place}: {error}"));
        if first.segment == newest.segment && !first.opens_segment {
            undecidable += 1;
            assert_eq!(recovered.lost, [], "{place}: nothing tells");
        } else {
            assert!(!recovered.lost.is_empty(), "{place}: not noticed");
            covered(&recovered, scribe.index, &place);
        }
    }
    assert!(
        undecidable > 0,
        "the newest segment holds more than one flush"
    );
}

#[test]
fn whatever_is_lost_of_flushes_under_way_the_ones_before_stay() {
    let mut random = 0x9e37_79b9_u64;
    let mut draw = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for round in 0..3000 {
        let mut scribe = Scribe::story(round % 2 == 0);
        let durable = scribe.index;
        let newest_durable = scribe.flushes.last().unwrap().0.segment;
        let mut whole = true;
        for _ in 0..=draw() % 3 {
            let size = usize::try_from(draw() % 6000).unwrap();
            let mut records = vec![vote(2 + round), scribe.next_entry(size)];
            records.extend((0..draw() % 3).map(|_| scribe.next_entry(30)));
            let (placement, bytes) = scribe.encode(&records);
            // The file is not there until the first flush of the one before is durable.
            if placement.segment > newest_durable.next() {
                whole = false;
                break;
            }
            let keep = draw() % 4; // none, all, or some of the sectors
            let mut torn = bytes.clone();
            for sector in torn.chunks_exact_mut(SECTOR) {
                if keep == 0 || (keep > 1 && draw() % 2 == 0) {
                    sector.fill(0);
                }
            }
            whole &= torn == bytes;
            scribe.disk.write(&placement, &torn, |_| true);
        }
        let recovered = scribe
            .disk
            .try_replay()
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        let last = last_of(&recovered);
        assert!(
            (durable..=scribe.index).contains(&last),
            "round {round}: {last}"
        );
        assert!(
            !whole || last == scribe.index,
            "round {round}: whole flushes are kept"
        );

        // The log goes on, and what was torn stays out of it, however often it is read.
        scribe.disk.remove(&recovered.dead);
        scribe.writer = recovered.writer;
        scribe.index = last;
        scribe.entries(&[50]);
        scribe.flush(&[]);
        assert_eq!(last_of(&scribe.disk.replay()), last + 1, "round {round}");
    }
}

#[test]
fn a_missing_segment_is_noticed_and_a_foreign_one_refused() {
    let scribe = Scribe::story(true);
    let mut disk = scribe.disk.clone();
    disk.remove(&[SegmentId::from_raw(2)]);
    let recovered = disk.replay();
    assert_eq!(recovered.lost.len(), 1, "{:?}", recovered.lost);
    covered(&recovered, scribe.index, "without segment 2");

    disk = scribe.disk.clone();
    disk.options.instance = 7;
    let error = disk.try_replay().unwrap_err();
    assert!(
        matches!(
            error,
            ReplayError::Instance {
                found: 0x1a57,
                expected: 7,
                ..
            }
        ),
        "{error}"
    );
}

/// Flushes behind one that a crash tore stay on the disk. The next start takes their numbers again,
/// and only its segment's header says that they are dead.
#[test]
fn flushes_that_a_crash_left_behind_a_torn_one_stay_dead_without_the_header_that_says_so() {
    let mut scribe = Scribe::new();
    scribe.flush(&[vote(1)]);
    scribe.writer = scribe.disk.replay().writer;
    scribe.entries(&[10]);
    let torn = scribe.next_entry(10);
    scribe.encode(&[torn]);
    let dead = scribe.next_entry(10);
    let (placement, bytes) = scribe.encode(&[dead]);
    scribe.disk.write(&placement, &bytes, |_| true);
    scribe.writer = scribe.disk.replay().writer;
    scribe.index = 1;
    scribe.entries(&[10, 10, 10]);
    scribe.flush(&[vote(2)]);
    scribe.entries(&[10]);
    scribe.flush(&[]);
    assert_eq!(scribe.disk.files.len(), 4);

    let third = SegmentId::from_raw(3);
    let mut damaged = vec![("without the segment".to_owned(), scribe.disk.clone())];
    damaged[0].1.remove(&[third]);
    for blocks in 1..=3 {
        for byte in [0, 0xee] {
            let mut disk = scribe.disk.clone();
            disk.files.get_mut(&third).unwrap()[..blocks * BLOCK].fill(byte);
            damaged.push((format!("{blocks} blocks are {byte:#x}"), disk));
        }
    }
    for (what, disk) in damaged {
        let recovered = disk.replay();
        covered(&recovered, scribe.index, &what);
        let log = &recovered.groups[&GroupId::from_raw(1)];
        let lost = log.damage.as_ref();
        assert!(
            log.hard_state.term == Term::from_raw(2) || lost.is_some_and(|lost| lost.promises_lost),
            "{what}: the newer vote is missing in silence"
        );
    }
}

/// Each flush but the last, put at any other place: over others, over headers, where nothing was.
/// Those behind it are written after it.
#[test]
fn a_write_that_went_astray_is_missed_wherever_it_went() {
    let mut even = Scribe::new();
    even.flush(&[vote(1)]);
    (0..8).for_each(|_| even.entries(&[16, 16]));
    for scribe in [Scribe::story(true), even] {
        for at in 0..scribe.flushes.len() - 1 {
            stray_everywhere(&scribe, at);
        }
    }
}

fn stray_everywhere(scribe: &Scribe, flush: usize) {
    let mut written = scribe.disk.clone();
    let mut bytes_of = |placement: &Placement| written.place(placement).to_vec();
    let (meant, _) = &scribe.flushes[flush];
    let home = (meant.segment, usize::try_from(meant.offset).unwrap());
    let bytes = bytes_of(meant);
    let places = (0..=4 * BLOCK - bytes.len()).step_by(SECTOR);
    let segments = scribe.disk.files.keys();
    let places = segments.flat_map(|&id| places.clone().map(move |to| (id, to)));
    for (segment, to) in places.filter(|&place| place != home) {
        let mut disk = scribe.disk.clone();
        disk.files.values_mut().for_each(|file| file.fill(0));
        for (at, _) in &scribe.flushes {
            if at.number == meant.number {
                let file = disk.files.get_mut(&segment).unwrap();
                file[to..to + bytes.len()].copy_from_slice(&bytes);
            } else {
                disk.write(at, &bytes_of(at), |_| true);
            }
        }
        let what = format!("flush {} is at {segment} @{to}", meant.number);
        covered(&disk.replay(), scribe.index, &what);
    }
}

#[test]
fn a_torn_header_costs_nothing_of_a_segment_in_which_a_flush_rotted() {
    let mut scribe = Scribe::new();
    scribe.entries(&[10]);
    scribe.entries(&[10]);
    scribe.entries(&[10]);
    let (rotten, _) = scribe.flushes[0];
    let mut disk = scribe.disk.clone();
    disk.files.get_mut(&rotten.segment).unwrap()[BLOCK] ^= 1;
    scribe.writer = disk.replay().writer;
    for at in 0..2 {
        let record = scribe.next_entry(10);
        let (placement, bytes) = scribe.encode(&[record]);
        if at > 0 {
            disk.write(&placement, &bytes, |_| true);
        } else {
            disk.make(placement.segment);
        }
    }
    let recovered = disk.replay();
    let damage = recovered.groups[&GroupId::from_raw(1)].damage.as_ref();
    let spares = damage.unwrap().spares.iter();
    let spares: Vec<_> = spares.map(|entry| entry.index.to_raw()).collect();
    assert_eq!(spares[..2], [2, 3]);
}
#[test]
fn a_log_of_another_format_is_refused_in_words() {
    let scribe = Scribe::story(true);
    for segment in scribe.disk.files.keys() {
        let mut disk = scribe.disk.clone();
        let header = &mut disk.files.get_mut(segment).unwrap()[..64];
        header[4..6].copy_from_slice(&2_u16.to_le_bytes());
        let crc = crc32c::crc32c(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            disk.try_replay().unwrap_err().to_string(),
            format!(
                "segment {segment} @0: format 2, this build reads 3: use the build that wrote it"
            )
        );
    }
}

#[test]
fn flushes_that_finish_out_of_order_are_acknowledged_in_order() {
    let mut scribe = Scribe::new();
    let numbers: Vec<FlushNumber> = (0..3)
        .map(|_| {
            let record = scribe.next_entry(10);
            scribe.encode(&[record]).0.number
        })
        .collect();
    assert_eq!(scribe.writer.written(numbers[2]), FlushNumber::ZERO);
    assert_eq!(scribe.writer.written(numbers[0]), numbers[0]);
    assert_eq!(scribe.writer.written(numbers[1]), numbers[2]);
}

#[test]
fn a_spare_that_was_never_written_is_no_part_of_the_log() {
    let mut scribe = Scribe::story(true);
    for _ in 0..3 {
        // The segment is full to its end: a start looks on in the spare.
        loop {
            let (newest, _) = scribe.flushes.last().unwrap();
            if newest.offset + newest.bytes as u64 == scribe.writer.room() {
                break;
            }
            scribe.flush(&[]);
        }
        let newest = *scribe.disk.files.keys().next_back().unwrap();
        scribe.disk.make(newest.next());
        let recovered = scribe.disk.replay();
        assert_eq!(last_of(&recovered), scribe.index);
        // The spare is not removed: a start may die before it has.
        scribe.writer = recovered.writer;
        scribe.entries(&[8]);
    }
    let recovered = scribe.disk.replay();
    assert_eq!(last_of(&recovered), scribe.index);
    assert!(recovered.lost.is_empty());
}
