//! The administrative password of a target is replaced once in each term of office, so that whoever was in office before cannot
//! log in any more. Only the password: on PostgreSQL 18 a new role could not drop what the old one has made.
//!
//! ```text
//! RotatePassword committed   ALTER ROLE at the target   a fresh login   PasswordRotated committed
//! ```
//! Where that is cut off, whoever is in office next goes on with the same password: the log has it before the target. A target that
//! has forgotten it, because it was restored say, gets it again.
//! It runs beside everything else, and nothing waits for it.

use crate::core::Core;
use crate::executor::{Office, UNOPENABLE, engine_failure};
use crate::issue::injected;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quorate_api::status::Failure;
use quorate_api::verifier::verifier;
use quorate_audit::{Class, Detail};
use quorate_crypto::keyring::KeyringPublic;
use quorate_crypto::sealed::{Header, ObjectTemplate, Sealed, WrapTemplate, seal};
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_engines::EngineError;
use quorate_state::access::{SYSTEM_NAMESPACE, keyring};
use quorate_state::command::Command;
use quorate_state::ids::KeyringId;
use quorate_state::lease::{self, Queue};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::target::{Credential, Standing, Target, credential_path, executor_author, quarantine, target};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often this node looks whether something is to be done.
const LOOK: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const LONGEST: Duration = Duration::from_secs(60);
/// For so long what is to end at the target goes first.
const ENDS_FIRST: Duration = Duration::from_secs(10);
/// How long sessions of earlier terms may take to end.
const ENDING: Duration = Duration::from_secs(10);

impl Core {
    /// The task of a term for one target.
    pub(crate) async fn keep_rotating(self: Arc<Self>, name: &str, term: u64) {
        let (begun, mut pause) = (Instant::now(), LOOK);
        while self.leads_in(term) {
            pause = match self.rotate(name, term, begun.elapsed() < ENDS_FIRST).await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::warn!(target = name, error = error.message, "the target's password is not rotated");
                    (pause * 2).min(LONGEST)
                }
            };
            sleep(pause).await;
        }
    }

    /// Replaces the password of a target at which this node is in office, or completes what was begun, if that is to be done.
    async fn rotate(self: &Arc<Self>, name: &str, term: u64, patient: bool) -> Result<(), Failure> {
        let (described, ending) = self.read(|store, _| {
            let ending = lease::tally(store, name, Queue::Asked)? + lease::tally(store, name, Queue::Due)?;
            Ok((target(store, name)?, ending))
        })?;
        let Some(described) = described else { return Ok(()) };
        let ours = described.spec.rotate && described.standing != Standing::Removing;
        if !(ours || described.next.is_some()) || (patient && ending > 0) {
            return Ok(());
        }
        // It is taken by whoever has something to do there.
        let Some(office) = self.entered(name, term).await else { return Ok(()) };
        let fresh = ours && described.current.term != term;
        if !fresh && described.next.is_none() && office.let_in_with_former(&described).is_none() {
            return Ok(());
        }
        // Whether the target has it already cannot be asked: one that asks nobody for a password would say yes.
        let (index, password) = match &described.next {
            Some(next) => match self.open_credential(name, next, term).await {
                Ok(password) => (next.index, password),
                // Everybody has tried: whoever sealed it did not mean it to be opened.
                Err(error) if fresh && error.code == UNOPENABLE => {
                    tracing::warn!(target = name, error = error.message, "the password under way is given up");
                    self.begin_rotation(name, term, &described.current).await?
                }
                Err(error) => return Err(error),
            },
            None if fresh => self.begin_rotation(name, term, &described.current).await?,
            None => {
                tracing::warn!(target = name, "the target has forgotten its password, and gets it again");
                (described.current.index, self.open_credential(name, &described.current, term).await?)
            }
        };
        injected("rotate.committed")?;
        // Before the target has it: a session that breaks meanwhile is opened anew with whichever it has.
        self.learn(name, &office, index, &password).await;
        self.give(name, &office, index, &password).await?;
        injected("rotate.altered")?;
        // None is left that could still send what an earlier term was about to send, whatever it calls itself.
        let begun = Instant::now();
        while office.engine.end_strangers().await.map_err(|e| engine_failure(name, &e))? > 0 {
            if begun.elapsed() > ENDING {
                let what = format!("target {name}: sessions of its login that are not ours do not end");
                return Err(Failure::new("target_unavailable", what));
            }
            sleep(Duration::from_millis(50)).await;
        }
        if !self.lets_in(name, &office, &described, &password).await? {
            let what = format!("target {name} does not let in with the password that it was given");
            return Err(Failure::new("target_refused", what));
        }
        office.has_password(index);
        injected("rotate.proved")?;
        self.recorded(name, term, "executor.rotated", index).await?;
        if index == described.current.index {
            return Ok(());
        }
        self.say(Command::PasswordRotated { term, target: name.to_owned(), index }).await?;
        tracing::info!(target = name, index, "the target's password is rotated");
        Ok(())
    }

    /// Makes a password and has the log say that it is the next. Nothing of it leaves this function but sealed and wiped.
    async fn begin_rotation(
        self: &Arc<Self>,
        name: &str,
        term: u64,
        current: &Credential,
    ) -> Result<(u64, SecretVec), Failure> {
        let raw = Secret::<32>::init_with(|out| self.env.entropy.fill(out));
        // 43 characters.
        let password = Secret::<43>::init_with(|out| URL_SAFE_NO_PAD.encode_slice(raw.expose(), out).map_or((), drop));
        let Sealed { header, payload } = self.seal_for(name, current, password.expose())?;
        self.recorded(name, term, "executor.rotate", current.index).await?;
        let done = self.propose(Command::RotatePassword { term, target: name.to_owned(), header, payload }).await?;
        match done.outcome {
            Outcome::Refused(refusal) => Err(Failure::from(refusal)),
            _ => Ok((done.index, SecretVec::new(password.expose().to_vec()))),
        }
    }

    /// Seals a password to the keyring of the one before it, as its author.
    fn seal_for(&self, name: &str, before: &Credential, password: &[u8]) -> Result<Sealed, Failure> {
        let failed = |why: String| Failure::new("internal", format!("the password of target {name}: {why}"));
        let header = Header::decode(&before.header).map_err(|e| failed(e.to_string()))?;
        let id = KeyringId(header.wrap().keyring_id);
        let ring =
            self.read(|store, _| keyring(store, &id))?.ok_or_else(|| Failure::from(Refusal::not_found("keyring")))?;
        let author = executor_author(self.me);
        let object = ObjectTemplate {
            cluster: self.cluster.0,
            secret_id: self.env.random(),
            version_id: self.env.random(),
            created: self.clock()?,
            writer_id: author.clone(),
        };
        let wrap = WrapTemplate {
            wrap_no: 0,
            wrapped_by: author,
            namespace: SYSTEM_NAMESPACE.to_owned(),
            path: credential_path(name),
        };
        seal(password, &object, &wrap, &KeyringPublic { class: ring.class, y: ring.y }, &[], &mut self.env.rng())
            .map_err(|e| failed(e.to_string()))
    }

    /// Sends the verifier, or the password where there is none, after sessions of earlier terms were told to end, if nobody has said another password meanwhile and the
    /// target is this cluster's.
    async fn give(
        self: &Arc<Self>,
        name: &str,
        office: &Office,
        index: u64,
        password: &SecretVec,
    ) -> Result<(), Failure> {
        let at_target = |e: EngineError| engine_failure(name, &e);
        let allowed = || {
            let (found, held) = self.read(|store, _| Ok((target(store, name)?, quarantine(store, name)?)))?;
            let same = found.is_some_and(|t| t.next.as_ref().unwrap_or(&t.current).index == index);
            if same && held.is_none() { Ok(()) } else { Err(Failure::from(Refusal::Unjustified)) }
        };
        allowed()?;
        office.engine.take_over().await.map_err(at_target)?;
        let described =
            self.read(|store, _| target(store, name))?.ok_or_else(|| Failure::from(Refusal::Unjustified))?;
        let verifier = match described.spec.system.own_form() {
            Some(form) => SecretVec::new(verifier(form, password.expose(), &self.env.random()).into_bytes()),
            None => SecretVec::new(password.expose().to_vec()),
        };
        let text = |_| Failure::from(Refusal::invalid("password", "is no text"));
        let verifier = core::str::from_utf8(verifier.expose()).map_err(text)?;
        // On a connection that was open before: whoever comes into office ends it before he gives the target his own.
        let binding = office.engine.bind().await.map_err(at_target)?;
        self.linearize().await?;
        allowed()?;
        injected("rotate.allowed")?;
        office.engine.set_password(verifier, &binding).await.map_err(at_target)
    }

    /// Whether the target lets in a fresh login with a password.
    pub(crate) async fn lets_in(
        &self,
        name: &str,
        office: &Office,
        described: &Target,
        password: &SecretVec,
    ) -> Result<bool, Failure> {
        let at_target = |e: EngineError| engine_failure(name, &e);
        let login = office.as_login(self, &described.spec.user, SecretVec::new(password.expose().to_vec()));
        match login.map_err(at_target)?.visit().await {
            Ok(()) => Ok(true),
            Err(error) if error.is_login_refused() => Ok(false),
            Err(error) => Err(at_target(error)),
        }
    }

    async fn recorded(&self, name: &str, term: u64, what: &'static str, index: u64) -> Result<(), Failure> {
        let entry = self.internal_entry(what, term).resource(&format!("target {name}")).term(term);
        self.record(entry.detail("credential", Detail::number(index)), Class::Essential).await.map(drop)
    }
}
