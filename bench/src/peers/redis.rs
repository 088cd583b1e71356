//! One Redis that answers a write when it is durable.

use std::io::{Read, Write};
use std::process::Command;

use super::{Servers, connect};

pub(super) fn start(servers: &mut Servers) -> Result<(), String> {
    let port = servers.reserve(1)?;
    servers.addresses = vec![([127, 0, 0, 1], port).into()];
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .args(["--save", "", "--daemonize", "no", "--dir"])
        .arg(&servers.directory);
    servers.spawn("redis", &mut command)?;
    servers.wait_until(|address| {
        let mut answer = [0; 7];
        connect(address).is_some_and(|mut stream| {
            stream.write_all(b"PING\r\n").is_ok()
                && stream.read_exact(&mut answer).is_ok()
                && answer == *b"+PONG\r\n"
        })
    })
}
