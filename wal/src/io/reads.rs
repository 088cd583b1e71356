//! Reads of the log under way. A file that is no part of the log any more may still be read by those that
//! began before it was let go, never by later ones: only the former are waited for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// The reads of one log.
#[derive(Default)]
pub(super) struct Reads {
    begun: Cell<u64>,
    under_way: RefCell<BTreeSet<u64>>,
}

/// A moment between two reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u64);

/// Names one read.
#[derive(Debug)]
pub(super) struct Number(u64);

impl Reads {
    pub(super) fn begin(&self) -> Number {
        let number = self.begun.get();
        self.begun.set(number + 1);
        self.under_way.borrow_mut().insert(number);
        Number(number)
    }

    pub(super) fn end(&self, read: &Number) {
        self.under_way.borrow_mut().remove(&read.0);
    }

    pub(super) fn now(&self) -> Moment {
        Moment(self.begun.get())
    }

    /// Whether all that began before a moment have ended.
    pub(super) fn have_ended(&self, before: Moment) -> bool {
        let oldest = self.under_way.borrow().first().copied();
        oldest.is_none_or(|oldest| oldest >= before.0)
    }
}
