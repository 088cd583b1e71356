//! Answers that come from other threads, waited for on one.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::timer::Timer;

/// As many answers as are wanted.
pub(super) struct Gathered<T>(Arc<Mutex<Gathering<T>>>);

struct Gathering<T> {
    answers: Vec<T>,
    wanted: usize,
    waiter: Option<Waker>,
}

impl<T> Clone for Gathered<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Gathered<T> {
    pub(super) fn new(wanted: usize) -> Self {
        Self(Arc::new(Mutex::new(Gathering {
            answers: Vec::new(),
            wanted,
            waiter: None,
        })))
    }

    pub(super) fn put(&self, answer: T) {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inside.answers.push(answer);
        if let Some(waker) = inside.waiter.take() {
            waker.wake();
        }
    }

    /// All of them, or those that came in time.
    pub(super) async fn wait(&self, patience: Duration) -> Vec<T> {
        let mut timer = Timer::new(patience);
        poll_fn(|context| {
            let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let late = std::pin::Pin::new(&mut timer);
            if inside.answers.len() == inside.wanted || Future::poll(late, context).is_ready() {
                return Poll::Ready(std::mem::take(&mut inside.answers));
            }
            inside.waiter = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
