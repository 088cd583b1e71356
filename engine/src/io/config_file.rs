//! The configuration file: TOML with units in strings. Reports everything that is wrong at once, and
//! suggests the key that was probably meant.

use std::net::IpAddr;
use std::time::Duration;

use toml::{Table, Value};

use crate::config::{Config, ConfigError, NodeAddress, Options, SnapshotOptions, SnapshotProfile};
use crate::snapshot::Compression;

/// Why a configuration file is refused: one of possibly many reasons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    #[error("not TOML: {message}")]
    Syntax { message: String },
    #[error("unknown key {key}{}", suggestion.as_ref().map(|s| format!(": did you mean {s}?")).unwrap_or_default())]
    UnknownKey {
        key: String,
        suggestion: Option<String>,
    },
    #[error("{key}: expected {expected}, found {found}")]
    Value {
        key: String,
        expected: &'static str,
        found: String,
    },
    #[error("{key} and {other} are the same: keep one of them")]
    Twice { key: String, other: String },
    #[error("{key} is missing")]
    Missing { key: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads a configuration file's text.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn parse(text: &str) -> Result<Config, Vec<FileError>> {
    let (options, mut errors) = read(text)?;
    match options.validate() {
        Ok(config) if errors.is_empty() => Ok(config),
        Ok(_) => Err(errors),
        Err(more) => {
            errors.extend(more.into_iter().map(FileError::Config));
            Err(errors)
        }
    }
}

const SECTIONS: &[(&str, &[&str])] = &[
    (
        "cluster",
        &[
            "id",
            "shards",
            "groups",
            "election_timeout",
            "heartbeat_interval",
            "nodes",
        ],
    ),
    (
        "node",
        &[
            "id",
            "data_dir",
            "any_file_system",
            "listen",
            "cores",
            "ready_memory",
            "stages",
        ],
    ),
    (
        "log",
        &[
            "segment_size",
            "cache_size",
            "size_target",
            "ready_size",
            "durable",
            "syncForce",
            "delete_after_snapshot",
            "deleteLogsAfterTakeSnapshot",
        ],
    ),
    (
        "snapshot",
        &[
            "profile",
            "entries",
            "size",
            "interval",
            "keep",
            "compression",
            "memory_size",
            "fetch_rate",
            "at_close",
            "close_wait",
            "saveSnapshotSeconds",
            "maxKeepSnapshots",
            "saveSnapshotWhenClose",
        ],
    ),
    ("client", &["proxy", "route_wait", "request_timeout"]),
    (
        "limits",
        &[
            "key_size",
            "value_size",
            "arguments",
            "request_size",
            "frame_size",
            "connections",
            "requests_per_connection",
            "output_size",
            "clients_size",
            "pending_size",
            "pending_tasks",
            "peer_queue_size",
            "mailbox_size",
            "data_size",
            "max_pending_tasks",
            "maxPendingTasks",
            "max_pending_bytes",
            "maxPendingTaskBytes",
        ],
    ),
];

/// Names that operators of other systems know, and ours.
const SNAPSHOT_ALIASES: &[(&str, &str)] = &[
    ("saveSnapshotSeconds", "interval"),
    ("maxKeepSnapshots", "keep"),
    ("saveSnapshotWhenClose", "at_close"),
];
const LOG_ALIASES: &[(&str, &str)] = &[
    ("syncForce", "durable"),
    ("deleteLogsAfterTakeSnapshot", "delete_after_snapshot"),
];
const LIMIT_ALIASES: &[(&str, &str)] = &[
    ("max_pending_tasks", "pending_tasks"),
    ("maxPendingTasks", "pending_tasks"),
    ("max_pending_bytes", "pending_size"),
    ("maxPendingTaskBytes", "pending_size"),
];

const NODE_KEYS: &[&str] = &["id", "host", "client_port", "peer_port", "admin_port"];

fn read(text: &str) -> Result<(Options, Vec<FileError>), Vec<FileError>> {
    let root: Table = text.parse().map_err(|error: toml::de::Error| {
        vec![FileError::Syntax {
            message: error.to_string().trim_end().to_owned(),
        }]
    })?;
    let mut errors = Vec::new();
    let sections: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    check_keys("", &root, &sections, &mut errors);

    let mut options = Options::default();
    let mut route_wait_given = false;
    for (name, keys) in SECTIONS {
        let section = match root.get(*name) {
            None => continue,
            Some(Value::Table(section)) => section,
            Some(other) => {
                errors.push(mismatch(name, "a [section]", other));
                continue;
            }
        };
        check_keys(name, section, keys, &mut errors);
        let mut fields = Fields {
            name,
            section,
            errors: &mut errors,
        };
        match *name {
            "cluster" => fields.cluster(&mut options),
            "node" => fields.node(&mut options),
            "log" => fields.log(&mut options),
            "snapshot" => fields.snapshot(&mut options.snapshot),
            "client" => {
                route_wait_given = section.contains_key("route_wait");
                fields.client(&mut options);
            }
            _ => fields.limits(&mut options),
        }
    }
    if !route_wait_given {
        options.route_wait = options.cluster.election_timeout;
    }
    Ok((options, errors))
}

fn check_keys(section: &str, table: &Table, known: &[&str], errors: &mut Vec<FileError>) {
    let full = |key: &str| {
        if section.is_empty() {
            key.to_owned()
        } else {
            format!("{section}.{key}")
        }
    };
    for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
        let closest = known
            .iter()
            .map(|candidate| (distance(key, candidate), *candidate))
            .min()
            .filter(|(edits, candidate)| *edits <= 1 + candidate.len() / 3);
        // A key that is at home in another section was probably put under the wrong heading.
        let elsewhere = SECTIONS
            .iter()
            .find(|(_, keys)| keys.contains(&key.as_str()))
            .map(|(name, _)| format!("{name}.{key}"));
        errors.push(FileError::UnknownKey {
            key: full(key),
            suggestion: elsewhere.or_else(|| closest.map(|(_, candidate)| full(candidate))),
        });
    }
}

/// Edits that make one word the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn mismatch(key: &str, expected: &'static str, found: &Value) -> FileError {
    FileError::Value {
        key: key.to_owned(),
        expected,
        found: found.to_string().trim().to_owned(),
    }
}

/// The keys of one section, taken one by one; what does not fit is noted and the default kept.
struct Fields<'a> {
    name: &'a str,
    section: &'a Table,
    errors: &'a mut Vec<FileError>,
}

impl Fields<'_> {
    fn cluster(&mut self, options: &mut Options) {
        let cluster = &mut options.cluster;
        self.put("id", "a string", &mut cluster.id, text);
        self.put("shards", "a number of threads", &mut cluster.shards, number);
        self.put("groups", "a number of groups", &mut cluster.groups, number);
        self.put(
            "election_timeout",
            DURATION,
            &mut cluster.election_timeout,
            duration,
        );
        self.put(
            "heartbeat_interval",
            DURATION,
            &mut cluster.heartbeat_interval,
            duration,
        );
        match self.section.get("nodes") {
            None => {}
            Some(Value::Array(nodes)) => {
                for (at, node) in nodes.iter().enumerate() {
                    let name = format!("cluster.nodes[{at}]");
                    let Value::Table(section) = node else {
                        self.errors.push(mismatch(&name, "a table", node));
                        continue;
                    };
                    check_keys(&name, section, NODE_KEYS, self.errors);
                    let mut fields = Fields {
                        name: &name,
                        section,
                        errors: &mut *self.errors,
                    };
                    cluster.nodes.push(fields.address());
                }
            }
            Some(other) => self.errors.push(mismatch(
                "cluster.nodes",
                "one [[cluster.nodes]] per node",
                other,
            )),
        }
    }

    fn address(&mut self) -> NodeAddress {
        let mut address = NodeAddress {
            id: 0,
            host: String::new(),
            client_port: 0,
            peer_port: 0,
            admin_port: 0,
        };
        for key in ["id", "host", "client_port", "peer_port"] {
            if !self.section.contains_key(key) {
                let key = format!("{}.{key}", self.name);
                self.errors.push(FileError::Missing { key });
            }
        }
        self.put("id", "a number from 1", &mut address.id, number);
        self.put("host", "a host name or address", &mut address.host, text);
        self.put("client_port", "a port", &mut address.client_port, number);
        self.put("peer_port", "a port", &mut address.peer_port, number);
        self.put("admin_port", "a port", &mut address.admin_port, number);
        address
    }

    fn node(&mut self, options: &mut Options) {
        self.put("id", "a number from 1", &mut options.node_id, number);
        self.put("data_dir", "a path", &mut options.data_dir, text);
        let any = &mut options.any_file_system;
        self.put("any_file_system", "true or false", any, Value::as_bool);
        let ready = &mut options.memory_bytes_ready;
        self.put("ready_memory", SIZE, ready, size);
        let stages = &mut options.stages;
        self.put("stages", "true or false", stages, Value::as_bool);
        self.put("listen", "an IP address", &mut options.listen, |value| {
            let address: IpAddr = value.as_str()?.parse().ok()?;
            Some(Some(address))
        });
        self.put(
            "cores",
            "a list of core numbers",
            &mut options.cores,
            |value| value.as_array()?.iter().map(number).collect(),
        );
    }

    fn log(&mut self, options: &mut Options) {
        self.put("segment_size", SIZE, &mut options.segment_bytes, size);
        self.put("cache_size", SIZE, &mut options.cache_bytes, size_in_memory);
        self.put("size_target", SIZE, &mut options.log_bytes_target, size);
        self.put("ready_size", SIZE, &mut options.log_bytes_ready, size);
        self.refuse_twice(LOG_ALIASES);
        for key in ["durable", "syncForce"] {
            let durable = &mut options.log_durable;
            self.put(key, "true or false", durable, Value::as_bool);
        }
        for key in ["delete_after_snapshot", "deleteLogsAfterTakeSnapshot"] {
            let delete = &mut options.delete_log_after_snapshot;
            self.put(key, "true or false", delete, Value::as_bool);
        }
    }

    fn snapshot(&mut self, options: &mut SnapshotOptions) {
        self.refuse_twice(SNAPSHOT_ALIASES);
        let mut profile = SnapshotProfile::default();
        let profiles = "\"frequent\", \"default\" or \"rare\"";
        self.put("profile", profiles, &mut profile, |value| {
            match value.as_str()? {
                "frequent" => Some(SnapshotProfile::Frequent),
                "default" => Some(SnapshotProfile::Default),
                "rare" => Some(SnapshotProfile::Rare),
                _ => None,
            }
        });
        // What is said in figures counts more.
        options.set_profile(profile);
        self.put("entries", "a number", &mut options.entries, number);
        self.put("size", SIZE, &mut options.bytes, size);
        self.put("interval", DURATION, &mut options.interval, duration);
        self.put(
            "saveSnapshotSeconds",
            "a number of seconds",
            &mut options.interval,
            |value| number(value).map(Duration::from_secs),
        );
        for key in ["keep", "maxKeepSnapshots"] {
            self.put(key, "a number", &mut options.keep, number);
        }
        self.put(
            "compression",
            "\"lz4\" or \"none\"",
            &mut options.compression,
            |value| match value.as_str()? {
                "lz4" => Some(Compression::Lz4),
                "none" => Some(Compression::None),
                _ => None,
            },
        );
        let memory = &mut options.memory_bytes_max;
        self.put("memory_size", SIZE, memory, size_in_memory);
        let rate = &mut options.fetch_bytes_per_second;
        self.put("fetch_rate", "bytes a second such as \"64MB\"", rate, size);
        for key in ["at_close", "saveSnapshotWhenClose"] {
            let at_close = &mut options.at_close;
            self.put(key, "true or false", at_close, Value::as_bool);
        }
        self.put("close_wait", DURATION, &mut options.close_wait, duration);
    }

    fn client(&mut self, options: &mut Options) {
        self.put("proxy", "true or false", &mut options.proxy, Value::as_bool);
        self.put("route_wait", DURATION, &mut options.route_wait, duration);
        self.put(
            "request_timeout",
            DURATION,
            &mut options.request_timeout,
            duration,
        );
    }

    fn limits(&mut self, options: &mut Options) {
        let limits = &mut options.limits;
        self.refuse_twice(LIMIT_ALIASES);
        for key in ["pending_tasks", "max_pending_tasks", "maxPendingTasks"] {
            self.put(key, "a number", &mut limits.pending_requests_max, number);
        }
        for key in ["max_pending_bytes", "maxPendingTaskBytes"] {
            let bytes = |value: &Value| number(value).or_else(|| size_in_memory(value));
            self.put(key, SIZE, &mut limits.pending_bytes_max, bytes);
        }
        self.put("data_size", SIZE, &mut limits.data_bytes_max, size);
        for (key, to) in [
            ("key_size", &mut limits.key_bytes_max),
            ("value_size", &mut limits.value_bytes_max),
            ("request_size", &mut limits.request_bytes_max),
            ("frame_size", &mut limits.frame_bytes_max),
            ("output_size", &mut limits.output_bytes_max),
            ("clients_size", &mut limits.clients_bytes_max),
            ("pending_size", &mut limits.pending_bytes_max),
            ("peer_queue_size", &mut limits.peer_queue_bytes_max),
            ("mailbox_size", &mut limits.mailbox_bytes_max),
        ] {
            self.put(key, SIZE, to, size_in_memory);
        }
        for (key, to) in [
            ("arguments", &mut limits.arguments_max),
            ("connections", &mut limits.connections_max),
            (
                "requests_per_connection",
                &mut limits.requests_per_connection_max,
            ),
        ] {
            self.put(key, "a number", to, number);
        }
    }

    /// Notes what was given by two of its names.
    fn refuse_twice(&mut self, aliases: &[(&str, &str)]) {
        for (key, other) in aliases {
            if self.section.contains_key(*key) && self.section.contains_key(*other) {
                let name = self.name;
                self.errors.push(FileError::Twice {
                    key: format!("{name}.{key}"),
                    other: format!("{name}.{other}"),
                });
            }
        }
    }

    fn put<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        to: &mut T,
        read: impl FnOnce(&Value) -> Option<T>,
    ) {
        let Some(value) = self.section.get(key) else {
            return;
        };
        match read(value) {
            Some(read) => *to = read,
            None => {
                let key = format!("{}.{key}", self.name);
                self.errors.push(mismatch(&key, expected, value));
            }
        }
    }
}

const DURATION: &str = "a duration such as \"100ms\" or \"10s\"";
const SIZE: &str = "a size such as \"256MB\" or \"64KiB\"";

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn number<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    T::try_from(value.as_integer()?).ok()
}

fn quantity(value: &Value, units: &[(&str, u64)]) -> Option<u64> {
    let text = value.as_str()?;
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(digits);
    let (_, factor) = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    count.parse::<u64>().ok()?.checked_mul(*factor)
}

fn duration(value: &Value) -> Option<Duration> {
    let units = [
        ("us", 1),
        ("ms", 1_000),
        ("s", 1_000_000),
        ("m", 60_000_000),
        ("h", 3_600_000_000),
    ];
    quantity(value, &units).map(Duration::from_micros)
}

/// Sizes are powers of two whichever way they are written: memory and segments come in blocks.
fn size(value: &Value) -> Option<u64> {
    let units = [
        ("b", 1),
        ("k", 1 << 10),
        ("kb", 1 << 10),
        ("kib", 1 << 10),
        ("m", 1 << 20),
        ("mb", 1 << 20),
        ("mib", 1 << 20),
        ("g", 1 << 30),
        ("gb", 1 << 30),
        ("gib", 1 << 30),
    ];
    quantity(value, &units)
}

fn size_in_memory(value: &Value) -> Option<usize> {
    size(value).and_then(|bytes| usize::try_from(bytes).ok())
}
