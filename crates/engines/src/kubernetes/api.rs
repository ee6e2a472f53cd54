//! The API server: who asks, and what its answers mean.

use std::sync::Arc;

use quorate_crypto::secret::SecretVec;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::KubernetesConfig;
use super::object::{Kind, Secret};
use super::token::Claims;
use crate::EngineError;
use crate::http::{Answer, Http, HttpConfig, HttpError, Path, Repeat, Request};

/// The longest answer, in bytes: a page of Secrets is some hundred KB, and no token is longer than a header.
const MAX_ANSWER: usize = 8 << 20;
/// How many Secrets a page has at most.
const PAGE: usize = 500;
/// How many pages are asked for at most: a list that goes on so long is none.
const PAGES: usize = 4_000;
/// How often a list is begun anew that the server has forgotten in the middle (410).
const ANEW: usize = 3;
/// The code of an answer that refuses what was presented.
const LOGIN: u16 = 401;
pub(super) const FORBIDDEN: &str = "403";
const NOT_FOUND: &str = "404";
pub(super) const CONFLICT: &str = "409";
const GONE: &str = "410";

/// The server, as the executor.
#[derive(Debug)]
pub(super) struct Api {
    http: Http,
}

/// A page of Secrets.
#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
    #[serde(default)]
    items: Vec<Secret>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
    #[serde(default)]
    resource_version: String,
}

/// What the server says of what it did or did not.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
}

impl Api {
    pub(super) fn new(config: &KubernetesConfig) -> Result<Self, EngineError> {
        let http = Http::new(HttpConfig {
            endpoint: config.endpoint.clone(),
            tls: config.tls.clone(),
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout,
            max_answer: MAX_ANSWER,
        })?;
        Ok(Self { http })
    }

    /// Asks as the executor, with the token that the server takes.
    pub(super) async fn call(&self, config: &KubernetesConfig, request: Request) -> Result<Answer, EngineError> {
        let request = &request;
        let ask = |token: Arc<SecretVec>| async move { self.send(request, &token).await };
        config.passwords.log_in(ask).await?
    }

    /// Asks as whoever bears that token.
    pub(super) async fn call_as(&self, token: &SecretVec, request: &Request) -> Result<Answer, EngineError> {
        self.send(request, token).await?
    }

    /// What the server answers to whom it lets in; the outer error is about who asks, and about the way there.
    async fn send(&self, request: &Request, token: &SecretVec) -> Result<Result<Answer, EngineError>, EngineError> {
        let answer = self.http.call(&request.bearer(token)?).await?;
        let wait = answer.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
        let words = |body: &[u8]| {
            let said = serde_json::from_slice::<Status>(body).ok()?.message;
            Some(without_tokens(&said, token))
        };
        Ok(match answer.success(words) {
            Ok(answer) => Ok(answer),
            Err(HttpError::Answered { status: LOGIN, words }) => {
                let ended = Claims::of(token.expose()).and_then(|claims| claims.ended());
                let message = ended.map_or(words.clone(), |s| format!("{words}: the token ran out {s} s ago"));
                return Err(EngineError::Refused { code: LOGIN.to_string(), message });
            }
            Err(error) => Err(match EngineError::from(error) {
                EngineError::Busy { code, message } => {
                    let asked = wait.map_or(String::new(), |s| format!("; it asks to wait {s} s"));
                    EngineError::Busy { code, message: format!("{message}{asked}") }
                }
                other => other,
            }),
        })
    }

    /// What is there, if it is: the newest that there is (a `get` without `resourceVersion` is no older than the request).
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        config: &KubernetesConfig,
        path: Path,
    ) -> Result<Option<T>, EngineError> {
        match repeatable(self.call(config, Request::get(path)).await) {
            Ok(answer) => read(&answer).map(Some),
            Err(error) if is(&error, NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What must be there.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        config: &KubernetesConfig,
        path: Path,
    ) -> Result<T, EngineError> {
        read(&repeatable(self.call(config, Request::get(path)).await)?)
    }

    /// The Secret of a name.
    pub(super) async fn secret(&self, config: &KubernetesConfig, name: &str) -> Result<Option<Secret>, EngineError> {
        let found: Option<Secret> = self.find(config, secret_path(config, name)?).await?;
        match found {
            Some(secret) if secret.metadata.name != name || secret.metadata.uid.is_empty() => Err(unreadable()),
            found => Ok(found),
        }
    }

    /// Makes a Secret. Sent once.
    pub(super) async fn make(&self, config: &KubernetesConfig, body: &Value) -> Result<Secret, EngineError> {
        let request = Request::post(secrets_path(config)?).json(bytes(body));
        let made: Secret = read(&definite(self.call(config, request).await)?)?;
        // By its name, and of the kind that was asked for: what is made of it rests on that.
        let same = Some(made.metadata.name.as_str()) == body.pointer("/metadata/name").and_then(Value::as_str);
        let kind = [Kind::Lease, Kind::Claim, Kind::Session].into_iter().find(|kind| made.is(*kind));
        let asked = body.get("type").and_then(Value::as_str);
        if same && kind.map(Kind::as_type) == asked && !made.metadata.uid.is_empty() {
            Ok(made)
        } else {
            Err(unreadable())
        }
    }

    /// Removes exactly that Secret, and none that was made under its name since; whether it was there.
    ///
    /// # Errors
    /// [`EngineError::Busy`] as long as something holds it back: until it is gone the server may let in with what is bound to it.
    pub(super) async fn remove(&self, config: &KubernetesConfig, secret: &Secret) -> Result<bool, EngineError> {
        let (name, uid) = (&secret.metadata.name, &secret.metadata.uid);
        let body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } });
        let request = Request::delete(secret_path(config, name)?).repeat(Repeat::Once).json(bytes(&body));
        let removed = match repeatable(self.call(config, request).await) {
            Ok(answer) if is_success(&answer) => return Ok(true),
            Ok(_) => true,
            // Another one has its name by now, or none.
            Err(error) if is(&error, NOT_FOUND) || is(&error, CONFLICT) => false,
            Err(error) => return Err(error),
        };
        match self.still(config, secret).await? {
            None => Ok(removed),
            Some(_) => Err(held(name)),
        }
    }

    /// The Secret, if it is there yet.
    async fn still(&self, config: &KubernetesConfig, secret: &Secret) -> Result<Option<Secret>, EngineError> {
        let found = self.secret(config, &secret.metadata.name).await?;
        Ok(found.filter(|found| found.metadata.uid == secret.metadata.uid))
    }

    /// All Secrets of a kind, a page at a time, all of one moment.
    pub(super) async fn all(&self, config: &KubernetesConfig, kind: Kind) -> Result<Vec<Secret>, EngineError> {
        let mut last = unreadable();
        for _ in 0..ANEW {
            match self.all_at_once(config, kind).await {
                // What it has begun to say is too old by now.
                Err(error) if is(&error, GONE) => last = error,
                other => return other,
            }
        }
        Err(EngineError::Busy { code: GONE.to_owned(), message: last.to_string() })
    }

    async fn all_at_once(&self, config: &KubernetesConfig, kind: Kind) -> Result<Vec<Secret>, EngineError> {
        let (mut all, mut next) = (Vec::new(), None::<String>);
        for _ in 0..PAGES {
            let mut path = list_path(config, kind, PAGE)?;
            if let Some(next) = &next {
                path = path.with("continue", next);
            }
            let page: Page = self.get(config, path).await?;
            // One that does not know the selector says too much, and nothing false.
            all.extend(page.items.into_iter().filter(|secret| secret.is(kind)));
            let more = page.metadata.next.filter(|token| !token.is_empty());
            if more.is_none() {
                return Ok(all);
            }
            if more == next {
                break;
            }
            next = more;
        }
        Err(unreadable())
    }

    /// Which change of the cluster's store was the last, when it answered.
    pub(super) async fn revision(&self, config: &KubernetesConfig) -> Result<u64, EngineError> {
        let page: Page = self.get(config, list_path(config, Kind::Session, 1)?).await?;
        page.metadata.resource_version.parse().map_err(|_| unreadable())
    }

    /// Asks something by sending it, which changes nothing.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        config: &KubernetesConfig,
        path: Path,
        body: &Value,
    ) -> Result<T, EngineError> {
        let request = Request::post(path).repeat(Repeat::Once).json(bytes(body));
        read(&repeatable(self.call(config, request).await)?)
    }
}

/// A body to be sent, which is wiped.
pub(super) fn bytes(body: &Value) -> SecretVec {
    SecretVec::new(body.to_string().into_bytes())
}

/// Whether the server says that it has done all that was asked.
fn is_success(answer: &Answer) -> bool {
    serde_json::from_slice::<Status>(&answer.body).is_ok_and(|said| said.kind == "Status" && said.status == "Success")
}

fn held(name: &str) -> EngineError {
    let message = format!("the Secret {name} was told to go and is still there: a finalizer holds it back");
    EngineError::Busy { code: "finalizer".to_owned(), message }
}

/// Whether the server refuses with this status.
pub(super) fn is(error: &EngineError, status: &str) -> bool {
    matches!(error, EngineError::Refused { code, .. } if code == status)
}

/// Of a call that may be repeated it does not matter whether it was done.
pub(super) fn repeatable<T>(result: Result<T, EngineError>) -> Result<T, EngineError> {
    result.map_err(|error| match error {
        EngineError::Unknown { reason } => EngineError::Unavailable { reason },
        other => other,
    })
}

/// Of a call that makes something, 503 says nothing of what became of it: the server's store may have done it. 429 does: it is answered
/// before anything is looked at.
fn definite<T>(result: Result<T, EngineError>) -> Result<T, EngineError> {
    result.map_err(|error| match error {
        EngineError::Busy { code, message } if code == "503" => EngineError::Unknown { reason: message },
        other => other,
    })
}

pub(super) fn unreadable() -> EngineError {
    // Its own words would quote the answer.
    EngineError::Unavailable { reason: "the target answered with what can't be read".to_owned() }
}

pub(super) fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, EngineError> {
    serde_json::from_slice(&answer.body).map_err(|_| unreadable())
}

/// What a server says, unless it says a token: the one with which it was asked, or any other that is one on sight.
fn without_tokens(said: &str, token: &SecretVec) -> String {
    let quotes = core::str::from_utf8(token.expose()).is_ok_and(|token| said.contains(token));
    // What every JWT begins with: `{"` in base64.
    if quotes || said.contains("eyJ") { "(words with a token in them)".to_owned() } else { said.to_owned() }
}

pub(super) fn secrets_path(config: &KubernetesConfig) -> Result<Path, EngineError> {
    Path::new(&["api", "v1", "namespaces", &config.namespace, "secrets"])
}

fn secret_path(config: &KubernetesConfig, name: &str) -> Result<Path, EngineError> {
    Path::new(&["api", "v1", "namespaces", &config.namespace, "secrets", name])
}

/// Without `resourceVersion`: as new as the request, and what follows is of the same moment.
fn list_path(config: &KubernetesConfig, kind: Kind, limit: usize) -> Result<Path, EngineError> {
    let selector = format!("type={}", kind.as_type());
    Ok(secrets_path(config)?.with("fieldSelector", &selector).with("limit", &limit.to_string()))
}

pub(super) fn account_path(config: &KubernetesConfig, account: &str) -> Result<Path, EngineError> {
    Path::new(&["api", "v1", "namespaces", &config.namespace, "serviceaccounts", account])
}

pub(super) fn token_path(config: &KubernetesConfig, account: &str) -> Result<Path, EngineError> {
    Path::new(&["api", "v1", "namespaces", &config.namespace, "serviceaccounts", account, "token"])
}

pub(super) fn namespace_path(config: &KubernetesConfig) -> Result<Path, EngineError> {
    Path::new(&["api", "v1", "namespaces", &config.namespace])
}

/// A question of who somebody is.
pub(super) fn authentication(what: &str) -> Result<Path, EngineError> {
    Path::new(&["apis", "authentication.k8s.io", "v1", what])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_tokens_are_not_repeated() {
        let token = SecretVec::new(b"opaque-canary".to_vec());
        let said = |words: &str| without_tokens(words, &token);
        assert_eq!(said("secrets \"a\" not found"), "secrets \"a\" not found");
        for bad in ["you said opaque-canary", "bad token eyJhbGciOi.eyJ.x"] {
            assert_eq!(said(bad), "(words with a token in them)");
        }
    }

    #[test]
    fn what_may_have_been_made_is_not_called_busy() {
        let busy = |code: &str| EngineError::Busy { code: code.to_owned(), message: "etcd".to_owned() };
        assert_eq!(definite::<()>(Err(busy("429"))), Err(busy("429")));
        assert_eq!(definite::<()>(Err(busy("503"))), Err(EngineError::Unknown { reason: "etcd".to_owned() }));
    }
}
