//! Latency over time as an SVG, with faults as bands behind it and outages on top. In whole pixels, by hand: it is all that is needed.

use super::Outage;
use crate::history::{Answer, Entry, Event, Nanos, Operation};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const WIDTH: u64 = 1_400;
const LEFT: u64 = 70;
const TOP: u64 = 40;
const HEIGHT: u64 = 420;
/// One line of the legend of faults.
const LANE: u64 = 13;
/// Pixels for a doubling of latency; the scale begins at 2^9 µs, about half a millisecond.
const DOUBLING: u64 = 28;
const SMALLEST: u32 = 9;

const COLOURS: &[&str] =
    &["#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075", "#d45087"];

/// Draws it.
pub(super) fn draw(entries: &[Entry], all: &[Operation], outages: &BTreeMap<&'static str, Vec<Outage>>) -> String {
    let end = entries.last().map_or(1, |entry| entry.at).max(1);
    let scale = Scale { end };
    let mut svg = String::new();
    let faults = faults(entries, end);
    let kinds: Vec<&str> = faults.iter().map(|fault| fault.kind).collect::<BTreeSet<_>>().into_iter().collect();
    let lanes = u64::try_from(kinds.len()).unwrap_or(0);
    let total = TOP + HEIGHT + 50 + lanes * LANE + 40;
    // Writing into a String cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{total}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{total}\" fill=\"white\"/>"
    );
    for fault in &faults {
        let at = kinds.iter().position(|kind| *kind == fault.kind).unwrap_or(0);
        let colour = COLOURS.get(at % COLOURS.len()).copied().unwrap_or("black");
        let (x, width) = (scale.x(fault.from), (scale.x(fault.to) - scale.x(fault.from)).max(1));
        let lane = TOP + HEIGHT + 40 + u64::try_from(at).unwrap_or(0) * LANE;
        let what = escape(&fault.what);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{TOP}\" width=\"{width}\" height=\"{HEIGHT}\" fill=\"{colour}\" opacity=\"0.08\"/>\
             <rect x=\"{x}\" y=\"{lane}\" width=\"{width}\" height=\"{}\" fill=\"{colour}\" opacity=\"{}\"><title>{what}</title></rect>",
            LANE - 3,
            if fault.bit { "0.9" } else { "0.25" },
        );
    }
    for (at, kind) in (0..).zip(&kinds) {
        let y = TOP + HEIGHT + 49 + at * LANE;
        let _ = writeln!(svg, "<text x=\"2\" y=\"{y}\" font-size=\"10\">{}</text>", escape(kind));
    }
    axes(&mut svg, &scale);
    points(&mut svg, &scale, all);
    for (at, (what, outages)) in (0..).zip(outages) {
        let y = 12 + at * 12;
        let _ = writeln!(svg, "<text x=\"2\" y=\"{}\" font-size=\"10\">no {what}</text>", y + 7);
        for outage in outages {
            let from = scale.x(outage.from_ms * 1_000_000);
            let to = scale.x((outage.from_ms + outage.ms) * 1_000_000);
            let _ = writeln!(
                svg,
                "<rect x=\"{from}\" y=\"{y}\" width=\"{}\" height=\"8\" fill=\"black\"><title>{} ms</title></rect>",
                (to - from).max(1),
                outage.ms
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

struct Scale {
    end: Nanos,
}

impl Scale {
    fn x(&self, at: Nanos) -> u64 {
        let wide = u128::from(WIDTH - LEFT - 20) * u128::from(at.min(self.end)) / u128::from(self.end);
        LEFT + u64::try_from(wide).unwrap_or(0)
    }

    /// Logarithmic, and straight between two powers of two.
    fn y(micros: u64) -> u64 {
        let micros = micros.max(1 << SMALLEST);
        let power = micros.ilog2();
        let between = (micros - (1 << power)) * DOUBLING / (1 << power);
        let up = u64::from(power - SMALLEST) * DOUBLING + between;
        (TOP + HEIGHT).saturating_sub(up).max(TOP)
    }
}

fn axes(svg: &mut String, scale: &Scale) {
    let bottom = TOP + HEIGHT;
    for micros in [1_000, 10_000, 100_000, 1_000_000, 10_000_000] {
        let y = Scale::y(micros);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"#ccc\"/><text x=\"10\" y=\"{}\">{} ms</text>",
            WIDTH - 20,
            y + 4,
            micros / 1_000
        );
    }
    let seconds = scale.end / 1_000_000_000;
    let step = (seconds / 12).max(1);
    let mut second = 0;
    while second <= seconds {
        let x = scale.x(second * 1_000_000_000);
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{bottom}\" x2=\"{x}\" y2=\"{}\" stroke=\"#666\"/><text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>",
            bottom + 5,
            bottom + 18
        );
        second += step;
    }
}

/// One point for all operations that fall on the same pixel.
fn points(svg: &mut String, scale: &Scale, all: &[Operation]) {
    let mut drawn: BTreeSet<(u64, u64, &'static str)> = BTreeSet::new();
    for operation in all {
        let Some((back, answer)) = &operation.back else { continue };
        let colour = match answer {
            Answer::Unknown { .. } | Answer::Unanswered { .. } => "#ff8c00",
            Answer::Wrong { .. } => "#ff0000",
            Answer::Refused { .. } => "#999999",
            _ if operation.action.changes() => "#1f4fbf",
            _ => "#2e8b57",
        };
        drawn.insert((scale.x(*back), Scale::y(back.saturating_sub(operation.call) / 1_000), colour));
    }
    for (x, y, colour) in drawn {
        let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"1.5\" fill=\"{colour}\"/>");
    }
    let legend = [
        ("#1f4fbf", "changes"),
        ("#2e8b57", "questions"),
        ("#999999", "refused by rule"),
        ("#ff8c00", "outcome unknown"),
        ("#ff0000", "wrong"),
    ];
    for (at, (colour, what)) in (0..).zip(legend) {
        let x = 700 + at * 130;
        let _ = writeln!(
            svg,
            "<circle cx=\"{x}\" cy=\"18\" r=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"22\">{what}</text>",
            x + 8
        );
    }
}

struct Band<'a> {
    kind: &'a str,
    what: String,
    from: Nanos,
    to: Nanos,
    bit: bool,
}

fn faults(entries: &[Entry], end: Nanos) -> Vec<Band<'_>> {
    let mut bands: BTreeMap<u32, Band<'_>> = BTreeMap::new();
    for entry in entries {
        match &entry.event {
            Event::Fault { fault, kind, what, victims } => {
                let what = format!("{kind}: {what}; members {victims:?}");
                bands.insert(*fault, Band { kind, what, from: entry.at, to: end, bit: false });
            }
            Event::Healed { fault, seen, .. } => {
                if let Some(band) = bands.get_mut(fault) {
                    band.to = entry.at;
                    band.bit = seen.values().any(|count| *count > 0);
                    let _ = write!(band.what, "; {seen:?}");
                }
            }
            _ => {}
        }
    }
    bands.into_values().collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_rises_and_stays_in_the_picture() {
        let heights: Vec<u64> = [0, 1_000, 1_500, 2_000, 50_000, 4_000_000, u64::MAX / 64].map(Scale::y).to_vec();
        assert!(heights.is_sorted_by(|a, b| a >= b), "{heights:?}");
        assert!(heights.iter().all(|y| (TOP..=TOP + HEIGHT).contains(y)), "{heights:?}");
        let scale = Scale { end: 100 };
        assert_eq!((scale.x(0), scale.x(100), scale.x(900)), (LEFT, WIDTH - 20, WIDTH - 20));
    }

    #[test]
    fn nothing_of_a_history_becomes_markup() {
        assert_eq!(escape("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
    }
}
