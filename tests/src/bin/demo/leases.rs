//! Acts 5 and 6: a lease ends at the database, whoever fails meanwhile.

use crate::{Break, Demo, THRESHOLD};
use anyhow::Context as _;
use futures::future::try_join_all;
use quorate_api::client::Credential;
use quorate_api::vault::Lease;
use quorate_tests::audit::Sought;
use quorate_tests::database::{login_with, seen};
use quorate_tests::now;
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;

const ROLE: &str = "reader";
/// How long a session may live on after its lease was revoked.
const ENDED: Duration = Duration::from_secs(7);
/// How late a lease may be gone from the database, milliseconds; it must not be gone early, but for what clocks differ.
const OVERRUN: i64 = 7_000;
const EARLY: i64 = -500;
/// The short leases, milliseconds.
const SHORT: [u64; 6] = [4_000, 4_000, 4_500, 5_000, 5_500, 6_000];
/// How long an election and catching up may take.
const SETTLE: Duration = Duration::from_secs(20);

impl Demo {
    /// Act 5.
    pub(crate) async fn lease_revoked(&mut self) -> anyhow::Result<()> {
        self.story.act(5, "A database login on lease: revoked, it ends in the middle of a transaction")?;
        let credential = self.app.issue_lease(ROLE, None).await?;
        let lease = self.app.lease(credential.lease).await?;
        anyhow::ensure!(lease.state == "active", "expected an active lease, but it is {}", lease.state);
        let text =
            format!("lease of {ROLE}: intent at log index {}, active at {}", lease.intent_index, lease.active_index);
        self.story.recorded(&self.cluster, &text, Sought::Lease(credential.lease), THRESHOLD).await?;
        self.story
            .recorded(
                &self.cluster,
                "its intent, before its login was made",
                Sought::Index(lease.intent_index),
                THRESHOLD,
            )
            .await?;

        let session = login_with(&credential).await.context("logging in with the lease")?;
        session.batch_execute("BEGIN").await?;
        let row = session.query_one("SELECT note, pg_backend_pid() FROM demo WHERE id = 1", &[]).await?;
        let (note, backend): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
        let at_postgres = seen(&self.superuser, &credential.username).await?;
        anyhow::ensure!(at_postgres == (true, 1), "expected one session, but PostgreSQL has {at_postgres:?}");
        self.story.fact(&format!(
            "logged in as {}: backend {backend}, in a transaction, has read \"{note}\"",
            credential.username
        ))?;

        let statement = tokio::spawn(async move { session.batch_execute("SELECT pg_sleep(60)").await });
        let began = Instant::now();
        if self.broken != Break::Revoke {
            let index = self.app.revoke(credential.lease).await?;
            let text = format!("revoked: from log index {index} on no node honours it");
            self.story.recorded(&self.cluster, &text, Sought::Index(index), THRESHOLD).await?;
        }
        let Ok(ended) = tokio::time::timeout(ENDED, statement).await else {
            anyhow::bail!("expected refusal of the session within {ENDED:?}, but it is still in its transaction");
        };
        let Err(error) = ended? else {
            anyhow::bail!("expected refusal of the session, but its statement went through")
        };
        let said = error.as_db_error().with_context(|| format!("expected PostgreSQL's word, but it was: {error}"))?;
        anyhow::ensure!(
            *said.code() == SqlState::ADMIN_SHUTDOWN,
            "expected the session to be terminated, but PostgreSQL said {}: {}",
            said.code().code(),
            said.message()
        );
        let took = began.elapsed().as_millis();
        self.story.fact(&format!(
            "after {took} ms its transaction got {} {}: {}",
            said.severity(),
            said.code().code(),
            said.message()
        ))?;

        let lease = self.app.wait_revoked(credential.lease, ENDED).await?;
        let text = format!(
            "no login and no session of it at {}, in two looks, the last at cluster time {}: Revoked at log index {}",
            lease.proof_endpoint, lease.proof_looked_at, lease.revoked_index
        );
        let (revoking, revoked) = (lease.revoking_index, lease.revoked_index);
        anyhow::ensure!(
            0 < revoking && revoking < revoked,
            "expected Revoked after Revoking, but: {revoking}, {revoked}"
        );
        self.story.recorded(&self.cluster, &text, Sought::Index(lease.revoked_index), THRESHOLD).await?;
        self.story.fact(&refused_login(&credential).await?)
    }

    /// Act 6.
    pub(crate) async fn leases_expire(&mut self) -> anyhow::Result<()> {
        self.story.act(6, "Short leases, and the leader is killed: PostgreSQL itself is asked when they are gone")?;
        let leader = self.cluster.wait_leader(SETTLE).await?;
        let name = self.cluster.name(leader).to_owned();
        let mut running = try_join_all(SHORT.map(|ttl| self.short_lease(ttl))).await?;
        let node = self.cluster.node(leader)?;
        let dead = node.pid();
        node.kill().await?;
        self.story.fact(&format!(
            "{} leases run, each with a session; {name} leads, and is killed (SIGKILL, pid {dead})",
            running.len()
        ))?;

        self.wait_gone(&mut running).await?;
        let mut worst = i64::MIN;
        for lease in &running {
            let Credential { lease: id, expires_at, .. } = &lease.credential;
            let Lease { why, revoked_index, .. } = self.app.wait_revoked(*id, SETTLE).await?;
            anyhow::ensure!(why == "expired", "expected that it expired, but it is {why}");
            let over = lease.gone.context("not gone")?.cast_signed() - expires_at.cast_signed();
            worst = worst.max(over);
            anyhow::ensure!(
                over >= EARLY,
                "expected lease {id} to run its {} ms, but it was gone {} ms early",
                lease.ttl,
                -over
            );
            let text = format!(
                "lease of {} ms: gone {over:+} ms after its end; Revoked at log index {revoked_index}",
                lease.ttl
            );
            self.story.recorded(&self.cluster, &text, Sought::Lease(*id), THRESHOLD).await?;
        }
        anyhow::ensure!(
            worst <= OVERRUN,
            "expected all gone within {OVERRUN} ms of their ends, but one took {worst} ms"
        );
        let leader_now = self.cluster.wait_leader(SETTLE).await?;
        self.story.fact(&format!(
            "worst overrun {worst} ms of the {OVERRUN} allowed; {} leads now",
            self.cluster.name(leader_now)
        ))?;

        let target = self.cluster.status(leader_now).await?.context("the leader does not say how it is")?.applied;
        let node = self.cluster.node(leader)?;
        node.restart(&[])?;
        let began = Instant::now();
        let applied = self.cluster.wait_applied(leader, target, SETTLE).await?;
        let took = began.elapsed().as_millis();
        self.story.fact(&format!(
            "{name} started again as pid {}, and caught up to log index {applied} in {took} ms, asking nobody",
            node.pid()
        ))
    }

    /// A lease with a session: its end is to be enforced, not only noted.
    async fn short_lease(&self, ttl: u64) -> anyhow::Result<Running> {
        let credential = self.app.issue_lease(ROLE, Some(ttl)).await?;
        let session = login_with(&credential).await.context("logging in with a lease")?;
        let at_postgres = seen(&self.superuser, &credential.username).await?;
        anyhow::ensure!(at_postgres == (true, 1), "expected one session, but PostgreSQL has {at_postgres:?}");
        Ok(Running { credential, ttl, _session: session, gone: None })
    }

    /// Looks until each is gone: PostgreSQL refuses the login, and has no session of it.
    async fn wait_gone(&self, running: &mut [Running]) -> anyhow::Result<()> {
        let last = running.iter().map(|l| l.credential.expires_at).max().unwrap_or(0);
        let deadline = last.saturating_add(OVERRUN.unsigned_abs());
        loop {
            for lease in running.iter_mut().filter(|l| l.gone.is_none()) {
                if seen(&self.superuser, &lease.credential.username).await? == (false, 0) {
                    lease.gone = Some(now());
                }
            }
            let Some(left) = running.iter().find(|l| l.gone.is_none()) else { return Ok(()) };
            let id = left.credential.lease;
            anyhow::ensure!(now() < deadline, "expected lease {id} to be gone from PostgreSQL, but it is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

struct Running {
    credential: Credential,
    ttl: u64,
    _session: tokio_postgres::Client,
    gone: Option<u64>,
}

async fn refused_login(credential: &Credential) -> anyhow::Result<String> {
    let Err(error) = login_with(credential).await else {
        anyhow::bail!("expected refusal of a new login, but PostgreSQL let {} in", credential.username);
    };
    let said = error.as_db_error().with_context(|| format!("expected PostgreSQL's refusal, but it was: {error}"))?;
    let refusals = [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
    anyhow::ensure!(refusals.contains(said.code()), "expected refusal of a new login, but it was: {error}");
    Ok(format!("a new login is refused by PostgreSQL: {} {}: {}", said.severity(), said.code().code(), said.message()))
}
