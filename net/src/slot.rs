//! The hash slots of Redis Cluster.

use memchr::memchr;

/// How many slots there are.
pub const SLOTS: u16 = 16384;

/// One of the [`SLOTS`] hash slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this number, if there is one.
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOTS {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The slot of a key: CRC16/XMODEM of the key, or of its first non-empty `{tag}`, modulo
    /// [`SLOTS`] (Redis Cluster specification, "Key distribution model").
    pub fn of(key: &[u8]) -> Self {
        Self(crc16(tag(key)) % SLOTS)
    }

    /// Its number, below [`SLOTS`].
    pub const fn number(self) -> u16 {
        self.0
    }
}

fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr(b'{', key) else {
        return key;
    };
    let inside = &key[open + 1..];
    match memchr(b'}', inside) {
        Some(length) if length > 0 => &inside[..length],
        _ => key,
    }
}

/// Bytes taken in one step: every request pays for the slot of its key.
const STRIDE: usize = 8;

/// `CRC16[n][byte]` is what `byte` followed by `n` zeroes adds to the checksum.
static CRC16: [[u16; 256]; STRIDE] = {
    let mut tables = [[0u16; 256]; STRIDE];
    let mut byte = 0u16;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        tables[0][byte as usize] = crc;
        byte += 1;
    }
    let mut zeroes = 1;
    while zeroes < STRIDE {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[zeroes - 1][byte];
            tables[zeroes][byte] = (crc << 8) ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        zeroes += 1;
    }
    tables
};

fn crc16(bytes: &[u8]) -> u16 {
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    let mut crc = 0u16;
    for stride in strides {
        let [high, low] = [(crc >> 8) as u8, (crc & 0xff) as u8];
        crc = CRC16[7][usize::from(stride[0] ^ high)]
            ^ CRC16[6][usize::from(stride[1] ^ low)]
            ^ CRC16[5][usize::from(stride[2])]
            ^ CRC16[4][usize::from(stride[3])]
            ^ CRC16[3][usize::from(stride[4])]
            ^ CRC16[2][usize::from(stride[5])]
            ^ CRC16[1][usize::from(stride[6])]
            ^ CRC16[0][usize::from(stride[7])];
    }
    rest.iter().fold(crc, |crc, &byte| {
        (crc << 8) ^ CRC16[0][usize::from((crc >> 8) as u8 ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        let table: &[(&[u8], u16)] = &[
            (b"", 0),
            (b"123456789", 12739), // 0x31C3, the check value of CRC16/XMODEM
            (b"foo", 12182),
            (b"{foo}bar", 12182),
            (b"x{foo}{bar}", 12182),
        ];
        for &(key, slot) in table {
            assert_eq!(Slot::of(key).number(), slot, "key {key:?}");
        }
        assert_ne!(
            Slot::of(b"foo{}{bar}"),
            Slot::of(b"bar"),
            "an empty tag is no tag"
        );
    }

    #[test]
    fn strides_change_nothing() {
        let bytewise = |bytes: &[u8]| {
            bytes.iter().fold(0u16, |crc, &byte| {
                (crc << 8) ^ CRC16[0][usize::from((crc >> 8) as u8 ^ byte)]
            })
        };
        let bytes = b"a key of some length, \x00\xff and then some";
        for length in 0..bytes.len() {
            assert_eq!(crc16(&bytes[..length]), bytewise(&bytes[..length]));
        }
    }
}
