//! Marks that clusters leave in a server for each other: accounts that can't log in, whose names say whose the server is.

use super::inspect::{list, started};
use super::issue::{Standing, Taken, drop_marker, standing, take};
use super::session::Session;
use crate::EngineError;

/// See [`crate::Engine::claims`].
pub(super) async fn claims(session: &mut Session, prefix: &str) -> Result<Vec<String>, EngineError> {
    // A replica may not know of the newest.
    started(session).await?;
    Ok(list(session, prefix).await?.into_iter().map(|principal| principal.name).collect())
}

/// See [`crate::Engine::claim`].
pub(super) async fn claim(session: &mut Session, name: &str) -> Result<(), EngineError> {
    started(session).await?;
    match take(session, name).await? {
        Taken::Now => Ok(()),
        Taken::Exists => Err(EngineError::Duplicate),
        Taken::Blocked => {
            let message = "accounts can't be changed just now".to_owned();
            Err(EngineError::Busy { code: "1205".to_owned(), message })
        }
    }
}

/// See [`crate::Engine::disclaim`].
pub(super) async fn disclaim(session: &mut Session, names: &[String]) -> Result<Vec<String>, EngineError> {
    let mut left = Vec::new();
    for name in names {
        match standing(session, name).await? {
            None => {}
            Some(Standing::Marker) => drop_marker(session, name).await?,
            Some(Standing::Account) => left.push(name.clone()),
        }
    }
    Ok(left)
}
