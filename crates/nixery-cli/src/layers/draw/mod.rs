//! Pictures (SVG) of layers, and of what pulls move.

mod layers;
mod svg;
mod weeks;

pub(super) use layers::{LayerBar, LayerPanel, layers_svg};
pub(super) use weeks::{WeekLine, weeks_svg};
