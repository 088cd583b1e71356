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
        let mut asked = ring::asked();
        let mut next = BEAT;
        loop {
            sleep(next).await;
            let before = std::mem::replace(&mut asked, ring::asked());
            let idle = asked - before <= ASKED_MAX;
            ring::set_calm(idle);
            next = if idle { BEAT_MAX.min(next * 2) } else { BEAT };
            set(&mut guards, next).await;
        }
    };
    let beat = glommio::spawn_local_into(beat, queue).expect("the queue was just made");
    let work = glommio::spawn_local_into(work, queue).expect("the queue was just made");
    let result = work.await;
    beat.cancel().await;
    result
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
