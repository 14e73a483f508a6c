//! Bytes over weeks, a line for each way of grouping.

use super::svg::{Anchor, FAINT, GRID, INK, Svg};
use nixery_core::ByteSize;

/// A line of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WeekLine {
    /// What stands at its end.
    pub(crate) label: String,
    /// Bytes by week.
    pub(crate) bytes: Vec<u64>,
    /// Whether it is a bound, drawn in grey dashes, rather than one of those compared.
    pub(crate) bound: bool,
}

/// Colours of the lines, in turn; told apart by most colour-blind people too (Okabe and Ito's).
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];
const LEFT: f64 = 80.0;
const TOP: f64 = 60.0;
const PLOT_WIDTH: f64 = 640.0;
const PLOT_HEIGHT: f64 = 360.0;
/// About the width of a letter.
const LETTER: f64 = 7.0;
const BOTTOM: f64 = 56.0;
/// From one label to the next at least.
const LABEL_STEP: f64 = 17.0;

/// Bytes over weeks as lines with their labels at the right. An SVG document; the same for equal input.
pub(crate) fn weeks_svg(heading: &str, lines: &[WeekLine]) -> String {
    let most = lines.iter().flat_map(|line| &line.bytes).copied().max();
    let step = nice_step(most.unwrap_or_default());
    let steps = most.unwrap_or_default().div_ceil(step).max(1);
    let full = step as f64 * steps as f64;
    let weeks = lines
        .iter()
        .map(|line| line.bytes.len())
        .max()
        .unwrap_or_default();
    let bottom = TOP + PLOT_HEIGHT;
    let right = LEFT + PLOT_WIDTH;
    let x = |week: usize| LEFT + PLOT_WIDTH * week as f64 / weeks.saturating_sub(1).max(1) as f64;
    let y = |bytes: u64| bottom - PLOT_HEIGHT * bytes as f64 / full;

    let longest = lines.iter().map(|line| line.label.chars().count()).max();
    let labels = 40.0 + LETTER * longest.unwrap_or_default() as f64;

    let mut svg = Svg::new(right + labels, bottom + BOTTOM);
    svg.heading(LEFT, 22.0, heading);
    svg.text(
        (LEFT, 42.0),
        Anchor::Start,
        FAINT,
        "bytes moved, by week; dashed: the bounds",
    );
    for tick in 0..=steps {
        let bytes = step.saturating_mul(tick);
        svg.line(&[(LEFT, y(bytes)), (right, y(bytes))], GRID, 1.0, false);
        svg.text(
            (LEFT - 8.0, y(bytes) + 4.0),
            Anchor::End,
            FAINT,
            &ByteSize(bytes).to_string(),
        );
    }
    // At most some 20 numbers below.
    let every = weeks.div_ceil(20).max(1);
    for week in (0..weeks).step_by(every) {
        svg.text(
            (x(week), bottom + 18.0),
            Anchor::Middle,
            FAINT,
            &week.to_string(),
        );
    }
    svg.text(
        (LEFT + PLOT_WIDTH / 2.0, bottom + 40.0),
        Anchor::Middle,
        FAINT,
        "week",
    );

    let mut ends = Vec::new();
    let mut colours = COLOURS.iter().cycle();
    for line in lines {
        let colour = if line.bound {
            FAINT
        } else {
            colours.next().unwrap_or(&INK)
        };
        let points: Vec<_> = line
            .bytes
            .iter()
            .enumerate()
            .map(|(week, &bytes)| (x(week), y(bytes)))
            .collect();
        svg.line(
            &points,
            colour,
            if line.bound { 1.5 } else { 2.0 },
            line.bound,
        );
        for (week, (&point, &bytes)) in points.iter().zip(&line.bytes).enumerate() {
            let tip = format!("{}\nweek {week}: {}", line.label, ByteSize(bytes));
            svg.dot(point, colour, &tip);
        }
        let end = points.last().copied().unwrap_or((LEFT, bottom));
        ends.push((end, colour, line.label.as_str()));
    }
    label_ends(&mut svg, ends, right);
    svg.finish()
}

/// Writes each label beside its line's end, moved up or down so that none covers another.
fn label_ends(svg: &mut Svg, mut ends: Vec<((f64, f64), &str, &str)>, right: f64) {
    ends.sort_by(|a, b| a.0.1.total_cmp(&b.0.1));
    let mut places: Vec<f64> = ends.iter().map(|end| end.0.1).collect();
    for label in 1..places.len() {
        places[label] = places[label].max(places[label - 1] + LABEL_STEP);
    }
    // Those that were pushed below the plot push the ones above them up again.
    let mut limit = TOP + PLOT_HEIGHT + LABEL_STEP;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - LABEL_STEP;
    }
    for (((x, y), colour, label), place) in ends.into_iter().zip(places) {
        let from = (x.max(LEFT) + 4.0, y);
        svg.line(&[from, (right + 18.0, place)], GRID, 1.0, false);
        svg.text((right + 22.0, place + 4.0), Anchor::Start, colour, label);
    }
}

/// A step of 1, 2 or 5 times a power of ten, of which at most some eight make up `most`.
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
    fn a_line_for_each() {
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
    fn labels_do_not_cover_each_other() {
        let lines: Vec<_> = (0..8)
            .map(|n| line(&format!("line {n}"), &[n, 0], false))
            .collect();
        let svg = weeks_svg("", &lines);
        let mut places: Vec<f64> = svg
            .lines()
            .filter(|text| text.starts_with("<text") && text.contains(">line "))
            .filter_map(|text| text.split("y=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        places.sort_by(f64::total_cmp);
        assert_eq!(places.len(), 8);
        assert!(
            places
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= LABEL_STEP - 0.2),
            "{places:?}"
        );
    }

    #[rstest]
    #[case(&[])]
    #[case(&[line("no weeks", &[], false)])]
    #[case(&[line("one", &[0], true), line("other", &[u64::MAX], false)])]
    fn odd_replays_are_drawn(#[case] lines: &[WeekLine]) {
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
