//! Leases as their users have them: a login is issued, used, renewed, ended. Whether it works is found out at the database itself.

use super::answer;
use crate::history::{Action, Answer, Event, Recorder};
use crate::lab::database::ROLES;
use crate::lab::{Lab, now};
use crate::random::Random;
use quorate_api::client::{Client, Credential};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Config, NoTls};

/// How long one operation may take, retries included.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long a login may take, or a query of a session.
const LOGIN: Duration = Duration::from_secs(3);
/// How long before its end a lease is tried once more.
const BEFORE: Duration = Duration::from_millis(1_500);
/// How long the end of a lease may take to be seen.
const ENDED: Duration = Duration::from_secs(30);

/// One user, until it is over.
pub(crate) async fn work(
    lab: Arc<Lab>,
    recorder: Recorder,
    over: Arc<AtomicBool>,
    number: u32,
    seed: u64,
) -> anyhow::Result<()> {
    let client = lab.worker("chaos", PATIENCE)?;
    let mut random = Random::of(seed, "lease", u64::from(number));
    let user = User { client, recorder, number };
    while !over.load(Ordering::Relaxed) {
        let role = random.pick(&ROLES).copied().unwrap_or_default();
        // Short, so that many end; but not where each has to come about, however slow the machine.
        let ttl = if lab.patient { random.between(20_000, 35_000) } else { random.between(3_000, 9_000) };
        let Some(credential) = user.issue(role, ttl).await else {
            sleep(Duration::from_millis(random.between(100, 500))).await;
            continue;
        };
        let lease = credential.lease.to_string();
        let session = user.login(&credential, &lease).await;
        for _ in 0..random.between(0, 3) {
            sleep(Duration::from_millis(random.between(200, 1_500))).await;
            user.renew(&credential, &lease, random.between(3_000, 8_000)).await;
        }
        if random.chance(50) {
            user.revoke(&credential, &lease).await;
            // Once more: the end is final, and nothing brings it back.
            if random.chance(50) {
                user.renew(&credential, &lease, 5_000).await;
            }
        } else {
            let left = || Duration::from_millis(credential.expires_at.saturating_sub(now()).min(12_000));
            // Not long before its end it still lets somebody in.
            if let Some(before) = left().checked_sub(BEFORE) {
                sleep(before).await;
                user.tries(&credential, &lease).await;
            }
            sleep(left()).await;
        }
        if user.gone(&credential, &lease).await {
            user.tries(&credential, &lease).await;
            if let Some(session) = session {
                user.uses(&session, &lease).await;
            }
        }
    }
    Ok(())
}

struct User {
    client: Client,
    recorder: Recorder,
    number: u32,
}

impl User {
    fn begins(&self, action: Action) -> u64 {
        let op = self.recorder.number();
        self.recorder.note(Event::Invoke { op, client: self.number, action });
        op
    }

    fn ends(&self, op: u64, answer: Answer) {
        self.recorder.note(Event::Return { op, answer });
    }

    async fn issue(&self, role: &str, ttl: u64) -> Option<Credential> {
        let op = self.begins(Action::Issue { role: role.to_owned(), ttl });
        match self.client.issue_lease(role, Some(ttl)).await {
            Ok(credential) => {
                let note = format!("{} {}", credential.lease, credential.username);
                self.ends(op, Answer::Done { index: 0, note });
                self.promised(&credential.lease.to_string(), credential.expires_at);
                Some(credential)
            }
            Err(failure) => {
                // That a login did not come about is no refusal by a rule: its lease is ended by the vault, and watched.
                let said = match answer(&failure, true) {
                    Answer::Refused { code } if code == "lease_failed" => {
                        Answer::Unknown { code: format!("{code}: {}", failure.message) }
                    }
                    said => said,
                };
                self.ends(op, said);
                None
            }
        }
    }

    async fn login(&self, credential: &Credential, lease: &str) -> Option<tokio_postgres::Client> {
        let op = self.begins(Action::Login { lease: lease.to_owned() });
        let (answer, session) = enter(credential).await;
        self.ends(op, answer);
        session
    }

    async fn tries(&self, credential: &Credential, lease: &str) {
        drop(self.login(credential, lease).await);
    }

    async fn uses(&self, session: &tokio_postgres::Client, lease: &str) {
        let op = self.begins(Action::Use { lease: lease.to_owned() });
        let answer = match timeout(LOGIN, session.simple_query("SELECT 1")).await {
            Ok(Ok(_)) => Answer::Done { index: 0, note: String::new() },
            // Whoever has ended it: it does nothing any more.
            Ok(Err(_)) => Answer::Refused { code: "closed".to_owned() },
            Err(_) => Answer::Unanswered { code: "deadline".to_owned() },
        };
        self.ends(op, answer);
    }

    async fn renew(&self, credential: &Credential, lease: &str, ttl: u64) {
        let op = self.begins(Action::Renew { lease: lease.to_owned(), ttl });
        let renewed = self.client.renew(credential.lease, ttl).await;
        let answer = match &renewed {
            Ok(until) => Answer::Done { index: 0, note: until.to_string() },
            Err(failure) => answer(failure, true),
        };
        self.ends(op, answer);
        if let Ok(until) = renewed {
            self.promised(lease, until);
        }
    }

    /// Notes until when a lease is to hold.
    fn promised(&self, lease: &str, until: u64) {
        self.recorder.note(Event::Promised { lease: lease.to_owned(), until });
    }

    async fn revoke(&self, credential: &Credential, lease: &str) {
        let op = self.begins(Action::Revoke { lease: lease.to_owned() });
        let answer = match self.client.revoke(credential.lease).await {
            Ok(index) => Answer::Done { index, note: String::new() },
            Err(failure) => answer(&failure, true),
        };
        self.ends(op, answer);
    }

    /// Waits until the vault says that the end was seen at the database; whether it has.
    async fn gone(&self, credential: &Credential, lease: &str) -> bool {
        let op = self.begins(Action::Gone { lease: lease.to_owned() });
        let answer = match self.client.wait_revoked(credential.lease, ENDED).await {
            Ok(seen) => Answer::Done { index: seen.revoked_index, note: String::new() },
            Err(failure) => answer(&failure, false),
        };
        let gone = matches!(answer, Answer::Done { .. });
        self.ends(op, answer);
        gone
    }
}

/// Logs in, from where clients are.
async fn enter(credential: &Credential) -> (Answer, Option<tokio_postgres::Client>) {
    let mut config = Config::new();
    config.host(&credential.host).port(credential.port).dbname(&credential.database);
    config.user(&credential.username);
    // PostgreSQL issues nothing: it has one.
    if let Some(password) = credential.password() {
        config.password(password.expose());
    }
    match timeout(LOGIN, config.connect(NoTls)).await {
        Ok(Ok((client, connection))) => {
            tokio::spawn(async move { drop(connection.await) });
            (Answer::Done { index: 0, note: String::new() }, Some(client))
        }
        // An answer of the server about this login; anything else is the network, or a server that is not up.
        Ok(Err(why)) => match why.code().map(|code| code.code().to_owned()) {
            Some(code) if code.starts_with("28") => (Answer::Refused { code }, None),
            code => (Answer::Unanswered { code: code.unwrap_or_else(|| "unreachable".to_owned()) }, None),
        },
        Err(_) => (Answer::Unanswered { code: "deadline".to_owned() }, None),
    }
}
