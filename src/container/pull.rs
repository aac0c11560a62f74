//! Pulls an image and shows the progress of all its layers on one line.

use std::collections::HashMap;

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;

use super::failed;
use crate::error::Error;

const BAR: i64 = 30;

/// Pulls `image` and reports the progress as a line after each change.
pub(super) async fn pull(
    docker: &Docker,
    image: &str,
    mut progress: impl FnMut(String),
) -> Result<(), Error> {
    let options = CreateImageOptionsBuilder::default()
        .from_image(image)
        .build();
    let mut steps = docker.create_image(Some(options), None, None);
    let mut layers: HashMap<String, (i64, i64)> = HashMap::new();
    while let Some(step) = steps.next().await {
        let step = step.map_err(|error| {
            failed(&format!("cannot pull {image}"), error)
                .with_hint("check the network, or name another image with --image")
        })?;
        if let Some(error) = step.error_detail.and_then(|error| error.message) {
            return Err(Error::new(format!("cannot pull {image}")).caused_by(error));
        }
        let detail = step.progress_detail.unwrap_or_default();
        if let (Some(layer), Some(current), Some(total)) = (step.id, detail.current, detail.total) {
            layers.insert(layer, (current.min(total), total));
            progress(bar(image, layers.values().copied()));
        }
    }
    Ok(())
}

fn bar(image: &str, layers: impl Iterator<Item = (i64, i64)>) -> String {
    let (done, total) = layers.fold((0, 0), |(done, total), (d, t)| {
        (done + d.max(0), total + t.max(0))
    });
    let share = usize::try_from((done * BAR / total.max(1)).clamp(0, BAR)).unwrap_or(0);
    let rest = usize::try_from(BAR).unwrap_or(0) - share;
    let megabytes = |bytes: i64| bytes / 1_000_000;
    format!(
        "pulling {image} [{}{}] {} of {} MB",
        "#".repeat(share),
        " ".repeat(rest),
        megabytes(done),
        megabytes(total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_what_is_done() {
        let line = bar(
            "x",
            [(5_000_000, 10_000_000), (10_000_000, 10_000_000)].into_iter(),
        );
        assert_eq!(line.matches('#').count(), 22);
        assert!(line.ends_with("15 of 20 MB"), "{line}");
        assert!(bar("x", std::iter::empty()).contains('['));
    }
}
