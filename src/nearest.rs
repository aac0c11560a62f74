//! Finds the known name that a new one may be a typing error of. Depends on nothing.

/// The most typing errors for a suggestion; short names allow fewer.
const SLIPS: usize = 2;

/// Returns the known name that is nearest to `name`, if the difference looks like a typing error.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = SLIPS
        .min(name.chars().count() / 3)
        .max(usize::from(name.len() > 1));
    known
        .into_iter()
        .filter(|other| *other != name)
        .map(|other| (distance(&name.to_lowercase(), &other.to_lowercase()), other))
        .filter(|(slips, _)| *slips <= allowed)
        .min()
        .map(|(_, other)| other)
}

/// Counts the letters that are inserted, deleted, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = changed.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_another_name_does_not() {
        let known = ["backend", "frontend", "db"];
        assert_eq!(nearest("backedn", known), Some("backend"));
        assert_eq!(nearest("bakend", known), Some("backend"));
        assert_eq!(nearest("Backend", known), Some("backend"));
        assert_eq!(nearest("reviewer", known), None);
        assert_eq!(nearest("dx", known), Some("db"));
        assert_eq!(nearest("backend", known), None);
    }
}
