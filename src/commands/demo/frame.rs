//! Draws two terminal screens side by side, each in a frame with its session's name. Depends on
//! nothing.

/// The text on one session's screen.
pub(super) struct DemoScreen {
    pub(super) name: String,
    pub(super) columns: usize,
    pub(super) rows: Vec<String>,
}

/// Draws both screens in frames, without the empty rows at the end.
pub(super) fn side_by_side(left: &DemoScreen, right: &DemoScreen) -> Vec<String> {
    let height = used(left).max(used(right)).max(1);
    let mut lines = vec![format!("{} {}", top(left), top(right))];
    for row in 0..height {
        lines.push(format!("{} {}", middle(left, row), middle(right, row)));
    }
    lines.push(format!("{} {}", bottom(left), bottom(right)));
    lines
}

fn used(screen: &DemoScreen) -> usize {
    screen
        .rows
        .iter()
        .rposition(|row| !row.trim().is_empty())
        .map_or(0, |last| last + 1)
}

fn top(screen: &DemoScreen) -> String {
    let rest = screen.columns.saturating_sub(screen.name.chars().count());
    format!("┌ {} {}┐", screen.name, "─".repeat(rest))
}

fn middle(screen: &DemoScreen, row: usize) -> String {
    let text = screen.rows.get(row).map_or("", |row| row.trim_end());
    format!("│ {text:<width$} │", width = screen.columns)
}

fn bottom(screen: &DemoScreen) -> String {
    format!("└{}┘", "─".repeat(screen.columns + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_screens_of_different_height_share_one_frame() {
        let screen = |name: &str, rows: &[&str]| DemoScreen {
            name: name.into(),
            columns: 8,
            rows: rows.iter().map(|row| (*row).to_owned()).collect(),
        };
        let lines = side_by_side(&screen("a", &["one", "two", ""]), &screen("bob", &["x"]));
        assert_eq!(
            lines,
            [
                "┌ a ───────┐ ┌ bob ─────┐",
                "│ one      │ │ x        │",
                "│ two      │ │          │",
                "└──────────┘ └──────────┘",
            ]
        );
    }
}
