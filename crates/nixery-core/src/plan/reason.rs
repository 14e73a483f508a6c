//! Sentences that say why paths share a layer.

/// Heads that a sentence about a merged layer names.
const NAMED: usize = 3;

/// Why a path heads a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is a root of the graph.
    AskedFor,
    /// So many packages refer to its name.
    Popular(u64),
    /// Its closure has so many bytes.
    Big(u64),
    /// Nothing reachable from the roots refers to it.
    Unreached,
    /// Several groups need it.
    Shared,
}

/// One group: a head and how many further paths are of no use without it.
pub(super) fn of_group(head: &str, cause: Cause, others: usize) -> String {
    let cause = match cause {
        Cause::AskedFor => "asked for".to_owned(),
        Cause::Popular(count) => format!("which {count} packages refer to"),
        Cause::Big(size) => format!("whose closure is {}", human_bytes(size)),
        Cause::Unreached => "which no root leads to".to_owned(),
        Cause::Shared => "needed by several groups".to_owned(),
    };
    match others {
        0 => format!("{head}, {cause}"),
        1 => format!("{head}, {cause}, and the path only it needs"),
        _ => format!("{head}, {cause}, and the {others} paths only it needs"),
    }
}

/// Several groups in one layer, since the budget was too small; `heads` are named in order.
pub(super) fn of_merged<'a>(
    heads: impl ExactSizeIterator<Item = &'a str>,
    budget: usize,
) -> String {
    let count = heads.len();
    let named: Vec<&str> = heads.take(NAMED).collect();
    let more = match count.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "the {count} lowest-rated groups, to keep within {budget} layers: {}{more}",
        named.join(", ")
    )
}

/// A number of bytes in decimal units, such as `167.3 MB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // Tenths, rounded in whole numbers, so that 999,950 bytes become 1.0 MB and not 1000.0 kB.
    let mut tenths = (u128::from(bytes) * 10 + 500) / 1000;
    let mut divisor = 1000u128;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        divisor *= 1000;
        tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, "0 B")]
    #[case(999, "999 B")]
    #[case(1000, "1.0 kB")]
    #[case(1049, "1.0 kB")]
    #[case(1050, "1.1 kB")]
    #[case(999_949, "999.9 kB")]
    #[case(999_950, "1.0 MB")]
    #[case(167_300_000, "167.3 MB")]
    #[case(u64::MAX, "18.4 EB")]
    fn sizes(#[case] bytes: u64, #[case] text: &str) {
        assert_eq!(human_bytes(bytes), text);
    }

    #[test]
    fn sentences() {
        assert_eq!(
            of_group("git-2.44", Cause::AskedFor, 2),
            "git-2.44, asked for, and the 2 paths only it needs"
        );
        assert_eq!(
            of_group("glibc-2.38", Cause::Popular(312), 0),
            "glibc-2.38, which 312 packages refer to"
        );
        assert_eq!(
            of_merged(["a", "b", "c", "d"].into_iter(), 94),
            "the 4 lowest-rated groups, to keep within 94 layers: a, b, c and 1 more"
        );
    }
}
