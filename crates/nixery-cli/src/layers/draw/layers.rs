//! One image's layers under several strategies, as bars.

use super::svg::{Anchor, FAINT, GRID, INK, Svg};
use nixery_core::ByteSize;

/// What one strategy makes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerPanel {
    /// The strategy and what there is to say of it, in a line.
    pub(crate) title: String,
    /// The layers in the image's order.
    pub(crate) bars: Vec<LayerBar>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerBar {
    /// Bytes.
    pub(crate) size: u64,
    /// How widely it is shared, in thousandths of the most; more counts as 1000.
    pub(crate) shade: u16,
    /// What shows when the pointer rests on it.
    pub(crate) tip: String,
}

/// From seldom to widely shared.
const SHADES: [&str; 5] = ["#bdd7e7", "#85b8da", "#4292c6", "#2171b5", "#08306b"];
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 64.0;
const PANEL: f64 = 120.0;
const BETWEEN: f64 = 52.0;
/// Where the scale begins; smaller layers have the least bar.
const LEAST: u64 = 1000;

/// The layers of an image as bars, a row for each strategy; heights on a logarithmic scale from 1 kB, since
/// layers differ by orders of magnitude. `shade_means` says in a few words what a dark bar is. An SVG
/// document; the same for equal input.
pub(crate) fn layers_svg(heading: &str, shade_means: &str, panels: &[LayerPanel]) -> String {
    let most_layers = panels.iter().map(|panel| panel.bars.len()).max();
    let most_layers = most_layers.unwrap_or_default().max(1) as f64;
    let step = (900.0 / most_layers).clamp(7.0, 40.0);
    let width = (LEFT + step * most_layers + RIGHT).max(640.0);
    let height = TOP + panels.len() as f64 * (PANEL + BETWEEN);
    let largest = panels
        .iter()
        .flat_map(|panel| &panel.bars)
        .map(|bar| bar.size)
        .max();
    let decades = decades(largest.unwrap_or_default());

    let mut svg = Svg::new(width, height);
    svg.heading(LEFT, 22.0, heading);
    legend(&mut svg, shade_means);
    for (row, panel) in panels.iter().enumerate() {
        let top = TOP + row as f64 * (PANEL + BETWEEN) + 20.0;
        let bottom = top + PANEL;
        svg.heading(LEFT, top - 8.0, &panel.title);
        for decade in 0..=decades {
            let size = LEAST.saturating_mul(10u64.saturating_pow(decade));
            let y = bottom - PANEL * share(size, decades);
            svg.line(&[(LEFT, y), (width - RIGHT, y)], GRID, 1.0, false);
            // Every second one where they are many.
            if decades <= 5 || decade % 2 == 0 {
                let label = whole(&ByteSize(size).to_string());
                svg.text((LEFT - 6.0, y + 4.0), Anchor::End, FAINT, &label);
            }
        }
        for (number, bar) in panel.bars.iter().enumerate() {
            let tall = (PANEL * share(bar.size, decades)).max(2.0);
            let x = LEFT + step * number as f64;
            let shade = SHADES[usize::from(bar.shade.min(1000)) * (SHADES.len() - 1) / 1000];
            svg.block((x + 0.5, bottom - tall), step - 1.5, tall, shade, &bar.tip);
        }
        svg.line(
            &[(LEFT, bottom), (width - RIGHT, bottom)],
            FAINT,
            1.0,
            false,
        );
        let last = panel.bars.len();
        for number in (1..=last).filter(|&n| n == 1 || n == last || (n % 10 == 0 && last - n > 4)) {
            let x = LEFT + step * (number as f64 - 0.5);
            svg.text(
                (x, bottom + 15.0),
                Anchor::Middle,
                FAINT,
                &number.to_string(),
            );
        }
    }
    svg.finish()
}

fn legend(svg: &mut Svg, shade_means: &str) {
    let y = 44.0;
    svg.text(
        (LEFT, y),
        Anchor::Start,
        FAINT,
        "layer sizes, in the order of the image; darker:",
    );
    let start = LEFT + 285.0;
    for (place, shade) in SHADES.iter().enumerate() {
        svg.block(
            (start + 16.0 * place as f64, y - 10.0),
            15.0,
            12.0,
            shade,
            "",
        );
    }
    let after = start + 16.0 * SHADES.len() as f64 + 8.0;
    svg.text((after, y), Anchor::Start, INK, shade_means);
}

/// How many powers of ten the scale covers, so that `largest` is on it; at least one.
fn decades(largest: u64) -> u32 {
    let mut decades = 1;
    while decades < 16 && LEAST.saturating_mul(10u64.saturating_pow(decades)) < largest {
        decades += 1;
    }
    decades
}

/// How much of the scale's height a size takes, from 0 to 1.
fn share(size: u64, decades: u32) -> f64 {
    let above = (size.max(LEAST) as f64 / LEAST as f64).log10();
    (above / f64::from(decades)).min(1.0)
}

/// `1.0 MB` as `1 MB`.
fn whole(size: &str) -> String {
    size.replace(".0 ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn bar(size: u64, shade: u16) -> LayerBar {
        LayerBar {
            size,
            shade,
            tip: format!("{size} <bytes>"),
        }
    }

    #[test]
    fn every_layer_is_a_bar_with_its_tip() {
        let panels = [
            LayerPanel {
                title: "one & all".into(),
                bars: vec![bar(1_000_000, 1000)],
            },
            LayerPanel {
                title: "two".into(),
                bars: vec![bar(10, 0), bar(100_000, 500)],
            },
        ];
        let svg = layers_svg("an image", "shared by all", &panels);
        assert_eq!(
            svg.matches("&lt;bytes&gt;</title></rect>").count(),
            3,
            "{svg}"
        );
        assert!(svg.contains(">one &amp; all</text>"), "{svg}");
        // The largest takes the whole height; what is below the scale still shows.
        assert!(
            svg.contains("height=\"120.0\" fill=\"#08306b\"><title>1000000"),
            "{svg}"
        );
        assert!(
            svg.contains("height=\"2.0\" fill=\"#bdd7e7\"><title>10 "),
            "{svg}"
        );
        assert!(
            svg.contains("height=\"80.0\" fill=\"#4292c6\"><title>100000"),
            "{svg}"
        );
        assert_eq!(svg, layers_svg("an image", "shared by all", &panels));
    }

    #[rstest]
    #[case(&[])]
    #[case(&[LayerPanel { title: "empty".into(), bars: vec![] }])]
    #[case(&[LayerPanel { title: "huge".into(), bars: vec![bar(u64::MAX, u16::MAX), bar(0, 0)] }])]
    fn odd_images_are_drawn(#[case] panels: &[LayerPanel]) {
        let svg = layers_svg("", "", panels);
        assert!(
            svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"),
            "{svg}"
        );
    }

    #[rstest]
    #[case(0, 1)]
    #[case(10_000, 1)]
    #[case(10_001, 2)]
    #[case(100_000_000, 5)]
    fn the_scale_holds_the_largest(#[case] largest: u64, #[case] expected: u32) {
        assert_eq!(decades(largest), expected);
    }
}
