//! Finds the ends of replies in a stream of RESP2 without keeping them.

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
    /// Takes bytes as they come and says for each reply that ended in them whether it was good.
    /// Understands status, error, integer and bulk replies.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut ended: impl FnMut(bool)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let taken = self.skip.min(bytes.len());
                self.skip -= taken;
                bytes = &bytes[taken..];
                if self.skip == 0 {
                    ended(true);
                }
                continue;
            }
            if self.line.is_empty()
                && let Some(rest) = bytes.strip_prefix(b"+OK\r\n")
            {
                bytes = rest;
                ended(true);
                continue;
            }
            let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                break;
            };
            if self.line.is_empty() {
                self.line_ended(&bytes[..end], &mut ended);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.line_ended(&line, &mut ended);
                line.clear();
                self.line = line;
            }
            bytes = &bytes[end + 1..];
        }
    }

    fn line_ended(&mut self, line: &[u8], ended: &mut impl FnMut(bool)) {
        let line = line.trim_ascii_end();
        match line.first() {
            Some(b'$') => match length(&line[1..]) {
                Some(length) => self.skip = length + 2,
                None => ended(true), // $-1: absent
            },
            Some(b'-') => {
                self.first_error
                    .get_or_insert_with(|| String::from_utf8_lossy(&line[1..]).into_owned());
                ended(false);
            }
            _ => ended(true),
        }
    }
}

fn length(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_found_however_they_are_cut() {
        let stream = b"+OK\r\n$3\r\nabc\r\n$-1\r\n-BUSY try again later\r\n:7\r\n$0\r\n\r\n";
        for cut in 0..stream.len() {
            let mut replies = Replies::default();
            let mut found = Vec::new();
            let (first, second) = stream.split_at(cut);
            replies.feed(first, |good| found.push(good));
            replies.feed(second, |good| found.push(good));
            assert_eq!(found, [true, true, true, false, true, true], "cut at {cut}");
            assert_eq!(replies.first_error.as_deref(), Some("BUSY try again later"));
        }
    }
}
