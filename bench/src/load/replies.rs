//! Finds the ends of replies in a stream of RESP2 without keeping them.

/// What a reply said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    Failed,
    Elsewhere(Redirection),
}

/// Another server takes the request (`MOVED` and `ASK` of the Redis cluster specification).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirection {
    pub(crate) slot: u16,
    /// `host:port`
    pub(crate) address: String,
    /// It takes only this request, and only behind `ASKING`; the slot's others stay where they are.
    pub(crate) once: bool,
}

impl Redirection {
    /// Understands an error's text.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let once = match words.next()? {
            "MOVED" => false,
            "ASK" => true,
            _ => return None,
        };
        let (slot, address) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        Some(Self {
            slot,
            address,
            once,
        })
    }
}

/// Where in a reply the stream is.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// The unfinished line.
    line: Vec<u8>,
    /// Bytes of a bulk string still to come, with its line end.
    skip: usize,
    /// The first error that is no redirection, for the report.
    pub(crate) first_error: Option<String>,
}

impl Replies {
    /// Takes bytes as they come and says of each reply that ended in them what it said.
    /// Understands status, error, integer and bulk replies.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut ended: impl FnMut(Answer)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let taken = self.skip.min(bytes.len());
                self.skip -= taken;
                bytes = &bytes[taken..];
                if self.skip == 0 {
                    ended(Answer::Good);
                }
                continue;
            }
            if self.line.is_empty()
                && let Some(rest) = bytes.strip_prefix(b"+OK\r\n")
            {
                bytes = rest;
                ended(Answer::Good);
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

    fn line_ended(&mut self, line: &[u8], ended: &mut impl FnMut(Answer)) {
        let line = line.trim_ascii_end();
        match line.first() {
            Some(b'$') => match length(&line[1..]) {
                Some(length) => self.skip = length + 2,
                None => ended(Answer::Good), // $-1: absent
            },
            Some(b'-') => {
                let text = String::from_utf8_lossy(&line[1..]);
                if let Some(redirection) = Redirection::parse(&text) {
                    return ended(Answer::Elsewhere(redirection));
                }
                self.first_error.get_or_insert_with(|| text.into_owned());
                ended(Answer::Failed);
            }
            _ => ended(Answer::Good),
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
        let stream =
            b"+OK\r\n$3\r\nabc\r\n$-1\r\n-MOVED 7 10.0.0.1:6379\r\n-BUSY try again later\r\n\
            -ASK 8 host:1\r\n:7\r\n$0\r\n\r\n";
        let elsewhere = |slot, address: &str, once| {
            let address = address.to_owned();
            Answer::Elsewhere(Redirection {
                slot,
                address,
                once,
            })
        };
        let expected = [
            Answer::Good,
            Answer::Good,
            Answer::Good,
            elsewhere(7, "10.0.0.1:6379", false),
            Answer::Failed,
            elsewhere(8, "host:1", true),
            Answer::Good,
            Answer::Good,
        ];
        for cut in 0..stream.len() {
            let mut replies = Replies::default();
            let mut found = Vec::new();
            let (first, second) = stream.split_at(cut);
            replies.feed(first, |answer| found.push(answer));
            replies.feed(second, |answer| found.push(answer));
            assert_eq!(found, expected, "cut at {cut}");
            assert_eq!(replies.first_error.as_deref(), Some("BUSY try again later"));
        }
    }
}
