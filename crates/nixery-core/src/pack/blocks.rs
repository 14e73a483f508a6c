//! Cuts a stream into blocks of one size.

use super::PackError;

/// Bytes of a block: small enough that a large layer keeps every core busy, and large enough that a
/// compressor that restarts with each block loses little. Part of the layer format: compressors
/// give different output for the same input cut differently.
pub(super) const BLOCK: usize = 1024 * 1024;

/// A buffer for a block: [`BLOCK`] bytes, of which the first `filled` count.
#[derive(Debug)]
pub(super) struct Block {
    bytes: Vec<u8>,
    filled: usize,
}

impl Block {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BLOCK],
            filled: 0,
        }
    }

    /// The bytes that it holds.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }
}

/// Where full blocks go.
pub(super) trait BlockSink {
    /// Takes a block, which is full unless it is the last one, and returns an empty one.
    ///
    /// # Errors
    /// The block cannot be passed on. No further block may be passed then.
    fn block(&mut self, block: Block) -> Result<Block, PackError>;

    /// Takes the last block.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    fn last(&mut self, block: Block) -> Result<(), PackError> {
        self.block(block).map(drop)
    }
}

/// Collects what is written into blocks of exactly [`BLOCK`] bytes, the last one shorter. A block
/// cannot be ended early, because a short one in the middle would change the output.
pub(super) struct Blocks<S> {
    /// `None` after the sink has failed.
    block: Option<Block>,
    sink: S,
}

impl<S: BlockSink> Blocks<S> {
    pub(super) fn new(block: Block, sink: S) -> Self {
        Self {
            block: Some(block),
            sink,
        }
    }

    /// Returns the place of the next bytes, at least one. Report with [`advance`](Self::advance)
    /// how many were written.
    pub(super) fn space(&mut self) -> Result<&mut [u8], PackError> {
        let mut block = self.block.take().ok_or_else(PackError::stopped)?;
        if block.filled == BLOCK {
            block = self.sink.block(block)?;
        }
        let block = self.block.insert(block);
        Ok(&mut block.bytes[block.filled..])
    }

    /// Reports how many bytes of the last [`space`](Self::space) were written.
    pub(super) fn advance(&mut self, bytes: usize) {
        if let Some(block) = &mut self.block {
            block.filled = BLOCK.min(block.filled + bytes);
        }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), PackError> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let fits = bytes.len().min(space.len());
            space[..fits].copy_from_slice(&bytes[..fits]);
            self.advance(fits);
            bytes = &bytes[fits..];
        }
        Ok(())
    }

    /// Passes on the last block.
    pub(super) fn finish(mut self) -> Result<S, PackError> {
        let block = self.block.take().ok_or_else(PackError::stopped)?;
        if block.filled > 0 {
            self.sink.last(block)?;
        }
        Ok(self.sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    struct Lengths(Vec<usize>);

    impl BlockSink for Lengths {
        fn block(&mut self, mut block: Block) -> Result<Block, PackError> {
            self.0.push(block.filled().len());
            if self.0.len() == 3 {
                return Err(PackError::stopped());
            }
            block.clear();
            Ok(block)
        }
    }

    #[rstest]
    #[case::nothing(0, 1, &[])]
    #[case::one_short(7, 3, &[7])]
    #[case::exactly_one(BLOCK, 1000, &[BLOCK])]
    #[case::one_and_a_byte(BLOCK + 1, BLOCK + 1, &[BLOCK, 1])]
    fn writes_of_any_size_become_whole_blocks(
        #[case] total: usize,
        #[case] per_write: usize,
        #[case] expected: &[usize],
    ) {
        let mut blocks = Blocks::new(Block::new(), Lengths(Vec::new()));
        for chunk in vec![1u8; total].chunks(per_write) {
            blocks.write(chunk).expect("a write to memory");
        }
        assert_eq!(blocks.finish().expect("the last block").0, expected);
    }

    #[test]
    fn after_a_failure_everything_fails() {
        let mut blocks = Blocks::new(Block::new(), Lengths(Vec::new()));
        assert!(blocks.write(&vec![1; 4 * BLOCK]).is_err());
        assert!(blocks.write(b"more").is_err());
        assert!(blocks.finish().is_err());
    }
}
