//! The shard's own ring, beside glommio's reactor.

#![cfg(feature = "io")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(
    unsafe_code,
    reason = "operations of the ring trust that their futures are not leaked"
)]
#![allow(clippy::disallowed_methods, reason = "the other thread is the point")]

use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use glommio::Placement;
use glommio::timer::sleep;
use rustix::pipe::{PipeFlags, pipe_with};
use wal::io::{Ring, executor};

fn run(test: impl Future<Output = ()> + 'static) {
    let executor = executor::builder(Placement::Unbound).make().unwrap();
    executor.run(executor::awake(test));
}

fn ring_bell(bell: &OwnedFd) {
    rustix::io::write(bell, &[0]).unwrap();
}

/// Asks so much of the ring that its thread is not one that has next to nothing to do.
async fn keep_busy(ring: Rc<Ring>) {
    let (heard_at, bell) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    loop {
        for _ in 0..32 {
            ring_bell(&bell);
            ring.hear(heard_at.as_fd()).await.unwrap();
        }
        sleep(Duration::from_micros(500)).await;
    }
}

/// Rings for a thread after pauses of many lengths.
fn ring_for(busy: bool) {
    let (heard_at, bell) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (rung, heard) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        run(async move {
            let ring = Ring::start().unwrap();
            if busy {
                glommio::spawn_local(keep_busy(ring.clone())).detach();
            }
            for _ in 0..60 {
                ring.hear(heard_at.as_fd()).await.unwrap();
                rung.send(()).unwrap();
            }
        });
    });
    for round in 0..60 {
        // Shorter than a nap, about as long as all naps in a row, and longer.
        std::thread::sleep(Duration::from_micros(
            [20, 150, 850, 1000, 5000, 30_000][round % 6],
        ));
        ring_bell(&bell);
        heard
            .recv_timeout(Duration::from_secs(5))
            .expect("the ring sleeps over its bell");
    }
    waiter.join().unwrap();
}

#[test]
fn another_thread_wakes_a_ring_that_sleeps() {
    ring_for(false);
}

#[test]
fn another_thread_wakes_a_ring_that_naps() {
    ring_for(true);
}

#[test]
fn bytes_pass_between_sockets_and_an_operation_given_up_takes_none() {
    let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
    run(async move {
        let ring = Ring::start().unwrap();
        let mut buffer = [0; 16];
        for round in 0..100u8 {
            // SAFETY: the futures are awaited or dropped here, with their memory.
            unsafe {
                let mut given_up = Box::pin(ring.receive(other.as_fd(), &mut buffer));
                let polled = poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context)));
                assert!(polled.await.is_pending(), "nothing was sent yet");
                drop(given_up);
                assert_eq!(ring.send(one.as_fd(), &[round; 3]).await.unwrap(), 3);
                let received = ring.receive(other.as_fd(), &mut buffer).await.unwrap();
                assert_eq!(buffer[..received], [round; 3]);
            }
            if round == 50 {
                sleep(Duration::from_millis(5)).await;
            }
        }
        drop(one);
        // SAFETY: as above.
        let end = unsafe { ring.receive(other.as_fd(), &mut buffer) };
        assert_eq!(end.await.unwrap(), 0);
    });
}
