//! Nodes as processes of their own, for tests and drills that start, kill and ask them: their addresses on
//! loopback, a directory that goes away, `drakkar serve` itself, and what its ports answer.
//!
//! Waiting is bounded by [`PATIENCE`], and whoever waits in vain is shown the end of the node's log.
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are given real time"
)]

mod addresses;
pub mod admin;
mod client;
mod process;
mod scratch;

use std::thread;
use std::time::{Duration, Instant};

pub use addresses::Addresses;
pub use client::{Answer, Client};
pub use process::Process;
pub use scratch::Scratch;

/// How long anything may take that a sound machine does at once, on one that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Waits until something is so; panics with what `why` says if it is not in time.
#[track_caller]
pub fn until(mut is_so: impl FnMut() -> bool, why: impl Fn() -> String) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not in time: {}", why());
        thread::sleep(PAUSE);
    }
}
