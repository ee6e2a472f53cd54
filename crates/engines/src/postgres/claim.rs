//! Marks that clusters leave in a server for each other: roles that can't log in, whose names say whose the server is.

use tokio_postgres::types::Type;

use super::inspect::Position;
use super::issue::{Taken, drop_markers, standing, take};
use super::session::{Session, on_repeatable};
use crate::{EngineError, valid_name};

/// See [`crate::Engine::claims`].
pub(super) async fn claims(session: &Session, prefix: &str) -> Result<Vec<String>, EngineError> {
    // A standby may not know of the newest.
    Position::of(session).await?;
    let sql = "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, $1) ORDER BY rolname COLLATE \"C\"";
    let rows = session.client.query_typed(sql, &[(&prefix, Type::TEXT)]).await.map_err(|e| on_repeatable(&e))?;
    let names: Vec<String> =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(|e| on_repeatable(&e))?;
    Ok(names.into_iter().filter(|name| name.starts_with(prefix) && valid_name(name)).collect())
}

/// See [`crate::Engine::claim`].
pub(super) async fn claim(session: &Session, name: &str) -> Result<(), EngineError> {
    match take(session, name).await? {
        Taken::Now => Ok(()),
        Taken::Exists => Err(EngineError::Duplicate),
        Taken::Blocked => {
            let message = "somebody else is making an account of that name".to_owned();
            Err(EngineError::Busy { code: "55P03".to_owned(), message })
        }
    }
}

/// See [`crate::Engine::disclaim`].
pub(super) async fn disclaim(session: &Session, names: &[String]) -> Result<Vec<String>, EngineError> {
    let named: Vec<&str> = names.iter().map(String::as_str).collect();
    let standing = standing(session, &named).await?;
    let marked = |is: bool| {
        let standing = &standing;
        named.iter().copied().filter(move |name| standing.get(*name).is_some_and(|(_, marker)| *marker == is))
    };
    drop_markers(session, &marked(true).collect::<Vec<_>>()).await?.into_iter().collect::<Result<(), _>>()?;
    Ok(marked(false).map(str::to_owned).collect())
}
