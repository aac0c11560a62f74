//! A program that takes text: raw mode, bracketed paste, one line of a file for each submission.
//!
//! `sink FILE [slow]`: what is submitted goes to FILE, its own line breaks written as `\n`.
//!
//! Relies on `rustix` for the terminal.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::process::ExitCode;

use rustix::termios::OptionalActions;

const BEGIN: &[u8] = b"\x1b[200~";
const END: &[u8] = b"\x1b[201~";

/// Runs until Ctrl-C or the end of input.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&arguments[0])
        .unwrap();
    raw();
    say("\x1b[?2004hsink is ready\r\n");
    let mut box_text = Vec::new();
    let mut bytes = Vec::new();
    let mut piece = vec![0; 65536];
    loop {
        let count = std::io::stdin().read(&mut piece).unwrap_or(0);
        if count == 0 || piece[..count] == [3] {
            say("\x1b[?2004l");
            return ExitCode::SUCCESS;
        }
        bytes.extend_from_slice(&piece[..count]);
        if find(&bytes, BEGIN).is_some() && find(&bytes, END).is_none() {
            continue;
        }
        while let (Some(begin), Some(end)) = (find(&bytes, BEGIN), find(&bytes, END)) {
            box_text.extend_from_slice(&bytes[..begin]);
            box_text.extend_from_slice(&bytes[begin + BEGIN.len()..end]);
            bytes.drain(..end + END.len());
        }
        // As real agents do: Enter submits only when it comes alone.
        if bytes == b"\r" {
            let line = String::from_utf8_lossy(&box_text).replace('\n', "\\n");
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
            box_text.clear();
            say("submitted\r\n");
        } else {
            box_text.extend_from_slice(&bytes);
            say(&format!("the box holds {} bytes\r\n", box_text.len()));
        }
        bytes.clear();
    }
}

/// Every key, unread.
pub(crate) fn raw() {
    let stdin = std::io::stdin();
    let mut modes = rustix::termios::tcgetattr(&stdin).unwrap();
    modes.make_raw();
    rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &modes).unwrap();
}

/// Written at once.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout();
    let _terminal_is_gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
