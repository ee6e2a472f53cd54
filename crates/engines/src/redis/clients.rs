//! The connections that the server has, whosever they are.

use std::collections::BTreeSet;

use redis::{Pipeline, Value};

use super::session::{Session, text, unexpected};
use crate::{Binding, EngineError};

/// One of the server's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// Never given twice by one process of the server.
    pub(super) id: i64,
    /// What it calls itself.
    pub(super) name: String,
    /// As whom it is authenticated.
    pub(super) user: String,
}

/// All of them: also those that are blocked, subscribed, in a transaction, watching commands, or replicas.
pub(super) async fn list(session: &mut Session) -> Result<Vec<Client>, EngineError> {
    let answer = session.call(redis::cmd("CLIENT").arg("LIST")).await?;
    parse(&answer)
}

pub(super) fn parse(answer: &Value) -> Result<Vec<Client>, EngineError> {
    let text = text(answer).ok_or_else(|| unexpected("CLIENT LIST"))?;
    // The server lets nobody have a name with a space in it, so no field can be forged.
    let client = |line: &str| {
        let field = |key: &str| line.split(' ').find_map(|f| f.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        let id = field("id").and_then(|id| id.parse().ok()).ok_or_else(|| unexpected("CLIENT LIST"))?;
        let user = field("user").ok_or_else(|| unexpected("CLIENT LIST"))?;
        Ok(Client { id, name: field("name").unwrap_or_default(), user })
    };
    text.lines().filter(|line| !line.is_empty()).map(client).collect()
}

/// Ends these; how many were there to be ended.
pub(super) async fn kill(session: &mut Session, ids: &BTreeSet<i64>) -> Result<usize, EngineError> {
    let mut commands = Pipeline::new();
    for id in ids {
        commands.cmd("CLIENT").arg("KILL").arg("ID").arg(*id);
    }
    let mut killed = 0;
    for answer in session.call_all(&commands, ids.len()).await? {
        killed += usize::from(answer? == Value::Int(1));
    }
    Ok(killed)
}

/// Ends one connection of ours, and sees that it is gone: what was sent on it and not yet read never will be.
///
/// A server that was started since has none of the connections of the one before.
pub(super) async fn end(session: &mut Session, binding: &Binding) -> Result<(), EngineError> {
    if session.binding.pid != binding.pid {
        return Ok(());
    }
    let id = binding.backend_start_micros;
    kill(session, &BTreeSet::from([id])).await?;
    if list(session).await?.iter().any(|client| client.id == id) {
        let message = "the connection that is to end is still there".to_owned();
        return Err(EngineError::Busy { code: "CLIENT".to_owned(), message });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_it_is() {
        let line =
            "id=15 addr=127.0.0.1:5 name=quorate/t/1 cmd=client|list user=a redir=-1\nid=16 name= user=b resp=2\n";
        let clients = parse(&Value::BulkString(line.as_bytes().to_vec())).unwrap();
        let client = |id, name: &str, user: &str| Client { id, name: name.into(), user: user.into() };
        assert_eq!(clients, [client(15, "quorate/t/1", "a"), client(16, "", "b")]);
        assert!(parse(&Value::BulkString(b"id=1 name=x".to_vec())).is_err(), "without a user nothing is known");
        assert!(parse(&Value::Nil).is_err());
    }
}
