//! A session of the executor: an account of its own, for as long as it lasts.
//!
//! Of an HTTP connection the server has no list, and nobody can end it from outside. But it asks each request who sends it, when its head is read. So what makes
//! principals is sent as an account that was made for this binding and no other, and whose password nobody else ever had. To remove that account
//! is to end the session: what is delivered after that is refused.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_crypto::secret::SecretVec;
use tokio::sync::{Mutex, MutexGuard};

use super::api::{self, Account, Api};
use super::{RabbitMqConfig, TAG};
use crate::connection::is_settled;
use crate::http::{Answer, Path, Request};
use crate::own::Open;
use crate::{Binding, EngineError};

/// How many random bytes a session's password is made of.
const PASSWORD: usize = 32;

/// An account that is there for one executor, and is removed with its session.
pub(super) struct Session {
    pub(super) binding: Binding,
    account: String,
    password: SecretVec,
    _open: Open,
}

impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session").field("account", &self.account).finish_non_exhaustive()
    }
}

impl Session {
    async fn open(api: &Api, config: &RabbitMqConfig, binding: Binding) -> Result<Self, EngineError> {
        let account = config.session_name(&binding);
        let (password, verifier) = credential()?;
        let _opening = config.own.opening().await;
        let answer = api.put(config, api::user(&account)?, &api::account(&verifier, TAG)).await?;
        // It was there: whose it is nobody knows, and by now it has our password.
        if answer.status != 201 {
            let message = "the name of a session was drawn twice".to_owned();
            return Err(EngineError::Busy { code: answer.status.to_string(), message });
        }
        let open = config.own.open(&config.endpoint, binding);
        Ok(Self { binding, account, password, _open: open })
    }

    /// Asks as this session.
    ///
    /// # Errors
    /// [`EngineError::StaleBinding`] when it was ended: no effect.
    pub(super) async fn call(&self, api: &Api, request: Request) -> Result<Answer, EngineError> {
        match api.call_as(&self.account, &self.password, request).await {
            Err(error) if error.is_login_refused() => Err(EngineError::StaleBinding),
            other => other,
        }
    }
}

/// A password, as it is sent, and what the server keeps of it.
fn credential() -> Result<(SecretVec, String), EngineError> {
    let mut random = vec![0; PASSWORD];
    fill(&mut random)?;
    let random = SecretVec::new(random);
    let password = SecretVec::new(STANDARD.encode(random.expose()).into_bytes());
    let mut salt = [0; 4];
    fill(&mut salt)?;
    let verifier = api::verifier(salt, &password);
    Ok((password, verifier))
}

fn fill(bytes: &mut [u8]) -> Result<(), EngineError> {
    getrandom::fill(bytes).map_err(|error| EngineError::Unavailable { reason: error.to_string() })
}

/// A number that no session of this term has.
fn draw(config: &RabbitMqConfig) -> Result<Binding, EngineError> {
    let mut random = [0; 4];
    fill(&mut random)?;
    let pid = i32::from_be_bytes(random) & i32::MAX;
    Ok(Binding { pid, backend_start_micros: i64::try_from(config.term).unwrap_or(i64::MAX) })
}

/// Ends a session: nothing that is delivered from here on is done for it.
pub(super) async fn end(api: &Api, config: &RabbitMqConfig, binding: &Binding) -> Result<(), EngineError> {
    api.remove(config, api::user(&config.session_name(binding))?).await.map(drop)
}

/// The sessions that there are at this target, of whatever term.
pub(super) async fn all(api: &Api, config: &RabbitMqConfig) -> Result<Vec<Binding>, EngineError> {
    let accounts: Vec<Account> = api.get(config, api::users()?).await?;
    Ok(accounts.iter().filter_map(|account| config.session_of(&account.name)).collect())
}

/// The place of one session.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    session: Option<Session>,
    /// Sessions whose callers have not said what came of their work: what they sent may be delivered yet.
    lent: BTreeSet<Binding>,
}

impl Slot {
    async fn end_lent(&mut self, api: &Api, config: &RabbitMqConfig, but: Option<Binding>) -> Result<(), EngineError> {
        let lent: Vec<Binding> = self.lent.iter().copied().filter(|binding| Some(*binding) != but).collect();
        for binding in lent {
            end(api, config, &binding).await?;
            self.lent.remove(&binding);
        }
        Ok(())
    }
}

/// The session, taken out of its slot. Whoever drops it instead of giving it back has it ended by the next caller, before anything
/// else.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    slot: MutexGuard<'a, Slot>,
    pub(super) session: Session,
}

impl Kept {
    /// The session that there is, if the server knows it, or a new one. Nothing that an earlier caller gave up can take effect any more.
    pub(super) async fn take(&self, api: &Api, config: &RabbitMqConfig) -> Result<Taken<'_>, EngineError> {
        let mut slot = self.0.lock().await;
        let kept = match slot.session.take() {
            Some(session) => known(session, api, &mut slot).await?,
            None => None,
        };
        let session = match kept {
            Some(session) => session,
            None => {
                let binding = draw(config)?;
                // Before it is made: the answer can get lost.
                slot.lent.insert(binding);
                Session::open(api, config, binding).await?
            }
        };
        slot.end_lent(api, config, Some(session.binding)).await?;
        slot.lent.insert(session.binding);
        Ok(Taken { slot, session })
    }

    /// Nothing that an earlier caller gave up can take effect any more.
    pub(super) async fn settled(&self, api: &Api, config: &RabbitMqConfig) -> Result<(), EngineError> {
        self.0.lock().await.end_lent(api, config, None).await
    }

    /// Exactly that session, or none.
    pub(super) async fn bound(&self, binding: &Binding) -> Result<Taken<'_>, EngineError> {
        let mut slot = self.0.lock().await;
        match slot.session.take() {
            Some(session) if session.binding == *binding => {
                slot.lent.insert(session.binding);
                Ok(Taken { slot, session })
            }
            other => {
                slot.session = other;
                Err(EngineError::StaleBinding)
            }
        }
    }
}

/// The session, unless somebody has ended it.
async fn known(session: Session, api: &Api, slot: &mut Slot) -> Result<Option<Session>, EngineError> {
    slot.lent.insert(session.binding);
    let request = Request::get(Path::new(&["api", "whoami"])?);
    match api::repeatable(session.call(api, request).await) {
        Ok(_) => Ok(Some(session)),
        Err(EngineError::StaleBinding) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Taken<'_> {
    /// Gives the session back, unless it was ended or may still be at work.
    pub(super) fn settle<T>(mut self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        if is_settled(&result) {
            self.slot.lent.remove(&self.session.binding);
            self.slot.session = Some(self.session);
        }
        result
    }
}
