//! What a node's admin port answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// A node answers within a second what it knows by then; who asks for that asks again.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Head and body of the answer to `GET path`; nothing if there is none.
pub fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// `/v1/status`; nothing if there is no answer, or not all of it.
pub fn status(port: u16) -> Option<Value> {
    let text = get(port, "/v1/status")?;
    serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
}

/// The groups of a status; none if it has no answer.
pub fn groups(port: u16) -> Vec<Value> {
    let status = status(port).unwrap_or_default();
    status["groups"].as_array().cloned().unwrap_or_default()
}
