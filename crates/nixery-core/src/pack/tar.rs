//! The tar dialect of a layer.
//!
//! GNU headers throughout. Names and link targets that do not fit (over 100 bytes) go before
//! their entry as GNU long names (`L`, `K`): those carry raw bytes, where a PAX record is defined
//! to be UTF-8. Sizes over 8 GiB use GNU's base-256 numbers. Go's `archive/tar`, which unpacks
//! images in Docker, containerd, podman, skopeo and umoci, reads all of these, as do GNU tar and
//! libarchive.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::PackError;
use super::blocks::{Block, BlockSink, Blocks};

/// Seconds since 1970 of every entry: what Nix sets in its store, where 0 means "not set".
const MTIME: u64 = 1;

/// Bytes of a tar record; headers are one, contents are padded to whole ones.
const RECORD: usize = 512;

/// What a long name's own entry is called, by convention of GNU tar.
const LONG_NAME: &[u8] = b"././@LongLink";

/// A failed entry: the reader of a file's contents or the writer of the tar.
#[derive(Debug)]
pub(super) enum TarError {
    Read(io::Error),
    /// The contents ended before, or went on after, the announced number of bytes.
    Length {
        announced: u64,
        /// `None`: there was more.
        found: Option<u64>,
    },
    /// The tar could go no further.
    Sink(PackError),
}

impl From<PackError> for TarError {
    fn from(error: PackError) -> Self {
        Self::Sink(error)
    }
}

/// Writes entries with nothing of the host in them: owner 0:0, no owner names, one time stamp.
pub(super) struct TarWriter<S> {
    out: Blocks<S>,
}

impl<S: BlockSink> TarWriter<S> {
    /// A writer of blocks to `sink`, the first of them in `block`.
    pub(super) fn new(block: Block, sink: S) -> Self {
        Self {
            out: Blocks::new(block, sink),
        }
    }

    /// Writes a directory; `name` ends in `/`.
    pub(super) fn directory(&mut self, name: &[u8], mode: u32) -> Result<(), TarError> {
        debug_assert!(name.ends_with(b"/"));
        self.header(name, EntryType::Directory, mode, 0, b"")
    }

    /// Writes a symbolic link, mode 0777 as every system shows them.
    pub(super) fn link(&mut self, name: &[u8], target: &[u8]) -> Result<(), TarError> {
        self.header(name, EntryType::Symlink, 0o777, 0, target)
    }

    /// Writes a file of `size` bytes, which `contents` has to have exactly.
    ///
    /// Each `read` goes to where the bytes shall be, and asks for one more than there should be: a
    /// file that fits is read, and seen to be no longer, in one call.
    pub(super) fn file(
        &mut self,
        name: &[u8],
        mode: u32,
        size: u64,
        mut contents: impl Read,
    ) -> Result<(), TarError> {
        self.header(name, EntryType::Regular, mode, size, b"")?;
        let mut left = size;
        loop {
            let space = self.out.space()?;
            let most = usize::try_from(left)
                .map_or(space.len(), |left| space.len().min(left.saturating_add(1)));
            let read = read(&mut contents, &mut space[..most])?;
            if read as u64 > left {
                return Err(TarError::Length {
                    announced: size,
                    found: None,
                });
            }
            if read == 0 && left > 0 {
                return Err(TarError::Length {
                    announced: size,
                    found: Some(size - left),
                });
            }
            self.out.advance(read);
            left -= read as u64;
            // A file gives less than it was asked for only where it ends.
            if left == 0 && read < most {
                return self.pad(size);
            }
        }
    }

    /// Ends the archive with its two empty records.
    pub(super) fn finish(mut self) -> Result<S, PackError> {
        self.out.write(&[0; 2 * RECORD])?;
        self.out.finish()
    }

    fn header(
        &mut self,
        name: &[u8],
        kind: EntryType,
        mode: u32,
        size: u64,
        target: &[u8],
    ) -> Result<(), TarError> {
        let mut header = Header::new_gnu();
        // Link before name, as GNU tar has it. A cut name stays in the header for readers that do
        // not know long names.
        if let Some(gnu) = header.as_gnu_mut() {
            fill(&mut gnu.linkname, target);
            fill(&mut gnu.name, name);
        }
        if target.len() > header.as_old().linkname.len() {
            self.long(EntryType::GNULongLink, target)?;
        }
        if name.len() > header.as_old().name.len() {
            self.long(EntryType::GNULongName, name)?;
        }
        self.record(header, kind, mode, size)
    }

    fn long(&mut self, kind: EntryType, name: &[u8]) -> Result<(), TarError> {
        let size = name.len() as u64 + 1;
        let mut header = Header::new_gnu();
        if let Some(gnu) = header.as_gnu_mut() {
            fill(&mut gnu.name, LONG_NAME);
        }
        self.record(header, kind, 0o644, size)?;
        self.out.write(name)?;
        self.out.write(&[0])?;
        self.pad(size)
    }

    fn record(
        &mut self,
        mut header: Header,
        kind: EntryType,
        mode: u32,
        size: u64,
    ) -> Result<(), TarError> {
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(MTIME);
        header.set_size(size);
        header.set_cksum();
        Ok(self.out.write(header.as_bytes())?)
    }

    fn pad(&mut self, size: u64) -> Result<(), TarError> {
        // The remainder is below 512.
        let over = (size % RECORD as u64) as usize;
        if over > 0 {
            self.out.write(&[0; RECORD][over..])?;
        }
        Ok(())
    }
}

/// Copies what fits of `bytes` to a header's field.
fn fill(field: &mut [u8], bytes: &[u8]) {
    let fits = bytes.len().min(field.len());
    field[..fits].copy_from_slice(&bytes[..fits]);
}

fn read(contents: &mut impl Read, buffer: &mut [u8]) -> Result<usize, TarError> {
    loop {
        match contents.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(TarError::Read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::blocks::BLOCK;
    use super::*;
    use rstest::rstest;

    /// Gives one byte at a time, after an interruption each.
    struct Slow<'a>(&'a [u8], bool);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let end = buffer.len().min(1);
            self.0.read(&mut buffer[..end])
        }
    }

    struct Collect(Vec<u8>);

    impl BlockSink for Collect {
        fn block(&mut self, mut block: Block) -> Result<Block, PackError> {
            self.0.extend_from_slice(block.filled());
            block.clear();
            Ok(block)
        }
    }

    #[test]
    fn how_a_file_is_read_does_not_show() {
        let contents: Vec<u8> = (0..BLOCK + 5000).map(|byte| byte as u8).collect();
        let write = |reader: &mut dyn Read| {
            let mut tar = TarWriter::new(Block::new(), Collect(Vec::new()));
            tar.file(b"file", 0o444, contents.len() as u64, reader)
                .expect("the file");
            tar.finish().expect("the end").0
        };
        assert_eq!(
            write(&mut Slow(&contents, false)),
            write(&mut contents.as_slice())
        );
    }

    #[rstest]
    #[case::shorter(10, 7, Some(7))]
    #[case::longer(10, 11, None)]
    #[case::no_longer_empty(0, 1, None)]
    #[case::now_empty(600, 0, Some(0))]
    fn a_file_of_another_length_is_an_error(
        #[case] announced: u64,
        #[case] length: usize,
        #[case] expected: Option<u64>,
    ) {
        let mut tar = TarWriter::new(Block::new(), Collect(Vec::new()));
        let error = tar
            .file(b"file", 0o444, announced, vec![1; length].as_slice())
            .expect_err("another length");
        assert!(
            matches!(error, TarError::Length { announced: size, found }
                if size == announced && found == expected),
            "{error:?}"
        );
    }
}
