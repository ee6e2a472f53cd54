//! Policies that come and go, and somebody whom they concern: an administrator permits and forbids, a subject opens. What was forbidden, and
//! acknowledged, opens nothing any more, whichever members are asked.

use super::answer;
use crate::history::{Action, Answer, Event, Recorder};
use crate::lab::setup::{Operator, principal};
use crate::lab::{HOME, Lab, NAMESPACE};
use crate::random::Random;
use anyhow::Context as _;
use quorate_api::client::Client;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyfile::{PassphraseCost, Protection, open_file};
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_state::change::Change;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// How many there are of whom policies speak.
pub(crate) const SUBJECTS: u8 = 3;
/// How long one operation may take, retries included.
const PATIENCE: Duration = Duration::from_secs(4);

/// Makes the subjects, and what each may open or not. At first none may.
pub(crate) async fn prepare(lab: &Lab, operator: &Operator) -> anyhow::Result<()> {
    let writer = lab.client("chaos")?;
    for subject in 1..=SUBJECTS {
        operator.issue(&name(subject)).await?;
        writer.put(NAMESPACE, &path(subject), b"of a subject", None).await?;
    }
    Ok(())
}

/// What a subject is called, and its policy.
pub(crate) fn name(subject: u8) -> String {
    format!("subject{subject}")
}

/// What it may open, or not.
pub(crate) fn path(subject: u8) -> String {
    format!("app/chaos/subject{subject}")
}

/// The administrator: one policy for each subject, written anew again and again.
pub(crate) async fn rule(lab: Arc<Lab>, recorder: Recorder, over: Arc<AtomicBool>, seed: u64) -> anyhow::Result<()> {
    let client = lab.worker("admin", PATIENCE)?;
    let key = administrator()?;
    let mut random = Random::of(seed, "policy", 0);
    while !over.load(Ordering::Relaxed) {
        let subject = u8::try_from(random.between(1, u64::from(SUBJECTS) + 1)).unwrap_or(1);
        let allowed = random.chance(50);
        let op = recorder.number();
        recorder.note(Event::Invoke { op, client: 0, action: Action::Permit { subject, allowed } });
        let said = permit(&client, &key, subject, allowed).await;
        recorder.note(Event::Return { op, answer: said });
        sleep(Duration::from_millis(random.between(200, 900))).await;
    }
    Ok(())
}

/// A policy that permits it, or one that permits something that is not there: each is written whole, so that the last one decides.
async fn permit(client: &Client, key: &SigningKey, subject: u8, allowed: bool) -> Answer {
    let resource = if allowed { path(subject) } else { "app/chaos/nothing".to_owned() };
    let text = format!(
        "permit (principal == {}, action == Quorate::Action::\"secret:open\", resource == Quorate::Secret::\"default:{resource}\");\n",
        principal(&name(subject)),
    );
    let change = Change::PutPolicy { name: name(subject), text };
    match client.administer_now(change, &[key]).await {
        Ok(done) => Answer::Done { index: done.index, note: String::new() },
        Err(failure) => answer(&failure, true),
    }
}

/// A subject, which tries again and again.
pub(crate) async fn try_on(
    lab: Arc<Lab>,
    recorder: Recorder,
    over: Arc<AtomicBool>,
    subject: u8,
    seed: u64,
) -> anyhow::Result<()> {
    let client = lab.worker(&name(subject), PATIENCE)?;
    let mut random = Random::of(seed, "subject", u64::from(subject));
    while !over.load(Ordering::Relaxed) {
        let op = recorder.number();
        recorder.note(Event::Invoke { op, client: 100 + u32::from(subject), action: Action::Try { subject } });
        let said = match client.get(NAMESPACE, &path(subject), None).await {
            Ok(opened) => Answer::Value { number: opened.number, value: 0 },
            Err(failure) => answer(&failure, false),
        };
        recorder.note(Event::Return { op, answer: said });
        sleep(Duration::from_millis(random.between(20, 150))).await;
    }
    Ok(())
}

/// The signing key of the one administrator.
fn administrator() -> anyhow::Result<SigningKey> {
    let home = Path::new(HOME);
    let line = std::fs::read_to_string(home.join("passphrase"))?;
    let passphrase = SecretVec::new(line.trim_end().as_bytes().to_vec());
    let protection = Protection::Passphrase(&passphrase, PassphraseCost::default());
    let seed = open_file("administrator", &std::fs::read(home.join("operator/administrator-1.key"))?, &protection)?;
    let seed = Secret::from_slice(seed.expose()).context("the administrator's key has not 32 bytes")?;
    Ok(SigningKey::from_seed(&seed))
}
