//! A session of the executor: a Secret of its own, for as long as it lasts.
//!
//! Of an HTTP connection the server has no list, and nobody can end it from outside. Nor would it help to send what makes principals
//! under a credential that ends with the session: the server remembers for 10 s whom it let in, and learns late of what was removed
//! ([`super::ended`]). What it always answers from its store is a question. So a create asks whether its session is still there *after* it
//! has made its Secret, and *before* it asks for a token; and a fence removes the session first, and looks for the Secret then. Whichever
//! of the two the store has done first, the other one sees it.

use tokio::sync::Mutex;

use super::api::Api;
use super::object::{self, Kind, Secret, session_name, session_of};
use super::{KubernetesConfig, random};
use crate::own::Open;
use crate::{Binding, EngineError};

/// A Secret that is there for one executor, and is removed with its session.
pub(super) struct Session {
    pub(super) binding: Binding,
    secret: Secret,
    _open: Open,
}

impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session").field("binding", &self.binding).finish_non_exhaustive()
    }
}

impl Session {
    async fn open(api: &Api, config: &KubernetesConfig) -> Result<Self, EngineError> {
        let binding = draw(config)?;
        let name = session_name(&config.target, &binding);
        let _opening = config.own.opening().await;
        let body = object::secret(Kind::Session, &name, &config.target, "a session of an executor", None);
        // One whose answer is lost nobody is bound to: the next term removes it.
        let secret = super::api::repeatable(api.make(config, &body).await)?;
        let open = config.own.open(&config.endpoint, binding);
        Ok(Self { binding, secret, _open: open })
    }

    /// Whether it is still there, by the server's store: not as one of the same name, and not as one that was told to go.
    async fn is_there(&self, api: &Api, config: &KubernetesConfig) -> Result<bool, EngineError> {
        let found = api.secret(config, &self.secret.metadata.name).await?;
        Ok(found.is_some_and(|found| found.metadata.uid == self.secret.metadata.uid && !found.is_going()))
    }
}

/// A number that no session of this term has.
fn draw(config: &KubernetesConfig) -> Result<Binding, EngineError> {
    let pid = i32::from_be_bytes(random()?) & i32::MAX;
    Ok(Binding { pid, backend_start_micros: i64::try_from(config.term).unwrap_or(i64::MAX) })
}

/// Ends a session: no create that was bound to it asks for a token any more.
pub(super) async fn end(api: &Api, config: &KubernetesConfig, binding: &Binding) -> Result<(), EngineError> {
    let Some(secret) = api.secret(config, &session_name(&config.target, binding)).await? else { return Ok(()) };
    match api.remove(config, &secret).await {
        // Whoever asks is told that it goes.
        Err(EngineError::Busy { code, .. }) if code == "finalizer" => Ok(()),
        other => other.map(drop),
    }
}

/// The sessions that there are of this target, of whatever term.
pub(super) async fn all(api: &Api, config: &KubernetesConfig) -> Result<Vec<Binding>, EngineError> {
    let secrets = api.all(config, Kind::Session).await?;
    let there = secrets.iter().filter(|secret| !secret.is_going());
    Ok(there.filter_map(|secret| session_of(&config.target, &secret.metadata.name)).collect())
}

/// The place of one session, whose creates go one after the other.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Option<Session>>);

impl Kept {
    /// The session that there is, if the server knows it, or a new one.
    pub(super) async fn bind(&self, api: &Api, config: &KubernetesConfig) -> Result<Binding, EngineError> {
        let mut slot = self.0.lock().await;
        if let Some(session) = slot.as_ref()
            && session.is_there(api, config).await?
        {
            return Ok(session.binding);
        }
        *slot = None;
        Ok(slot.insert(Session::open(api, config).await?).binding)
    }

    /// Makes something that is bound to exactly that session. `make` is to ask for nothing that lets in before [`Bound::still`] says so.
    ///
    /// # Errors
    /// [`EngineError::StaleBinding`] when it is not the one that there is.
    pub(super) async fn bound(&self, binding: &Binding) -> Result<Bound<'_>, EngineError> {
        let slot = self.0.lock().await;
        if slot.as_ref().is_none_or(|session| session.binding != *binding) {
            return Err(EngineError::StaleBinding);
        }
        Ok(Bound(slot))
    }
}

/// The session, held by the one create that is under way.
pub(super) struct Bound<'a>(tokio::sync::MutexGuard<'a, Option<Session>>);

impl Bound<'_> {
    /// Goes on only if the session is still there.
    ///
    /// # Errors
    /// [`EngineError::StaleBinding`] when it was ended.
    pub(super) async fn still(&mut self, api: &Api, config: &KubernetesConfig) -> Result<(), EngineError> {
        let is_there = match self.0.as_ref() {
            Some(session) => session.is_there(api, config).await?,
            None => false,
        };
        if is_there {
            return Ok(());
        }
        *self.0 = None;
        Err(EngineError::StaleBinding)
    }
}
