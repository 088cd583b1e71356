//! The answers that one client is owed. They leave in the order of its commands, whoever gives them and
//! whenever; one that is known waits for those before it, and its bytes count meanwhile.

use std::collections::VecDeque;

use net::Reply;
use net::resp::{Form, Gather, Version};

/// Commands whose answers have not been written, in order.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Number of the command at the front.
    first: u64,
    waiting: VecDeque<Waiting>,
    /// How many values all of them may be answered with.
    values: usize,
    /// What the answers carry that are known.
    held_bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    look: Look,
    /// How many values it may be answered with, one at least.
    values: usize,
    state: State,
}

/// How an answer is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    Form(Form),
    Version(Version),
}

#[derive(Debug)]
pub(super) enum State {
    /// For the group of a slot.
    Slot(u16),
    /// For so many more groups.
    Groups {
        missing: usize,
        gather: Gather,
        replies: Vec<Reply>,
    },
    Ready(Reply),
}

/// An answer whose turn has come.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) look: Look,
    pub(super) values: usize,
    pub(super) reply: Reply,
}

impl Answers {
    /// How many commands wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many values they may be answered with.
    pub(super) fn values(&self) -> usize {
        self.values
    }

    /// Bytes that those answers carry that are known.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The number of a command that may be answered with so many values.
    pub(super) fn push(&mut self, look: Look, values: usize, state: State) -> u64 {
        assert!(values > 0, "every command is answered");
        if let State::Ready(reply) = &state {
            self.held_bytes += reply.held_bytes();
        }
        self.values += values;
        self.waiting.push_back(Waiting {
            look,
            values,
            state,
        });
        self.first + self.waiting.len() as u64 - 1
    }

    /// Takes the answer to a command, or one group's part of it, from `reply`, which is told the slot.
    /// Whether something can be written now, or waits with what it carries.
    pub(super) fn give(&mut self, sequence: u64, reply: impl FnOnce(u16) -> Reply) -> bool {
        let at = sequence
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok())
            .expect("a command is answered once");
        let waiting = &mut self.waiting[at];
        let known = match &mut waiting.state {
            State::Slot(slot) => reply(*slot),
            State::Groups {
                missing,
                gather,
                replies,
            } => {
                replies.push(reply(0));
                *missing -= 1;
                if *missing > 0 {
                    return false;
                }
                gather.gather(replies.drain(..))
            }
            State::Ready(_) => unreachable!("a command is answered once"),
        };
        let bytes = known.held_bytes();
        waiting.state = State::Ready(known);
        self.held_bytes += bytes;
        at == 0 || bytes > 0
    }

    /// The answer to the first command, if it is known.
    pub(super) fn next(&mut self) -> Option<Next> {
        let ready = |waiting: &mut Waiting| matches!(waiting.state, State::Ready(_));
        let Waiting {
            look,
            values,
            state: State::Ready(reply),
        } = self.waiting.pop_front_if(ready)?
        else {
            unreachable!("just looked");
        };
        self.first += 1;
        self.values -= values;
        self.held_bytes -= reply.held_bytes();
        Some(Next {
            look,
            values,
            reply,
        })
    }

    /// Lets go of what nobody will take.
    pub(super) fn forget(&mut self) {
        self.held_bytes = 0;
        for waiting in &mut self.waiting {
            if let State::Ready(reply) = &mut waiting.state {
                *reply = Reply::Nil;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_an_earlier_answer_counts_until_it_leaves_in_its_turn() {
        let mut answers = Answers::default();
        let look = Look::Version(Version::Resp2);
        let sequences: Vec<u64> = [1, 1, 100]
            .map(|values| answers.push(look, values, State::Slot(7)))
            .into();
        assert!(answers.give(sequences[2], |_| Reply::bulk([0; 300])));
        assert!(answers.give(sequences[1], |slot| Reply::bulk(vec![0; slot.into()])));
        assert_eq!((answers.held_bytes(), answers.values()), (307, 102));
        assert!(answers.next().is_none(), "the first is not known");
        assert!(answers.give(sequences[0], |_| Reply::Ok));
        let mut written = Vec::new();
        while let Some(next) = answers.next() {
            written.push(next.reply.held_bytes());
        }
        assert_eq!(written, [0, 7, 300]);
        assert_eq!((answers.held_bytes(), answers.values()), (0, 0));
    }

    #[test]
    fn nothing_is_held_for_who_left() {
        let mut answers = Answers::default();
        let look = Look::Version(Version::Resp2);
        let first = answers.push(look, 1, State::Slot(0));
        answers.push(look, 1, State::Ready(Reply::bulk([0; 9])));
        assert_eq!(answers.held_bytes(), 9);
        answers.forget();
        assert_eq!(answers.held_bytes(), 0);
        assert!(answers.give(first, |_| Reply::Nil));
        assert_eq!(std::iter::from_fn(|| answers.next()).count(), 2);
    }
}
