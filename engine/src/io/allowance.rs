//! What embedders may have under way on one shard: commands, their bytes and those of their answers.
//! It is taken before a batch is given to the shard, and given back when the batch has ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Config;

/// Shared by all handles of a node and the shard.
#[derive(Debug)]
pub(super) struct Allowance {
    taken: Mutex<Taken>,
    commands_max: usize,
    bytes_max: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    commands: usize,
    bytes: usize,
}

/// What one batch has taken; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    allowance: Arc<Allowance>,
    taken: Taken,
}

impl Allowance {
    /// One for each shard of a node.
    pub(super) fn of_each_shard(config: &Config) -> Arc<[Arc<Self>]> {
        let limits = &config.limits;
        let new = |_| Self::new(limits.pending_requests_max, limits.pending_bytes_max);
        (0..config.cluster.shards).map(new).map(Arc::new).collect()
    }

    pub(super) fn new(commands_max: usize, bytes_max: usize) -> Self {
        Self {
            taken: Mutex::default(),
            commands_max,
            bytes_max,
        }
    }

    /// Takes what a batch needs; `None` while too much is under way. A batch alone is always taken,
    /// however large: what does not fit its group is refused there, command by command.
    pub(super) fn take(self: &Arc<Self>, commands: usize, bytes: usize) -> Option<Share> {
        let mut taken = self.lock();
        let all = Taken {
            commands: taken.commands.saturating_add(commands),
            bytes: taken.bytes.saturating_add(bytes),
        };
        let full = all.commands > self.commands_max || all.bytes > self.bytes_max;
        if full && *taken != Taken::default() {
            return None;
        }
        *taken = all;
        let allowance = self.clone();
        let taken = Taken { commands, bytes };
        Some(Share { allowance, taken })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Two numbers, which are set without a panic in between.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes what an answer carries, until its batch has ended. False if so much is held already that it
    /// is to be told without that.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        let mut taken = self.allowance.lock();
        // What is beyond the limit by then is one answer.
        if taken.bytes > self.allowance.bytes_max {
            return false;
        }
        taken.bytes += bytes;
        self.taken.bytes += bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.allowance.lock();
        taken.commands -= self.taken.commands;
        taken.bytes -= self.taken.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_commands_and_bytes_are_under_way_and_one_batch_always_is() {
        let allowance = Arc::new(Allowance::new(10, 1000));
        let alone = allowance.take(50, 5000).expect("nothing is under way");
        assert!(allowance.take(1, 1).is_none());
        drop(alone);
        let first = allowance.take(6, 600).unwrap();
        assert!(allowance.take(5, 1).is_none(), "commands");
        assert!(allowance.take(1, 401).is_none(), "bytes");
        let second = allowance.take(4, 400).unwrap();
        assert!(allowance.take(1, 0).is_none());
        drop(first);
        drop(allowance.take(6, 600).unwrap());
        drop(second);
        assert_eq!(*allowance.lock(), Taken::default());
    }

    #[test]
    fn answers_count_until_their_batch_has_ended() {
        let allowance = Arc::new(Allowance::new(10, 1000));
        let mut share = allowance.take(3, 100).unwrap();
        assert!(share.hold(800));
        assert!(share.hold(300), "the one that goes beyond the limit");
        assert!(!share.hold(1), "and no more");
        assert!(share.hold(0), "what carries nothing is always told");
        assert!(allowance.take(1, 0).is_none());
        drop(share);
        assert!(allowance.take(10, 1000).is_some());
    }
}
