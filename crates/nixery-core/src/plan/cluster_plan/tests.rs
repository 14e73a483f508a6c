use std::io::Read;

use proptest::prelude::*;
use rstest::rstest;

use super::file::MAX_TEXT_BYTES;
use super::package_key::OUTPUT_SUFFIXES;
use super::*;

fn package(name: &str, cluster: &str, samples: u32) -> PlannedPackage {
    PlannedPackage {
        name: name.to_owned(),
        cluster: cluster.to_owned(),
        samples,
    }
}

fn plan() -> ClusterPlan {
    let packages = [
        package("readline", "bash", 95),
        package("git", "git", 8),
        package("bash", "bash", 90),
        package("unused", "unused", 0),
    ];
    ClusterPlan::new("nixos-25.05".to_owned(), 100, packages).unwrap()
}

const TEXT: &str = "nixery cluster plan 1\nrevision nixos-25.05\nsamples 100\n\
                    bash 90 readline 95\ngit 8\nunused 0\n";

fn compressed(text: &str) -> Vec<u8> {
    zstd::encode_all(text.as_bytes(), 3).unwrap()
}

#[rstest]
#[case("glibc-2.38", "glibc")]
#[case("glibc-2.38-bin", "glibc-bin")]
#[case("glibc-2.38-66-getent", "glibc-getent")]
#[case("glibc-2.38-66", "glibc")]
#[case("bash-interactive-5.2p37", "bash-interactive")]
#[case("bash-interactive-5.2p37-man", "bash-interactive-man")]
#[case("linux-6.6-pre", "linux")]
#[case("foo-1.0-unknownoutput", "foo")]
#[case("nano-9.3-1", "nano")]
#[case("foo-bin", "foo-bin")]
#[case("foo-bin-1.0", "foo-bin")]
#[case("foo-bin-1.0-bin", "foo-bin-bin")]
#[case("foo--bin", "foo-bin")]
#[case("foo-1-", "foo")]
#[case("", "")]
#[case("-", "-")]
#[case("-1.0-bin", "-1.0-bin")]
fn keys(#[case] name: &str, #[case] key: &str) {
    assert_eq!(package_key(name), key);
}

#[test]
fn output_suffixes_are_searchable() {
    assert!(OUTPUT_SUFFIXES.is_sorted());
}

#[test]
fn what_a_plan_says() {
    let plan = plan();
    assert_eq!((plan.len(), plan.clusters(), plan.samples()), (4, 3, 100));
    assert_eq!(plan.revision(), "nixos-25.05");
    assert_eq!(plan.get("bash"), Some((0, 90)));
    assert_eq!(plan.get("readline"), Some((0, 95)));
    assert_eq!(plan.get("git"), Some((1, 8)));
    assert_eq!(plan.get("unused"), Some((2, 0)));
    assert_eq!(plan.get("emacs"), None);
    let names: Vec<String> = plan.iter().map(|package| package.name).collect();
    assert_eq!(names, ["bash", "git", "readline", "unused"]);
    let again = ClusterPlan::new("nixos-25.05".to_owned(), 100, plan.iter()).unwrap();
    assert_eq!(again, plan);
}

#[test]
fn the_file_is_its_text() {
    let plan = plan();
    let bytes = plan.to_bytes();
    assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), TEXT.as_bytes());
    assert_eq!(ClusterPlan::from_bytes(&bytes).unwrap(), plan);
    let other_level = ClusterPlan::from_bytes(&compressed(TEXT)).unwrap();
    assert_eq!(other_level.digest(), plan.digest());
    assert_eq!(
        plan.digest(),
        Digest::of(TEXT.as_bytes()),
        "part of stored cache keys: a change makes every image new"
    );
}

#[rstest]
#[case::title("nixery popularity 1\n", "first line")]
#[case::empty("", "first line")]
#[case::version("nixery cluster plan 2\n", "format \"2\"")]
#[case::no_revision("nixery cluster plan 1\n", "line 2")]
#[case::no_samples("nixery cluster plan 1\nrevision x\n", "line 3")]
#[case::zero_samples(
    "nixery cluster plan 1\nrevision x\nsamples 0\n",
    "at least one sample"
)]
#[case::sign("nixery cluster plan 1\nrevision x\nsamples +1\n", "line 3")]
#[case::leading_zero("nixery cluster plan 1\nrevision x\nsamples 01\n", "line 3")]
#[case::large_number("nixery cluster plan 1\nrevision x\nsamples 4294967296\n", "line 3")]
#[case::no_end(
    "nixery cluster plan 1\nrevision x\nsamples 1\na 1",
    "line 4 of the cluster plan is invalid: it must end"
)]
#[case::empty_line("nixery cluster plan 1\nrevision x\nsamples 1\n\na 1\n", "line 4")]
#[case::no_number("nixery cluster plan 1\nrevision x\nsamples 1\na\n", "line 4")]
#[case::two_spaces("nixery cluster plan 1\nrevision x\nsamples 1\na  1\n", "line 4")]
#[case::unsorted_names("nixery cluster plan 1\nrevision x\nsamples 1\nb 1 a 1\n", "line 4")]
#[case::unsorted_lines(
    "nixery cluster plan 1\nrevision x\nsamples 1\nb 1\na 1\n",
    "line 5 of the cluster plan is invalid: clusters"
)]
#[case::twice(
    "nixery cluster plan 1\nrevision x\nsamples 1\na 1 b 1\nb 1\n",
    "`b` is in the cluster plan twice"
)]
#[case::too_many("nixery cluster plan 1\nrevision x\nsamples 1\na 2\n", "2 samples")]
#[case::no_name(
    "nixery cluster plan 1\nrevision x\nsamples 1\na/b 1\n",
    "cannot be a package's name"
)]
#[case::order_before_names("nixery cluster plan 1\nrevision x\nsamples 1\na 1\na 1\n", "line 5")]
#[case::control("nixery cluster plan 1\nrevision x\ty\nsamples 1\n", "revision")]
fn texts_that_are_refused(#[case] text: &str, #[case] expected: &str) {
    let error = ClusterPlan::from_bytes(&compressed(text)).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn bytes_that_are_refused() {
    let whole = plan().to_bytes();
    for end in 0..whole.len() {
        assert!(
            ClusterPlan::from_bytes(&whole[..end]).is_err(),
            "cut at {end}"
        );
    }
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x10;
        assert!(
            ClusterPlan::from_bytes(&damaged).is_err() || position < 6,
            "only the frame's header is not covered by its checksum, damaged at {position}"
        );
    }
    let mut longer = whole.clone();
    longer.extend_from_slice(b"more");
    let error = ClusterPlan::from_bytes(&longer).unwrap_err();
    assert!(
        matches!(error, ClusterPlanError::Trailing { bytes: 4 }),
        "{error}"
    );
    let error = ClusterPlan::from_bytes(TEXT.as_bytes()).unwrap_err();
    assert!(matches!(error, ClusterPlanError::Damaged(_)), "{error}");
    let bomb = zstd::encode_all(std::io::repeat(b'a').take(MAX_TEXT_BYTES as u64 + 1), 1).unwrap();
    let error = ClusterPlan::from_bytes(&bomb).unwrap_err();
    assert!(matches!(error, ClusterPlanError::TooLarge), "{error}");
}

#[rstest]
#[case::not_the_least(&[("a", "b"), ("b", "b")])]
#[case::lacks_its_name(&[("b", "a")])]
#[case::a_chain(&[("a", "a"), ("b", "a"), ("c", "b")])]
fn clusters_are_named_for_their_least_name(#[case] packages: &[(&str, &str)]) {
    let packages = packages
        .iter()
        .map(|(name, cluster)| package(name, cluster, 1));
    let error = ClusterPlan::new(String::new(), 1, packages).unwrap_err();
    assert!(matches!(error, ClusterPlanError::Cluster { .. }), "{error}");
}

proptest! {
    #[test]
    fn files_round_trip(
        names in proptest::collection::btree_map("[a-c+._=-]{1,3}", (0usize..5, 0u32..=7), 0..30),
        revision in "[a-z ]{0,9}",
    ) {
        let mut leasts: [Option<String>; 5] = Default::default();
        let packages: Vec<PlannedPackage> = names
            .iter()
            .map(|(name, &(cluster, samples))| {
                let cluster = leasts[cluster].get_or_insert_with(|| name.clone());
                package(name, cluster, samples)
            })
            .collect();
        let plan = ClusterPlan::new(revision.clone(), 7, packages.iter().rev().cloned()).unwrap();
        prop_assert_eq!(plan.iter().collect::<Vec<_>>(), packages);
        let read = ClusterPlan::from_bytes(&plan.to_bytes()).unwrap();
        prop_assert_eq!(&read, &plan);
        prop_assert_eq!(read.digest(), plan.digest());
        prop_assert_eq!(read.to_bytes(), plan.to_bytes());
    }

    #[test]
    fn no_text_panics_and_what_is_read_is_the_one_text(
        text in "(nixery cluster plan 1\nrevision [a-z]?\nsamples [0-9]{1,2}\n)?([ab]{1,2} [0-9] ?\n?){0,4}",
    ) {
        if let Ok(plan) = ClusterPlan::from_bytes(&compressed(&text)) {
            prop_assert_eq!(plan.to_text(), text);
        }
    }
}
