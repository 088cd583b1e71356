//! An executor whose thread is taken away at the worst moment does not sleep over ready tasks, and one whose
//! work never rests does not work over timers that have rung.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use glommio::Placement;
use glommio::timer::sleep;
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_setaffinity};
use wal::io::executor;

const EXECUTORS: usize = 150;
/// Of each executor, one after another.
const YIELDS: usize = 200;
/// Of timers, one after another.
const RINGS: usize = 100;

/// Spins for longer than the preemption timer and sleeps for shorter than an executor takes to start,
/// again and again, on the core that it shares with the executors.
fn take_away(until: &AtomicBool) {
    let mut core = CpuSet::new();
    core.set(0);
    sched_setaffinity(None, &core).expect("core 0 may be used");
    let mut seed = 1_u64;
    while !until.load(Ordering::Relaxed) {
        let begin = now();
        while begin.elapsed() < Duration::from_micros(1500) {
            std::hint::spin_loop();
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros(20 + (seed >> 33) % 300));
    }
}

/// Starts an executor that does little. Its thread is given up if it never ends.
fn start(done: mpsc::Sender<()>) {
    let work = async move {
        for _ in 0..YIELDS {
            glommio::executor().yield_task_queue_now().await;
        }
        let _ = done.send(());
    };
    let builder = executor::builder(Placement::Fixed(0));
    let spawned = builder.spawn(move || executor::awake(work));
    drop(spawned.expect("a thread starts"));
}

#[test]
fn executors_whose_core_is_taken_away_get_their_work_done() {
    let until = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        scope.spawn(|| take_away(&until));
        let starter = scope.spawn(|| {
            // The executors' threads inherit it: whoever wakes takes the core from them.
            setpriority_process(None, 19).unwrap();
            let (done, heard) = mpsc::channel();
            (0..EXECUTORS)
                .take_while(|_| {
                    start(done.clone());
                    heard.recv_timeout(Duration::from_secs(120)).is_ok()
                })
                .count()
        });
        let done = starter.join();
        until.store(true, Ordering::Relaxed);
        done.unwrap()
    });
    assert_eq!(done, EXECUTORS, "the next executor sleeps over its work");
}

/// Work that always goes on, and has given the other queue a task when it is told to preempt: only that queue
/// waits at this moment. False if timers do not ring meanwhile; the preemption timer of the start is longer.
async fn never_rest() -> bool {
    let queue = executor::queue_beside(100, "beside");
    let rang = Rc::new(Cell::new(0));
    let ring = rang.clone();
    let timers = async move {
        loop {
            sleep(Duration::from_millis(1)).await;
            ring.set(ring.get() + 1);
        }
    };
    let timers = glommio::spawn_local(timers);
    // From here on the preemption timer is that of the work.
    sleep(Duration::from_millis(1)).await;
    let begin = now();
    let too_long = || begin.elapsed() > Duration::from_secs(120);
    while rang.get() < RINGS && !too_long() {
        let beside = glommio::spawn_local_into(async {}, queue);
        beside.expect("the queue was just made").detach();
        while !glommio::executor().need_preempt() && !too_long() {
            std::hint::spin_loop();
        }
        glommio::executor().yield_task_queue_now().await;
    }
    timers.cancel().await;
    rang.get() >= RINGS
}

#[test]
fn a_timer_rings_although_work_never_rests_and_a_queue_waits_beside_it() {
    let builder = executor::builder(Placement::Unbound);
    let spawned = builder.spawn(|| executor::awake(never_rest()));
    let rang = spawned.expect("a thread starts").join();
    assert!(rang.expect("the work ends"), "the work kept the thread");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the core is to be taken for a time"
)]
fn now() -> Instant {
    Instant::now()
}
