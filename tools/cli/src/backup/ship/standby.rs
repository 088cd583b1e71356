//! The cluster that is written to.

use std::thread::sleep;

use redis::cluster::{ClusterConnection, cluster_pipe};
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{FromRedisValue, RedisError};

use super::super::create::{Source, now_unix_ms};
use super::super::restore::{Batch, connect};
use super::history::History;
use super::{PAUSE, ShipError};

/// How often keys are counted again: leaders change, and clocks differ.
const COUNTS: usize = 40;

/// Keys of one round trip.
const KEYS: usize = 2000;
/// By so much the clocks of nodes, and of this machine, may differ.
const SKEW_MS: u64 = 5000;

/// A key, its value, and when it goes away.
pub(super) type Held<'a> = (&'a [u8], &'a [u8], Option<u64>);

pub(super) struct Standby(ClusterConnection);

impl Standby {
    pub(super) fn connect(to: &[String]) -> Result<Self, RedisError> {
        connect(to).map(Self)
    }

    pub(super) fn batch(&mut self) -> Batch<'_> {
        Batch::new(&mut self.0)
    }

    /// Those of these keys, with their values and when they go away, that it holds otherwise.
    pub(super) fn differing<'a>(&mut self, keys: &[Held<'a>]) -> Result<Vec<&'a [u8]>, RedisError> {
        let mut differing = Vec::new();
        for keys in keys.chunks(KEYS) {
            let (mut values, mut times) = (cluster_pipe(), cluster_pipe());
            for (key, ..) in keys {
                values.cmd("GET").arg(*key);
                times.cmd("PTTL").arg(*key);
            }
            let values: Vec<Option<Vec<u8>>> = values.query(&mut self.0)?;
            let times: Vec<i64> = times.query(&mut self.0)?;
            let now = now_unix_ms();
            for (&(key, value, due), (found, left)) in keys.iter().zip(values.iter().zip(times)) {
                let as_left = match (due, u64::try_from(left)) {
                    // It may have gone away there already.
                    (Some(due), _) if due <= now + SKEW_MS => true,
                    (Some(due), Ok(left)) => due.abs_diff(now + left) <= SKEW_MS,
                    (due, left) => due.is_none() && left.is_err(),
                };
                let gone = found.is_none() && due.is_some_and(|due| due <= now + SKEW_MS);
                if !(gone || as_left && found.as_deref() == Some(value)) {
                    differing.push(key);
                }
            }
        }
        Ok(differing)
    }

    /// Counts keys until they are as expected, or for a while; gives the last count.
    pub(super) fn settled(&mut self, expected: impl Fn(u64) -> bool) -> Result<u64, RedisError> {
        let mut last = Err(None);
        for count in 0..COUNTS {
            if count > 0 {
                sleep(PAUSE);
            }
            match self.counts() {
                Ok(counts) => {
                    if let Some(&found) = counts.iter().find(|&&it| expected(it)) {
                        return Ok(found);
                    }
                    last = Ok(counts[0]);
                }
                Err(error) => last = Err(Some(error)),
            }
        }
        last.map_err(|error| error.expect("it was counted"))
    }

    /// How many keys there are: the sum of what the nodes count, or if these may be proxies, which count all,
    /// what each of them does.
    fn counts(&mut self) -> Result<Vec<u64>, RedisError> {
        let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let each = self.0.route_command(&redis::cmd("DBSIZE"), masters)?;
        let each = Vec::<(String, u64)>::from_redis_value(each)?;
        let each: Vec<u64> = each.into_iter().map(|(_, keys)| keys).collect();
        let sum = each.iter().sum();
        match each.first() {
            Some(&first) if each.iter().all(|&keys| keys == first) => Ok(vec![first, sum]),
            _ => Ok(vec![sum]),
        }
    }

    /// Refuses a standby that does not hold what was left there, as far as a number of keys tells.
    pub(super) fn check(&mut self, histories: &mut [History]) -> Result<(), ShipError> {
        let expected = histories.iter().map(History::keys).sum();
        if self.settled(|_| true)? == expected {
            return Ok(());
        }
        let expires = histories.iter().any(|history| history.expires);
        let mut least: u64 = expected;
        for history in histories {
            least -= history.expiring()?;
        }
        let fits = |keys| keys == expected || expires && keys >= least;
        let found = self.settled(fits)?;
        match fits(found) {
            true => Ok(()),
            false => Err(ShipError::Touched { expected, found }),
        }
    }

    /// Removes all keys.
    pub(super) fn empty(&mut self) -> Result<(), ShipError> {
        redis::cmd("FLUSHALL").query::<()>(&mut self.0)?;
        match self.settled(|keys| keys == 0)? {
            0 => Ok(()),
            found => Err(ShipError::Touched { expected: 0, found }),
        }
    }

    /// Whether it is the cluster of a leader; by which address.
    pub(super) fn is_also(&mut self, source: &Source) -> Result<Option<String>, ShipError> {
        let membership = source.ask("GET", "/v1/membership");
        let membership = membership.map_err(|reason| source.failed(reason))?;
        let members = membership["members"].as_array().into_iter().flatten();
        let members: Vec<&str> = members.filter_map(|it| it["address"].as_str()).collect();
        let nodes: String = redis::cmd("CLUSTER").arg("NODES").query(&mut self.0)?;
        let also = nodes.lines().filter_map(peer_address);
        Ok(also.into_iter().find(|it| members.contains(&it.as_str())))
    }
}

/// Where the peers of a node connect, of a line of `CLUSTER NODES`: `id host:port@peer_port ...`.
fn peer_address(line: &str) -> Option<String> {
    let address = line.split(' ').nth(1)?;
    let (client, peer) = address.split_once('@')?;
    let (host, _) = client.rsplit_once(':')?;
    let peer = peer.split(',').next()?;
    Some(format!("{host}:{peer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_the_cluster_that_is_shipped_is_known_by_where_its_peers_connect() {
        let line = "07c3 10.0.0.1:7001@7101 myself,master - 0 0 1 connected 0-5460";
        assert_eq!(peer_address(line).as_deref(), Some("10.0.0.1:7101"));
        let named = "07c3 10.0.0.1:7001@7101,n1 master";
        assert_eq!(peer_address(named).as_deref(), Some("10.0.0.1:7101"));
        assert_eq!(peer_address("vars currentEpoch 0"), None);
    }
}
