//! Architectures an image can be built for.
