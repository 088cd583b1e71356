//! A TCP stream that one fiber reads while another writes: each poll borrows it for itself.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use rustix::net::sockopt;

#[derive(Debug)]
pub(super) struct Socket(RefCell<TcpStream>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Without it a small frame would wait for the acknowledgement of the one before. A socket
        // that refuses is broken and will say so when it is read.
        drop(stream.set_nodelay(true));
        Self(RefCell::new(stream))
    }

    /// Ends the connection when the other side acknowledges nothing for so long: a machine that
    /// lost its power says no goodbye, and one that comes back must be dialled again soon.
    pub(super) fn give_up_after(&self, silence: Duration) {
        let stream = self.0.borrow();
        let socket = borrow(&stream);
        let millis = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
        // A kernel without these options only notices later.
        let _ = sockopt::set_tcp_user_timeout(socket, millis);
        let _ = sockopt::set_tcp_keepidle(socket, silence);
        let _ = sockopt::set_tcp_keepintvl(socket, Duration::from_secs(1));
        let _ = sockopt::set_socket_keepalive(socket, true);
    }

    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        to: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(context, to)
    }

    /// Bytes read; zero at the end of the stream.
    pub(super) async fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(context, to)).await
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                poll_fn(|context| Pin::new(&mut *self.0.borrow_mut()).poll_write(context, bytes))
                    .await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Ends both directions: whoever waits for the socket is woken with an error or its end.
    pub(super) fn close(&self) {
        let stream = self.0.borrow();
        // A socket that is not connected any more is what was wanted.
        let _ = rustix::net::shutdown(borrow(&stream), rustix::net::Shutdown::Both);
    }

    pub(super) fn peer(&self) -> String {
        self.0
            .borrow()
            .peer_addr()
            .map_or_else(|_| "?".to_owned(), |address| address.to_string())
    }

    pub(super) fn local(&self) -> String {
        self.0
            .borrow()
            .local_addr()
            .map_or_else(|_| "?".to_owned(), |address| address.to_string())
    }
}

#[expect(unsafe_code, reason = "glommio's sockets do not implement AsFd")]
fn borrow(stream: &TcpStream) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::AsRawFd;
    // SAFETY: the stream owns the descriptor and outlives the borrow, which is tied to it.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// Gives a listener that was bound by the thread that opened the node to this executor.
#[expect(unsafe_code, reason = "glommio takes listeners by number only")]
pub(super) fn adopt(listener: std::net::TcpListener) -> TcpListener {
    // SAFETY: the descriptor is open, listens, and is given away: nobody else closes it.
    unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) }
}
