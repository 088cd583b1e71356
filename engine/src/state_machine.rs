//! What a group replicates.
//!
//! A state machine is deterministic: equal states given equal batches become equal states and give
//! equal replies. It reads no clock; its time is what the leaders stamped on the batches.

use alloc::vec::Vec;

use net::{Command, Reply};

use crate::batch::Batch;

/// Commands that are worth looking at together: about as many accesses to memory as a processor has under
/// way at once.
pub const WINDOW: usize = 16;

/// What the answers of one turn carry, beyond which no more are begun: until then nobody looks at how much
/// a client has not taken yet.
pub const TURN_ANSWERS_BYTES: usize = 4 << 20;

/// What the answers of one batch carry, beyond which commands are refused that would only answer a value.
pub const BATCH_ANSWERS_BYTES: usize = 32 << 20;

/// The state that the committed entries of a group make.
pub trait StateMachine {
    /// Applies a whole batch and appends one reply for each of its commands, in order. What they carry is
    /// bounded by what the batch replaced, [`BATCH_ANSWERS_BYTES`] and one value: commands that would only
    /// answer a value are [`net::ErrorReply::Busy`] beyond.
    fn apply(&mut self, batch: &Batch<'_>, replies: &mut Vec<Reply>);

    /// Answers a command that changes nothing; linearizable when the group says so. `unix_ms` is the
    /// reader's time, good for display only. An answer that would carry more than `bytes_max` is
    /// [`net::ErrorReply::AnswerTooLarge`]; no more than that is gathered for it.
    fn read(&self, unix_ms: u64, bytes_max: usize, command: &Command<'_>) -> Reply;

    /// Hints at commands that come next, up to [`WINDOW`] of them.
    fn look_ahead<'a>(&self, commands: impl Iterator<Item = &'a Command<'a>>);

    /// The Unix time in milliseconds of the next change that needs nothing but a batch that is
    /// stamped later; the leader sees that one comes.
    fn next_expiry(&self) -> Option<u64>;

    /// How many keys there are.
    fn keys(&self) -> u64;

    /// Bytes of memory, roughly, that the data takes.
    fn held_bytes(&self) -> u64;

    /// Equal for equal states, whatever their history.
    fn hash(&self) -> u64;

    /// Begins a snapshot of the state as it is now. Batches may be applied while it is taken.
    ///
    /// # Panics
    ///
    /// If one is under way: a state machine takes one at a time.
    fn snapshot_begin(&mut self);

    /// Appends the next chunk of the snapshot under way, of about as many bytes; it is longer by up to
    /// one entry. Says whether there is another; after the last one the snapshot is over.
    ///
    /// # Panics
    ///
    /// If none is under way.
    fn snapshot_next(&mut self, bytes_about: usize, to: &mut Vec<u8>) -> bool;

    /// Gives the snapshot under way up, if there is one, and what was kept for it.
    fn snapshot_abort(&mut self);

    /// Whether a snapshot is under way.
    fn snapshot_under_way(&self) -> bool;

    /// Bytes of memory, roughly, that are kept for the snapshot under way: what was written before its
    /// turn came. Grows with what is written, shrinks with each chunk. Who wants it bounded takes
    /// chunks faster, or gives the snapshot up.
    fn snapshot_held_bytes(&self) -> usize;

    /// Takes the next chunk of a snapshot into a state that was empty at the first one. After an error
    /// the state is good for nothing but to be dropped. Nothing may be applied before [`Self::restored`].
    ///
    /// # Panics
    ///
    /// If the state was not empty.
    fn restore(&mut self, chunk: &[u8]) -> Result<(), RestoreError>;

    /// Concludes a restore, once all chunks were taken: the state is the one that was saved.
    fn restored(&mut self) -> Result<(), RestoreError>;
}

/// Why chunks are no snapshot of this state machine. Offsets are those in the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    #[error("chunk @{offset}: {needs} bytes should follow, {has} do")]
    Truncated {
        offset: usize,
        needs: usize,
        has: usize,
    },
    #[error("chunk @{offset}: a length of more than 35 bits")]
    Length { offset: usize },
    #[error("chunk @{offset}: nothing is known that starts with {tag:#04x}")]
    Tag { offset: usize, tag: u8 },
    #[error(
        "the state has format {found}, this build reads {supported}: use the build that wrote it"
    )]
    Format { found: u16, supported: u16 },
    #[error(
        "the snapshot is of slots {}-{}, the group owns {}-{}: it is another group's",
        found.0, found.1, own.0, own.1
    )]
    Slots { found: (u16, u16), own: (u16, u16) },
    #[error(
        "chunk @{offset}: this does not follow what came before, chunks are missing or mixed up"
    )]
    Order { offset: usize },
    #[error("chunk @{offset}: slot {slot} is none of the group's {}-{}", own.0, own.1)]
    Slot {
        offset: usize,
        slot: u16,
        own: (u16, u16),
    },
    #[error("chunk @{offset}: a key of slot {own} lies in slot {slot}")]
    Misplaced { offset: usize, slot: u16, own: u16 },
    #[error("chunk @{offset}: a key is due at {due}, before the snapshot's time {clock}")]
    Expired { offset: usize, due: u64, clock: u64 },
    #[error("chunk @{offset}: a key of slot {slot} comes twice")]
    Twice { offset: usize, slot: u16 },
    #[error("the snapshot holds {found} keys, it should be {expected}")]
    Keys { expected: u64, found: u64 },
    #[error("the state's hash is {found:#018x}, the snapshot says {expected:#018x}")]
    Hash { expected: u64, found: u64 },
    #[error("the snapshot ends too early, after {keys} keys")]
    Incomplete { keys: u64 },
}
