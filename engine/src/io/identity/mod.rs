//! Who a data directory is, which membership it goes by, and whom it knows: the file `membership`
//! beside the log's `identity`. Read at the start, replaced as a whole by whoever changes it: a node
//! that meets a peer for the first time, and the offline tools of repair.

mod census;
mod dial;
mod error;
mod opening;
mod record;
mod register;

pub use crate::epoch::EPOCH_MAX;
pub use census::{Census, LiveQuorum, Running, check_stopped};
pub use dial::{Answered, ask};
pub use error::IdentityError;
pub use opening::{Holding, Joined, hold, is_new, join, settle};
pub use record::{Condition, Member, Noted, Place, Record, parse_noted};

pub(super) use opening::open;
pub(super) use register::{Caller, Presence, Register};
