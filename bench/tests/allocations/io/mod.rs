//! What stands between the program and the system's allocator.

pub(super) mod counter;
