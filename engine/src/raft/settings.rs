//! What a replica is told of how to take part in its group, once and for all.

use core::time::Duration;

use super::Window;

/// Rules and limits of a replica.
#[derive(Clone, Debug)]
pub struct Settings {
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub pre_vote: bool,
    /// A leader that does not hear from a majority steps down; votes are refused while a leader is
    /// heard (thesis §4.2.3, §6.2).
    pub check_quorum: bool,
    pub window: Window,
    /// Payload of one append.
    pub append_bytes_max: usize,
    /// Differs between replicas, and between the starts of one.
    pub seed: u64,
}
