//! glommio's executor, kept from sleeping over ready tasks.
//!
//! The executor makes a pass over its reactor, which also arms the preemption timer, and then runs
//! tasks. If the kernel takes the thread away in between for longer than that timer, the executor is
//! told to preempt before its first task, takes the turn for an idle one and goes to sleep, although
//! tasks are ready. It then sleeps until the next completion or the next *pending* timer; the timers
//! that have rung are among what waits. Two things keep such a sleep short:
//!
//! - One timer is always pending. The guards are moved on at each beat, long before they ring, and
//!   only a thread that was stopped for longer than a guard finds it rung, with the next one still
//!   pending.
//! - Before the first task, which is to set the guards, has run, the preemption timer is so long that
//!   no thread is taken away for it. The tasks run in a queue that has a short one.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use glommio::timer::{Timer, sleep};
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

use super::ring;

/// Until the guards are set.
const PREEMPT_AT_START: Duration = Duration::from_secs(600);
/// How long tasks keep the thread from looking at its timers and sockets.
const PREEMPT: Duration = Duration::from_micros(500);
/// Time between two beats, and the longest sleep of a thread that was not stopped.
const BEAT: Duration = Duration::from_millis(1);
/// The same of a thread that asks its ring for next to nothing: it waits twice as long each time, up to this.
/// Beats are most of what a node does that has nothing to do.
const BEAT_MAX: Duration = Duration::from_millis(32);
/// So few operations between two beats are next to nothing: a heartbeat, and no client.
const ASKED_MAX: u64 = 8;
/// Each bounds the sleep of a thread that was stopped for longer than the one before it, beyond a beat. Those
/// who wait for the thread wait for the sleep as well: it is not much longer than what it was stopped for.
const GUARDS: [Duration; 9] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(64),
    Duration::from_millis(512),
    Duration::from_secs(8),
    Duration::from_secs(120),
];

/// Of an executor whose whole work is one [`awake`].
pub fn builder(placement: Placement) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(placement).preempt_timer(PREEMPT_AT_START)
}

/// A queue for tasks beside the work.
///
/// It has the preemption timer of the work. glommio arms that of the queues that wait; if they did not mind,
/// it would be the long one of the start while the work runs, which then keeps the thread from its reactor
/// for as long as there is something to do: nothing is timed, opened or synced for seconds.
pub fn queue_beside(shares: usize, name: &str) -> TaskQueueHandle {
    let latency = Latency::Matters(PREEMPT);
    glommio::executor().create_task_queue(Shares::Static(shares), latency, name)
}

/// The result of `work`, which runs in a task of its own while the executor is kept awake.
///
/// # Panics
///
/// If no executor runs on this thread, or `work` panicked.
pub async fn awake<T: 'static>(work: impl Future<Output = T> + 'static) -> T {
    let mut guards = GUARDS.map(Timer::new);
    set(&mut guards, BEAT).await;
    let latency = Latency::Matters(PREEMPT);
    let queue = glommio::executor().create_task_queue(Shares::default(), latency, "work");
    let beat = async move {
        let mut beat = Beat::new(ring::asked());
        loop {
            sleep(beat.every).await;
            ring::set_calm(beat.passed(ring::asked()));
            set(&mut guards, beat.every).await;
        }
    };
    let beat = glommio::spawn_local_into(beat, queue).expect("the queue was just made");
    let work = glommio::spawn_local_into(work, queue).expect("the queue was just made");
    let result = work.await;
    beat.cancel().await;
    result
}

/// Beats that follow how much the thread asks its ring for.
struct Beat {
    every: Duration,
    /// Operations by the last beat.
    asked: u64,
}

impl Beat {
    fn new(asked: u64) -> Self {
        let every = BEAT;
        Self { every, asked }
    }

    /// So many operations by now: whether next to nothing is asked for. The shortest beat does not tell that:
    /// who makes one durable write at a time asks for no more in it than a heartbeat does, but in each.
    fn passed(&mut self, asked: u64) -> bool {
        let before = std::mem::replace(&mut self.asked, asked);
        let little = asked - before <= ASKED_MAX;
        let calm = little && self.every > BEAT;
        self.every = match little {
            true => BEAT_MAX.min(self.every * 2),
            false => BEAT,
        };
        calm
    }
}

/// Moves the guards on, behind the next beat; does not wait.
async fn set(guards: &mut [Timer], beat: Duration) {
    poll_fn(|context| {
        for (guard, after) in guards.iter_mut().zip(GUARDS) {
            guard.reset(beat + after);
            // Only a timer that was polled is pending.
            let _ = Pin::new(guard).poll(context).is_ready();
        }
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a thread that asks for so much in each millisecond is ever taken for one with next to nothing
    /// to do, and its beat after a second.
    fn second_of(asked_per_ms: u64) -> (bool, Duration) {
        let mut beat = Beat::new(0);
        let mut elapsed = Duration::ZERO;
        let mut ever = false;
        while elapsed < Duration::from_secs(1) {
            elapsed += beat.every;
            let asked = u64::try_from(elapsed.as_millis()).unwrap() * asked_per_ms;
            ever |= beat.passed(asked);
        }
        (ever, beat.every)
    }

    #[test]
    fn a_thread_with_one_write_at_a_time_is_not_one_with_nothing_to_do() {
        assert_eq!(second_of(0), (true, BEAT_MAX));
        for asked_per_ms in [5, ASKED_MAX, 100] {
            let (ever, every) = second_of(asked_per_ms);
            assert!(!ever, "{asked_per_ms} operations a millisecond");
            assert!(every <= BEAT * 2, "{every:?}");
        }
    }
}
