//! Nix's base 32, in which it writes hashes.

/// Nix's base 32 alphabet: digits and lower-case letters without `e`, `o`, `t` and `u`.
pub(crate) const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// The value of each byte as a digit of Nix base 32; [`NO_DIGIT`] for other bytes.
pub(crate) const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
};
/// The value of a byte that is not a digit.
pub(crate) const NO_DIGIT: u8 = u8::MAX;
