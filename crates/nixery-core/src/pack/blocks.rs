//! Cuts a stream into blocks of one size.

use std::io::{self, Write};

/// Bytes of a block: large enough that hashing, compressing and system calls cost little per
/// call, small enough to stay in a core's cache. Part of the layer format: see [`Blocks`].
pub(super) const BLOCK: usize = 128 * 1024;

/// Passes on what is written in blocks of exactly [`BLOCK`] bytes, the last one shorter.
///
/// Compressors give different (equally valid) output for the same input cut differently, and a
/// `read` may return less than was asked for. Blocks make the output depend on the input alone.
pub(super) struct Blocks<W> {
    block: Vec<u8>,
    out: W,
}

impl<W: Write> Blocks<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            block: Vec::with_capacity(BLOCK),
            out,
        }
    }

    /// Passes on the last block.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() {
            self.out.write_all(&self.block)?;
        }
        Ok(self.out)
    }
}

impl<W: Write> Write for Blocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.out.write_all(&self.block)?;
            self.block.clear();
        }
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Does nothing: a short block in the middle would change the output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    struct Lengths(Vec<usize>);

    impl Write for Lengths {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[rstest]
    #[case::nothing(0, 1, &[])]
    #[case::one_short(7, 3, &[7])]
    #[case::exactly_one(BLOCK, 1000, &[BLOCK])]
    #[case::one_and_a_byte(BLOCK + 1, BLOCK + 1, &[BLOCK, 1])]
    #[case::writes_larger_than_a_block(2 * BLOCK + 5, 3 * BLOCK, &[BLOCK, BLOCK, 5])]
    fn writes_of_any_size_become_whole_blocks(
        #[case] total: usize,
        #[case] per_write: usize,
        #[case] expected: &[usize],
    ) {
        let mut blocks = Blocks::new(Lengths(Vec::new()));
        for chunk in vec![1u8; total].chunks(per_write) {
            blocks.write_all(chunk).expect("a write to memory");
            blocks.flush().expect("a flush that does nothing");
        }
        assert_eq!(blocks.finish().expect("the last block").0, expected);
    }
}
