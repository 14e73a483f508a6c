//! Whole images, cold and warm, by the release binaries, real Nix and the demo package set, beside
//! packing the same store paths the plain way in the same run.
//!
//! `cargo bench -p nixery-benches --bench end_to_end` takes a few minutes. It needs the programs of
//! `cargo build --release`, the demo set of `scripts/demo-set`, and the Nix settings of
//! `scripts/nix-env`. `NIXERY_BENCH_ROUNDS` (5) says how often each is done, in turn; medians
//! count. A promise that does not hold is said, and is no failure of the run: a machine may be
//! slow, or busy.

mod builds;
mod large_file;
mod many;
mod processes;
mod setup;

use std::env;
use std::error::Error;
use std::time::Duration;

use builds::compare;
use setup::Setup;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Everything but Nix's own time, of the time that the baseline takes for the bytes.
const OWN_TIME: f64 = 0.35;

fn main() -> Result<()> {
    let setup = Setup::find()?;
    let rounds = env::var("NIXERY_BENCH_ROUNDS").map_or(Ok(5), |rounds| rounds.parse())?;
    let mut verdicts = Verdicts::default();

    let hello = compare(&setup, "hello", rounds)?;
    let image = compare(&setup, "shell/git/htop", rounds)?;
    compare(
        &setup,
        "shell/git/htop/python3/vim/nginx/redis/ripgrep",
        rounds.div_ceil(2),
    )?;
    let share = image.own.as_secs_f64() / image.baseline.as_secs_f64();
    verdicts.say(
        share <= OWN_TIME,
        format!(
            "cold shell/git/htop, everything but Nix: {share:.3} of the baseline's time, at most {OWN_TIME} wanted"
        ),
    );
    large_file::compare(&setup, hello.peak, &mut verdicts)?;
    many::compare(&setup, rounds.div_ceil(2), &mut verdicts)?;
    verdicts.print();
    Ok(())
}

/// What is promised, and whether it holds in this run.
#[derive(Default)]
struct Verdicts(Vec<String>);

impl Verdicts {
    fn say(&mut self, holds: bool, what: String) {
        let verdict = if holds { "holds" } else { "MISSED" };
        self.0.push(format!("{verdict:>8}  {what}"));
    }

    fn print(&self) {
        println!("\nverdicts\n{}", self.0.join("\n"));
    }
}

/// The median of what `key` gives; of an even number the upper one.
fn median<T: Copy, K: Ord>(runs: &[T], key: impl Fn(&T) -> K) -> Result<T> {
    let mut runs = runs.to_vec();
    runs.sort_by_key(key);
    let middle = runs.get(runs.len() / 2);
    middle.copied().ok_or_else(|| "nothing was run".into())
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

/// Kilobytes as megabytes.
fn megabytes(kilobytes: u64) -> String {
    format!("{:.1}", kilobytes as f64 / 1000.0)
}
