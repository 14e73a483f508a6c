//! Draws the layers of one image under several strategies as bars.

use crate::progress::bytes;
use crate::svg::{END, FAINT, GRID, INK, MIDDLE, START, Svg};

/// The layers of an image under one strategy.
pub(super) struct LayerPanel {
    /// The strategy and a summary, in one line.
    pub(super) title: String,
    /// The layers in the image's order.
    pub(super) bars: Vec<LayerBar>,
}

/// A layer.
pub(super) struct LayerBar {
    /// Bytes.
    pub(super) size: u64,
    /// How widely it is shared, in thousandths of the most; more counts as 1000.
    pub(super) shade: u16,
    /// The text that shows when the pointer rests on it.
    pub(super) tip: String,
}

/// From rarely to widely shared.
const SHADES: [&str; 5] = ["#bdd7e7", "#85b8da", "#4292c6", "#2171b5", "#08306b"];
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 64.0;
const PANEL: f64 = 120.0;
const BETWEEN: f64 = 52.0;
/// Where the scale begins; smaller layers have the least bar.
const LEAST: u64 = 1000;

/// Returns an SVG document with the layers of an image as bars, a row for each strategy.
///
/// Heights are on a logarithmic scale from 1 kB, since layers differ by orders of magnitude.
/// `shade_means` describes in a few words what a dark bar is.
pub(super) fn layers_svg(heading: &str, shade_means: &str, panels: &[LayerPanel]) -> String {
    let most_layers = panels.iter().map(|panel| panel.bars.len()).max();
    let most_layers = most_layers.unwrap_or_default().max(1) as f64;
    let step = (900.0 / most_layers).clamp(7.0, 40.0);
    let width = (LEFT + step * most_layers + RIGHT).max(640.0);
    let height = TOP + panels.len() as f64 * (PANEL + BETWEEN);
    let bars = panels.iter().flat_map(|panel| &panel.bars);
    let decades = decades(bars.map(|bar| bar.size).max().unwrap_or_default());
    let plot = (LEFT, width - RIGHT);

    let mut svg = Svg::new(width, height);
    svg.heading((LEFT, 22.0), heading);
    legend(&mut svg, shade_means);
    for (row, panel) in panels.iter().enumerate() {
        let top = TOP + row as f64 * (PANEL + BETWEEN) + 20.0;
        let bottom = top + PANEL;
        svg.heading((LEFT, top - 8.0), &panel.title);
        for decade in 0..=decades {
            let size = LEAST.saturating_mul(10u64.saturating_pow(decade));
            let y = bottom - PANEL * share(size, decades);
            svg.rule(plot, y, GRID);
            // Every second label where there are many.
            if decades <= 5 || decade % 2 == 0 {
                let label = bytes(size).replace(".0 ", " ");
                svg.text((LEFT - 6.0, y + 4.0), END, FAINT, &label);
            }
        }
        let last = panel.bars.len();
        for (index, bar) in panel.bars.iter().enumerate() {
            let (number, x) = (index + 1, LEFT + step * index as f64);
            let tall = (PANEL * share(bar.size, decades)).max(2.0);
            let shade = SHADES[usize::from(bar.shade.min(1000)) * (SHADES.len() - 1) / 1000];
            svg.block(
                (x + 0.5, bottom - tall),
                (step - 1.5, tall),
                shade,
                &bar.tip,
            );
            if number == 1 || number == last || (number % 10 == 0 && last - number > 4) {
                let middle = (x + step / 2.0, bottom + 15.0);
                svg.text(middle, MIDDLE, FAINT, &number.to_string());
            }
        }
        svg.rule(plot, bottom, FAINT);
    }
    svg.finish()
}

fn legend(svg: &mut Svg, shade_means: &str) {
    let (y, start) = (44.0, LEFT + 285.0);
    let sizes = "layer sizes, in the order of the image; darker:";
    svg.text((LEFT, y), START, FAINT, sizes);
    for (place, shade) in SHADES.iter().enumerate() {
        let x = start + 16.0 * place as f64;
        svg.block((x, y - 10.0), (15.0, 12.0), shade, "");
    }
    let after = start + 16.0 * SHADES.len() as f64 + 8.0;
    svg.text((after, y), START, INK, shade_means);
}

/// Returns how many powers of ten the scale covers up to `largest`; at least one.
fn decades(largest: u64) -> u32 {
    let beyond = |&decades: &u32| LEAST.saturating_mul(10u64.saturating_pow(decades)) >= largest;
    (1..16).find(beyond).unwrap_or(16)
}

/// Returns the share of the scale's height that a size takes, from 0 to 1.
fn share(size: u64, decades: u32) -> f64 {
    let above = (size.max(LEAST) as f64 / LEAST as f64).log10();
    (above / f64::from(decades)).min(1.0)
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
