//! What the answers of one turn carry is bounded, whatever clients ask for at once: nobody looks at how much
//! a client has not taken yet before the turn ends.

use std::time::Duration;

use engine::shard::{
    GroupOptions, Input, Member, Options, Outcome, Output, Shard, SnapshotPolicy, Token,
};
use engine::{Clock, Time};
use net::command::{Condition, Expiry, List};
use net::{Command, ErrorReply, Reply};
use wal::{FlushNumber, GroupId, NodeId, RecoveredLog, ReplicaId};

const GROUP: GroupId = GroupId::from_raw(0);
const VALUE_BYTES: usize = 1 << 18;
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Of one turn's reads, and of one turn's writes: each goes on until it has answered 4 MiB.
const TURN_BYTES_MAX: usize = 2 * (4 << 20) + ANSWER_BYTES_MAX + VALUE_BYTES;
const REQUESTS: u64 = 200;
/// Answers of one batch that replaced nothing.
const BATCH_BYTES_MAX: usize = 32 << 20;

/// A cluster of one node, which leads; its disk is as fast as it is asked.
struct Node {
    shard: Shard,
    clock: Clock,
}

impl Node {
    fn start() -> Self {
        let options = Options {
            node: NodeId::from_raw(1),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            route_wait: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            mark_after: Duration::from_millis(10),
            flushes_in_flight_max: 2,
            flush_beside_bytes_min: 0,
            flush_bytes_max: 8 << 20,
            batch_bytes_max: 1 << 18,
            window_bytes_max: 1 << 22,
            window_messages_max: 256,
            pending_bytes_max: 64 << 20,
            pending_requests_max: 1 << 17,
            answer_bytes_max: ANSWER_BYTES_MAX,
            data_bytes_max: 0,
            cache_bytes: 64 << 20,
            snapshots: SnapshotPolicy::BY_HAND,
            seed: 7,
        };
        let member = Member {
            replica: ReplicaId::from_raw(1),
            node: NodeId::from_raw(1),
            voter: true,
        };
        let group = GroupOptions {
            group: GROUP,
            members: vec![member],
            noted: None,
            slots: (0, 16383),
            preferred: None,
            snapshot: None,
            recovered: RecoveredLog::default(),
        };
        let first = FlushNumber::from_raw(1);
        let shard = Shard::new(options, Clock::default(), vec![group], first);
        let clock = Clock {
            now: Time::from_nanos(3_000_000_000),
            unix_ms: 1,
        };
        let mut node = Self { shard, clock };
        let mut out = Output::default();
        node.shard.step(clock, Input::Wake, &mut out);
        node.finish(out);
        node
    }

    /// Gives all commands in one burst: the outcomes, turn by turn.
    fn ask(&mut self, commands: &[Command<'_>]) -> Vec<Vec<(Token, Outcome)>> {
        let mut out = Output::default();
        for (token, &command) in (0..).map(Token).zip(commands) {
            let input = Input::Request {
                group: GROUP,
                token,
                command,
            };
            self.shard.step(self.clock, input, &mut out);
        }
        self.finish(out)
    }

    /// Turns until nothing is to be done at once.
    fn finish(&mut self, mut out: Output) -> Vec<Vec<(Token, Outcome)>> {
        let mut turns = Vec::new();
        for _ in 0..100_000 {
            self.shard.settle(self.clock, &mut out);
            turns.push(std::mem::take(&mut out.replies));
            let flushes = std::mem::take(&mut out.flushes);
            let soon = self.clock.now.after(Duration::from_millis(1));
            if flushes.is_empty() && out.wake_at.is_none_or(|at| at > soon) {
                return turns;
            }
            self.clock.now = soon;
            self.shard.step(self.clock, Input::Wake, &mut out);
            for flush in flushes {
                let flush = flush.number;
                self.shard
                    .step(self.clock, Input::Written { flush }, &mut out);
            }
        }
        panic!("it never comes to rest");
    }
}

fn set<'a>(key: &'a [u8], value: &'a [u8], condition: Condition, get: bool) -> Command<'a> {
    Command::Set {
        key,
        value,
        expiry: Expiry::Never,
        condition,
        get,
    }
}

fn with_value() -> Node {
    let mut node = Node::start();
    let value = vec![b'v'; VALUE_BYTES];
    let turns = node.ask(&[set(b"large", &value, Condition::Always, false)]);
    let done = (Token(0), Outcome::Reply(Reply::Ok));
    assert_eq!(turns.concat(), [done]);
    node
}

/// Each turn is bounded; all outcomes together.
fn bounded(turns: Vec<Vec<(Token, Outcome)>>, bytes_max: usize) -> Vec<Outcome> {
    for outcomes in &turns {
        let bytes: usize = outcomes.iter().map(|(_, it)| it.held_bytes()).sum();
        assert!(bytes <= bytes_max, "{bytes} bytes in one turn");
    }
    let outcomes = turns.into_iter().flatten();
    outcomes.map(|(_, outcome)| outcome).collect()
}

fn carried(outcomes: &[Outcome]) -> usize {
    outcomes.iter().map(Outcome::held_bytes).sum()
}

#[test]
fn reads_of_large_values_are_spread_over_turns_and_all_answered() {
    let mut node = with_value();
    let reads = vec![Command::Get { key: b"large" }; usize::try_from(REQUESTS).unwrap()];
    let outcomes = bounded(node.ask(&reads), TURN_BYTES_MAX);
    assert_eq!(outcomes.len(), reads.len());
    assert_eq!(carried(&outcomes), reads.len() * VALUE_BYTES);
}

#[test]
fn reads_of_many_large_values_at_once_are_spread_over_turns_and_all_answered() {
    let mut node = with_value();
    let keys: [&[u8]; 3] = [b"large"; 3];
    let keys = List::Arguments(&keys);
    let reads = vec![Command::MultiGet { keys }; 60];
    let outcomes = bounded(node.ask(&reads), TURN_BYTES_MAX);
    assert!(carried(&outcomes) > 60 * 3 * VALUE_BYTES);
}

#[test]
fn a_read_of_more_than_one_answer_may_carry_is_refused_before_it_is_gathered() {
    let mut node = with_value();
    let keys: Vec<&[u8]> = vec![b"large"; 65_000];
    let keys = List::Arguments(&keys);
    let outcomes = bounded(node.ask(&[Command::MultiGet { keys }]), TURN_BYTES_MAX);
    let limit = ANSWER_BYTES_MAX;
    let refused = Outcome::Reply(ErrorReply::AnswerTooLarge { limit }.into());
    assert_eq!(outcomes, [refused]);
}

#[test]
fn writes_that_only_ask_for_a_large_value_are_told_to_try_again_when_too_many_come_at_once() {
    let mut node = with_value();
    let asks = set(b"large", b"x", Condition::Absent, true);
    let asks = vec![asks; usize::try_from(REQUESTS).unwrap()];
    let outcomes = bounded(node.ask(&asks), BATCH_BYTES_MAX + VALUE_BYTES);
    assert_eq!(outcomes.len(), asks.len());
    let answered = outcomes.iter().filter(|it| it.held_bytes() > 0).count();
    let busy = Outcome::Reply(ErrorReply::Busy.into());
    let told = outcomes.iter().filter(|&it| *it == busy).count();
    assert!(answered > 0 && told > 0 && answered + told == asks.len());
    // It was not written, whatever was answered.
    let length = node.ask(&[Command::Length { key: b"large" }]).concat();
    let bytes = i64::try_from(VALUE_BYTES).unwrap();
    assert_eq!(length[0].1, Outcome::Reply(Reply::Integer(bytes)));
}

#[test]
fn writes_whose_answers_are_large_are_applied_over_several_turns_and_all_answered() {
    let mut node = with_value();
    let value = vec![b'w'; VALUE_BYTES];
    let writes = vec![set(b"large", &value, Condition::Always, true); 80];
    let outcomes = bounded(node.ask(&writes), TURN_BYTES_MAX);
    assert_eq!(outcomes.len(), writes.len());
    assert_eq!(carried(&outcomes), writes.len() * VALUE_BYTES);
}
