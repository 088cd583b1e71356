//! Requests that another node must take and that cannot reach it now: its connection is down, or
//! leaders are changing. They wait here, in the order they came, until they can go on or have waited
//! long enough.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use net::Command;
use wal::{GroupId, NodeId};

use crate::Time;
use crate::shard::{Input, Outcome, Token};

use super::executor::Executor;
use super::requests::Request;

/// Nodes a request is sent to, one after the other, while leaders change.
const HOPS_MAX: u8 = 4;
/// How often it is looked whether requests that wait can go on.
const PARKED_INTERVAL: Duration = Duration::from_millis(10);

/// One request that waits.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) token: Token,
    pub(super) command: Vec<u8>,
    /// When it has waited long enough.
    pub(super) until: Time,
}

/// The requests of one shard that wait, by group.
#[derive(Debug, Default)]
pub(super) struct Parked {
    stays: BTreeMap<GroupId, VecDeque<Stay>>,
    bytes: usize,
}

impl Parked {
    pub(super) fn is_empty(&self) -> bool {
        self.stays.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a request of the group waits: later ones must not overtake it.
    pub(super) fn holds(&self, group: GroupId) -> bool {
        self.stays.contains_key(&group)
    }

    pub(super) fn push(&mut self, group: GroupId, stay: Stay) {
        self.bytes += stay.command.len();
        self.stays.entry(group).or_default().push_back(stay);
    }

    /// Takes out all whose time is over and all of the groups that are `open`; those of a group in
    /// the order they came.
    pub(super) fn take(
        &mut self,
        now: Time,
        open: impl Fn(GroupId) -> bool,
    ) -> Vec<(GroupId, Stay)> {
        let mut left = Vec::new();
        for (&group, stays) in &mut self.stays {
            let open = open(group);
            while let Some(stay) = stays.pop_front_if(|stay| open || stay.until <= now) {
                self.bytes -= stay.command.len();
                left.push((group, stay));
            }
        }
        self.stays.retain(|_, stays| !stays.is_empty());
        left
    }
}

impl Executor {
    /// Forwards a request to the node that leads, or lets it wait until that can be; the outcome if
    /// it is not to be.
    pub(super) fn ask_node(
        &self,
        token: Token,
        leader: NodeId,
        command: Vec<u8>,
    ) -> Option<Outcome> {
        let mut requests = self.requests.borrow_mut();
        let request = requests.get_mut(token)?;
        if !request.proxy {
            return Some(Outcome::Redirect { leader, command });
        }
        let group = request.group;
        // It is no peer if somebody thinks that this node leads, which just said that it does not.
        let link = self.link(leader);
        let first = !self.parked.borrow().holds(group);
        if let Some(link) = link.filter(|_| first && request.hops < HOPS_MAX) {
            let patience = self.config.request_timeout + self.config.cluster.election_timeout;
            let give_up = self.origin.time().after(patience);
            if link.forward(token, group, &command, give_up) {
                request.hops += 1;
                request.asked = Some(leader);
                return None;
            }
        }
        self.park(token, request, command)
    }

    /// Lets a request wait for a node that can be asked; the outcome if it has waited enough.
    fn park(&self, token: Token, request: &mut Request, command: Vec<u8>) -> Option<Outcome> {
        let now = self.origin.time();
        let until = *request
            .until
            .get_or_insert_with(|| now.after(self.config.route_wait));
        if until <= now || self.stopping.get() {
            return Some(Outcome::NoLeader);
        }
        let mut parked = self.parked.borrow_mut();
        if parked.bytes() + command.len() > self.config.limits.pending_bytes_max {
            return Some(Outcome::Busy);
        }
        request.hops = 0;
        request.asked = None;
        let stay = Stay {
            token,
            command,
            until,
        };
        parked.push(request.group, stay);
        self.parking.raise();
        None
    }

    /// Sends parked requests on their way again once they can go on, for ever.
    pub(super) async fn let_go_on(self: Rc<Self>) {
        loop {
            if self.parked.borrow().is_empty() {
                self.parking.wait().await;
            }
            glommio::timer::sleep(PARKED_INTERVAL).await;
            let clock = self.clock();
            let left = self.parked.borrow_mut().take(clock.now, |group| {
                let leader = self.shard.borrow().leader(group);
                leader.is_some_and(|leader| {
                    let link = self.link(leader);
                    link.is_none_or(|link| link.connected.get())
                })
            });
            for (group, stay) in left {
                if stay.until <= clock.now {
                    self.finish(stay.token, Outcome::NoLeader);
                    continue;
                }
                // Whether this node leads by now, and who else does, the shard knows best.
                let token = stay.token;
                match Command::decode(&stay.command) {
                    Ok(command) => {
                        let input = Input::Request {
                            group,
                            token,
                            command,
                        };
                        self.step(clock, input);
                    }
                    Err(_) => self.finish(token, Outcome::NoLeader),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(token: u64, until: u64) -> Stay {
        Stay {
            token: Token(token),
            command: vec![0; 10],
            until: Time::from_nanos(until),
        }
    }

    #[test]
    fn requests_leave_in_order_when_their_group_opens_or_their_time_is_over() {
        let mut parked = Parked::default();
        for (token, group, until) in [(1, 0, 50), (2, 1, 10), (3, 0, 60), (4, 2, 70)] {
            parked.push(GroupId::from_raw(group), stay(token, until));
        }
        let left = parked.take(Time::from_nanos(10), |group| group.to_raw() == 0);
        let tokens: Vec<u64> = left.iter().map(|(_, stay)| stay.token.0).collect();
        assert_eq!(tokens, [1, 3, 2]);
        assert_eq!(parked.bytes(), 10);
        assert!(parked.holds(GroupId::from_raw(2)) && !parked.holds(GroupId::from_raw(0)));
    }
}
