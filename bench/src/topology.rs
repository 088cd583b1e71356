//! Which node leads which slots, as the cluster says it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use net::Slot;

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
            .map(Self)
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

    /// The leader of a key's slot.
    pub(crate) fn leader(&self, key: &[u8]) -> Option<SocketAddr> {
        let slot = Slot::of(key).number();
        let range = self
            .0
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&slot));
        range.map(|&(_, _, leader)| leader)
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
