//! Finds commands in what a client sent: multibulk arrays and inline lines, from any split of the
//! bytes. Arguments stay where they were received, and no byte is looked at twice.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Deref;

use super::inline::split_line;
use super::number::parse_integer;

/// Longest run of ranges that is kept for the next command.
const RANGES_KEPT: usize = 1024;
/// Arguments that need no allocation to be handed out.
const ARGUMENTS_INLINE: usize = 8;

/// What a client may make the server hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one argument.
    pub bulk_bytes: usize,
    /// Arguments of one command, its name included.
    pub arguments: usize,
    /// Bytes of an inline command, and of the header lines of the others.
    pub inline_bytes: usize,
    /// Bytes of a whole command as it was sent. Below 4 GiB.
    pub command_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bulk_bytes: 16 << 20,
            arguments: 1 << 20,
            inline_bytes: 64 << 10,
            command_bytes: 64 << 20,
        }
    }
}

/// Why a connection cannot go on. The text is the whole reply line; close the connection behind it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("ERR Protocol error: expected '$', got '{found}'")]
    ExpectedBulk { found: char },
    #[error("ERR Protocol error: invalid multibulk length")]
    ArrayLength,
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    #[error("ERR Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("ERR Protocol error: too big inline request")]
    InlineTooBig,
    #[error("ERR Protocol error: too big mbulk count string")]
    ArrayHeaderTooBig,
    #[error("ERR Protocol error: too big bulk count string")]
    BulkHeaderTooBig,
    #[error("ERR Protocol error: command exceeds {bytes_max} bytes")]
    CommandTooBig { bytes_max: usize },
}

/// Where an argument lies, relative to the first byte of its command or of the split line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) length: u32,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first byte of a command.
    Start,
    /// The header line of an argument.
    Header,
    /// An argument of so many bytes and its line end.
    Body(usize),
    /// The last command was handed out.
    Done,
}

/// The place in a client's bytes. One per connection.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    phase: Phase,
    /// Offset in the command of the first byte not understood yet.
    at: usize,
    /// Offset before which the current line has no end.
    scanned: usize,
    /// Arguments still to come.
    missing: usize,
    ranges: Vec<Range>,
    /// The arguments of an inline command without their quotes.
    line: Vec<u8>,
    inline: bool,
}

impl Parser {
    /// A parser at the start of a connection.
    pub fn new(limits: Limits) -> Self {
        assert!(u32::try_from(limits.command_bytes).is_ok());
        assert!(u32::try_from(limits.inline_bytes).is_ok());
        assert!(limits.bulk_bytes <= limits.command_bytes);
        Self {
            limits,
            phase: Phase::Start,
            at: 0,
            scanned: 0,
            missing: 0,
            ranges: Vec::new(),
            line: Vec::new(),
            inline: false,
        }
    }

    /// Looks for one command at the start of `buffer`.
    ///
    /// `Some(used)`: it is the first `used` bytes and [`Parser::arguments`] are its arguments
    /// (none for an empty line); go on with the rest. `None`: it is incomplete; call again with the
    /// same bytes and more behind them.
    pub fn parse(&mut self, buffer: &[u8]) -> Result<Option<usize>, ProtocolError> {
        if self.phase == Phase::Done {
            self.reset();
        }
        if self.phase == Phase::Start {
            match buffer.first() {
                None => return Ok(None),
                Some(b'*') => {}
                Some(_) => return self.parse_line(buffer),
            }
            let Some(count) = self.header(buffer, ProtocolError::ArrayHeaderTooBig)? else {
                return Ok(None);
            };
            let count = count.ok_or(ProtocolError::ArrayLength)?;
            if count <= 0 {
                return Ok(Some(self.done()));
            }
            self.missing = usize::try_from(count)
                .ok()
                .filter(|&count| count <= self.limits.arguments)
                .ok_or(ProtocolError::ArrayLength)?;
            self.phase = Phase::Header;
        }
        self.parse_bulks(buffer)
    }

    /// The arguments of the command that [`Parser::parse`] just found in the same `buffer`.
    #[inline]
    pub fn arguments<'b>(&'b self, buffer: &'b [u8]) -> Arguments<'b> {
        assert!(self.phase == Phase::Done, "no command was found");
        let bytes = if self.inline { &self.line } else { buffer };
        let slice = |range: &Range| {
            let start = range.start as usize;
            &bytes[start..start + range.length as usize]
        };
        let mut arguments = Arguments {
            few: [&[]; ARGUMENTS_INLINE],
            count: 0,
            many: Vec::new(),
        };
        if self.ranges.len() <= ARGUMENTS_INLINE {
            for (to, range) in arguments.few.iter_mut().zip(&self.ranges) {
                *to = slice(range);
            }
            arguments.count = self.ranges.len();
        } else {
            arguments.many = self.ranges.iter().map(slice).collect();
        }
        arguments
    }

    /// Bytes behind those of an incomplete command that the current argument is known to need; a
    /// claim of the client's, within [`Limits::bulk_bytes`]: do not allocate by it.
    pub fn missing_bytes(&self, buffer: &[u8]) -> usize {
        match self.phase {
            Phase::Body(length) => (self.at + length + 2).saturating_sub(buffer.len()),
            Phase::Start | Phase::Header | Phase::Done => 0,
        }
    }

    fn parse_bulks(&mut self, buffer: &[u8]) -> Result<Option<usize>, ProtocolError> {
        while self.missing > 0 {
            if self.phase == Phase::Header {
                let start = self.at;
                let Some(length) = self.header(buffer, ProtocolError::BulkHeaderTooBig)? else {
                    return Ok(None);
                };
                if buffer[start] != b'$' {
                    return Err(ProtocolError::ExpectedBulk {
                        found: char::from(buffer[start]),
                    });
                }
                let length = length
                    .and_then(|length| usize::try_from(length).ok())
                    .filter(|&length| length <= self.limits.bulk_bytes)
                    .ok_or(ProtocolError::BulkLength)?;
                if self.at + length + 2 > self.limits.command_bytes {
                    let bytes_max = self.limits.command_bytes;
                    return Err(ProtocolError::CommandTooBig { bytes_max });
                }
                self.phase = Phase::Body(length);
            }
            let Phase::Body(length) = self.phase else {
                unreachable!("an argument has a header and a body");
            };
            // Like Redis, the two bytes behind an argument are skipped, whatever they are.
            let end = self.at + length + 2;
            if buffer.len() < end {
                return Ok(None);
            }
            self.ranges.push(range(self.at, length));
            self.at = end;
            self.scanned = end;
            self.missing -= 1;
            self.phase = Phase::Header;
        }
        Ok(Some(self.done()))
    }

    /// The number on the line at `at`, behind its first byte; `Some(None)` if it is not one.
    fn header(
        &mut self,
        buffer: &[u8],
        too_big: ProtocolError,
    ) -> Result<Option<Option<i64>>, ProtocolError> {
        if let Some((number, length)) = short_header(&buffer[self.at..]) {
            self.at += length;
            self.scanned = self.at;
            return Ok(Some(Some(number)));
        }
        let end = buffer[self.scanned..]
            .iter()
            .position(|&byte| byte == b'\r');
        let end = self.scanned + end.unwrap_or(buffer.len() - self.scanned);
        if end - self.at > self.limits.inline_bytes {
            return Err(too_big);
        }
        self.scanned = end;
        // Both bytes of the line end, so that the next line starts behind them.
        if end + 2 > buffer.len() {
            return Ok(None);
        }
        let number = buffer.get(self.at + 1..end).and_then(parse_integer);
        self.at = end + 2;
        self.scanned = self.at;
        Ok(Some(number))
    }

    fn parse_line(&mut self, buffer: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let end = buffer[self.scanned..]
            .iter()
            .position(|&byte| byte == b'\n');
        let length = self.scanned + end.unwrap_or(buffer.len() - self.scanned);
        if length > self.limits.inline_bytes {
            return Err(ProtocolError::InlineTooBig);
        }
        self.scanned = length;
        if end.is_none() {
            return Ok(None);
        }
        let line = &buffer[..length];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        split_line(line, &mut self.line, &mut self.ranges)?;
        if self.ranges.len() > self.limits.arguments {
            return Err(ProtocolError::ArrayLength);
        }
        self.inline = true;
        self.at = length + 1;
        Ok(Some(self.done()))
    }

    fn done(&mut self) -> usize {
        self.phase = Phase::Done;
        self.at
    }

    fn reset(&mut self) {
        self.phase = Phase::Start;
        self.at = 0;
        self.scanned = 0;
        self.missing = 0;
        self.inline = false;
        self.line.clear();
        self.ranges.clear();
        if self.ranges.capacity() > RANGES_KEPT {
            self.ranges.shrink_to(RANGES_KEPT);
        }
    }
}

/// The number of a whole header line and the length of the line, for those that clients really send:
/// up to eight digits. Everything else takes the long way.
fn short_header(line: &[u8]) -> Option<(i64, usize)> {
    let mut number = 0i64;
    for (at, &byte) in line.iter().enumerate().take(10).skip(1) {
        match byte {
            b'0'..=b'9' => number = number * 10 + i64::from(byte - b'0'),
            b'\r' if at > 1 && line.len() > at + 1 && (line[1] != b'0' || at == 2) => {
                return Some((number, at + 2));
            }
            _ => return None,
        }
    }
    None
}

/// A range of a command. Its bytes were counted against [`Limits::command_bytes`], below 4 GiB.
pub(super) fn range(start: usize, length: usize) -> Range {
    let narrow = |number| u32::try_from(number).expect("a command is shorter than 4 GiB");
    Range {
        start: narrow(start),
        length: narrow(length),
    }
}

/// The arguments of one command, borrowed from where they were received. Derefs to a slice.
#[derive(Debug)]
pub struct Arguments<'b> {
    few: [&'b [u8]; ARGUMENTS_INLINE],
    count: usize,
    many: Vec<&'b [u8]>,
}

impl<'b> Deref for Arguments<'b> {
    type Target = [&'b [u8]];

    #[inline]
    fn deref(&self) -> &Self::Target {
        if self.many.is_empty() {
            &self.few[..self.count]
        } else {
            &self.many
        }
    }
}

impl From<ProtocolError> for crate::Reply {
    fn from(error: ProtocolError) -> Self {
        let text: String = alloc::format!("{error}");
        Self::Error(crate::ErrorReply::Other(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_length_allocates_nothing() {
        for claim in [
            "*1048576\r\n",
            "*1048576\r\n$16777216\r\n",
            "*2\r\n$16777216\r\nab",
        ] {
            let mut parser = Parser::new(Limits::default());
            assert_eq!(parser.parse(claim.as_bytes()), Ok(None));
            assert_eq!(parser.ranges.capacity(), 0, "{claim:?}");
            assert!(parser.missing_bytes(claim.as_bytes()) <= (16 << 20) + 2);
        }
    }

    #[test]
    fn a_line_has_no_more_arguments_than_an_array() {
        let limits = Limits {
            arguments: 16,
            ..Limits::default()
        };
        let line = |arguments: usize| [b"a ".repeat(arguments), b"\n".to_vec()].concat();
        assert_eq!(Parser::new(limits).parse(&line(16)), Ok(Some(33)));
        let refused = Err(ProtocolError::ArrayLength);
        assert_eq!(Parser::new(limits).parse(&line(17)), refused);
        let array = b"*17\r\n$1\r\n";
        assert_eq!(Parser::new(limits).parse(array), refused);
    }

    #[test]
    fn the_ranges_of_a_huge_command_are_given_back() {
        let mut parser = Parser::new(Limits::default());
        let mut huge = b"*100000\r\n".to_vec();
        for _ in 0..100_000 {
            huge.extend_from_slice(b"$0\r\n\r\n");
        }
        assert_eq!(parser.parse(&huge), Ok(Some(huge.len())));
        assert_eq!(parser.arguments(&huge).len(), 100_000);
        assert_eq!(parser.parse(b"PING\n"), Ok(Some(5)));
        assert!(parser.ranges.capacity() <= RANGES_KEPT);
    }
}
