//! `drakkar snapshot create`: asks for snapshots, and waits until they are there.

use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::http;
use crate::status::{ask, size};

/// Between two looks at what a node has.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks between two lines that say how far a snapshot is.
const LOOKS_A_LINE: u128 = 10;

/// For how long a snapshot is waited for: one of 100 GB, from a disk that is busy with the log, takes less.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Args)]
pub(crate) struct Order {
    #[command(flatten)]
    pub(super) asked: super::Options,
    /// Of this group alone.
    #[arg(long)]
    pub(super) group: Option<u32>,
    /// For how long those of a node are waited for, in seconds. It goes on all the same.
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs())]
    pub(super) timeout: u64,
}

/// Has a node take snapshots, of one group or of all, and waits for them. Gives rows with the
/// `index` of each or its `error`, which is `pending` if it may yet be there.
pub(crate) fn take(
    endpoint: &str,
    group: Option<u32>,
    patience: Duration,
) -> Result<Vec<Value>, String> {
    let looks = patience.as_nanos() / PAUSE.as_nanos();
    let mut wanted = applied(endpoint)?;
    let path = group.map_or_else(
        || "/v1/snapshots".to_owned(),
        |group| format!("/v1/snapshots?group={group}"),
    );
    let mut rows = rows(&http::ask("POST", endpoint, &path)?, "snapshots")?;
    for look in 1..=looks {
        if !rows.iter().any(is_pending) {
            break;
        }
        thread::sleep(PAUSE);
        // It is busy, or away for a moment.
        let Ok(listed) = http::get(endpoint, "/v1/snapshots") else {
            continue;
        };
        let files = self::rows(&listed, "snapshots")?;
        let is_known = |row: &Value| wanted.iter().any(|(of, _)| *of == row["group"]);
        if rows.iter().any(|row| is_pending(row) && !is_known(row)) {
            // More than was asked for, but nothing is missing then.
            wanted.extend(applied(endpoint).unwrap_or_default());
        }
        for row in rows.iter_mut().filter(|row| is_pending(row)) {
            let group = &row["group"];
            let from = wanted.iter().find(|(of, _)| of == group);
            let from = from.map_or(u64::MAX, |(_, applied)| *applied);
            let of_it = |file: &&Value| file["group"] == *group && file["refused"] != true;
            let indexes = files.iter().filter(of_it).map(|it| it["index"].as_u64());
            if let Some(index) = indexes.max().flatten().filter(|index| *index >= from) {
                *row = json!({ "group": group, "index": index });
            }
        }
        if look.is_multiple_of(LOOKS_A_LINE) {
            tell(endpoint, &rows, &self::rows(&listed, "under_way")?);
        }
    }
    for row in rows.iter_mut().filter(|row| is_pending(row)) {
        row["error"] = "it is not there in time and goes on: look at drakkar snapshot list, and for snapshot.failed \
                        in the node's log"
            .into();
    }
    Ok(rows)
}

/// What the snapshot of each group must hold at least, so that nothing is missing that was there before it was
/// asked for. A group of a shard that is busy is not among them, and neither is one that does not exist.
fn applied(endpoint: &str) -> Result<Vec<(Value, u64)>, String> {
    let status = ask(endpoint)?;
    let groups = status["groups"].as_array().cloned().unwrap_or_default();
    let said = |it: &Value| Some((it["group"].clone(), it["applied"].as_u64()?));
    Ok(groups.iter().filter_map(said).collect())
}

pub(super) fn is_pending(row: &Value) -> bool {
    row["pending"] == true
}

fn rows(body: &str, name: &str) -> Result<Vec<Value>, String> {
    let answer: Value =
        serde_json::from_str(body).map_err(|error| format!("it answered no JSON: {error}"))?;
    Ok(answer[name].as_array().cloned().unwrap_or_default())
}

fn tell(endpoint: &str, rows: &[Value], under_way: &[Value]) {
    for row in rows.iter().filter(|row| is_pending(row)) {
        let group = &row["group"];
        let taken = under_way.iter().find(|it| it["group"] == *group);
        let bytes = taken.and_then(|it| it["state_bytes"].as_u64());
        let how = match bytes {
            Some(bytes) => format!("{} of its state are written", size(bytes)),
            None => "it is not begun, or about to be there, or waits to be tried again after snapshot.failed in the \
                     node's log"
                .to_owned(),
        };
        eprintln!("{endpoint}: group {group}: {how}");
    }
}
