//! The workloads by name: what each is, and what is measured in turns for it.

use clap::ValueEnum;

use crate::load::{Choice, Load, Mix, Protocol};

/// A workload that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// 16-byte writes through the engine's API, deep.
    #[value(name = "W1")]
    EmbeddedWrites,
    /// 256-byte writes through sockets, deep pipelines.
    #[value(name = "W2")]
    Writes,
    /// 256-byte linearizable reads through sockets, deep pipelines.
    #[value(name = "W3")]
    Reads,
    /// One client, one 16-byte write at a time.
    #[value(name = "W4")]
    OneAtATime,
    /// W2 at half of its highest rate, open loop.
    #[value(name = "W5")]
    HalfRate,
    /// W2 over 1,000 groups; and 10,000 groups without load.
    #[value(name = "W6")]
    ManyGroups,
    /// W2 with 1, 2 and 3 shards on each node, the same load on each shard: of one node, and of three.
    #[value(name = "W7")]
    Shards,
    /// YCSB A: half reads, half updates.
    #[value(name = "ycsb-a", alias = "A")]
    YcsbA,
    /// YCSB B: 95 % reads, 5 % updates.
    #[value(name = "ycsb-b", alias = "B")]
    YcsbB,
    /// YCSB C: only reads.
    #[value(name = "ycsb-c", alias = "C")]
    YcsbC,
    /// YCSB D: 95 % reads of what was inserted last, 5 % inserts.
    #[value(name = "ycsb-d", alias = "D")]
    YcsbD,
    /// YCSB F: half reads, half reads each followed by a write of the same key.
    #[value(name = "ycsb-f", alias = "F")]
    YcsbF,
}

/// From where a cluster is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Redis protocol over TCP.
    Sockets,
    /// The engine's API in the process of each node, with so many writes under way on each.
    Api { in_flight: usize },
    /// Nobody asks for anything: only what the nodes use is measured.
    Idle,
}

/// At which rate an open loop sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// As fast as answers come: a closed loop.
    Closed,
    PerSecond(f64),
    /// This share of what the measurement before reached.
    OfTheOneBefore(f64),
}

/// Which part of a workload a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// What the rest is compared with.
    Closed,
    /// Each request is due at a time of its own.
    Singly,
    Groups,
    Shards,
    Idle,
}

/// What is measured beside a load, on the same disk and at the same time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// One durable 4 KiB write and two round trips over loopback.
    WriteAndRoundTrips,
    /// What the disk takes in flushes of the size that the load made.
    DiskLimit,
}

/// One load on one kind of cluster.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) workload: &'static str,
    pub(crate) part: Part,
    pub(crate) title: String,
    pub(crate) way: Way,
    pub(crate) load: Load,
    pub(crate) rate: Rate,
    pub(crate) groups: u32,
    pub(crate) nodes: u16,
    pub(crate) shards: u16,
    pub(crate) beside: Beside,
}

impl Spec {
    /// The workload, and behind a slash what is varied: `W7/3 x 2 shards`.
    pub(crate) fn name(&self) -> String {
        let workload = self.workload;
        match self.part {
            Part::Whole => workload.to_owned(),
            Part::Closed => format!("{workload}/closed loop"),
            Part::Singly => format!("{workload}/one by one"),
            Part::Groups => format!("{workload}/{} groups", self.groups),
            Part::Shards => format!("{workload}/{} x {} shards", self.nodes, self.shards),
            Part::Idle => format!("{workload}/{} idle", self.groups),
        }
    }
}

impl Spec {
    /// Whether systems without groups and shards can be given this load.
    pub(crate) fn is_for_others(&self) -> bool {
        self.way == Way::Sockets && matches!(self.part, Part::Whole | Part::Closed)
    }
}

/// Deep pipelines: 24 connections with 128 requests under way on each.
fn deep() -> Load {
    Load {
        protocol: Protocol::Redis,
        connections: 24,
        pipeline: 128,
        threads: 1,
        keys: 10_000,
        value_bytes: 256,
        mix: Mix::uniform(0.0),
        rate: None,
        burst: 1,
        seed: 1,
    }
}

fn sockets(workload: &'static str, title: &str, load: Load) -> Spec {
    Spec {
        workload,
        part: Part::Whole,
        title: title.to_owned(),
        way: Way::Sockets,
        load,
        rate: Rate::Closed,
        groups: 6,
        nodes: 3,
        shards: 1,
        beside: Beside::Nothing,
    }
}

fn writes() -> Spec {
    Spec {
        beside: Beside::DiskLimit,
        ..sockets("W2", "256 B writes through sockets", deep())
    }
}

fn ycsb(name: &'static str, title: &str, mix: Mix) -> Spec {
    let load = Load {
        keys: 100_000,
        value_bytes: 1000,
        mix,
        connections: 24,
        pipeline: 32,
        ..deep()
    };
    sockets(name, title, load)
}

/// YCSB's shares of reads, updates, inserts and reads that are followed by a write.
fn shares(shares: [f64; 4], choice: Choice) -> Mix {
    let [reads, updates, inserts, read_modify_writes] = shares;
    Mix {
        reads,
        updates,
        inserts,
        read_modify_writes,
        choice,
    }
}

impl Workload {
    /// What is measured in turns, in this order. `short`: with fewer groups.
    pub(crate) fn specs(self, short: bool) -> Vec<Spec> {
        let zipfian = |parts| shares(parts, Choice::Zipfian);
        match self {
            Self::EmbeddedWrites => vec![Spec {
                way: Way::Api { in_flight: 16_384 },
                load: Load {
                    value_bytes: 16,
                    ..deep()
                },
                ..sockets("W1", "16 B writes through the engine's API", deep())
            }],
            Self::Writes => vec![writes()],
            Self::Reads => {
                let load = Load {
                    mix: Mix::uniform(1.0),
                    ..deep()
                };
                vec![sockets(
                    "W3",
                    "256 B linearizable reads through sockets",
                    load,
                )]
            }
            Self::OneAtATime => {
                let load = Load {
                    connections: 1,
                    pipeline: 1,
                    value_bytes: 16,
                    ..deep()
                };
                vec![Spec {
                    beside: Beside::WriteAndRoundTrips,
                    ..sockets("W4", "one client, one 16 B write at a time", load)
                }]
            }
            Self::HalfRate => vec![
                Spec {
                    workload: "W5",
                    part: Part::Closed,
                    beside: Beside::Nothing,
                    ..writes()
                },
                Spec {
                    workload: "W5",
                    title: "256 B writes at half of the highest rate, open loop, pipelines of 16"
                        .to_owned(),
                    rate: Rate::OfTheOneBefore(0.5),
                    load: Load {
                        burst: 16,
                        ..deep()
                    },
                    beside: Beside::WriteAndRoundTrips,
                    ..writes()
                },
                Spec {
                    workload: "W5",
                    part: Part::Singly,
                    title: "the same, each request at a time of its own".to_owned(),
                    rate: Rate::OfTheOneBefore(1.0),
                    beside: Beside::Nothing,
                    ..writes()
                },
            ],
            Self::ManyGroups => many_groups(short),
            Self::Shards => [1, 3]
                .into_iter()
                .flat_map(|nodes| (1..=3).map(move |shards| with_shards(nodes, shards)))
                .collect(),
            Self::YcsbA => vec![ycsb("ycsb-a", "YCSB A", zipfian([0.5, 0.5, 0.0, 0.0]))],
            Self::YcsbB => vec![ycsb("ycsb-b", "YCSB B", zipfian([0.95, 0.05, 0.0, 0.0]))],
            Self::YcsbC => vec![ycsb("ycsb-c", "YCSB C", zipfian([1.0, 0.0, 0.0, 0.0]))],
            Self::YcsbD => {
                let mix = shares([0.95, 0.0, 0.05, 0.0], Choice::Latest);
                vec![ycsb("ycsb-d", "YCSB D", mix)]
            }
            Self::YcsbF => vec![ycsb("ycsb-f", "YCSB F", zipfian([0.5, 0.0, 0.0, 0.5]))],
        }
    }
}

fn many_groups(short: bool) -> Vec<Spec> {
    let few = writes();
    vec![
        Spec {
            workload: "W6",
            part: Part::Groups,
            beside: Beside::Nothing,
            ..writes()
        },
        Spec {
            workload: "W6",
            part: Part::Groups,
            title: "256 B writes over many groups".to_owned(),
            groups: if short { 50 } else { 1_000 },
            beside: Beside::Nothing,
            ..few
        },
        Spec {
            workload: "W6",
            part: Part::Idle,
            title: "groups without load".to_owned(),
            way: Way::Idle,
            groups: if short { 100 } else { 10_000 },
            beside: Beside::Nothing,
            ..writes()
        },
    ]
}

fn with_shards(nodes: u16, shards: u16) -> Spec {
    Spec {
        workload: "W7",
        part: Part::Shards,
        title: "256 B writes, the same load on each shard".to_owned(),
        load: Load {
            connections: deep().connections * usize::from(shards),
            ..deep()
        },
        groups: writes().groups * u32::from(shards),
        nodes,
        shards,
        beside: Beside::Nothing,
        ..writes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_makes_sense() {
        for workload in Workload::value_variants() {
            for (at, spec) in workload.specs(false).iter().enumerate() {
                let Mix {
                    reads,
                    updates,
                    inserts,
                    read_modify_writes,
                    ..
                } = spec.load.mix;
                let sum = reads + updates + inserts + read_modify_writes;
                assert!((sum - 1.0).abs() < 1e-9, "{}", spec.name());
                assert!(spec.groups >= u32::from(spec.shards), "{}", spec.name());
                let follows = matches!(spec.rate, Rate::OfTheOneBefore(_));
                assert!(!follows || at > 0, "{}", spec.name());
            }
        }
    }
}
