//! The sessions that an executor has opened itself: all others of its account are strangers'.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{Binding, Endpoint};

/// The connections of one executor to one target, whichever of its holds on it has opened them: all others of its account are
/// strangers'. Clones are handles to the same ones.
#[derive(Clone, Debug, Default)]
pub struct OwnSessions {
    all: Arc<Mutex<BTreeSet<(Endpoint, Binding)>>>,
    /// Held by whoever opens one, from before the server knows of it until it is noted here; and by whoever ends strangers', alone.
    opening: Arc<RwLock<()>>,
}

impl OwnSessions {
    /// Waits until none is being opened, and lets none be opened as long as the guard lives.
    pub(crate) async fn settled(&self) -> RwLockWriteGuard<'_, ()> {
        self.opening.write().await
    }

    /// All of them, wherever they lead: two addresses may be one server's.
    pub(crate) fn all(&self) -> Vec<Binding> {
        self.lock().iter().map(|(_, binding)| *binding).collect()
    }

    /// Held from before the server knows of a new connection until it is noted.
    pub(crate) async fn opening(&self) -> RwLockReadGuard<'_, ()> {
        self.opening.read().await
    }

    /// Notes a new connection, until what it returns is dropped.
    pub(crate) fn open(&self, endpoint: &Endpoint, binding: Binding) -> Open {
        self.lock().insert((endpoint.clone(), binding));
        Open { all: self.clone(), this: (endpoint.clone(), binding) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Endpoint, Binding)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them, until it is dropped.
pub(crate) struct Open {
    all: OwnSessions,
    this: (Endpoint, Binding),
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.lock().remove(&self.this);
    }
}
