//! `cbroker doctor`: every step between a message and an agent, each with ✓ or ✗ and the mend.

mod checks;

use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, Style};

/// What was found at one step.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    /// Whether it is well.
    ok: bool,
    /// What was seen.
    detail: String,
    /// What to do about it.
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

/// Looks at everything; exit 1 if anything is wrong.
pub(super) async fn run(args: DoctorArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let findings = checks::all(&args, config).await;
    output.json(&findings)?;
    for finding in &findings {
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
