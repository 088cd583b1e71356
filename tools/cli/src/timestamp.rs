//! Moments as people write them: RFC 3339, in UTC or with an offset.

use std::fmt;
use std::str::FromStr;

/// Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub(crate) u64);

/// Why a text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write it as 2026-11-21T18:45:00Z, 2026-11-21T18:45:00.250Z or 2026-11-21T18:45:00+01:00")]
pub(crate) struct NoTimestamp;

const DAY_MS: i64 = 86_400_000;

impl FromStr for Timestamp {
    type Err = NoTimestamp;

    fn from_str(text: &str) -> Result<Self, NoTimestamp> {
        parse(text).ok_or(NoTimestamp)
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    if !text.is_ascii() || text.len() < 20 {
        return None;
    }
    let (date, rest) = text.split_at(10);
    let (clock, rest) = rest.split_at(9);
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let clock = clock.strip_prefix(['T', 't', ' '])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    if civil_from_days(days) != (year, month, day) {
        return None; // such as 30 February
    }
    let (fraction_ms, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            let (digits, zone) = rest.split_at(end);
            let three: String = digits.chars().chain("00".chars()).take(3).collect();
            (three.parse::<i64>().ok()?, zone)
        }
        None => (0, rest),
    };
    let offset_minutes = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let zone = zone.strip_prefix(['+', '-'])?;
            let [hours, minutes] = numbers(zone, ':', [2, 2])?;
            (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))?
        }
    };
    let seconds = (hour * 60 + minute - offset_minutes) * 60 + second;
    u64::try_from(days * DAY_MS + seconds * 1000 + fraction_ms)
        .ok()
        .map(Timestamp)
}

/// Numbers of so many digits each, with a sign between.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut found = [0; N];
    let mut parts = text.split(between);
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        let plain = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = part.parse().ok().filter(|_| plain)?;
    }
    parts.next().is_none().then_some(found)
}

/// Days since 1970 of a date of the Gregorian calendar. Years are counted from March, so that the day
/// that some have more is their last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (century, of_century) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    century * 146_097 + of_century * 365 + of_century / 4 - of_century / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (century, of_century) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_century - of_century / 1460 + of_century / 36_524 - of_century / 146_096) / 365;
    let of_year = of_century - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    (century * 400 + year + i64::from(month <= 2), month, day)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        let (year, month, day) = civil_from_days(ms / DAY_MS);
        let (seconds, ms) = (ms % DAY_MS / 1000, ms % 1000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_written() {
        #[rustfmt::skip]
        let table = [
            ("1970-01-01T00:00:00Z",          0,                 "1970-01-01T00:00:00.000Z"),
            ("2000-02-29T12:30:15Z",          951_827_415_000,   "2000-02-29T12:30:15.000Z"),
            ("2024-12-31T23:59:59.999Z",      1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            ("2026-11-21T18:45:00.5Z",        1_795_286_700_500, "2026-11-21T18:45:00.500Z"),
            ("2026-11-21 18:45:00.1234567z",  1_795_286_700_123, "2026-11-21T18:45:00.123Z"),
            ("2026-11-21T18:45:00+01:00",     1_795_283_100_000, "2026-11-21T17:45:00.000Z"),
            ("2026-11-21T18:45:00-05:30",     1_795_306_500_000, "2026-11-22T00:15:00.000Z"),
        ];
        for (text, ms, shown) in table {
            let moment: Timestamp = text.parse().unwrap();
            assert_eq!(moment, Timestamp(ms), "{text}");
            assert_eq!(moment.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-11-21",
            "2026-11-21T18:45:00",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T18:45:00+1:00",
            "2026-11-21T18:45:00.Zulu",
            "+026-11-21T18:45:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-21T18:45:00Z and more",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(NoTimestamp), "{text}");
        }
    }

    #[test]
    fn every_day_of_two_centuries_is_itself() {
        for day in 0..73_000 {
            let (year, month, of_month) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, of_month), day);
        }
    }
}
