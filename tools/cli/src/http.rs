//! One request to a node's admin port.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
/// Reading a part of a file may take longer on a busy disk.
const LONG: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The body of the answer to `GET path`.
pub(crate) fn get(endpoint: &str, path: &str) -> Result<String, String> {
    ask("GET", endpoint, path, PATIENCE)
}

/// The body of the answer to `GET path`, which may hold anything.
pub(crate) fn get_bytes(endpoint: &str, path: &str) -> Result<Vec<u8>, String> {
    exchange("GET", endpoint, path, LONG)
}

/// The body of the answer to a request, waited for so long.
pub(crate) fn ask(
    method: &str,
    endpoint: &str,
    path: &str,
    patience: Duration,
) -> Result<String, String> {
    let body = exchange(method, endpoint, path, patience)?;
    String::from_utf8(body).map_err(|_| "it answered no text".to_owned())
}

fn exchange(
    method: &str,
    endpoint: &str,
    path: &str,
    patience: Duration,
) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    let address = endpoint
        .to_socket_addrs()
        .map_err(text)?
        .next()
        .ok_or("it has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(text)?;
    stream.set_read_timeout(Some(patience)).map_err(text)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(text)?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .map_err(text)?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.ok_or("it answered no HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.lines().next().unwrap_or_default();
    let body = &answer[end + 4..];
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.parse::<usize>().ok());
    if length.is_some_and(|length| length != body.len()) {
        return Err("its answer was cut off".to_owned());
    }
    if status.split(' ').nth(1) == Some("200") {
        Ok(body.to_vec())
    } else {
        Err(format!(
            "it answered {status}: {}",
            String::from_utf8_lossy(body).trim()
        ))
    }
}
