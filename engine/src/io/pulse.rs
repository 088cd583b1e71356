//! Timers that keep a shard's thread from sleeping over ready tasks.
//!
//! glommio's executor makes a pass over its reactor, which also arms the preemption timer, and then
//! runs tasks. If the kernel takes the thread away in between for longer than that timer, the
//! executor is told to preempt before its first task, takes the turn for an idle one and goes to
//! sleep, although tasks are ready. It then sleeps until the next completion or the next *pending*
//! timer; the timers that have rung are among what waits. So one timer must always be pending: the
//! guards are moved on at each beat, long before they ring, and only a thread that was stopped for
//! longer than a guard finds it rung, with the next one still pending.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use glommio::timer::{Timer, sleep};

/// Time between two beats, and the longest sleep of a thread that was not stopped.
const BEAT: Duration = Duration::from_millis(1);
/// Each bounds the sleep of a thread that was stopped for longer than the one before it.
const GUARDS: [Duration; 5] = [
    Duration::from_millis(8),
    Duration::from_millis(64),
    Duration::from_millis(512),
    Duration::from_secs(8),
    Duration::from_secs(120),
];

/// Beats for ever.
pub(super) async fn pulse() {
    let mut guards = GUARDS.map(Timer::new);
    loop {
        poll_fn(|context| {
            for (guard, after) in guards.iter_mut().zip(GUARDS) {
                guard.reset(after);
                // Only a timer that was polled is pending.
                let _ = Pin::new(guard).poll(context).is_ready();
            }
            Poll::Ready(())
        })
        .await;
        sleep(BEAT).await;
    }
}
