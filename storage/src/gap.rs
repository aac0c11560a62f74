//! Where damage ends: the way over a stretch of keys that cannot be read.
//!
//! Keys are taken as numbers. Relies on nothing.

/// The lowest number above `from` that reads, when all above it do too: further and further, then halving the last leap. None
/// where nothing does up to the last number.
pub(crate) fn end_of_gap(from: u128, reads: impl Fn(u128) -> bool) -> Option<u128> {
    let mut low = from;
    let mut leap = 1_u128;
    let mut high = low.saturating_add(leap);
    while !reads(high) {
        if high == u128::MAX {
            return None;
        }
        low = high;
        leap = leap.saturating_mul(2);
        high = low.saturating_add(leap);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if reads(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_that_reads_is_found_wherever_it_is() {
        for from in [0, 7, u128::MAX - 5_000] {
            for distance in (1..300).chain([1_000, 4_095, 4_096, 4_999]) {
                let end = from + distance;
                assert_eq!(end_of_gap(from, |at| at >= end), Some(end));
            }
        }
    }

    #[test]
    fn a_gap_without_an_end_is_said_to_have_none() {
        assert_eq!(end_of_gap(3, |_| false), None);
        assert_eq!(end_of_gap(3, |at| at == u128::MAX), Some(u128::MAX));
    }
}
