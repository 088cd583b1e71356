//! What speaks to the kernel without a safe interface in between.

pub(super) mod ring;
