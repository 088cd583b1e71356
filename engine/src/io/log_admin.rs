//! A group's log over the admin port: which entries there are, and their bytes, for backups that reach
//! to any moment in between.

use std::rc::Rc;
use std::time::Duration;

use net::http::Response;
use wal::{GroupId, LogIndex, encode_entry};

use super::admin::gather;
use super::executor::Executor;
use super::gathered::Gathered;
use super::mailbox::Letter;
use super::status::role_name;

/// Less than clients wait.
const PATIENCE: Duration = Duration::from_secs(8);
/// Payload of one answer, about: it is longer by up to one entry.
const PIECE_BYTES: usize = 1 << 20;

/// Told once: records of entries, or why there are none.
pub(super) type LogAnswer = Box<dyn FnOnce(Result<Vec<u8>, String>) + Send>;

/// A number in a query.
fn field(query: &str, name: &str) -> Option<u64> {
    let mut fields = query.split('&').filter_map(|field| field.split_once('='));
    let (_, value) = fields.find(|(found, _)| *found == name)?;
    value.parse().ok()
}

fn group(executor: &Executor, query: &str) -> Option<GroupId> {
    let group = u32::try_from(field(query, "group")?).ok()?;
    (group < executor.config.cluster.groups).then(|| GroupId::from_raw(group))
}

/// Answers a request for `/v1/log`: behind which entry the log of a group begins here, up to which it is
/// applied, and how far it goes. A leader that has applied all of it stamps nothing earlier than
/// `unix_ms` from then on.
pub(super) async fn range(executor: &Executor, query: &str) -> Response {
    let Some(group) = group(executor, query) else {
        return Response::text(400, "use ?group=N with a group of this cluster\n");
    };
    let unix_ms = executor.clock().unix_ms;
    let shards = gather(executor).await;
    let mut groups = shards.iter().flat_map(|shard| &shard.groups);
    let Some((status, _)) = groups.find(|(status, _)| status.group == group) else {
        return Response::text(503, "the shard does not answer\n");
    };
    Response::json(
        200,
        format!(
            "{{\"group\":{group},\"role\":\"{}\",\"floor\":{},\"applied\":{},\"last\":{},\"unix_ms\":{unix_ms}}}\n",
            role_name(status.role),
            status.floor,
            status.applied,
            status.last,
        ),
    )
}

/// Answers a request for `/v1/log/entries`: committed entries from one on, as they stand in a log.
pub(super) async fn entries(executor: &Executor, query: &str) -> Response {
    let from = field(query, "from").filter(|&from| from > 0);
    let (Some(group), Some(from)) = (group(executor, query), from) else {
        return Response::text(400, "use ?group=N&from=N, entries are numbered from 1\n");
    };
    let from = LogIndex::from_raw(from);
    let shard = usize::from(executor.config.shard_of_group(group));
    let gathered = Gathered::new(1);
    let answered = gathered.clone();
    let answer = Box::new(move |outcome| answered.put(outcome));
    // A shard that has ended does not answer.
    drop(executor.mailboxes[shard].post(Letter::ReadLog {
        group,
        from,
        answer,
    }));
    match gathered.wait(PATIENCE).await.pop() {
        Some(Ok(bytes)) => Response::bytes(200, bytes),
        Some(Err(reason)) => Response::text(404, reason + "\n"),
        None => Response::text(503, "the shard does not answer\n"),
    }
}

impl Executor {
    /// Reads what is applied and durable here.
    pub(super) fn read_log(self: &Rc<Self>, group: GroupId, from: LogIndex, answer: LogAnswer) {
        let Some(status) = self.group_status(group) else {
            return answer(Err("the node has stopped".into()));
        };
        if from <= status.floor {
            let floor = status.floor;
            return answer(Err(format!("the log begins behind entry {floor}")));
        }
        let to = status.applied.min(status.persisted);
        if from > to {
            return answer(Ok(Vec::new()));
        }
        // Found in the log now, before it is cut; read by the fiber.
        let reading = self.log.read(group, from, to, PIECE_BYTES);
        glommio::spawn_local(async move {
            answer(match reading.await {
                Ok(entries) => {
                    let mut bytes = Vec::new();
                    for entry in &entries {
                        encode_entry(group, entry, &mut bytes);
                    }
                    Ok(bytes)
                }
                Err(error) => Err(error.to_string()),
            });
        })
        .detach();
    }
}
