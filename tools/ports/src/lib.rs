//! TCP ports for nodes that tests, drills and benches start, which are nobody else's on this machine for as
//! long as [`Ports`] lives. To look whether a port is free and let it go is not enough: whoever looks next
//! finds it free as well, until the node listens, and again while a node is down.
//!
//! What holds a port is a UDP socket of the same number, which only one process can bind. TCP does not mind,
//! and the kernel gives it back whatever ends the process. Reserved are only ports below those that the
//! kernel hands out by itself, or a connection of anybody could take one while its node is down.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

/// Below, services of the machine are likely.
const LOWEST: u16 = 10_000;
/// Where the kernel's own ports begin by default, and where they may begin for there to be enough below.
const OWN_DEFAULT: u16 = 32_768;
const OWN_MIN: u16 = 20_000;

/// Neighbouring TCP ports that nobody listens on, until this is dropped.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    _held: Vec<UdpSocket>,
}

/// So many ports are not free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no {count} neighbouring ports are free between {LOWEST} and {end}: see who has them with `ss -ltunp`"
)]
pub struct NoPorts {
    /// How many were asked for.
    pub count: u16,
    /// Where the search ended.
    pub end: u16,
}

impl Ports {
    /// Reserves so many neighbouring ports.
    pub fn reserve(count: u16) -> Result<Self, NoPorts> {
        Self::reserve_at(count, &[0])
    }

    /// Reserves so many neighbouring ports at each of these distances from the first, for programs that
    /// derive the ports of one kind from those of another.
    pub fn reserve_at(count: u16, distances: &[u16]) -> Result<Self, NoPorts> {
        // Each reservation of a process looks elsewhere first, and so do processes.
        static RESERVED: AtomicU32 = AtomicU32::new(0);
        assert!(count > 0, "no ports are asked for");
        let farthest = distances.iter().max().copied().unwrap_or_default();
        let end = begin_of_own();
        let room = end.saturating_sub(LOWEST).saturating_sub(farthest);
        let places = u32::from(room / count);
        let turn = RESERVED.fetch_add(1, Ordering::Relaxed);
        let start = std::process::id().wrapping_mul(61).wrapping_add(turn);
        for place in 0..places {
            let place = start.wrapping_add(place) % places;
            let first = LOWEST + u16::try_from(place).expect("there are fewer than ports") * count;
            let blocks = distances.iter().map(|above| first + above);
            let ports = blocks.flat_map(|block| block..block + count);
            if let Some(held) = ports.map(hold).collect() {
                return Ok(Self { first, _held: held });
            }
        }
        Err(NoPorts { count, end })
    }

    /// The lowest of them.
    pub fn first(&self) -> u16 {
        self.first
    }
}

/// What keeps others off a port; nothing if they have it already.
fn hold(port: u16) -> Option<UdpSocket> {
    let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    is_free(port).then_some(held)
}

/// Whether a node could listen on this port of every address of the machine.
///
/// This never listens itself: a process that another thread starts at the same moment has a copy of the
/// socket for an instant, and while that listened, nobody else could.
pub fn is_free(port: u16) -> bool {
    let probed = socket(AddressFamily::INET, SocketType::STREAM, None).and_then(|probe| {
        // As nodes listen: what is left of connections of earlier ones is in nobody's way.
        sockopt::set_socket_reuseaddr(&probe, true)?;
        bind(&probe, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
    });
    probed.is_ok()
}

/// The first of the ports that the kernel gives to connections.
fn begin_of_own() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let begin = range.ok().and_then(|range| {
        let begin = range.split_whitespace().next()?;
        begin.parse::<u16>().ok()
    });
    begin.unwrap_or(OWN_DEFAULT).max(OWN_MIN)
}
