//! Architectures an image can be built for.

use std::fmt;
use std::str::FromStr;

use nixery_manifest::Platform;
use serde::{Deserialize, Serialize};

/// CPU architecture of an image; its operating system is always Linux.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 64-bit x86. The default on every host.
    #[default]
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Nix's name of the system: `x86_64-linux`.
    pub const fn nix_system(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux",
            Self::Arm64 => "aarch64-linux",
        }
    }

    /// The name image configs use, which is Go's: `amd64`.
    pub const fn oci_name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The platform of an image of this architecture.
    pub fn platform(self) -> Platform {
        Platform {
            architecture: self.oci_name().to_owned(),
            os: "linux".to_owned(),
            variant: None,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oci_name())
    }
}

/// A text that is not the name of an [`Architecture`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a supported architecture. Fix: use `amd64` or `arm64`")]
#[non_exhaustive]
pub struct UnknownArchitecture(pub String);

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    /// Parses [`Architecture::oci_name`].
    fn from_str(text: &str) -> Result<Self, UnknownArchitecture> {
        Self::ALL
            .into_iter()
            .find(|architecture| architecture.oci_name() == text)
            .ok_or_else(|| UnknownArchitecture(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_architecture() {
        assert_eq!(Architecture::Amd64.nix_system(), "x86_64-linux");
        assert_eq!(Architecture::Arm64.nix_system(), "aarch64-linux");
        for architecture in Architecture::ALL {
            let name = architecture.to_string();
            assert_eq!(name.parse(), Ok(architecture));
            assert_eq!(architecture.platform().architecture, name);
            assert_eq!(
                serde_json::to_string(&architecture).ok(),
                Some(format!("\"{name}\""))
            );
        }
        let error = "riscv64".parse::<Architecture>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`riscv64` is not a supported architecture. Fix: use `amd64` or `arm64`"
        );
    }
}
