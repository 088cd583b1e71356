//! A ring of the shard's own for what is hot: writes to the log, sockets, and wake-ups by other threads.
//!
//! glommio's reactor makes several system calls for each pass, and allocates for each operation. Here one
//! call submits all that the fibers of a thread have asked for since the last one, and brings back all that
//! has completed. The fiber that makes it, the *driver*, lets the others run until they ask for nothing
//! more. It sleeps in the kernel for moments only, because glommio's timers and files wait meanwhile; if
//! nothing happens for longer, or the thread has next to nothing to do, an eventfd that glommio watches
//! stands in for it.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use glommio::Task;
use glommio::io::BufferedFile;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, SubmissionQueue, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// Operations that are submitted at once; more of them take another call.
const ENTRIES: u32 = 512;
/// Completions that there is room for; the kernel keeps what is more.
const COMPLETIONS: u32 = 4096;
/// Longest sleep in the kernel, for which glommio's timers may be late: longer than a durable write, so that
/// the thread is not woken for nothing meanwhile.
const NAP: Timespec = Timespec::new().nsec(250_000);
/// So many naps in a row in which nothing happened end in glommio's own sleep.
const NAPS_MAX: u32 = 3;
/// The same if nothing happened in a nap since the last such sleep: what woke the thread came alone.
const NAPS_ALONE: u32 = 1;
/// How often the other fibers run between two calls: what one asks of another is asked of the kernel by
/// the third or fourth, and a thread that naps over what comes later is late with it.
const PASSES_MIN: u32 = 4;
const PASSES_MAX: u32 = 8;
/// A write of so many bytes is given to the kernel at once: the device works on it while the thread makes
/// the next one ready, and writes that came together would be merged and done together.
const PROMPT_BYTES_MIN: usize = 512 << 10;
/// A write of so few bytes, and not a part of more, goes behind all that is asked for before the same call, such as the frames that take
/// the same entries to followers: their disks have them later than this one in any case.
const LATE_BYTES_MAX: usize = 16 << 10;
/// Marks the completion of a cancellation, for which nobody waits.
const CANCELLED: u64 = u64::MAX;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
    static CALM: Cell<bool> = const { Cell::new(false) };
}

/// How many operations this thread has asked for so far.
pub(super) fn asked() -> u64 {
    ASKED.get()
}

/// Says whether next to nothing is asked of this thread: what wakes it then comes alone, and no nap is
/// worth its while.
pub(super) fn set_calm(calm: bool) {
    CALM.set(calm);
}

/// The ring of one thread. Its operations work only while the executor that it was made on runs.
pub struct Ring {
    shared: Rc<Shared>,
    _driver: Task<()>,
    _watcher: Task<()>,
}

struct Shared {
    uring: RefCell<IoUring>,
    /// To be submitted behind the rest.
    late: RefCell<Vec<squeue::Entry>>,
    slots: RefCell<Slots>,
    /// Memory for those who are to be told.
    woken: Cell<Vec<Waker>>,
    /// The driver, while it sleeps.
    sleeper: RefCell<Option<Waker>>,
    roused: Cell<bool>,
}

/// Operations under way, by the number that the kernel knows them by.
#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

enum Slot {
    Free,
    Waiting(Option<Waker>),
    Done(i32),
}

impl Ring {
    /// A ring for the executor of this thread.
    pub fn start() -> io::Result<Rc<Self>> {
        let uring = build()?;
        if !uring.params().is_feature_ext_arg() {
            let needed = "io_uring of this kernel cannot wait for a time: 5.11 or newer is needed";
            return Err(io::Error::new(io::ErrorKind::Unsupported, needed));
        }
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        uring.submitter().register_eventfd(bell.as_raw_fd())?;
        let shared = Rc::new(Shared {
            uring: RefCell::new(uring),
            late: RefCell::default(),
            slots: RefCell::default(),
            woken: Cell::default(),
            sleeper: RefCell::default(),
            roused: Cell::new(false),
        });
        Ok(Rc::new(Self {
            _driver: glommio::spawn_local(shared.clone().drive()),
            _watcher: glommio::spawn_local(shared.clone().watch(bell)),
            shared,
        }))
    }

    /// Writes to a file, as a part of so many bytes that are written together: how many bytes.
    ///
    /// # Safety
    ///
    /// As for [`Ring::receive`]: who begins a write without awaiting it keeps the bytes next to the
    /// operation, and drops that first.
    #[expect(
        unsafe_code,
        reason = "the kernel reads the bytes while the future lives"
    )]
    pub(super) unsafe fn write_at(
        &self,
        file: BorrowedFd<'_>,
        bytes: &[u8],
        at: u64,
        whole_bytes: usize,
    ) -> Operation {
        let entry = opcode::Write::new(raw(file), bytes.as_ptr(), length(bytes.len())).offset(at);
        let late = whole_bytes <= LATE_BYTES_MAX;
        let operation = self.begin(entry.build(), late);
        if bytes.len() >= PROMPT_BYTES_MIN {
            self.shared.enter(false);
        }
        operation
    }

    #[expect(
        unsafe_code,
        reason = "the ring reads the bytes until they are written"
    )]
    pub(super) async fn write(
        &self,
        file: BorrowedFd<'_>,
        bytes: &[u8],
        at: u64,
    ) -> io::Result<usize> {
        // SAFETY: awaited here, while the bytes are borrowed.
        let written = unsafe { self.write_at(file, bytes, at, bytes.len()) };
        written.await
    }

    /// Receives from a socket: how many bytes; none at its end.
    ///
    /// # Safety
    ///
    /// Until the future is done or dropped, its memory must not be given up: who leaks it is not safe.
    #[expect(
        unsafe_code,
        reason = "the kernel writes the bytes while the future lives"
    )]
    pub unsafe fn receive(
        &self,
        socket: BorrowedFd<'_>,
        to: &mut [u8],
    ) -> impl Future<Output = io::Result<usize>> {
        let entry = opcode::Recv::new(raw(socket), to.as_mut_ptr(), length(to.len()));
        self.begin(entry.build(), false)
    }

    /// Sends to a socket: how many bytes, which may be fewer than there are.
    ///
    /// # Safety
    ///
    /// As for [`Ring::receive`].
    #[expect(
        unsafe_code,
        reason = "the kernel reads the bytes while the future lives"
    )]
    pub unsafe fn send(
        &self,
        socket: BorrowedFd<'_>,
        bytes: &[u8],
    ) -> impl Future<Output = io::Result<usize>> {
        let entry = opcode::Send::new(raw(socket), bytes.as_ptr(), length(bytes.len()));
        self.begin(entry.build(), false)
    }

    /// Waits until something is written to a pipe, and takes some of it: another thread has rung.
    ///
    /// An eventfd would not do. Kernels defer what the ring's own eventfd is told from within the signal of
    /// another, and 6.18 was seen to lose the second such telling.
    pub async fn hear(&self, pipe: BorrowedFd<'_>) -> io::Result<usize> {
        // On the heap: if this future is leaked, so is what the kernel writes to.
        let mut taken = Box::new([0u8; 8]);
        let entry = opcode::Read::new(raw(pipe), taken.as_mut_ptr(), 8);
        let bytes = self.begin(entry.build(), false).await?;
        drop(taken);
        Ok(bytes)
    }

    fn begin(&self, entry: squeue::Entry, late: bool) -> Operation {
        let key = self.shared.slots.borrow_mut().take();
        let entry = entry.user_data(key as u64);
        if late {
            self.shared.late.borrow_mut().push(entry);
        } else {
            self.shared.push(entry);
        }
        ASKED.set(asked() + 1);
        self.shared.rouse();
        Operation {
            ring: self.shared.clone(),
            key: Some(key),
        }
    }
}

impl Shared {
    fn push(&self, entry: squeue::Entry) {
        #[expect(unsafe_code, reason = "entries point to memory")]
        // SAFETY: who asked keeps the memory until the operation is done; `Operation` sees to it.
        while unsafe { self.uring.borrow_mut().submission().push(&entry) }.is_err() {
            self.enter(false);
        }
    }

    fn rouse(&self) {
        if !self.roused.replace(true)
            && let Some(waker) = self.sleeper.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Submits what was asked for, takes a nap if so wanted until something is done, and tells those who
    /// wait: how many they are.
    fn enter(&self, nap: bool) -> usize {
        let mut woken = self.woken.take();
        {
            let mut uring = self.uring.borrow_mut();
            // What does not fit is submitted by the next call, which comes at once.
            let all = push_late(&mut uring.submission(), &mut self.late.borrow_mut());
            let entered = match nap && all {
                true => {
                    let args = SubmitArgs::new().timespec(&NAP);
                    uring.submitter().submit_with_args(1, &args)
                }
                false => uring.submit(),
            };
            if let Err(error) = entered {
                // The nap is over, a signal came, or completions must be taken first.
                let passing = [Errno::TIME, Errno::INTR, Errno::AGAIN, Errno::BUSY];
                let known = Errno::from_io_error(&error).is_some_and(|it| passing.contains(&it));
                assert!(known, "the shard's ring cannot be entered: {error}");
            }
            let mut slots = self.slots.borrow_mut();
            for completion in uring.completion() {
                if completion.user_data() == CANCELLED {
                    continue;
                }
                let key = usize::try_from(completion.user_data()).expect("a key is an index");
                woken.extend(slots.done(key, completion.result()));
            }
        }
        let count = woken.len();
        // Outside of all borrows: a waker is foreign code.
        woken.drain(..).for_each(Waker::wake);
        self.woken.set(woken);
        count
    }

    /// Drives the ring until it is dropped.
    async fn drive(self: Rc<Self>) {
        // Whether nobody wanted anything any more when the fibers ran last.
        let mut quiet = false;
        let mut naps = 0;
        let mut naps_max = NAPS_MAX;
        loop {
            let calm = quiet && CALM.get();
            if calm {
                (naps, naps_max) = (0, NAPS_ALONE);
                self.park().await;
            }
            let woken = self.enter(quiet && !calm);
            naps = if woken > 0 {
                0
            } else {
                naps + u32::from(quiet)
            };
            if quiet && woken > 0 {
                naps_max = NAPS_MAX;
            }
            if naps > naps_max {
                (naps, naps_max) = (0, NAPS_ALONE);
                self.park().await;
            }
            for pass in 1..=PASSES_MAX {
                let before = asked();
                pass_on().await;
                quiet = asked() == before;
                if quiet && pass >= PASSES_MIN {
                    break;
                }
            }
        }
    }

    /// Sleeps in glommio's reactor until something is done or asked for.
    async fn park(&self) {
        self.uring.borrow_mut().completion().enable_eventfd();
        self.roused.set(false);
        // What was done before the eventfd was watched did not add to it.
        if self.enter(false) == 0 {
            poll_fn(|context| {
                if self.roused.get() {
                    return Poll::Ready(());
                }
                *self.sleeper.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
        self.uring.borrow_mut().completion().disable_eventfd();
    }

    /// Rouses the driver when the kernel adds to the eventfd.
    async fn watch(self: Rc<Self>, bell: OwnedFd) {
        #[expect(unsafe_code, reason = "glommio takes descriptors by number only")]
        // SAFETY: the descriptor is open and given away: nobody else closes it.
        let bell = unsafe { BufferedFile::from_raw_fd(bell.into_raw_fd()) };
        while bell.read_at(0, 8).await.is_ok() {
            self.rouse();
        }
    }
}

impl Slots {
    fn take(&mut self) -> usize {
        if let Some(key) = self.free.pop() {
            self.slots[key] = Slot::Waiting(None);
            return key;
        }
        self.slots.push(Slot::Waiting(None));
        self.slots.len() - 1
    }

    fn done(&mut self, key: usize, result: i32) -> Option<Waker> {
        match std::mem::replace(&mut self.slots[key], Slot::Done(result)) {
            Slot::Waiting(waker) => waker,
            Slot::Free | Slot::Done(_) => unreachable!("an operation completes once"),
        }
    }

    fn give_back(&mut self, key: usize) {
        self.slots[key] = Slot::Free;
        self.free.push(key);
    }
}

/// An operation under way. Dropped before it is done, it is cancelled, and the drop waits until the kernel
/// has let go of the memory.
pub(super) struct Operation {
    ring: Rc<Shared>,
    key: Option<usize>,
}

impl Operation {
    /// The result, if there is one; `waker` is told later otherwise.
    fn take(&mut self, waker: Option<&Waker>) -> Option<i32> {
        let key = self.key.expect("a future is not polled once it is done");
        let mut slots = self.ring.slots.borrow_mut();
        match &mut slots.slots[key] {
            Slot::Done(result) => {
                let result = *result;
                slots.give_back(key);
                self.key = None;
                Some(result)
            }
            Slot::Waiting(waiting) => {
                *waiting = waker.cloned();
                None
            }
            Slot::Free => unreachable!("the operation holds its slot"),
        }
    }
}

impl Future for Operation {
    type Output = io::Result<usize>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.take(Some(context.waker())) {
            None => Poll::Pending,
            Some(result) => Poll::Ready(
                usize::try_from(result)
                    .map_err(|_negative| io::Error::from_raw_os_error(result.wrapping_neg())),
            ),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let cancel = opcode::AsyncCancel::new(key as u64).build();
        self.ring.push(cancel.user_data(CANCELLED));
        while self.key.is_some() && self.take(None).is_none() {
            self.ring.enter(true);
        }
    }
}

/// Pushes what is late, as far as there is room: whether there was.
fn push_late(queue: &mut SubmissionQueue<'_>, late: &mut Vec<squeue::Entry>) -> bool {
    let fits = late.len().min(queue.capacity() - queue.len());
    for entry in late.drain(..fits) {
        #[expect(unsafe_code, reason = "entries point to memory")]
        // SAFETY: as for `Shared::push`.
        unsafe { queue.push(&entry) }.expect("there is room");
    }
    late.is_empty()
}

/// Lets every other fiber that is ready run first.
async fn pass_on() {
    let mut passed = false;
    poll_fn(|context| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Kernels from 6.1 on leave completions until they are asked for; what came before them does less.
fn build() -> io::Result<IoUring> {
    let sized = || {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS);
        builder
    };
    let mut best = sized();
    best.setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    let mut good = sized();
    good.setup_coop_taskrun().setup_taskrun_flag();
    best.build(ENTRIES)
        .or_else(|_refused| good.build(ENTRIES))
        .or_else(|_refused| sized().build(ENTRIES))
}

fn raw(descriptor: BorrowedFd<'_>) -> Fd {
    Fd(descriptor.as_fd().as_raw_fd())
}

/// More than fits is left for another operation.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(1 << 30)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use glommio::Placement;

    use super::super::executor;
    use super::*;

    /// What comes out of a socket into which so much was written, as a part of more, and then one byte sent,
    /// before one call.
    async fn written_then_sent(bytes: usize, whole_bytes: usize) -> Vec<u8> {
        let (one, other) = UnixStream::pair().unwrap();
        let ring = Ring::start().unwrap();
        let written = vec![b'w'; bytes];
        let mut out = vec![0; bytes + 1];
        #[expect(unsafe_code, reason = "operations trust that they are not leaked")]
        // SAFETY: the futures are awaited here, with their memory.
        unsafe {
            let write = ring.write_at(one.as_fd(), &written, 0, whole_bytes);
            let send = ring.send(one.as_fd(), b"s");
            assert_eq!(write.await.unwrap(), bytes);
            assert_eq!(send.await.unwrap(), 1);
            let mut end = 0;
            while end < out.len() {
                end += ring.receive(other.as_fd(), &mut out[end..]).await.unwrap();
            }
        }
        out
    }

    #[test]
    fn a_small_write_goes_behind_what_is_sent_and_a_large_one_and_its_parts_in_their_turn() {
        let executor = executor::builder(Placement::Unbound).make().unwrap();
        executor.run(executor::awake(async {
            for bytes in [1, LATE_BYTES_MAX] {
                let out = written_then_sent(bytes, bytes).await;
                assert_eq!(out[0], b's', "{bytes} bytes go first");
            }
            for bytes in [1, LATE_BYTES_MAX + 1] {
                let out = written_then_sent(bytes, LATE_BYTES_MAX + 1).await;
                assert_eq!(out[bytes], b's', "{bytes} bytes of more go last");
            }
        }));
    }

    #[test]
    fn late_writes_that_do_not_fit_are_not_forgotten() {
        let null = std::fs::OpenOptions::new().write(true).open("/dev/null");
        let null = null.unwrap();
        let executor = executor::builder(Placement::Unbound).make().unwrap();
        executor.run(executor::awake(async move {
            let ring = Ring::start().unwrap();
            #[expect(unsafe_code, reason = "operations trust that they are not leaked")]
            // SAFETY: the futures are awaited here, with their memory.
            let writes: Vec<_> = (0..2 * ENTRIES + 1)
                .map(|_| unsafe { ring.write_at(null.as_fd(), b"w", 0, 1) })
                .collect();
            for write in writes {
                assert_eq!(write.await.unwrap(), 1);
            }
        }));
    }
}
