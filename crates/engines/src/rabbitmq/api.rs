//! The server's management interface: who asks, and what its answers mean.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_crypto::secret::SecretVec;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::RabbitMqConfig;
use crate::EngineError;
use crate::http::{Answer, Http, HttpConfig, Path, Repeat, Request};

/// The longest answer: some 100,000 accounts or connections.
const MAX_ANSWER: usize = 64 << 20;
/// The hash of a password is this many bytes of salt, and the SHA-256 of them and the password.
const SALT: usize = 4;
const HASH: usize = SALT + 32;
/// The code of an answer that refuses what was presented (401).
const LOGIN: &str = "401";
/// Ours for one that has let in and refuses the rest.
pub(super) const RIGHTS: &str = "403";
const NOT_FOUND: &str = "404";

/// The server, as the executor's own account.
#[derive(Debug)]
pub(super) struct Api {
    http: Http,
}

/// An account, as far as it matters.
#[derive(Clone, Deserialize)]
pub(super) struct Account {
    pub(super) name: String,
    /// Empty for one that no password lets in.
    pub(super) password_hash: String,
    pub(super) tags: Vec<String>,
}

impl Account {
    /// Nobody can log in with a password, and it has no power.
    pub(super) fn is_mark(&self) -> bool {
        self.password_hash.is_empty() && self.tags.is_empty()
    }
}

/// A connection of a client.
#[derive(Deserialize)]
pub(super) struct Client {
    /// Its two ends, and with some protocols more.
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) user: String,
}

/// What may be done in one virtual host, and by whom.
#[derive(Deserialize)]
pub(super) struct Grant {
    pub(super) user: String,
    pub(super) vhost: String,
}

/// One server of the cluster.
#[derive(Deserialize)]
pub(super) struct Node {
    pub(super) name: String,
    #[serde(default)]
    pub(super) running: bool,
    #[serde(default)]
    pub(super) partitions: Vec<String>,
    /// In milliseconds.
    #[serde(default)]
    pub(super) uptime: u64,
    /// Empty for some seconds after a start, as long as there are no statistics of it.
    #[serde(default)]
    pub(super) os_pid: String,
    #[serde(default)]
    pub(super) enabled_plugins: Vec<String>,
    #[serde(default)]
    pub(super) sockets_total: u32,
}

/// What says something.
#[derive(Deserialize)]
pub(super) struct Overview {
    pub(super) rabbitmq_version: String,
}

/// Who is asked as.
#[derive(Deserialize)]
pub(super) struct WhoAmI {
    pub(super) tags: Vec<String>,
}

/// Something that has a name.
#[derive(Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

impl Api {
    pub(super) fn new(config: &RabbitMqConfig) -> Result<Self, EngineError> {
        let http = Http::new(HttpConfig {
            endpoint: config.endpoint.clone(),
            tls: config.tls.clone(),
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout,
            max_answer: MAX_ANSWER,
        })?;
        Ok(Self { http })
    }

    /// Asks as the executor, with the password that the server knows.
    pub(super) async fn call(&self, config: &RabbitMqConfig, request: Request) -> Result<Answer, EngineError> {
        let request = &request;
        let ask = |password: Arc<SecretVec>| async move { self.send(&request.basic(&config.user, &password)?).await };
        config.passwords.log_in(ask).await?
    }

    /// Asks as another account.
    pub(super) async fn call_as(
        &self,
        user: &str,
        password: &SecretVec,
        request: Request,
    ) -> Result<Answer, EngineError> {
        self.send(&request.basic(user, password)?).await?
    }

    /// What the server answers to whom it lets in; the outer error is about who asks, and about the way there.
    async fn send(&self, request: &Request) -> Result<Result<Answer, EngineError>, EngineError> {
        let answer = self.http.call(request).await?;
        // "Not administrator user", "Not management user": it has let in, and answers with the same status.
        let is_right = |reason: String| reason.starts_with("Not ") && reason.ends_with(" user");
        let lacks_right = reason(&answer.body).is_some_and(is_right);
        match answer.success(words).map_err(EngineError::from) {
            Err(EngineError::Refused { code, message }) if code == LOGIN && lacks_right => {
                Ok(Err(EngineError::Refused { code: RIGHTS.to_owned(), message }))
            }
            Err(error) if error.is_login_refused() => Err(error),
            other => Ok(other),
        }
    }

    /// What is there, if it is.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        config: &RabbitMqConfig,
        path: Path,
    ) -> Result<Option<T>, EngineError> {
        match repeatable(self.call(config, Request::get(path)).await) {
            Ok(answer) => read(&answer).map(Some),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What must be there.
    pub(super) async fn get<T: DeserializeOwned>(&self, config: &RabbitMqConfig, path: Path) -> Result<T, EngineError> {
        read(&repeatable(self.call(config, Request::get(path)).await)?)
    }

    /// Removes what may be there; whether it was. Twice is as good as once.
    pub(super) async fn remove(&self, config: &RabbitMqConfig, path: Path) -> Result<bool, EngineError> {
        let request = Request::delete(path).repeat(Repeat::Once).header("x-reason", "ended by quorate")?;
        removed(repeatable(self.call(config, request).await))
    }

    /// Puts something where another may be. Twice is as good as once.
    pub(super) async fn put(&self, config: &RabbitMqConfig, path: Path, body: &Value) -> Result<Answer, EngineError> {
        repeatable(self.call(config, Request::put(path).repeat(Repeat::Once).json(bytes(body))).await)
    }
}

/// A body to be sent, which is wiped.
pub(super) fn bytes(body: &Value) -> SecretVec {
    SecretVec::new(body.to_string().into_bytes())
}

/// The body of an account.
pub(super) fn account(password_hash: &str, tags: &str) -> Value {
    json!({ "password_hash": password_hash, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": tags })
}

/// Whether something was removed.
pub(super) fn removed(result: Result<Answer, EngineError>) -> Result<bool, EngineError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn is_absent(error: &EngineError) -> bool {
    matches!(error, EngineError::Refused { code, .. } if code == NOT_FOUND)
}

/// Of a call that may be repeated it does not matter whether it was done.
pub(super) fn repeatable<T>(result: Result<T, EngineError>) -> Result<T, EngineError> {
    result.map_err(|error| match error {
        EngineError::Unknown { reason } => EngineError::Unavailable { reason },
        other => other,
    })
}

pub(super) fn users() -> Result<Path, EngineError> {
    Path::new(&["api", "users"])
}

pub(super) fn user(name: &str) -> Result<Path, EngineError> {
    Path::new(&["api", "users", name])
}

pub(super) fn permission(vhost: &str, name: &str) -> Result<Path, EngineError> {
    Path::new(&["api", "permissions", vhost, name])
}

/// `/api/connections` as the server counts them itself. What it shows of them otherwise is as old as its statistics are: up to 5 s.
pub(super) fn connections() -> Result<Path, EngineError> {
    Ok(Path::new(&["api", "connections"])?.with("disable_stats", "true").with("enable_queue_totals", "true"))
}

/// Those of one user, which are counted so too.
pub(super) fn connections_of(name: &str) -> Result<Path, EngineError> {
    Path::new(&["api", "connections", "username", name])
}

pub(super) fn nodes() -> Result<Path, EngineError> {
    let columns = "name,running,partitions,uptime,os_pid,enabled_plugins,sockets_total";
    Ok(Path::new(&["api", "nodes"])?.with("columns", columns))
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, EngineError> {
    // Its own words would quote the answer.
    serde_json::from_slice(&answer.body)
        .map_err(|_| EngineError::Unavailable { reason: "the target answered with what can't be read".to_owned() })
}

/// What the server says of a refusal. Where that is a list, its first word only: the others quote what was sent.
fn words(body: &[u8]) -> Option<String> {
    let error = serde_json::from_slice::<Value>(body).ok()?.get("error")?.as_str()?.to_owned();
    Some(match reason(body) {
        Some(reason) => format!("{error}: {reason}"),
        None => error,
    })
}

fn reason(body: &[u8]) -> Option<String> {
    let said: Value = serde_json::from_slice(body).ok()?;
    match said.get("reason")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => items.first()?.as_str().map(str::to_owned),
        _ => None,
    }
}

/// The base64 (RFC 4648 section 4) of 4 bytes of salt and the SHA-256 of them and the password.
pub(super) fn check_verifier(verifier: &str) -> Result<(), EngineError> {
    let invalid = EngineError::Invalid {
        field: "verifier",
        reason: "not the base64 of 4 bytes of salt and the SHA-256 of them and a password",
    };
    let decoded = STANDARD.decode(verifier).map_err(|_| invalid.clone())?;
    let (Some(salt), true) = (decoded.get(..SALT), decoded.len() == HASH) else { return Err(invalid) };
    // The server lets nobody in with an empty password. Whoever sends its hash means something else.
    if decoded.get(SALT..) == Some(Sha256::digest(salt).as_slice()) {
        return Err(EngineError::Invalid { field: "verifier", reason: "that of the empty password" });
    }
    Ok(())
}

/// The verifier of a password.
pub(super) fn verifier(salt: [u8; SALT], password: &SecretVec) -> String {
    let hash = Sha256::new().chain_update(salt).chain_update(password.expose()).finalize();
    let mut all = salt.to_vec();
    all.extend_from_slice(&hash);
    STANDARD.encode(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_a_salted_hash_and_nothing_else() {
        // From RabbitMQ's page on passwords: salt 908DC60A, password `test12`.
        let password = SecretVec::new(b"test12".to_vec());
        let good = verifier([0x90, 0x8d, 0xc6, 0x0a], &password);
        assert_eq!(good, "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
        assert_eq!(check_verifier(&good), Ok(()));
        let (short, long) = (STANDARD.encode([1; HASH - 1]), STANDARD.encode([1; HASH + 1]));
        let empty = verifier([1, 2, 3, 4], &SecretVec::new(Vec::new()));
        let spaced = format!("{good} ");
        for bad in ["", "test12", &good[..good.len() - 1], &good[1..], &short, &long, &empty, &spaced, "AAAA"] {
            assert!(check_verifier(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words_do_not_quote_what_was_sent() {
        let said = |body: &str| words(body.as_bytes());
        assert_eq!(
            said(r#"{"error":"bad_request","reason":["not_base64","canary"]}"#).unwrap(),
            "bad_request: not_base64"
        );
        assert_eq!(
            said(r#"{"error":"bad_request","reason":"vhost_or_user_not_found"}"#).unwrap(),
            "bad_request: vhost_or_user_not_found"
        );
        assert_eq!(said(r#"{"error":"Object Not Found"}"#).unwrap(), "Object Not Found");
        assert_eq!(said("<html>canary</html>"), None);
    }
}
