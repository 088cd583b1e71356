//! Clients: one call at a time each, on a few keys, with values that are never used twice.

use std::rc::Rc;

use net::command::{Condition, Expiry, List};
use net::{Command, ErrorReply, Reply, SLOTS, Slot};

use crate::faults::Plan;
use crate::linearizability::{Answer, Call, Operation, Value, Verdict, judge};
use crate::rng::Rng;

/// What is asked of a node.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// A call whose answer is judged.
    Call(Call),
    /// A write whose answer depends on clocks: only the replicas are compared afterwards.
    Expiring { value: Value, after_ms: u64 },
}

/// A request as it travels.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) group: u32,
    pub(crate) key: Rc<[u8]>,
    pub(crate) ask: Ask,
}

impl Request {
    /// Hands the command to `run`.
    pub(crate) fn command(&self, run: impl FnOnce(Command<'_>)) {
        let key = &*self.key;
        let keys = [key];
        let set = |value, condition, get, expiry| Command::Set {
            key,
            value,
            expiry,
            condition,
            get,
        };
        run(match &self.ask {
            Ask::Call(Call::Get) => Command::Get { key },
            Ask::Call(Call::Set(value)) => set(value, Condition::Always, false, Expiry::Never),
            Ask::Call(Call::SetAbsent(value)) => {
                set(value, Condition::Absent, false, Expiry::Never)
            }
            Ask::Call(Call::Swap(value)) => set(value, Condition::Always, true, Expiry::Never),
            Ask::Call(Call::Delete) => Command::Delete {
                keys: List::Arguments(&keys),
            },
            Ask::Call(Call::Increment(delta)) => Command::Increment { key, delta: *delta },
            Ask::Call(Call::Append(value)) => Command::Append {
                key,
                value,
                bytes_max: u64::MAX,
            },
            Ask::Call(Call::Length) => Command::Length { key },
            Ask::Expiring { value, after_ms } => {
                set(value, Condition::Always, false, Expiry::After(*after_ms))
            }
        });
    }

    /// Whether it changes nothing.
    pub(crate) fn only_reads(&self) -> bool {
        matches!(&self.ask, Ask::Call(call) if call.only_reads())
    }
}

/// What a reply says; `None` if no server should say that.
pub(crate) fn answer(reply: &Reply) -> Option<Answer> {
    Some(match reply {
        Reply::Ok => Answer::Done,
        Reply::Integer(number) => Answer::Number(*number),
        Reply::Bulk(bytes) => Answer::Value(Some(bytes.as_slice().into())),
        Reply::Nil => Answer::Value(None),
        Reply::Error(ErrorReply::NotAnInteger | ErrorReply::IncrementOverflow) => Answer::Refused,
        _ => return None,
    })
}

/// One client: what it waits for, and whom it believes to lead.
pub(crate) struct Client {
    pub(crate) rng: Rng,
    /// Believed leader per group.
    pub(crate) believed: Vec<usize>,
    pub(crate) waiting: Option<Waiting>,
    /// Attempts so far: names the one that an answer belongs to.
    pub(crate) attempts: u64,
    /// What it still has to get done, last first; `None` for one that does anything, for ever.
    pub(crate) script: Option<Vec<Request>>,
}

/// A request that has no answer yet.
pub(crate) struct Waiting {
    pub(crate) request: Rc<Request>,
    pub(crate) attempt: u64,
    /// Where the answer goes: generation of the key and position in its history.
    pub(crate) place: Option<(usize, usize)>,
    /// From this moment on the client does not try again.
    pub(crate) patience: u64,
}

impl Client {
    /// A client that believes in a node.
    pub(crate) fn new(rng: Rng, groups: u32, node: usize, script: Option<Vec<Request>>) -> Self {
        Self {
            rng,
            believed: vec![node; groups as usize],
            waiting: None,
            attempts: 0,
            script,
        }
    }

    /// Where to send the next attempt for `group`.
    pub(crate) fn target(&mut self, plan: &Plan, members: &[usize], group: u32) -> usize {
        if self.rng.chance(plan.strays) {
            *self.rng.pick(members)
        } else {
            self.believed[group as usize]
        }
    }
}

/// Everything clients did to the keys, and what they may do next.
pub(crate) struct Histories {
    /// Current key per group and place.
    keys: Vec<Vec<Key>>,
    /// Histories by generation: every name is used for a while, then never again.
    histories: Vec<History>,
    values: u64,
}

struct Key {
    /// Its slot decides the group.
    tag: String,
    counts: bool,
    history: usize,
}

struct History {
    name: Rc<[u8]>,
    operations: Vec<Operation>,
    open: u64,
    unknown: u64,
    retired: bool,
}

/// A history that nobody could have served.
pub(crate) struct Stale {
    pub(crate) key: String,
    pub(crate) operation: Operation,
    pub(crate) around: Vec<Operation>,
}

const KEYS_PER_GROUP: usize = 3;
const OPERATIONS_PER_KEY: usize = 150;
const UNKNOWN_PER_KEY: u64 = 6;

impl Histories {
    /// A few keys in each group.
    pub(crate) fn new(groups: u32) -> Self {
        let mut new = Self {
            keys: Vec::new(),
            histories: Vec::new(),
            values: 0,
        };
        for group in 0..groups {
            let mut tags = (0u32..).map(|number| format!("k{number}"));
            let keys = (0..KEYS_PER_GROUP).map(|place| {
                let tag = tags.find(|tag| owns(group, tag.as_bytes()));
                let tag = tag.expect("every group owns slots");
                let history = new.histories.len();
                new.histories.push(History::named(&tag, history));
                Key {
                    tag,
                    counts: place == 0,
                    history,
                }
            });
            let keys = keys.collect();
            new.keys.push(keys);
        }
        new
    }

    /// What a client does next.
    pub(crate) fn draw(&mut self, rng: &mut Rng, plan: &Plan) -> (Request, Option<usize>) {
        let group = u32::try_from(rng.below(u64::from(plan.groups))).expect("below a u32");
        let place = rng.index(KEYS_PER_GROUP);
        let key = &mut self.keys[group as usize][place];
        let history = &mut self.histories[key.history];
        if history.operations.len() >= OPERATIONS_PER_KEY || history.unknown >= UNKNOWN_PER_KEY {
            history.retired = true;
            key.history = self.histories.len();
            self.histories.push(History::named(&key.tag, key.history));
        }
        let key = &self.keys[group as usize][place];
        let name = self.histories[key.history].name.clone();
        if rng.chance(50_000) {
            let value = value(&mut self.values, rng, plan, false);
            let name = format!("{{{}}}expires", key.tag);
            let ask = Ask::Expiring {
                value,
                after_ms: rng.between(1, 5_000),
            };
            return (
                Request {
                    group,
                    key: name.as_bytes().into(),
                    ask,
                },
                None,
            );
        }
        let counts = key.counts;
        let mut fresh = |rng: &mut Rng| value(&mut self.values, rng, plan, counts);
        let call = if rng.chance(plan.reads) {
            if counts || rng.chance(800_000) {
                Call::Get
            } else {
                Call::Length
            }
        } else {
            match (counts, rng.below(10)) {
                (_, 0) => Call::Delete,
                (_, 1) => Call::Swap(fresh(rng)),
                (true, 2) => Call::Set(fresh(rng)),
                (true, _) => Call::Increment(*rng.pick(&[1, 1, 7, -3])),
                (false, 2) => Call::SetAbsent(fresh(rng)),
                (false, 3 | 4) => Call::Append(fresh(rng)),
                (false, _) => Call::Set(fresh(rng)),
            }
        };
        (
            Request {
                group,
                key: name,
                ask: Ask::Call(call),
            },
            Some(key.history),
        )
    }

    /// What was written may be gone: no key is used any more.
    pub(crate) fn begin_anew(&mut self) {
        for key in self.keys.iter_mut().flatten() {
            key.history = self.histories.len();
            self.histories.push(History::named(&key.tag, key.history));
        }
    }

    /// What a judge asks of `group` once the faults are over, last first: a write, a read of it, and
    /// a read of every key in use.
    pub(crate) fn inspection(&mut self, group: u32) -> Vec<(Request, usize)> {
        let mut asked = Vec::new();
        for place in 0..KEYS_PER_GROUP {
            let history = self.keys[group as usize][place].history;
            asked.push((Call::Get, history));
        }
        self.values += 1;
        let history = self.keys[group as usize][KEYS_PER_GROUP - 1].history;
        let value = format!("judge{}", self.values);
        asked.push((Call::Get, history));
        asked.push((Call::Set(value.as_bytes().into()), history));
        let request = |(call, history): (Call, usize)| {
            let key = self.histories[history].name.clone();
            (
                Request {
                    group,
                    key,
                    ask: Ask::Call(call),
                },
                history,
            )
        };
        asked.into_iter().map(request).collect()
    }

    /// The history that a key's name belongs to.
    pub(crate) fn named(&self, name: &[u8]) -> Option<usize> {
        self.histories
            .iter()
            .rposition(|history| *history.name == *name)
    }

    /// Notes that a call was made; the position is its place in the history.
    pub(crate) fn called(&mut self, history: usize, call: Call, moment: u64) -> usize {
        let history = &mut self.histories[history];
        history.open += 1;
        history.operations.push(Operation {
            call,
            called: moment,
            returned: None,
        });
        history.operations.len() - 1
    }

    /// Notes the answer.
    pub(crate) fn answered(
        &mut self,
        (history, position): (usize, usize),
        moment: u64,
        answer: Answer,
    ) {
        let history = &mut self.histories[history];
        history.open -= 1;
        history.operations[position].returned = Some((moment, answer));
    }

    /// Notes that nobody will ever know.
    pub(crate) fn lost(&mut self, (history, position): (usize, usize)) {
        let history = &mut self.histories[history];
        history.open -= 1;
        history.unknown += u64::from(!history.operations[position].call.only_reads());
    }

    /// Judges every history (`all`), or those that will not grow any more. Returns how many could
    /// not be decided.
    pub(crate) fn judge(&mut self, all: bool) -> Result<u64, Box<Stale>> {
        let mut undecided = 0;
        for history in &mut self.histories {
            if !(all || history.retired && history.open == 0) {
                continue;
            }
            match judge(&history.operations) {
                Verdict::Linearizable => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Violation(position) => {
                    let around = position.saturating_sub(12)..history.operations.len();
                    let around = history.operations[around].iter().take(16).cloned();
                    return Err(Box::new(Stale {
                        key: String::from_utf8_lossy(&history.name).into_owned(),
                        operation: history.operations[position].clone(),
                        around: around.collect(),
                    }));
                }
            }
            history.operations.clear();
            history.retired = false;
        }
        Ok(undecided)
    }
}

impl History {
    fn named(tag: &str, generation: usize) -> Self {
        Self {
            name: format!("{{{tag}}}{generation}").as_bytes().into(),
            operations: Vec::new(),
            open: 0,
            unknown: 0,
            retired: false,
        }
    }
}

/// A value that nobody wrote before; digits only for a key that counts.
fn value(values: &mut u64, rng: &mut Rng, plan: &Plan, counts: bool) -> Value {
    *values += 1;
    if counts {
        return (*values * 1_000_000).to_string().into_bytes().into();
    }
    let length = rng.magnitude(8, plan.value_bytes_max.max(8));
    let length = usize::try_from(length).expect("small");
    let mut value = format!("v{values}:").into_bytes();
    value.resize(value.len() + length, b'.');
    value.into()
}

/// The slots of each group: enough for keys to share some and to be alone in others. A group that owned
/// thousands would only be walked through slots that hold nothing.
const SLOTS_PER_GROUP: u16 = 128;

/// First and last slot of a group.
pub(crate) fn slots(group: u32) -> (u16, u16) {
    let group = u16::try_from(group).expect("few groups");
    let first = group * SLOTS_PER_GROUP;
    let last = first + SLOTS_PER_GROUP - 1;
    assert!(last < SLOTS, "there are no slots for group {group}");
    (first, last)
}

/// Whether the group owns the slot of this key.
fn owns(group: u32, key: &[u8]) -> bool {
    let (first, last) = slots(group);
    (first..=last).contains(&Slot::of(key).number())
}
