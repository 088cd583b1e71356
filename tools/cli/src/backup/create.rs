//! From the leaders' snapshots to files.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use engine::io::import::Listed;
use engine::snapshot::Verifier;
use serde_json::Value;

use super::manifest::{File, Manifest};
use super::{BackupError, log};
use crate::http;
use crate::snapshot::create::{self as snapshots, PATIENCE};

/// A snapshot that is given up is asked for again.
const ATTEMPTS: usize = 60;
/// A leader may change while its group is copied, or a snapshot may let the one before go.
const COPIES: usize = 5;
/// How often leaders are asked for while there is none, and how soon again.
const ELECTIONS: usize = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// Where a group can be had.
pub(crate) struct Source {
    pub(crate) group: u64,
    pub(super) endpoint: String,
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a backup says when it was made")]
pub(super) fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// What is to be in a backup.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    /// This group alone.
    pub(super) group: Option<u64>,
    /// The log of each group as well, and instead of its newest snapshot the oldest that the log follows.
    pub(super) with_log: bool,
}

pub(super) fn create(endpoints: &[String], scope: Scope, to: &Path) -> Result<String, BackupError> {
    let io = |error| BackupError::Io {
        path: to.to_owned(),
        error,
    };
    fs::create_dir_all(to).map_err(io)?;
    if fs::read_dir(to).map_err(io)?.next().is_some() {
        let path = to.to_owned();
        return Err(BackupError::NotEmpty { path });
    }
    let manifest = gather(endpoints, scope, to, |_| Ok(()))?;
    manifest.write(to).map_err(io)?;
    Ok(manifest.told(&format!("is in {}", to.display())))
}

/// Copies what there is of each group to a directory; `each` is told when a group is there.
pub(super) fn gather(
    endpoints: &[String],
    scope: Scope,
    to: &Path,
    mut each: impl FnMut(&File) -> Result<(), BackupError>,
) -> Result<Manifest, BackupError> {
    let (cluster, sources) = leaders(endpoints)?;
    let groups = sources.len() as u64;
    let wanted = |source: &&Source| scope.group.is_none_or(|group| group == source.group);
    let mut files = Vec::new();
    for source in sources.iter().filter(wanted) {
        let copy = |source: &Source| match scope.with_log {
            true => log::copy(source, &cluster, groups, to),
            false => copy(source, to).map(|snapshot| File {
                snapshot,
                log: None,
                until_unix_ms: None,
            }),
        };
        let mut copied = copy(source);
        for _ in 1..COPIES {
            if !matches!(copied, Err(BackupError::Group { .. })) {
                break;
            }
            let (_, sources) = leaders(endpoints)?;
            let source = sources.iter().find(|it| it.group == source.group);
            copied = source.map_or(copied, copy);
        }
        let file = copied?;
        each(&file)?;
        files.push(file);
    }
    match scope.group {
        Some(group) if files.is_empty() => Err(BackupError::NoGroup { group, groups }),
        _ => Ok(Manifest {
            cluster,
            created_unix_ms: now_unix_ms(),
            groups,
            files,
        }),
    }
}

/// The leader of each group; waits a little if one is being elected.
pub(crate) fn leaders(endpoints: &[String]) -> Result<(String, Vec<Source>), BackupError> {
    let Leaders {
        cluster, sources, ..
    } = leaders_besides(&[], endpoints)?;
    Ok((cluster, sources))
}

/// Who leads the groups of a cluster.
pub(crate) struct Leaders {
    pub(crate) cluster: String,
    /// How many there are.
    pub(crate) groups: usize,
    /// By the numbers of the groups.
    pub(crate) sources: Vec<Source>,
}

/// The same, but of groups that need none.
pub(crate) fn leaders_besides(
    without: &[u64],
    endpoints: &[String],
) -> Result<Leaders, BackupError> {
    for _ in 1..ELECTIONS {
        match leaders_now(without, endpoints) {
            Err(BackupError::NoLeader { .. }) => sleep(PAUSE),
            found => return found,
        }
    }
    leaders_now(without, endpoints)
}

/// As the one with the newest term says: another may not know yet that it was deposed.
fn leaders_now(without: &[u64], endpoints: &[String]) -> Result<Leaders, BackupError> {
    let (mut cluster, mut reason) = (None, String::new());
    let mut newest: Vec<Option<(u64, Source)>> = Vec::new();
    for endpoint in endpoints {
        let status = http::get(endpoint, "/v1/status")
            .and_then(|text| serde_json::from_str::<Value>(&text).map_err(|it| it.to_string()));
        let status = match status {
            Ok(status) => status,
            Err(error) => {
                reason = format!("{endpoint}: {error}");
                continue;
            }
        };
        cluster = status["cluster"].as_str().map(str::to_owned);
        for found in status["groups"].as_array().into_iter().flatten() {
            let number = |name: &str| found[name].as_u64().unwrap_or_default();
            let (group, term) = (number("group"), number("term"));
            let at = usize::try_from(group).unwrap_or(usize::MAX);
            if at >= newest.len() {
                newest.resize_with(at.saturating_add(1).min(1 << 20), || None);
            }
            let known = newest[at].as_ref().is_some_and(|(known, _)| *known >= term);
            if found["role"] == "leader" && !known {
                let source = Source {
                    group,
                    endpoint: endpoint.clone(),
                };
                newest[at] = Some((term, source));
            }
        }
    }
    let Some(cluster) = cluster else {
        return Err(BackupError::Unreachable { reason });
    };
    let groups = newest.len();
    let sources = newest.into_iter().zip(0u64..);
    let sources = sources.filter(|(_, group)| !without.contains(group));
    let sources = sources.map(|(found, group)| {
        let found = found.map(|(_, source)| source);
        found.ok_or(BackupError::NoLeader { group })
    });
    Ok(Leaders {
        cluster,
        groups,
        sources: sources.collect::<Result<_, _>>()?,
    })
}

impl Source {
    /// Why nothing can be had.
    pub(super) fn failed(&self, reason: String) -> BackupError {
        BackupError::Group {
            group: self.group,
            endpoint: self.endpoint.clone(),
            reason,
        }
    }

    /// Asks the leader something.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<Value, String> {
        let text = http::ask(method, &self.endpoint, path)?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// The last entries and terms of the group's snapshots that the leader keeps, the oldest first.
    pub(super) fn snapshots(&self) -> Result<Vec<(u64, u64)>, String> {
        let list = self.ask("GET", "/v1/snapshots")?;
        let files = list["snapshots"].as_array().into_iter().flatten();
        let mut kept: Vec<_> = files
            .filter(|file| file["group"] == self.group && file["refused"] != true)
            .filter_map(|file| Some((file["index"].as_u64()?, file["term"].as_u64()?)))
            .collect();
        kept.sort_unstable();
        Ok(kept)
    }
}

/// Has a group's leader take a snapshot, and copies it.
pub(crate) fn copy(source: &Source, to: &Path) -> Result<Listed, BackupError> {
    let newest = take(source).map_err(|reason| source.failed(reason))?;
    copy_at(source, newest, to)
}

/// Copies the snapshot that ends with an entry.
pub(super) fn copy_at(
    source: &Source,
    (index, term): (u64, u64),
    to: &Path,
) -> Result<Listed, BackupError> {
    let failed = |reason: String| source.failed(reason);
    let name = format!("{}-{index:016x}-{term:016x}.snap", source.group);
    let path = to.join(&name);
    let io = |error| BackupError::Io {
        path: path.clone(),
        error,
    };
    let part = to.join(format!("{name}.part"));
    let mut file = fs::File::create(&part).map_err(io)?;
    let (mut verifier, mut offset) = (Verifier::new(), 0);
    loop {
        let query = format!(
            "group={}&index={index}&term={term}&offset={offset}",
            source.group
        );
        let path = format!("/v1/snapshots/file?{query}");
        let bytes = http::get_bytes(&source.endpoint, &path).map_err(failed)?;
        verifier.push(&bytes).map_err(|it| failed(it.to_string()))?;
        file.write_all(&bytes).map_err(io)?;
        offset += bytes.len();
        // Only the last piece can be of another length.
        if bytes.is_empty() || !bytes.len().is_multiple_of(1 << 20) {
            break;
        }
    }
    let header = verifier.header().cloned();
    let summary = verifier.finish().map_err(|it| failed(it.to_string()))?;
    let header = header.expect("a whole snapshot has one");
    file.sync_all().map_err(io)?;
    fs::rename(&part, &path).map_err(io)?;
    Ok(Listed::new(name, &header, &summary))
}

/// Has the leader take a snapshot of the group as it is now; gives its last entry.
fn take(source: &Source) -> Result<(u64, u64), String> {
    let group = u32::try_from(source.group).map_err(|_| "no group has that number".to_owned())?;
    let mut reason = String::new();
    for _ in 0..ATTEMPTS {
        let taken = snapshots::take(&source.endpoint, Some(group), PATIENCE)?;
        let taken = taken.first().ok_or("it names no snapshot")?;
        let Some(index) = taken["index"].as_u64() else {
            reason = taken["error"].to_string();
            continue;
        };
        let newest = source.snapshots()?.pop();
        // A newer one is as good.
        return match newest.filter(|newest| newest.0 >= index) {
            Some(newest) => Ok(newest),
            None if index == 0 => Err("nothing was ever written to it".into()),
            None => Err(format!("its snapshot up to {index} is gone again")),
        };
    }
    Err(format!("it takes no snapshot: {reason}"))
}
