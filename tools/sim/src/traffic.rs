//! What clients do and hear, and the inspection that follows when the faults are over.

use std::rc::Rc;

use engine::shard::{Outcome, Token};
use net::{ErrorReply, Reply};
use wal::{GroupId, LogIndex};

use crate::client::{Ask, Client, Request, Waiting, answer};
use crate::cluster::Cluster;
use crate::events::Event;
use crate::faults::Fault;
use crate::linearizability::Answer;
use crate::node::{Arrival, position_of};
use crate::oracle::Broken;

/// How long a client tries and waits, in nanoseconds.
const PATIENCE: (u64, u64) = (200_000_000, 4_000_000_000);

/// A rest is as long as so many thoughts.
const REST: u64 = 40;

/// A token is the client's position and, in so many lower bits, the number of its attempt.
const ATTEMPT_BITS: u32 = 40;

fn token(client: usize, attempt: u64) -> Token {
    Token((client as u64) << ATTEMPT_BITS | attempt)
}

fn client_of(token: Token) -> usize {
    usize::try_from(token.0 >> ATTEMPT_BITS).expect("few clients")
}

impl Cluster {
    /// A client does something new, if it has anything to do.
    pub(crate) fn call(&mut self, client: usize) {
        let (called, calm) = (self.moment(), self.is_calm());
        let Client { rng, script, .. } = &mut self.clients[client];
        let (request, history) = match script {
            Some(script) => match script.last() {
                Some(request) => (Rc::new(request.clone()), self.histories.named(&request.key)),
                None => return,
            },
            None if calm => return,
            None => {
                let (request, history) = self.histories.draw(rng, &self.plan);
                (Rc::new(request), history)
            }
        };
        let place = history.map(|history| match &request.ask {
            Ask::Call(call) => (
                history,
                self.histories.called(history, call.clone(), called),
            ),
            Ask::Expiring { .. } => unreachable!("expiring keys have no history"),
        });
        let Client {
            rng,
            waiting,
            attempts,
            ..
        } = &mut self.clients[client];
        let patience = self.now + rng.between(PATIENCE.0, PATIENCE.1);
        assert!(waiting.is_none(), "one call at a time");
        *waiting = Some(Waiting {
            request,
            attempt: *attempts,
            place,
            patience,
        });
        self.attempt(client);
    }

    /// A client tries again, unless it gave up meanwhile.
    pub(crate) fn retry(&mut self, token: Token) {
        if self.waits_for(token) {
            self.attempt(client_of(token));
        }
    }

    /// Whether the attempt that `token` names is one that its client still waits for.
    fn waits_for(&self, token: Token) -> bool {
        let waiting = self.clients[client_of(token)].waiting.as_ref();
        waiting.is_some_and(|waiting| waiting.attempt == token.0 & ((1 << ATTEMPT_BITS) - 1))
    }

    /// A client sends its request, to whom it believes to lead.
    fn attempt(&mut self, client: usize) {
        let asking = &mut self.clients[client];
        let Some(group) = asking.waiting.as_ref().map(|waiting| waiting.request.group) else {
            return;
        };
        let node = asking.target(&self.plan, &self.members, group);
        asking.attempts += 1;
        let attempt = asking.attempts;
        let travels = asking.rng.between(10_000, 300_000);
        let waiting = asking.waiting.as_mut().expect("just seen");
        waiting.attempt = attempt;
        let request = waiting.request.clone();
        let ends = waiting.patience.max(self.now + 1);
        let token = token(client, attempt);
        self.plan_at(
            self.now + travels,
            Event::Request {
                node,
                token,
                request,
            },
        );
        self.plan_at(ends, Event::Impatience { token });
    }

    /// A request reaches a node.
    pub(crate) fn requested(&mut self, node: usize, token: Token, request: Rc<Request>) {
        if self.nodes[node].process.is_some() {
            self.tell(|_| format!("node {} is asked by {token:?}: {request:?}", node + 1));
            if request.only_reads() {
                let group = GroupId::from_raw(request.group);
                let committed = self.oracles.committed(group);
                self.reads.insert(token, (group, committed));
            }
            self.arrive(node, Arrival::Request { token, request });
        } else {
            self.plan_at(
                self.now + 100_000,
                Event::Answer {
                    token,
                    outcome: Outcome::NoLeader,
                },
            );
        }
    }

    /// What a client hears.
    pub(crate) fn answered(&mut self, token: Token, outcome: Outcome) -> Result<(), Broken> {
        let client = client_of(token);
        self.fold(token.0);
        if !self.waits_for(token) {
            return Ok(());
        }
        let asking = &mut self.clients[client];
        let waiting = asking.waiting.as_ref().expect("just seen");
        let group = waiting.request.group as usize;
        let members = &self.members;
        let pause = match outcome {
            Outcome::Reply(Reply::Error(ErrorReply::DiskFull)) => {
                self.counters.refused_full += 1;
                asking.believed[group] = *asking.rng.pick(members);
                20_000_000
            }
            Outcome::Reply(Reply::Error(ErrorReply::DiskFailed)) => {
                self.counters.refused_failed += 1;
                asking.believed[group] = *asking.rng.pick(members);
                20_000_000
            }
            Outcome::Reply(reply) => {
                self.tell(|_| format!("{token:?} hears {reply:?}"));
                let Some(answer) = answer(&reply) else {
                    return Err(format!("a client was answered {reply:?}"));
                };
                self.finish(client, Some(answer));
                return Ok(());
            }
            Outcome::Unknown => {
                self.tell(|_| format!("{token:?} hears that the outcome is unknown"));
                self.finish(client, None);
                return Ok(());
            }
            Outcome::Redirect { leader, .. } => {
                self.counters.redirects += 1;
                asking.believed[group] = position_of(leader);
                1_000_000
            }
            Outcome::NoLeader => {
                self.counters.no_leader += 1;
                asking.believed[group] = *asking.rng.pick(members);
                40_000_000
            }
            Outcome::Busy => {
                self.counters.busy += 1;
                20_000_000
            }
        };
        let again = self.now + asking.rng.between(pause / 2, pause);
        self.plan_at(again, Event::Retry { token });
        Ok(())
    }

    /// A client waits no longer.
    pub(crate) fn gave_up(&mut self, token: Token) {
        let client = client_of(token);
        if self.waits_for(token) {
            let members = &self.members;
            let asking = &mut self.clients[client];
            let group = asking.waiting.as_ref().expect("just seen").request.group as usize;
            asking.believed[group] = *asking.rng.pick(members);
            self.tell(|_| format!("{token:?} gives up"));
            self.finish(client, None);
        }
    }

    /// A call is over, and the client thinks about the next one.
    fn finish(&mut self, client: usize, answer: Option<Answer>) {
        let moment = self.moment();
        let Client {
            waiting,
            script,
            rng,
            ..
        } = &mut self.clients[client];
        let waiting = waiting.take().expect("callers look whether it waits");
        let only_reads = waiting.request.only_reads();
        match (&answer, only_reads) {
            (None, _) => self.counters.unknown += 1,
            (_, true) => self.counters.reads += 1,
            (_, false) => self.counters.writes += 1,
        }
        let pause = match script {
            Some(script) => {
                if answer.is_some() {
                    script.pop();
                }
                0
            }
            None if rng.chance(self.plan.rests) => rng.between(0, REST * self.plan.think_max),
            None => rng.between(0, self.plan.think_max),
        };
        if let Some(place) = waiting.place {
            match answer {
                Some(answer) => self.histories.answered(place, moment, answer),
                None => self.histories.lost(place),
            }
        }
        self.plan_at(self.now + pause, Event::Call { client });
    }

    /// A part of what clients were told may be lost: they begin anew, with other keys.
    pub(crate) fn begin_anew(&mut self) -> Result<(), Broken> {
        for client in 0..self.clients.len() {
            let (rng, groups) = (&mut self.clients[client].rng, self.plan.groups);
            let believed = (0..groups).map(|_| *rng.pick(&self.members)).collect();
            self.clients[client].believed = believed;
            if self.clients[client].waiting.is_some() {
                self.finish(client, None);
            }
        }
        self.reads.clear();
        self.judge(true)?;
        self.histories.begin_anew();
        Ok(())
    }

    /// One judge per group writes, reads that, and reads every key.
    pub(crate) fn begin_inspection(&mut self) {
        for group in 0..self.plan.groups {
            let asked = self.histories.inspection(group);
            let script = asked.into_iter().map(|(request, _)| request).collect();
            let rng = self.rng.fork();
            // Of those that a repair gave up, a majority may still answer among themselves.
            let (groups, member) = (self.plan.groups, self.members[0]);
            self.clients
                .push(Client::new(rng, groups, member, Some(script)));
            let client = self.clients.len() - 1;
            self.plan_at(self.now + 2_000_000, Event::Call { client });
        }
        let election = u64::try_from(self.plan.election.as_nanos()).expect("a short time");
        self.deadline = self.now + 30 * election + 200 * self.plan.flush_max + 5_000_000_000;
    }

    /// Judges what is over; once calm, ends the run when all is served and equal.
    pub(crate) fn inspect(&mut self) -> Result<(), Broken> {
        self.judge(false)?;
        self.compare_states()?;
        if !self.is_calm() {
            self.plan_at(self.now + 5_000_000_000, Event::Inspect);
            return Ok(());
        }
        let left: Vec<u32> = self
            .clients
            .iter()
            .filter_map(|client| client.script.as_ref()?.last())
            .map(|request| request.group)
            .collect();
        let differs = self.differing();
        self.done = left.is_empty() && differs.is_none();
        if self.done || self.now < self.deadline {
            self.plan_at(self.now + 50_000_000, Event::Inspect);
            return Ok(());
        }
        Err(match differs {
            _ if !left.is_empty() => {
                format!("long after the faults ended, groups {left:?} do not serve")
            }
            differs => format!(
                "long after the faults ended, replicas are not equal: {}",
                differs.expect("or the run would be done")
            ),
        })
    }

    /// A group whose replicas have not all applied all there is, or are still under repair.
    fn differing(&self) -> Option<String> {
        if self.plan.has(Fault::ChangeMembers) {
            let mut groups = (0..self.plan.groups).map(GroupId::from_raw);
            return groups.find_map(|group| self.differing_group(group));
        }
        let mut ends: Vec<Option<LogIndex>> = vec![None; self.plan.groups as usize];
        for node in self.members.iter().map(|&member| &self.nodes[member]) {
            let Some(process) = &node.process else {
                return Some(format!("node {} is down", node.position + 1));
            };
            for status in process.shard.status() {
                let group = status.group.to_raw() as usize;
                let end = &mut ends[group];
                let end = *end.get_or_insert(status.last);
                if status.damaged || status.applied != status.last || status.last != end {
                    let node = node.position + 1;
                    return Some(format!(
                        "log ends at {end} elsewhere, on node {node}: {status:?}"
                    ));
                }
            }
        }
        None
    }
}
