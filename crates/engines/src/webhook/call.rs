//! One act: asked for under one secret after the other, answered under the same, and believed only then.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quorate_crypto::secret::SecretVec;

use super::message::{Act, Asked, Said, Unsigned, Wrong};
use super::signature::{SigningSecret, random};
use super::{Webhook, unreadable};
use crate::EngineError;
use crate::http::{Answer, Http, HttpError, Path, Request};

/// The headers of the scheme.
const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

/// How much of a receiver's words is kept.
const MAX_WORDS: usize = 500;

/// What a request is sent with. [`check`](super::check) asks with what must be refused.
pub(super) struct Envelope<'a> {
    /// Never twice.
    pub(super) id: String,
    /// In seconds since 1970.
    pub(super) timestamp: u64,
    pub(super) secret: &'a SigningSecret,
    /// The act that the path names, which is not signed.
    pub(super) path: &'a str,
}

impl<'a> Envelope<'a> {
    /// One that is in order.
    pub(super) fn new(secret: &'a SigningSecret, path: &'a str) -> Result<Self, EngineError> {
        let mut bytes = [0; 16];
        random(&mut bytes)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let timestamp =
            since.map_err(|_| EngineError::Unavailable { reason: "the clock here is before 1970".to_owned() })?;
        let id = format!("req_{}", URL_SAFE_NO_PAD.encode(bytes));
        Ok(Self { id, timestamp: timestamp.as_secs(), secret, path })
    }
}

/// Done, and by which life of the receiver.
pub(super) struct Did<T> {
    pub(super) instance: i32,
    pub(super) data: T,
}

/// Why something is not known to be done.
#[derive(Debug)]
pub(super) enum Failed {
    /// Signed: it had no effect, or the receiver says that it does not know.
    Said { code: String, message: String },
    /// Nothing has left.
    NotSent(EngineError),
    /// The receiver does not know the signature. That is not signed, and so proves nothing.
    NotLetIn { message: String },
    /// Perhaps it is done: the answer is lost, or is not to be believed.
    Lost { reason: String },
    /// Signed, and of another form than an answer to this act. Asked again, it would be so again.
    Unreadable { act: &'static str },
}

impl Failed {
    /// What it means for an act that can be repeated.
    pub(super) fn repeatable(self) -> EngineError {
        match self {
            Self::Lost { reason } => EngineError::Unavailable { reason },
            Self::Unreadable { act } => unreadable(act),
            Self::NotLetIn { message } => EngineError::Refused { code: "signature".to_owned(), message },
            Self::NotSent(error) => error,
            Self::Said { code, message } => match code.as_str() {
                "stale_binding" => EngineError::StaleBinding,
                "duplicate" => EngineError::Duplicate,
                "busy" => EngineError::Busy { code, message },
                "unknown" => EngineError::Unavailable { reason: message },
                _ => EngineError::Refused { code, message },
            },
        }
    }

    /// What it means for a create. Nothing that is not signed says that it had no effect.
    pub(super) fn of_create(self) -> EngineError {
        match self {
            Self::Lost { reason } => EngineError::Unknown { reason },
            Self::Unreadable { act } => EngineError::Unknown { reason: unreadable(act).to_string() },
            Self::NotLetIn { message } => EngineError::Unknown { reason: message },
            Self::Said { code, message } if code == "unknown" => EngineError::Unknown { reason: message },
            other => other.repeatable(),
        }
    }
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Self::NotSent(error)
    }
}

impl Webhook {
    /// Asks with each secret that is known, until one is let in. An answer that is lost is asked for once more, with
    /// another id: every act may be repeated, and a create has its idempotency key.
    pub(super) async fn ask<A: Act>(&self, http: &Http, act: &A) -> Result<Did<A::Answer>, Failed> {
        let mut failed = Failed::NotSent(EngineError::Unavailable { reason: "there is no password".to_owned() });
        // Whether anything before may have taken effect.
        let mut lost = None;
        for known in self.config.passwords.all() {
            let secret = match SigningSecret::of_password(&known.password) {
                Ok(secret) => secret,
                Err(error) => {
                    // What the receiver has said to another one is worth more.
                    if !matches!(failed, Failed::NotLetIn { .. }) {
                        failed = error.into();
                    }
                    continue;
                }
            };
            let mut result = self.ask_once(http, &Envelope::new(&secret, A::NAME)?, act).await;
            if let Err(Failed::Lost { reason }) = result {
                lost = Some(reason);
                result = self.ask_once(http, &Envelope::new(&secret, A::NAME)?, act).await;
            }
            match result {
                Ok(did) => {
                    self.config.passwords.let_in(known.number);
                    return Ok(did);
                }
                Err(error @ Failed::NotLetIn { .. }) => failed = error,
                Err(error) => {
                    if matches!(error, Failed::Said { .. }) {
                        self.config.passwords.let_in(known.number);
                    }
                    failed = error;
                    break;
                }
            }
        }
        if let Failed::NotLetIn { message } = &failed {
            let refused = EngineError::Refused { code: "signature".to_owned(), message: message.clone() };
            self.config.passwords.refused(&refused);
        }
        if let Failed::NotSent(error @ (EngineError::Refused { .. } | EngineError::Invalid { field: "password", .. })) =
            &failed
        {
            self.config.passwords.refused(error);
        }
        Err(match (lost, failed) {
            // What is said of the second says nothing of the first, which may be at work yet.
            (Some(reason), _) if A::IS_DEFINITE => Failed::Lost { reason },
            (Some(reason), Failed::NotSent(_) | Failed::NotLetIn { .. }) => Failed::Lost { reason },
            (_, failed) => failed,
        })
    }

    /// Sends one request, and believes what is signed under the same secret as an answer to it.
    pub(super) async fn ask_once<A: Act>(
        &self,
        http: &Http,
        envelope: &Envelope<'_>,
        act: &A,
    ) -> Result<Did<A::Answer>, Failed> {
        let Envelope { id, secret, .. } = envelope;
        let asked = Asked {
            kind: format!("quorate.v1.{}", A::NAME),
            target: &self.config.target,
            term: self.config.term,
            data: act,
        };
        // Large enough for whatever has a secret in it, so that it is not copied while it grows.
        let mut body = Vec::with_capacity(4096);
        serde_json::to_writer(&mut body, &asked)
            .map_err(|_| EngineError::Invalid { field: "request", reason: "not to be said in JSON" })?;
        let timestamp = envelope.timestamp.to_string();
        let signature = secret.sign(id, &timestamp, &body)?;
        let mut segments: Vec<&str> = self.config.path.iter().map(String::as_str).collect();
        segments.extend(["v1", envelope.path]);
        let request = Request::post(Path::new(&segments)?)
            .header(ID, id)?
            .header(TIMESTAMP, &timestamp)?
            .header(SIGNATURE, &signature)?
            .json(SecretVec::new(body));
        let answer = http.call(&request).await.map_err(|error| match error {
            HttpError::Unknown { reason } => Failed::Lost { reason },
            other => Failed::NotSent(other.into()),
        })?;
        believe::<A>(&answer, envelope)
    }
}

/// What an answer says, if it is signed, and to this request.
fn believe<A: Act>(answer: &Answer, envelope: &Envelope<'_>) -> Result<Did<A::Answer>, Failed> {
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Another prefix: else a request could be sent back as the answer to itself.
    let id = format!("ans_{}", envelope.id.strip_prefix("req_").unwrap_or_default());
    let is_signed = header(ID) == id && envelope.secret.is_of(header(SIGNATURE), &id, header(TIMESTAMP), &answer.body);
    if !is_signed {
        return Err(unsigned(answer));
    }
    let unreadable = || Failed::Unreadable { act: A::NAME };
    let said: Said<A::Answer> = serde_json::from_slice(&answer.body).map_err(|_| unreadable())?;
    if said.kind != format!("quorate.v1.{}.answer", envelope.path) {
        return Err(unreadable());
    }
    let instance = i32::try_from(said.instance).map_err(|_| unreadable())?;
    match (said.data, said.error) {
        (Some(data), None) => Ok(Did { instance, data }),
        (None, Some(Wrong { code, message })) => Err(Failed::Said { code: words(&code), message: words(&message) }),
        _ => Err(unreadable()),
    }
}

/// What can be told from an answer that anybody between may have given.
fn unsigned(answer: &Answer) -> Failed {
    let said = serde_json::from_slice::<Unsigned>(&answer.body).map(|said| said.error);
    match said {
        Ok(Wrong { code, message }) if answer.status == 401 && code == "signature" => {
            Failed::NotLetIn { message: words(&message) }
        }
        Ok(Wrong { code, message }) => Failed::Lost {
            reason: format!("answered with {} and no signature: {}: {}", answer.status, words(&code), words(&message)),
        },
        Err(_) => Failed::Lost { reason: format!("answered with {} and no signature that counts", answer.status) },
    }
}

/// A receiver's words, in so far as they are fit for a line of a log.
pub(super) fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}
