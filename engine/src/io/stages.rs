//! Takes the times that the accounts of a shard need: of few turns and bursts only, so that what they
//! cost cannot be seen in what they show.

use std::cell::Cell;
use std::time::Duration;

use crate::Time;
use crate::shard::{Accounts, Stage};

/// One of so many turns, and of so many bursts of commands, is looked at closely.
const SAMPLE_EVERY: u32 = 16;

/// Chooses what is looked at closely.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Otherwise nothing is looked at.
    looks: bool,
    turns: Cell<u32>,
    bursts: Cell<u32>,
    /// When answers were known that nobody has been given yet.
    answered: Cell<Option<Time>>,
}

impl Sampler {
    pub(super) fn new(looks: bool) -> Self {
        Self {
            looks,
            turns: Cell::new(0),
            bursts: Cell::new(0),
            answered: Cell::new(None),
        }
    }

    /// Whether a burst of commands is looked at closely.
    pub(super) fn burst(&self) -> bool {
        self.looks && every(&self.bursts)
    }

    /// A turn of the shard begins.
    pub(super) fn turn(&self, now: Time) -> Turn {
        Turn {
            started: now,
            last: now,
            sampled: self.looks && every(&self.turns),
            serialise: Duration::ZERO,
            apply: Duration::ZERO,
        }
    }

    /// Answers are known; the next to be given is followed to the client.
    pub(super) fn answered(&self, now: Time) {
        self.answered.set(Some(now));
    }

    /// When the answer that is given now was known, if it is to be followed.
    pub(super) fn follow(&self) -> Option<Time> {
        self.answered.take()
    }
}

fn every(count: &Cell<u32>) -> bool {
    count.set(count.get().wrapping_add(1));
    count.get().is_multiple_of(SAMPLE_EVERY)
}

/// A turn: inputs were gathered, now the shard is settled and what it wants is done.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) started: Time,
    /// Whether it is looked at closely.
    pub(super) sampled: bool,
    last: Time,
    serialise: Duration,
    apply: Duration,
}

impl Turn {
    /// A stretch of work ended, of this stage or of none.
    pub(super) fn lap(&mut self, stage: Option<Stage>, now: Time) {
        let took = now.since(self.last);
        self.last = now;
        match stage {
            Some(Stage::Serialise) => self.serialise += took,
            Some(Stage::Apply) => self.apply += took,
            _ => {}
        }
    }

    /// Accounts for what was measured.
    pub(super) fn account(&self, accounts: &mut Accounts) {
        for (stage, took) in [
            (Stage::Serialise, self.serialise),
            (Stage::Apply, self.apply),
        ] {
            if !took.is_zero() {
                accounts.record(stage, took);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lap_belongs_to_its_stage_and_what_lies_between_to_none() {
        let sampler = Sampler::new(true);
        let mut turn = sampler.turn(Time::from_nanos(100));
        for (stage, at) in [
            (None, 150),
            (Some(Stage::Serialise), 170),
            (None, 200),
            (Some(Stage::Apply), 230),
            (Some(Stage::Serialise), 231),
        ] {
            turn.lap(stage, Time::from_nanos(at));
        }
        let mut accounts = Accounts::default();
        turn.account(&mut accounts);
        let found = [Stage::Serialise, Stage::Apply].map(|stage| accounts.stage(stage).max());
        assert_eq!(found, [21, 30]);
        assert_eq!(accounts.stage(Stage::Batch).count(), 0);
    }

    #[test]
    fn one_of_sixteen_turns_is_looked_at() {
        let sampled = |looks| {
            let sampler = Sampler::new(looks);
            let turns = (0..160).filter(|_| sampler.turn(Time::default()).sampled);
            turns.count()
        };
        assert_eq!((sampled(true), sampled(false)), (10, 0));
    }
}
