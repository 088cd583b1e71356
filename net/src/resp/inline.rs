//! Splits an inline command as a shell would: words, 'single' and "double" quotes with escapes.

use alloc::vec::Vec;

use super::parser::{ProtocolError, Range, range};

/// Appends the words of `line` without their quotes to `words`, and where each lies in it to
/// `ranges`. Like in Redis, a line ends at a NUL.
pub(super) fn split_line(
    line: &[u8],
    words: &mut Vec<u8>,
    ranges: &mut Vec<Range>,
) -> Result<(), ProtocolError> {
    let end = line
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(line.len());
    let mut rest = &line[..end];
    loop {
        rest = skip_space(rest);
        if rest.is_empty() {
            return Ok(());
        }
        let start = words.len();
        rest = word(rest, words).ok_or(ProtocolError::UnbalancedQuotes)?;
        ranges.push(range(start, words.len() - start));
    }
}

/// Reads one word and returns what is behind it; `None` if a quote is not closed, or something
/// sticks to a closing quote.
fn word<'a>(mut rest: &'a [u8], to: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match *rest {
            [] => return Some(rest),
            [byte, ..] if is_space(byte) => return Some(rest),
            [quote @ (b'"' | b'\''), ref inside @ ..] => {
                rest = if quote == b'"' {
                    double_quoted(inside, to)?
                } else {
                    quoted(inside, to)?
                };
                return rest
                    .first()
                    .is_none_or(|&byte| is_space(byte))
                    .then_some(rest);
            }
            [byte, ref behind @ ..] => {
                to.push(byte);
                rest = behind;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], to: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, behind) = match *rest {
            [] => return None,
            [b'"', ref behind @ ..] => return Some(behind),
            [b'\\', b'x', high, low, ref behind @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(high) << 4 | hex(low), behind)
            }
            [b'\\', escaped, ref behind @ ..] => (unescape(escaped), behind),
            [byte, ref behind @ ..] => (byte, behind),
        };
        to.push(byte);
        rest = behind;
    }
}

fn quoted<'a>(mut rest: &'a [u8], to: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, behind) = match *rest {
            [] => return None,
            [b'\'', ref behind @ ..] => return Some(behind),
            [b'\\', b'\'', ref behind @ ..] => (b'\'', behind),
            [byte, ref behind @ ..] => (byte, behind),
        };
        to.push(byte);
        rest = behind;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

fn skip_space(line: &[u8]) -> &[u8] {
    let start = line
        .iter()
        .position(|&byte| !is_space(byte))
        .unwrap_or(line.len());
    &line[start..]
}

/// `isspace` of the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}
