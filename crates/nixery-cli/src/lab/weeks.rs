//! Draws bytes over weeks, a line for each layer strategy.

use std::cmp::Reverse;

use crate::progress::bytes;
use crate::svg::{END, FAINT, GRID, INK, MIDDLE, START, Svg};

/// A line of the picture.
pub(super) struct WeekLine {
    /// The label at its right.
    pub(super) label: String,
    /// Bytes by week.
    pub(super) bytes: Vec<u64>,
    /// Whether it is a bound, drawn in grey dashes, and not one of the compared strategies.
    pub(super) bound: bool,
}

/// Colours of the lines. Most colour-blind people can distinguish them, too (Okabe and Ito's
/// palette).
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];
const LEFT: f64 = 80.0;
const TOP: f64 = 60.0;
const PLOT_WIDTH: f64 = 640.0;
const PLOT_HEIGHT: f64 = 360.0;
/// The approximate width of a letter.
const LETTER: f64 = 7.0;
const BOTTOM: f64 = 56.0;
/// The height of a label's line.
const LABEL_STEP: f64 = 17.0;

/// Returns an SVG document with bytes over weeks as lines. Their labels are at the right, in the
/// order of the ends of the lines.
pub(super) fn weeks_svg(heading: &str, lines: &[WeekLine]) -> String {
    let most = lines.iter().flat_map(|line| &line.bytes).copied().max();
    let step = nice_step(most.unwrap_or_default());
    let steps = most.unwrap_or_default().div_ceil(step).max(1);
    let full = step as f64 * steps as f64;
    let weeks = lines.iter().map(|line| line.bytes.len()).max();
    let weeks = weeks.unwrap_or_default();
    let bottom = TOP + PLOT_HEIGHT;
    let right = LEFT + PLOT_WIDTH;
    let x = |week: usize| LEFT + PLOT_WIDTH * week as f64 / weeks.saturating_sub(1).max(1) as f64;
    let y = |bytes: u64| bottom - PLOT_HEIGHT * bytes as f64 / full;
    let longest = lines.iter().map(|line| line.label.chars().count()).max();
    let labels = 40.0 + LETTER * longest.unwrap_or_default() as f64;

    let mut svg = Svg::new(right + labels, bottom + BOTTOM);
    svg.heading((LEFT, 22.0), heading);
    let meaning = "bytes fetched by week; dashed lines are bounds";
    svg.text((LEFT, 42.0), START, FAINT, meaning);
    for tick in 0..=steps {
        let size = step.saturating_mul(tick);
        svg.rule((LEFT, right), y(size), GRID);
        svg.text((LEFT - 8.0, y(size) + 4.0), END, FAINT, &bytes(size));
    }
    // At most about 20 numbers.
    for week in (0..weeks).step_by(weeks.div_ceil(20).max(1)) {
        let place = (x(week), bottom + 18.0);
        svg.text(place, MIDDLE, FAINT, &week.to_string());
    }
    let middle = (LEFT + PLOT_WIDTH / 2.0, bottom + 40.0);
    svg.text(middle, MIDDLE, FAINT, "week");

    let mut colours = COLOURS.iter().cycle();
    let mut coloured: Vec<(&WeekLine, &str)> = Vec::new();
    for line in lines {
        let colour = match line.bound {
            true => FAINT,
            false => colours.next().copied().unwrap_or(INK),
        };
        coloured.push((line, colour));
    }
    coloured.sort_by_key(|(line, _)| Reverse(line.bytes.last().copied()));
    for (place, (line, colour)) in coloured.into_iter().enumerate() {
        let points = line.bytes.iter().enumerate();
        let points: Vec<_> = points.map(|(week, &size)| (x(week), y(size))).collect();
        svg.line(&points, colour, line.bound);
        for (week, (&point, &size)) in points.iter().zip(&line.bytes).enumerate() {
            let tip = format!("{}\nweek {week}: {}", line.label, bytes(size));
            svg.dot(point, colour, &tip);
        }
        let label = (right + 22.0, TOP + 4.0 + LABEL_STEP * place as f64);
        svg.text(label, START, colour, &line.label);
    }
    svg.finish()
}

/// Returns a step of 1, 2 or 5 times a power of ten. At most about eight steps make up `most`.
fn nice_step(most: u64) -> u64 {
    let mut power = 1u64;
    loop {
        for factor in [1, 2, 5] {
            let step = power.saturating_mul(factor);
            if most / step < 8 || step == u64::MAX {
                return step;
            }
        }
        power = power.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn line(label: &str, bytes: &[u64], bound: bool) -> WeekLine {
        WeekLine {
            label: label.into(),
            bytes: bytes.to_vec(),
            bound,
        }
    }

    #[test]
    fn every_strategy_has_a_line() {
        let lines = [
            line("least", &[100, 0], true),
            line("<mine>", &[700, 350], false),
        ];
        let svg = weeks_svg("a replay", &lines);
        // Up to 700 in steps of 100: the first point is at the top, the second half-way.
        assert!(
            svg.contains("points=\"80.0,60.0 720.0,240.0\" fill=\"none\" stroke=\"#0072b2\""),
            "{svg}"
        );
        assert!(
            svg.contains("points=\"80.0,368.6 720.0,420.0\" fill=\"none\" stroke=\"#78909c\""),
            "{svg}"
        );
        assert!(
            svg.contains(">&lt;mine&gt;</text>") && svg.contains(">least</text>"),
            "{svg}"
        );
        assert!(
            svg.contains(">700 B</text>") && !svg.contains(">800 B</text>"),
            "{svg}"
        );
        assert_eq!(svg, weeks_svg("a replay", &lines));
    }

    #[test]
    fn labels_are_in_the_order_of_the_ends_of_their_lines() {
        let lines = [
            line("least", &[9, 0], true),
            line("most", &[1, 5], false),
            line("middle", &[3, 2], false),
        ];
        let svg = weeks_svg("", &lines);
        let place = |label: &str| svg.find(&format!(">{label}</text>")).expect("a label");
        assert!(place("most") < place("middle") && place("middle") < place("least"));
    }

    #[rstest]
    #[case(&[])]
    #[case(&[line("no weeks", &[], false)])]
    #[case(&[line("one", &[0], true), line("other", &[u64::MAX], false)])]
    fn unusual_replays_are_drawn(#[case] lines: &[WeekLine]) {
        let svg = weeks_svg("", lines);
        assert!(
            svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"),
            "{svg}"
        );
    }

    #[rstest]
    #[case(0, 1)]
    #[case(7, 1)]
    #[case(8, 2)]
    #[case(40, 10)]
    #[case(39, 5)]
    #[case(u64::MAX, 5_000_000_000_000_000_000)]
    fn steps_are_round(#[case] most: u64, #[case] step: u64) {
        assert_eq!(nice_step(most), step);
    }
}
