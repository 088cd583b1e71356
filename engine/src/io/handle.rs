//! The node as the program that embeds it sees it: commands in batches from any thread.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use net::{Command, ErrorReply, Reply, Slot};
use wal::{GroupId, LogIndex, NodeId};

use crate::config::Config;
use crate::shard::Outcome;

use super::allowance::{Allowance, Share};
use super::mailbox::{Letter, Mailbox};
use super::routes::Routes;
use super::status::ShardStatus;
use super::taker::{NoSnapshot, SnapshotAnswer};

/// Commands in their encoding, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Commands {
    /// Adds a command.
    pub fn push(&mut self, command: &Command<'_>) {
        command.encode(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.bytes[start..end])
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<usize>() + size_of::<Self>()
    }
}

/// Called once with the outcome of every command of a batch, in order.
pub(super) struct Completion {
    call: Option<Box<dyn FnOnce(Vec<Outcome>) + Send>>,
    commands: usize,
    /// Of what embedders may have under way; none if the batch was never taken.
    share: Option<Share>,
}

impl Completion {
    fn new(
        commands: usize,
        share: Option<Share>,
        call: impl FnOnce(Vec<Outcome>) + Send + 'static,
    ) -> Self {
        Self {
            call: Some(Box::new(call)),
            commands,
            share,
        }
    }

    /// An outcome as it can be kept until the batch has ended.
    fn hold(&mut self, outcome: Outcome, write: bool) -> Outcome {
        let share = self.share.as_mut();
        match share.is_none_or(|share| share.hold(outcome.held_bytes())) {
            true => outcome,
            false => outcome.without_bytes(write),
        }
    }

    fn complete(mut self, outcomes: Vec<Outcome>) {
        assert_eq!(outcomes.len(), self.commands, "an outcome for each command");
        // Who is called may give the next batch at once.
        self.share = None;
        if let Some(call) = self.call.take() {
            call(outcomes);
        }
    }
}

impl Drop for Completion {
    /// The shard ended with the batch in its hands: nobody knows what became of it.
    fn drop(&mut self) {
        self.share = None;
        if let Some(call) = self.call.take() {
            call(vec![Outcome::Unknown; self.commands]);
        }
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Completion({} commands)", self.commands)
    }
}

/// A batch whose outcomes are being gathered on the shard.
#[derive(Debug)]
pub(super) struct Batch {
    outcomes: RefCell<Vec<Outcome>>,
    missing: Cell<usize>,
    completion: RefCell<Option<Completion>>,
}

impl Batch {
    pub(super) fn new(commands: usize, completion: Completion) -> Self {
        let batch = Self {
            outcomes: RefCell::new(vec![Outcome::Unknown; commands]),
            missing: Cell::new(commands),
            completion: RefCell::new(Some(completion)),
        };
        if commands == 0 {
            batch.complete();
        }
        batch
    }

    /// The outcome of the command `at` so far into the batch, which is a write or not.
    pub(super) fn answer(&self, at: usize, outcome: Outcome, write: bool) {
        let outcome = match &mut *self.completion.borrow_mut() {
            Some(completion) => completion.hold(outcome, write),
            None => unreachable!("a command is answered once"),
        };
        self.outcomes.borrow_mut()[at] = outcome;
        self.missing.set(self.missing.get() - 1);
        if self.missing.get() == 0 {
            self.complete();
        }
    }

    fn complete(&self) {
        if let Some(completion) = self.completion.borrow_mut().take() {
            completion.complete(self.outcomes.take());
        }
    }
}

/// Why commands were not taken. Nothing happened.
#[derive(Debug, thiserror::Error)]
#[error(
    "too many commands are under way (limits.pending_tasks, limits.pending_size, limits.mailbox_size), or \
     the node has stopped: try again when some of them have ended"
)]
pub struct Rejected;

/// A way into a running node. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) config: Arc<Config>,
    pub(super) mailboxes: Arc<[Mailbox]>,
    /// Of each shard.
    pub(super) allowances: Arc<[Arc<Allowance>]>,
    pub(super) routes: Arc<Routes>,
}

impl Handle {
    /// The configuration the node runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The group that owns a key.
    pub fn group_of(&self, key: &[u8]) -> GroupId {
        self.config.group_of_slot(Slot::of(key).number())
    }

    /// The node that was last known to lead a group.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.routes.leader(group)
    }

    /// Gives commands to a group, on whichever node leads it. `completion` is called on the
    /// shard's thread once all have ended, with their outcomes in order, and must not block. Its
    /// outcomes are never [`Outcome::Redirect`].
    ///
    /// For each shard of the node, embedders may have as much under way as the requests of one group:
    /// `limits.pending_tasks` commands, and `limits.pending_size` bytes of commands and of the answers
    /// to batches that have not ended. Answers beyond that are [`Outcome::Busy`] for reads, and
    /// [`Outcome::Unknown`] for writes that answer values.
    ///
    /// # Errors
    ///
    /// When the shard cannot take them; `completion` is then called with [`Outcome::Busy`] for each,
    /// on the calling thread: nothing happened.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    pub fn submit(
        &self,
        group: GroupId,
        commands: Commands,
        completion: impl FnOnce(Vec<Outcome>) + Send + 'static,
    ) -> Result<(), Rejected> {
        assert!(
            group.to_raw() < self.config.cluster.groups,
            "no group {group}"
        );
        let shard = usize::from(self.config.shard_of_group(group));
        let count = commands.len();
        let share = self.allowances[shard].take(count, commands.bytes());
        let taken = share.is_some();
        let completion = Completion::new(count, share, completion);
        let letter = Letter::Commands {
            group,
            commands,
            completion,
        };
        let posted = match taken {
            true => self.mailboxes[shard].post(letter),
            false => Err(letter),
        };
        posted.map_err(|letter| {
            if let Letter::Commands { completion, .. } = letter {
                completion.complete(vec![Outcome::Busy; count]);
            }
            Rejected
        })
    }

    /// Runs one command on the group and waits for its outcome: as a client of the Redis protocol
    /// would. Blocks the calling thread; never call it in a completion.
    ///
    /// # Errors
    ///
    /// What the client would be answered as an error.
    pub fn execute(&self, group: GroupId, command: &Command<'_>) -> Result<Reply, ErrorReply> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let mut commands = Commands::default();
        commands.push(command);
        let call = move |mut outcomes: Vec<Outcome>| {
            // The other end waits below.
            drop(sender.send(outcomes.pop()));
        };
        // A refusal is completed as busy.
        drop(self.submit(group, commands, call));
        match receiver.recv().ok().flatten() {
            Some(Outcome::Reply(Reply::Error(error))) => Err(error),
            Some(Outcome::Reply(reply)) => Ok(reply),
            Some(Outcome::Busy) => Err(ErrorReply::Busy),
            Some(Outcome::NoLeader | Outcome::Redirect { .. }) => Err(ErrorReply::NoLeader),
            Some(Outcome::Unknown) | None => Err(ErrorReply::OutcomeUnknown),
        }
    }

    /// Takes a snapshot of what a group has applied here by now, and waits until it is durable. Gives
    /// the last entry it is of. Blocks the calling thread.
    ///
    /// # Errors
    ///
    /// Why there is none.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    pub fn take_snapshot(
        &self,
        group: GroupId,
        patience: Duration,
    ) -> Result<LogIndex, NoSnapshot> {
        assert!(
            group.to_raw() < self.config.cluster.groups,
            "no group {group}"
        );
        let shard = usize::from(self.config.shard_of_group(group));
        let (sender, receiver) = mpsc::sync_channel(1);
        let answer: SnapshotAnswer = Box::new(move |answer| drop(sender.send(answer)));
        // One that cannot be delivered drops the sender.
        drop(self.mailboxes[shard].post(Letter::Snapshot { group, answer }));
        match receiver.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(NoSnapshot::NotYet { patience }),
            Err(RecvTimeoutError::Disconnected) => Err(NoSnapshot::Stopped),
        }
    }

    /// How the shards are; those that do not answer within a second are missing.
    pub fn status(&self) -> Vec<ShardStatus> {
        let (sender, receiver) = mpsc::channel();
        for mailbox in self.mailboxes.iter() {
            let sender = sender.clone();
            let inspect = move |status| drop(sender.send(status));
            // A shard that has ended is missing from the answer.
            drop(mailbox.post(Letter::Inspect(Box::new(inspect))));
        }
        drop(sender);
        let mut shards = Vec::new();
        while let Ok(status) = receiver.recv_timeout(Duration::from_secs(1)) {
            shards.push(status);
        }
        shards.sort_by_key(|status: &ShardStatus| status.shard);
        shards
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClusterOptions, Limits, NodeAddress, Options};

    #[test]
    fn a_batch_completes_once_when_the_last_outcome_is_there() {
        let (sender, receiver) = mpsc::channel();
        let completion = Completion::new(2, None, move |outcomes| sender.send(outcomes).unwrap());
        let batch = Batch::new(2, completion);
        batch.answer(1, Outcome::Busy, true);
        assert!(receiver.try_recv().is_err());
        batch.answer(0, Outcome::Reply(Reply::Ok), true);
        let outcomes = receiver.recv().unwrap();
        assert_eq!(outcomes, [Outcome::Reply(Reply::Ok), Outcome::Busy]);
    }

    /// A handle of a node whose one shard takes no letters out of its mailbox.
    fn asleep(change: impl FnOnce(&mut Limits)) -> Handle {
        let mut options = Options {
            cluster: ClusterOptions {
                id: "asleep".into(),
                nodes: vec![NodeAddress {
                    id: 1,
                    host: "127.0.0.1".into(),
                    client_port: 6400,
                    peer_port: 7400,
                    admin_port: 0,
                }],
                shards: 1,
                groups: 1,
                ..ClusterOptions::default()
            },
            node_id: 1,
            data_dir: "/nowhere".into(),
            ..Options::default()
        };
        change(&mut options.limits);
        let config = Arc::new(options.validate().unwrap());
        let limits = &config.limits;
        Handle {
            mailboxes: Arc::new([Mailbox::new(limits.mailbox_bytes_max).unwrap()]),
            allowances: Allowance::of_each_shard(&config),
            routes: Arc::new(Routes::new(1)),
            config,
        }
    }

    fn commands(count: usize) -> Commands {
        let mut commands = Commands::default();
        (0..count).for_each(|_| commands.push(&Command::Get { key: b"key" }));
        commands
    }

    #[test]
    fn who_submits_faster_than_the_shard_works_is_told_busy_until_batches_have_ended() {
        let (sender, receiver) = mpsc::channel();
        let handle = asleep(|limits| limits.pending_requests_max = 100);
        let submit = || {
            let sender = sender.clone();
            let group = GroupId::from_raw(0);
            let call = move |outcomes: Vec<Outcome>| sender.send(outcomes).unwrap();
            handle.submit(group, commands(7), call)
        };
        let taken = (0..1000).filter(|_| submit().is_ok()).count();
        assert_eq!(taken, 100 / 7);
        let refused: Vec<_> = receiver.try_iter().collect();
        assert_eq!(refused.len(), 1000 - taken);
        assert!(refused.iter().all(|it| *it == [const { Outcome::Busy }; 7]));
        // The shard takes them, and has them in its hands: they are under way as before.
        let mut held = Vec::new();
        assert!(handle.mailboxes[0].swap(&mut held));
        assert!(submit().is_err());
        assert_eq!(receiver.try_iter().count(), 1);
        held.pop();
        assert_eq!(receiver.recv().unwrap(), vec![Outcome::Unknown; 7]);
        assert!(submit().is_ok(), "one has ended");
        assert!(submit().is_err());
    }

    #[test]
    fn answers_of_a_batch_that_has_not_ended_are_told_without_what_they_carry_beyond_the_limit() {
        let allowance = Arc::new(Allowance::new(100, 10_000));
        let share = allowance.take(32, 0);
        let (sender, receiver) = mpsc::channel();
        let completion = Completion::new(32, share, move |all| sender.send(all).unwrap());
        let batch = Batch::new(32, completion);
        let value = || Outcome::Reply(Reply::bulk([7; 1000]));
        for at in 0..32 {
            batch.answer(at, value(), at % 2 == 0);
        }
        let outcomes = receiver.recv().unwrap();
        let whole = outcomes.iter().take_while(|it| **it == value()).count();
        assert_eq!(whole, 11, "10000 bytes and one answer");
        for (at, outcome) in outcomes.into_iter().enumerate().skip(whole) {
            let told = if at % 2 == 0 {
                Outcome::Unknown
            } else {
                Outcome::Busy
            };
            assert_eq!(outcome, told);
        }
        assert!(allowance.take(100, 10_000).is_some(), "all was given back");
    }

    #[test]
    fn a_batch_that_is_dropped_has_an_unknown_outcome() {
        let (sender, receiver) = mpsc::channel();
        drop(Completion::new(1, None, move |outcomes| {
            sender.send(outcomes).unwrap()
        }));
        assert_eq!(receiver.recv().unwrap(), [Outcome::Unknown]);
    }
}
