//! A TCP stream that one fiber reads while another writes, both through the shard's ring.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use glommio::net::{TcpListener, TcpStream};
use rustix::net::sockopt;
use wal::io::Ring;

pub(super) struct Socket {
    stream: TcpStream,
    ring: Rc<Ring>,
    /// Bytes that the kernel has taken.
    sent: Cell<u64>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.stream.as_raw_fd())
    }
}

impl Socket {
    pub(super) fn new(stream: TcpStream, ring: Rc<Ring>) -> Self {
        // Without it a small frame would wait for the acknowledgement of the one before. A socket
        // that refuses is broken and will say so when it is read.
        drop(stream.set_nodelay(true));
        let sent = Cell::new(0);
        let socket = Self { stream, ring, sent };
        // The ring answers at once instead of waiting, where a socket says that it must not wait.
        let _ = rustix::io::ioctl_fionbio(socket.descriptor(), false);
        socket
    }

    /// Ends the connection when the other side acknowledges nothing for so long: a machine that
    /// lost its power says no goodbye, and one that comes back must be dialled again soon.
    pub(super) fn give_up_after(&self, silence: Duration) {
        let socket = self.descriptor();
        let millis = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
        // A kernel without these options only notices later.
        let _ = sockopt::set_tcp_user_timeout(socket, millis);
        let _ = sockopt::set_tcp_keepidle(socket, silence);
        let _ = sockopt::set_tcp_keepintvl(socket, Duration::from_secs(1));
        let _ = sockopt::set_socket_keepalive(socket, true);
    }

    /// Bytes read; zero at the end of the stream.
    pub(super) async fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        #[expect(
            unsafe_code,
            reason = "the ring writes to the buffer until it has read"
        )]
        // SAFETY: awaited here, while the buffer is borrowed.
        let received = unsafe { self.ring.receive(self.descriptor(), to) };
        received.await
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            #[expect(unsafe_code, reason = "the ring reads the bytes until they were sent")]
            // SAFETY: awaited here, while the bytes are borrowed.
            let sent = unsafe { self.ring.send(self.descriptor(), bytes) };
            match sent.await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                sent => {
                    self.sent.set(self.sent.get() + sent as u64);
                    bytes = &bytes[sent..];
                }
            }
        }
        Ok(())
    }

    /// How many bytes it has taken so far: the other side reads if these become more.
    pub(super) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Ends both directions: whoever waits for the socket is woken with an error or its end.
    pub(super) fn close(&self) {
        // A socket that is not connected any more is what was wanted.
        let _ = rustix::net::shutdown(self.descriptor(), rustix::net::Shutdown::Both);
    }

    pub(super) fn peer(&self) -> String {
        let address = self.stream.peer_addr();
        address.map_or_else(|_| "?".to_owned(), |address| address.to_string())
    }

    pub(super) fn local(&self) -> String {
        let address = self.stream.local_addr();
        address.map_or_else(|_| "?".to_owned(), |address| address.to_string())
    }

    #[expect(unsafe_code, reason = "glommio's sockets do not implement AsFd")]
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and outlives the borrow, which is tied to it.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }
}

/// Gives a listener that was bound by the thread that opened the node to this executor.
#[expect(unsafe_code, reason = "glommio takes listeners by number only")]
pub(super) fn adopt(listener: std::net::TcpListener) -> TcpListener {
    // SAFETY: the descriptor is open, listens, and is given away: nobody else closes it.
    unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) }
}
