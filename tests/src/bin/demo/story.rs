//! How the story is told: one line per fact, with what it happened to, and where the nodes' audit logs say the same.

use quorate_tests::Cluster;
use quorate_tests::audit::{Line, Sought};
use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::{Duration, Instant};

/// How long a node may take to record what it applied: one that was stopped has to catch up first.
const RECORDED: Duration = Duration::from_secs(10);

/// Tells, and remembers what it has told.
pub(crate) struct Story {
    began: Instant,
    colour: bool,
    /// What was shown, to be found again at the end.
    shown: Vec<Sought>,
}

impl Story {
    pub(crate) fn new() -> Self {
        let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { began: Instant::now(), colour, shown: Vec::new() }
    }

    /// An act begins.
    pub(crate) fn act(&self, number: u8, title: &str) -> anyhow::Result<()> {
        self.line(&format!("\n{}", self.paint("1", &format!("{number}  {title}"))))
    }

    /// A fact.
    pub(crate) fn fact(&self, text: &str) -> anyhow::Result<()> {
        let at = format!("{:6.2} s", self.began.elapsed().as_secs_f64());
        self.line(&format!("   {}  {text}", self.paint("2", &at)))
    }

    /// A fact that at least `members` nodes have in their audit logs: where it stands there is shown with it. Returns
    /// the records.
    pub(crate) async fn recorded(
        &mut self,
        cluster: &Cluster,
        text: &str,
        sought: Sought,
        members: usize,
    ) -> anyhow::Result<Vec<Line>> {
        let lines = cluster.wait_audit_lines(&sought, members, RECORDED).await?;
        self.fact(text)?;
        self.places(&format!("{sought}: "), &lines)?;
        if !self.shown.contains(&sought) {
            self.shown.push(sought);
        }
        Ok(lines)
    }

    /// Where records stand: the first of each log.
    pub(crate) fn places(&self, what: &str, lines: &[Line]) -> anyhow::Result<()> {
        let mut first: Vec<&Line> = Vec::new();
        for line in lines {
            if first.last().is_none_or(|last| last.member != line.member) {
                first.push(line);
            }
        }
        let place = |l: &&Line| format!("{} seq {}", l.member, l.record.seq);
        let places = first.iter().map(place).collect::<Vec<_>>().join(" · ");
        self.line(&format!("             {}", self.paint("36", &format!("{what}audit {places}"))))
    }

    /// The good end.
    pub(crate) fn end(&self, text: &str) -> anyhow::Result<()> {
        self.line(&format!("\n{}", self.paint("1;32", text)))
    }

    /// What was shown so far.
    pub(crate) fn shown(&self) -> &[Sought] {
        &self.shown
    }

    /// Since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, text: &str) -> anyhow::Result<()> {
        let mut out = stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }
}
