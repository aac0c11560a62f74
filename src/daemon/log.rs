//! The log file of a background broker. At 10 MiB it is renamed to `broker.log.1`; three old files
//! are kept.
//!
//! [`CleanLines`] makes each event one line without anything that acts on a terminal, whatever
//! names, reasons and headers of clients it holds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

use crate::clean;

const ROTATE_BYTES: u64 = 10 << 20;
const KEPT: u32 = 3;

/// A log file that is rotated as it grows. Lines are never split between files.
pub struct RotatingFile {
    path: PathBuf,
    open: Mutex<OpenFile>,
}

struct OpenFile {
    file: File,
    bytes: u64,
}

impl RotatingFile {
    /// Opens the file for appending.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let open = Mutex::new(append(&path)?);
        Ok(Self { path, open })
    }

    fn write_line(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.bytes > 0 && open.bytes + line.len() as u64 > ROTATE_BYTES {
            self.rotate(&mut open)?;
        }
        open.bytes += line.len() as u64;
        open.file.write_all(line)
    }

    fn rotate(&self, open: &mut MutexGuard<'_, OpenFile>) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            // Numbers may be missing while the log is young.
            let _ = fs::rename(older(&self.path, number), older(&self.path, number + 1));
        }
        fs::rename(&self.path, older(&self.path, 1))?;
        **open = append(&self.path)?;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<OpenFile> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let bytes = file.metadata()?.len();
    Ok(OpenFile { file, bytes })
}

fn older(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// A writer for whole lines, which is what tracing writes.
pub struct LogLine<'a>(&'a RotatingFile);

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_line(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for RotatingFile {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine(self)
    }
}

/// A writer of events, each of which becomes one clean line.
pub struct CleanLines<W>(W);

/// Cleans what goes into a log.
pub fn clean_lines<W>(into: W) -> CleanLines<W> {
    CleanLines(into)
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for CleanLines<W> {
    type Writer = CleanLines<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        CleanLines(self.0.make_writer())
    }
}

impl<W: Write> Write for CleanLines<W> {
    /// One event, as tracing hands it over.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let mut line = clean::line(text.strip_suffix('\n').unwrap_or(&text));
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_stranger_writes_forges_a_line_of_the_log_or_acts_on_a_terminal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.log");
        let file = RotatingFile::open(path.clone()).unwrap();
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(clean_lines(file));
        let nasty = "a\r\n2026 INFO forged\u{1b}[2J\u{9b}31m\u{85}\u{2028}\u{202e}\u{ad}b";
        tracing::subscriber::with_default(lines.finish(), || {
            tracing::warn!(mechanism = nasty, vhost = %nasty, user = ?nasty, "{nasty}");
            tracing::warn!("the next");
        });
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text:?}");
        let acts = |c: char| c != '\n' && (c.is_control() || clean::is_hidden(c));
        assert!(!text.contains(acts), "{text:?}");
        assert!(text.contains("forged"), "{text:?}");
    }

    #[test]
    fn a_log_that_grows_is_rotated_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.log");
        let log = RotatingFile::open(path.clone()).unwrap();
        let line = vec![b'x'; 6 << 20];
        for _ in 0..6 {
            log.write_line(&line).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["broker.log", "broker.log.1", "broker.log.2", "broker.log.3"]
        );
        assert!(fs::metadata(&path).unwrap().len() <= ROTATE_BYTES);
    }
}
