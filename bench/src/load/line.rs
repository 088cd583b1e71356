//! A connection to one server, and what is under way on it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::replies::Answer;
use super::wire::{Protocol, Wire};

/// A request that was not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) due: Instant,
    /// Its key.
    pub(super) number: u32,
    pub(super) writes: bool,
    /// Write the key once this read was answered.
    pub(super) then_write: bool,
    /// How often it was sent elsewhere.
    pub(super) hops: u8,
}

/// What an answer belongs to.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Request(Request),
    /// The announcement of the request that follows.
    Asking,
}

pub(super) struct Line {
    pub(super) server: SocketAddr,
    pub(super) stream: TcpStream,
    wire: Wire,
    /// Bytes to send, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// From the oldest that was not answered on; `None` for those that were.
    under_way: VecDeque<Option<Pending>>,
    /// The number of the first of those: they are numbered from 0.
    first: u64,
    /// How many requests were not answered.
    pub(super) waiting: usize,
}

impl Line {
    pub(super) fn connect(
        server: SocketAddr,
        protocol: Protocol,
        value: &[u8],
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{server}: {error}");
        let stream = TcpStream::connect(server).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            server,
            stream,
            wire: Wire::new(protocol, value),
            out: Vec::new(),
            sent: 0,
            under_way: VecDeque::new(),
            first: 0,
            waiting: 0,
        })
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Adds a request.
    pub(super) fn request(&mut self, request: Request) {
        self.wire
            .request(request.number, request.writes, &mut self.out);
        self.under_way.push_back(Some(Pending::Request(request)));
        self.waiting += 1;
    }

    /// Adds a request for a slot that another server has.
    pub(super) fn ask(&mut self, request: Request) {
        self.wire.ask(&mut self.out);
        self.under_way.push_back(Some(Pending::Asking));
        self.request(request);
    }

    pub(super) fn write(&mut self) -> Result<(), String> {
        while self.sent < self.out.len() {
            match (&self.stream).write(&self.out[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("write: {error}")),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// How many bytes have come: none if there are none yet.
    pub(super) fn receive(&mut self, input: &mut [u8]) -> Result<usize, String> {
        match (&self.stream).read(input) {
            Ok(0) => Err("the node closed the connection".to_owned()),
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(format!("read: {error}")),
        }
    }

    /// Takes bytes as they come, and says of each request that was answered what was said.
    pub(super) fn answered(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Request, Answer),
    ) -> Result<(), String> {
        let (mut unasked, mut ended) = (false, 0);
        let (under_way, first) = (&mut self.under_way, &mut self.first);
        self.wire.feed(bytes, &mut self.out, |number, answer| {
            let place = number
                .checked_sub(*first)
                .and_then(|at| usize::try_from(at).ok());
            let Some(pending) = place.and_then(|at| under_way.get_mut(at)?.take()) else {
                unasked = true;
                return;
            };
            while under_way.pop_front_if(|oldest| oldest.is_none()).is_some() {
                *first += 1;
            }
            if let Pending::Request(request) = pending {
                ended += 1;
                each(request, answer);
            }
        });
        self.waiting -= ended;
        self.wire.forget(self.first);
        if unasked {
            return Err("a reply without a request".to_owned());
        }
        Ok(())
    }

    pub(super) fn first_error(&self) -> Option<&String> {
        self.wire.first_error()
    }
}
