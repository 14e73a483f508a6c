//! Whether the server records its own pulls.

use super::value::{ConfigErrors, Secret, Setting, given};

const RECORD: Setting = Setting::new("NIXERY_TRAFFIC_RECORD", "--traffic-record");
const SALT: Setting = Setting::new("NIXERY_TRAFFIC_SALT", "--traffic-salt");

/// A shorter secret can be guessed, and with it every address.
const LEAST_SALT: usize = 16;

/// Flags and variables of recording pulls.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Recording pulls")]
pub struct TrafficArgs {
    /// Record which client pulls which image when, for `nixery layers replay --from-server`: `true` or
    /// `false`. Clients are recorded as salted fingerprints of address and user agent [default: false]
    #[arg(long, env = "NIXERY_TRAFFIC_RECORD", value_name = "BOOL")]
    pub traffic_record: Option<String>,

    /// Secret salt of the fingerprints, at least 16 bytes; the same for all servers on one store
    /// [default: random at each start, so that every client counts as new after it]
    #[arg(
        long,
        env = "NIXERY_TRAFFIC_SALT",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub traffic_salt: Option<String>,
}

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

impl TrafficArgs {
    /// Checks the settings.
    ///
    /// # Errors
    /// Every value that is not allowed; the salt is not repeated.
    pub fn settings(&self) -> Result<TrafficSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let record = errors.choice(
            RECORD,
            self.traffic_record.as_deref(),
            false,
            &[("true", true), ("false", false), ("1", true), ("0", false)],
        );
        let salt = given(self.traffic_salt.as_deref());
        if salt.is_some_and(|salt| salt.len() < LEAST_SALT) {
            let allowed = format!("at least {LEAST_SALT} bytes, such as 32 random hex digits");
            errors.invalid(SALT, "(not shown)", allowed);
        }
        let ignored = (salt.is_some() && !record)
            .then(|| format!("{SALT} is set but not used: {RECORD} does not say true"));
        errors.finish(TrafficSettings {
            record,
            salt: salt.map(|salt| Secret::new(salt)),
            ignored: ignored.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn arguments(record: Option<&str>, salt: Option<&str>) -> TrafficArgs {
        TrafficArgs {
            traffic_record: record.map(str::to_owned),
            traffic_salt: salt.map(str::to_owned),
        }
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
