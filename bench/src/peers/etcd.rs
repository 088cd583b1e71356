//! Three etcd nodes.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

use super::{Servers, connect};

const NODES: u16 = 3;
/// etcd refuses writes above this much data, 2 GB unless told.
const QUOTA_BYTES: u64 = 8 << 30;

pub(super) fn start(servers: &mut Servers) -> Result<(), String> {
    let first = servers.reserve(2 * NODES)?;
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let peers = (0..NODES).map(|node| format!("n{node}={}", url(first + NODES + node)));
    let cluster = peers.collect::<Vec<_>>().join(",");
    for node in 0..NODES {
        let (client, peer) = (url(first + node), url(first + NODES + node));
        let name = format!("n{node}");
        let mut command = Command::new("etcd");
        command
            .args(["--name", &name, "--initial-cluster", &cluster])
            .args(["--initial-cluster-state", "new"])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--quota-backend-bytes",
                &QUOTA_BYTES.to_string(),
                "--data-dir",
            ])
            .arg(servers.directory.join(&name));
        servers.spawn(&name, &mut command)?;
        servers
            .addresses
            .push(([127, 0, 0, 1], first + node).into());
    }
    servers.wait_until(is_healthy)
}

/// Whether a node knows a leader, as it says itself.
fn is_healthy(address: SocketAddr) -> bool {
    let mut answer = String::new();
    connect(address).is_some_and(|mut stream| {
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains("\"health\":\"true\"")
    })
}
