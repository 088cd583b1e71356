//! Which groups the end of a burst has to look at.
//!
//! Most of what happens to a group leaves nothing to do but what waits for a flush anyway: a command
//! joins the open batch, an entry of a leader goes into the log, a flush is durable, the last of the
//! acknowledgements comes in. To look at the group all the same would cost more than what happened.

use alloc::vec::Vec;

use super::group::Group;
use super::{GroupNews, Shard};
use crate::time::Time;

impl Shard {
    /// Something happened to a group.
    pub(super) fn touched(&mut self, at: usize) {
        self.count_unflushed(at);
        if self.groups[at].is_unsettled(self.cache_max()) {
            self.dirty.insert(at);
        } else if self.groups[at].leads() {
            self.note_untold(at);
        }
    }

    /// Notes whether a group's followers are to be told of a commit.
    pub(super) fn note_untold(&mut self, at: usize) {
        self.untold.set(at, self.groups[at].owes_commit());
    }

    /// Notes how a group stands that was looked at.
    pub(super) fn note_standing(&mut self, at: usize, news: &mut Vec<GroupNews>) {
        let group = &mut self.groups[at];
        let standing = group.raft.standing();
        if group.settled.replace(standing) == Some(standing) {
            return;
        }
        let told = (group.leader(), standing.damaged);
        let before = core::mem::replace(&mut self.told[at], told);
        if told.0.is_some() && told.0 != before.0 {
            group.leader_changes += 1;
        }
        if before != told {
            news.push(GroupNews {
                group: group.id,
                leader: told.0,
                damaged: told.1,
            });
        }
        self.pulse
            .note(at, group.peace(), group.nodes(), self.clock.now);
    }
}

impl Group {
    /// Whether the end of the burst has something to do for it, besides what waits for a flush.
    pub(super) fn is_unsettled(&self, cache_max: usize) -> bool {
        self.settled != Some(self.raft.standing())
            || !self.raft.is_steady()
            || self.applied < self.raft.commit()
            || self.has_requests_waiting()
            || self.raft.log().cached_bytes() > cache_max
            || self.raft.deadline() < self.timer.unwrap_or(Time::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;
    use alloc::format;
    use alloc::string::String;
    use core::time::Duration;

    use net::Command;
    use net::command::{Condition, Expiry};
    use wal::{FlushNumber, GroupId, NodeId, RecoveredLog, ReplicaId};

    use super::*;
    use crate::raft::Message;
    use crate::shard::{GroupOptions, Input, Member, Options, Output, SnapshotPolicy, Token};
    use crate::time::Clock;

    const NODES: u32 = 3;
    const GROUPS: u32 = 5;

    fn options(node: u32) -> Options {
        Options {
            node: NodeId::from_raw(node),
            heartbeat_interval: Duration::from_millis(10),
            election_timeout: Duration::from_millis(100),
            route_wait: Duration::from_millis(150),
            request_timeout: Duration::from_millis(300),
            mark_after: Duration::from_millis(5),
            flushes_in_flight_max: 3,
            flush_beside_bytes_min: 200,
            flush_bytes_max: 400,
            batch_bytes_max: 300,
            window_bytes_max: 600,
            window_messages_max: 3,
            pending_bytes_max: 4000,
            pending_requests_max: 50,
            answer_bytes_max: 1 << 20,
            data_bytes_max: 0,
            cache_bytes: 1 << 23,
            snapshots: SnapshotPolicy::BY_HAND,
            seed: u64::from(node),
        }
    }

    fn shard(node: u32) -> Shard {
        let member = |node| Member {
            replica: ReplicaId::from_raw(node),
            node: NodeId::from_raw(node),
            voter: true,
        };
        let group = |group: u32| GroupOptions {
            group: GroupId::from_raw(group),
            members: (1..=NODES).map(member).collect(),
            noted: None,
            slots: (0, net::SLOTS - 1),
            preferred: Some(NodeId::from_raw(group % NODES + 1)),
            recovered: RecoveredLog::default(),
            snapshot: None,
        };
        let groups = (0..GROUPS).map(group).collect();
        let first = FlushNumber::ZERO.next();
        Shard::new(options(node), clock(0), groups, first)
    }

    fn clock(millis: u64) -> Clock {
        Clock {
            now: Time::default().after(Duration::from_millis(millis)),
            unix_ms: 1_700_000_000_000 + millis,
        }
    }

    /// One node, twice: of one every group is looked at to which anything happened.
    struct Twins {
        shards: [Shard; 2],
        outputs: [Output; 2],
        /// What came and was not taken in yet.
        inbox: VecDeque<(NodeId, GroupId, Message)>,
        flushes: VecDeque<FlushNumber>,
    }

    impl Twins {
        fn step(&mut self, clock: Clock, input: impl Fn() -> Input<'static>) {
            let happens = |shard: &Shard| match input() {
                Input::Request { group, .. } | Input::Message { group, .. } => {
                    shard.position(group).into_iter().collect()
                }
                Input::Written { flush } => {
                    let over = |it: &&(FlushNumber, Vec<usize>)| it.0 <= flush;
                    let over = shard.under_way.iter().take_while(over);
                    over.flat_map(|(_, holds)| holds).copied().collect()
                }
                _ => Vec::new(),
            };
            let touched = happens(&self.shards[1]);
            for (shard, out) in self.shards.iter_mut().zip(&mut self.outputs) {
                shard.step(clock, input(), out);
            }
            touched
                .into_iter()
                .for_each(|at| self.shards[1].dirty.insert(at));
        }

        /// Ends a burst, and says what both want done.
        fn settle(&mut self, clock: Clock) -> Output {
            for (shard, out) in self.shards.iter_mut().zip(&mut self.outputs) {
                shard.settle(clock, out);
            }
            let wake_at = self.outputs[0].wake_at;
            let [done, other] = self.outputs.each_mut().map(core::mem::take);
            assert_eq!(format!("{done:?}"), format!("{other:?}"), "at {clock:?}");
            self.outputs
                .iter_mut()
                .for_each(|out| out.wake_at = wake_at);
            done
        }
    }

    fn command(draw: u64, name: &'static str) -> Command<'static> {
        match draw {
            0..3 => Command::Get {
                key: name.as_bytes(),
            },
            3 => Command::Size,
            _ => Command::Set {
                key: name.as_bytes(),
                value: &[b'v'; 40],
                expiry: if draw == 4 {
                    Expiry::After(20)
                } else {
                    Expiry::Never
                },
                condition: Condition::Always,
                get: false,
            },
        }
    }

    #[test]
    fn a_group_that_is_passed_over_would_have_had_nothing_to_do() {
        for seed in 1..=20_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut draw = move |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 16) % below
            };
            let mut nodes: Vec<Twins> = (1..=NODES)
                .map(|node| Twins {
                    shards: [shard(node), shard(node)],
                    outputs: Default::default(),
                    inbox: VecDeque::new(),
                    flushes: VecDeque::new(),
                })
                .collect();
            let (mut millis, mut asked, mut answered) = (0, 0, 0);
            // Busy, then so idle that groups become quiet, then busy again.
            for turn in 0..6000_u64 {
                let busy = turn % 3000 < 2000;
                millis += draw(if busy { 2 } else { 5 });
                let clock = clock(millis);
                let at = usize::try_from(draw(u64::from(NODES))).unwrap();
                for _ in 0..if busy { draw(4) } else { 0 } {
                    asked += 1;
                    let (kind, group) = (draw(12), draw(u64::from(GROUPS)));
                    let group = GroupId::from_raw(u32::try_from(group).unwrap());
                    let token = Token(asked);
                    nodes[at].step(clock, || Input::Request {
                        group,
                        token,
                        command: command(
                            kind,
                            ["a", "b", "c"][usize::try_from(asked % 3).unwrap()],
                        ),
                    });
                }
                for _ in 0..draw(8) {
                    let Some((from, group, message)) = nodes[at].inbox.pop_front() else {
                        break;
                    };
                    match draw(60) {
                        0 => continue,
                        1 => nodes[at].inbox.push_back((from, group, message)),
                        _ => nodes[at].step(clock, || Input::Message {
                            from,
                            group,
                            message: message.clone(),
                        }),
                    }
                }
                if draw(3) == 0
                    && let Some(flush) = nodes[at].flushes.pop_front()
                {
                    nodes[at].step(clock, || Input::Written { flush });
                }
                if draw(2000) == 0 {
                    let group = GroupId::from_raw(0);
                    nodes[at].step(clock, || Input::Transfer { group, to: None });
                }
                if nodes[at].outputs[0]
                    .wake_at
                    .is_some_and(|it| it <= clock.now)
                {
                    nodes[at].step(clock, || Input::Wake);
                }
                let out = nodes[at].settle(clock);
                assert!(out.reads.is_empty(), "all is in memory");
                answered += out.replies.len();
                nodes[at]
                    .flushes
                    .extend(out.flushes.iter().map(|flush| flush.number));
                let from = NodeId::from_raw(u32::try_from(at).unwrap() + 1);
                for (to, group, message) in out.messages {
                    let to = usize::try_from(to.to_raw()).unwrap() - 1;
                    nodes[to].inbox.push_back((from, group, message));
                }
            }
            let told: Vec<String> = nodes
                .iter()
                .map(|it| format!("{:?}", it.shards[0].leader(GroupId::from_raw(0))))
                .collect();
            assert!(answered > 500, "seed {seed}: {answered} answers, {told:?}");
        }
    }
}
