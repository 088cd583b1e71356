//! `drakkar dr status`: how far the newest backup is behind the cluster, which is what a loss of the
//! cluster would cost now.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::archive::Files;
use super::create::{Source, leaders, now_unix_ms};
use super::log::header;
use super::point::Extent;
use super::{BackupError, damaged, verify};
use crate::endpoints::Endpoints;
use crate::exit;
use crate::status::columns;
use crate::timestamp::Timestamp;

#[derive(Args)]
pub(crate) struct Options {
    /// The directory of the newest backup, or its archive.
    #[arg(long)]
    from: PathBuf,
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
    /// The last entry that the backup has, and the last that is committed.
    backup: u64,
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
            backup: extent.last,
            cluster: committed,
            until,
            seconds,
        }
    }

    fn entries(&self) -> u64 {
        self.cluster.saturating_sub(self.backup)
    }
}

pub(super) fn run(options: &Options) -> ExitCode {
    let lags = match measure(options) {
        Ok(lags) => lags,
        Err(error) => return exit::complain(error.code(), &error),
    };
    let most = lags.iter().map(|lag| lag.seconds).max().unwrap_or_default();
    match options.json {
        true => println!("{}", as_json(&lags, most)),
        false => println!("{}", told(&lags, most)),
    }
    match options.lag_max {
        Some(max) if most > max => {
            let complaint = format!("the backup is {most} s behind, --lag-max allows {max} s");
            exit::complain(exit::REFUSED, &complaint)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn measure(options: &Options) -> Result<Vec<Lag>, BackupError> {
    let files = Files::of(&options.from)?;
    let directory = files.directory();
    let manifest = verify(directory)?;
    let extents = Extent::all(directory, &manifest)?;
    let (cluster, sources) = leaders(&options.endpoints.endpoint)?;
    if cluster != manifest.cluster {
        let what = format!(
            "it is of cluster {}, and {cluster} was asked: name the endpoints of the one that it is of",
            manifest.cluster
        );
        return Err(damaged(&options.from, what));
    }
    let mut lags = Vec::new();
    for source in &sources {
        let group = source.group;
        let mut known = extents.iter().zip(&manifest.files);
        let Some((extent, file)) = known.find(|(extent, _)| extent.group == group) else {
            let groups = extents.iter().map(|extent| extent.group).collect();
            return Err(BackupError::NotInBackup { group, groups });
        };
        let taken = Timestamp(header(&directory.join(&file.snapshot.name))?.created_unix_ms);
        let committed = committed(source)?;
        lags.push(Lag::new(extent, taken, committed, now_unix_ms()));
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

fn as_json(lags: &[Lag], most: u64) -> Value {
    let groups = lags.iter().map(|lag| {
        json!({
            "group": lag.group,
            "backup_index": lag.backup,
            "commit_index": lag.cluster,
            "lag_entries": lag.entries(),
            "lag_seconds": lag.seconds,
            "until_unix_ms": lag.until.0,
        })
    });
    json!({ "lag_seconds": most, "groups": groups.collect::<Vec<_>>() })
}

fn told(lags: &[Lag], most: u64) -> String {
    let heads = ["GROUP", "BACKUP HAS", "COMMITTED", "BEHIND", "LAG", "UNTIL"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(lags.iter().map(|lag| {
        let numbers = [lag.group, lag.backup, lag.cluster, lag.entries()];
        let mut row: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        row.extend([format!("{} s", lag.seconds), lag.until.to_string()]);
        row
    }));
    let table = columns(&rows);
    let sum = match most {
        0 => "Were the cluster lost now, the backup would have everything.".to_owned(),
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
