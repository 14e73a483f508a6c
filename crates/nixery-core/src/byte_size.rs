//! Numbers of bytes in texts for people.

use std::fmt;
use std::str::FromStr;

/// A number of bytes. It is shown in decimal units, as disks and downloads are measured.
///
/// ```
/// use nixery_core::ByteSize;
///
/// assert_eq!(ByteSize(167_300_000).to_string(), "167.3 MB");
/// assert_eq!("100 GiB".parse(), Ok(ByteSize(100 << 30)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// The text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a size is a whole number with a unit such as k, M, MiB, G or T")]
pub struct NotASize;

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
        if self.0 < 1000 {
            return formatter.pad(&format!("{} B", self.0));
        }
        // Tenths, rounded in whole numbers, so that 999,950 bytes become 1.0 MB and not 1000.0 kB.
        let tenths_of = |unit: u128| (u128::from(self.0) * 10 + unit / 2) / unit;
        let mut unit = 1000;
        let mut name = 0;
        while tenths_of(unit) >= 10_000 && name + 1 < UNITS.len() {
            unit *= 1000;
            name += 1;
        }
        let tenths = tenths_of(unit);
        formatter.pad(&format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[name]))
    }
}

/// Reads a whole number, perhaps a space, and a unit: `500M`, `100 GiB`. Upper and lower case are
/// the same. A number without a unit is in bytes.
impl FromStr for ByteSize {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start().to_ascii_lowercase();
        let (base, prefix) = match unit.strip_suffix("ib") {
            Some(prefix) if !prefix.is_empty() => (1024, prefix),
            _ => (1000, unit.strip_suffix('b').unwrap_or(&unit)),
        };
        let power = ["", "k", "m", "g", "t"]
            .iter()
            .position(|known| *known == prefix);
        let power = u32::try_from(power.ok_or(NotASize)?).map_err(|_| NotASize)?;
        let number: u64 = number.parse().map_err(|_| NotASize)?;
        let bytes = number.checked_mul(u64::pow(base, power));
        bytes.map(Self).ok_or(NotASize)
    }
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
    fn sizes_are_shown_with_one_decimal(#[case] bytes: u64, #[case] text: &str) {
        assert_eq!(ByteSize(bytes).to_string(), text);
    }

    #[rstest]
    #[case("100G", Some(100_000_000_000))]
    #[case("100GB", Some(100_000_000_000))]
    #[case("100 GiB", Some(107_374_182_400))]
    #[case("2T", Some(2_000_000_000_000))]
    #[case("1kib", Some(1024))]
    #[case("7 b", Some(7))]
    #[case("0", Some(0))]
    #[case("17", Some(17))]
    #[case("1e9", None)]
    #[case("1ib", None)]
    #[case("G", None)]
    #[case("99999999T", None)]
    fn sizes_are_read_with_their_unit(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(text.parse().ok().map(|ByteSize(bytes)| bytes), bytes);
    }
}
