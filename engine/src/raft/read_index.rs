//! Rounds of heartbeats that prove a leader still leads (thesis §6.4).

/// The ReadIndex rounds of one leadership.
#[derive(Debug, Default)]
pub(super) struct ReadRounds {
    started: u64,
    confirmed: u64,
}

impl ReadRounds {
    /// Starts a round; its number goes out with the heartbeats.
    pub(super) fn start(&mut self) -> u64 {
        self.started += 1;
        self.started
    }

    /// The newest round started.
    pub(super) fn started(&self) -> u64 {
        self.started
    }

    /// A majority has answered this round, and so every one before.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// `answered` holds the newest round each voter has answered, the leader's own included.
    pub(super) fn answered(&mut self, answered: &mut [u64]) {
        answered.sort_unstable_by(|a, b| b.cmp(a));
        let round = answered[super::quorum::majority(answered.len()) - 1];
        assert!(round <= self.started, "round {round} was never started");
        self.confirmed = self.confirmed.max(round);
    }

    /// Ends every round: leadership is over. Numbers are not used again.
    pub(super) fn abandon(&mut self) {
        self.confirmed = self.started;
    }
}
