//! What a node says of itself at its admin port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Entries that all groups of a cluster have committed; `None` if the node does not say.
pub(super) fn entries(admin_endpoint: &str) -> Option<u64> {
    let body = get(admin_endpoint, "/v1/status").ok()?;
    committed(&serde_json::from_str(&body).ok()?)
}

fn committed(status: &serde_json::Value) -> Option<u64> {
    let groups = status.get("groups")?.as_array()?;
    groups
        .iter()
        .map(|group| group.get("commit")?.as_u64())
        .sum()
}

/// The body of the answer to `GET path`.
pub(crate) fn get(endpoint: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(endpoint)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    body.ok_or_else(|| std::io::Error::other("no HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_all_groups_are_added_up() {
        let status = serde_json::json!({"groups": [{"commit": 3}, {"commit": 4}]});
        assert_eq!(committed(&status), Some(7));
        assert_eq!(committed(&serde_json::json!({"groups": [{}]})), None);
    }
}
