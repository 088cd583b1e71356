//! `drakkar repair drive`: a repair on all of its hosts, from one place. What is done on each is what an
//! operator would type there, and nothing is kept here: to run it again is to go on.

use clap::{Args, Subcommand};
use engine::io::identity::Member;
use engine::io::import::{parse_members, sorted};
use serde_json::Value;

use super::RepairError;
use super::hosts::{Host, Hosts};
use super::plan;
use super::plans::Plan;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// `repair shrink` on all survivors, which are the nodes of --host. They are stopped before.
    Shrink(Shrink),
    /// `repair members` on all members that there will be, which are the nodes of --host. All nodes are stopped
    /// before, and the configurations list the members.
    Members(Members),
    /// `snapshot import` on all members, with the export at the same path on each of them. They are stopped
    /// before, and their configurations list the members and no others.
    Import(Import),
}

#[derive(Args)]
pub(crate) struct Shrink {
    #[command(flatten)]
    hosts: Hosts,
    /// Goes on although a majority of the old members answers. What they acknowledge is lost.
    #[arg(long)]
    ignore_live_quorum: bool,
}

#[derive(Args)]
pub(crate) struct Members {
    #[command(flatten)]
    hosts: Hosts,
    /// All members there will be: node ids and peer addresses, ID=HOST:PORT.
    #[arg(long, value_delimiter = ',', required = true)]
    members: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Import {
    #[command(flatten)]
    hosts: Hosts,
    #[command(flatten)]
    wanted: plan::Wanted,
}

pub(super) fn drive(verb: &Verb) -> Result<String, RepairError> {
    match verb {
        Verb::Shrink(order) => shrink(order),
        Verb::Members(order) => members(order),
        Verb::Import(order) => import(order),
    }
}

fn shrink(order: &Shrink) -> Result<String, RepairError> {
    let hosts = order.hosts.sorted()?;
    let survivors: Vec<String> = hosts.iter().map(|host| host.node.to_string()).collect();
    let ignore = match order.ignore_live_quorum {
        true => " --ignore-live-quorum",
        false => "",
    };
    let command = |host: &Host, more: &str| {
        format!(
            "drakkar repair shrink --config {} --survivors {}{ignore} {more}",
            host.config(),
            survivors.join(",")
        )
    };
    in_turn(&order.hosts, &hosts, &command)
}

fn members(order: &Members) -> Result<String, RepairError> {
    let hosts = order.hosts.sorted()?;
    let members = parse_members(order.members.iter().map(String::as_str))?;
    let members = sorted(&members)?;
    check_hosts(&members, &hosts)?;
    let members: Vec<String> = members.iter().map(ToString::to_string).collect();
    let command = |host: &Host, more: &str| {
        let (config, members) = (host.config(), members.join(","));
        format!("drakkar repair members --config {config} --members {members} {more}")
    };
    in_turn(&order.hosts, &hosts, &command)
}

/// The list of members has a host for each, and no others.
fn check_hosts(members: &[Member], hosts: &[&Host]) -> Result<(), RepairError> {
    let nodes: Vec<u32> = members.iter().map(|member| member.node).collect();
    let named: Vec<u32> = hosts.iter().map(|host| host.node).collect();
    if nodes != named {
        let why = format!("the list has the nodes {nodes:?}, --host has {named:?}");
        return Err(RepairError::InvalidMembers { why });
    }
    Ok(())
}

/// Asks all for their plans, and has each carry them out where that was not done before.
fn in_turn(
    all: &Hosts,
    hosts: &[&Host],
    command: &dyn Fn(&Host, &str) -> String,
) -> Result<String, RepairError> {
    let (mut plans, mut left) = (String::new(), Vec::new());
    for &host in hosts {
        let plan = command(host, "--write-plan -");
        let said = all.look(host, &plan, "")?;
        let value: Option<Value> = serde_json::from_str(&said).ok();
        let plan = value.and_then(|value| Plan::parse(&value));
        let plan = plan.filter(|plan| plan.node == host.node);
        let plan = plan.ok_or(RepairError::NoPlan { node: host.node })?;
        if !plan.done {
            left.push((host, plan.newest.is_empty()));
        }
        plans.push_str(&said);
    }
    // One that holds data can tell more than one that is new.
    if let Some((first, _)) = left.iter().min_by_key(|(_, is_new)| *is_new) {
        let told = command(first, "--plans -");
        print!("{}\n\n", all.look(first, &told, &plans)?.trim_end());
    }
    let steps = left
        .into_iter()
        .map(|(host, _)| (host, command(host, "--plans - --apply")));
    let steps = all.steps(steps.collect(), plans);
    steps.drive(|_| Ok(()))
}

fn import(order: &Import) -> Result<String, RepairError> {
    let hosts = order.hosts.sorted()?;
    let plan = plan::Plan::make(&order.wanted)?;
    let members = &plan.prospect.members;
    check_hosts(members, &hosts)?;
    println!("{}\n", plan.told());
    let steps = hosts.into_iter().zip(members).map(|(host, member)| {
        let command = plan.command(member, &host.config());
        (host, format!("{command} --json"))
    });
    let steps = order.hosts.steps(steps.collect(), String::new());
    let expected = plan.prospect.imported;
    steps.drive(|said| {
        let value: Value = serde_json::from_str(said).unwrap_or_default();
        let same = value["snapshot"] == format!("{:016x}", expected.snapshot)
            && value["members"] == format!("{:016x}", expected.members)
            && value["epoch"] == expected.epoch;
        match same {
            true => Ok(()),
            false => Err(format!(
                "another export or list was imported there: {}",
                said.trim()
            )),
        }
    })
}
