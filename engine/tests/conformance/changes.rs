//! Changes of members, told to a core that makes them in other steps.
//!
//! - A replica that holds nothing becomes a voter there. Here an entry makes it an observer first, and a second
//!   one a voter once it holds nearly all. The first has no counterpart: states are told without it, and what is
//!   behind it counts one less.
//! - One voter comes in through a joint configuration there: an entry enters it, and one leaves it. Those two
//!   stand for the two above.
//! - One voter replaces another there: the new one comes in here where the joint configuration is entered, and
//!   the old one goes where it is left. Between, whoever votes in one of the halves votes here.
//! - A change counts where it is applied there, and in the log here. Compared are the members as of the commit.
//! - A leader asks here first who is there. That is done between two commands.
//! - A newcomer begins with a snapshot: here an older one, as it begins before it becomes a voter. Its log is
//!   compared from the later of the two beginnings on.
//! - Who leaves is told so by the log there, and when it connects here. Compared are its role, term, vote and
//!   leader.

use std::collections::VecDeque;

use engine::raft::{Change, ChangeError, Message};

use super::State;
use super::cluster::{Cluster, replica};

/// What changes the members, and what of the log has no counterpart.
#[derive(Default)]
pub(crate) struct Changes {
    /// The next steps, and who takes them.
    steps: VecDeque<(u64, Change)>,
    /// What is done when a joint configuration is left.
    put_off: Vec<Change>,
    /// The entry that makes an observer of a newcomer stands for the one that enters a joint configuration.
    observer_counts: bool,
    /// Nodes from this one on were added with nothing.
    newcomers: Option<u64>,
    /// A change was asked for.
    begun: bool,
    /// Entries without a counterpart.
    extra: Vec<u64>,
    removed: Vec<u64>,
}

impl Changes {
    pub(super) fn newcomers_from(&mut self, id: u64) {
        self.newcomers.get_or_insert(id);
    }

    /// All that was asked for came about: what is compared is not the state before.
    pub(crate) fn assert_made(&self, scenario: &str) {
        let Self { steps, put_off, .. } = self;
        assert!(steps.is_empty(), "{scenario}: {steps:?} were never made");
        assert!(put_off.is_empty(), "{scenario}: {put_off:?} were put off");
    }

    /// A state, without the entries that have no counterpart.
    pub(super) fn told(&self, mut state: State) -> State {
        let less = |index: u64| index - self.extra.iter().filter(|&&it| it <= index).count() as u64;
        state.commit = less(state.commit);
        state.first = less(state.first - 1) + 1;
        state.last = less(state.last);
        state.log.retain(|(_, index)| !self.extra.contains(index));
        for (_, index) in &mut state.log {
            *index = less(*index);
        }
        for (_, matched) in &mut state.matched {
            *matched = less(*matched);
        }
        state
    }

    /// Leaves out of both what is not to be compared: only where members change.
    pub(crate) fn confine(&self, found: &mut State, expected: &mut State) {
        let newcomer = self.newcomers.is_some_and(|first| found.id >= first);
        if newcomer && self.begun {
            let first = found.first.max(expected.first);
            for state in [&mut *found, &mut *expected] {
                state.first = first;
                state.log.retain(|&(_, index)| index >= first);
            }
        }
        let left = |state: &State| self.removed.contains(&state.id);
        if left(expected) && !expected.voters.contains(&expected.id) {
            for state in [found, expected] {
                (state.commit, state.first, state.last) = (0, 0, 0);
                state.log.clear();
                state.voters.clear();
            }
        }
    }
}

impl Cluster {
    /// `v` adds a voter, `r` removes; nothing leaves a joint configuration.
    pub(super) fn ask_for_changes(&mut self, leader: u64, input: &str, transition: Option<&str>) {
        self.changes.begun = true;
        let explicit = transition == Some("explicit");
        self.changes.observer_counts = transition == Some("implicit");
        if input.is_empty() {
            let put_off = core::mem::take(&mut self.changes.put_off);
            assert!(!put_off.is_empty(), "no joint configuration to leave");
            let steps = put_off.into_iter().map(|change| (leader, change));
            self.changes.steps.extend(steps);
        }
        for word in input.split_whitespace() {
            let (kind, id) = word.split_at(1);
            let id = replica(id.parse().expect("a node's id"));
            let members = self.node(leader).raft.members();
            match kind {
                "v" if members.observers.contains(&id) => {
                    self.changes.steps.push_back((leader, Change::Promote(id)));
                }
                "v" => {
                    let comes = Change::AddObserver(id, format!("node{id}"));
                    let steps = [(leader, comes), (leader, Change::Promote(id))];
                    self.changes.steps.extend(steps);
                }
                "r" if explicit => self.changes.put_off.push(Change::Remove(id)),
                _ => panic!("no counterpart of {word}"),
            }
        }
        self.pursue_changes();
    }

    /// Takes the next step, if it can be taken. Says whether it was.
    pub(super) fn pursue_changes(&mut self) -> bool {
        let Some((leader, change)) = self.changes.steps.front().cloned() else {
            return false;
        };
        let node = self.node(leader);
        let mut made = node.raft.change(&change, &mut node.said);
        if made == Err(ChangeError::Asked) {
            self.ask_who_is_there(leader);
            let node = self.node(leader);
            made = node.raft.change(&change, &mut node.said);
        }
        let index = match made {
            Ok(index) => index.to_raw(),
            Err(ChangeError::Unsettled | ChangeError::Lags { .. }) => return false,
            Err(why) => panic!("{change:?}: {why}"),
        };
        let node = self.node(leader);
        node.raft.replicate(true, &mut node.said);
        self.changes.steps.pop_front();
        match change {
            Change::AddObserver(..) if !self.changes.observer_counts => {
                self.changes.extra.push(index);
            }
            Change::Remove(id) => self.changes.removed.push(u64::from(id.to_raw())),
            _ => {}
        }
        true
    }

    /// The leader asks, and everybody answers.
    fn ask_who_is_there(&mut self, leader: u64) {
        let asks = |message: &Message| matches!(message, Message::Heartbeat { .. });
        let answers = |message: &Message| matches!(message, Message::HeartbeatAck { .. });
        for (to, question) in self.node(leader).take_said(asks) {
            let node = self.node(u64::from(to.to_raw()));
            let now = node.now();
            node.raft
                .step(now, replica(leader), question, &mut node.said);
            for (_, answer) in node.take_said(answers) {
                let node = self.node(leader);
                let now = node.now();
                node.raft.step(now, to, answer, &mut node.said);
            }
        }
    }
}
