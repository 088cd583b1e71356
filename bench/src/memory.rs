//! What the allocator does with memory that was given back.

use std::ffi::{c_int, c_long};

/// `mi_option_purge_delay` of mimalloc 2 and 3: after how many milliseconds what was given back goes to the
/// system; never if negative.
const PURGE_DELAY: c_int = 15;

#[allow(unsafe_code, reason = "the allocator's options have no other way in")]
// SAFETY: as `mimalloc.h` declares it.
unsafe extern "C" {
    safe fn mi_option_set(option: c_int, value: c_long);
}

/// Keeps all memory that this process will ever have had at once.
pub(crate) fn keep_all() {
    mi_option_set(PURGE_DELAY, -1);
}
