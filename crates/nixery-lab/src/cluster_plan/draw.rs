//! Drawing samples from a package set.

/// Default number of samples of a plan.
pub const DEFAULT_SAMPLES: u16 = 4096;
/// Default seed of the draw.
pub const DEFAULT_SEED: u64 = 0;

/// The generator `SplitMix64` (Steele, Lea, Flood 2014): each seed gives the same sequence on
/// every machine.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, which is not 0. The distribution is even up to 2⁻³².
    fn below(&mut self, end: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u32
    }
}

/// Returns lists of roots: each has one of `candidates`, and the roots of every image.
///
/// Candidates are drawn evenly and independently. If there are no more of them than `samples`, each
/// is drawn once instead, because more samples would add nothing.
pub(super) fn draw(candidates: &[u32], always: &[u32], samples: u16, seed: u64) -> Vec<Vec<u32>> {
    let sample = |root: u32| {
        let mut roots = always.to_vec();
        roots.push(root);
        roots.sort_unstable();
        roots.dedup();
        roots
    };
    if candidates.len() <= usize::from(samples) {
        return candidates.iter().copied().map(sample).collect();
    }
    let mut generator = SplitMix64(seed);
    let end = candidates.len() as u32;
    (0..samples)
        .map(|_| sample(candidates[generator.below(end) as usize]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for the seed 1234567 in the generator's published test vectors.
    #[test]
    fn the_generator_is_splitmix64() {
        let mut generator = SplitMix64(1_234_567);
        assert_eq!(
            [generator.next(), generator.next(), generator.next()],
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn draws_depend_only_on_the_seed() {
        let candidates: Vec<u32> = (10..1000).collect();
        let drawn = draw(&candidates, &[3], 50, 1);
        assert_eq!(drawn, draw(&candidates, &[3], 50, 1));
        assert_ne!(drawn, draw(&candidates, &[3], 50, 2));
        assert!(
            drawn
                .iter()
                .all(|roots| roots.len() == 2 && roots[0] == 3 && roots[1] >= 10)
        );
        let mut roots: Vec<u32> = draw(&candidates, &[], 900, 0).concat();
        roots.sort_unstable();
        roots.dedup();
        assert!(
            roots.len() > 500,
            "spread over the candidates: {}",
            roots.len()
        );
    }

    #[test]
    fn a_small_set_is_taken_whole() {
        assert_eq!(
            draw(&[4, 5, 6], &[5], 3, 9),
            [vec![4, 5], vec![5], vec![5, 6]]
        );
        assert!(draw(&[], &[5], 3, 9).is_empty());
    }
}
