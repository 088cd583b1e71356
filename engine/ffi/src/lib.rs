//! The C interface of Drakkar: open a node from a configuration, close it, and make exported snapshots the
//! history of one that is stopped.
//!
//! Every function stops panics at its border. Handles are opaque; each says who frees it.

#![allow(
    unsafe_code,
    reason = "a C interface takes pointers on its caller's word"
)]
#![allow(
    non_camel_case_types,
    reason = "these are the names that C programs see"
)]

use std::ffi::{CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use engine::config::Config;
use engine::io::import::{Import, ImportError, import, parse_members};
use engine::io::{Node, config_file};

/// How a call ended. Numbers are never used again for something else.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum drakkar_status_t {
    Ok = 0,
    /// A pointer that must not be NULL was NULL.
    NullArgument = 1,
    /// The configuration has mistakes; the error names all of them.
    Config = 2,
    /// The node could not be started; the error says why and what to do.
    Open = 3,
    /// The node ended by itself; the error says why.
    Failed = 4,
    /// A defect of the library. The handle must not be used any more.
    Panic = 5,
    /// Nothing was imported; `drakkar_error_code` is a word that says why.
    Import = 6,
}

/// Bytes that belong to the caller and are only read during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct drakkar_slice_t {
    pub bytes: *const u8,
    pub length: usize,
}

/// A running node. May be used from any thread; close it exactly once.
pub struct drakkar_node_t(Node);

/// What went wrong. Belongs to the caller, who frees it with `drakkar_error_free`.
pub struct drakkar_error_t {
    status: drakkar_status_t,
    code: CString,
    message: CString,
}

/// An import: see `drakkar snapshot import --help`.
#[repr(C)]
pub struct drakkar_import_t {
    /// The text of the node's configuration, which lists the new members and no others.
    pub config: drakkar_slice_t,
    /// The path of a directory that an export was written to.
    pub from: drakkar_slice_t,
    /// All members there will be, the same on all of them: `ID=HOST:PORT` (peer ports), separated by
    /// commas.
    pub members: drakkar_slice_t,
    /// Which of them the node is.
    pub replica: u32,
    /// Not 0 to go on although a majority of the old members answers. What they acknowledge is lost.
    pub ignore_live_quorum: u32,
    /// The epoch that the members will be of, the same on all of them; 0: the next after that of the
    /// export.
    pub epoch: u64,
}

/// What was imported.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct drakkar_imported_t {
    /// These two are equal on two members if, and only if, they were given the same snapshots and the same
    /// list.
    pub snapshot: u64,
    pub members: u64,
    pub epoch: u64,
    /// 1 if the same was imported before, and nothing was changed.
    pub again: u32,
    pub reserved: u32,
}

/// Version of the library, such as "0.1.0". Never freed.
#[unsafe(no_mangle)]
pub extern "C" fn drakkar_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Starts a node from the text of a configuration file and waits until it serves.
///
/// On success `*node` is a handle for `drakkar_node_close`. Otherwise `*error`, if `error` is not
/// NULL, is an error for `drakkar_error_free`.
///
/// # Safety
///
/// `config` is readable; `node` is writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drakkar_node_open(
    config: drakkar_slice_t,
    node: *mut *mut drakkar_node_t,
    error: *mut *mut drakkar_error_t,
) -> drakkar_status_t {
    let result = guard(|| {
        if config.bytes.is_null() || node.is_null() {
            let why = "config or node is NULL";
            return Err(Failure::new(drakkar_status_t::NullArgument, why));
        }
        // SAFETY: the caller promises that `config` is readable during the call.
        let text = unsafe { std::slice::from_raw_parts(config.bytes, config.length) };
        let opened = Box::into_raw(Box::new(drakkar_node_t(open(text)?)));
        // SAFETY: the caller promises that `node` is writable.
        unsafe { node.write(opened) };
        Ok(())
    });
    // SAFETY: the caller promises that `error` is NULL or writable.
    unsafe { report(result, error) }
}

fn open(text: &[u8]) -> Result<Node, Failure> {
    let opened = Node::open(parse(text)?);
    opened.map_err(|error| Failure::new(drakkar_status_t::Open, error))
}

fn parse(text: &[u8]) -> Result<Config, Failure> {
    let config = |message: String| Failure::new(drakkar_status_t::Config, message);
    let text = std::str::from_utf8(text).map_err(|error| config(error.to_string()))?;
    config_file::parse(text).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        config(lines.join("\n"))
    })
}

/// Makes exported snapshots the whole history of a stopped node, and a list of nodes its membership, as
/// `drakkar snapshot import` does: for a cluster that has lost its majority for good. Do the same on every
/// member of the list; what is newer than the snapshots is lost. It can be repeated.
///
/// On success `*imported` says what was done. Otherwise `*error`, if `error` is not NULL, is an error for
/// `drakkar_error_free`, and `drakkar_error_code` one of the words of the manual, such as "PathNotExist".
///
/// # Safety
///
/// `import` and what it points to are readable; `imported` is writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drakkar_snapshot_import(
    import: *const drakkar_import_t,
    imported: *mut drakkar_imported_t,
    error: *mut *mut drakkar_error_t,
) -> drakkar_status_t {
    let result = guard(|| {
        // SAFETY: the caller promises that `import` is NULL or readable.
        let order = unsafe { import.as_ref() };
        let null = |what: &str| Failure::new(drakkar_status_t::NullArgument, what);
        let order = order.ok_or_else(|| null("import is NULL"))?;
        let [config, from, members] = [&order.config, &order.from, &order.members];
        if imported.is_null() || [config, from, members].iter().any(|it| it.bytes.is_null()) {
            return Err(null("imported, config, from or members is NULL"));
        }
        let [config, from, members] = [config, from, members].map(|slice| {
            // SAFETY: the caller promises that what `import` points to is readable during the call.
            unsafe { std::slice::from_raw_parts(slice.bytes, slice.length) }
        });
        let done = import_snapshot(order, config, from, members)?;
        // SAFETY: the caller promises that `imported` is writable.
        unsafe { imported.write(done) };
        Ok(())
    });
    // SAFETY: the caller promises that `error` is NULL or writable.
    unsafe { report(result, error) }
}

fn import_snapshot(
    order: &drakkar_import_t,
    config: &[u8],
    from: &[u8],
    members: &[u8],
) -> Result<drakkar_imported_t, Failure> {
    let config = parse(config)?;
    let refused = |error: ImportError| Failure {
        code: error.code(),
        ..Failure::new(drakkar_status_t::Import, error)
    };
    let members = String::from_utf8_lossy(members);
    let members = parse_members(members.split(',')).map_err(refused)?;
    let done = import(&Import {
        config: &config,
        from: Path::new(OsStr::from_bytes(from)),
        members: &members,
        replica: order.replica,
        epoch: (order.epoch != 0).then_some(order.epoch),
        ignore_live_quorum: order.ignore_live_quorum != 0,
    });
    let done = done.map_err(refused)?;
    Ok(drakkar_imported_t {
        snapshot: done.snapshot,
        members: done.members,
        epoch: done.epoch,
        again: u32::from(done.again),
        reserved: 0,
    })
}

/// Stops a node: it hands over what it leads, finishes what was begun, and its handle is gone.
/// NULL is ignored.
///
/// # Safety
///
/// `node` is NULL or from `drakkar_node_open` and not yet closed; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drakkar_node_close(
    node: *mut drakkar_node_t,
    error: *mut *mut drakkar_error_t,
) -> drakkar_status_t {
    let result = guard(|| {
        if node.is_null() {
            return Ok(());
        }
        // SAFETY: the caller promises that this came from `drakkar_node_open` and is not closed.
        let node = unsafe { Box::from_raw(node) };
        node.0.stop();
        let ended = node.0.wait();
        ended.map_err(|error| Failure::new(drakkar_status_t::Failed, error))
    });
    // SAFETY: the caller promises that `error` is NULL or writable.
    unsafe { report(result, error) }
}

/// The status that an error came with; `DRAKKAR_STATUS_T_OK` for NULL.
///
/// # Safety
///
/// `error` is NULL or from this library and not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drakkar_error_status(error: *const drakkar_error_t) -> drakkar_status_t {
    // SAFETY: the caller promises NULL or a live error.
    unsafe { error.as_ref() }.map_or(drakkar_status_t::Ok, |error| error.status)
}

/// What an error says; valid until it is freed. NULL for NULL.
///
/// # Safety
///
/// `error` is NULL or from this library and not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drakkar_error_message(error: *const drakkar_error_t) -> *const c_char {
    // SAFETY: the caller promises NULL or a live error.
    unsafe { error.as_ref() }.map_or(std::ptr::null(), |error| error.message.as_ptr())
}

/// A word that says what an error is, for programs: it stays the same when the message is improved. Valid
/// until the error is freed; "" if there is none, NULL for NULL.
///
/// # Safety
///
/// `error` is NULL or from this library and not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drakkar_error_code(error: *const drakkar_error_t) -> *const c_char {
    // SAFETY: the caller promises NULL or a live error.
    unsafe { error.as_ref() }.map_or(std::ptr::null(), |error| error.code.as_ptr())
}

/// Frees an error. NULL is ignored.
///
/// # Safety
///
/// `error` is NULL or from this library and not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drakkar_error_free(error: *mut drakkar_error_t) {
    if !error.is_null() {
        // SAFETY: the caller promises that this came from the library and is not yet freed.
        drop(unsafe { Box::from_raw(error) });
    }
}

/// Why a call fails: the status, a word for programs (empty without one), and a sentence.
struct Failure {
    status: drakkar_status_t,
    code: &'static str,
    message: String,
}

impl Failure {
    fn new(status: drakkar_status_t, message: impl ToString) -> Self {
        Self {
            status,
            code: "",
            message: message.to_string(),
        }
    }
}

type Outcome = Result<(), Failure>;

/// Unwinding into C is undefined behaviour: stops every panic here.
fn guard(call: impl FnOnce() -> Outcome) -> Outcome {
    let caught = catch_unwind(AssertUnwindSafe(call));
    let panicked = || Failure::new(drakkar_status_t::Panic, "the library panicked");
    caught.unwrap_or_else(|_| Err(panicked()))
}

/// # Safety
///
/// `to` is NULL or writable.
unsafe fn report(result: Outcome, to: *mut *mut drakkar_error_t) -> drakkar_status_t {
    let Err(failure) = result else {
        return drakkar_status_t::Ok;
    };
    let status = failure.status;
    if !to.is_null() {
        let text = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
        let (code, message) = (text(failure.code), text(&failure.message));
        let error = Box::into_raw(Box::new(drakkar_error_t {
            status,
            code,
            message,
        }));
        // SAFETY: the caller promises that `to` is writable if it is not NULL.
        unsafe { to.write(error) };
    }
    status
}
