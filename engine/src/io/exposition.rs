//! The text that Prometheus reads (exposition format 0.0.4): families of samples, each with what it means.

use std::fmt::Write;

use crate::shard::Histogram;

/// What a family is, for who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    /// Ends in `_total`, and only grows while the node runs.
    Counter,
    Histogram,
}

/// A text that grows family by family.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family: its samples follow.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        assert_eq!(
            name.ends_with("_total"),
            kind == Kind::Counter,
            "{name}: counters are called so"
        );
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        self.family = name;
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// One value of the family.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.named("", labels, value);
    }

    /// One histogram of the family: `unit` of its values is one. Its buckets end at each power of two from
    /// `2^powers.start` on, and count exactly.
    pub(super) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        histogram: &Histogram,
        unit: f64,
        powers: std::ops::Range<u32>,
    ) {
        // Buckets of the histogram end right before a power of two, and values are whole.
        let ends = powers.map(|power| (1u64 << power) - 1);
        let buckets = ends.map(|last| {
            let end = (last as f64 / unit).to_string();
            (end, histogram.count_up_to(last))
        });
        for (end, count) in buckets.chain([("+Inf".to_owned(), histogram.count())]) {
            let mut bucket = labels.to_vec();
            bucket.push(("le", &end));
            self.named("_bucket", &bucket, count as f64);
        }
        self.named("_sum", labels, histogram.sum() as f64 / unit);
        self.named("_count", labels, histogram.count() as f64);
    }

    /// All of it.
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn named(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let family = self.family;
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        match labels.is_empty() {
            true => self.line(format_args!("{family}{suffix} {value}")),
            false => self.line(format_args!(
                "{family}{suffix}{{{}}} {value}",
                labels.join(",")
            )),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to memory succeeds");
    }
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let mut histogram = Histogram::default();
        [1, 2, 3, 700]
            .iter()
            .for_each(|&value| histogram.record(value));
        let mut text = Exposition::default();
        text.family("drakkar_a", Kind::Gauge, "What it is.");
        text.sample(&[], 0.5);
        text.sample(&[("name", "a\"b\\c\nd"), ("shard", "1")], 2.0);
        text.family("drakkar_b", Kind::Histogram, "Sizes.");
        text.histogram(&[("shard", "0")], &histogram, 1.0, 1..3);
        let expected = "\
# HELP drakkar_a What it is.
# TYPE drakkar_a gauge
drakkar_a 0.5
drakkar_a{name=\"a\\\"b\\\\c\\nd\",shard=\"1\"} 2
# HELP drakkar_b Sizes.
# TYPE drakkar_b histogram
drakkar_b_bucket{shard=\"0\",le=\"1\"} 1
drakkar_b_bucket{shard=\"0\",le=\"3\"} 3
drakkar_b_bucket{shard=\"0\",le=\"+Inf\"} 4
drakkar_b_sum{shard=\"0\"} 706
drakkar_b_count{shard=\"0\"} 4
";
        assert_eq!(text.finish(), expected);
    }
}
