//! `drakkar dr status`: how far the newest backup, or a standby, is behind the cluster, which is what a loss of
//! the cluster would cost now.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::archive::Files;
use super::create::{Source, leaders, now_unix_ms};
use super::log::header;
use super::point::Extent;
use super::ship::book::{Book, Shipped};
use super::{BackupError, damaged, verify};
use crate::endpoints::Endpoints;
use crate::exit;
use crate::status::columns;
use crate::timestamp::Timestamp;

#[derive(Args)]
#[command(group(ArgGroup::new("copy").required(true)))]
pub(crate) struct Options {
    /// The directory of the newest backup, or its archive: reads all of it.
    #[arg(long, group = "copy")]
    from: Option<PathBuf>,
    /// The --state of the `drakkar dr ship` that keeps a standby.
    #[arg(long, group = "copy")]
    state: Option<PathBuf>,
    #[command(flatten)]
    endpoints: Endpoints,
    /// Ends with 4 if any group is further behind, in seconds.
    #[arg(long)]
    lag_max: Option<u64>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// One group's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lag {
    group: u64,
    /// The last entry that the backup or the standby has, and the last that is committed.
    has: u64,
    cluster: u64,
    until: Timestamp,
    /// None of what was written for longer is missing.
    seconds: u64,
}

impl Lag {
    /// Of a snapshot that was begun at `taken`: whatever had been acknowledged is in it.
    fn new(extent: &Extent, taken: Timestamp, committed: u64, now_ms: u64) -> Self {
        let until = extent.until.max(taken);
        // Nothing was written since: that the backup is old costs nothing.
        let seconds = match committed <= extent.last {
            true => 0,
            false => now_ms.saturating_sub(until.0).div_ceil(1000),
        };
        Self {
            group: extent.group,
            has: extent.last,
            cluster: committed,
            until,
            seconds,
        }
    }

    fn entries(&self) -> u64 {
        self.cluster.saturating_sub(self.has)
    }
}

/// What there is of a cluster besides.
struct Copy {
    /// A backup or a standby.
    what: &'static str,
    cluster: String,
    /// Of each group, and when that state was begun to be made.
    groups: Vec<(Extent, Timestamp)>,
}

impl Copy {
    fn backup(from: &Path) -> Result<Self, BackupError> {
        let files = Files::of(from)?;
        let directory = files.directory();
        let manifest = verify(&files)?;
        let extents = Extent::all(directory, &manifest)?;
        let mut groups = Vec::new();
        for (extent, file) in extents.into_iter().zip(&manifest.files) {
            let taken = header(&directory.join(&file.snapshot.name))?.created_unix_ms;
            groups.push((extent, Timestamp(taken)));
        }
        Ok(Self {
            what: "backup",
            cluster: manifest.cluster,
            groups,
        })
    }

    fn standby(state: &Path) -> Result<Self, BackupError> {
        let path = || state.to_owned();
        let book =
            Book::read(state)?.ok_or_else(|| BackupError::NothingShipped { path: path() })?;
        let extents = book.groups.iter().map(Shipped::extent);
        Ok(Self {
            what: "standby",
            cluster: book.cluster,
            groups: extents.map(|extent| (extent, extent.until)).collect(),
        })
    }
}

pub(super) fn run(options: &Options) -> ExitCode {
    let lags = match (&options.from, &options.state) {
        (Some(from), _) => Copy::backup(from).map(|copy| (copy, from)),
        (None, Some(state)) => Copy::standby(state).map(|copy| (copy, state)),
        (None, None) => unreachable!("one of the two is asked for"),
    };
    let lags = lags.and_then(|(copy, path)| Ok((copy.what, measure(options, &copy, path)?)));
    let (what, lags) = match lags {
        Ok(lags) => lags,
        Err(error) => return exit::complain(error.code(), &error),
    };
    let most = lags.iter().map(|lag| lag.seconds).max().unwrap_or_default();
    match options.json {
        true => println!("{}", as_json(what, &lags, most)),
        false => println!("{}", told(what, &lags, most)),
    }
    match options.lag_max {
        Some(max) if most > max => {
            let complaint = format!("the {what} is {most} s behind, --lag-max allows {max} s");
            exit::complain(exit::REFUSED, &complaint)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn measure(options: &Options, copy: &Copy, path: &Path) -> Result<Vec<Lag>, BackupError> {
    let (cluster, sources) = leaders(&options.endpoints.endpoint)?;
    if cluster != copy.cluster {
        let what = format!(
            "it is of cluster {}, and {cluster} was asked: name the endpoints of the one that it is of",
            copy.cluster
        );
        return Err(damaged(path, what));
    }
    let mut lags = Vec::new();
    for source in &sources {
        let group = source.group;
        let mut known = copy.groups.iter();
        let Some((extent, taken)) = known.find(|(extent, _)| extent.group == group) else {
            let groups = copy.groups.iter().map(|(extent, _)| extent.group).collect();
            return Err(BackupError::NotInBackup { group, groups });
        };
        let committed = committed(source)?;
        lags.push(Lag::new(extent, *taken, committed, now_unix_ms()));
    }
    Ok(lags)
}

/// The last entry that a group has committed.
fn committed(source: &Source) -> Result<u64, BackupError> {
    let status = source.ask("GET", "/v1/status");
    let status = status.map_err(|reason| source.failed(reason))?;
    let groups = status["groups"].as_array().into_iter().flatten();
    let mut own = groups.filter(|group| group["group"] == source.group);
    let commit = own.next().and_then(|group| group["commit"].as_u64());
    commit.ok_or_else(|| source.failed("it says nothing of the group".to_owned()))
}

fn as_json(what: &str, lags: &[Lag], most: u64) -> Value {
    let groups = lags.iter().map(|lag| {
        json!({
            "group": lag.group,
            (format!("{what}_index")): lag.has,
            "commit_index": lag.cluster,
            "lag_entries": lag.entries(),
            "lag_seconds": lag.seconds,
            "until_unix_ms": lag.until.0,
        })
    });
    json!({ "lag_seconds": most, "groups": groups.collect::<Vec<_>>() })
}

fn told(what: &str, lags: &[Lag], most: u64) -> String {
    let has = format!("{} HAS", what.to_uppercase());
    let heads = ["GROUP", &has, "COMMITTED", "BEHIND", "LAG", "UNTIL"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(lags.iter().map(|lag| {
        let numbers = [lag.group, lag.has, lag.cluster, lag.entries()];
        let mut row: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        row.extend([format!("{} s", lag.seconds), lag.until.to_string()]);
        row
    }));
    let table = columns(&rows);
    let sum = match most {
        0 => format!("Were the cluster lost now, the {what} would have everything."),
        _ => format!(
            "Were the cluster lost now, writes of the last {most} s would be missing at most."
        ),
    };
    format!("{table}{sum}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_behind_by_its_age_if_anything_was_written_since_and_not_at_all_otherwise() {
        let extent = Extent {
            group: 3,
            first: 10,
            last: 20,
            from: Timestamp(1000),
            until: Timestamp(50_000),
        };
        let of = |committed, now| {
            let lag = Lag::new(&extent, Timestamp(20_000), committed, now);
            (lag.entries(), lag.seconds)
        };
        assert_eq!(of(20, 90_000), (0, 0));
        assert_eq!(of(21, 90_001), (1, 41));
        assert_eq!(of(21, 49_000), (1, 0), "clocks differ");
        // One that is elected again may not know yet what was committed.
        assert_eq!(of(15, 90_000), (0, 0));
        // The last write was long before the snapshot.
        let lag = Lag::new(&extent, Timestamp(80_000), 21, 90_000);
        assert_eq!((lag.until, lag.seconds), (Timestamp(80_000), 10));
    }
}
