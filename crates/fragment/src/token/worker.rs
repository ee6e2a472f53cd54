//! One thread with one session: connects, answers, and connects again.

use super::error::TokenError;
use super::session::Trouble;
use super::{Connection, Shared, Token};
use crate::queue::{Job, Next};
use crate::{DeriveError, Derived, Question};
use quorate_crypto::customer::derive_kc_from_x;
use std::sync::PoisonError;
use std::time::Instant;

/// How often a token is missed before the module is suspected.
const SUSPICIOUS: u32 = 2;

pub(super) fn connect(shared: &Shared, token: &Token) -> Result<Connection, TokenError> {
    Connection::open(&shared.module, &token.name, &shared.expected, &shared.pin, &token.refused)
}

pub(super) fn work(shared: &Shared, at: usize) {
    let Some(token) = shared.tokens.get(at) else { return };
    let mut missed = 0;
    loop {
        let life = shared.module.life();
        match connect(shared, token) {
            Ok(connection) => {
                missed = 0;
                token.joined();
                shared.queue.join();
                let Some((why, job)) = serve(shared, token, connection) else { return };
                token.left(&why);
                shared.queue.leave(&why.to_string());
                if let Some(job) = job {
                    shared.queue.put_back(job, &why.to_string());
                }
            }
            Err(why) => {
                missed += 1;
                token.missed(&why);
                shared.queue.trouble(&why.to_string());
                if missed >= SUSPICIOUS && !why.is_final() {
                    suspect(shared, life);
                }
            }
        }
        if !shared.queue.pause(shared.timing.retry) {
            return;
        }
    }
}

/// Has the module begin anew where that may bring a token back: seldom, for it ends the sessions with all tokens.
fn suspect(shared: &Shared, life: u64) {
    let mut revived = shared.revived.lock().unwrap_or_else(PoisonError::into_inner);
    let others = if shared.queue.ready() > 0 { 6 } else { 1 };
    if revived.elapsed() < shared.timing.revive * others {
        return;
    }
    *revived = Instant::now();
    tracing::warn!("a token stays away: the PKCS#11 module is initialised anew");
    if let Err(why) = shared.module.revive(life) {
        tracing::error!(code = why.code(), %why, "the PKCS#11 module does not come back");
    }
}

/// Answers until the token goes, with the question that was under way; `None` when the pool ends.
fn serve(shared: &Shared, token: &Token, mut connection: Connection) -> Option<(TokenError, Option<Job>)> {
    let mut held: Option<Job> = None;
    let mut checked = Instant::now();
    loop {
        let next = match held.take() {
            Some(job) => Next::Job(job),
            // However much there is to do: whoever multiplies wrongly shows it only here.
            None if checked.elapsed() >= shared.timing.check => Next::Idle,
            None => shared.queue.next(shared.timing.check),
        };
        let trouble = match next {
            Next::Closed => {
                connection.close(&shared.module);
                return None;
            }
            Next::Idle => {
                let trouble = connection.check(&shared.module, &shared.expected).err();
                // From its end: a slow token has time for others' questions in between.
                checked = Instant::now();
                trouble
            }
            Next::Job(job) => match answer(shared, &connection, &job.question) {
                Ok(value) => {
                    token.count(true);
                    job.answer(value);
                    None
                }
                Err(trouble) => {
                    held = Some(job);
                    Some(trouble)
                }
            },
        };
        let Some(trouble) = trouble else { continue };
        if !matches!(trouble, Trouble::Outlived) {
            token.count(false);
        }
        let why = trouble.told(&token.name);
        tracing::warn!(token = token.name, code = why.code(), %why, "a session failed");
        if let Some(mut job) = held.take() {
            if job.again() {
                held = Some(job);
            } else {
                job.answer(Err(DeriveError::Unavailable(why.to_string())));
            }
        }
        connection.close(&shared.module);
        // At once, and once: a session can end without its token.
        match connect(shared, token) {
            Ok(again) => connection = again,
            Err(why) => return Some((why, held)),
        }
    }
}

/// The value of one question. What is asked was checked before it gets here; what cannot reach the token is an answer too.
fn answer(shared: &Shared, connection: &Connection, question: &Question) -> Result<Derived, Trouble> {
    let (part, expected) = (&question.part, &shared.expected);
    if part.cust_key_id != expected.public.id() || part.suite != expected.public.suite() {
        return Ok(Err(quorate_crypto::customer::CustomerError::OtherKey.into()));
    }
    // On the curve, and not the identity, which has no such encoding: before the token sees it.
    if let Err(why) = part.check() {
        return Ok(Err(why.into()));
    }
    let x = connection.multiply(&shared.module, part.r2())?;
    let seed = expected.seed.get();
    let value = derive_kc_from_x(&expected.public, &x, seed, &question.object, &question.wrap, part);
    Ok(value.map_err(DeriveError::from))
}
