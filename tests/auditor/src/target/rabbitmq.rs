//! A RabbitMQ, by its management interface. An account has no number: a connection tells the name as which it was let in.

use super::first_line;
use super::http::Http;
use crate::judge::{Identity, Look, Role, Session};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Request;
use hyper::header::AUTHORIZATION;
use serde_json::Value;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

/// Accounts, and then who may enter which virtual host: where a password is taken away before what it was good for, whoever seems to have both
/// has had both. Connections last, from the table in which the server counts them itself and not from its statistics, which are 5 s late.
const ASKED: [&str; 3] =
    ["/api/users", "/api/permissions", "/api/connections?disable_stats=true&enable_queue_totals=true"];

/// Where it is.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Address {
    /// A RabbitMQ's management interface.
    #[arg(long, value_name = "HOST:PORT", group = "kind")]
    rabbitmq: Option<String>,
    /// The user as whom RabbitMQ is asked: it has the tag `administrator`.
    #[arg(long, requires = "rabbitmq", default_value = "guest")]
    rabbitmq_user: String,
    /// The file whose first line is that user's password.
    #[arg(long, requires = "rabbitmq", value_name = "FILE")]
    rabbitmq_password_file: Option<PathBuf>,
}

pub(crate) struct RabbitMq {
    http: Http,
    authorization: String,
    prefix: String,
}

impl RabbitMq {
    /// None where no RabbitMQ was said.
    pub(super) fn new(address: Address, roots: Option<PathBuf>, prefix: &str) -> anyhow::Result<Option<Self>> {
        let Address { rabbitmq, rabbitmq_user, rabbitmq_password_file } = address;
        let Some(address) = rabbitmq else { return Ok(None) };
        let password = first_line(rabbitmq_password_file.context("RabbitMQ needs --rabbitmq-password-file")?)?;
        let authorization = format!("Basic {}", STANDARD.encode(format!("{rabbitmq_user}:{password}")));
        Ok(Some(Self { http: Http::new(address, roots)?, authorization, prefix: prefix.to_owned() }))
    }

    pub(super) async fn look(&mut self) -> anyhow::Result<Look> {
        let mut answers = Vec::new();
        for path in ASKED {
            let request = Request::get(path).header(AUTHORIZATION, &self.authorization);
            let answer = self.http.call(request, "").await.and_then(super::http::Answer::json);
            let answer = answer.with_context(|| path.to_owned())?;
            let Value::Array(answer) = answer else { anyhow::bail!("{path}: no list") };
            answers.push(answer);
        }
        let [users, permissions, connections] = answers.as_slice() else { anyhow::bail!("three answers") };
        seen(users, permissions, connections, &self.prefix)
    }
}

fn seen(users: &[Value], permissions: &[Value], connections: &[Value], prefix: &str) -> anyhow::Result<Look> {
    let text = |of: &Value, field: &str| of.get(field).and_then(Value::as_str).map(str::to_owned);
    let may_enter: BTreeSet<String> = permissions.iter().filter_map(|one| text(one, "user")).collect();
    let mut seen = Look::default();
    for user in users {
        let name = text(user, "name").context("a user without a name")?;
        if name.starts_with(prefix) {
            let has_password = text(user, "password_hash").is_none_or(|hash| !hash.is_empty());
            let has_tag = match user.get("tags") {
                Some(Value::Array(tags)) => !tags.is_empty(),
                Some(Value::String(tags)) => !tags.is_empty(),
                _ => true,
            };
            let can_login = has_password && (has_tag || may_enter.contains(&name));
            seen.roles.insert(name.clone(), Role { identity: Identity::Name(name), can_login });
        }
    }
    for connection in connections {
        // One that has not yet said who it is has no user.
        let Some(user) = text(connection, "user").filter(|user| user.starts_with(prefix)) else { continue };
        let name = text(connection, "name").context("a connection without a name")?;
        let began = connection.get("connected_at").and_then(Value::as_i64).unwrap_or_default();
        let role = seen.roles.contains_key(&user).then(|| user.clone());
        seen.sessions.push(Session { id: number(&name), began, of: Identity::Name(user), role });
    }
    Ok(seen)
}

/// A connection's name, which is the addresses and ports of its two ends, as a number.
fn number(name: &str) -> i64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish().cast_signed()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_account_lets_in_with_a_password_and_something_to_enter() {
        let user = |name: &str, hash: &str, tags: Value| json!({ "name": name, "password_hash": hash, "tags": tags });
        let users = [
            user("q1_good", "9jQ=", json!([])),
            user("q1_nowhere", "9jQ=", json!([])),
            user("q1_refused", "", json!([])),
            user("q1_power", "9jQ=", json!(["management"])),
            user("q1_old", "9jQ=", json!("administrator")),
            user("q2_other", "9jQ=", json!([])),
        ];
        let permissions = ["q1_good", "q1_refused", "q2_other"].map(|user| json!({ "user": user, "vhost": "/" }));
        let connection =
            |user: Value, at: i64| json!({ "name": "127.0.0.1:4 -> 127.0.0.1:5", "user": user, "connected_at": at });
        let connections = [
            connection(json!("q1_good"), 1),
            connection(json!("q1_good"), 2),
            connection(json!("q1_gone"), 3),
            connection(json!("q2_other"), 4),
            json!({ "name": "127.0.0.1:6 -> 127.0.0.1:5" }),
        ];
        let seen = seen(&users, &permissions, &connections, "q1_").unwrap();
        let let_in: Vec<&str> = seen.roles.iter().filter(|(_, r)| r.can_login).map(|(n, _)| n.as_str()).collect();
        assert_eq!((let_in, seen.roles.len()), (vec!["q1_good", "q1_old", "q1_power"], 5));
        let sessions: Vec<_> = seen.sessions.iter().map(|s| (s.began, s.role.as_deref())).collect();
        assert_eq!(sessions, [(1, Some("q1_good")), (2, Some("q1_good")), (3, None)]);
    }
}
