//! `drakkar repair drive`: a repair on all of its hosts, from one place. What is done on each is what an
//! operator would type there, and nothing is kept here: to run it again is to go on.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::RepairError;
use super::hosts::{Host, Hosts};
use super::newest::Plan;
use super::plan;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// `repair shrink` on all survivors, which are the nodes of --host. They are stopped before.
    Shrink(Shrink),
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
pub(crate) struct Import {
    #[command(flatten)]
    hosts: Hosts,
    #[command(flatten)]
    wanted: plan::Wanted,
}

pub(super) fn drive(verb: &Verb) -> Result<String, RepairError> {
    match verb {
        Verb::Shrink(order) => shrink(order),
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
    let (mut plans, mut left) = (String::new(), Vec::new());
    for &host in &hosts {
        let plan = command(host, "--write-plan -");
        let said = order.hosts.look(host, &plan, "")?;
        let value: Option<Value> = serde_json::from_str(&said).ok();
        let plan = value.and_then(|value| Plan::parse(&value));
        let plan = plan.filter(|plan| plan.node == host.node);
        let plan = plan.ok_or(RepairError::NoPlan { node: host.node })?;
        if !plan.done {
            left.push(host);
        }
        plans.push_str(&said);
    }
    if let Some(first) = left.first() {
        let all = command(first, "--plans -");
        print!("{}\n\n", order.hosts.look(first, &all, &plans)?.trim_end());
    }
    let steps = left
        .into_iter()
        .map(|host| (host, command(host, "--plans - --apply")));
    let steps = order.hosts.steps(steps.collect(), plans);
    steps.drive(|_| Ok(()))
}

fn import(order: &Import) -> Result<String, RepairError> {
    let hosts = order.hosts.sorted()?;
    let plan = plan::Plan::make(&order.wanted)?;
    let members = &plan.prospect.members;
    let nodes: Vec<u32> = members.iter().map(|member| member.node).collect();
    let named: Vec<u32> = hosts.iter().map(|host| host.node).collect();
    if nodes != named {
        let why = format!("the list has the nodes {nodes:?}, --host has {named:?}");
        return Err(RepairError::InvalidMembers { why });
    }
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
