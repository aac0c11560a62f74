//! `cbroker doctor`: checks every part between a message and an agent, and shows ✓ or ✗ with the
//! remedy.

mod checks;

use serde::Serialize;
use tokio::runtime::Builder;

use crate::cli::DoctorArgs;
use crate::config::{Config, Environment, Flags, LeftOut};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, Style};

/// The result of one check.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was checked.
    check: &'static str,
    /// Whether it works.
    ok: bool,
    /// What was found.
    detail: String,
    /// How to repair it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn well(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            ok: true,
            detail: detail.into(),
            mend: None,
        }
    }

    fn wrong(check: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            check,
            ok: false,
            detail: detail.into(),
            mend: Some(mend.into()),
        }
    }
}

/// Runs all checks. Exits with 1 if one fails.
pub(super) async fn run(
    args: &DoctorArgs,
    config: &Config,
    output: &Output,
) -> Result<Exit, Error> {
    let findings = checks::all(args, config, &LeftOut::default()).await;
    print(&findings, output)
}

/// Runs all checks that are possible without a valid home or `config.toml`, whose `error` is the
/// first finding.
pub(super) fn without_configuration(
    args: &DoctorArgs,
    flags: &Flags,
    environment: Environment,
    error: Error,
) -> Result<Exit, Error> {
    let Ok((config, left_out)) = Config::salvage(flags, environment) else {
        return Err(error);
    };
    let output = Output::new(&config);
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new("cannot start").caused_by(error))?;
    let findings = runtime.block_on(checks::all(args, &config, &left_out));
    print(&findings, &output)
}

fn print(findings: &[Finding], output: &Output) -> Result<Exit, Error> {
    output.json(&findings)?;
    for finding in findings {
        let mark = if finding.ok {
            output.paint(Style::Good, "✓")
        } else {
            output.paint(Style::Bad, "✗")
        };
        output.line(format!("{mark} {:<12} {}", finding.check, finding.detail))?;
        if let Some(mend) = &finding.mend {
            output.line(format!(
                "  {:<12} {}",
                "",
                output.paint(Style::Warning, mend)
            ))?;
        }
    }
    Ok(if findings.iter().all(|finding| finding.ok) {
        Exit::Done
    } else {
        Exit::Failed
    })
}
