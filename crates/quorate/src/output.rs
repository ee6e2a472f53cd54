//! Standard output: one document with `--output json`, tables and sentences otherwise. Progress goes to standard error.

use anyhow::Context as _;
use comfy_table::Table;
use serde_json::Value;
use std::io::Write as _;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON document; its keys are stable.
    Json,
}

impl Format {
    /// Prints a result: `document` for programs, `text` for people.
    pub(crate) fn show(self, document: &Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let mut out = match self {
            Self::Json => serde_json::to_string_pretty(document)?,
            Self::Table => text(),
        };
        if !out.ends_with('\n') {
            out.push('\n');
        }
        raw(out.as_bytes())
    }
}

/// Writes bytes to standard output as they are.
pub(crate) fn raw(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// What is known by the member that leads only, when that did not answer.
pub(crate) const UNEXPLAINED: &str = "not known: no member that leads has said so to you";

/// Words of a target or a member, which may have been chosen to be obeyed by a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A line about the progress of long work.
pub(crate) fn progress(line: impl std::fmt::Display) {
    // Nobody may be reading it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A table with a header, without lines around it.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}
