//! Memory that direct I/O takes.

use wal::BLOCK;

/// Bytes that start at a multiple of [`BLOCK`].
pub(crate) struct Block {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Block {
    pub(crate) fn zeroed(length: usize) -> Self {
        let memory = vec![0; length + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        assert!(start < BLOCK, "bytes can be aligned");
        Self {
            memory,
            start,
            length,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}
