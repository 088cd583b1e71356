//! Latencies of a run: percentiles, and logs that HdrHistogram's tools read.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

/// Latencies in nanoseconds, from 1 ns to a minute, to three digits.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanos.max(1));
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

    /// Writes an HdrHistogram interval log (format 1.2) with one interval: the measured time.
    pub(crate) fn write_log(
        &self,
        tag: &str,
        start: SystemTime,
        length: Duration,
        to: &mut impl Write,
    ) -> io::Result<()> {
        let mut serializer = V2Serializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("latencies in nanoseconds")
            .with_start_time(start)
            .begin_log_with(to, &mut serializer)?;
        let tag = hdrhistogram::serialization::interval_log::Tag::new(tag);
        log.write_histogram(&self.0, Duration::ZERO, length, tag)
            .map_err(|error| io::Error::other(format!("{error:?}")))
    }
}
