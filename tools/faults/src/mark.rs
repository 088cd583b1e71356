//! Marks in the record of dm-log-writes: what was acknowledged at that place.

use std::fs::File;
use std::path::Path;

use crate::trouble::Trouble;

/// The name under which device-mapper knows the device that is recorded.
pub(crate) const DEVICE: &str = "recorded";
const CONTROL: &str = "/dev/mapper/control";

/// Room for the message behind the head of a request.
const MESSAGE_MAX: usize = 128;
/// `struct dm_ioctl` of linux/dm-ioctl.h, and what it announces.
const HEAD: usize = 312;
/// `struct dm_target_msg`: a sector before the text.
const TEXT: usize = HEAD + 8;
type Request = [u8; TEXT + MESSAGE_MAX];

/// Whoever holds it can mark the record.
pub(crate) struct Marker(File);

impl Marker {
    pub(crate) fn open() -> Result<Self, Trouble> {
        let control = Path::new(CONTROL);
        let file = File::options().read(true).write(true).open(control);
        file.map(Self).map_err(Trouble::io("open", control))
    }

    /// Everything that was confirmed before the call lies before the mark, which is one word.
    pub(crate) fn mark(&self, text: &str) -> Result<(), Trouble> {
        const TARGET_MESSAGE: rustix::ioctl::Opcode = 0xc138_fd0e;
        let mut request = request(text);
        #[expect(unsafe_code, reason = "no safe call wraps this ioctl")]
        // SAFETY: the kernel reads and writes within the length that the head states, which is that
        // of the array.
        let outcome = unsafe {
            let update = rustix::ioctl::Updater::<TARGET_MESSAGE, Request>::new(&mut request);
            rustix::ioctl::ioctl(&self.0, update)
        };
        outcome.map_err(|error| Trouble::io("mark", Path::new(CONTROL))(error.into()))
    }
}

/// A message to the target of [`DEVICE`].
fn request(text: &str) -> Request {
    let message = format!("mark {text}");
    assert!(message.len() < MESSAGE_MAX, "marks are short: {text}");
    let mut request = [0; TEXT + MESSAGE_MAX];
    let mut put = |at: usize, bytes: &[u8]| request[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &4_u32.to_le_bytes());
    let bytes = u32::try_from(TEXT + MESSAGE_MAX).expect("it is small");
    put(12, &bytes.to_le_bytes());
    let head = u32::try_from(HEAD).expect("it is small");
    put(16, &head.to_le_bytes());
    put(48, DEVICE.as_bytes());
    put(TEXT, message.as_bytes());
    request
}
