//! What nodes say to each other: frames with checksums, the handshake, messages of consensus,
//! forwarded commands and parts of snapshots. Bytes in, values out; nothing here opens a socket or trusts a length.

mod forward;
mod frame;
mod handshake;
mod messages;
mod reader;
mod refusal;
mod reply;
mod snapshot;

pub use forward::{
    Answer, Answers, Forward, Forwards, RecordError, Verdict, push_answer, push_forward,
};
pub use frame::{Frame, FrameError, FrameKind, FrameReader, HEADER_BYTES, VERSION, frame};
pub use handshake::{Hello, HelloError, HelloReply, Manner};
pub use messages::{
    ElectorateBody, EntryHead, Envelope, MessageBody, Messages, MessagesError, Outgoing, Payloads,
};
pub use refusal::{Cause, MEMBERS_MAX, Refusal, Refused, Standing};
pub use reply::{ReplyError, decode_reply, encode_reply};
pub use snapshot::{Part, PartError, PartReply, PartRequest};
