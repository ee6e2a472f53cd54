//! The passwords of an administrative account, while one of them is being replaced by another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_crypto::secret::SecretVec;

use crate::EngineError;

/// How many are tried: the target has one of two while its password is replaced, and its standbys a moment longer.
const MOST: usize = 2;

/// The passwords that an account may have. Each login tries the one first that was let in last.
pub struct Passwords(Mutex<Tried>);

#[derive(Default)]
struct Tried {
    /// Never empty.
    tried: Vec<Arc<SecretVec>>,
    refused: Option<String>,
}

impl Passwords {
    /// There is one.
    #[must_use]
    pub fn one(password: SecretVec) -> Self {
        Self(Mutex::new(Tried { tried: vec![Arc::new(password)], refused: None }))
    }

    /// There is another one: the target may have it by now, or get it. Of those before, the first stays.
    pub fn learn(&self, password: SecretVec) {
        let mut state = self.lock();
        state.tried.truncate(MOST - 1);
        state.tried.push(Arc::new(password));
    }

    /// All, in the order in which they are tried.
    pub(crate) fn all(&self) -> Vec<Arc<SecretVec>> {
        self.lock().tried.clone()
    }

    /// One of them was let in.
    pub(crate) fn let_in(&self, password: &Arc<SecretVec>) {
        let mut state = self.lock();
        state.refused = None;
        state.tried.sort_by_key(|tried| !Arc::ptr_eq(tried, password));
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

impl From<SecretVec> for Passwords {
    fn from(password: SecretVec) -> Self {
        Self::one(password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(passwords: &Passwords) -> Vec<u8> {
        passwords.all().iter().map(|password| password.expose()[0]).collect()
    }

    #[test]
    fn who_was_let_in_last_is_tried_first_and_there_are_never_more_than_two() {
        let passwords = Passwords::one(SecretVec::new(vec![1]));
        passwords.learn(SecretVec::new(vec![2]));
        assert_eq!(tried(&passwords), [1, 2], "nobody knows yet whether the target has the second");
        passwords.let_in(&passwords.all()[1]);
        assert_eq!(tried(&passwords), [2, 1]);
        passwords.learn(SecretVec::new(vec![3]));
        assert_eq!(tried(&passwords), [2, 3], "what was let in last stays");
    }

    #[test]
    fn a_refusal_is_known_until_somebody_is_let_in() {
        let passwords = Passwords::one(SecretVec::new(b"canary".to_vec()));
        let error = EngineError::Refused { code: "28P01".to_owned(), message: "no".to_owned() };
        assert!(error.is_login_refused());
        passwords.refused(&error);
        assert_eq!(passwords.last_refusal(), Some("the target refuses: no (28P01)".to_owned()));
        passwords.let_in(&passwords.all()[0]);
        assert_eq!(passwords.last_refusal(), None);
        assert!(!format!("{passwords:?}").contains("canary"));
    }
}
