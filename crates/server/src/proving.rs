//! Whether a target does what leases need: its rights are looked at, and one credential is issued there, used, and revoked. What was
//! found out goes into the log, for whoever asked.

use crate::core::Core;
use crate::executor::{Office, UNOPENABLE, engine_failure};
use crate::gone;
use crate::issue::{groups_of, statements};
use quorate_api::status::Failure;
use quorate_api::verifier::verifier;
use quorate_audit::{Class, Detail};
use quorate_crypto::secret::{Secret, SecretFields, SecretVec};
use quorate_engines::{self as engines, Checked, Create, Created, EngineError, Fault, Principal, Slots};
use quorate_state::command::Command;
use quorate_state::ids::LeaseId;
use quorate_state::lease::{principal, principal_prefix};
use quorate_state::target::{Finding, MAX_FINDING, MAX_FINDINGS, Proof, Role, roles, target};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a target may take for all of it.
const LIMIT: Duration = Duration::from_secs(25);
/// For how long ending a credential is tried again.
const ENDING: Duration = Duration::from_secs(5);
/// The same where the target issues the secret: all its servers are not told at once that it counts no more, and a look says so until
/// they must have been.
const LIMIT_OF_ISSUERS: Duration = Duration::from_secs(50);
const ENDING_OF_ISSUERS: Duration = Duration::from_secs(25);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// The target refuses the login by itself after so many seconds, whatever becomes of this node.
const LIFE: u64 = 60;
/// How many roles are tried at once.
const MOST_ROLES: usize = 16;

impl Core {
    /// Answers the request for a proof that stands in the log at `asked`.
    pub(crate) async fn prove_target(self: &Arc<Self>, name: &str, term: u64, asked: u64) -> Result<(), Failure> {
        // In office, it may say what it finds out, be it only that nothing answers.
        self.claim_office(name, term).await?;
        let mut proof = Proof { asked, at: 0, version: 0, timeline: 0, findings: Vec::new(), notes: Vec::new() };
        let issues = self.read(|store, _| target(store, name))?.is_some_and(|t| t.spec.system.issues());
        let limit = if issues { LIMIT_OF_ISSUERS } else { LIMIT };
        match timeout(limit, self.find_out(name, term, &mut proof)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) if failure.code == "no_leader" => return Err(failure),
            Ok(Err(failure)) => proof.findings.push(Finding::Failed(failure.message)),
            Err(_) => {
                proof.findings.push(Finding::Failed(format!("target {name}: no answer in {} s", limit.as_secs())))
            }
        }
        proof.at = self.clock()?;
        bound(&mut proof);
        self.say(Command::TargetProved { term, target: name.to_owned(), proof }).await
    }

    async fn find_out(self: &Arc<Self>, name: &str, term: u64, proof: &mut Proof) -> Result<(), Failure> {
        let office = self.office(name).await;
        // It may lack the very rights that entering office takes.
        let seat = match &office {
            Ok(office) => Some(office.clone()),
            Err(_) => self.seated(name, term).await,
        };
        let Some(seat) = seat else { return office.map(drop) };
        let of_target = |store: &dyn quorate_state::store::Store| {
            Ok(roles(store)?.into_iter().filter(|(_, role)| role.target == name).collect::<Vec<_>>())
        };
        let roles = self.read(|store, _| of_target(store))?;
        let groups: Vec<Vec<String>> = roles.iter().map(|(_, role)| groups_of(role)).collect::<Result<_, _>>()?;
        let groups: BTreeSet<String> = groups.into_iter().flatten().collect();
        let groups: Vec<String> = groups.into_iter().collect();
        if let Some(described) = self.read(|store, _| target(store, name))?
            && seat.let_in_with_former(&described).is_some()
        {
            // That was then: it may have been given the other one since.
            let let_in = match self.open_credential(name, &described.current, term).await {
                Ok(password) => self.lets_in(name, &seat, &described, &password).await?,
                Err(error) if error.code == UNOPENABLE => false,
                Err(error) => return Err(error),
            };
            let what =
                "it lets in with a password that it had before, and not with what is said to be its password now";
            if let_in {
                seat.has_password(described.current.index);
            } else if described.spec.rotate {
                proof.notes.push(format!("{what}: it gets that again"));
            } else {
                proof
                    .findings
                    .push(Finding::Failed(format!("{what}: say the right one, `quorate target password {name}`")));
                return Ok(());
            }
        }
        let checked = seat.engine.check(&groups).await.map_err(|e| engine_failure(name, &e))?;
        note(&checked, proof);
        proof.notes.extend(locks_out(checked.slots, roles.iter().map(|(_, role)| role)));
        if !proof.findings.is_empty() {
            return Ok(());
        }
        self.cycle(name, &office?, roles, proof).await
    }

    /// One credential of each role, or one without any rights, from its making to its end.
    async fn cycle(
        self: &Arc<Self>,
        name: &str,
        office: &Office,
        mut roles: Vec<(String, Role)>,
        proof: &mut Proof,
    ) -> Result<(), Failure> {
        if roles.is_empty() && !office.system.has_logins_without_groups() {
            let what =
                "it has no role yet, and there is no login without one: describe a role, and it is proved with that";
            proof.findings.push(Finding::Failed(what.to_owned()));
            return Ok(());
        }
        if roles.is_empty() {
            let described = self.read(|store, _| target(store, name))?;
            let form = described.map_or_else(Default::default, |t| t.spec.system.default_form());
            roles.push((String::new(), Role { form, connection_limit: 1, ..Role::default() }));
        }
        if roles.len() > MOST_ROLES {
            proof.notes.push(format!("only the first {MOST_ROLES} of {} roles were tried", roles.len()));
            roles.truncate(MOST_ROLES);
        }
        // Nobody could end what would be tried.
        roles.retain(|(label, role)| {
            let ends = office.system.ends_early(&role.groups);
            if !ends {
                proof.notes.push(format!("role {label} was not tried: what is issued under it can't be ended early"));
            }
            ends
        });
        let (mut made, mut guards) = (Vec::new(), Vec::new());
        for (label, role) in roles {
            let id = LeaseId(self.env.random());
            let login = principal(&self.cluster, name, &id);
            let entry = self.internal_entry("target.prove", proof.asked).resource(&format!("target {name}"));
            self.record(entry.detail("login", Detail::text(&login)), Class::Essential).await?;
            // Whoever searches the target meanwhile leaves it alone.
            guards.push(self.proving.begin(id));
            let password = self.one_password();
            let created = self.make_one(name, office, &id, &login, &role, &password).await;
            // What the target issued is the secret, where it issues one.
            let issued = created.as_ref().ok().and_then(|created| created.issued.as_ref());
            let secret = issued.map_or_else(|| SecretVec::new(password.expose().to_vec()), SecretFields::encode);
            let (oid, used) = match created {
                Ok(created) => (Some(created.oid), self.use_once(office, &login, secret.expose()).await),
                Err(failure) => (None, Err(failure.message)),
            };
            if let Err(why) = used {
                let of = if label.is_empty() { String::new() } else { format!("role {label}: ") };
                proof.findings.push(Finding::Failed(format!("{of}{why}")));
            }
            made.push((Principal { name: login, oid }, secret));
        }
        let principals: Vec<Principal> = made.iter().map(|(principal, _)| principal.clone()).collect();
        let prefix = principal_prefix(&self.cluster, name);
        let patience = if office.system.issues() { ENDING_OF_ISSUERS } else { ENDING };
        proof.findings.extend(end(office, name, &prefix, principals, patience).await.err());
        for (principal, secret) in &made {
            if self.use_once(office, &principal.name, secret.expose()).await.is_ok() {
                proof.findings.push(Finding::Failed("a revoked credential still logs in".to_owned()));
            }
        }
        Ok(())
    }

    async fn make_one(
        &self,
        name: &str,
        office: &Office,
        id: &LeaseId,
        login: &str,
        role: &Role,
        password: &Secret<32>,
    ) -> Result<Created, Failure> {
        let at_target = |e: EngineError| engine_failure(name, &e);
        let create = Create {
            name: login.to_owned(),
            verifier: verifier(role.form, password.expose(), &self.env.random()),
            groups: role.groups.clone(),
            connection_limit: i32::from(role.connection_limit),
            max_ttl_seconds: LIFE,
            statements: statements(&role.statements, id)?,
            binding: office.engine.bind().await.map_err(at_target)?,
        };
        office.engine.create(&create).await.map_err(at_target)
    }

    /// A password for one login: 32 characters, 128 random bits. Nothing of it is written anywhere else.
    fn one_password(&self) -> Secret<32> {
        let raw = Secret::<16>::init_with(|out| self.env.entropy.fill(out));
        Secret::init_with(|out| {
            let halves = raw.expose().iter().flat_map(|byte| [byte >> 4, byte & 15]);
            out.iter_mut()
                .zip(halves)
                .for_each(|(o, half)| *o = if half < 10 { b'0' + half } else { b'a' - 10 + half });
        })
    }

    /// Logs in as an application would, and out again.
    async fn use_once(&self, office: &Office, login: &str, password: &[u8]) -> Result<(), String> {
        let used = office.use_once(self, login, SecretVec::new(password.to_vec())).await;
        used.map_err(|e| format!("the credential does not log in: {e}"))
    }
}

/// Ends the credentials as any other. Nobody comes back to them, so what does not end at once is tried again here.
async fn end(
    office: &Office,
    name: &str,
    prefix: &str,
    mut all: Vec<Principal>,
    patience: Duration,
) -> Result<(), Finding> {
    let failed = |why: &str| Finding::Failed(format!("the credential could not be ended: {why}"));
    let begun = Instant::now();
    loop {
        let ended = gone::end(&*office.engine, name, prefix, all, |_| Ok(())).await;
        let ended = ended.map_err(|failure| failed(&failure.message))?;
        all = ended.known;
        let Some(why) = ended.failed.values().next() else { break };
        if begun.elapsed() > patience {
            return Err(failed(why));
        }
        sleep(TRY_AGAIN).await;
    }
    for cleaned in office.engine.clean(&all).await.map_err(|e| failed(&e.to_string()))? {
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
        proof.findings.push(Finding::Missing(missing.to_string()));
    }
    for fault in checked.unseen.iter().chain(&checked.databases) {
        proof.findings.push(Finding::Failed(fault.to_string()));
    }
    for Fault { name, reason } in &checked.unfit {
        proof
            .findings
            .push(Finding::Failed(format!("{name} can be no group: {reason}; change the role that names it")));
    }
    let looked_at = checked.endpoints.len().saturating_sub(1);
    if checked.standbys.len() > looked_at {
        let shown = checked.standbys.iter().map(|standby| {
            let from = standby.client_addr.as_deref().unwrap_or("its own machine");
            format!("{} from {from}, {}", standby.application_name, standby.state)
        });
        proof.notes.push(format!(
            "{} stream from it ({}), and {looked_at} standbys are described: at the others sessions are not looked for",
            checked.standbys.len(),
            shown.collect::<Vec<_>>().join("; ")
        ));
    }
}

/// What to tell people where leased logins can take every connection, so that a new executor finds none.
fn locks_out<'a>(slots: Slots, roles: impl Iterator<Item = &'a Role>) -> Option<String> {
    let of = |role: &Role| u64::from(role.connection_limit) * u64::from(role.max_leases);
    let most = roles.map(of).fold(0, u64::saturating_add);
    match slots.kept {
        Some(true) => None,
        Some(false) => Some(
            "the server keeps no connection for the executor: a new one cannot enter while leased logins have taken \
             all; set reserved_connections, and grant pg_use_reserved_connections to the executor's role"
                .to_owned(),
        ),
        None if most < u64::from(slots.free) => None,
        None => Some(format!(
            "leased logins may open {most} connections by the limits of the target's roles, and the server has {} for \
             them: a new executor cannot enter while they have taken all; lower the limits, or raise max_connections",
            slots.free
        )),
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
    fn where_leased_logins_can_lock_a_new_executor_out_people_are_told() {
        let role = |connection_limit, max_leases| Role { connection_limit, max_leases, ..Role::default() };
        let told = |kept, roles: &[Role]| locks_out(Slots { free: 97, kept }, roles.iter());
        let few = [role(4, 20), role(2, 8)];
        assert_eq!(told(Some(true), &[role(u16::MAX, u32::MAX)]), None, "the server keeps some");
        let why = told(Some(false), &few).expect("the server could keep some, and does not");
        assert!(why.contains("reserved_connections"), "it says what to set: {why}");
        assert_eq!(told(None, &few), None, "96 of 97");
        let all = [few.as_slice(), &[role(1, 1)]].concat();
        let why = told(None, &all).expect("97 of 97");
        assert!(why.contains("open 97 connections") && why.contains("has 97"), "it says how many: {why}");
        assert!(told(None, &vec![role(u16::MAX, u32::MAX); 1 << 17]).is_some(), "more than can be counted");
    }

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
