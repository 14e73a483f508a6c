//! Image names: which packages a repository name asks for.
