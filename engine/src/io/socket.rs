//! A TCP stream that one fiber reads while another writes: each poll borrows it for itself.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};

#[derive(Debug)]
pub(super) struct Socket(RefCell<TcpStream>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Without it a small frame would wait for the acknowledgement of the one before. A socket
        // that refuses is broken and will say so when it is read.
        drop(stream.set_nodelay(true));
        Self(RefCell::new(stream))
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
