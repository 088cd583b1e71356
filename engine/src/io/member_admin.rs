//! Members that come and go, over the admin port: one step of one group at a time.

use std::time::Duration;

use net::http::{Request, Response};
use wal::{GroupId, LogIndex, ReplicaId};

use super::executor::Executor;
use super::gathered::Gathered;
use super::mailbox::Letter;
use super::status::quote;
use crate::config::NodeAddress;
use crate::raft::{Change, ChangeError};
use crate::shard::Input;

/// Less than clients wait.
const PATIENCE: Duration = Duration::from_secs(8);

const HELP: &str = "use ?group=N&node=N&change=add&host=HOST&client_port=N&peer_port=N&admin_port=N, \
     change=promote, change=remove or change=hand-over\n";

/// What somebody wants of a group.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    Change(Change),
    /// That another node leads, if this one does.
    HandOver,
}

/// Told once: the entry that makes the change, or why there is none.
pub(super) type ChangeAnswer = Box<dyn FnOnce(Result<LogIndex, ChangeError>) + Send>;

/// Answers a request for `/v1/members`.
pub(super) async fn respond(executor: &Executor, request: &Request) -> Response {
    if request.method != "POST" {
        return Response::text(405, "only POST is answered here\n");
    }
    let Some((group, wish)) = parse(executor, &request.query) else {
        return Response::text(400, HELP);
    };
    let shard = usize::from(executor.config.shard_of_group(group));
    let gathered = Gathered::new(1);
    let answered = gathered.clone();
    let answer = Box::new(move |outcome| answered.put(outcome));
    let letter = Letter::Members {
        group,
        wish,
        answer,
    };
    // A shard that has ended does not answer.
    drop(executor.mailboxes[shard].post(letter));
    match gathered.wait(PATIENCE).await.pop() {
        Some(Ok(index)) => {
            Response::json(200, format!("{{\"group\":{group},\"index\":{index}}}\n"))
        }
        Some(Err(error)) => {
            let leader = executor.routes.leader(group);
            let leader = leader.map_or_else(|| "null".to_owned(), |node| node.to_string());
            let (code, text) = (code(&error), quote(&error.to_string()));
            Response::json(
                409,
                format!("{{\"code\":\"{code}\",\"error\":{text},\"leader\":{leader}}}\n"),
            )
        }
        None => Response::text(503, "the shard does not answer\n"),
    }
}

/// For programs.
fn code(error: &ChangeError) -> &'static str {
    match error {
        ChangeError::NotLeader => "NotLeader",
        ChangeError::Unsettled => "Unsettled",
        ChangeError::Removed(_) => "Removed",
        ChangeError::NoMember(_) => "NoMember",
        ChangeError::Elsewhere(..) => "Elsewhere",
        ChangeError::Lags { .. } => "Lags",
        ChangeError::Leads(_) => "Leads",
        ChangeError::LastVoter(_) => "LastVoter",
        ChangeError::NoMajority { .. } => "NoMajority",
        ChangeError::Silent(_) => "Silent",
        ChangeError::Asked => "Asked",
        ChangeError::Address => "Address",
        ChangeError::Disk => "Disk",
        ChangeError::TooMany => "TooMany",
    }
}

fn parse(executor: &Executor, query: &str) -> Option<(GroupId, Wish)> {
    let field = |name: &str| {
        let mut fields = query.split('&').filter_map(|field| field.split_once('='));
        fields.find(|(found, _)| *found == name).map(|(_, it)| it)
    };
    let group: u32 = field("group")?.parse().ok()?;
    let group = (group < executor.config.cluster.groups).then(|| GroupId::from_raw(group))?;
    let node: u32 = field("node")?.parse().ok().filter(|&node| node > 0)?;
    let replica = ReplicaId::from_raw(node);
    let wish = match field("change")? {
        "add" => {
            let fields = ["host", "client_port", "peer_port", "admin_port"].map(field);
            let [host, client, peer, admin] = fields;
            let text = format!("{} {} {} {}", host?, client?, peer?, admin.unwrap_or("0"));
            let address = NodeAddress::parse(node, &text)?;
            Wish::Change(Change::AddObserver(replica, address.text()))
        }
        "promote" => Wish::Change(Change::Promote(replica)),
        "remove" => Wish::Change(Change::Remove(replica)),
        "hand-over" => Wish::HandOver,
        _ => return None,
    };
    Some((group, wish))
}

impl Executor {
    /// Does what somebody wants of a group here.
    pub(super) fn change(&self, group: GroupId, wish: &Wish) -> Result<LogIndex, ChangeError> {
        match wish {
            Wish::Change(change) => self.change_members(group, change),
            Wish::HandOver => {
                self.step(self.clock(), Input::Transfer { group, to: None });
                let status = self.group_status(group);
                Ok(status.map_or(LogIndex::ZERO, |status| status.last))
            }
        }
    }
}
