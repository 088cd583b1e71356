//! Latencies of a run: percentiles, and logs that HdrHistogram's tools read.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

/// Latencies in nanoseconds, from 1 ns to a minute, to three digits.
#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid"))
    }

    pub(crate) fn record_many(&mut self, latency: Duration, times: u64) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record_n(nanos.max(1), times);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that so many percent of the operations did not exceed.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_percentile(percent))
    }

    pub(crate) fn mean_micros(&self) -> f64 {
        self.0.mean() / 1e3
    }
}

/// The measured time: what happens before `start` is warm-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    pub(crate) measured: Duration,
}

/// Into how many intervals the measured time is cut.
pub(crate) const INTERVALS: u32 = 20;

impl Window {
    pub(crate) fn end(&self) -> Instant {
        self.start + self.measured
    }

    pub(crate) fn interval(&self) -> Duration {
        self.measured / INTERVALS
    }

    /// The interval that a moment lies in; `None` outside of the measured time.
    pub(crate) fn interval_of(&self, moment: Instant) -> Option<usize> {
        let since = moment.checked_duration_since(self.start)?;
        let number = since.as_nanos() / self.interval().as_nanos().max(1);
        let number = usize::try_from(number).ok()?;
        (number < INTERVALS as usize).then_some(number)
    }
}

/// What a load, or a part of it, was answered.
pub(crate) struct Recorded {
    /// Good answers in each interval of the measured time.
    pub(crate) intervals: Vec<Latencies>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// How often a request was sent elsewhere and went there.
    pub(crate) redirected: u64,
    /// Good answers of the warm-up as well.
    pub(crate) answered_in_all: u64,
    /// How late an open loop made requests that were due in the measured time.
    pub(crate) lateness: Latencies,
}

impl Recorded {
    pub(crate) fn new() -> Self {
        Self {
            intervals: vec![Latencies::new(); INTERVALS as usize],
            errors: 0,
            first_error: None,
            redirected: 0,
            answered_in_all: 0,
            lateness: Latencies::new(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (all, part) in self.intervals.iter_mut().zip(&other.intervals) {
            all.add(part);
        }
        self.errors += other.errors;
        self.redirected += other.redirected;
        self.answered_in_all += other.answered_in_all;
        self.lateness.add(&other.lateness);
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    /// Latencies of the whole measured time.
    pub(crate) fn latencies(&self) -> Latencies {
        let mut all = Latencies::new();
        self.intervals.iter().for_each(|part| all.add(part));
        all
    }
}

/// An HdrHistogram interval log (format 1.2): a line for each interval of each turn.
pub(crate) struct HistogramLog {
    file: File,
    begun: SystemTime,
    is_empty: bool,
}

impl HistogramLog {
    /// Makes the file, or goes on with one that is there if `append`.
    pub(crate) fn new(path: &Path, append: bool, begun: SystemTime) -> Result<Self, String> {
        let mut how = File::options();
        how.create(true)
            .append(append)
            .write(true)
            .truncate(!append);
        let file = how
            .open(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self {
            file,
            begun,
            is_empty: true,
        })
    }

    /// Adds a turn whose measured time began at `started`.
    pub(crate) fn add(
        &mut self,
        tag: &str,
        started: SystemTime,
        interval: Duration,
        recorded: &Recorded,
    ) -> Result<(), String> {
        let offset = started.duration_since(self.begun).unwrap_or_default();
        let text = self
            .lines(tag, offset, interval, recorded)
            .map_err(|error| error.to_string())?;
        self.is_empty = false;
        self.file
            .write_all(&text)
            .map_err(|error| format!("the histogram log: {error}"))
    }

    fn lines(
        &self,
        tag: &str,
        offset: Duration,
        interval: Duration,
        recorded: &Recorded,
    ) -> io::Result<Vec<u8>> {
        // Tags end at a comma, and no reader expects a space.
        let tag = tag.replace([' ', ','], "-");
        let (mut text, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("latencies in nanoseconds, start times relative to StartTime")
            .with_start_time(self.begun)
            .with_max_value_divisor(1e6)
            .begin_log_with(&mut text, &mut serializer)?;
        for (number, latencies) in (0..).zip(&recorded.intervals) {
            let start = offset + interval * number;
            log.write_histogram(&latencies.0, start, interval, Tag::new(&tag))
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        if self.is_empty {
            return Ok(text);
        }
        // The head is there already.
        let lines = text.split_inclusive(|&byte| byte == b'\n');
        Ok(lines
            .filter(|line| line.starts_with(b"Tag="))
            .flatten()
            .copied()
            .collect())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "logs and results say when they were measured"
)]
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_lies_in_one_interval_or_outside_of_the_measured_time() {
        let start = crate::load::now() + Duration::from_secs(1);
        let window = Window {
            start,
            measured: Duration::from_secs(2),
        };
        let at = |millis| window.interval_of(start + Duration::from_millis(millis));
        assert_eq!(window.interval_of(start - Duration::from_nanos(1)), None);
        assert_eq!(at(0), Some(0));
        assert_eq!(at(99), Some(0));
        assert_eq!(at(100), Some(1));
        assert_eq!(at(1999), Some(19));
        assert_eq!(at(2000), None);
    }

    #[test]
    fn a_log_has_one_head_and_a_line_for_each_interval_of_each_turn() {
        let mut recorded = Recorded::new();
        recorded.intervals[3].record_many(Duration::from_millis(7), 5);
        let path = std::env::temp_dir().join(format!("bench-log-{}", std::process::id()));
        let mut log = HistogramLog::new(&path, false, SystemTime::UNIX_EPOCH).unwrap();
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
        for _ in 0..2 {
            let interval = Duration::from_millis(100);
            log.add("W7/2 shards", started, interval, &recorded)
                .unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("Tag=W7/2-shards,"));
        assert_eq!(lines.count(), 2 * INTERVALS as usize, "{text}");
        assert_eq!(text.matches("StartTime:").count(), 1, "{text}");
    }
}
