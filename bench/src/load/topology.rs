//! Which node leads which slots, as the cluster says it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Slot ranges and who leads them.
#[derive(Clone, Debug)]
pub(crate) struct Topology(Vec<(u16, u16, SocketAddr)>);

/// A RESP value, as far as `CLUSTER SLOTS` needs it.
enum Value {
    Integer(i64),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
}

impl Topology {
    /// Asks the first endpoint that answers.
    pub(crate) fn ask(endpoints: &[String]) -> Result<Self, String> {
        let mut complaints = Vec::new();
        for endpoint in endpoints {
            match Self::ask_one(endpoint) {
                Ok(topology) => return Ok(topology),
                Err(error) => complaints.push(format!("{endpoint}: {error}")),
            }
        }
        Err(complaints.join("; "))
    }

    fn ask_one(endpoint: &str) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let address = endpoint
            .to_socket_addrs()
            .map_err(text)?
            .next()
            .ok_or("no address")?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).map_err(text)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .map_err(text)?;
        (&stream)
            .write_all(b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n")
            .map_err(text)?;
        let Value::Array(ranges) = value(&mut BufReader::new(&stream))? else {
            return Err("CLUSTER SLOTS answered no list".to_owned());
        };
        ranges
            .iter()
            .map(range)
            .collect::<Option<Vec<_>>>()
            .map(|mut ranges| {
                ranges.sort_unstable();
                Self(ranges)
            })
            .ok_or_else(|| {
                "CLUSTER SLOTS answered what is no list of ranges with a leader each".to_owned()
            })
    }

    /// Whether every slot has a leader.
    pub(crate) fn is_complete(&self) -> bool {
        let slots: u32 = self
            .0
            .iter()
            .map(|(first, last, _)| u32::from(last - first) + 1)
            .sum();
        slots == u32::from(net::SLOTS)
    }

    /// The leaders, each once.
    pub(crate) fn leaders(&self) -> Vec<SocketAddr> {
        let mut leaders: Vec<_> = self.0.iter().map(|&(_, _, leader)| leader).collect();
        leaders.sort_unstable();
        leaders.dedup();
        leaders
    }

    /// The leader of a slot.
    pub(crate) fn leader(&self, slot: u16) -> Option<SocketAddr> {
        let behind = self.0.partition_point(|(first, _, _)| *first <= slot);
        let (_, last, leader) = self.0.get(behind.checked_sub(1)?)?;
        (slot <= *last).then_some(*leader)
    }

    /// Servers of which each takes requests for its share of the slots.
    pub(crate) fn shared(servers: &[SocketAddr]) -> Self {
        let count = u16::try_from(servers.len()).expect("few servers");
        let ranges = (0..count).zip(servers).map(|(at, &server)| {
            let first = net::SLOTS / count * at;
            let last = if at + 1 == count {
                net::SLOTS - 1
            } else {
                first + net::SLOTS / count - 1
            };
            (first, last, server)
        });
        Self(ranges.collect())
    }

    /// How many slots the leader of most has above that of fewest, of all those that lead any.
    pub(crate) fn imbalance(&self) -> u16 {
        let slots = |leader: &SocketAddr| -> u16 {
            let led = self.0.iter().filter(|(_, _, found)| found == leader);
            led.map(|(first, last, _)| last - first + 1).sum()
        };
        let counts: Vec<u16> = self.leaders().iter().map(slots).collect();
        counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
    }
}

fn range(value: &Value) -> Option<(u16, u16, SocketAddr)> {
    let Value::Array(parts) = value else {
        return None;
    };
    let [
        Value::Integer(first),
        Value::Integer(last),
        Value::Array(leader),
        ..,
    ] = &parts[..]
    else {
        return None;
    };
    let [Value::Bytes(host), Value::Integer(port), ..] = &leader[..] else {
        return None;
    };
    let host = std::str::from_utf8(host).ok()?.parse().ok()?;
    let address = SocketAddr::new(host, u16::try_from(*port).ok()?);
    Some((
        u16::try_from(*first).ok()?,
        u16::try_from(*last).ok()?,
        address,
    ))
}

fn value(from: &mut impl BufRead) -> Result<Value, String> {
    let mut line = String::new();
    from.read_line(&mut line)
        .map_err(|error| error.to_string())?;
    let (kind, rest) = line
        .trim_end()
        .split_at_checked(1)
        .ok_or("the connection was closed")?;
    let number = || {
        rest.parse::<i64>()
            .map_err(|_| format!("not a number: {rest:?}"))
    };
    match kind {
        ":" => Ok(Value::Integer(number()?)),
        "+" => Ok(Value::Bytes(rest.as_bytes().to_vec())),
        "$" => {
            let length = usize::try_from(number()?).unwrap_or(0);
            let mut bytes = vec![0; length + 2];
            from.read_exact(&mut bytes)
                .map_err(|error| error.to_string())?;
            bytes.truncate(length);
            Ok(Value::Bytes(bytes))
        }
        "*" => (0..number()?)
            .map(|_| value(from))
            .collect::<Result<_, _>>()
            .map(Value::Array),
        _ => Err(format!("answered {}", line.trim_end())),
    }
}
