//! Runs tests as `cargo test` expects it: a filter, `--exact`, `--skip`, `--list`,
//! `--test-threads`.
//!
//! Relies on nothing.

use std::ffi::OsString;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A test's name and what it does.
pub(crate) type Test = (&'static str, fn());

/// Each test runs a broker, a wrap and a program.
const THREADS: usize = 4;

/// Lists functions as tests.
#[macro_export]
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        /// The tests of this file.
        pub(crate) const TESTS: &[$crate::runner::Test] =
            &[$((concat!(module_path!(), "::", stringify!($name)), $name)),+];
    };
}

#[derive(Default)]
struct Wanted {
    filters: Vec<String>,
    skips: Vec<String>,
    is_exact: bool,
    is_list: bool,
    threads: Option<usize>,
}

/// Runs those of `tests` that `arguments` ask for.
pub(crate) fn run(tests: &[Test], arguments: &[OsString]) -> ExitCode {
    let wanted = Wanted::of(arguments);
    let chosen: Vec<Test> = tests
        .iter()
        .copied()
        .filter(|(name, _)| wanted.wants(name))
        .collect();
    if wanted.is_list {
        for (name, _) in &chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..wanted.threads.unwrap_or(THREADS).max(1) {
            scope.spawn(|| {
                while let Some((name, test)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let is_good = catch_unwind(test).is_ok();
                    println!("test {name} ... {}", if is_good { "ok" } else { "FAILED" });
                    if !is_good {
                        failed.lock().unwrap().push(*name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!(
        "\ntest result: {}. {} passed; {} failed\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        chosen.len() - failed.len(),
        failed.len()
    );
    for name in &failed {
        println!("    {name}");
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Wanted {
    fn of(arguments: &[OsString]) -> Self {
        let mut wanted = Self::default();
        let mut words = arguments
            .iter()
            .map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            match word.as_str() {
                "--exact" => wanted.is_exact = true,
                "--list" => wanted.is_list = true,
                "--skip" => wanted.skips.extend(words.next()),
                "--test-threads" => {
                    wanted.threads = words.next().and_then(|count| count.parse().ok());
                }
                "--format" | "--color" | "--logfile" => drop(words.next()),
                word => {
                    if let Some(count) = word.strip_prefix("--test-threads=") {
                        wanted.threads = count.parse().ok();
                    } else if !word.starts_with('-') {
                        wanted.filters.push(word.to_owned());
                    }
                }
            }
        }
        wanted
    }

    fn wants(&self, name: &str) -> bool {
        let matches = |filter: &String| {
            if self.is_exact {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.skips.iter().any(matches)
    }
}
