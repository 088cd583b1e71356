//! The ends of requests: each outcome goes to whoever asked, in the form that is theirs.

use wal::NodeId;

use crate::Time;
use crate::shard::{Outcome, Token};

use super::executor::Executor;
use super::requests::Asker;

impl Executor {
    /// The end of a request, unless another node can still be asked.
    pub(super) fn finish(&self, token: Token, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Redirect { leader, command } => match self.ask_node(token, leader, command) {
                Some(outcome) => outcome,
                None => return,
            },
            outcome => outcome,
        };
        if outcome == Outcome::Busy {
            self.shard.borrow_mut().accounts_mut().busy += 1;
        }
        let request = self.requests.borrow_mut().remove(token);
        if let Some(request) = request {
            self.deliver(request.asker, outcome, request.write);
        }
    }

    /// A node answered a forwarded request.
    pub(super) fn answered(&self, token: Token, from: NodeId, outcome: Outcome) {
        let asked = self
            .requests
            .borrow_mut()
            .get_mut(token)
            .and_then(|request| request.asked);
        // Otherwise the answer came after it had been given up.
        if asked == Some(from) {
            self.finish(token, outcome);
        }
    }

    /// The answer to a forwarded request will not come any more.
    pub(super) fn lost(&self, token: Token, node: NodeId) {
        let mut requests = self.requests.borrow_mut();
        let lost = match requests.get_mut(token) {
            Some(request) if request.asked == Some(node) => requests.remove(token),
            _ => None,
        };
        drop(requests);
        if let Some(request) = lost {
            let outcome = if request.write {
                Outcome::Unknown
            } else {
                Outcome::NoLeader
            };
            self.deliver(request.asker, outcome, request.write);
        }
    }

    pub(super) fn give_up_overdue(&self, now: Time) {
        for link in self.links.borrow().values() {
            link.overdue(Some(now), |token| self.lost(token, link.node));
        }
    }

    /// Gives an outcome of a write or a read to whoever asked.
    pub(super) fn deliver(&self, asker: Asker, outcome: Outcome, write: bool) {
        match asker {
            Asker::Client {
                connection,
                sequence,
            } => {
                if let Some(known) = self.sampler.follow() {
                    connection.follow(known);
                }
                connection.answer(sequence, outcome, write, &self.config);
                self.clients.relieve(self.config.limits.clients_bytes_max);
            }
            Asker::Peer { inbound, request } => inbound.answer(request, outcome, write),
            Asker::Embedder { batch, at } => batch.answer(at, outcome, write),
            Asker::Shard { from, token } => {
                let from = usize::from(from);
                let outcome = match self.mailboxes[from].is_full_of_answers() {
                    true => outcome.without_bytes(write),
                    false => outcome,
                };
                self.answers.borrow_mut()[from].push((token, outcome));
                self.settle.raise();
            }
        }
    }
}
