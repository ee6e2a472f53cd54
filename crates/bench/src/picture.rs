//! A picture of a cell: bars of the medians with their intervals, side by side. SVG by hand: it is a dozen rectangles.

use crate::report::{Cell, Row};
use crate::stats::{Estimate, digits};
use std::fmt::Write as _;

/// Sizes in pixels.
const WIDTH: f64 = 760.0;
const LABEL: f64 = 110.0;
const BAR: f64 = 18.0;
const ROW: f64 = 26.0;
const HEAD: f64 = 54.0;
const PANEL_HEAD: f64 = 30.0;
const VALUE: f64 = 190.0;

/// What one part of the picture shows.
type Panel = (&'static str, fn(&Row) -> Option<Estimate>);

const PANELS: [Panel; 3] = [
    ("operations per second (more is better)", |r| r.per_second),
    ("processor time of all servers per operation, µs (less is better)", |r| r.server_cpu),
    ("latency, 99th percentile, ms (less is better)", |r| r.p99),
];

/// Ours, and the others.
const OURS: &str = "#1f6f8b";
const THEIRS: &str = "#b8bdc4";

/// Draws a cell.
pub(crate) fn draw(cell: &Cell) -> String {
    let rows = crate::machine::float(u64::try_from(cell.sides.len()).unwrap_or(0));
    let panel_height = PANEL_HEAD + rows * ROW + 8.0;
    let height = HEAD + panel_height * 3.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\" font-weight=\"bold\">{}, {}</text>\n\
         <text x=\"12\" y=\"42\">bars: medians of the rounds; lines: intervals of the medians</text>\n",
        cell.work, cell.arrival
    );
    for (n, (title, what)) in PANELS.iter().enumerate() {
        let top = HEAD + panel_height * crate::machine::float(u64::try_from(n).unwrap_or(0));
        panel(&mut out, top, title, &cell.sides, *what);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, top: f64, title: &str, rows: &[Row], what: fn(&Row) -> Option<Estimate>) {
    let most = rows.iter().filter_map(what).map(|e| e.high.max(e.median)).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LABEL + value / most * (WIDTH - LABEL - VALUE);
    // Writing into a String cannot fail.
    let _ = writeln!(out, "<text x=\"12\" y=\"{}\" font-weight=\"bold\">{title}</text>", top + 18.0);
    let mut y = top + PANEL_HEAD;
    for row in rows {
        let middle = y + BAR / 2.0;
        let _ =
            writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", LABEL - 8.0, middle + 4.0, row.side);
        if let Some(e) = what(row) {
            let colour = if row.side == "quorate" { OURS } else { THEIRS };
            let _ = writeln!(
                out,
                "<rect x=\"{LABEL}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
                 <path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#222\" stroke-width=\"1.5\"/>\n\
                 <text x=\"{}\" y=\"{}\">{} [{} to {}]</text>",
                x(e.median) - LABEL,
                x(e.low),
                x(e.high),
                WIDTH - VALUE + 12.0,
                middle + 4.0,
                digits(e.median),
                digits(e.low),
                digits(e.high),
            );
        }
        y += ROW;
    }
}
