//! `nixery lab replay`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nixery_config::{Arguments, StorageSettings};
use nixery_lab::replay::{Grouping, ReplayCounts, Workload, replay};
use nixery_lab::traffic::{
    MOST_PULLS, RecordedPulls, RecordedWorkload, read_pulls, recorded_workload,
};
use serde::Serialize;

use super::weeks::{WeekLine, weeks_svg};
use crate::layers::strategies::{DataArgs, Strategy};
use crate::output;
use crate::progress::{Reporter, Unit};
use crate::settings::existing_storage;

/// Replay a history of pulls, and report what clients would have fetched with each layer strategy.
///
/// The history is what servers with `NIXERY_TRAFFIC_RECORD` recorded in their store
/// (--from-server), or a workload, which is a JSON object:
///
/// `paths` lists `[store path, NAR size, compressed size, [references]]`. A reference is a position
/// in this list, from 0.
///
/// `weeks` lists the images of each week. An image is a list of root paths.
///
/// `events` lists `[week, client, [pulled images], [kept images]]` in chronological order. The kept
/// images are `null` if the client keeps everything.
///
/// `names` is optional and has a number for each image. Images of one name have the same number,
/// and a client keeps one of them.
///
/// A client has the layers of the images that it keeps, and fetches the others.
#[derive(clap::Args)]
#[command(after_long_help = "\
The table:
  moved     compressed bytes that clients fetch
  x least   the same, divided by the bytes with one layer for each path, the least possible
  fetched   layers that clients fetch
  had       the share of pulled layers that the client already had
  stored    compressed bytes of all distinct layers, without garbage collection
  chained   bytes if a layer is only reused on top of the same layers (classic Docker)
  layers    the average number of layers of an image, without the root layer of a few kilobytes

With --from-server, a week is seven days, from the first pull on. A server does not know what clients
delete: a client is assumed to keep the image that it pulled last of each image name. A client is an
address and user agent, so equal clients behind one address count as one. With a random salt, each
client counts again after a server restarts. The compressed size of a path is its share of its layer.

Examples:
  nixery lab replay workload.json
  nixery lab replay workload.json --pop popularity.json --plan nixpkgs.plan --out weeks.svg
  nixery lab replay --from-server --storage-path /var/lib/nixery --save workload.json")]
pub(crate) struct ReplayArgs {
    /// The workload
    #[arg(value_name = "WORKLOAD", required_unless_present = "from_server")]
    workload: Option<PathBuf>,

    #[command(flatten)]
    data: DataArgs,

    /// Use only this strategy, and the bounds; may be repeated
    /// [default: all whose data is given]
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Vec<Strategy>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Also draw a picture (SVG) with the bytes by week
    #[arg(long, short, value_name = "FILE", value_parser = output::file)]
    out: Option<PathBuf>,

    #[command(flatten)]
    server: FromServerArgs,
}

/// A store with a history of pulls.
#[derive(clap::Args)]
struct FromServerArgs {
    /// Replay the pulls that servers with `NIXERY_TRAFFIC_RECORD=true` recorded in this store
    #[arg(long, conflicts_with = "workload")]
    from_server: bool,

    /// Also write the recorded pulls as a workload. It contains store paths, and no addresses or
    /// fingerprints of clients
    #[arg(
        long,
        requires = "from_server",
        conflicts_with = "workload",
        value_name = "FILE",
        value_parser = output::file
    )]
    save: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    storage: Arguments<StorageSettings>,
}

/// The result of one way to group paths.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    strategy: &'static str,
    bound: bool,
    /// The bytes, divided by the bytes of one layer for each path.
    times_least: f64,
    hit_rate: f64,
    mean_layers: f64,
    #[serde(flatten)]
    counts: ReplayCounts,
}

pub(super) async fn run(args: ReplayArgs) -> Result<()> {
    let data = args.data.load().await?;
    let strategies = data.all(&args.strategy)?;
    let workload = match &args.workload {
        Some(path) => read(path)?,
        None => args.server.workload().await?,
    };

    let mut rows: Vec<Row> = Vec::new();
    let mut add = |strategy, bound, grouping: Grouping<'_>| {
        let counts = replay(&workload, grouping)?;
        let least = rows.first().map_or(counts.bytes, |row| row.counts.bytes);
        rows.push(Row {
            strategy,
            bound,
            times_least: times(counts.bytes, least),
            hit_rate: counts.hit_rate(),
            mean_layers: counts.mean_layers(),
            counts,
        });
        anyhow::Ok(())
    };
    add("one layer per path", true, Grouping::OneLayerPerPath)?;
    for named in &strategies {
        let grouping = Grouping::Strategy(&*named.strategy, data.budget);
        add(named.name, false, grouping)?;
    }
    add("one layer", true, Grouping::OneLayer)?;

    if let Some(out) = &args.out {
        output::write(Some(out), picture(&workload, &rows).as_bytes())?;
    }
    output::result(args.json, &rows, || table(&workload, &rows))
}

impl FromServerArgs {
    /// Reads the history, saves it if requested, and reports what was left out.
    ///
    /// # Errors
    /// A setting is invalid, or the store has no usable history.
    async fn workload(&self) -> Result<Workload> {
        let (_, storage) = existing_storage(&self.storage)?;
        let reporter = Reporter::new(self.quiet);
        let pulls = read_pulls(&*storage, MOST_PULLS, |done, total| {
            reporter.at(Unit::Items, "pulls", done as u64, total as u64, "");
        });
        let recorded = pulls.await.context("cannot read the recorded pulls")?;
        let history = recorded_workload(&*storage, &recorded.pulls, |done, total| {
            reporter.at(Unit::Items, "graphs", done as u64, total as u64, "");
        });
        let history = history.await?;
        reporter.finish();
        for line in left_out(&recorded, &history) {
            output::note(&line);
        }
        if recorded.pulls.is_empty() {
            bail!(
                "the store has no recorded pulls. Fix: set NIXERY_TRAFFIC_RECORD=true (--traffic-record true) on the servers that use it, and try again five minutes after clients have pulled"
            );
        }
        if history.parts.events.is_empty() {
            bail!(
                "the store has no reference graph of any image that was pulled. Fix: build the images again with this version"
            );
        }
        // Before the replay, which may take long.
        if let Some(file) = &self.save {
            output::write(Some(file), &history.parts.to_json())?;
        }
        let workload = Workload::from_parts(&history.parts);
        workload.context("the recorded graphs contradict each other")
    }
}

/// Describes what the history lacks, a line each.
fn left_out(recorded: &RecordedPulls, history: &RecordedWorkload) -> Vec<String> {
    let mut lines = Vec::new();
    if let [(key, why), rest @ ..] = &recorded.unreadable[..] {
        let more = match rest.len() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        lines.push(format!(
            "left out: unreadable recorded pulls {key} ({why}){more}"
        ));
    }
    if recorded.left_out > 0 {
        lines.push(format!(
            "left out: {} older batches of pulls, because the limit is {MOST_PULLS} pulls",
            recorded.left_out
        ));
    }
    if history.without_graph > 0 {
        lines.push(format!(
            "left out: {} of {} pulls, of {} images whose reference graph is not in the store",
            history.without_graph,
            recorded.pulls.len(),
            history.images_without_graph
        ));
    }
    lines
}

fn read(path: &Path) -> Result<Workload> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    Workload::from_json(&bytes).with_context(|| format!("{name} is not a workload"))
}

/// Divides `bytes` by `least`. The quotient is 1 where nothing is fetched at all.
fn times(bytes: u64, least: u64) -> f64 {
    match bytes == least {
        true => 1.0,
        false => bytes as f64 / least.max(1) as f64,
    }
}

fn table(workload: &Workload, rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.strategy.len()).max();
    let width = width.unwrap_or_default();
    let (unit, scale) = unit(rows);
    let size = |bytes: u64| format!("{:.3}", bytes as f64 / scale);
    let mut text = format!(
        "{:<width$}  {:>10}  {:>7}  {:>8}  {:>6}  {:>10}  {:>10}  {:>6}\n",
        format!("bytes in {unit}"),
        "moved",
        "x least",
        "fetched",
        "had",
        "stored",
        "chained",
        "layers"
    );
    for row in rows {
        text += &format!(
            "{:<width$}  {:>10}  {:>7.3}  {:>8}  {:>4.1} %  {:>10}  {:>10}  {:>6.1}\n",
            row.strategy,
            size(row.counts.bytes),
            row.times_least,
            row.counts.layers_fetched,
            row.hit_rate * 100.0,
            size(row.counts.stored_bytes),
            size(row.counts.chain_bytes),
            row.mean_layers,
        );
    }
    let images = rows.first().map_or(0, |row| row.counts.images);
    text + &format!(
        "{} pulls of {images} distinct images by {} clients in {} weeks; {} store paths\n",
        workload.pulls(),
        workload.clients(),
        workload.weeks(),
        workload.paths()
    )
}

/// Returns one unit for all rows, so that their figures can be compared at a glance, and its bytes.
fn unit(rows: &[Row]) -> (&'static str, f64) {
    match rows.iter().map(|row| row.counts.bytes).max() {
        None | Some(..1_000_000) => ("kB", 1e3),
        Some(..1_000_000_000) => ("MB", 1e6),
        Some(..10_000_000_000_000) => ("GB", 1e9),
        Some(_) => ("TB", 1e12),
    }
}

fn picture(workload: &Workload, rows: &[Row]) -> String {
    let (unit, scale) = unit(rows);
    let line = |row: &Row| {
        let size = row.counts.bytes as f64 / scale;
        WeekLine {
            label: format!("{}: {size:.3} {unit}", row.strategy),
            bytes: row.counts.bytes_by_week.clone(),
            bound: row.bound,
        }
    };
    let lines: Vec<WeekLine> = rows.iter().map(line).collect();
    let heading = format!(
        "{} pulls by {} clients in {} weeks",
        workload.pulls(),
        workload.clients(),
        workload.weeks()
    );
    weeks_svg(&heading, &lines)
}
