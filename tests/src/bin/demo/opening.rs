//! Acts 1 to 4: who it takes to open a secret.

use crate::{Break, Demo, THRESHOLD};
use anyhow::Context as _;
use quorate_api::client::Opened;
use quorate_api::status::{CUSTODIAN_FROZEN, Failure, NOT_ENOUGH_MEMBERS};
use quorate_audit::{Decision, Kind, Record};
use quorate_state::ids::{MemberIndex, hex};
use quorate_tests::audit::{Line, Sought, records};
use std::path::Path;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "default";
const PATH: &str = "vault/demo/api-token";
/// How long an opening may take that is expected to fail for want of nodes.
const SHORT: Duration = Duration::from_secs(3);
/// How long an opening may take right after the leader has stopped.
const RIGHT_AWAY: Duration = Duration::from_secs(5);
/// How long an election and catching up may take.
const SETTLE: Duration = Duration::from_secs(20);

impl Demo {
    /// Act 1.
    pub(crate) async fn sealed_and_opened(&mut self) -> anyhow::Result<()> {
        self.story.act(1, "A secret that only the caller sees: two nodes and the customer's custodian open it")?;
        let value = format!("token-{}", hex(&random()?));
        let put = self.app.put(NAMESPACE, PATH, value.as_bytes(), None).await?;
        let text =
            format!("sealed in this process and stored: {PATH}, version {}, log index {}", put.number, put.index);
        self.story.recorded(&self.cluster, &text, Sought::Index(put.index), THRESHOLD).await?;

        let (opened, lines) = self.open().await?;
        anyhow::ensure!(
            opened.plaintext.expose() == value.as_bytes(),
            "expected what was sealed, but another value was opened"
        );
        let members = givers(&lines);
        let text = format!("opened: {} bytes, by parts of {} and the custodian", value.len(), members.join(" and "));
        self.tell_opening(&text, &lines).await?;

        let files = files_with(Path::new(self.cluster.text("/folder")?), &value)?;
        anyhow::ensure!(files.0.is_empty(), "expected the value in no file, but it is in {:?}", files.0);
        self.story
            .fact(&format!("in none of the {} files of nodes, custodian and operator does the value stand", files.1))
    }

    /// Act 2.
    pub(crate) async fn custodian_frozen(&mut self) -> anyhow::Result<()> {
        self.story.act(2, "The customer freezes its custodian: all nodes together open nothing")?;
        let warden = self.cluster.warden()?;
        if self.broken != Break::Custodian {
            let status = warden.freeze("the demo").await?;
            anyhow::ensure!(status.frozen, "expected the custodian to be frozen, but it is not");
            self.story.fact("the customer has frozen the custodian")?;
        }
        let before = self.custodian_records()?.len();
        let refused = refused(self.app.get(NAMESPACE, PATH, None).await, CUSTODIAN_FROZEN)?;
        let record = self
            .custodian_records()?
            .into_iter()
            .skip(before)
            .find(is_derivation)
            .context("no record of the custodian's")?;
        anyhow::ensure!(
            record.decision == Some(Decision::Deny) && record.reason.as_deref() == Some(CUSTODIAN_FROZEN),
            "expected the custodian to record a denial, but it recorded {:?}",
            record.decision
        );
        self.story.recorded(&self.cluster, &refused, Sought::Request(record.id), THRESHOLD).await?;

        anyhow::ensure!(!warden.thaw().await?.frozen, "expected the custodian to be thawed, but it is frozen");
        let (_, lines) = self.open().await?;
        self.tell_opening(&format!("thawed, and opened again, by parts of {}", givers(&lines).join(" and ")), &lines)
            .await
    }

    /// Act 3.
    pub(crate) async fn one_node(&mut self) -> anyhow::Result<()> {
        self.story.act(3, "One node alone opens nothing")?;
        let stopped: &[MemberIndex] = if self.broken == Break::OneNode { &[2] } else { &[2, 3] };
        for member in stopped {
            self.cluster.node(*member)?.stop()?;
            self.story.fact(&format!("{} is stopped (SIGSTOP)", self.cluster.name(*member)))?;
        }
        let client = self.cluster.client("demo")?.with_timeout(SHORT);
        let result = client.get(NAMESPACE, PATH, None).await;
        for member in stopped {
            self.cluster.node(*member)?.cont()?;
        }
        self.story.fact(&refused(result, NOT_ENOUGH_MEMBERS)?)?;
        let leader = self.cluster.wait_leader(SETTLE).await?;
        let (_, lines) = self.open().await?;
        let text = format!("all three go on (SIGCONT), {} leads, and it opens again", self.cluster.name(leader));
        self.tell_opening(&text, &lines).await
    }

    /// Act 4.
    pub(crate) async fn leader_stopped(&mut self) -> anyhow::Result<()> {
        self.story.act(4, "The leader stops: the two others open at once, without waiting for an election")?;
        let leader = self.cluster.wait_leader(SETTLE).await?;
        let name = self.cluster.name(leader).to_owned();
        self.cluster.node(leader)?.stop()?;
        self.story.fact(&format!("{name} leads, and is stopped (SIGSTOP)"))?;
        let began = Instant::now();
        let (_, lines) = self.open().await?;
        let took = began.elapsed();
        let members = givers(&lines);
        self.cluster.node(leader)?.cont()?;
        anyhow::ensure!(took <= RIGHT_AWAY, "expected the secret right away, but it took {took:?}");
        anyhow::ensure!(!members.contains(&name.as_str()), "expected parts of the others, but {name} gave one");
        let text = format!("opened in {} ms, by parts of {}", took.as_millis(), members.join(" and "));
        self.tell_opening(&text, &lines).await?;
        let leader = self.cluster.wait_leader(SETTLE).await?;
        self.story.fact(&format!("{name} goes on (SIGCONT); the leader is {}", self.cluster.name(leader)))
    }

    /// Opens, and returns with it the records of that request: its id stands in the custodian's log.
    async fn open(&self) -> anyhow::Result<(Opened, Vec<Line>)> {
        let before = self.custodian_records()?.len();
        let opened = self.app.get(NAMESPACE, PATH, None).await?;
        let record = self
            .custodian_records()?
            .into_iter()
            .skip(before)
            .find(is_derivation)
            .context("no record of the custodian's")?;
        anyhow::ensure!(
            record.decision == Some(Decision::Allow)
                && record.details.get("version") == Some(&opened.version.to_string()),
            "expected the custodian to have recorded this opening, but it recorded another"
        );
        // A record is durable before the part that it describes leaves: nothing to wait for.
        let lines = self.cluster.audit_lines(&Sought::Request(record.id))?;
        let members = givers(&lines);
        anyhow::ensure!(
            members.len() >= THRESHOLD,
            "expected the parts of {THRESHOLD} nodes, but {members:?} recorded one"
        );
        Ok((opened, lines))
    }

    async fn tell_opening(&mut self, text: &str, lines: &[Line]) -> anyhow::Result<()> {
        let id = lines.first().context("no records")?.record.id.clone();
        self.story.recorded(&self.cluster, text, Sought::Request(id), THRESHOLD).await.map(drop)
    }

    fn custodian_records(&self) -> anyhow::Result<Vec<Record>> {
        records(Path::new(self.cluster.text("/custodian/audit_dir")?))
    }
}

fn is_derivation(record: &Record) -> bool {
    record.operation == "custodian.derive" && record.resource == format!("secret {NAMESPACE}:{PATH}")
}

/// The nodes that allowed an opening, as they recorded before they gave their part.
fn givers(lines: &[Line]) -> Vec<&str> {
    let gave = |l: &&Line| {
        l.member != "custodian" && l.record.kind == Kind::Decision && l.record.decision == Some(Decision::Allow)
    };
    lines.iter().filter(gave).map(|l| l.member.as_str()).collect()
}

/// The refusal that must come, in words.
fn refused(result: Result<Opened, Failure>, code: &str) -> anyhow::Result<String> {
    match result {
        Err(failure) if failure.code == code => Ok(format!("refused: {code}")),
        Err(failure) => anyhow::bail!("expected refusal {code}, but it was {}: {}", failure.code, failure.message),
        Ok(opened) => anyhow::bail!("expected refusal {code}, but version {} was opened", opened.number),
    }
}

/// The files below a folder in which a text stands, and how many were searched.
fn files_with(folder: &Path, text: &str) -> anyhow::Result<(Vec<String>, usize)> {
    let (mut found, mut searched, mut folders) = (Vec::new(), 0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                // A store's file may go between the look and the reading.
                let Ok(bytes) = std::fs::read(&path) else { continue };
                searched += 1;
                if String::from_utf8_lossy(&bytes).contains(text) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    Ok((found, searched))
}

fn random() -> anyhow::Result<[u8; 16]> {
    let mut out = [0; 16];
    getrandom::fill(&mut out)?;
    Ok(out)
}
