//! Requests that have not been answered: who asked, and where the request is now.

use std::rc::Rc;

use wal::{GroupId, NodeId};

use crate::Time;
use crate::shard::Token;

use super::client::Connection;
use super::handle::Batch;
use super::inbound::Inbound;

/// Who waits for an answer.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// A connection; answers leave in the order of `sequence`.
    Client {
        connection: Rc<Connection>,
        sequence: u64,
    },
    /// Another node, for one of its clients.
    Peer { inbound: Rc<Inbound>, request: u64 },
    /// Another shard of this node, for one of its clients.
    Shard { from: u16, token: Token },
    /// An embedder: the command `at` so far into its batch.
    Embedder { batch: Rc<Batch>, at: usize },
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) asker: Asker,
    pub(super) group: GroupId,
    /// Whether its outcome can be unknown.
    pub(super) write: bool,
    /// Whether another node may be asked.
    pub(super) proxy: bool,
    /// How many nodes were asked already.
    pub(super) hops: u8,
    /// The node that is being asked.
    pub(super) asked: Option<NodeId>,
    /// When it has waited long enough for a node that can be asked; `None` before it waits.
    pub(super) until: Option<Time>,
}

/// Requests by token. A token's upper half tells apart the requests that used the same place one
/// after the other, so that a late answer finds nothing instead of a stranger's request.
#[derive(Debug, Default)]
pub(super) struct Requests {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    request: Option<Request>,
}

impl Requests {
    pub(super) fn insert(&mut self, request: Request) -> Token {
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                let at = u32::try_from(self.places.len()).expect("requests are bounded");
                self.places.push(Place {
                    generation: 0,
                    request: None,
                });
                at
            }
        };
        let place = &mut self.places[at as usize];
        assert!(place.request.is_none(), "place {at} is taken");
        place.request = Some(request);
        Token(u64::from(place.generation) << 32 | u64::from(at))
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Request> {
        self.place(token)?.request.as_mut()
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Request> {
        let place = self.place(token)?;
        let request = place.request.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(low(token));
        Some(request)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn place(&mut self, token: Token) -> Option<&mut Place> {
        let generation = u32::try_from(token.0 >> 32).expect("the upper half of 64 bits");
        self.places
            .get_mut(low(token) as usize)
            .filter(|place| place.generation == generation)
    }
}

fn low(token: Token) -> u32 {
    u32::try_from(token.0 & u64::from(u32::MAX)).expect("masked to 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            asker: Asker::Shard {
                from: 0,
                token: Token(7),
            },
            group: GroupId::from_raw(0),
            write: true,
            proxy: false,
            hops: 0,
            asked: None,
            until: None,
        }
    }

    #[test]
    fn an_answer_that_comes_twice_finds_nobody_the_second_time() {
        let mut requests = Requests::default();
        let first = requests.insert(request());
        assert!(requests.remove(first).is_some());
        let second = requests.insert(request());
        assert_ne!(first, second, "the place is used again");
        assert!(requests.remove(first).is_none());
        assert!(requests.get_mut(second).is_some());
        assert_eq!(requests.len(), 1);
    }
}
