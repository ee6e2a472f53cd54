//! A connection that is kept, for one caller at a time, and what becomes of one whose caller gave up.

use std::collections::BTreeSet;

use tokio::sync::{Mutex, MutexGuard};

use super::RedisConfig;
use super::clients;
use super::session::Session;
use crate::connection::{is_settled, within};
use crate::{Binding, EngineError};

/// The place of one connection.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    session: Option<Session>,
    /// Connections whose callers have not said what came of their work. What they sent may still lie before the server, which
    /// reads it even from a connection that is closed at our end.
    lent: BTreeSet<Binding>,
}

/// The connection, taken out of its slot. Whoever drops it instead of giving it back closes it, and the next caller ends it at
/// the server before anything else.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    slot: MutexGuard<'a, Slot>,
    pub(super) session: Session,
}

impl Kept {
    /// The connection that there is, if it answers, or a new one. Nothing that an earlier caller gave up can take effect any more.
    pub(super) async fn take(&self, config: &RedisConfig) -> Result<Taken<'_>, EngineError> {
        let mut slot = self.0.lock().await;
        let kept = match slot.session.take() {
            Some(session) if !session.is_closed() => answering(session, &mut slot, config).await?,
            _ => None,
        };
        let mut session = match kept {
            Some(session) => session,
            None => Session::open(config).await?,
        };
        let lent: Vec<Binding> = slot.lent.iter().copied().filter(|b| *b != session.binding).collect();
        slot.lent.insert(session.binding);
        for binding in lent {
            within(config.answer_timeout, clients::end(&mut session, &binding)).await?;
            slot.lent.remove(&binding);
        }
        Ok(Taken { slot, session })
    }

    /// Exactly that connection, or none.
    pub(super) async fn bound(&self, binding: &Binding) -> Result<Taken<'_>, EngineError> {
        let mut slot = self.0.lock().await;
        let is_bound = |session: &Session| session.binding == *binding && !session.is_closed();
        if !slot.session.as_ref().is_some_and(is_bound) {
            return Err(EngineError::StaleBinding);
        }
        let Some(session) = slot.session.take() else { return Err(EngineError::StaleBinding) };
        slot.lent.insert(session.binding);
        Ok(Taken { slot, session })
    }
}

/// The session, if the server answers on it.
async fn answering(
    mut session: Session,
    slot: &mut Slot,
    config: &RedisConfig,
) -> Result<Option<Session>, EngineError> {
    let binding = session.binding;
    slot.lent.insert(binding);
    match within(config.connect_timeout, session.unblock(config.end_scripts)).await {
        Ok(()) => Ok(Some(session)),
        Err(EngineError::Unavailable { .. }) => Ok(None),
        Err(error) => {
            slot.lent.remove(&binding);
            slot.session = Some(session);
            Err(error)
        }
    }
}

impl Taken<'_> {
    /// Gives the connection back, unless it broke or may still be at work.
    pub(super) fn settle<T>(mut self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        if is_settled(&result) && !self.session.is_closed() {
            self.slot.lent.remove(&self.session.binding);
            self.slot.session = Some(self.session);
        }
        result
    }
}
