//! Copies to memory that a device reads.

/// Copies as many bytes past the processor's caches, whole lines at a time. A device, or the host of a virtual
/// machine, has read the lines of a buffer that was written before: to get each back takes a store several
/// times as long as it takes to replace it in memory.
///
/// # Panics
///
/// If the lengths differ, or `to` does not begin and end at multiples of 16.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "no safe function stores past the caches")]
pub(super) fn stream(to: &mut [u8], from: &[u8]) {
    use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    assert_eq!(to.len(), from.len(), "as many bytes are copied");
    let (to, ends) = to.as_chunks_mut::<{ size_of::<__m128i>() }>();
    assert!(ends.is_empty() && to.as_ptr().addr().is_multiple_of(size_of::<__m128i>()));
    for (to, from) in to.iter_mut().zip(from.as_chunks().0) {
        let from: &[u8; size_of::<__m128i>()] = from;
        // SAFETY: both are as long as a word; `to` is aligned, as was asserted of the first.
        unsafe {
            let word = _mm_loadu_si128(from.as_ptr().cast());
            _mm_stream_si128(to.as_mut_ptr().cast(), word);
        }
    }
    // SAFETY: every processor of this kind has the instruction. What follows, such as a system call, comes
    // after these stores.
    unsafe { _mm_sfence() };
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn stream(to: &mut [u8], from: &[u8]) {
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_streamed_is_a_copy() {
        let from: Vec<u8> = (0..=u8::MAX).cycle().skip(3).take(3 * 4096 + 5).collect();
        let mut memory = vec![0; 3 * 4096 + 64];
        let start = memory.as_ptr().align_offset(64);
        for (offset, length) in [(0, 0), (0, 16), (16, 4096), (48, 2 * 4096)] {
            memory.fill(0xee);
            let to = &mut memory[start + offset..][..length];
            stream(to, &from[5..][..length]);
            assert_eq!(to, &from[5..][..length]);
            let others = memory.iter().filter(|&&byte| byte == 0xee).count();
            let same = from[5..][..length].iter().filter(|&&byte| byte == 0xee);
            assert_eq!(others, memory.len() - length + same.count());
        }
    }
}
