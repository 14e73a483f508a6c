//! Sentences for people about why paths share a layer.

use crate::ByteSize;

/// The most names in a sentence.
const NAMED: usize = 3;

/// Why a path heads a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is a root of the graph.
    AskedFor,
    /// This number of packages refers to its name.
    Popular(u64),
    /// Its closure has this number of bytes.
    Big(u64),
    /// Nothing reachable from the roots refers to it.
    Unreached,
    /// Several groups need it.
    Shared,
}

/// One group: a head, and the number of further paths that only it needs.
pub(super) fn of_group(head: &str, cause: Cause, others: usize) -> String {
    let cause = match cause {
        Cause::AskedFor => "asked for".to_owned(),
        Cause::Popular(count) => format!("which {count} packages refer to"),
        Cause::Big(size) => format!("whose closure is {}", ByteSize(size)),
        Cause::Unreached => "which no root leads to".to_owned(),
        Cause::Shared => "needed by several groups".to_owned(),
    };
    match others {
        0 => format!("{head}, {cause}"),
        1 => format!("{head}, {cause}, and the path only it needs"),
        _ => format!("{head}, {cause}, and the {others} paths only it needs"),
    }
}

/// Several groups in one layer, because the budget is too small; `heads` are named in order.
pub(super) fn of_merged<'a>(
    heads: impl ExactSizeIterator<Item = &'a str>,
    budget: usize,
) -> String {
    let count = heads.len();
    let (named, more) = named(heads);
    format!("the {count} lowest-rated groups, to keep within {budget} layers: {named}{more}")
}

/// A path that is large enough for a layer of its own.
pub(super) fn of_large(name: &str, size: u64) -> String {
    format!("{name}, large enough to be alone with {}", ByteSize(size))
}

/// Paths whose closures have `from` to `to` paths; without `to` at least `from`.
pub(super) fn of_needs(count: usize, from: usize, to: Option<usize>) -> String {
    let needs = match (from, to) {
        (0, None) => return format!("{}, since the budget is one layer", paths(count)),
        (0, Some(to)) => format!("at most {to} paths each"),
        (from, None) => format!("{from} paths or more each"),
        (from, Some(to)) => format!("{from} to {to} paths each"),
    };
    format!(
        "{} too small to be alone or beyond the budget, needing {needs}",
        paths(count)
    )
}

/// Paths of a cluster, named in order, with the least and most samples of one of them, of all.
pub(super) fn of_cluster<'a>(
    names: impl ExactSizeIterator<Item = &'a str>,
    cluster: &str,
    (least, most): (u32, u32),
    all: u32,
) -> String {
    let count = names.len();
    let (names, more) = named(names);
    let least = share(least.into(), all.into());
    let most = share(most.into(), all.into());
    let shares = if least == most {
        most
    } else {
        format!("{least} to {most}")
    };
    if count == 1 {
        return format!("{names}, in {shares} of the plan's images");
    }
    format!("{names}{more}, one cluster of the plan ({cluster}), in {shares} of its images")
}

/// A large path that is not in the plan.
pub(super) fn of_unknown(name: &str, size: u64) -> String {
    format!("{name}, {}, which the plan does not know", ByteSize(size))
}

/// Small paths that are not in the plan.
pub(super) fn of_small_unknown(count: usize, below: u64) -> String {
    format!(
        "{} below {} which the plan does not know",
        paths(count),
        ByteSize(below)
    )
}

/// Paths of clusters beyond the budget; shares are fractions of the plan's images.
pub(super) fn of_reach(
    count: usize,
    budget: usize,
    least: Option<(u64, u64)>,
    most: Option<(u64, u64)>,
) -> String {
    let share = |(part, all)| share(part, all);
    let packages = ", with packages that";
    let reach = match (least.map(share), most.map(share)) {
        (None, None) => String::new(),
        (Some(least), None) => format!("{packages} {least} or more of the plan's images have"),
        (None, Some(most)) => format!("{packages} less than {most} of the plan's images have"),
        (Some(least), Some(most)) => {
            format!("{packages} {least} to {most} of the plan's images have")
        }
    };
    let paths = paths(count);
    format!("{paths} of the smallest layers, to keep within {budget} layers{reach}")
}

fn paths(count: usize) -> String {
    match count {
        1 => "1 path".to_owned(),
        _ => format!("{count} paths"),
    }
}

/// Returns the first names, and the number of further ones as text.
fn named<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> (String, String) {
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<&str> = names.take(NAMED).collect();
    (named.join(", "), more)
}

/// Formats a share in per cent with two significant digits: `12 %`, `1.5 %`, `0.37 %`.
fn share(part: u64, all: u64) -> String {
    let hundredths = (u128::from(part) * 10_000 + u128::from(all) / 2) / u128::from(all.max(1));
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match (whole, rest) {
        (0, 0) if part > 0 => "less than 0.01 %".to_owned(),
        (_, 0) => format!("{whole} %"),
        (0, _) => format!("0.{rest:02} %"),
        // From 9.95 % on it would be rounded to 10.0 %.
        (1..10, _) if hundredths < 995 => format!(
            "{}.{} %",
            (hundredths + 5) / 100,
            (hundredths + 5) / 10 % 10
        ),
        _ => format!("{} %", (hundredths + 50) / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, 2000, "0 %")]
    #[case(1, 2_000_000, "less than 0.01 %")]
    #[case(15, 4096, "0.37 %")]
    #[case(60, 4096, "1.5 %")]
    #[case(300, 4096, "7.3 %")]
    #[case(1988, 20_000, "9.9 %")]
    #[case(1990, 20_000, "10 %")]
    #[case(1999, 20_000, "10 %")]
    #[case(1, 8, "13 %")]
    #[case(1999, 2000, "100 %")]
    #[case(1, 2, "50 %")]
    fn shares(#[case] part: u64, #[case] all: u64, #[case] text: &str) {
        assert_eq!(share(part, all), text);
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
