//! `drakkar member`: nodes that come and go while the cluster serves.
//!
//! Each group changes by itself, in steps that its leader takes (`engine/src/raft/membership.rs`). What is done of a
//! change is read from the nodes: the same command, run again, goes on where another ended.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use engine::config::{NodeAddress, VotersWarning};
use engine::io::identity::{Joined, Member};
use serde_json::Value;

use crate::endpoints::Endpoints;
use crate::status::{self, columns};
use crate::{exit, http, join};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// Tries between two lines that say what is waited for.
const TRIES_A_LINE: u128 = 25;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Shows who votes and who holds data in each group.
    List {
        #[command(flatten)]
        endpoints: Endpoints,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lets a new node in: it holds data first, and votes once it has nearly all. Start it with `drakkar serve
    /// --join` meanwhile.
    Add(Add),
    /// Lets a node go, for good: its id never comes back.
    Remove {
        /// The node's id.
        #[arg(long)]
        node: u32,
        #[command(flatten)]
        asked: Asked,
    },
}

#[derive(Args)]
pub(crate) struct Add {
    /// An id that no node has had.
    #[arg(long)]
    node: u32,
    /// Name or address that peers and clients connect to.
    #[arg(long)]
    host: String,
    /// Of its first shard, as in its configuration.
    #[arg(long)]
    client_port: u16,
    /// Of its first shard, as in its configuration.
    #[arg(long)]
    peer_port: u16,
    /// Zero: off.
    #[arg(long, default_value_t = 0)]
    admin_port: u16,
    /// It only holds data.
    #[arg(long)]
    observer: bool,
    /// Lets this node go when the new one has its place.
    #[arg(long, value_name = "NODE", conflicts_with = "observer")]
    replaces: Option<u32>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    endpoints: Endpoints,
    /// For how long each step is tried, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
}

/// Why a change did not come to its end.
#[derive(Debug)]
struct Failure {
    code: u8,
    why: String,
}

pub(crate) fn run(verb: &Verb) -> ExitCode {
    let done = match verb {
        Verb::List { endpoints, json } => list(&endpoints.endpoint, *json),
        Verb::Add(add) => self::add(add),
        Verb::Remove { node, asked } => remove(&Driver::asked(asked), *node),
    };
    match done {
        Ok(led) => {
            for warning in warnings(&led) {
                eprintln!("drakkar: warning: {warning}");
            }
            ExitCode::SUCCESS
        }
        Err(Failure { code, why }) => exit::complain(code, &why),
    }
}

/// Changes groups one after the other.
struct Driver {
    endpoints: Vec<String>,
    /// Those of further members, as the first say: they may lead as well.
    learned: Vec<String>,
    patience: Duration,
}

/// Who is a member of any group, and who was, as the nodes say that answer.
#[derive(Default)]
struct Known {
    members: Vec<Member>,
    removed: Vec<u32>,
}

impl Known {
    /// Refuses what would only be noticed when half of it is done, or never.
    fn check(&self, add: &Add) -> Result<(), Failure> {
        let (node, asked) = (add.node, format!("{}:{}", add.host, add.peer_port));
        let is_member = |node: u32| self.members.iter().any(|it| it.node == node);
        let elsewhere = |it: &&Member| it.node == node && it.address != asked;
        let (code, why) = if add.replaces == Some(node) {
            let why = format!("node {node} cannot take its own place: a new node has a new id");
            (exit::USAGE, why)
        } else if let Some(other) = add
            .replaces
            .filter(|it| !is_member(*it) && !self.removed.contains(it))
        {
            (exit::REFUSED, format!("node {other} is no member"))
        } else if let Some(Member { address, .. }) = self.members.iter().find(elsewhere) {
            let why = format!("node {node} is a member at {address}, not at {asked}");
            (exit::REFUSED, why)
        } else {
            return Ok(());
        };
        Err(Failure { code, why })
    }
}

/// A group, as the node says that leads it.
#[derive(Debug)]
struct Led {
    group: u64,
    endpoint: String,
    status: Value,
}

impl Driver {
    fn new(endpoints: &[String], patience: Duration) -> Self {
        let endpoints = endpoints.to_vec();
        let told = endpoints.iter().filter_map(|it| join::membership(it).ok());
        let learned: BTreeSet<String> = told.flat_map(|(_, joined)| admins(&joined)).collect();
        let learned = learned.into_iter().filter(|it| !endpoints.contains(it));
        let learned = learned.collect();
        Self {
            endpoints,
            learned,
            patience,
        }
    }

    fn asked(asked: &Asked) -> Self {
        let patience = Duration::from_secs(asked.timeout);
        Self::new(&asked.endpoints.endpoint, patience)
    }

    /// The groups that somebody leads who answers, in the order of their numbers.
    fn led(&self) -> Result<Vec<Led>, Failure> {
        let mut led: Vec<Led> = Vec::new();
        let (mut silent, mut all) = (Vec::new(), 0);
        let named = self.endpoints.len();
        for (at, endpoint) in self.endpoints.iter().chain(&self.learned).enumerate() {
            if at == named && (silent.len() == named || led.len() == all) {
                break;
            }
            let answer = match status::ask(endpoint) {
                Ok(answer) => answer,
                Err(why) => {
                    silent.push(format!("{endpoint}: {why}"));
                    continue;
                }
            };
            let groups = answer["groups"].as_array().cloned().unwrap_or_default();
            all = all.max(groups.len());
            for status in groups.into_iter().filter(|it| it["role"] == "leader") {
                let group = status["group"].as_u64().unwrap_or_default();
                let term = |status: &Value| status["term"].as_u64();
                led.retain(|it| it.group != group || term(&it.status) > term(&status));
                if led.iter().all(|it| it.group != group) {
                    let endpoint = endpoint.clone();
                    led.push(Led {
                        group,
                        endpoint,
                        status,
                    });
                }
            }
        }
        led.sort_by_key(|it| it.group);
        if all > 0 {
            return Ok(led);
        }
        let silent = silent.join("; ");
        Err(Failure {
            code: exit::NOT_FOUND,
            why: format!("no node answered: name their admin ports with --endpoint ({silent})"),
        })
    }

    /// Who is a member, and who was.
    fn known(&self) -> Result<Known, Failure> {
        self.led()?;
        let mut known = Known::default();
        for endpoint in &self.endpoints {
            if let Ok((_, joined)) = join::membership(endpoint) {
                known.members.extend(joined.members);
                known.removed.extend(joined.removed);
            }
        }
        Ok(known)
    }

    /// How many groups there are.
    fn groups(&self) -> Result<Vec<u64>, Failure> {
        self.led()?;
        let answers = self.endpoints.iter().filter_map(|it| status::ask(it).ok());
        let groups = answers.filter_map(|it| Some(it["groups"].as_array()?.len() as u64));
        Ok((0..groups.max().unwrap_or_default()).collect())
    }

    /// Has a group take a step, and waits until it is committed.
    fn step(&self, group: u64, change: &str) -> Result<(), Failure> {
        let tries = self.patience.as_nanos() / PAUSE.as_nanos();
        for tried in 0.. {
            let why = match self.attempt(group, change)? {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if tried >= tries {
                return Err(Failure {
                    code: exit::TIMEOUT,
                    why: format!("group {group}: {why}; run the same again to go on"),
                });
            }
            if tried % TRIES_A_LINE == TRIES_A_LINE - 1 {
                eprintln!("group {group}: waiting: {why}");
            }
            thread::sleep(PAUSE);
        }
        unreachable!("it counts until the patience is over")
    }

    /// Tries once. What stands in the way now may be gone soon.
    fn attempt(&self, group: u64, change: &str) -> Result<Result<(), String>, Failure> {
        let Some(leader) = self.led()?.into_iter().find(|it| it.group == group) else {
            return Ok(Err(
                "no node that answers leads it: name others with --endpoint".to_owned(),
            ));
        };
        let path = format!("/v1/members?group={group}&{change}");
        let post = || http::post(&leader.endpoint, &path);
        let mut answered = post();
        if let Ok((_, answer)) = &answered
            && answer["code"] == "Asked"
        {
            // The leader asks the others whether they are there, and knows then.
            thread::sleep(PAUSE);
            answered = post();
        }
        let (code, answer) = match answered {
            Ok(answer) => answer,
            Err(why) => return Ok(Err(format!("{}: {why}", leader.endpoint))),
        };
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        if code == 200 {
            return Ok(self.committed(group, answer["index"].as_u64().unwrap_or_default()));
        }
        let fatal = [
            "Address",
            "Removed",
            "NoMember",
            "Elsewhere",
            "LastVoter",
            "TooMany",
        ];
        let code = text("code");
        if code == "Leads" {
            let node = change.split('&').find(|field| field.starts_with("node="));
            let path = format!(
                "/v1/members?group={group}&{}&change=hand-over",
                node.unwrap_or_default()
            );
            // It is tried again as long as the change is.
            drop(http::post(&leader.endpoint, &path));
        } else if fatal.contains(&code.as_str()) || code.is_empty() {
            let why = match code.is_empty() {
                true => answer.as_str().unwrap_or("it answered no JSON").to_owned(),
                false => text("error"),
            };
            return Err(Failure {
                code: exit::REFUSED,
                why: format!("group {group}: {why}"),
            });
        }
        Ok(Err(text("error")))
    }

    /// Waits for an entry for as long as a leader is not replaced over it.
    fn committed(&self, group: u64, index: u64) -> Result<(), String> {
        for _ in 0..25 {
            let led = self.led().map_err(|failure| failure.why)?;
            let status = led.iter().find(|it| it.group == group);
            let commit = status.and_then(|it| it.status["commit"].as_u64());
            if commit.is_some_and(|commit| commit >= index) {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        Err(format!("entry {index} is not committed yet"))
    }
}

/// Where the members of a cluster are asked.
fn admins(cluster: &Joined) -> Vec<String> {
    let is_member = |node: &&NodeAddress| cluster.members.iter().any(|it| it.node == node.id);
    let nodes = cluster.founders.iter().chain(&cluster.listed);
    let nodes = nodes.filter(is_member).filter(|it| it.admin_port > 0);
    let admins = nodes.map(|it| format!("{}:{}", it.host, it.admin_port));
    admins.collect()
}

fn add(add: &Add) -> Result<Vec<Led>, Failure> {
    let Add {
        node,
        host,
        client_port,
        peer_port,
        admin_port,
        ..
    } = add;
    let text = format!("{host} {client_port} {peer_port} {admin_port}");
    if NodeAddress::parse(*node, &text).is_none() || *node == 0 || host.contains(['&', '=', '%']) {
        let why = format!(
            "node {node} cannot be at {host}: ids and ports are above 0, and hosts are names or addresses"
        );
        let code = exit::USAGE;
        return Err(Failure { code, why });
    }
    let mut driver = Driver::asked(&add.asked);
    let groups = driver.groups()?;
    driver.known()?.check(add)?;
    if *admin_port > 0 {
        // It may lead before this is over.
        driver.endpoints.push(format!("{host}:{admin_port}"));
    }
    let change = format!(
        "node={node}&change=add&host={host}&client_port={client_port}&peer_port={peer_port}&admin_port={admin_port}"
    );
    for &group in &groups {
        driver.step(group, &change)?;
    }
    println!(
        "node {node} is let in by all {} groups: start it with drakkar serve --join, unless it runs",
        groups.len()
    );
    if add.observer {
        return driver.led();
    }
    for &group in &groups {
        let promoted = driver.step(group, &format!("node={node}&change=promote"));
        promoted.map_err(|Failure { code, mut why }| {
            if code == exit::TIMEOUT {
                why += &format!(
                    ", if node {node} runs; drakkar member remove --node {node} gives it up, and its id with it"
                );
            }
            Failure { code, why }
        })?;
        println!("group {group}: node {node} votes");
    }
    match add.replaces {
        Some(other) => remove(&driver, other),
        None => driver.led(),
    }
}

/// What speaks against the numbers of voters that groups have.
fn warnings(led: &[Led]) -> Vec<VotersWarning> {
    let voters = led.iter().filter_map(|it| it.status["voters"].as_array());
    let counts: BTreeSet<usize> = voters.map(Vec::len).collect();
    counts.into_iter().flat_map(VotersWarning::of).collect()
}

fn remove(driver: &Driver, node: u32) -> Result<Vec<Led>, Failure> {
    for group in driver.groups()? {
        driver.step(group, &format!("node={node}&change=remove"))?;
        println!("group {group}: node {node} is gone");
    }
    println!(
        "node {node} was removed, and its id never comes back: it ends if it runs; delete it in the configurations"
    );
    driver.led()
}

fn list(endpoints: &[String], json: bool) -> Result<Vec<Led>, Failure> {
    let driver = Driver::new(endpoints, Duration::ZERO);
    let led = driver.led()?;
    let all = driver.groups()?;
    let lacks = |group: &u64| led.iter().all(|it| it.group != *group);
    let lacks: Vec<String> = all
        .into_iter()
        .filter(lacks)
        .map(|it| it.to_string())
        .collect();
    if !lacks.is_empty() {
        let lacks = lacks.join(", ");
        eprintln!("drakkar: no node that answers leads these groups: {lacks}");
    }
    if json {
        let groups = led.iter().map(|it| {
            let status = &it.status;
            serde_json::json!({
                "group": it.group, "leader": status["leader"], "voters": status["voters"],
                "observers": status["observers"], "since": status["members_since"],
            })
        });
        println!("{}", Value::from_iter(groups));
        return Ok(led);
    }
    let mut rows = vec![
        ["GROUP", "LEADER", "VOTERS", "OBSERVERS", "SINCE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for Led { group, status, .. } in &led {
        let nodes = |name: &str| {
            let nodes = status[name].as_array().map_or(&[][..], Vec::as_slice);
            let nodes: Vec<String> = nodes.iter().map(Value::to_string).collect();
            if nodes.is_empty() {
                "-".to_owned()
            } else {
                nodes.join(",")
            }
        };
        let field = |name: &str| status[name].to_string();
        let row = [
            group.to_string(),
            field("leader"),
            nodes("voters"),
            nodes("observers"),
            field("members_since"),
        ];
        rows.push(row.to_vec());
    }
    print!("{}", columns(&rows));
    Ok(led)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(subcommand)]
        verb: Verb,
    }

    fn parse(words: &str) -> Result<Verb, clap::Error> {
        let words = ["member"].into_iter().chain(words.split(' '));
        Command::try_parse_from(words).map(|it| it.verb)
    }

    fn added(words: &str) -> Add {
        let place = "add --host h --client-port 1 --peer-port 2";
        match parse(&format!("{place} {words}")) {
            Ok(Verb::Add(add)) => add,
            other => panic!("{:?}", other.err()),
        }
    }

    fn refused(words: &str) -> Option<(u8, String)> {
        let member = |node, address: &str| Member {
            node,
            address: address.to_owned(),
        };
        let known = Known {
            members: vec![member(1, "one:2"), member(4, "h:2")],
            removed: vec![3],
        };
        let checked = known.check(&added(words));
        checked.err().map(|Failure { code, why }| (code, why))
    }

    #[test]
    fn what_cannot_be_meant_is_refused_before_anything_changes() {
        let own = "node 5 cannot take its own place: a new node has a new id";
        let stranger = "node 9 is no member";
        let elsewhere = "node 1 is a member at one:2, not at h:2";
        let table = [
            ("--node 5", None),
            ("--node 5 --replaces 1", None),
            // The second time, what it replaces may be gone, and it may be there.
            ("--node 4 --replaces 3", None),
            ("--node 5 --replaces 5", Some((exit::USAGE, own))),
            ("--node 5 --replaces 9", Some((exit::REFUSED, stranger))),
            ("--node 1", Some((exit::REFUSED, elsewhere))),
        ];
        for (words, expected) in table {
            let expected = expected.map(|(code, why)| (code, why.to_owned()));
            assert_eq!(refused(words), expected, "{words}");
        }
    }

    #[test]
    fn an_observer_replaces_nobody_and_every_node_has_a_place() {
        assert!(added("--node 5 --observer").observer);
        assert_eq!(added("--node 5").admin_port, 0);
        for words in [
            "add --node 5 --host h --client-port 1 --peer-port 2 --observer --replaces 1",
            "add --node 5 --host h --client-port 1",
            "add --node 5 --host h --client-port 1 --peer-port 70000",
            "add --node -1 --host h --client-port 1 --peer-port 2",
            "remove",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn a_place_that_is_none_is_refused() {
        for place in [
            "--node 0 --host h --client-port 1 --peer-port 2",
            "--node 5 --host h --client-port 0 --peer-port 2",
            "--node 5 --host h --client-port 1 --peer-port 0",
            "--node 5 --host a&b --client-port 1 --peer-port 2",
            "--node 5 --host a=b --client-port 1 --peer-port 2",
        ] {
            let Ok(Verb::Add(add)) = parse(&format!("add {place}")) else {
                panic!("{place}");
            };
            let failure = super::add(&add).expect_err(place);
            assert_eq!(failure.code, exit::USAGE, "{}", failure.why);
        }
    }
}
