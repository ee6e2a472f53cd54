//! Whether a target does what leases need: its rights are looked at, and one credential is issued there, used, and revoked. What was
//! found out goes into the log, for whoever asked.

use crate::core::Core;
use crate::executor::{Office, engine_failure};
use quorate_api::scram;
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail};
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_engines::{self as engines, Checked, Create, EngineError, Principal, Refusal as Login};
use quorate_state::command::Command;
use quorate_state::ids::{LeaseId, hex};
use quorate_state::lease::principal;
use quorate_state::outcome::Outcome;
use quorate_state::target::{Finding, MAX_FINDING, MAX_FINDINGS, Proof, roles};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a target may take for all of it.
const LIMIT: Duration = Duration::from_secs(25);
/// Between the two looks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// How long a session that was told to end may take.
const ENDING: Duration = Duration::from_secs(5);
/// The target refuses the login by itself after so many seconds, whatever becomes of this node.
const LIFE: u64 = 60;
/// What verifiers have by default.
const ITERATIONS: u32 = 4_096;

impl Core {
    /// Answers the request for a proof that stands in the log at `asked`.
    pub(crate) async fn prove_target(self: &Arc<Self>, name: &str, term: u64, asked: u64) -> Result<(), Failure> {
        // In office, it may say what it finds out, be it only that nothing answers.
        self.claim_office(name, term).await?;
        let mut proof = Proof { asked, at: 0, version: 0, timeline: 0, findings: Vec::new(), notes: Vec::new() };
        match timeout(LIMIT, self.find_out(name, &mut proof)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) if failure.code == "no_leader" => return Err(failure),
            Ok(Err(failure)) => proof.findings.push(Finding::Failed(failure.message)),
            Err(_) => {
                proof.findings.push(Finding::Failed(format!("target {name}: no answer in {} s", LIMIT.as_secs())))
            }
        }
        proof.at = self.clock()?;
        bound(&mut proof);
        let command = Command::TargetProved { term, target: name.to_owned(), proof };
        match self.propose(command).await?.outcome {
            Outcome::Refused(refusal) => Err(Failure::from(refusal)),
            _ => Ok(()),
        }
    }

    async fn find_out(self: &Arc<Self>, name: &str, proof: &mut Proof) -> Result<(), Failure> {
        let office = self.office(name).await?;
        let of_target = |store: &dyn quorate_state::store::Store| {
            Ok(roles(store)?
                .into_iter()
                .filter(|(_, role)| role.target == name)
                .map(|(_, role)| role)
                .collect::<Vec<_>>())
        };
        let roles = self.read(|store, _| of_target(store))?;
        let groups: BTreeSet<String> = roles.iter().flat_map(|role| role.groups.clone()).collect();
        let groups: Vec<String> = groups.into_iter().collect();
        let checked = office.engine.check(&groups).await.map_err(|e| engine_failure(name, &e))?;
        note(&checked, proof);
        if proof.findings.is_empty() {
            self.cycle(name, &office, &groups, proof).await?;
        }
        Ok(())
    }

    /// One credential from its making to its end.
    async fn cycle(
        self: &Arc<Self>,
        name: &str,
        office: &Office,
        groups: &[String],
        proof: &mut Proof,
    ) -> Result<(), Failure> {
        let id = LeaseId(self.env.random());
        let login = principal(&self.cluster, name, &id);
        let entry = self.internal_entry("target.prove", proof.asked).resource(&format!("target {name}"));
        self.record(entry.detail("login", Detail::text(&login)), Class::Essential).await?;
        // Whoever searches the target meanwhile leaves it alone.
        let _guard = self.creating.begin(id);
        let at_target = |e: EngineError| engine_failure(name, &e);
        let password = self.one_password();
        let create = Create {
            name: login.clone(),
            verifier: scram::verifier(password.expose(), &self.env.random(), ITERATIONS),
            groups: groups.iter().take(16).cloned().collect(),
            statements: Vec::new(),
            connection_limit: 2,
            max_ttl_seconds: LIFE,
            binding: office.engine.bind().await.map_err(at_target)?,
        };
        let made = office.engine.create(&create).await;
        let used = match &made {
            Ok(_) => self.use_once(office, &login, password.expose()).await,
            Err(error) => Err(Finding::Failed(format!("no credential could be made: {error}"))),
        };
        let ended = end(office, Principal { name: login.clone(), oid: made.as_ref().ok().map(|m| m.oid) }).await;
        let refused = match self.use_once(office, &login, password.expose()).await {
            Err(_) => Ok(()),
            Ok(()) => Err(Finding::Failed("a revoked credential still logs in".to_owned())),
        };
        proof.findings.extend([used, ended, refused].into_iter().filter_map(Result::err));
        Ok(())
    }

    /// A password for one login: 32 characters, 128 random bits.
    fn one_password(&self) -> Secret<32> {
        let raw = Secret::<16>::init_with(|out| *out = self.env.random());
        Secret::init_with(|out| out.iter_mut().zip(hex(raw.expose()).bytes()).for_each(|(o, digit)| *o = digit))
    }

    /// Logs in as an application would, and out again.
    async fn use_once(&self, office: &Office, login: &str, password: &[u8]) -> Result<(), Finding> {
        let engine = office.as_login(self, login, SecretVec::new(password.to_vec()));
        let failed = |e: EngineError| Finding::Failed(format!("the credential does not log in: {e}"));
        engine.map_err(failed)?.bind().await.map(drop).map_err(failed)
    }
}

/// Ends the credential, and looks as for any other.
async fn end(office: &Office, principal: Principal) -> Result<(), Finding> {
    let failed = |e: EngineError| Finding::Failed(format!("the credential could not be ended: {e}"));
    let mut one = vec![principal];
    let refused = office.engine.refuse(&one).await.map_err(failed)?;
    for outcome in refused {
        if let Login::Failed(error) = outcome.outcome {
            return Err(failed(error));
        }
        one.push(Principal { name: outcome.name, oid: outcome.oid });
    }
    office.engine.kill(&one).await.map_err(failed)?;
    let begun = Instant::now();
    loop {
        let seen = office.engine.look(&one).await.map_err(failed)?;
        let left = seen.iter().any(|s| s.can_login || s.sessions > 0);
        if !left {
            break;
        }
        if begun.elapsed() > ENDING {
            let behind = seen.iter().flat_map(|s| &s.behind).map(|f| format!("{}: {}", f.name, f.reason));
            let what = behind.chain(seen.iter().flat_map(|s| s.login_at.clone())).collect::<Vec<_>>().join("; ");
            return Err(Finding::Failed(format!("a credential that was ended is still there {what}")));
        }
        sleep(Duration::from_millis(50)).await;
    }
    sleep(BETWEEN_LOOKS).await;
    let seen = office.engine.look(&one).await.map_err(failed)?;
    if seen.iter().any(|s| s.can_login || s.sessions > 0) {
        return Err(Finding::Failed("a credential that was ended came back".to_owned()));
    }
    for cleaned in office.engine.clean(&one).await.map_err(failed)? {
        if let engines::Cleaning::Left { reason, .. } = cleaned.outcome {
            let why = reason.unwrap_or_else(|| "something depends on it".to_owned());
            return Err(Finding::Failed(format!("a credential that was ended could not be removed: {why}")));
        }
    }
    Ok(())
}

/// What the target says of itself, for people.
fn note(checked: &Checked, proof: &mut Proof) {
    (proof.version, proof.timeline) = (checked.server_version, checked.timeline);
    for missing in &checked.missing {
        proof.findings.push(Finding::Missing(format!("{} -- in database {}", missing.statement, missing.database)));
    }
    for fault in checked.unseen.iter().chain(&checked.databases) {
        proof.findings.push(Finding::Failed(format!("{}: {}", fault.name, fault.reason)));
    }
    let looked_at = checked.endpoints.len().saturating_sub(1);
    for standby in checked.standbys.iter().skip(looked_at) {
        let from = standby.client_addr.as_deref().unwrap_or("this machine");
        proof.notes.push(format!(
            "{} streams from it ({from}, {}) and is no standby of the target: sessions there are not looked at",
            standby.application_name, standby.state
        ));
    }
}

/// Cuts what no log entry may hold, and says so.
fn bound(proof: &mut Proof) {
    let cut = |text: &mut String| {
        let mut at = MAX_FINDING;
        while !text.is_char_boundary(at.min(text.len())) {
            at -= 1;
        }
        text.truncate(at);
    };
    for list in [proof.findings.len(), proof.notes.len()] {
        if list > MAX_FINDINGS {
            tracing::warn!(list, "more was found wrong with a target than is kept");
        }
    }
    proof.findings.truncate(MAX_FINDINGS);
    proof.notes.truncate(MAX_FINDINGS);
    for finding in &mut proof.findings {
        match finding {
            Finding::Missing(text) | Finding::Failed(text) => cut(text),
        }
    }
    proof.notes.iter_mut().for_each(cut);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_between_letters() {
        let text = format!("{}ä", "x".repeat(MAX_FINDING - 1));
        let mut proof = Proof {
            asked: 1,
            at: 0,
            version: 0,
            timeline: 0,
            findings: vec![Finding::Failed(text); MAX_FINDINGS + 1],
            notes: vec!["short".to_owned(); MAX_FINDINGS + 1],
        };
        bound(&mut proof);
        assert_eq!((proof.findings.len(), proof.notes.len()), (MAX_FINDINGS, MAX_FINDINGS));
        assert_eq!(proof.findings[0], Finding::Failed("x".repeat(MAX_FINDING - 1)));
        assert_eq!(proof.notes[0], "short");
    }
}
