//! The only place that reads clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::{Clock, Time};

/// When this node started: [`Time`] counts from there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin(Instant);

impl Origin {
    #[expect(clippy::disallowed_methods, reason = "this is where clocks are read")]
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }

    #[expect(clippy::disallowed_methods, reason = "this is where clocks are read")]
    pub(super) fn time(self) -> Time {
        let nanos = Instant::now().duration_since(self.0).as_nanos();
        Time::from_nanos(u64::try_from(nanos).expect("a node runs less than 580 years"))
    }

    /// Milliseconds since then, for people.
    pub(super) fn millis_since(self, then: Time) -> u64 {
        u64::try_from(self.time().since(then).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn clock(self) -> Clock {
        Clock {
            now: self.time(),
            unix_ms: unix_micros() / 1000,
        }
    }
}

/// Unix time in microseconds; zero on a machine whose clock stands before 1970.
#[expect(clippy::disallowed_methods, reason = "this is where clocks are read")]
pub(super) fn unix_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}
