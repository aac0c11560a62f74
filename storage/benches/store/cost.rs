//! What a measured stretch costs: time, CPU, and bytes that reach the device.

use std::path::Path;
use std::time::Instant;

/// CPU seconds of this process so far, user and system.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// A line of /proc/self/status in KiB, or one of /proc/self/io in bytes.
pub(crate) fn figure(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Bytes that the block device under a folder has written so far; 0 where the system does not say.
#[cfg(not(target_os = "linux"))]
fn device_bytes(_folder: &Path) -> u64 {
    0
}

/// Bytes that the block device under a folder has written so far.
#[cfg(target_os = "linux")]
fn device_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(folder).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
    let sectors = stat.ok().and_then(|stat| {
        let sectors = stat.split_whitespace().nth(6)?;
        sectors.parse::<u64>().ok()
    });
    sectors.map_or(0, |sectors| sectors * 512)
}

/// What a stretch cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    messages: f64,
    seconds: f64,
    cpu: f64,
    bytes: f64,
}

/// A stretch that is being measured.
pub(crate) struct Span<'a> {
    folder: &'a Path,
    pub(crate) began: Instant,
    cpu: f64,
    bytes: u64,
}

impl<'a> Span<'a> {
    pub(crate) fn begin(folder: &'a Path) -> Self {
        Self {
            folder,
            bytes: device_bytes(folder),
            cpu: cpu_seconds(),
            began: Instant::now(),
        }
    }

    pub(crate) fn end(self, messages: u64) -> Cost {
        Cost {
            messages: messages as f64,
            seconds: self.began.elapsed().as_secs_f64(),
            cpu: cpu_seconds() - self.cpu,
            bytes: (device_bytes(self.folder) - self.bytes) as f64,
        }
    }
}

impl Cost {
    pub(crate) fn rate(self) -> f64 {
        self.messages / self.seconds / 1e3
    }

    pub(crate) fn print(costs: &[Self], what: &str, plain: f64) -> f64 {
        let mut rates: Vec<f64> = costs.iter().map(|cost| cost.rate()).collect();
        rates.sort_by(f64::total_cmp);
        let rate = rates[rates.len() / 2];
        let sum = |part: fn(&Self) -> f64| costs.iter().map(part).sum::<f64>();
        let messages = sum(|cost| cost.messages);
        let ratio = if plain > 0.0 { rate / plain } else { 1.0 };
        println!(
            "  {what:<16} {rate:>8.1} k/s ({:.1}-{:.1}) {ratio:.2} x plain, {:.2} us CPU, \
             {:.0} device bytes a message",
            rates[0],
            rates[rates.len() - 1],
            sum(|cost| cost.cpu) * 1e6 / messages,
            sum(|cost| cost.bytes) / messages,
        );
        rate
    }
}
