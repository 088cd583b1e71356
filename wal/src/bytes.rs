//! Little-endian fields at fixed places of a buffer.

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("the slice has this length")
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

pub(crate) fn write(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Copies as many bytes. Few of them are moved as two words that may overlap: a call would take longer.
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    match from.len() {
        8..=16 => copy_ends::<8>(to, from),
        17..=32 => copy_ends::<16>(to, from),
        _ => to.copy_from_slice(from),
    }
}

fn copy_ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    let ends = from.first_chunk::<N>().zip(from.last_chunk::<N>());
    let (first, last) = ends.expect("there are as many");
    assert_eq!(to.len(), from.len(), "as many bytes are copied");
    *to.first_chunk_mut().expect("as above") = *first;
    *to.last_chunk_mut().expect("as above") = *last;
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn copies_are_equal_whatever_their_length() {
        for length in 0..100 {
            let from: Vec<u8> = (1..=length).collect();
            let mut to = vec![0; from.len()];
            copy(&mut to, &from);
            assert_eq!(to, from);
        }
    }
}
