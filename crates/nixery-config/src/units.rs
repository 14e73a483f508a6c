//! Durations and sizes as people write them: `30d`, `6h`, `100G`, `100GiB`.

use super::value::{ConfigErrors, Setting, given};
use std::time::Duration;

/// Seconds in each unit. Months and years are no fixed time.
const TIMES: &[(&str, u64)] = &[
    ("", 1),
    ("s", 1),
    ("m", 60),
    ("min", 60),
    ("h", 60 * 60),
    ("d", 24 * 60 * 60),
    ("w", 7 * 24 * 60 * 60),
];

/// Bytes in each unit; capitals do not count.
const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// An upper bound for times that a typing error would otherwise turn into ages.
const HUNDRED_YEARS: u64 = 100 * 365 * 24 * 60 * 60;

impl ConfigErrors {
    /// A time of at least `least` seconds with its unit, in seconds where it has none.
    pub(super) fn duration(
        &mut self,
        setting: Setting,
        value: Option<&str>,
        least: u64,
    ) -> Option<Duration> {
        let text = given(value)?;
        let seconds = parse(&text.to_ascii_lowercase(), TIMES);
        let seconds = seconds.filter(|seconds| (least..=HUNDRED_YEARS).contains(seconds));
        if seconds.is_none() {
            let allowed = format!(
                "a time such as 90s, 30m, 6h, 30d or 2w, from {least} s to 100 years; a number alone means seconds"
            );
            self.invalid(setting, text, allowed);
        }
        seconds.map(Duration::from_secs)
    }

    /// A size in bytes with its unit.
    pub(super) fn size(&mut self, setting: Setting, value: Option<&str>) -> Option<u64> {
        let text = given(value)?;
        let size = parse(&text.to_ascii_lowercase(), SIZES);
        if size.is_none() {
            let allowed = "a size such as 500M, 100G, 100GiB or 2T; a number alone means bytes";
            self.invalid(setting, text, allowed);
        }
        size
    }
}

/// A whole number, perhaps a space, and a unit. `None` for anything else, and what overflows.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("90s", Some(90))]
    #[case("90", Some(90))]
    #[case("30m", Some(1800))]
    #[case("6h", Some(21_600))]
    #[case("30d", Some(2_592_000))]
    #[case("2 W", Some(1_209_600))]
    #[case("", None)]
    #[case("d", None)]
    #[case("-1d", None)]
    #[case("1.5h", None)]
    #[case("1h30m", None)]
    #[case("1mo", None)]
    #[case("6 hours", None)]
    #[case("99999999999999999999s", None)]
    #[case("18446744073709551615w", None)]
    fn times(#[case] text: &str, #[case] seconds: Option<u64>) {
        assert_eq!(parse(&text.to_ascii_lowercase(), TIMES), seconds);
    }

    #[rstest]
    #[case("100G", Some(100_000_000_000))]
    #[case("100GB", Some(100_000_000_000))]
    #[case("100 GiB", Some(107_374_182_400))]
    #[case("2T", Some(2_000_000_000_000))]
    #[case("1kib", Some(1024))]
    #[case("0", Some(0))]
    #[case("17", Some(17))]
    #[case("1e9", None)]
    #[case("G", None)]
    #[case("99999999T", None)]
    fn sizes(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(parse(&text.to_ascii_lowercase(), SIZES), bytes);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let setting = Setting::new("NIXERY_GC_GRACE", "--gc-grace");
        let mut errors = ConfigErrors::default();
        assert_eq!(errors.duration(setting, Some("0"), 1), None);
        assert_eq!(errors.size(setting, Some("lots")), None);
        assert_eq!(errors.duration(setting, Some(" "), 1), None);
        assert_eq!(errors.0.len(), 2, "{errors}");
        assert!(
            errors
                .to_string()
                .contains("NIXERY_GC_GRACE (--gc-grace) is \"0\"")
        );
    }
}
