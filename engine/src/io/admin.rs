//! The admin port: status and health over HTTP, on the first shard's thread.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use glommio::net::TcpListener;
use glommio::timer::{sleep, timeout};
use net::http::{Request, RequestError, Response};

use crate::shard::DiskState;

use super::costs;
use super::executor::Executor;
use super::gathered::Gathered;
use super::log_admin;
use super::mailbox::Letter;
use super::member_admin;
use super::metrics;
use super::snapshot_admin;
use super::socket::Socket;
use super::status::{self, ShardStatus, disk_name};

const CONNECTIONS_MAX: usize = 64;
/// For a request to be there, from the answer to the one before it, and for an answer to be taken.
const IDLE_MAX: Duration = Duration::from_secs(10);
const GATHER_MAX: Duration = Duration::from_secs(1);

/// Answers requests, for ever.
pub(super) async fn accept(executor: Rc<Executor>, listener: TcpListener) {
    let connections = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok(stream) if connections.get() < CONNECTIONS_MAX => {
                let (executor, connections) = (executor.clone(), connections.clone());
                connections.set(connections.get() + 1);
                glommio::spawn_local(async move {
                    let socket = Socket::new(stream, executor.ring.clone());
                    // Silence and broken connections end alike: nobody is there to be told.
                    drop(serve(&executor, &socket).await);
                    socket.close();
                    connections.set(connections.get() - 1);
                })
                .detach();
            }
            Ok(stream) => {
                let socket = Socket::new(stream, executor.ring.clone());
                glommio::spawn_local(async move {
                    let mut bytes = Vec::new();
                    let text = format!("{CONNECTIONS_MAX} connections are open already\n");
                    Response::text(503, text).write(false, &mut bytes);
                    // It fits what the kernel takes at once. Who is gone need not be told.
                    drop(socket.write_all(&bytes).await);
                    socket.close();
                })
                .detach();
            }
            Err(error) => {
                tracing::warn!(event = "admin.accept_failed", %error);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(executor: &Executor, socket: &Socket) -> std::io::Result<()> {
    let mut buffer = vec![0; net::http::HEAD_BYTES_MAX];
    let mut end = 0;
    loop {
        let Some(received) = in_time(receive(socket, &mut buffer, &mut end)).await? else {
            return Ok(());
        };
        // What is asked for has limits of its own, after which there is an answer as well.
        let (response, keep_alive, used) = match received {
            Ok(request) => (
                respond(executor, &request).await,
                request.keep_alive,
                request.bytes,
            ),
            Err(error) => (
                Response::text(error.status(), format!("{error}\n")),
                false,
                end,
            ),
        };
        let mut bytes = Vec::new();
        response.write(keep_alive, &mut bytes);
        in_time(socket.write_all(&bytes)).await?;
        if !keep_alive {
            return Ok(());
        }
        buffer.copy_within(used..end, 0);
        end -= used;
    }
}

/// The request at the start of the buffer, of which so many bytes are filled, once it is there; nothing if
/// the connection ends before.
async fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    end: &mut usize,
) -> std::io::Result<Option<Result<Request, RequestError>>> {
    loop {
        match Request::parse(&buffer[..*end]) {
            Ok(Some(request)) => return Ok(Some(Ok(request))),
            Ok(None) if *end == buffer.len() => return Ok(Some(Err(RequestError::TooLarge))),
            Ok(None) => {}
            Err(error) => return Ok(Some(Err(error))),
        }
        let bytes = socket.read(&mut buffer[*end..]).await?;
        if bytes == 0 {
            return Ok(None);
        }
        *end += bytes;
    }
}

/// What the other side has a hand in may take so long.
async fn in_time<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    let done = timeout(IDLE_MAX, async { Ok(work.await) }).await;
    done.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

async fn respond(executor: &Executor, request: &Request) -> Response {
    if request.path == "/v1/snapshots/file" && request.method == "GET" {
        return snapshot_admin::read(executor, &request.query).await;
    }
    if request.path == "/v1/snapshots" {
        return snapshot_admin::respond(executor, request).await;
    }
    if request.path == "/v1/members" {
        return member_admin::respond(executor, request).await;
    }
    if request.method != "GET" {
        return Response::text(405, "only GET is answered here\n");
    }
    match request.path.as_str() {
        "/healthz" | "/livez" => Response::text(200, "ok\n"),
        "/readyz" => ready(executor, &gather(executor).await),
        "/v1/membership" => {
            let register = &executor.register;
            Response::json(200, register.json(&executor.config.cluster.id))
        }
        "/v1/status" => {
            let shards = gather(executor).await;
            Response::json(200, status::json(&executor.config, &shards) + "\n")
        }
        "/metrics" => {
            let shards = gather(executor).await;
            let text = metrics::text(&executor.config, executor.clock().now, &shards);
            Response {
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                ..Response::text(200, text)
            }
        }
        "/v1/log" => log_admin::range(executor, &request.query).await,
        "/v1/log/entries" => log_admin::entries(executor, &request.query).await,
        "/v1/stages" => {
            let shards = gather(executor).await;
            let node = executor.config.node();
            Response::json(200, costs::json(node, &shards) + "\n")
        }
        _ => Response::text(
            404,
            "not found; try /healthz, /readyz, /metrics, /v1/status, /v1/stages, /v1/membership, \
             /v1/members, /v1/snapshots, /v1/snapshots/file, /v1/log, /v1/log/entries\n",
        ),
    }
}

/// Ready: not stopping, every shard answers, every disk takes writes, and every group has a leader.
fn ready(executor: &Executor, shards: &[ShardStatus]) -> Response {
    let mut lines = String::new();
    let mut check = |name: &str, trouble: Option<String>| match trouble {
        None => lines.push_str(&format!("[+]{name} ok\n")),
        Some(why) => lines.push_str(&format!("[-]{name} failed: {why}\n")),
    };
    let stopping = executor.stopping.get();
    check(
        "running",
        stopping.then(|| "the node is stopping".to_owned()),
    );
    let wanted = usize::from(executor.config.cluster.shards);
    let silent = wanted - shards.len();
    check(
        "shards",
        (silent > 0).then(|| format!("{silent} of {wanted} do not answer")),
    );
    let unwell = |shard: &&ShardStatus| {
        let state = shard.disk.state;
        matches!(state, DiskState::Full | DiskState::Failed)
    };
    let unwell: Vec<String> = shards
        .iter()
        .filter(unwell)
        .map(|shard| format!("shard {} is {}", shard.shard, disk_name(shard.disk.state)))
        .collect();
    let disks = unwell.is_empty();
    check("disk", (!disks).then(|| unwell.join(", ")));
    let groups = shards.iter().flat_map(|shard| &shard.groups);
    let leaderless: Vec<String> = groups
        .filter(|(group, _)| group.leader.is_none())
        .map(|(group, _)| group.group.to_string())
        .collect();
    let none = leaderless.is_empty();
    check(
        "leaders",
        (!none).then(|| format!("no leader in groups {}", leaderless.join(", "))),
    );
    let well = !stopping && silent == 0 && disks && none;
    Response::text(if well { 200 } else { 503 }, lines)
}

/// The status of all shards that answer in time.
pub(super) async fn gather(executor: &Executor) -> Vec<ShardStatus> {
    let gathered = Gathered::new(executor.mailboxes.len());
    for mailbox in executor.mailboxes.iter() {
        let gathered = gathered.clone();
        let inspect = move |status| gathered.put(status);
        // A shard that has ended is missing from the answer.
        drop(mailbox.post(Letter::Inspect(Box::new(inspect))));
    }
    let mut shards = gathered.wait(GATHER_MAX).await;
    shards.sort_by_key(|status| status.shard);
    shards
}
