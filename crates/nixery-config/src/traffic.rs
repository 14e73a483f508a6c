//! Whether the server records its own pulls.

use crate::arguments::Section;
use crate::check::{BOOLEANS, Checker, Secret};
use crate::table::{Group, TRAFFIC_RECORD, TRAFFIC_SALT};

/// A shorter secret can be guessed, and with it every address.
const LEAST_SALT: usize = 16;

/// Checked settings of recording pulls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficSettings {
    /// Whether pulls are recorded.
    pub record: bool,
    /// The salt; `None` for a random one.
    pub salt: Option<Secret>,
    /// Settings that were given and do nothing, each with the reason.
    pub ignored: Vec<String>,
}

impl Section for TrafficSettings {
    const GROUPS: &'static [Group] = &[Group::Traffic];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let record = checker.choice(TRAFFIC_RECORD, BOOLEANS)?;
        checker.needs(TRAFFIC_RECORD, !record || cfg!(feature = "lab"), "lab");
        let salt = checker.text(TRAFFIC_SALT);
        if salt.as_ref().is_some_and(|salt| salt.len() < LEAST_SALT) {
            let name = checker.name(TRAFFIC_SALT);
            let allowed = format!("at least {LEAST_SALT} bytes, such as 32 random hex digits");
            checker.invalid(name, "(not shown)", allowed);
        }
        let unused: &[_] = if record { &[] } else { &[TRAFFIC_SALT] };
        Some(Self {
            record,
            salt: salt.map(Secret::from),
            ignored: checker.unused(unused, &format!("{TRAFFIC_RECORD} is not true")),
        })
    }
}

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
    fn wrong_values_are_told_but_the_salt_is_not() {
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
