//! `drakkar status --stages`: where each shard's time goes, and what went through.

use serde_json::Value;

use crate::http;
use crate::status::{columns, size};

const STAGES: [&str; 9] = [
    "NODE", "SHARD", "STAGE", "PER", "COUNT", "P50", "P99", "P99.9", "MAX",
];
const COUNTERS: [&str; 10] = [
    "NODE",
    "SHARD",
    "FLUSHES",
    "BYTES/FLUSH",
    "ENTRIES",
    "COMMANDS",
    "COMMANDS/ENTRY",
    "COMMANDS/FLUSH",
    "MESSAGES",
    "BUSY",
];

/// What one endpoint answered.
pub(crate) fn ask(endpoint: &str) -> Result<Value, String> {
    let body = http::get(endpoint, "/v1/stages")?;
    serde_json::from_str(&body).map_err(|error| format!("it answered no JSON: {error}"))
}

/// Times first, then counts; endpoints without an answer are named at the end.
pub(crate) fn table(answers: &[(&String, Result<Value, String>)]) -> String {
    let mut stages = vec![STAGES.map(str::to_owned).to_vec()];
    let mut counters = vec![COUNTERS.map(str::to_owned).to_vec()];
    let mut down = String::new();
    for (endpoint, answer) in answers {
        let node = match answer {
            Ok(node) => node,
            Err(error) => {
                down.push_str(&format!("{endpoint} is down: {error}\n"));
                continue;
            }
        };
        for shard in node["shards"].as_array().into_iter().flatten() {
            let place = [node["node"].to_string(), shard["shard"].to_string()];
            for stage in shard["stages"].as_array().into_iter().flatten() {
                let mut row = place.to_vec();
                let name = |key: &str| stage[key].as_str().unwrap_or("?").replace('_', " ");
                row.extend([name("stage"), name("sample"), stage["count"].to_string()]);
                row.extend(
                    ["p50_ns", "p99_ns", "p999_ns", "max_ns"].map(|key| duration(&stage[key])),
                );
                stages.push(row);
            }
            let mut row = place.to_vec();
            let count = |key: &str| shard[key].as_u64().unwrap_or_default();
            let per_flush = count("flush_bytes").checked_div(count("flushes"));
            row.extend([
                count("flushes").to_string(),
                size(per_flush.unwrap_or_default()),
                count("entries").to_string(),
                count("commands").to_string(),
                mean(&shard["commands_per_entry"]),
                mean(&shard["commands_per_flush"]),
                count("messages").to_string(),
                count("busy").to_string(),
            ]);
            counters.push(row);
        }
    }
    format!("{}\n{}{down}", columns(&stages), columns(&counters))
}

fn mean(histogram: &Value) -> String {
    let part = |key: &str| histogram[key].as_f64().unwrap_or_default();
    match part("count") > 0.0 {
        true => format!("{:.1}", part("sum") / part("count")),
        false => "-".to_owned(),
    }
}

/// Nanoseconds for people: three digits that count.
fn duration(nanos: &Value) -> String {
    let nanos = nanos.as_f64().unwrap_or_default();
    let (value, unit) = match nanos {
        below if below < 1e3 => return format!("{below:.0} ns"),
        below if below < 1e6 => (nanos / 1e3, "us"),
        below if below < 1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    let digits = match value {
        below if below < 10.0 => 2,
        below if below < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tables_show_times_per_stage_and_counts_per_shard() {
        let answer = json!({
            "node": 1,
            "shards": [{
                "shard": 0,
                "stages": [{
                    "stage": "log_wait", "sample": "flush", "count": 12,
                    "p50_ns": 987, "p99_ns": 84_321, "p999_ns": 1_250_000, "max_ns": 2_000_000_000_u64,
                }],
                "commands_per_entry": { "count": 4, "sum": 10 },
                "commands_per_flush": { "count": 0, "sum": 0 },
                "flushes": 12, "flush_bytes": 49152, "entries": 4, "commands": 10,
                "messages": 24, "busy": 3,
            }],
        });
        let (up, down) = ("127.0.0.1:9001".to_owned(), "127.0.0.1:9002".to_owned());
        let text = table(&[(&up, Ok(answer)), (&down, Err("refused".to_owned()))]);
        let expected = "\
NODE  SHARD  STAGE     PER    COUNT  P50     P99      P99.9    MAX
1     0      log wait  flush  12     987 ns  84.3 us  1.25 ms  2.00 s

NODE  SHARD  FLUSHES  BYTES/FLUSH  ENTRIES  COMMANDS  COMMANDS/ENTRY  COMMANDS/FLUSH  MESSAGES  BUSY
1     0      12       4096 B       4        10        2.5             -               24        3
127.0.0.1:9002 is down: refused
";
        assert_eq!(text, expected);
    }
}
