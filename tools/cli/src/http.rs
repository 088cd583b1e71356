//! One request to a node's admin port.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The body of the answer to `GET path`.
pub(crate) fn get(endpoint: &str, path: &str) -> Result<String, String> {
    ask("GET", endpoint, path, PATIENCE)
}

/// The body of the answer to a request, waited for so long.
pub(crate) fn ask(
    method: &str,
    endpoint: &str,
    path: &str,
    patience: Duration,
) -> Result<String, String> {
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
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .map_err(text)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("it answered no HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(format!("it answered {status}"))
    }
}
