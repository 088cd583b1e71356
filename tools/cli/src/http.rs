//! One request to a node's admin port.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// A machine that is there accepts a connection at once, or has too much to do.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A node says how it is within a second, with what it knows by then.
const STATE_MAX: Duration = Duration::from_secs(5);
/// It gives up within eight seconds what needs its disk, and says so. The rest is for a machine that stalls:
/// who goes away earlier is not told how it ended.
const WORK_MAX: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The body of the answer to `GET path`.
pub(crate) fn get(endpoint: &str, path: &str) -> Result<String, String> {
    text(exchange("GET", endpoint, path, STATE_MAX)?)
}

/// The body of the answer to `GET path`, which may hold anything.
pub(crate) fn get_bytes(endpoint: &str, path: &str) -> Result<Vec<u8>, String> {
    exchange("GET", endpoint, path, WORK_MAX)
}

/// The body of the answer to a request that may need the node's disk.
pub(crate) fn ask(method: &str, endpoint: &str, path: &str) -> Result<String, String> {
    text(exchange(method, endpoint, path, WORK_MAX)?)
}

/// The status and the body, if that is JSON, of the answer to `POST path`.
pub(crate) fn post(endpoint: &str, path: &str) -> Result<(u16, Value), String> {
    let (status, body) = answer("POST", endpoint, path, WORK_MAX)?;
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let said = || Value::from(String::from_utf8_lossy(&body).trim());
    let json = serde_json::from_slice(&body).unwrap_or_else(|_| said());
    Ok((code.ok_or("it answered no HTTP")?, json))
}

fn text(body: Vec<u8>) -> Result<String, String> {
    String::from_utf8(body).map_err(|_| "it answered no text".to_owned())
}

fn exchange(
    method: &str,
    endpoint: &str,
    path: &str,
    patience: Duration,
) -> Result<Vec<u8>, String> {
    let (status, body) = answer(method, endpoint, path, patience)?;
    if status.split(' ').nth(1) == Some("200") {
        Ok(body)
    } else {
        Err(format!(
            "it answered {status}: {}",
            String::from_utf8_lossy(&body).trim()
        ))
    }
}

/// The line with the status, and the body.
fn answer(
    method: &str,
    endpoint: &str,
    path: &str,
    patience: Duration,
) -> Result<(String, Vec<u8>), String> {
    let said = |error: Error| error.to_string();
    let late = |error: Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("it did not answer within {patience:?}")
        }
        _ => error.to_string(),
    };
    let address = endpoint
        .to_socket_addrs()
        .map_err(said)?
        .next()
        .ok_or("it has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_MAX).map_err(said)?;
    stream.set_read_timeout(Some(patience)).map_err(said)?;
    stream.set_write_timeout(Some(CONNECT_MAX)).map_err(said)?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(said)?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .map_err(late)?;
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
    Ok((status.to_owned(), body.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_said_to_be_late() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let endpoint = listener.local_addr().expect("it has one").to_string();
        let answer = exchange("GET", &endpoint, "/", Duration::from_millis(20));
        assert_eq!(answer, Err("it did not answer within 20ms".to_owned()));
    }
}
