//! Replicas that forgot votes and terms: what they must not believe, message by message, and that
//! any minority of them finds out.

use engine::raft::{Change, ChangeError, Role};
use wal::{ReplicaId, Term};

use super::group::{Group, HEARTBEAT};

/// 1 is elected by 2, which forgets that at once, and 3, which votes after it told its term.
#[test]
fn what_was_told_before_a_candidate_is_known_to_be_gone_is_asked_anew() {
    let mut group = Group::new(5);
    group.campaign(1);
    group.deliver(1, 2);
    group.deliver(2, 1);
    group.forgets(2);
    group.ask(2);
    group.consult(2, &[3, 4, 5]);

    group.deliver(1, 3);
    let (_, _, vote) = group.take(3, 1).remove(0);
    let now = group.now;
    let (raft, said) = group.replica(1).raft();
    raft.step(now, ReplicaId::from_raw(3), vote, said);
    assert_eq!(group.role(1), Role::Leader);
    group.forgets(1);
    group.deliver(2, 1);
    group.deliver(1, 2);
    assert!(group.promises_lost(2), "4 and 5 never heard of term 1");

    group.consult(2, &[3, 4, 5]);
    assert!(!group.promises_lost(2));
    assert_eq!(group.term(2), Term::from_raw(1));
}

/// 2 votes for 1 in term 1, and both forget it.
#[test]
fn a_vote_for_an_earlier_life_of_the_candidate_counts_no_more() {
    let mut group = Group::new(5);
    group.campaign(1);
    group.deliver(1, 2);
    let late = group.take(2, 1);
    group.network.clear();
    group.forgets(1);
    group.forgets(2);
    for id in [1, 2] {
        group.ask(id);
        group.consult(id, &[1, 2, 3, 4, 5]);
        assert!(!group.promises_lost(id));
        assert_eq!(group.term(id), Term::ZERO, "nobody was elected");
    }

    group.campaign(5);
    for voter in [2, 4] {
        group.deliver(5, voter);
        group.deliver(voter, 5);
    }
    assert_eq!(
        (group.role(5), group.term(5)),
        (Role::Leader, Term::from_raw(1))
    );
    group.campaign(1);
    group.deliver(1, 3);
    group.deliver(3, 1);
    group.give(late);
    assert_eq!(
        (group.role(1), group.term(1)),
        (Role::Candidate, Term::from_raw(1)),
        "1 and 3 are no majority"
    );
}

/// 2 votes in term 1, forgets it, and is given what others told before that.
#[test]
fn answers_to_an_earlier_start_tell_nothing() {
    let mut group = Group::new(3);
    group.forgets(2);
    group.ask(2);
    for other in [1, 3] {
        group.deliver(2, other);
    }
    let late = [group.take(1, 2), group.take(3, 2)].concat();
    group.ask(2);
    group.consult(2, &[1, 3]);
    assert!(!group.promises_lost(2));

    group.campaign(1);
    group.deliver(1, 2);
    group.deliver(2, 1);
    assert_eq!(group.role(1), Role::Leader);
    group.forgets(2);
    group.ask(2);
    group.network.clear();
    for _ in 0..3 {
        group.give(late.clone());
    }
    assert!(group.promises_lost(2), "that was before the vote");
}

#[test]
fn any_minority_that_forgot_finds_out_and_a_majority_does_not() {
    for voters in 1..=5 {
        for forgetful in 0..1_u32 << voters {
            let mut group = Group::new(voters);
            assert!(group.recovers(), "{voters} voters find no leader");
            for id in (1..=voters).filter(|id| forgetful >> (id - 1) & 1 == 1) {
                group.forgets(id);
            }
            let enough = voters == 1 || forgetful.count_ones() <= voters / 2;
            let what = format!("{forgetful:#b} of {voters} voters forgot");
            assert_eq!(group.recovers(), enough, "{what}");
        }
    }
}

/// While two repair, each starts again in the middle of it.
#[test]
fn two_that_forgot_find_out_although_they_start_again_meanwhile() {
    for steps in 0..6 {
        let mut group = Group::new(5);
        assert!(group.recovers(), "no leader");
        group.forgets(4);
        group.forgets(5);
        for step in 0..steps {
            let id = 4 + step % 2;
            group.ask(id);
            let others: Vec<u32> = (1..=5).filter(|&other| other != id).collect();
            others.iter().for_each(|&other| group.deliver(id, other));
            let heard = others.len().min(step as usize);
            let heard = &others[..heard];
            heard.iter().for_each(|&other| group.deliver(other, id));
            let now = group.now;
            let restarted = group.replica(9 - id);
            restarted.crash(usize::from(step % 3 == 0));
            restarted.start(now);
        }
        assert!(group.recovers(), "after {steps} steps");
    }
}

/// The leader makes a voter of observer 4, is heard by that one alone, and is gone before anything of it is on
/// its disk, not even beside the log. Then 4 stands by that, with a vote that is forgotten.
#[test]
fn a_vote_for_one_that_was_an_observer_as_far_as_others_know_is_not_given_again() {
    let mut group = Group::with_observers(3, 1);
    group.campaign(3);
    for _ in 0..2 {
        group.now = group.now.after(HEARTBEAT);
        let now = group.now;
        let (raft, said) = group.replica(3).raft();
        raft.tick(now, said);
        group.settle(3);
        group.consult(3, &[1, 2, 4]);
    }
    assert_eq!(group.role(3), Role::Leader);
    let (raft, said) = group.replica(3).raft();
    let change = Change::Promote(ReplicaId::from_raw(4));
    assert_eq!(raft.change(&change, said), Err(ChangeError::Asked));
    group.settle(3);
    group.consult(3, &[1, 2, 4]);
    let (raft, said) = group.replica(3).raft();
    raft.change(&change, said).expect("it holds all there is");
    raft.replicate(false, said);
    // Nothing is written, but this is said.
    for (to, message) in group.replica(3).speak() {
        group.network.push((3, to.to_raw(), message));
    }
    group.deliver(3, 4);
    group.network.clear();
    let now = group.now;
    group.replica(3).crash(0);
    group.replica(3).disk.noted = None;
    group.replica(3).start(now);

    group.campaign(4);
    group.deliver(4, 1);
    group.deliver(1, 4);
    assert_eq!(group.role(4), Role::Candidate, "it needs another vote");
    let late = group.take(4, 2);
    group.network.clear();
    group.forgets(1);
    for _ in 0..3 {
        group.ask(1);
        group.consult(1, &[2, 3]);
    }
    assert!(group.promises_lost(1), "4 was not heard");
    for _ in 0..3 {
        group.ask(1);
        group.consult(1, &[2, 3, 4]);
    }
    assert!(!group.promises_lost(1));
    group.give(late);
    group.deliver(2, 4);
    assert_eq!(group.role(4), Role::Leader);
    group.campaign(3);
    group.consult(3, &[1]);
    assert_ne!(group.role(3), Role::Leader, "two leaders of a term");
}
