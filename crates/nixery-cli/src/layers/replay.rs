//! `nixery layers replay`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::draw::{WeekLine, weeks_svg};
use anyhow::{Context, Result};
use nixery_lab::replay::{Grouping, ReplayCounts, Workload, replay};
use serde::Serialize;

use super::from_server::FromServerArgs;
use super::strategies::{DataArgs, Strategy};
use crate::output;

/// Replay a history of pulls: what each strategy would have moved.
///
/// The history is what servers with `NIXERY_TRAFFIC_RECORD` recorded in their store (--from-server),
/// or a workload: a JSON object. `paths` lists `[store path, NAR size, compressed size,
/// [references]]`, references being places in this list, from 0. `weeks` lists for each week the
/// images, each a list of root paths. `events` lists `[week, client, [images pulled], [images
/// kept]]` in the order of time, with null for all that the client has. `names`, which may be left
/// out, has a number for each image's place, the same for images of one name, of which a client has
/// one. A client has the layers of the images it keeps and fetches the others.
#[derive(clap::Args)]
#[command(after_long_help = "\
The table:
  moved     compressed bytes that clients fetch, and how many times the least: one layer for
            each path, which no grouping can undercut
  fetched   layers that clients fetch
  had       the share of pulled layers that the client had
  stored    compressed bytes of all distinct layers, without collections
  chained   bytes where a layer is of use only on top of the same layers (classic Docker)
  layers    of an image, on average; the root layer, of a few kilobytes, is not counted

With --from-server, weeks are of seven days from the first pull on. Nobody tells a server what
clients delete: of each image name a client is taken to keep the image that it pulled last, and its
layers. A client is an address and user agent; those behind one address count as one if they are
alike, and with a random salt each counts anew when a server was started again. A path's compressed
size is its share of the layer that it was in.

Examples:
  nixery layers replay workload.json
  nixery layers replay workload.json --pop popularity.json --plan nixpkgs.plan --out weeks.svg
  nixery layers replay --from-server --storage-path /var/lib/nixery --save workload.json")]
pub(super) struct ReplayArgs {
    /// The workload
    #[arg(value_name = "WORKLOAD", required_unless_present = "from_server")]
    workload: Option<PathBuf>,

    #[command(flatten)]
    data: DataArgs,

    /// Only this strategy, and the bounds; may be repeated [default: all that there is data for]
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Vec<Strategy>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Draws a picture (SVG) as well: bytes by week
    #[arg(long, short, value_name = "FILE", value_parser = output::file)]
    out: Option<PathBuf>,

    // Last: the flags after it would stand under its heading.
    #[command(flatten)]
    server: FromServerArgs,
}

/// One way of grouping.
struct Row {
    name: &'static str,
    bound: bool,
    counts: ReplayCounts,
}

/// The same in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonRow<'a> {
    strategy: &'static str,
    bound: bool,
    bytes: u64,
    /// Times the bytes of one layer for each path.
    times_least: f64,
    layers_fetched: u64,
    hit_rate: f64,
    stored_bytes: u64,
    stored_layers: u64,
    chain_bytes: u64,
    images: u64,
    mean_layers: f64,
    bytes_by_week: &'a [u64],
}

pub(super) async fn run(args: ReplayArgs) -> Result<ExitCode> {
    let data = args.data.load().await?;
    let strategies = data.all(&args.strategy)?;
    let workload = match &args.workload {
        Some(path) => read(path)?,
        None => args.server.workload().await?,
    };

    let mut groupings = vec![("one layer per path", true, Grouping::OneLayerPerPath)];
    for named in &strategies {
        let grouping = Grouping::Strategy(&*named.strategy, data.budget);
        groupings.push((named.name, false, grouping));
    }
    groupings.push(("one layer", true, Grouping::OneLayer));
    let rows = groupings
        .into_iter()
        .map(|(name, bound, grouping)| {
            let counts = replay(&workload, grouping)?;
            Ok(Row {
                name,
                bound,
                counts,
            })
        })
        .collect::<Result<Vec<Row>>>()?;

    let least = rows.first().map_or(0, |row| row.counts.bytes);
    if let Some(out) = &args.out {
        output::write(Some(out), picture(&workload, &rows).as_bytes())?;
    }
    if args.json {
        let rows: Vec<_> = rows.iter().map(|row| row.json(least)).collect();
        output::json(&rows)?;
    } else {
        output::text(&table(&workload, &rows, least))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Workload> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    Workload::from_json(&bytes).with_context(|| format!("{name} is no workload"))
}

impl Row {
    fn json(&self, least: u64) -> JsonRow<'_> {
        let counts = &self.counts;
        JsonRow {
            strategy: self.name,
            bound: self.bound,
            bytes: counts.bytes,
            times_least: times(counts.bytes, least),
            layers_fetched: counts.layers_fetched,
            hit_rate: counts.hit_rate(),
            stored_bytes: counts.stored_bytes,
            stored_layers: counts.stored_layers,
            chain_bytes: counts.chain_bytes,
            images: counts.images,
            mean_layers: counts.mean_layers(),
            bytes_by_week: &counts.bytes_by_week,
        }
    }
}

/// Where nothing is moved at all, every way is as good.
fn times(bytes: u64, least: u64) -> f64 {
    if bytes == least {
        return 1.0;
    }
    bytes as f64 / least.max(1) as f64
}

fn table(workload: &Workload, rows: &[Row], least: u64) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let unit = Unit::for_all(rows);
    let mut text = format!(
        "{:<width$}  {:>10}  {:>7}  {:>8}  {:>6}  {:>10}  {:>10}  {:>6}\n",
        unit.heading(),
        "moved",
        "x least",
        "fetched",
        "had",
        "stored",
        "chained",
        "layers"
    );
    for row in rows {
        let counts = &row.counts;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<width$}  {:>10}  {:>7.3}  {:>8}  {:>4.1} %  {:>10}  {:>10}  {:>6.1}",
            row.name,
            unit.of(counts.bytes),
            times(counts.bytes, least),
            counts.layers_fetched,
            counts.hit_rate() * 100.0,
            unit.of(counts.stored_bytes),
            unit.of(counts.chain_bytes),
            counts.mean_layers(),
        );
    }
    let images = rows.first().map_or(0, |row| row.counts.images);
    let _ = writeln!(
        text,
        "{} pulls of {images} distinct images by {} clients in {} weeks; {} store paths",
        workload.pulls(),
        workload.clients(),
        workload.weeks(),
        workload.paths()
    );
    text
}

/// One unit for a whole table, so that its figures can be compared at a glance.
struct Unit {
    bytes: f64,
    name: &'static str,
}

impl Unit {
    fn for_all(rows: &[Row]) -> Self {
        let most = rows
            .iter()
            .map(|row| row.counts.bytes)
            .max()
            .unwrap_or_default();
        let (bytes, name) = match most {
            0..1_000_000 => (1e3, "kB"),
            1_000_000..1_000_000_000 => (1e6, "MB"),
            1_000_000_000..10_000_000_000_000 => (1e9, "GB"),
            _ => (1e12, "TB"),
        };
        Self { bytes, name }
    }

    fn heading(&self) -> String {
        format!("bytes in {}", self.name)
    }

    fn of(&self, bytes: u64) -> String {
        format!("{:.3}", bytes as f64 / self.bytes)
    }
}

fn picture(workload: &Workload, rows: &[Row]) -> String {
    let unit = Unit::for_all(rows);
    let line = |row: &Row| WeekLine {
        label: format!("{}: {} {}", row.name, unit.of(row.counts.bytes), unit.name),
        bytes: row.counts.bytes_by_week.clone(),
        bound: row.bound,
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
