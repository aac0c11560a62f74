//! A library to preload into a process: it writes down every change of the files under one
//! folder, in the order in which they happened.
//!
//! `tests/store/power/record.rs` preloads it into a child, and builds from the record what a power
//! cut could have left: of a store on the real engine, and of a whole broker.
//! `CBROKER_POWER_ROOT` names the folder, `CBROKER_POWER_LOG` the record. Relies on the dynamic
//! linker: each function here stands before the one of the same name in the C library. Linux only.

#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    reason = "functions of the C library can only be replaced and called as such"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

/// "The next one after this library".
const NEXT: *mut c_void = -1_isize as *mut c_void;

struct Recorder {
    root: String,
    log: Mutex<File>,
}

static RECORDER: OnceLock<Option<Recorder>> = OnceLock::new();

/// The functions of the C library, found once.
macro_rules! real {
    ($name:literal, $type:ty) => {{
        static FOUND: OnceLock<usize> = OnceLock::new();
        let address = *FOUND.get_or_init(|| {
            // SAFETY: the symbol is a valid C string, and the C library has it.
            unsafe { dlsym(NEXT, $name.as_ptr()) as usize }
        });
        // SAFETY: the address is that of the C library's function, which has this signature.
        unsafe { std::mem::transmute::<usize, $type>(address) }
    }};
}

type Open = extern "C" fn(*const c_char, c_int, u32) -> c_int;
type WriteCall = extern "C" fn(c_int, *const c_void, usize) -> isize;
type WriteAt = extern "C" fn(c_int, *const c_void, usize, i64) -> isize;
type Truncate = extern "C" fn(c_int, i64) -> c_int;
type Sync = extern "C" fn(c_int) -> c_int;
type Rename = extern "C" fn(*const c_char, *const c_char) -> c_int;
type Unlink = extern "C" fn(*const c_char) -> c_int;
type UnlinkAt = extern "C" fn(c_int, *const c_char, c_int) -> c_int;

fn recorder() -> Option<&'static Recorder> {
    const APPEND_CREATE: c_int = 0o2000 | 0o100 | 1;
    let made = RECORDER.get_or_init(|| {
        let root = std::env::var("CBROKER_POWER_ROOT").ok()?;
        let log = CString::new(std::env::var("CBROKER_POWER_LOG").ok()?).ok()?;
        let descriptor = real!(c"open64", Open)(log.as_ptr(), APPEND_CREATE, 0o600);
        // SAFETY: the descriptor was opened here and belongs to nobody else.
        let log = (descriptor >= 0).then(|| unsafe { File::from_raw_fd(descriptor) })?;
        Some(Recorder {
            root,
            log: Mutex::new(log),
        })
    });
    made.as_ref()
}

fn path_of(descriptor: c_int) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    path.to_str()
        .filter(|path| recorder().is_some_and(|recorder| path.starts_with(&recorder.root)))
        .map(str::to_owned)
}

/// The length of an open file: blocks that were allocated ahead count, though nobody wrote them.
fn size_of_open(descriptor: c_int) -> u64 {
    let found = std::fs::metadata(format!("/proc/self/fd/{descriptor}"));
    found.map_or(0, |found| if found.is_file() { found.len() } else { 0 })
}

fn text_at(text: *const c_char) -> Option<String> {
    // SAFETY: the caller of the C function promises a C string.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().ok().map(str::to_owned)
}

fn path_at(path: *const c_char) -> Option<String> {
    text_at(path).filter(|path| recorder().is_some_and(|recorder| path.starts_with(&recorder.root)))
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Does something and writes it down before anybody else does anything.
fn record<T: Copy>(
    kind: u8,
    path: Option<String>,
    work: impl FnOnce() -> T,
    entry: impl FnOnce(T) -> Option<(u64, Vec<u8>)>,
) -> T {
    let (Some(recorder), Some(path)) = (recorder(), path) else {
        return work();
    };
    let log = recorder.log.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = work();
    if let Some((number, data)) = entry(outcome) {
        let mut line = vec![kind];
        line.extend_from_slice(&length_of(path.as_bytes()).to_be_bytes());
        line.extend_from_slice(path.as_bytes());
        line.extend_from_slice(&number.to_be_bytes());
        line.extend_from_slice(&length_of(&data).to_be_bytes());
        line.extend_from_slice(&data);
        let mut left = line.as_slice();
        while !left.is_empty() {
            let written =
                real!(c"write", WriteCall)(log.as_raw_fd(), left.as_ptr().cast(), left.len());
            let Ok(written) = usize::try_from(written) else {
                break;
            };
            left = &left[written..];
        }
    }
    outcome
}

/// Opening creates a file where it is missing.
#[unsafe(no_mangle)]
pub extern "C" fn open64(path: *const c_char, flags: c_int, mode: u32) -> c_int {
    const CREATE: c_int = 0o100;
    const CUT: c_int = 0o1000;
    if flags & (CREATE | CUT) == 0 {
        return real!(c"open64", Open)(path, flags, mode);
    }
    let place = path_at(path);
    record(
        b'c',
        place,
        || real!(c"open64", Open)(path, flags, mode),
        |outcome| (outcome >= 0).then(|| (u64::from(flags & CUT != 0), Vec::new())),
    )
}

/// A write goes to where the file stands.
#[unsafe(no_mangle)]
pub extern "C" fn write(descriptor: c_int, bytes: *const c_void, length: usize) -> isize {
    let real = real!(c"write", WriteCall);
    let Some(path) = (descriptor > 2).then(|| path_of(descriptor)).flatten() else {
        return real(descriptor, bytes, length);
    };
    record(
        b'w',
        Some(path),
        || real(descriptor, bytes, length),
        |written| {
            let written = usize::try_from(written).ok()?;
            let state = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
            let end: u64 = state
                .lines()
                .find_map(|line| line.strip_prefix("pos:"))?
                .trim()
                .parse()
                .ok()?;
            // SAFETY: the caller promises `length` readable bytes, and `written` is at most that.
            Some((
                end - written as u64,
                unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), written) }.to_vec(),
            ))
        },
    )
}

/// A write to a place.
#[unsafe(no_mangle)]
pub extern "C" fn pwrite64(
    descriptor: c_int,
    bytes: *const c_void,
    length: usize,
    offset: i64,
) -> isize {
    record(
        b'w',
        path_of(descriptor),
        || real!(c"pwrite64", WriteAt)(descriptor, bytes, length, offset),
        |written| {
            let written = usize::try_from(written).ok()?;
            // SAFETY: as in `write`.
            let data = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), written) }.to_vec();
            Some((u64::try_from(offset).ok()?, data))
        },
    )
}

/// A new length.
#[unsafe(no_mangle)]
pub extern "C" fn ftruncate64(descriptor: c_int, length: i64) -> c_int {
    record(
        b't',
        path_of(descriptor),
        || real!(c"ftruncate64", Truncate)(descriptor, length),
        |outcome| (outcome == 0).then_some((u64::try_from(length).ok()?, Vec::new())),
    )
}

/// A sync of everything, or of a folder's names.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(descriptor: c_int) -> c_int {
    let real = real!(c"fsync", Sync);
    record(
        b's',
        path_of(descriptor),
        || real(descriptor),
        |outcome| (outcome == 0).then(|| (size_of_open(descriptor), Vec::new())),
    )
}

/// A sync of a file's bytes.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    let real = real!(c"fdatasync", Sync);
    record(
        b's',
        path_of(descriptor),
        || real(descriptor),
        |outcome| (outcome == 0).then(|| (size_of_open(descriptor), Vec::new())),
    )
}

/// A new name.
#[unsafe(no_mangle)]
pub extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let target = path_at(to).unwrap_or_default().into_bytes();
    record(
        b'r',
        path_at(from),
        || real!(c"rename", Rename)(from, to),
        |outcome| (outcome == 0).then_some((0, target)),
    )
}

/// No name any more.
#[unsafe(no_mangle)]
pub extern "C" fn unlink(path: *const c_char) -> c_int {
    record(
        b'u',
        path_at(path),
        || real!(c"unlink", Unlink)(path),
        |outcome| (outcome == 0).then(|| (0, Vec::new())),
    )
}

/// The same, of a name in an open folder. Folders themselves are not followed.
#[unsafe(no_mangle)]
pub extern "C" fn unlinkat(folder: c_int, name: *const c_char, flags: c_int) -> c_int {
    const OF_A_FOLDER: c_int = 0x200;
    let is_file = flags & OF_A_FOLDER == 0;
    let place = is_file
        .then(|| path_of(folder).zip(text_at(name)))
        .flatten();
    record(
        b'u',
        place.map(|(folder, name)| format!("{folder}/{name}")),
        || real!(c"unlinkat", UnlinkAt)(folder, name, flags),
        |outcome| (outcome == 0).then(|| (0, Vec::new())),
    )
}
