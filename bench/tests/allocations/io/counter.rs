//! An allocator that counts, on demand, what threads ask of it, and from where.

#![expect(
    unsafe_code,
    reason = "a global allocator is an unsafe trait: each call goes to the system's with what came"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Return addresses, the innermost first.
pub(crate) type Stack = [usize; 40];

static COUNTS: AtomicBool = AtomicBool::new(false);
static STACKS: Mutex<Option<BTreeMap<Stack, u64>>> = Mutex::new(None);

thread_local! {
    /// What this thread asks for does not count.
    static APART: Cell<bool> = const { Cell::new(false) };
}

pub(crate) struct Counting;

// SAFETY: all four are the system allocator's, with the arguments as they came; counting asks only for
// memory that is not counted, and so does not call itself again.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

/// What this thread asks for does not count from now on.
pub(crate) fn stand_apart() {
    APART.set(true);
}

/// From where other threads asked while `work` ran, and how often.
pub(crate) fn remembered(work: impl FnOnce()) -> BTreeMap<Stack, u64> {
    *lock() = Some(BTreeMap::new());
    COUNTS.store(true, Ordering::SeqCst);
    work();
    COUNTS.store(false, Ordering::SeqCst);
    lock().take().unwrap_or_default()
}

fn lock() -> std::sync::MutexGuard<'static, Option<BTreeMap<Stack, u64>>> {
    STACKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count() {
    if !COUNTS.load(Ordering::Relaxed) {
        return;
    }
    // A thread that ends has no such place any more: it does nothing that is looked at here.
    let Ok(false) = APART.try_with(|apart| apart.replace(true)) else {
        return;
    };
    remember();
    APART.set(false);
}

fn remember() {
    let mut stack: Stack = [0; 40];
    let mut depth = 0;
    backtrace::trace(|frame| {
        stack[depth] = frame.ip().addr();
        depth += 1;
        depth < stack.len()
    });
    if let Some(stacks) = lock().as_mut() {
        *stacks.entry(stack).or_default() += 1;
    }
}
