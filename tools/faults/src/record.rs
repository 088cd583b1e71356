//! The record that dm-log-writes keeps of everything that was written to a device, and the disks that
//! a power cut could have left at any place of it (the kernel's Documentation/device-mapper/log-writes).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::scenario::Stage;
use crate::trouble::Trouble;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// One request that the device confirmed, in the order of confirmations; a write that no flush or
/// FUA made durable comes as late as the flush that did.
struct Entry {
    sector: u64,
    flags: u64,
    /// What was written.
    data: Vec<u8>,
    /// What had been acknowledged: the index and the term.
    mark: Option<(u64, u64)>,
}

pub(crate) struct Record(Vec<Entry>);

impl Record {
    pub(crate) fn read(path: &Path) -> Result<Self, Trouble> {
        let failed = || Trouble::io("read", path);
        let file = File::open(path).map_err(failed())?;
        let mut head = [0; SECTOR];
        file.read_exact_at(&mut head, 0).map_err(failed())?;
        let count = u64_at(&head, 16);
        let mut at = u64::from(u32::from_le_bytes(
            head[24..28].try_into().expect("four bytes"),
        ));
        // Entries begin behind the first sector and take whole ones.
        if u64_at(&head, 0) != MAGIC || at != SECTOR as u64 {
            return Err(failed()(std::io::ErrorKind::InvalidData.into()));
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            file.read_exact_at(&mut head, at).map_err(failed())?;
            at += SECTOR as u64;
            let (sectors, flags) = (u64_at(&head, 8), u64_at(&head, 16));
            let mut data = Vec::new();
            if flags & (DISCARD | MARK) == 0 {
                data.resize(
                    usize::try_from(sectors).expect("it fits memory") * SECTOR,
                    0,
                );
                file.read_exact_at(&mut data, at).map_err(failed())?;
                at += data.len() as u64;
            }
            let text = (flags & MARK != 0).then(|| String::from_utf8_lossy(&head[32..]));
            entries.push(Entry {
                sector: u64_at(&head, 0),
                flags,
                data,
                mark: text.and_then(|text| parse_mark(&text)),
            });
        }
        Ok(Self(entries))
    }

    /// Places at which something had been acknowledged and more was to come.
    pub(crate) fn places(&self) -> std::ops::Range<usize> {
        let marked = |entry: &Entry| entry.mark.is_some();
        let first = self.0.iter().position(marked).unwrap_or(0);
        first..self.0.iter().rposition(marked).unwrap_or(first)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// `INDEX:TERM`, and zeroes.
fn parse_mark(text: &str) -> Option<(u64, u64)> {
    let (index, term) = text.trim_end_matches('\0').split_once(':')?;
    index.parse().ok().zip(term.parse().ok())
}

/// A disk with a volatile cache that goes through a record.
pub(crate) struct Disk<'a> {
    record: &'a Record,
    /// What is on the medium.
    medium: &'a Path,
    /// Entries before this one were confirmed.
    next: usize,
    /// Of these the ones that may still be in the cache, in order.
    cached: Vec<usize>,
    /// What had been acknowledged.
    pub(crate) acked: u64,
    pub(crate) term: u64,
}

impl<'a> Disk<'a> {
    /// `medium` is the device as it was when the record began.
    pub(crate) fn new(record: &'a Record, medium: &'a Path) -> Self {
        Self {
            record,
            medium,
            next: 0,
            cached: Vec::new(),
            acked: 0,
            term: 0,
        }
    }

    /// Goes on until all entries up to `place` were confirmed.
    pub(crate) fn advance(&mut self, place: usize) -> Result<(), Trouble> {
        let medium = File::options().write(true).open(self.medium);
        let medium = medium.map_err(Trouble::io("open", self.medium))?;
        let write = |index: &usize| {
            let entry = &self.record.0[*index];
            medium.write_all_at(&entry.data, entry.sector * SECTOR as u64)
        };
        while self.next <= place {
            let entry = &self.record.0[self.next];
            let mut written = Ok(());
            if entry.flags & FLUSH != 0 {
                written = self.cached.iter().try_for_each(write);
                self.cached.clear();
            }
            if !entry.data.is_empty() {
                self.cached.push(self.next);
            }
            written.map_err(Trouble::io("write", self.medium))?;
            (self.acked, self.term) = entry.mark.unwrap_or((self.acked, self.term));
            self.next += 1;
        }
        Ok(())
    }

    /// The power is cut here: `image`, a copy of the medium, gets what is durable and any part of what
    /// is not, among that the request that was under way.
    pub(crate) fn cut(&self, image: &Path, stage: &Stage) -> Result<(), Trouble> {
        let file = File::options().write(true).open(image);
        let file = file.map_err(Trouble::io("open", image))?;
        // Of four disks one loses all of its cache, and one nothing.
        let mood = stage.chance(4);
        let under_way = (self.next < self.record.0.len()).then_some(self.next);
        for &index in self.cached.iter().chain(&under_way) {
            let entry = &self.record.0[index];
            let confirmed = index < self.next;
            // Kept whole, torn, or lost.
            let fate = match mood {
                _ if confirmed && entry.flags & FUA != 0 => 0,
                0 => 2,
                1 => 0,
                _ => stage.chance(3),
            };
            for (sector, data) in (entry.sector..).zip(entry.data.chunks(SECTOR)) {
                if fate == 0 || fate == 1 && stage.chance(2) == 0 {
                    let written = file.write_all_at(data, sector * SECTOR as u64);
                    written.map_err(Trouble::io("write", image))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Image;

    fn entry(flags: u64, sector: u64, byte: u8) -> Entry {
        let data = if byte == 0 { 0 } else { 2 * SECTOR };
        Entry {
            sector,
            flags,
            data: vec![byte; data],
            mark: None,
        }
    }

    fn mark(index: u64) -> Entry {
        Entry {
            mark: Some((index, 1)),
            ..entry(MARK, 0, 0)
        }
    }

    /// The disks that a power cut behind `place` leaves: the first byte of each sector.
    fn cut(name: &str, entries: Vec<Entry>, place: usize) -> Vec<[u8; 8]> {
        let name = format!("drakkar-faults-{name}-{}", std::process::id());
        let base = std::env::temp_dir().join(name);
        let (medium, image) = (base.with_extension("medium"), base.with_extension("image"));
        let (medium, image) = (
            Image::create(medium, 8 * SECTOR as u64).unwrap(),
            Image::create(image, 8 * SECTOR as u64).unwrap(),
        );
        let record = Record(entries);
        let mut disk = Disk::new(&record, &medium.0);
        disk.advance(place).unwrap();
        let found = (0..200).map(|seed| {
            std::fs::copy(&medium.0, &image.0).unwrap();
            disk.cut(&image.0, &Stage::new(base.clone(), 1, seed))
                .unwrap();
            let bytes = std::fs::read(&image.0).unwrap();
            std::array::from_fn(|sector| bytes[sector * SECTOR])
        });
        found.collect()
    }

    #[test]
    fn what_was_flushed_or_forced_stays_and_the_rest_may_go_sector_by_sector() {
        let entries = vec![
            entry(0, 0, 1),
            entry(FLUSH, 0, 0),
            entry(FUA, 2, 2),
            entry(0, 4, 3),
            mark(7),
            entry(0, 6, 4),
            entry(FLUSH, 0, 0),
        ];
        let disks = cut("kept", entries, 4);
        assert!(disks.iter().all(|disk| disk[..4] == [1, 1, 2, 2]));
        for torn in [[0, 0], [3, 0], [0, 3], [3, 3]] {
            assert!(disks.iter().any(|disk| disk[4..6] == torn), "{torn:?}");
        }
        // It was under way.
        assert!(disks.iter().any(|disk| disk[6..] == [4, 4]));
        assert!(disks.iter().any(|disk| disk[6..] == [0, 0]));
    }

    #[test]
    fn an_older_write_in_the_cache_does_not_undo_a_newer_one_that_was_forced() {
        let entries = [
            entry(0, 0, 1),
            entry(FUA, 0, 2),
            entry(FLUSH, 0, 0),
            mark(1),
        ];
        for place in [1, 2] {
            let entries = entries.iter().map(|entry| Entry {
                data: entry.data.clone(),
                ..*entry
            });
            let disks = cut("order", entries.collect(), place);
            assert!(
                disks.iter().all(|disk| disk[..2] == [2, 2]),
                "place {place}"
            );
        }
    }

    #[test]
    fn a_mark_is_what_the_writer_wrote_there() {
        assert_eq!(parse_mark("12:3\0\0\0"), Some((12, 3)));
        assert_eq!(parse_mark("end\0"), None);
    }
}
