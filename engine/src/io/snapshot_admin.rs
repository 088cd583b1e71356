//! Snapshots over the admin port: which there are, and to take some now.

use std::time::Duration;

use net::http::{Request, Response};
use wal::{GroupId, LogIndex, Term};

use super::executor::Executor;
use super::gathered::Gathered;
use super::mailbox::{Letter, SnapshotPlace, SnapshotsListed};
use super::snapshots::SnapshotFile;
use super::status::quote;

/// Less than clients wait.
const PATIENCE: Duration = Duration::from_secs(8);

/// One answer holds so much of a file.
const PIECE_BYTES: usize = 1 << 20;
const ALIGNMENT: u64 = 4096;

/// Answers a request for `/v1/snapshots`.
pub(super) async fn respond(executor: &Executor, request: &Request) -> Response {
    match request.method.as_str() {
        "GET" => list(executor).await,
        "POST" => match groups(executor, &request.query) {
            Some(groups) => take(executor, &groups).await,
            None => Response::text(
                400,
                "use ?group=N with a group of this cluster, or nothing\n",
            ),
        },
        _ => Response::text(405, "only GET and POST are answered here\n"),
    }
}

/// Answers a request for `/v1/snapshots/file`: some of a snapshot's bytes, as they are in the file.
/// Fewer where it ends.
pub(super) async fn read(executor: &Executor, query: &str) -> Response {
    let field = |name: &str| {
        let mut fields = query.split('&').filter_map(|field| field.split_once('='));
        let (_, value) = fields.find(|(found, _)| *found == name)?;
        value.parse::<u64>().ok()
    };
    let place = || {
        let group = u32::try_from(field("group")?).ok()?;
        (group < executor.config.cluster.groups).then_some(())?;
        Some(SnapshotPlace {
            group: GroupId::from_raw(group),
            index: LogIndex::from_raw(field("index")?),
            term: Term::from_raw(field("term")?),
            offset: field("offset")?,
            bytes: PIECE_BYTES,
        })
    };
    let Some(place) = place().filter(|place| place.offset.is_multiple_of(ALIGNMENT)) else {
        let help = "use ?group=N&index=N&term=N&offset=N, the offset a multiple of 4096\n";
        return Response::text(400, help);
    };
    let shard = usize::from(executor.config.shard_of_group(place.group));
    let gathered = Gathered::new(1);
    let answered = gathered.clone();
    let answer = Box::new(move |outcome| answered.put(outcome));
    // A shard that has ended does not answer.
    drop(executor.mailboxes[shard].post(Letter::ReadSnapshot { place, answer }));
    match gathered.wait(PATIENCE).await.pop() {
        Some(Ok(bytes)) => Response::bytes(200, bytes),
        Some(Err(reason)) => Response::text(404, reason + "\n"),
        None => Response::text(503, "the shard does not answer\n"),
    }
}

/// The group of a query, or all of them.
fn groups(executor: &Executor, query: &str) -> Option<Vec<GroupId>> {
    let count = executor.config.cluster.groups;
    if query.is_empty() {
        return Some((0..count).map(GroupId::from_raw).collect());
    }
    let group: u32 = query.strip_prefix("group=")?.parse().ok()?;
    (group < count).then(|| vec![GroupId::from_raw(group)])
}

async fn list(executor: &Executor) -> Response {
    let gathered = Gathered::new(executor.mailboxes.len());
    for mailbox in executor.mailboxes.iter() {
        let gathered = gathered.clone();
        let answer = move |listed: SnapshotsListed| gathered.put(listed);
        // A shard that has ended is missing from the answer.
        drop(mailbox.post(Letter::ListSnapshots(Box::new(answer))));
    }
    let (mut files, mut under_way) = (Vec::new(), Vec::new());
    for listed in gathered.wait(PATIENCE).await {
        files.extend(listed.files);
        under_way.extend(listed.under_way);
    }
    files.sort_by_key(|file| (file.group, file.index));
    let files: Vec<String> = files.iter().map(file_json).collect();
    under_way.sort();
    let under_way = under_way
        .iter()
        .map(|(group, bytes)| format!("{{\"group\":{group},\"state_bytes\":{bytes}}}"));
    let under_way: Vec<String> = under_way.collect();
    let (files, under_way) = (files.join(","), under_way.join(","));
    Response::json(
        200,
        format!("{{\"snapshots\":[{files}],\"under_way\":[{under_way}]}}\n"),
    )
}

fn file_json(file: &SnapshotFile) -> String {
    format!(
        "{{\"group\":{},\"index\":{},\"term\":{},\"bytes\":{},\"unix_ms\":{},\"refused\":{}}}",
        file.group, file.index, file.term, file.bytes, file.unix_ms, file.refused,
    )
}

async fn take(executor: &Executor, groups: &[GroupId]) -> Response {
    let gathered = Gathered::new(groups.len());
    for &group in groups {
        let shard = usize::from(executor.config.shard_of_group(group));
        let gathered = gathered.clone();
        let answer = Box::new(move |outcome| gathered.put((group, outcome)));
        // As above.
        drop(executor.mailboxes[shard].post(Letter::Snapshot { group, answer }));
    }
    let mut taken = gathered.wait(PATIENCE).await;
    taken.sort_by_key(|(group, _)| *group);
    let late = groups
        .iter()
        .filter(|group| taken.iter().all(|(of, _)| of != *group));
    let late: Vec<String> = late
        .map(|group| {
            let what = "it is not there yet and goes on: look at the list";
            // Who asked can wait for it.
            let error = quote(what);
            format!("{{\"group\":{group},\"pending\":true,\"error\":{error}}}")
        })
        .collect();
    let list = taken.iter().map(|(group, outcome)| match outcome {
        Ok(index) => format!("{{\"group\":{group},\"index\":{index}}}"),
        Err(error) => format!(
            "{{\"group\":{group},\"error\":{}}}",
            quote(&error.to_string())
        ),
    });
    let list: Vec<String> = list.chain(late).collect();
    Response::json(200, format!("{{\"snapshots\":[{}]}}\n", list.join(",")))
}
