//! Memory that is there before it is needed.
//!
//! The kernel finds a page when it is first touched, and the host of a virtual machine may find its memory no
//! earlier: milliseconds, in which a shard's thread does nothing else.

use std::hint::black_box;

/// Small enough for any allocator to cut it up for whoever asks next.
const BLOCK_BYTES: usize = 1 << 20;

/// Has the allocator ask for so many bytes, touches all of them and gives them back. Whether they are still
/// there when they are needed is the allocator's business.
pub(super) fn make_ready(bytes: u64) {
    let blocks = bytes.div_ceil(BLOCK_BYTES as u64);
    // Not zeroes: the allocator would leave those to the kernel.
    let touched = (0..blocks).map(|_| vec![1_u8; BLOCK_BYTES]).collect();
    drop::<Vec<_>>(black_box(touched));
}
