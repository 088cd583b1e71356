//! Requests to etcd and the ends of its answers: gRPC (its unary calls) over HTTP/2 (RFC 9113) without
//! TLS, as much of both as `KV/Put` and `KV/Range` need. Headers of answers are not decoded: a call that
//! was answered with a message went well, and one that ended without has failed.

use std::collections::VecDeque;

use super::keys::{KEY_BYTES, write_key};
use super::replies::Answer;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What a peer may send before it has to be allowed more, unless settings say otherwise.
const WINDOW_AT_FIRST: u32 = 65_535;

// Frame types (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A call of which only the key and the stream change: two frames, headers and message.
#[derive(Debug)]
struct Call {
    frames: Vec<u8>,
    data_at: usize,
    key_at: usize,
}

impl Call {
    fn new(method: &str, value: Option<&[u8]>) -> Self {
        let mut frames = Vec::new();
        let headers = headers(method);
        frame(&mut frames, HEADERS, END_HEADERS, 0, &headers);
        let mut message = vec![0x0a, u8::try_from(KEY_BYTES).expect("keys are short")];
        message.extend_from_slice(&[b'0'; KEY_BYTES]);
        if let Some(value) = value {
            message.push(0x12);
            varint(&mut message, value.len());
            message.extend_from_slice(value);
        }
        let mut data = vec![0];
        let length = u32::try_from(message.len()).expect("values are below 4 GiB");
        data.extend_from_slice(&in_network_order(length));
        data.extend_from_slice(&message);
        let data_at = frames.len();
        frame(&mut frames, DATA, END_STREAM, 0, &data);
        // Behind the frame's head, the message's length, and the key's.
        let key_at = data_at + FRAME_HEAD + 5 + 2;
        Self {
            frames,
            data_at,
            key_at,
        }
    }

    fn data_bytes(&self) -> i64 {
        (self.frames.len() - self.data_at - FRAME_HEAD) as i64
    }

    fn write(&self, stream: u32, number: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frames);
        for at in [start, start + self.data_at] {
            out[at + 5..at + 9].copy_from_slice(&in_network_order(stream));
        }
        let key = start + self.key_at;
        write_key(number, &mut out[key..key + KEY_BYTES]);
    }
}

/// Integers of HTTP/2 and gRPC have their highest byte first.
fn in_network_order(number: u32) -> [u8; 4] {
    let mut bytes = number.to_le_bytes();
    bytes.reverse();
    bytes
}

fn from_network_order(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn varint(to: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        to.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    to.push(u8::try_from(number).expect("seven bits"));
}

fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("frames are small");
    to.extend_from_slice(&in_network_order(length)[1..]);
    to.extend_from_slice(&[kind, flags]);
    to.extend_from_slice(&in_network_order(stream));
    to.extend_from_slice(payload);
}

/// The header block of a call (RFC 7541): indexed fields of the static table, and literals.
fn headers(method: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).expect("short, and not Huffman-coded"));
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], &format!("/etcdserverpb.KV/{method}")); // :path
    literal(&[0x01], "localhost"); // :authority
    literal(&[0x0f, 0x10], "application/grpc"); // content-type
    literal(b"\x00\x02te", "trailers");
    block
}

/// One connection's requests and answers.
#[derive(Debug)]
pub(super) struct Etcd {
    get: Call,
    set: Call,
    /// What was read and is no whole frame yet.
    partial: Vec<u8>,
    next_stream: u32,
    /// Bytes of messages that etcd takes at the moment.
    window: i64,
    /// Calls that wait for it: a call's number, its key, and whether it writes.
    held: VecDeque<(u32, u32, bool)>,
    /// Whether each call since the oldest that has not ended was answered with a message.
    answered: VecDeque<bool>,
    /// The number of the first of those.
    first: u64,
    /// Bytes that etcd has sent since it was last allowed more.
    taken: u32,
    /// Frames that answer etcd's own.
    control: Vec<u8>,
    pub(super) first_error: Option<String>,
}

impl Etcd {
    pub(super) fn new(value: &[u8]) -> Self {
        let mut control = PREFACE.to_vec();
        let mut settings = vec![0, 2, 0, 0, 0, 0]; // no pushes
        settings.extend_from_slice(&[0, 4]); // INITIAL_WINDOW_SIZE
        settings.extend_from_slice(&in_network_order(WINDOW_MAX));
        frame(&mut control, SETTINGS, 0, 0, &settings);
        let more = in_network_order(WINDOW_MAX - WINDOW_AT_FIRST);
        frame(&mut control, WINDOW_UPDATE, 0, 0, &more);
        Self {
            get: Call::new("Range", None),
            set: Call::new("Put", Some(value)),
            partial: Vec::new(),
            next_stream: 1,
            window: i64::from(WINDOW_AT_FIRST),
            held: VecDeque::new(),
            answered: VecDeque::new(),
            first: 0,
            taken: 0,
            control,
            first_error: None,
        }
    }

    /// Adds a call that reads a key, or writes it.
    pub(super) fn request(&mut self, number: u32, writes: bool, out: &mut Vec<u8>) {
        self.held.push_back((self.next_stream, number, writes));
        self.answered.push_back(false);
        self.next_stream += 2;
        self.release(out);
    }

    /// Sends what etcd takes.
    fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.control);
        while let Some(&(stream, number, writes)) = self.held.front() {
            let call = if writes { &self.set } else { &self.get };
            if call.data_bytes() > self.window {
                return;
            }
            self.window -= call.data_bytes();
            call.write(stream, number, out);
            self.held.pop_front();
        }
    }

    /// Takes bytes as they come, and says of each call that ended which it was, counted from 0, and
    /// whether it went well. What has to be sent then goes to `out`.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        mut ended: impl FnMut(u64, Answer),
    ) {
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = all.get(at..at + FRAME_HEAD) {
            let length = usize::try_from(from_network_order(&head[..3])).expect("24 bits");
            let (kind, flags) = (head[3], head[4]);
            let stream = from_network_order(&head[5..9]) & WINDOW_MAX;
            let Some(payload) = all.get(at + FRAME_HEAD..at + FRAME_HEAD + length) else {
                break;
            };
            self.frame(kind, flags, stream, payload, &mut ended);
            at += FRAME_HEAD + length;
        }
        all.drain(..at);
        self.partial = all;
        self.release(out);
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        ended: &mut impl FnMut(u64, Answer),
    ) {
        match kind {
            DATA => {
                self.taken += u32::try_from(payload.len()).expect("24 bits");
                if self.taken > WINDOW_MAX / 2 {
                    let more = in_network_order(self.taken);
                    frame(&mut self.control, WINDOW_UPDATE, 0, 0, &more);
                    self.taken = 0;
                }
                if let Some(answered) = self.call(stream) {
                    *answered |= !payload.is_empty();
                }
            }
            HEADERS if flags & END_STREAM != 0 => self.ended(stream, ended),
            RST_STREAM => {
                if let Some(answered) = self.call(stream) {
                    *answered = false;
                }
                self.ended(stream, ended);
            }
            SETTINGS if flags & ACK == 0 => frame(&mut self.control, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(&mut self.control, PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 => self.window += i64::from(from_network_order(payload)),
            GOAWAY => {
                let text = String::from_utf8_lossy(payload.get(8..).unwrap_or_default());
                self.first_error
                    .get_or_insert_with(|| format!("etcd ends the connection: {text}"));
            }
            _ => {}
        }
    }

    fn call(&mut self, stream: u32) -> Option<&mut bool> {
        let number = u64::from(stream / 2).checked_sub(self.first)?;
        self.answered.get_mut(usize::try_from(number).ok()?)
    }

    fn ended(&mut self, stream: u32, ended: &mut impl FnMut(u64, Answer)) {
        let Some(&mut good) = self.call(stream) else {
            return;
        };
        if !good {
            self.first_error
                .get_or_insert_with(|| "etcd refused a call".to_owned());
        }
        let answer = if good { Answer::Good } else { Answer::Failed };
        ended(u64::from(stream / 2), answer);
    }

    /// Calls before this one, counted from 0, have all ended.
    pub(super) fn forget(&mut self, first: u64) {
        let count = usize::try_from(first - self.first).expect("calls under way");
        self.answered.drain(..count.min(self.answered.len()));
        self.first = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_the_bytes_that_grpc_asks_for() {
        let call = Call::new("Put", Some(b"value"));
        let mut out = Vec::new();
        call.write(7, 42, &mut out);
        let data = &out[call.data_at..];
        assert_eq!(data[..9], [0, 0, 26, DATA, END_STREAM, 0, 0, 0, 7]);
        assert_eq!(
            data[9..14],
            [0, 0, 0, 0, 21],
            "not compressed, and 21 bytes"
        );
        assert_eq!(&data[14..], b"\x0a\x0ckey:00000042\x12\x05value");
        assert_eq!(out[3..9], [HEADERS, END_HEADERS, 0, 0, 0, 7]);
    }

    #[test]
    fn calls_end_in_any_order_and_however_their_frames_are_cut() {
        let mut stream = Vec::new();
        frame(&mut stream, SETTINGS, 0, 0, &[]);
        frame(&mut stream, DATA, 0, 3, &[0, 0, 0, 0, 1, 9]);
        frame(&mut stream, HEADERS, END_STREAM | END_HEADERS, 3, &[0x88]);
        frame(&mut stream, HEADERS, END_STREAM | END_HEADERS, 1, &[0x88]);
        for cut in 0..stream.len() {
            let (mut etcd, mut out, mut found) = (Etcd::new(b"v"), Vec::new(), Vec::new());
            etcd.request(1, true, &mut out);
            etcd.request(2, false, &mut out);
            out.clear();
            let (first, second) = stream.split_at(cut);
            etcd.feed(first, &mut out, |call, answer| {
                found.push((call, answer == Answer::Good))
            });
            etcd.feed(second, &mut out, |call, answer| {
                found.push((call, answer == Answer::Good))
            });
            assert_eq!(found, [(1, true), (0, false)], "cut at {cut}");
            assert_eq!(out, [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0], "cut at {cut}");
        }
    }

    #[test]
    fn calls_wait_until_etcd_takes_more() {
        let (mut etcd, mut out) = (Etcd::new(&[b'v'; 40_000]), Vec::new());
        etcd.request(1, true, &mut out);
        let one = out.len();
        etcd.request(2, true, &mut out);
        assert_eq!(out.len(), one, "65,535 bytes do not hold two");
        let mut more = Vec::new();
        frame(&mut more, WINDOW_UPDATE, 0, 0, &in_network_order(40_000));
        etcd.feed(&more, &mut out, |_, _| {});
        assert!(out.len() > one + 40_000);
    }
}
