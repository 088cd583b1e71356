//! The C interface of Drakkar: open a node from a configuration, and close it.
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

use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::io::{Node, OpenError, config_file};

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
    message: CString,
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
            return Err((
                drakkar_status_t::NullArgument,
                "config or node is NULL".to_owned(),
            ));
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

fn open(text: &[u8]) -> Result<Node, (drakkar_status_t, String)> {
    let config = |message| (drakkar_status_t::Config, message);
    let text = std::str::from_utf8(text).map_err(|error| config(error.to_string()))?;
    let parsed = config_file::parse(text).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        config(lines.join("\n"))
    })?;
    Node::open(parsed).map_err(|error: OpenError| (drakkar_status_t::Open, error.to_string()))
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
        node.0
            .wait()
            .map_err(|error| (drakkar_status_t::Failed, error.to_string()))
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

type Outcome = Result<(), (drakkar_status_t, String)>;

/// Unwinding into C is undefined behaviour: stops every panic here.
fn guard(call: impl FnOnce() -> Outcome) -> Outcome {
    let caught = catch_unwind(AssertUnwindSafe(call));
    caught.unwrap_or_else(|_| Err((drakkar_status_t::Panic, "the library panicked".to_owned())))
}

/// # Safety
///
/// `to` is NULL or writable.
unsafe fn report(result: Outcome, to: *mut *mut drakkar_error_t) -> drakkar_status_t {
    let Err((status, message)) = result else {
        return drakkar_status_t::Ok;
    };
    if !to.is_null() {
        let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
        let error = Box::into_raw(Box::new(drakkar_error_t { status, message }));
        // SAFETY: the caller promises that `to` is writable if it is not NULL.
        unsafe { to.write(error) };
    }
    status
}
