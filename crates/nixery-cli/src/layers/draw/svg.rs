//! The little of SVG that the pictures need.

use std::fmt::Write as _;

/// Text and lines of the drawing.
pub(super) const INK: &str = "#263238";
/// Text and lines that stand back.
pub(super) const FAINT: &str = "#78909c";
/// Lines behind everything.
pub(super) const GRID: &str = "#e0e5e8";

/// Where a text stands from its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture being drawn; lengths are pixels, from the top left.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            body: String::new(),
        }
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, colour: &str, text: &str) {
        self.styled(x, y, anchor, &format!("fill=\"{colour}\""), text);
    }

    pub(super) fn heading(&mut self, x: f64, y: f64, text: &str) {
        let style = format!("fill=\"{INK}\" font-weight=\"bold\"");
        self.styled(x, y, Anchor::Start, &style, text);
    }

    fn styled(&mut self, x: f64, y: f64, anchor: Anchor, style: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{text}</text>"
        );
    }

    /// A filled box; `tip` shows when the pointer rests on it.
    pub(super) fn block(
        &mut self,
        (x, y): (f64, f64),
        width: f64,
        height: f64,
        fill: &str,
        tip: &str,
    ) {
        let tip = if tip.is_empty() {
            String::new()
        } else {
            format!("<title>{}</title>", escaped(tip))
        };
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\">{tip}</rect>"
        );
    }

    /// A line through all points, dashed or not.
    pub(super) fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64, dashed: bool) {
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let dashes = if dashed {
            " stroke-dasharray=\"5 4\""
        } else {
            ""
        };
        let _ = writeln!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{dashes}/>",
            points.join(" ")
        );
    }

    pub(super) fn dot(&mut self, (x, y): (f64, f64), colour: &str, tip: &str) {
        let tip = escaped(tip);
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{tip}</title></circle>"
        );
    }

    pub(super) fn finish(self) -> String {
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

/// Text as XML has it; what XML cannot have becomes a space.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push('\n'),
            '\u{fffe}' | '\u{ffff}' => escaped.push(' '),
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_end_their_element() {
        let mut svg = Svg::new(10.0, 20.0);
        svg.text(
            (1.0, 2.0),
            Anchor::Middle,
            INK,
            "a<b> & \"c\"\u{1}\n\u{ffff}",
        );
        let svg = svg.finish();
        assert!(
            svg.contains(">a&lt;b&gt; &amp; &quot;c&quot; \n </text>"),
            "{svg}"
        );
    }
}
