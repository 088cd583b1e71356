//! Whom a running node has met. What it says was written down before it is said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use net::peer::{Cause, Manner, Refusal, Refused, Standing};
use wal::{GroupId, LogIndex, Term};

use super::{Condition, Record};
use crate::Time;
use crate::config::{ClusterOptions, NodeAddress};
use crate::io::status::quote;
use crate::shard::NewMembership;

/// What all shards of a node know of its peers.
#[derive(Debug)]
pub(in crate::io) struct Register {
    node: u32,
    directory: PathBuf,
    /// Those that it was started with.
    nodes: Vec<NodeAddress>,
    groups: u32,
    /// Drawn when the process started.
    pub(in crate::io) start: u64,
    /// Whether this node may take part in what its groups decide.
    speaks: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    record: Record,
    /// Connections that peers have dialled.
    present: Vec<Weak<Presence>>,
    /// Peers that have let this node in since it started.
    welcomed: BTreeSet<u32>,
    /// Peers that hear another process under this node's instance, since when, and when they said so last.
    copied: BTreeMap<u32, (Time, Time)>,
}

impl State {
    /// Whether enough others were met in this epoch. Until then nothing is said, so nothing is decided.
    fn may_speak(&self, node: u32) -> bool {
        let record = &self.record;
        if record.condition == Condition::Joining {
            return true; // it has no vote until it has what the others hold
        }
        let begins = record.condition == Condition::New && record.epoch == 0;
        if record.formed || (record.before.is_empty() && !begins) {
            return true;
        }
        let came = |it: &u32| *it == node || self.welcomed.contains(it);
        if record.before.contains(&node) {
            // While a majority of the epoch before has not left it, that could still acknowledge something that
            // this one does not hold.
            let left = record.before.iter().filter(|it| came(it)).count();
            return left > record.before.len() / 2;
        }
        // One that begins empty waits for all others once, or for all that hold data already: those of a majority
        // that began empty with it could otherwise decide without one that holds what they lost.
        let holds = |it: &u32| record.before.is_empty() || record.before.contains(it);
        let mut others = record.members.iter().map(|it| it.node).filter(holds);
        others.all(|other| came(&other))
    }

    /// What for, while it does not.
    fn waits_for(&self) -> &'static str {
        if self.record.before.is_empty() {
            "the data directory is empty: waiting until all other nodes have let this one in, once"
        } else {
            "the members were changed: waiting until those that stay have let this one in, once"
        }
    }
}

/// A connection that a peer has dialled.
#[derive(Debug)]
pub(in crate::io) struct Presence {
    caller: Caller,
    heard: AtomicU64,
    /// It was silent for so long that another process of the same instance was let in.
    superseded: AtomicBool,
}

impl Presence {
    /// Something came from the peer.
    pub(in crate::io) fn hear(&self, now: Time) {
        self.heard.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Whether nothing that it says counts any more.
    pub(in crate::io) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }
}

/// What a peer says of itself.
#[derive(Clone, Copy, Debug)]
pub(in crate::io) struct Caller {
    pub(in crate::io) node: u32,
    pub(in crate::io) instance: u64,
    pub(in crate::io) start: u64,
    pub(in crate::io) manner: Manner,
}

impl Register {
    pub(in crate::io) fn new(
        cluster: &ClusterOptions,
        node: u32,
        directory: PathBuf,
        record: Record,
        start: u64,
    ) -> Self {
        let state = State {
            record,
            present: Vec::new(),
            welcomed: BTreeSet::new(),
            copied: BTreeMap::new(),
        };
        Self {
            node,
            directory,
            nodes: cluster.nodes.clone(),
            groups: cluster.groups,
            start,
            speaks: AtomicBool::new(state.may_speak(node)),
            state: Mutex::new(state),
        }
    }

    /// Whether this node may take part in what its groups decide.
    pub(in crate::io) fn speaks(&self) -> bool {
        self.speaks.load(Ordering::Relaxed)
    }

    /// What for, while it does not.
    pub(in crate::io) fn waits_for(&self) -> &'static str {
        self.state().waits_for()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::io) fn standing(&self) -> Standing {
        self.state().record.standing()
    }

    pub(in crate::io) fn removed(&self) -> Vec<u32> {
        self.state().record.removed.clone()
    }

    /// How this node comes to its peers.
    pub(in crate::io) fn manner(&self) -> Manner {
        let record = &self.state().record;
        match record.condition {
            Condition::Rejoined => Manner::Rejoins,
            _ if record.formed => Manner::Usual,
            _ => Manner::Fresh,
        }
    }

    /// Whether what the log does not mention was lost.
    pub(in crate::io) fn rejoined(&self) -> bool {
        self.state().record.condition == Condition::Rejoined
    }

    /// The answer of `GET /v1/membership`.
    pub(in crate::io) fn json(&self, cluster: &str) -> String {
        let record = &self.state().record;
        let members = record.members.iter().map(|member| {
            let (node, address) = (member.node, quote(&member.address));
            format!("{{\"node\":{node},\"address\":{address}}}")
        });
        let members: Vec<String> = members.collect();
        let removed: Vec<String> = record.removed.iter().map(ToString::to_string).collect();
        let founders = match record.founders[..] {
            [] => &self.nodes,
            _ => &record.founders,
        };
        let founders = founders.iter().map(node_json).collect::<Vec<_>>().join(",");
        let noted = record.noted_lines().map(|line| quote(&line));
        let noted = noted.collect::<Vec<_>>().join(",");
        let mut listed = record.listed.clone();
        listed.retain(|node| record.has(node.id));
        let listed = listed.iter().map(node_json).collect::<Vec<_>>().join(",");
        format!(
            "{{\"cluster\":{},\"node\":{},\"instance\":\"{:016x}\",\"epoch\":{},\"origin\":\"{:016x}\",\"members\":[{}],\"removed\":[{}],\"founders\":[{founders}],\"listed\":[{listed}],\"noted\":[{noted}]}}\n",
            quote(cluster),
            self.node,
            record.instance,
            record.epoch,
            record.origin,
            members.join(","),
            removed.join(",")
        )
    }

    /// Makes durable who is in groups from now on. Gives the addresses of all members.
    pub(in crate::io) fn note(
        &self,
        memberships: &[NewMembership],
    ) -> Result<Vec<NodeAddress>, String> {
        let mut state = self.state();
        let nodes = state.record.note(memberships, &self.nodes, self.groups);
        // Who is gone is told so when it dials again.
        for presence in state.present.iter().filter_map(Weak::upgrade) {
            if !state.record.has(presence.caller.node) {
                presence.superseded.store(true, Ordering::Relaxed);
            }
        }
        let written = state.record.write(&self.directory);
        written.map_err(|error| error.to_string())?;
        Ok(nodes)
    }

    /// What a replica here knew last of the members of its group.
    pub(in crate::io) fn noted(&self, group: GroupId) -> Option<NewMembership> {
        let state = self.state();
        let (since, term, membership) = state.record.noted.get(&group)?;
        Some(NewMembership {
            group,
            since: *since,
            term: *term,
            membership: membership.clone(),
        })
    }

    /// The newest entry of a group that a survivor held when the epoch began.
    pub(in crate::io) fn newest(&self, group: GroupId) -> Option<(LogIndex, Term)> {
        self.state().record.newest.get(&group).copied()
    }

    /// The instance that a node is known with; 0 if it is not known.
    pub(in crate::io) fn known(&self, node: u32) -> u64 {
        self.state().record.known.get(&node).copied().unwrap_or(0)
    }

    /// A peer has let this node in.
    pub(in crate::io) fn welcomed(&self, by: u32) -> Result<(), Refusal> {
        let mut state = self.state();
        state.copied.remove(&by);
        if state.record.formed {
            return Ok(());
        }
        state.welcomed.insert(by);
        if state.may_speak(self.node) {
            state.record.formed = true;
            if state.record.condition == Condition::Joining {
                state.record.condition = Condition::New;
            }
            self.write(&state.record)?;
            self.speaks.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether a peer is the node that it says, as far as is known here; notes it if it is new.
    pub(in crate::io) fn meet(
        &self,
        caller: &Caller,
        now: Time,
        silence_max: Duration,
    ) -> Result<(), Refusal> {
        let &Caller {
            node: caller_id,
            instance,
            manner,
            ..
        } = caller;
        let mut state = self.state();
        let known = state.record.known.get(&caller_id).copied();
        if state.record.replaced.contains(&(caller_id, instance)) {
            let known = known.unwrap_or_default();
            return Err(Refusal::Replaced {
                caller: caller_id,
                known,
                instance,
            });
        }
        match (known, manner) {
            (Some(known), _) if known == instance => return Ok(()),
            (None, _) => {}
            (Some(known), Manner::Rejoins) => {
                if state.is_present(now, silence_max, |it| {
                    (it.node, it.instance) == (caller_id, known)
                }) {
                    let caller = caller_id;
                    return Err(Refusal::Alive { caller, known });
                }
                state.record.replaced.push((caller_id, known));
                tracing::warn!(event = "peer.replaced", peer = caller_id, from = %format_args!("{known:016x}"), to = %format_args!("{instance:016x}"), "a node whose data was lost comes back without it");
            }
            (Some(known), Manner::Fresh) => {
                let caller = caller_id;
                return Err(Refusal::Empty { caller, known });
            }
            (Some(known), _) => {
                return Err(Refusal::Instance {
                    caller: caller_id,
                    known,
                    instance,
                });
            }
        }
        state.record.known.insert(caller_id, instance);
        self.write(&state.record)
    }

    /// The same for a peer that dialled: while one process speaks for an instance, no other does.
    pub(in crate::io) fn admit(
        &self,
        caller: Caller,
        now: Time,
        silence_max: Duration,
    ) -> Result<Arc<Presence>, Refusal> {
        self.meet(&caller, now, silence_max)?;
        let mut state = self.state();
        let Caller {
            node,
            instance,
            start,
            ..
        } = caller;
        let other = |it: &Caller| (it.node, it.instance) == (node, instance) && it.start != start;
        if state.is_present(now, silence_max, other) {
            let caller = node;
            return Err(Refusal::Copied { caller, instance });
        }
        let presence = Arc::new(Presence {
            caller,
            heard: AtomicU64::new(now.as_nanos()),
            superseded: AtomicBool::new(false),
        });
        for silent in state.present.iter().filter_map(Weak::upgrade) {
            if other(&silent.caller) {
                silent.superseded.store(true, Ordering::Relaxed);
            }
        }
        state.present.push(Arc::downgrade(&presence));
        Ok(presence)
    }

    /// Why this node must end, if that is what a peer's refusal means.
    pub(in crate::io) fn verdict(
        &self,
        refused: &Refused,
        by: u32,
        now: Time,
        silence_max: Duration,
    ) -> Option<String> {
        let mut state = self.state();
        // It is of no epoch yet: to run a repair here, as who is fenced should, would not bring back what is gone.
        let is_empty = state.record.condition != Condition::Rejoined && !state.record.formed;
        let known = refused.known;
        if refused.cause == Cause::Fenced
            && is_empty
            && known != 0
            && known != state.record.instance
        {
            let caller = self.node;
            return Some(Refusal::Empty { caller, known }.to_string());
        }
        let ends = match refused.cause {
            Cause::Empty | Cause::Replaced | Cause::Removed | Cause::Fenced => true,
            // A node that has found its peers does not go because a stranger joined them.
            Cause::Origin => !state.record.formed,
            Cause::Copied => state.is_copied(by, now, silence_max),
            Cause::Other | Cause::Asked => false,
        };
        ends.then(|| refused.reason.clone())
    }

    fn write(&self, record: &Record) -> Result<(), Refusal> {
        record
            .write(&self.directory)
            .map_err(|error| Refusal::Record {
                here: self.node,
                reason: error.to_string(),
            })
    }
}

fn node_json(node: &NodeAddress) -> String {
    let NodeAddress {
        id,
        host,
        client_port,
        peer_port,
        admin_port,
    } = node;
    format!(
        "{{\"id\":{id},\"host\":{},\"client_port\":{client_port},\"peer_port\":{peer_port},\"admin_port\":{admin_port}}}",
        quote(host)
    )
}

impl State {
    /// Whether a peer hears another process for so long that this is not one that ended before this one
    /// began: those are silent.
    fn is_copied(&mut self, by: u32, now: Time, silence_max: Duration) -> bool {
        let (since, last) = self.copied.entry(by).or_insert((now, now));
        if now.since(*last) > silence_max {
            *since = now;
        }
        *last = now;
        now.since(*since) > silence_max * 2
    }

    /// Whether a connection is there that was heard lately. A machine that lost its power leaves some
    /// that are not.
    fn is_present(
        &mut self,
        now: Time,
        silence_max: Duration,
        is: impl Fn(&Caller) -> bool,
    ) -> bool {
        self.present.retain(|presence| presence.strong_count() > 0);
        let mut present = self.present.iter().filter_map(Weak::upgrade);
        present.any(|presence| {
            let heard = Time::from_nanos(presence.heard.load(Ordering::Relaxed));
            is(&presence.caller) && now.since(heard) < silence_max && !presence.is_superseded()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::identity::{Member, Place};

    fn cluster() -> ClusterOptions {
        ClusterOptions::default()
    }

    const SILENCE: Duration = Duration::from_secs(3);

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn register(name: &str) -> (Scratch, Register) {
        let name = format!("drakkar-register-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let file = path.join("lock");
        std::fs::write(&file, "").unwrap();
        let place = Place::of(&std::fs::metadata(&file).unwrap());
        let member = |node| Member {
            node,
            address: format!("n{node}:7379"),
        };
        let record = Record::new(5, place, vec![member(1), member(2)]);
        (
            Scratch(path.clone()),
            Register::new(&cluster(), 1, path, record, 9),
        )
    }

    fn caller(instance: u64, start: u64, manner: Manner) -> Caller {
        Caller {
            node: 2,
            instance,
            start,
            manner,
        }
    }

    #[test]
    fn a_node_is_known_by_its_first_instance_after_a_restart_as_well() {
        let (scratch, register) = register("known");
        let now = Time::default();
        let meet = |register: &Register, instance, manner| {
            let met = register.meet(&caller(instance, 1, manner), now, SILENCE);
            met.map_err(|refusal| refusal.cause())
        };
        assert_eq!(meet(&register, 20, Manner::Fresh), Ok(()));
        let record = Record::read(&scratch.0).unwrap().unwrap();
        let register = Register::new(&cluster(), 1, scratch.0.clone(), record, 10);
        assert_eq!(meet(&register, 20, Manner::Usual), Ok(()));
        assert_eq!(meet(&register, 21, Manner::Fresh), Err(Cause::Empty));
        assert_eq!(meet(&register, 21, Manner::Usual), Err(Cause::Other));
        assert_eq!(meet(&register, 21, Manner::Rejoins), Ok(()));
        assert_eq!(meet(&register, 20, Manner::Usual), Err(Cause::Replaced));
        assert_eq!(meet(&register, 20, Manner::Rejoins), Err(Cause::Replaced));
        let record = Record::read(&scratch.0).unwrap().unwrap();
        assert_eq!(record.known.get(&2), Some(&21));
        assert_eq!(record.replaced, [(2, 20)]);
    }

    #[test]
    fn a_node_that_begins_empty_waits_until_all_others_have_let_it_in() {
        let (scratch, register) = register("begins");
        assert!(!register.speaks());
        assert_eq!(register.manner(), Manner::Fresh);
        register.welcomed(3).unwrap();
        assert!(!register.speaks(), "3 is no member");
        register.welcomed(2).unwrap();
        assert!(register.speaks());
        assert_eq!(register.manner(), Manner::Usual);
        let record = Record::read(&scratch.0).unwrap().unwrap();
        assert!(Register::new(&cluster(), 1, scratch.0.clone(), record.clone(), 10).speaks());
        let rejoined = Record {
            condition: Condition::Rejoined,
            formed: false,
            ..record
        };
        assert!(Register::new(&cluster(), 1, scratch.0.clone(), rejoined, 10).speaks());
    }

    #[test]
    fn a_changed_membership_begins_when_a_majority_of_the_one_before_has_come_to_it() {
        let (scratch, register) = register("changed");
        let record = register.state().record.clone();
        let member = |node| Member {
            node,
            address: format!("n{node}:7379"),
        };
        // Of five, 5 goes and 6 and 7 are new.
        let changed = |condition| Record {
            condition,
            epoch: 1,
            before: vec![1, 2, 3, 4, 5],
            members: [1, 2, 3, 4, 6, 7].map(member).to_vec(),
            ..record.clone()
        };
        for condition in [Condition::New, Condition::Rejoined] {
            let register = Register::new(&cluster(), 1, scratch.0.clone(), changed(condition), 9);
            // New members are of no epoch before, and who is gone has left nothing.
            let met = [6, 7, 2].map(|by| {
                register.welcomed(by).unwrap();
                register.speaks()
            });
            assert_eq!(met, [false; 3]);
            assert!(
                !Record::read(&scratch.0)
                    .unwrap()
                    .is_some_and(|it| it.formed)
            );
            register.welcomed(3).unwrap();
            assert!(register.speaks());
            let formed = Record::read(&scratch.0).unwrap().unwrap();
            assert!(Register::new(&cluster(), 1, scratch.0.clone(), formed, 10).speaks());
            std::fs::remove_file(scratch.0.join("membership")).unwrap();
        }
        // A new one waits for all who stay: any of them may know that it was there before.
        let register = Register::new(&cluster(), 6, scratch.0.clone(), changed(Condition::New), 9);
        let met = [1, 2, 3, 7, 4].map(|by| {
            register.welcomed(by).unwrap();
            register.speaks()
        });
        assert_eq!(met, [false, false, false, false, true]);
    }

    #[test]
    fn a_process_ends_that_is_told_of_another_for_longer_than_one_that_ended_is_remembered() {
        let (_scratch, register) = register("copied");
        let refused = Refused {
            cause: Cause::Copied,
            standing: Standing::default(),
            known: 5,
            reason: "copied".into(),
        };
        let ends = |by, at: Duration| {
            let now = Time::default().after(at);
            register.verdict(&refused, by, now, SILENCE).is_some()
        };
        let (step, end) = (SILENCE / 2, SILENCE * 2);
        let told = (0..=4).map(|step_number| ends(2, step * step_number));
        assert_eq!(told.filter(|&ended| ended).count(), 0);
        assert!(!ends(3, end + step), "that one says it for the first time");
        assert!(ends(2, end + step));
        // It was not said for long, or the node was let in meanwhile: what comes is something new.
        assert!(!ends(2, end * 2));
        assert!(!ends(2, end * 2 + SILENCE));
        register.welcomed(2).unwrap();
        assert!(!ends(2, end * 3));
    }

    #[test]
    fn an_empty_directory_is_told_that_it_is_empty_in_whatever_epoch_the_others_are() {
        let (_scratch, register) = register("wiped");
        let told = |known| {
            let refused = Refused {
                cause: Cause::Fenced,
                standing: Standing::default(),
                known,
                reason: "fenced".into(),
            };
            register
                .verdict(&refused, 2, Time::default(), SILENCE)
                .unwrap()
        };
        assert!(
            told(7).contains("this data directory is empty"),
            "{}",
            told(7)
        );
        // Nobody has seen it before, or it is what they have seen: a repair was run without it.
        assert_eq!([told(0), told(5)], ["fenced", "fenced"]);
        register.welcomed(2).unwrap();
        assert_eq!(told(7), "fenced");
    }

    #[test]
    fn one_process_at_a_time_speaks_for_an_instance() {
        let (_scratch, register) = register("present");
        let now = Time::default();
        let first = register.admit(caller(20, 1, Manner::Usual), now, SILENCE);
        let first = first.unwrap();
        let again = register.admit(caller(20, 1, Manner::Usual), now, SILENCE);
        assert!(again.is_ok(), "another connection of the same process");
        let copy = register.admit(caller(20, 2, Manner::Usual), now, SILENCE);
        let copy = copy.unwrap_err().to_string();
        assert!(copy.contains("copied data directory"), "{copy}");
        let heir = register.admit(caller(21, 3, Manner::Rejoins), now, SILENCE);
        assert!(matches!(heir, Err(Refusal::Alive { .. })));
        // Long silence is no presence, and what was silent for so long does not come to life again.
        let later = now.after(SILENCE);
        first.hear(later);
        let copy = register.admit(caller(20, 2, Manner::Usual), later, SILENCE);
        assert!(copy.is_err());
        assert!(!first.is_superseded());
        let much_later = later.after(SILENCE);
        let copy = register.admit(caller(20, 2, Manner::Usual), much_later, SILENCE);
        let copy = copy.unwrap();
        assert!(first.is_superseded() && again.unwrap().is_superseded());
        first.hear(much_later);
        assert!(!copy.is_superseded());
        // Neither is a connection that has ended.
        let third = register.admit(caller(20, 3, Manner::Usual), much_later, SILENCE);
        assert!(third.is_err());
        drop(copy);
        let third = register.admit(caller(20, 3, Manner::Usual), much_later, SILENCE);
        assert!(third.is_ok());
    }
}
