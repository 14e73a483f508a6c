//! Writes the elements of SVG that the pictures need.

use std::fmt::Write as _;

/// The colour of text.
pub(crate) const INK: &str = "#263238";
/// The colour of less important text and lines.
pub(crate) const FAINT: &str = "#78909c";
/// The colour of lines behind the data.
pub(crate) const GRID: &str = "#e0e5e8";

/// A text that starts at its point.
pub(crate) const START: &str = "start";
/// A text whose middle is at its point.
pub(crate) const MIDDLE: &str = "middle";
/// A text that ends at its point.
pub(crate) const END: &str = "end";

/// A picture; lengths are pixels from the top left.
pub(crate) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    pub(crate) fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            body: String::new(),
        }
    }

    /// Adds an element to the picture. Its text and attributes must be escaped.
    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.body, "{element}");
    }

    pub(crate) fn text(&mut self, (x, y): (f64, f64), anchor: &str, colour: &str, text: &str) {
        let text = escaped(text);
        self.element(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
        ));
    }

    pub(crate) fn heading(&mut self, (x, y): (f64, f64), text: &str) {
        let text = escaped(text);
        self.element(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{INK}\" font-weight=\"bold\">{text}</text>"
        ));
    }

    /// Adds a filled box. A `tip` that is not empty shows when the pointer rests on it.
    pub(crate) fn block(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        fill: &str,
        tip: &str,
    ) {
        let tip = match tip {
            "" => String::new(),
            tip => format!("<title>{}</title>", escaped(tip)),
        };
        self.element(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\">{tip}</rect>"
        ));
    }

    /// Adds a horizontal line of the grid.
    pub(crate) fn rule(&mut self, (from, to): (f64, f64), y: f64, colour: &str) {
        self.element(format_args!(
            "<path d=\"M{from:.1} {y:.1}H{to:.1}\" stroke=\"{colour}\"/>"
        ));
    }

    /// Adds a line through the points, dashed or not.
    #[cfg(feature = "lab")]
    pub(crate) fn line(&mut self, points: &[(f64, f64)], colour: &str, dashed: bool) {
        let points: Vec<_> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let points = points.join(" ");
        let dashes = if dashed { "5 4" } else { "none" };
        self.element(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>"
        ));
    }

    /// Adds a dot whose `tip` shows when the pointer rests on it.
    #[cfg(feature = "lab")]
    pub(crate) fn dot(&mut self, (x, y): (f64, f64), colour: &str, tip: &str) {
        let tip = escaped(tip);
        self.element(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{tip}</title></circle>"
        ));
    }

    /// Returns the SVG document.
    pub(crate) fn finish(self) -> String {
        let Self {
            width,
            height,
            body,
        } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }
}

/// Escapes text for XML. A character that XML does not allow becomes a space.
fn escaped(text: &str) -> String {
    let allowed = |c: char| c == '\n' || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'));
    text.replace(|c| !allowed(c), " ")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_end_their_element() {
        let mut svg = Svg::new(10.0, 20.0);
        svg.text((1.0, 2.0), MIDDLE, INK, "a<b> & \"c\"\u{1}\n\u{ffff}");
        let svg = svg.finish();
        assert!(
            svg.contains(">a&lt;b&gt; &amp; &quot;c&quot; \n </text>"),
            "{svg}"
        );
    }
}
