//! Counts replies in a stream of RESP2 without keeping them.

/// What one call of [`Replies::feed`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) replies: usize,
    pub(crate) errors: usize,
}

/// Where in a reply the stream is.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// The unfinished line.
    line: Vec<u8>,
    /// Bytes of a bulk string still to come, with its line end.
    skip: usize,
    /// The first error seen, for the report.
    pub(crate) first_error: Option<String>,
}

impl Replies {
    /// Takes bytes as they come. Understands status, error, integer and bulk replies.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Counted {
        let mut counted = Counted::default();
        while !bytes.is_empty() {
            if self.skip > 0 {
                let taken = self.skip.min(bytes.len());
                self.skip -= taken;
                bytes = &bytes[taken..];
                counted.replies += usize::from(self.skip == 0);
                continue;
            }
            let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                break;
            };
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.line_ended(&mut counted);
            self.line.clear();
        }
        counted
    }

    fn line_ended(&mut self, counted: &mut Counted) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end();
        match text.as_bytes().first() {
            Some(b'$') => match text[1..].parse::<usize>() {
                Ok(length) => self.skip = length + 2,
                Err(_) => counted.replies += 1, // $-1: absent
            },
            Some(b'-') => {
                counted.replies += 1;
                counted.errors += 1;
                self.first_error.get_or_insert_with(|| text[1..].to_owned());
            }
            _ => counted.replies += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_however_they_are_cut() {
        let stream = b"+OK\r\n$3\r\nabc\r\n$-1\r\n-BUSY try again later\r\n:7\r\n$0\r\n\r\n";
        for cut in 0..stream.len() {
            let mut replies = Replies::default();
            let (first, second) = stream.split_at(cut);
            let (a, b) = (replies.feed(first), replies.feed(second));
            assert_eq!(a.replies + b.replies, 6, "cut at {cut}");
            assert_eq!(a.errors + b.errors, 1, "cut at {cut}");
            assert_eq!(replies.first_error.as_deref(), Some("BUSY try again later"));
        }
    }
}
