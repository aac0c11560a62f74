//! What a panic says: one line, as any other failure does, and never a backtrace.
//!
//! [`caught`] makes an error of a panic in its own work. Other panics are printed, or go where
//! [`send_to`] says: while a session runs, a task beside its loop may fail alone, and its terminal
//! shows the program.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use crate::clean;
use crate::error::Error;

/// Takes the line about a panic.
type PanicSink = Box<dyn Fn(&str) + Send>;

static SINK: Mutex<Option<PanicSink>> = Mutex::new(None);

thread_local! {
    /// Whether the work of [`caught`] runs on this thread now.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
    /// What its panic said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Installs the hook by which every panic says one line.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let said = words(panic);
        if IS_CAUGHT.get() {
            SAID.set(said);
        } else if let Some(sink) = lock_sink().as_ref() {
            sink(&said);
        } else {
            // If stderr is closed, there is no place to report that.
            let _closed = writeln!(std::io::stderr(), "cbroker: {}", error(said).summary());
        }
    }));
}

/// From here on the line about a panic that is not [`caught`] goes to `sink`.
pub fn send_to(sink: impl Fn(&str) + Send + 'static) {
    *lock_sink() = Some(Box::new(sink));
}

/// Does work, and makes an error of a panic in it.
///
/// # Errors
/// The work panicked.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        let before = IS_CAUGHT.replace(true);
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        IS_CAUGHT.set(before);
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(error(SAID.take()))),
        }
    })
    .await
}

/// Panics where a test asks for it, in debug builds alone: where `CBROKER_TEST_PANIC` names the
/// point.
pub fn panic_if_test_asks(point: &str) {
    if cfg!(debug_assertions) {
        let is_asked = std::env::var_os("CBROKER_TEST_PANIC").is_some_and(|asked| asked == point);
        assert!(!is_asked, "asked for\nby a test");
    }
}

fn error(said: String) -> Error {
    Error::new("internal error").caused_by(said)
}

fn lock_sink() -> MutexGuard<'static, Option<PanicSink>> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic says, and where it was, in one line.
fn words(panic: &PanicHookInfo<'_>) -> String {
    let said = clean::line(panic.payload_as_str().unwrap_or("without words"));
    match panic.location() {
        Some(at) => format!("{said} ({}:{})", at.file(), at.line()),
        None => said,
    }
}
