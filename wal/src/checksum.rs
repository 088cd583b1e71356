//! Checksums of sectors, each taken once: that of a record is joined from those of the sectors that lie
//! whole in it. Three sectors are summed at a time, for the instruction that does it takes three cycles
//! and can begin anew in each.

use crate::bytes::{read_u32, write};
use crate::segment::SECTOR;

/// CRC32C, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a sector of zeroes behind it makes of a checksum, by each of its four bytes.
static BEHIND: [[u32; 256]; 4] = behind();

const fn behind() -> [[u32; 256]; 4] {
    let bits = powers();
    let mut tables = [[0; 256]; 4];
    let mut at: u32 = 0;
    while at < 4 * 256 {
        let (byte, value) = (at / 256, at % 256);
        tables[byte as usize][value as usize] = image(&bits, value << (8 * byte));
        at += 1;
    }
    tables
}

/// What a sector of zeroes makes of a checksum of one bit, for each bit.
const fn powers() -> [u32; 32] {
    // One bit of zero.
    let mut bits = [POLYNOMIAL; 32];
    let mut bit = 1;
    while bit < 32 {
        bits[bit] = 1 << (bit - 1);
        bit += 1;
    }
    // Twice as many each time.
    let mut zeroes = 1;
    while zeroes < 8 * SECTOR {
        let mut twice = [0; 32];
        let mut bit = 0;
        while bit < 32 {
            twice[bit] = image(&bits, bits[bit]);
            bit += 1;
        }
        bits = twice;
        zeroes *= 2;
    }
    bits
}

const fn image(bits: &[u32; 32], of: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 0;
    while bit < 32 {
        if of >> bit & 1 == 1 {
            sum ^= bits[bit];
        }
        bit += 1;
    }
    sum
}

/// The checksum of some bytes and the sector behind them, of which the checksums are known.
fn join(before: u32, sector: u32) -> u32 {
    let bytes = before.to_le_bytes().into_iter();
    let shifted = bytes
        .zip(&BEHIND)
        .map(|(byte, table)| table[usize::from(byte)]);
    shifted.fold(sector, |sum, one| sum ^ one)
}

/// The checksum of `body[from..to]`. Notes those of the sectors in between in `table`, u32 each.
pub(crate) fn span(body: &[u8], from: usize, to: usize, table: &mut [u8]) -> u32 {
    let (first, end) = (from.div_ceil(SECTOR), to / SECTOR);
    if first >= end {
        return crc32c::crc32c(&body[from..to]);
    }
    let mut sum = crc32c::crc32c(&body[from..first * SECTOR]);
    for_each(body, first..end, |position, sector| {
        write(table, 4 * position, &sector.to_le_bytes());
        sum = join(sum, sector);
    });
    crc32c::crc32c_append(sum, &body[end * SECTOR..to])
}

/// Notes in `table` the checksums of the sectors of a body that are not there yet: zeroes stand for them.
pub(crate) fn complete(body: &[u8], table: &mut [u8]) {
    let mut missing = [0; 3];
    let mut count = 0;
    for position in 0..body.len() / SECTOR {
        if read_u32(table, 4 * position) != 0 {
            continue;
        }
        missing[count] = position;
        count += 1;
        if count == missing.len() {
            count = 0;
            let sums = three(missing.map(|position| sector(body, position)));
            for (position, sum) in missing.into_iter().zip(sums) {
                write(table, 4 * position, &sum.to_le_bytes());
            }
        }
    }
    for &position in &missing[..count] {
        let sum = crc32c::crc32c(sector(body, position));
        write(table, 4 * position, &sum.to_le_bytes());
    }
}

/// Calls with the position and the checksum of each of some sectors, in their order.
pub(crate) fn for_each(
    bytes: &[u8],
    sectors: core::ops::Range<usize>,
    mut call: impl FnMut(usize, u32),
) {
    let mut position = sectors.start;
    while position + 3 <= sectors.end {
        let sums = three([0, 1, 2].map(|behind| sector(bytes, position + behind)));
        for sum in sums {
            call(position, sum);
            position += 1;
        }
    }
    for position in position..sectors.end {
        call(position, crc32c::crc32c(sector(bytes, position)));
    }
}

fn sector(bytes: &[u8], position: usize) -> &[u8; SECTOR] {
    let sector = &bytes[position * SECTOR..][..SECTOR];
    sector.try_into().expect("the slice has this length")
}

#[cfg(feature = "io")]
use crate::io::checksum::three;

#[cfg(not(feature = "io"))]
fn three(sectors: [&[u8; SECTOR]; 3]) -> [u32; 3] {
    sectors.map(|sector| crc32c::crc32c(sector))
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn joined_checksums_are_those_of_the_whole() {
        let mut seed = 1_u32;
        let noise = core::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed.to_le_bytes()[3]
        });
        let body: Vec<u8> = noise.take(12 * SECTOR).collect();
        let sums: Vec<u32> = body.chunks(SECTOR).map(crc32c::crc32c).collect();
        for from in [0, 4, 511, 512, 513, 1000, 2048] {
            for to in [
                from,
                from + 1,
                from + 511,
                from + 512,
                3000,
                4095,
                4096,
                12 * SECTOR,
            ] {
                let to = to.max(from);
                let mut table = vec![0; 12 * 4];
                let sum = span(&body, from, to, &mut table);
                assert_eq!(sum, crc32c::crc32c(&body[from..to]), "{from} to {to}");
                complete(&body, &mut table);
                let noted: Vec<u32> = (0..12).map(|at| read_u32(&table, 4 * at)).collect();
                assert_eq!(noted, sums, "{from} to {to}");
            }
        }
    }
}
