//! As much of HTTP/1.1 as an admin port needs: one request without a body, one response.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Longest request head that is read.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

const HEADERS_MAX: usize = 64;

/// A request's line and what decides about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Behind the `?`; empty if there is none.
    pub query: String,
    /// Whether the client wants to send another request on this connection.
    pub keep_alive: bool,
    /// Bytes of the head: the next request starts there.
    pub bytes: usize,
}

/// Why a request is refused; answer with [`RequestError::status`] and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    #[error("the request is not HTTP/1.x")]
    Malformed,
    #[error("the request head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLarge,
    #[error("requests with a body are not accepted here")]
    Body,
}

impl RequestError {
    /// The status to answer with.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::TooLarge => 431,
            Self::Body => 413,
        }
    }
}

impl Request {
    /// The request at the start of `bytes`, or `None` until its head is whole.
    ///
    /// # Errors
    ///
    /// When it can never become a request that is served here.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, RequestError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let head = match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => {
                return Err(RequestError::TooLarge);
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(RequestError::TooLarge),
            Err(_) => return Err(RequestError::Malformed),
        };
        let mut keep_alive = parsed.version == Some(1);
        for header in parsed.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") && header.value != b"0"
                || header.name.eq_ignore_ascii_case("transfer-encoding")
            {
                return Err(RequestError::Body);
            }
            if header.name.eq_ignore_ascii_case("connection") {
                keep_alive = header.value.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        let target = parsed.path.unwrap_or("/");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Some(Self {
            method: parsed.method.unwrap_or_default().to_string(),
            path: path.to_string(),
            query: query.to_string(),
            keep_alive,
            bytes: head,
        }))
    }
}

/// A whole response in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Response {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into().into_bytes(),
        }
    }

    /// Bytes as they are.
    pub fn bytes(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            content_type: "application/octet-stream",
            body,
        }
    }

    /// JSON that is already text.
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "application/json",
            body: body.into().into_bytes(),
        }
    }

    /// Appends the bytes of the response.
    pub fn write(&self, keep_alive: bool, to: &mut Vec<u8>) {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "",
        };
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let allow = if self.status == 405 {
            "Allow: GET\r\n"
        } else {
            ""
        };
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             X-Content-Type-Options: nosniff\r\n{allow}Connection: {connection}\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len(),
        );
        to.extend_from_slice(head.as_bytes());
        to.extend_from_slice(&self.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_once_its_head_is_whole() {
        let bytes = b"GET /v1/status?x=1 HTTP/1.1\r\nHost: a\r\n\r\nGET";
        let head = bytes.len() - 3;
        for cut in 0..head {
            assert_eq!(Request::parse(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        let request = Request::parse(bytes).unwrap().unwrap();
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("GET", "/v1/status")
        );
        assert_eq!((request.query.as_str(), request.keep_alive), ("x=1", true));
        assert_eq!(request.bytes, head);
    }

    #[test]
    fn what_is_not_served_is_refused_with_a_status() {
        let table: &[(&[u8], u16)] = &[
            (b"\x16\x03\x01", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 413),
            (
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                413,
            ),
        ];
        for (bytes, status) in table {
            assert_eq!(Request::parse(bytes).unwrap_err().status(), *status);
        }
        let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
        long.resize(HEAD_BYTES_MAX, b'x');
        assert_eq!(Request::parse(&long), Err(RequestError::TooLarge));
    }

    #[test]
    fn a_response_says_how_long_it_is() {
        let mut bytes = Vec::new();
        Response::text(503, "no").write(false, &mut bytes);
        let text = core::str::from_utf8(&bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(text.contains("Content-Length: 2\r\n") && text.ends_with("close\r\n\r\nno"));
    }
}
