//! Integers as Redis reads and writes them in strings.

/// Reads a decimal `i64` in its only form: no sign but `-`, no leading zeroes, nothing around.
pub(super) fn parse(bytes: &[u8]) -> Option<i64> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let canonical = match digits {
        [b'0'] => digits.len() == bytes.len(),
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    if !canonical || digits.len() > 19 {
        return None;
    }
    // `from_str` also takes a plus, which `digits` cannot start with.
    core::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Room for an `i64` in decimal.
#[derive(Default)]
pub(super) struct Digits([u8; 20]);

impl Digits {
    /// Writes a number and returns its digits.
    pub(super) fn write(&mut self, number: i64) -> &[u8] {
        let mut rest = number.unsigned_abs();
        let mut start = self.0.len();
        loop {
            start -= 1;
            self.0[start] = b'0' + u8::try_from(rest % 10).expect("one digit");
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            start -= 1;
            self.0[start] = b'-';
        }
        &self.0[start..]
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn only_the_canonical_form_is_a_number() {
        for number in [0, 1, -1, 42, i64::MAX, i64::MIN] {
            let mut digits = Digits::default();
            let text = digits.write(number);
            assert_eq!(text, number.to_string().as_bytes());
            assert_eq!(parse(text), Some(number));
        }
        let others: [&[u8]; 11] = [
            b"",
            b"-",
            b"+1",
            b" 1",
            b"1 ",
            b"01",
            b"-0",
            b"-01",
            b"1a",
            b"9223372036854775808",
            b"99999999999999999999",
        ];
        for text in others {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
