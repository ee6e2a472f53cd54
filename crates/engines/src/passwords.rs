//! The passwords of an administrative account, while one of them is being replaced by another.

use core::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_crypto::secret::SecretVec;

use crate::EngineError;
use crate::contained::contained;

/// How many are tried: the target has one of two while its password is replaced, and may have gone back to what it had before.
const MOST: usize = 5;

/// The passwords that an account may have, each with the number by which its owner knows it. Each login tries the one first that
/// was let in last.
pub struct Passwords(Mutex<Tried>);

#[derive(Default)]
struct Tried {
    /// Never empty.
    tried: Vec<Known>,
    let_in: Option<u64>,
    refused: Option<String>,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) number: u64,
    pub(crate) password: Arc<SecretVec>,
}

impl Passwords {
    /// There is one.
    #[must_use]
    pub fn one(number: u64, password: SecretVec) -> Self {
        let tried = vec![Known { number, password: Arc::new(password) }];
        Self(Mutex::new(Tried { tried, ..Tried::default() }))
    }

    /// There is another one: the target may have it by now, or get it. Where there are too many, the oldest goes, but never the
    /// one that was let in last.
    pub fn learn(&self, number: u64, password: SecretVec) {
        let mut state = self.lock();
        if state.tried.iter().any(|known| known.number == number) {
            return;
        }
        if state.tried.len() >= MOST {
            let oldest = state.tried.iter().skip(1).map(|known| known.number).min();
            state.tried.retain(|known| Some(known.number) != oldest);
        }
        state.tried.push(Known { number, password: Arc::new(password) });
    }

    /// All, in the order in which they are tried.
    pub(crate) fn all(&self) -> Vec<Known> {
        self.lock().tried.clone()
    }

    /// Logs in with each of them in order, until the target lets one in or refuses for another reason than the password, and keeps
    /// which one was let in, or why none was.
    pub(crate) async fn log_in<S, F>(&self, login: impl Fn(Arc<SecretVec>) -> F) -> Result<S, EngineError>
    where
        F: Future<Output = Result<S, EngineError>>,
    {
        match self.log_in_aside(login).await {
            Ok((number, session)) => {
                self.let_in(number);
                Ok(session)
            }
            Err(error) => {
                if matches!(error, EngineError::Refused { .. }) {
                    self.refused(&error);
                }
                Err(error)
            }
        }
    }

    /// The same, of which nothing is kept, with the number of the one that was let in: at a place that may be behind the target, or let
    /// in whom the target does not.
    pub(crate) async fn log_in_aside<S, F>(&self, login: impl Fn(Arc<SecretVec>) -> F) -> Result<(u64, S), EngineError>
    where
        F: Future<Output = Result<S, EngineError>>,
    {
        let mut last = EngineError::Unavailable { reason: "there is no password".to_owned() };
        for known in self.all() {
            match contained(login(known.password)).await {
                Ok(session) => return Ok((known.number, session)),
                Err(error) if error.is_login_refused() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// One of them was let in.
    pub fn let_in(&self, number: u64) {
        let mut state = self.lock();
        (state.refused, state.let_in) = (None, Some(number));
        state.tried.sort_by_key(|known| known.number != number);
    }

    /// Which one was let in last.
    #[must_use]
    pub fn last_let_in(&self) -> Option<u64> {
        self.lock().let_in
    }

    /// None of them was let in.
    pub(crate) fn refused(&self, why: &EngineError) {
        self.lock().refused = Some(why.to_string());
    }

    /// What the target said when it last let none of them in; nothing since it let one in.
    #[must_use]
    pub fn last_refusal(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Tried> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl core::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Passwords(redacted)")
    }
}

/// The only one of an account, and nobody counts it.
impl From<SecretVec> for Passwords {
    fn from(password: SecretVec) -> Self {
        Self::one(0, password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(passwords: &Passwords) -> Vec<u64> {
        passwords.all().iter().map(|known| known.number).collect()
    }

    fn secret(n: u8) -> SecretVec {
        SecretVec::new(vec![n])
    }

    #[test]
    fn who_was_let_in_last_is_tried_first_and_there_are_never_more_than_a_few() {
        let passwords = Passwords::one(10, secret(1));
        passwords.learn(20, secret(2));
        passwords.learn(20, secret(3));
        assert_eq!(tried(&passwords), [10, 20], "nobody knows yet whether the target has the second");
        assert_eq!(passwords.last_let_in(), None);
        passwords.let_in(20);
        assert_eq!((tried(&passwords), passwords.last_let_in()), (vec![20, 10], Some(20)));
        for number in [5, 6, 30] {
            passwords.learn(number, secret(4));
        }
        passwords.let_in(5);
        passwords.learn(40, secret(5));
        assert_eq!(tried(&passwords), [5, 20, 10, 30, 40], "the oldest goes, but what was let in last stays");
        assert_eq!(passwords.all()[0].password.expose(), [4]);
    }

    #[tokio::test]
    async fn a_login_tries_the_next_password_only_where_the_last_was_wrong() {
        let passwords = Passwords::one(10, secret(1));
        passwords.learn(20, secret(2));
        let refused = |code: &str| EngineError::Refused { code: code.to_owned(), message: "no".to_owned() };
        let right = async |right: u8, password: Arc<SecretVec>| match password.expose() == [right] {
            true => Ok(password.expose().to_vec()),
            false => Err(refused("28P01")),
        };
        assert_eq!(passwords.log_in_aside(|p| right(2, p)).await, Ok((20, vec![2])));
        assert_eq!(passwords.last_let_in(), None, "nobody was told");
        assert_eq!(passwords.log_in(|p| right(2, p)).await, Ok(vec![2]));
        assert_eq!((passwords.last_let_in(), tried(&passwords)), (Some(20), vec![20, 10]));
        assert_eq!(passwords.log_in(|p| right(9, p)).await, Err(refused("28P01")));
        assert!(passwords.last_refusal().is_some());
        passwords.let_in(20);
        let no_more = core::sync::atomic::AtomicU32::new(0);
        let elsewhere = async |_: Arc<SecretVec>| {
            no_more.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
            Err::<(), _>(refused("TLS"))
        };
        assert_eq!(passwords.log_in(|p| elsewhere(p)).await, Err(refused("TLS")));
        assert_eq!(no_more.into_inner(), 1, "another password does not help");
        assert!(passwords.last_refusal().is_some_and(|why| why.contains("TLS")));
        passwords.let_in(20);
        let lost = async |_: Arc<SecretVec>| Err::<(), _>(EngineError::Unavailable { reason: "gone".to_owned() });
        assert!(passwords.log_in(lost).await.is_err());
        assert_eq!(passwords.last_refusal(), None, "nobody refused");
    }

    #[test]
    fn a_refusal_is_known_until_somebody_is_let_in() {
        let passwords = Passwords::one(1, SecretVec::new(b"canary".to_vec()));
        let error = EngineError::Refused { code: "28P01".to_owned(), message: "no".to_owned() };
        assert!(error.is_login_refused());
        passwords.refused(&error);
        assert_eq!(passwords.last_refusal(), Some("the target refuses: no (28P01)".to_owned()));
        passwords.let_in(1);
        assert_eq!(passwords.last_refusal(), None);
        assert!(!format!("{passwords:?}").contains("canary"));
    }
}
