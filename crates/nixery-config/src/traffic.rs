//! The settings of recording pulls.

use std::{fmt, io};

use crate::arguments::Section;
use crate::check::{BOOLEANS, Checker};
use crate::table::{Group, TRAFFIC_RECORD, TRAFFIC_SALT};

/// Least length of a salt: a shorter one can be guessed, and every address with it.
const MIN_SALT_BYTES: usize = 16;

/// The secret without which fingerprints of addresses cannot be guessed.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(Box<[u8]>);

impl Salt {
    /// Returns a salt of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// Returns a random salt of 32 bytes.
    ///
    /// # Errors
    /// The system has no source of randomness.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self::new(&bytes))
    }

    /// Returns the secret bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Hides the bytes.
impl fmt::Debug for Salt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Salt(…)")
    }
}

/// Checked settings of recording pulls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficSettings {
    /// Whether pulls are recorded.
    pub record: bool,
    /// The salt; `None` for a random one.
    pub salt: Option<Salt>,
    /// A warning for each setting that is set and has no effect.
    pub ignored: Vec<String>,
}

impl Section for TrafficSettings {
    const GROUPS: &'static [Group] = &[Group::Traffic];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let record = checker.choice(TRAFFIC_RECORD, BOOLEANS)?;
        checker.needs(TRAFFIC_RECORD, !record || cfg!(feature = "lab"), "lab");
        let salt = checker.text(TRAFFIC_SALT);
        let bytes = salt.as_ref().map(String::len);
        if bytes.is_some_and(|bytes| bytes < MIN_SALT_BYTES) {
            let name = checker.name(TRAFFIC_SALT);
            let allowed = format!("at least {MIN_SALT_BYTES} bytes, such as 32 random hex digits");
            checker.invalid(&name, "(not shown)", allowed);
        }
        let unused = (!record).then_some(TRAFFIC_SALT);
        Some(Self {
            record,
            salt: salt.map(|salt| Salt::new(salt.as_bytes())),
            ignored: checker.unused(unused, &format!("{TRAFFIC_RECORD} is not true")),
        })
    }
}

#[cfg(feature = "lab")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use rstest::rstest;

    fn arguments(record: Option<&str>, salt: Option<&str>) -> Arguments<TrafficSettings> {
        Arguments::default()
            .with(TRAFFIC_RECORD, record.unwrap_or_default())
            .with(TRAFFIC_SALT, salt.unwrap_or_default())
    }

    const SECRET: &str = "0123456789abcdef";

    #[rstest]
    #[case::nothing(None, None, false, 0)]
    #[case::empty(Some(""), Some(" "), false, 0)]
    #[case::on(Some("true"), None, true, 0)]
    #[case::salted(Some("1"), Some(SECRET), true, 0)]
    #[case::salt_alone(Some("false"), Some(SECRET), false, 1)]
    fn nothing_is_recorded_unless_asked_for(
        #[case] record: Option<&str>,
        #[case] salt: Option<&str>,
        #[case] on: bool,
        #[case] ignored: usize,
    ) {
        let settings = arguments(record, salt).settings().unwrap();
        assert_eq!((settings.record, settings.ignored.len()), (on, ignored));
        assert_eq!(settings.salt.is_some(), salt == Some(SECRET));
    }

    #[test]
    fn wrong_values_are_reported_but_the_salt_is_not_shown() {
        let settings = arguments(Some("yes"), Some("short secret")).settings();
        let errors = settings.unwrap_err().to_string();
        let (record, salt) = errors.split_once('\n').unwrap();
        assert_eq!(
            record,
            "NIXERY_TRAFFIC_RECORD (--traffic-record) is \"yes\"; allowed: true, false, 1, 0"
        );
        assert!(
            salt.contains("(--traffic-salt)") && salt.contains("16 bytes"),
            "{salt}"
        );
        assert!(!errors.contains("short secret"), "{errors}");
        let settings = arguments(Some("true"), Some(SECRET)).settings().unwrap();
        assert!(!format!("{settings:?}").contains(SECRET));
    }
}
