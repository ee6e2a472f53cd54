//! A program on a terminal of its own, and somebody who types.

use crate::Cluster;
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// What is typed, and when.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Once this has been shown.
    pub wait: &'a str,
    /// And, for a password, once the terminal has ceased to show what is typed.
    pub hidden: bool,
    /// This.
    pub typed: &'a str,
}

/// How a program on a terminal has ended.
#[derive(Debug)]
pub struct Dialogue {
    /// All that the terminal has shown.
    pub shown: String,
    /// The exit status; below zero the signal that ended it.
    pub status: i64,
    /// Whether the terminal shows what is typed, as before.
    pub echoes: bool,
}

impl Cluster {
    /// Runs `quorate` as that caller on a terminal, and answers what it asks.
    ///
    /// # Errors
    /// When it can't be run, does not ask for what is to be answered, or does not end.
    pub fn dialogue(&self, identity: &str, arguments: &[&str], answers: &[Answer<'_>]) -> anyhow::Result<Dialogue> {
        let command = self.command(identity, arguments)?;
        let mut program = vec![command.get_program().to_string_lossy()];
        program.extend(command.get_args().map(|argument| argument.to_string_lossy()));
        let answers: Vec<Value> =
            answers.iter().map(|a| json!({ "wait": a.wait, "hidden": a.hidden, "type": a.typed })).collect();
        let mut python = Command::new("python3");
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/terminal.py"));
        python.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = python.spawn().context("python3, which deploy/build/setup installs")?;
        let mut stdin = child.stdin.take().context("its standard input")?;
        stdin.write_all(json!({ "program": program, "answers": answers }).to_string().as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout)?;
        Ok(Dialogue {
            shown: said.get("shown").and_then(Value::as_str).context("what was shown")?.to_owned(),
            status: said.get("status").and_then(Value::as_i64).context("how it ended")?,
            echoes: said.get("echoes").and_then(Value::as_bool).context("whether it echoes")?,
        })
    }
}
