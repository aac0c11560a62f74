//! Programs that unit tests write and run.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a program that can be run at once.
///
/// Another process writes it: what other tests start would inherit a descriptor of this one, and
/// the system runs no file that is open for writing.
pub(super) fn write_program(path: &Path, text: &str) -> io::Result<()> {
    let mut writer = Command::new("sh")
        .args(["-c", r#"cat > "$0" && chmod 755 "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = writer.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    if writer.wait()?.success() {
        Ok(())
    } else {
        Err(io::Error::other("the program is not written"))
    }
}
