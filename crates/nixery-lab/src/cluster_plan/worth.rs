//! The worth of a layer for a cluster of packages, in whole numbers.
//!
//! All numbers are integers, so that a plan is the same on every machine. There are two units:
//!
//! - a *rate* is a share in 2⁻⁴⁰ ([`ONE`] is 1);
//! - a *worth* is NAR bytes × samples × rate. [`Worth::cost`] converts it to transferred bytes: it
//!   multiplies by [`COMPRESSION`] and divides by the number of samples.

/// The rate 1.
const ONE: u128 = 1 << 40;
/// Compressed bytes of a NAR byte, in percent.
const COMPRESSION: u128 = 27;
/// Share that a client saves when it first pulls an image with the cluster, in tenths.
const FIRST_PULL: u128 = 8;
/// Share that a client saves at an update, in tenths.
const UPDATE: u128 = 4;
/// Share of updates that do not change a package, in thousandths.
const UNCHANGED: u128 = 997;
/// Bits after the point while powers of [`UNCHANGED`] are computed.
const POWER_BITS: u32 = 80;

/// Assumed number of images of a client: it lacks a cluster of share p with probability (1 − p)⁵.
const HELD: u32 = 5;

/// Tables of the two rates that make up a worth.
pub(super) struct Worth {
    /// Per number of samples with the cluster: 0.8 · (1 − (1 − p)⁵).
    first_pull: Vec<u64>,
    /// Per number of packages in the cluster's closure: 0.4 · 0.997ⁿ.
    update: Vec<u64>,
}

impl Worth {
    /// Creates the tables for `samples` samples (at most [`super::MAX_SAMPLES`]) and closures of at
    /// most `packages`.
    pub(super) fn new(samples: u16, packages: usize) -> Self {
        let all = u128::from(samples.max(1)).pow(HELD);
        let first_pull = (0..=samples).map(|count| {
            let absent = u128::from(samples - count).pow(HELD);
            // 80 bits of power, 40 of the unit, 4 of the tenths.
            rate(FIRST_PULL * ONE * (all - absent) / (10 * all))
        });
        let mut power = UPDATE * (1 << POWER_BITS) / 10;
        let update = (0..=packages).map(|_| {
            let rounded = rate(power >> (POWER_BITS - 40));
            power = power * UNCHANGED / 1000;
            rounded
        });
        Self {
            first_pull: first_pull.collect(),
            update: update.collect(),
        }
    }

    /// Returns the worth of a cluster whose parts have these NAR sizes and numbers of samples.
    pub(super) fn of(&self, parts: impl Iterator<Item = (u64, usize)>, closure: usize) -> u128 {
        let update = self.update[closure];
        parts
            .map(|(size, count)| {
                let rate = self.first_pull[count] + update;
                u128::from(size) * count as u128 * u128::from(rate)
            })
            .sum()
    }

    /// Returns the cost of a merge that loses `worth`, per image with both clusters, in 2⁻⁴⁰ bytes.
    pub(super) fn cost(worth: u128, both: usize) -> u128 {
        worth * COMPRESSION / (100 * both.max(1) as u128)
    }

    /// Converts bytes to a cost.
    pub(super) const fn bytes(bytes: u64) -> u128 {
        bytes as u128 * ONE
    }
}

/// Limits a rate to 2 · 2⁴⁰, so that it fits.
fn rate(rate: u128) -> u64 {
    rate.min(2 * ONE) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula as it is written, in floating point.
    #[test]
    fn tables_are_the_formula() {
        let worth = Worth::new(4096, 3000);
        for count in [0u16, 1, 2, 77, 1000, 4095, 4096] {
            let p = f64::from(count) / 4096.0;
            let expected = 0.8 * (1.0 - (1.0 - p).powi(5));
            let got = worth.first_pull[usize::from(count)] as f64 / ONE as f64;
            assert!((got - expected).abs() < 1e-11, "{count}: {got} {expected}");
        }
        for n in [0usize, 1, 10, 500, 3000] {
            let expected = 0.4 * 0.997f64.powi(n as i32);
            let got = worth.update[n] as f64 / ONE as f64;
            assert!((got - expected).abs() < 1e-11, "{n}: {got} {expected}");
        }
    }

    /// Pinned: a plan must be the same on every machine and with every version.
    #[test]
    fn tables_are_pinned() {
        let worth = Worth::new(2000, 100);
        assert_eq!(
            [
                worth.first_pull[1],
                worth.first_pull[2000],
                worth.update[0],
                worth.update[100]
            ],
            [
                2_196_825_331,
                879_609_302_220,
                439_804_651_110,
                325_668_421_419
            ],
            "if this is intended, every plan changes: write so in the CHANGELOG"
        );
    }

    #[test]
    fn the_largest_inputs_fit() {
        let worth = Worth::new(super::super::MAX_SAMPLES, 10);
        let parts = [(
            super::super::LARGEST,
            usize::from(super::super::MAX_SAMPLES),
        )];
        let value = worth.of(parts.into_iter(), 0);
        assert!(Worth::cost(value, 1) > Worth::bytes(1));
    }
}
