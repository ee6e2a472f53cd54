//! The report: every block as it was, medians of them, ratios of blocks of the same round.

use crate::load::{Arrival, Outcome};
use crate::side::Facts;
use crate::stats::{Estimate, digits};
use crate::work::Work;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One side under one load once.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Block {
    pub(crate) work: Work,
    pub(crate) arrival: Arrival,
    pub(crate) round: usize,
    pub(crate) side: &'static str,
    pub(crate) outcome: Outcome,
}

/// What was counted, in a block of its own: counting touches every system call a little.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Counted {
    pub(crate) work: Work,
    pub(crate) arrival: Arrival,
    pub(crate) side: &'static str,
    pub(crate) operations: u64,
    pub(crate) syncs_per_operation: f64,
    pub(crate) audit_bytes_per_operation: f64,
    pub(crate) written_bytes_per_operation: f64,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) command: String,
    pub(crate) seed: u64,
    pub(crate) machine: BTreeMap<&'static str, String>,
    /// What was not as it should be for figures to be shown.
    pub(crate) doubts: Vec<String>,
    pub(crate) sides: BTreeMap<&'static str, Facts>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) counted: Vec<Counted>,
    pub(crate) cells: Vec<Cell>,
}

/// All rounds of one load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    pub(crate) work: Work,
    pub(crate) arrival: Arrival,
    pub(crate) sides: Vec<Row>,
    pub(crate) ratios: Vec<Ratio>,
}

/// One side of a cell: medians of its rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) side: &'static str,
    pub(crate) per_second: Option<Estimate>,
    pub(crate) server_cpu: Option<Estimate>,
    pub(crate) client_cpu: Option<Estimate>,
    pub(crate) p50: Option<Estimate>,
    pub(crate) p99: Option<Estimate>,
    pub(crate) failures: u64,
}

/// The first side divided by another, in each round, then the median.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ratio {
    pub(crate) side: &'static str,
    pub(crate) to: &'static str,
    pub(crate) per_second: Option<Estimate>,
    pub(crate) server_cpu: Option<Estimate>,
    pub(crate) p50: Option<Estimate>,
    pub(crate) p99: Option<Estimate>,
}

/// The most that anything else may have of the machine, on average over a run, before a doubt is said.
const OTHERS: f64 = 0.10;
/// The most that the generator may have of the machine.
const CLIENT: f64 = 0.40;

/// Takes the blocks of each load together.
pub(crate) fn cells(blocks: &[Block]) -> Vec<Cell> {
    let mut cells: Vec<(Work, Arrival, Vec<&Block>)> = Vec::new();
    for block in blocks {
        match cells.iter_mut().find(|(work, arrival, _)| *work == block.work && *arrival == block.arrival) {
            Some((_, _, blocks)) => blocks.push(block),
            None => cells.push((block.work, block.arrival, vec![block])),
        }
    }
    cells.into_iter().map(|(work, arrival, blocks)| cell(work, arrival, &blocks)).collect()
}

fn cell(work: Work, arrival: Arrival, blocks: &[&Block]) -> Cell {
    let mut names: Vec<&'static str> = Vec::new();
    // Sides ran in a random order, and are shown in one.
    for block in blocks {
        if !names.contains(&block.side) {
            names.push(block.side);
        }
    }
    names.sort_by_key(|name| (*name != "quorate", *name));
    let of = |side: &str, what: fn(&Outcome) -> f64| {
        let rounds: BTreeMap<usize, f64> =
            blocks.iter().filter(|b| b.side == side).map(|b| (b.round, what(&b.outcome))).collect();
        rounds
    };
    let estimate = |side: &str, what: fn(&Outcome) -> f64| Estimate::of(of(side, what).into_values());
    let sides = names.iter().map(|&side| Row {
        side,
        per_second: estimate(side, |o| o.per_second),
        server_cpu: estimate(side, |o| o.server_cpu),
        client_cpu: estimate(side, |o| o.client_cpu),
        p50: estimate(side, |o| o.p50),
        p99: estimate(side, |o| o.p99),
        failures: blocks.iter().filter(|b| b.side == side).map(|b| b.outcome.failures).sum(),
    });
    let sides = sides.collect();
    let ratio = |a: &'static str, b: &'static str, what: fn(&Outcome) -> f64| {
        let (ours, theirs) = (of(a, what), of(b, what));
        Estimate::of(ours.iter().filter_map(|(round, ours)| Some(ours / theirs.get(round)?)))
    };
    let (first, others) = names.split_first().map_or(("", &[][..]), |(first, others)| (*first, others));
    let ratios = others.iter().map(|&to| Ratio {
        side: first,
        to,
        per_second: ratio(first, to, |o| o.per_second),
        server_cpu: ratio(first, to, |o| o.server_cpu),
        p50: ratio(first, to, |o| o.p50),
        p99: ratio(first, to, |o| o.p99),
    });
    Cell { work, arrival, sides, ratios: ratios.collect() }
}

/// What speaks against the figures: said, not left out.
pub(crate) fn doubts(blocks: &[Block]) -> Vec<String> {
    let mut doubts = Vec::new();
    let count = crate::machine::float(u64::try_from(blocks.len()).unwrap_or(1)).max(1.0);
    let others = blocks.iter().map(|b| b.outcome.spent.others_share).sum::<f64>() / count;
    if others > OTHERS {
        doubts.push(format!("other processes had {:.0} % of the machine on average", others * 100.0));
    }
    let processors =
        crate::machine::float(std::thread::available_parallelism().map_or(1, |n| n.get().try_into().unwrap_or(1)));
    let hungry = blocks.iter().filter(|b| b.outcome.spent.client / 1e6 / b.outcome.seconds / processors > CLIENT);
    let hungry = hungry.count();
    if hungry > 0 {
        doubts.push(format!(
            "in {hungry} of {count} blocks the generator had more than {:.0} % of the machine",
            CLIENT * 100.0
        ));
    }
    let failed: Vec<&Block> = blocks.iter().filter(|b| b.outcome.failures > 0).collect();
    if let Some(first) = failed.first() {
        let why = first.outcome.failure.as_deref().unwrap_or("?");
        doubts.push(format!(
            "requests failed in {} blocks; the first: {}, {}: {why}",
            failed.len(),
            first.side,
            first.work
        ));
    }
    let spilled = blocks.iter().filter(|b| b.outcome.requests == 0).count();
    if spilled > 0 {
        doubts.push(format!("in {spilled} blocks no request ended"));
    }
    doubts
}

impl Report {
    /// For people: Markdown, with links to the pictures beside it.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from("# Figures\n\n");
        // Writing into a String cannot fail.
        let _ = writeln!(out, "`{}`, seed {}\n", self.command, self.seed);
        for (what, value) in &self.machine {
            let _ = writeln!(out, "- {what}: {value}");
        }
        for doubt in &self.doubts {
            let _ = writeln!(out, "- **doubt**: {doubt}");
        }
        out.push_str(
            "\n## Who is compared\n\n| side | what | processes | connection | caller | durable | audit | database |\n",
        );
        out.push_str("|---|---|---|---|---|---|---|---|\n");
        for (side, f) in &self.sides {
            let _ = writeln!(
                out,
                "| {side} | {} | {} | {} | {} | {} | {} | {} |",
                f.what, f.processes, f.connection, f.caller, f.durability, f.audit, f.database
            );
        }
        out.push_str(
            "\nMedians of the rounds, with the lowest and highest value of an interval in brackets. Operations count secrets, \
             latencies requests. A ratio is the median of the ratios of blocks of the same round.\n",
        );
        for cell in &self.cells {
            self.section(&mut out, cell);
        }
        out
    }

    fn section(&self, out: &mut String, cell: &Cell) {
        let _ = write!(out, "\n## {}, {}\n\n![{0}, {1}]({})\n\n", cell.work, cell.arrival, picture_name(cell));
        out.push_str("| side | per second | server CPU µs | client CPU µs | p50 ms | p99 ms | failed | fsyncs | audit B | written B |\n");
        out.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
        let show = |e: &Option<Estimate>| e.map_or("-".to_owned(), |e| e.show());
        for row in &cell.sides {
            let counted =
                self.counted.iter().find(|c| c.side == row.side && c.work == cell.work && c.arrival == cell.arrival);
            let count = |what: fn(&Counted) -> f64| counted.map_or("-".to_owned(), |c| digits(what(c)));
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.side,
                show(&row.per_second),
                show(&row.server_cpu),
                show(&row.client_cpu),
                show(&row.p50),
                show(&row.p99),
                row.failures,
                count(|c| c.syncs_per_operation),
                count(|c| c.audit_bytes_per_operation),
                count(|c| c.written_bytes_per_operation),
            );
        }
        if cell.ratios.is_empty() {
            return;
        }
        out.push_str(
            "\n| ratio | per second | server CPU | p50 | p99 | interval covers |\n|---|---|---|---|---|---|\n",
        );
        for r in &cell.ratios {
            let covers = r.per_second.map_or("-".to_owned(), |e| format!("{:.1} %", e.coverage * 100.0));
            let _ = writeln!(
                out,
                "| {} / {} | {} | {} | {} | {} | {covers} |",
                r.side,
                r.to,
                show(&r.per_second),
                show(&r.server_cpu),
                show(&r.p50),
                show(&r.p99),
            );
        }
    }
}

/// The file of a cell's picture.
pub(crate) fn picture_name(cell: &Cell) -> String {
    let name = format!("{}, {}.svg", cell.work, cell.arrival);
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Spent;
    use crate::work::Operation;

    fn block(side: &'static str, round: usize, per_second: f64) -> Block {
        let spent = Spent { servers: 1.0, client: 1.0, others_share: 0.0, busy_share: 0.5, stolen_share: 0.0 };
        let outcome = Outcome {
            seconds: 1.0,
            requests: 10,
            failures: 0,
            failure: None,
            per_second,
            server_cpu: 100.0,
            client_cpu: 10.0,
            p50: 1.0,
            p90: 1.0,
            p99: 2.0,
            p999: None,
            max: 3.0,
            spent,
        };
        let work = Work { operation: Operation::Open, size: 1024, batch: 1 };
        Block { work, arrival: Arrival::Closed { clients: 8 }, round, side, outcome }
    }

    /// The machine was ten times slower in the second round, for both: the ratio does not see it. Without its partner a block
    /// has no ratio.
    #[test]
    fn a_ratio_pairs_blocks_of_a_round() {
        let blocks = [
            block("openbao-1", 0, 100.0),
            block("quorate", 0, 300.0),
            block("quorate", 1, 30.0),
            block("openbao-1", 1, 10.0),
            block("quorate", 2, 7_777.0),
        ];
        let cells = cells(&blocks);
        assert_eq!(cells.len(), 1);
        assert_eq!(cells[0].sides[0].side, "quorate", "ours is first, in whatever order they ran");
        let ratio = cells[0].ratios[0].per_second.unwrap();
        assert_eq!((ratio.low, ratio.median, ratio.high), (3.0, 3.0, 3.0));
    }

    #[test]
    fn what_speaks_against_the_figures_is_said() {
        assert!(doubts(&[block("quorate", 0, 1.0)]).is_empty());
        let mut disturbed = block("quorate", 0, 1.0);
        disturbed.outcome.spent.others_share = 0.3;
        disturbed.outcome.failures = 2;
        disturbed.outcome.failure = Some("denied".to_owned());
        let said = doubts(&[disturbed]).join("\n");
        assert!(said.contains("30 %") && said.contains("denied"), "{said}");
    }

    #[test]
    fn a_report_has_a_section_and_a_picture_for_each_load() {
        let blocks = [block("quorate", 0, 300.0), block("openbao-1", 0, 100.0)];
        let report = Report {
            command: "quorate-bench run".to_owned(),
            seed: 1,
            machine: BTreeMap::new(),
            doubts: Vec::new(),
            sides: BTreeMap::new(),
            blocks: blocks.to_vec(),
            counted: Vec::new(),
            cells: cells(&blocks),
        };
        let text = report.markdown();
        assert!(text.contains("## open 1 KiB, 8 clients") && text.contains("open-1-kib--8-clients.svg"), "{text}");
        assert!(text.contains("| quorate / openbao-1 | 3.00 [3.00 to 3.00] |"), "{text}");
        let picture = crate::picture::draw(&report.cells[0]);
        assert!(picture.matches("<rect").count() == 1 + 3 * 2 && picture.ends_with("</svg>\n"), "{picture}");
    }
}
