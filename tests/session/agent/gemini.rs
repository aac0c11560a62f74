//! A fake agent that looks like Gemini, and that ignores Enter until its start is over: `$STAGE/go`
//! ends it.

use std::path::Path;
use std::process::ExitCode;

use super::prompt_line::{Enter, Shown, converse, in_rows};
use super::stage_path;

/// Runs until Ctrl-D or the end of input.
pub(crate) fn run() -> ExitCode {
    converse(draw, || {
        if Path::exists(&stage_path("go")) {
            Enter::Submits
        } else {
            Enter::DoesNothing
        }
    })
}

/// The last prompt stands above the line.
fn draw(Shown { history, line, .. }: &Shown) -> String {
    let rule = "─".repeat(80);
    let shown = match line.as_str() {
        "" => "\x1b7\x1b[2m Type your message or @path/to/file\x1b[0m".to_owned(),
        line => in_rows(line, "   ") + "\x1b7",
    };
    let foot = " workspace (/directory)       sandbox       /model";
    format!(
        " > {history}\r\n{rule}\r\n Shift+Tab to accept edits\r\n\r\n \
         > {shown}\r\n\r\n{foot}\x1b8"
    )
}
