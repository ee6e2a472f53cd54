//! Whether a receiver keeps the contract: what it says of itself, and what it does with requests that it has to refuse.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::call::{Did, Envelope, Failed, words};
use super::message::{Act, Bind, Check, Clean, CreateAccount, Fence, Kill, Refuse, Session, Timeline, ones};
use super::signature::{SigningSecret, random};
use super::{Webhook, unreadable};
use crate::{Binding, Checked, EngineError, Fault, Missing, Principal, Slots};

/// How far in the past a timestamp is that must be refused, in seconds: the tolerance is 300.
const STALE: u64 = 3_600;

/// See [`crate::Engine::check`].
pub(super) async fn check(webhook: &Webhook, groups: &[String]) -> Result<Checked, EngineError> {
    let report = webhook.ask(&webhook.ends, &Check { groups }).await.map_err(Failed::repeatable)?.data;
    let mut missing: Vec<String> = report.missing.iter().map(|text| words(text)).collect();
    missing.extend(breaches(webhook).await?);
    if report.unfit.iter().any(|unfit| !groups.contains(&unfit.name)) {
        return Err(unreadable("check"));
    }
    let unfit = report.unfit.into_iter().map(|one| Fault { name: one.name, reason: words(&one.reason) }).collect();
    Ok(Checked {
        server_version: report.release,
        timeline: report.timeline,
        endpoints: vec![webhook.endpoint()],
        standbys: Vec::new(),
        unseen: Vec::new(),
        databases: Vec::new(),
        unfit,
        slots: Slots { free: report.logins, kept: None },
        missing: missing.into_iter().map(|statement| Missing { database: String::new(), statement }).collect(),
    })
}

/// What the receiver does that it must not.
async fn breaches(webhook: &Webhook) -> Result<Vec<String>, EngineError> {
    let mut found = Vec::new();
    // The one that was let in last: the report was asked for with it.
    let Some(known) = webhook.config.passwords.all().into_iter().next() else { return Ok(found) };
    let secret = SigningSecret::of_password(&known.password)?;
    let mut breach = |what: &str| found.push(format!("{what} (docs/webhook.md, \"Rules of a receiver\")"));

    let stranger = SigningSecret::unknown()?;
    let mut forged = Envelope::new(&secret, Timeline::NAME)?;
    forged.secret = &stranger;
    match webhook.ask_once(&webhook.ends, &forged, &Timeline {}).await {
        Err(Failed::NotLetIn { .. }) => {}
        Err(Failed::NotSent(error)) => return Err(error),
        // An answer under the right secret, which is not looked for here, says that it was done.
        _ => breach("answer 401 and the code `signature` to what is signed with another secret"),
    }
    let mut stale = Envelope::new(&secret, Timeline::NAME)?;
    stale.timestamp = stale.timestamp.saturating_sub(STALE);
    if !is_refused(webhook, &stale, &Timeline {}, "timestamp").await? {
        breach("refuse, with the code `timestamp`, what was signed more than 300 s ago");
    }
    let once = Envelope::new(&secret, Timeline::NAME)?;
    webhook.ask_once(&webhook.ends, &once, &Timeline {}).await.map_err(Failed::repeatable)?;
    if !is_refused(webhook, &once, &Timeline {}, "replayed").await? {
        breach("refuse, with the code `replayed`, an id that was used before");
    }
    let misled = Envelope::new(&secret, "ghosts")?;
    if !is_refused(webhook, &misled, &Timeline {}, "invalid").await? {
        breach("refuse, with the code `invalid`, a body whose `type` is not the act of the path");
    }
    if !fences(webhook, &secret).await? {
        breach("refuse, with the code `stale_binding`, a create whose session was ended by a fence");
    }
    Ok(found)
}

/// Whether it says that this is not done, and why. An answer that is lost says nothing: the check is to be made again.
async fn is_refused<A: Act>(
    webhook: &Webhook,
    envelope: &Envelope<'_>,
    act: &A,
    code: &str,
) -> Result<bool, EngineError> {
    match webhook.ask_once(&webhook.ends, envelope, act).await {
        Ok(_) | Err(Failed::Unreadable { .. }) => Ok(false),
        Err(Failed::Said { code: said, .. }) => Ok(said == code),
        Err(error) => Err(error.repeatable()),
    }
}

/// Opens a session, ends it with a fence, and asks for an account in it, under a name of its own and with a password
/// that nobody has.
async fn fences(webhook: &Webhook, secret: &SigningSecret) -> Result<bool, EngineError> {
    let http = &webhook.ends;
    let Did { instance, data } = webhook.ask(http, &Bind { keep: None }).await.map_err(Failed::repeatable)?;
    let binding = Binding { pid: instance, backend_start_micros: data.session };
    let mut bytes = [0; 96];
    random(&mut bytes)?;
    let (salt, keys) = bytes.split_at(32);
    let (stored, server) = keys.split_at(32);
    let digits: String = salt.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("quorate_check_{digits}");
    let [salt, stored, server] = [salt, stored, server].map(|part| STANDARD.encode(part));
    let verifier = format!("SCRAM-SHA-256$4096:{salt}${stored}:{server}");
    let session = Session::from(&binding);
    webhook.ask(http, &Fence { name: &name, session }).await.map_err(Failed::repeatable)?;
    let late = CreateAccount {
        idempotency_key: format!("{name}/create"),
        name: &name,
        verifier: &verifier,
        groups: &[],
        connection_limit: 1,
        max_ttl_seconds: 1,
        session,
    };
    let fenced = is_refused(webhook, &Envelope::new(secret, CreateAccount::NAME)?, &late, "stale_binding").await;
    if !matches!(fenced, Ok(true)) {
        // Whatever came of it goes.
        let this = [Principal { name, oid: None }];
        webhook.ask(http, &Refuse { principals: ones(&this) }).await.map_err(Failed::repeatable)?;
        webhook.ask(http, &Kill { principals: ones(&this) }).await.map_err(Failed::repeatable)?;
        webhook.ask(http, &Clean { principals: ones(&this) }).await.map_err(Failed::repeatable)?;
    }
    fenced
}
