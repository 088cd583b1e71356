//! Integers as Redis reads and writes them: decimal, with no sign but `-`, no leading zero, no space.

use alloc::vec::Vec;

/// The number that `text` is, if it is exactly how that number is written.
pub(super) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Downwards, because the lowest number has no positive counterpart.
    let mut value = 0i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value
            .checked_mul(10)?
            .checked_sub(i64::from(digit - b'0'))?;
    }
    if negative {
        Some(value)
    } else {
        value.checked_neg()
    }
}

/// Appends a number in decimal.
pub(super) fn push_integer(value: i64, to: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(rest % 10).expect("a digit is below 10");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        to.push(b'-');
    }
    to.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_of_a_number_is_one() {
        #[rustfmt::skip]
        let table: &[(&str, Option<i64>)] = &[
            ("0", Some(0)), ("7", Some(7)), ("-7", Some(-7)),
            ("9223372036854775807", Some(i64::MAX)), ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None), ("-9223372036854775809", None),
            ("99999999999999999999999", None),
            ("", None), ("-", None), ("-0", None), ("00", None), ("01", None), ("+1", None),
            (" 1", None), ("1 ", None), ("1a", None), ("--1", None),
        ];
        for &(text, number) in table {
            assert_eq!(parse_integer(text.as_bytes()), number, "{text:?}");
            if let Some(number) = number {
                let mut written = Vec::new();
                push_integer(number, &mut written);
                assert_eq!(written, text.as_bytes());
            }
        }
    }
}
