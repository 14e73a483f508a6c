//! How long criterion measures: as short as still tells something.

use std::time::Duration;

use criterion::Criterion;

pub(crate) fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
}
