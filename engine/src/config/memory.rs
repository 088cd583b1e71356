//! What a node may take at most, by its limits: known before it starts.

use alloc::vec::Vec;
use core::fmt;

use super::{Config, OVERHEAD_BYTES};

/// Around each request that waits: its place, its token, who asked, and its answer's place.
const REQUEST_BYTES: u64 = 256;
/// Buffers of one snapshot that is taken, sent or fetched.
const TRANSFER_BYTES: u64 = 4 << 20;
/// Snapshots that a shard takes and fetches at once.
const TRANSFERS: u64 = 3;

/// Memory that one part of a node may take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPart {
    pub name: &'static str,
    /// What bounds it in the configuration.
    pub limit: &'static str,
    /// `None` if nothing bounds it.
    pub bytes: Option<u64>,
}

/// All parts of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBound(pub Vec<MemoryPart>);

impl MemoryBound {
    /// Of those parts that are bounded.
    pub fn total_bytes(&self) -> u64 {
        let parts = self.0.iter().filter_map(|part| part.bytes);
        parts.fold(0, u64::saturating_add)
    }
}

/// One line: the sum, its parts, and what has no bound.
impl fmt::Display for MemoryBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {}", Size(self.total_bytes()))?;
        for (at, part) in self
            .0
            .iter()
            .filter(|part| part.bytes.is_some())
            .enumerate()
        {
            let lead = if at == 0 { ": " } else { ", " };
            write!(
                f,
                "{lead}{} {}",
                part.name,
                Size(part.bytes.unwrap_or_default())
            )?;
        }
        for part in self.0.iter().filter(|part| part.bytes.is_none()) {
            write!(f, "; and {}: set {} to bound it", part.name, part.limit)?;
        }
        Ok(())
    }
}

/// Bytes for people: three digits at least.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 10 << 20 => write!(f, "{} KiB", bytes.div_ceil(1 << 10)),
            bytes if bytes < 10 << 30 => write!(f, "{} MiB", bytes.div_ceil(1 << 20)),
            bytes => write!(f, "{} GiB", bytes.div_ceil(1 << 30)),
        }
    }
}

impl Config {
    /// What this node's memory is spent on at most, if it leads all of its groups and everything is full.
    pub fn memory_bound(&self) -> MemoryBound {
        let limits = &self.limits;
        let (shards, groups) = (
            u64::from(self.cluster.shards),
            u64::from(self.cluster.groups),
        );
        let links = shards * (self.cluster.nodes.len() as u64 - 1);
        let overhead = OVERHEAD_BYTES as u64;
        // The one that is beyond the limit was taken before that was known.
        let waiting = limits.pending_bytes_max as u64
            + limits.request_bytes_max as u64
            + limits.pending_requests_max as u64 * REQUEST_BYTES;
        let flush = self.flush_bytes_max() as u64 + limits.request_bytes_max as u64 + overhead;
        let snapshot = self.snapshot.memory_bytes_max as u64 + TRANSFERS * TRANSFER_BYTES;
        let bounded = [
            (
                "clients",
                "limits.clients_size",
                shards,
                limits.clients_bytes_max as u64,
            ),
            ("requests", "limits.pending_size", groups, waiting),
            (
                "forwarded",
                "limits.pending_size",
                shards,
                limits.pending_bytes_max as u64,
            ),
            (
                "embedders",
                "limits.pending_size",
                shards,
                // The last answer was taken before it was known to be too much.
                limits.pending_bytes_max as u64
                    + self.answer_bytes_max() as u64
                    + limits.pending_requests_max as u64 * REQUEST_BYTES,
            ),
            (
                "entries",
                "log.cache_size",
                1,
                // What groups keep that were busy before, and what others share.
                shards * 2 * self.cache_bytes as u64 + groups * Self::WINDOW_BYTES_MAX as u64,
            ),
            (
                "peers",
                "limits.peer_queue_size",
                links,
                // One frame is written and one is read, each in a buffer that doubles; answers wait as
                // messages do.
                2 * limits.peer_queue_bytes_max as u64 + 4 * limits.frame_bytes_max as u64,
            ),
            (
                "flushes",
                "log.segment_size",
                shards * Self::FLUSHES_IN_FLIGHT_MAX as u64,
                2 * flush,
            ),
            (
                "mailboxes",
                "limits.mailbox_size",
                shards,
                // Of requests, and of answers.
                2 * limits.mailbox_bytes_max as u64,
            ),
            ("snapshots", "snapshot.memory_size", shards, snapshot),
        ];
        let mut parts: Vec<MemoryPart> = bounded
            .into_iter()
            .map(|(name, limit, count, bytes)| MemoryPart {
                name,
                limit,
                bytes: Some(count.saturating_mul(bytes)),
            })
            .collect();
        parts.push(MemoryPart {
            name: "data",
            limit: "limits.data_size",
            bytes: Some(limits.data_bytes_max).filter(|&bytes| bytes > 0),
        });
        MemoryBound(parts)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::super::{ClusterOptions, NodeAddress, Options};

    #[test]
    fn the_sum_is_that_of_the_limits_and_names_what_has_none() {
        let node = |id: u32| NodeAddress {
            id,
            host: "127.0.0.1".into(),
            client_port: 6400 + 10 * u16::try_from(id).unwrap(),
            peer_port: 7400 + 10 * u16::try_from(id).unwrap(),
            admin_port: 0,
        };
        let mut options = Options {
            cluster: ClusterOptions {
                id: "test".into(),
                nodes: [1, 2, 3].map(node).to_vec(),
                shards: 2,
                groups: 6,
                ..ClusterOptions::default()
            },
            node_id: 1,
            data_dir: "/data".into(),
            ..Options::default()
        };
        let bound = options.clone().validate().unwrap().memory_bound();
        let before = bound.total_bytes();
        let line = bound.to_string();
        assert!(line.starts_with("at most "), "{line}");
        assert!(
            line.contains(": clients 1024 MiB, requests 600 MiB, "),
            "{line}"
        );
        assert!(
            line.ends_with("; and data: set limits.data_size to bound it"),
            "{line}"
        );

        options.limits.data_bytes_max = 8 << 30;
        options.limits.clients_bytes_max += 1 << 20;
        let bound = options.validate().unwrap().memory_bound();
        assert_eq!(bound.total_bytes(), before + (8 << 30) + (2 << 20));
        assert!(bound.to_string().ends_with(", data 8192 MiB"), "{bound}");
    }
}
