//! Meta-packages: leading name components that expand or change a build.
