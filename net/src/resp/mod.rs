//! The Redis protocol, without sockets: RESP2, RESP3 and inline commands in, replies out.
//!
//! [`Parser`] finds commands in a connection's read buffer, [`Session`] answers what needs no data and
//! turns the rest into [`crate::Command`]s, [`Form::encode`] writes the replies. The node moves the bytes:
//!
//! ```
//! use net::resp::{Action, Counters, Limits, Parser, RaftFacts, ServerView, Session, Topology, encode};
//! let (topology, counters, raft) = (Topology::default(), Counters::default(), RaftFacts::default());
//! let view = ServerView { cluster: true, password: None, topology: &topology, counters: &counters,
//!     raft: &raft, unix_micros: 0 };
//! let mut parser = Parser::new(Limits::default());
//! let mut session = Session::new(1, "127.0.0.1:50000".into(), "127.0.0.1:6379".into());
//! let (mut at, mut out) = (0, Vec::new());
//! let buffer = b"*1\r\n$4\r\nPING\r\n GET key\r\n";
//! while let Some(used) = parser.parse(&buffer[at..]).expect("else send the error and close") {
//!     let arguments = parser.arguments(&buffer[at..]);
//!     match session.handle(&arguments, &view) {
//!         Action::Reply(reply) => encode(&reply, session.version(), &mut out),
//!         Action::Data { slot, command, form } => {
//!             // To the group of `slot`; when its reply comes: `form.encode(&reply, &mut out)`.
//!         }
//!         _ => {}
//!     }
//!     at += used;
//! }
//! assert_eq!(out, b"+PONG\r\n");
//! ```
//!
//! Replies leave in the order of the commands: a [`Form`] remembers how the one it belongs to was asked for.

mod commands;
mod encode;
mod inline;
mod number;
mod parser;
mod session;
mod view;

pub use encode::{Version, encode};
pub use parser::{Arguments, Limits, Parser, ProtocolError};
pub use session::{Action, Form, Gather, Session};
pub use view::{
    Counters, Endpoint, EndpointId, GroupFacts, RaftFacts, RaftNode, ServerView, SlotRange,
    Topology,
};
