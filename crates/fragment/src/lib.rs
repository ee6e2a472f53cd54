//! Where a customer's fragment lives, and who multiplies with it: this process, for a sealed key file, or a token (an HSM) that the
//! key never leaves. Whoever asks sees no difference.
//!
//! This crate decides nothing: who may have a value is settled before anything here is called. It knows no caller, no rule, no
//! socket and no async runtime. Threads that talk to a token are its own, and answers come by a call of theirs.
//!
//! # Security
//! What leaves this crate for a caller is the value of [`quorate_crypto::customer::derive_kc`], bound to one label. The x coordinate that a token
//! answers is wiped here. A PKCS#11 module is foreign code in this process: it sees the PIN and each such coordinate, and what it keeps is
//! not ours to wipe. It is named by an absolute path in a file that only the custodian's owner writes.

#![forbid(unsafe_code)]

#[cfg(feature = "pkcs11")]
pub mod kem;
#[cfg(feature = "pkcs11")]
mod queue;
#[cfg(feature = "pkcs11")]
pub mod token;

use quorate_crypto::customer::{CustomerError, CustomerPublic, CustomerSecret, Part, derive_kc};
use quorate_crypto::secret::Secret;

/// What a fragment is asked: the value of one part under these labels. Whoever puts it has decided that the caller may have it.
#[derive(Debug)]
pub struct Question {
    /// The encoded object label.
    pub object: Vec<u8>,
    /// The encoded wrap label.
    pub wrap: Vec<u8>,
    /// The part as it stands in the slot.
    pub part: Part,
}

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// The part is malformed, or for another key.
    #[error(transparent)]
    Part(#[from] CustomerError),
    /// No token that holds the key answers at the moment.
    #[error("no token that holds the customer key answers: {0}")]
    Unavailable(String),
    /// As many questions wait for the tokens as may.
    #[error("{0} questions wait for the tokens already")]
    Busy(usize),
}

/// A value, or why there is none.
pub type Derived = Result<Secret<32>, DeriveError>;

/// The customer's fragment.
pub enum Fragment {
    /// In this process, from a sealed key file.
    File(CustomerSecret),
    /// In tokens, which answer through a pool of sessions.
    #[cfg(feature = "pkcs11")]
    Token(token::Pool),
}

impl Fragment {
    /// The public key.
    #[must_use]
    pub fn public(&self) -> &CustomerPublic {
        match self {
            Self::File(secret) => secret.public(),
            #[cfg(feature = "pkcs11")]
            Self::Token(pool) => pool.public(),
        }
    }

    /// Answers each question by `reply`, in their order.
    ///
    /// From a file that happens here and now, in milliseconds of arithmetic for a full list: call it where that may be. From
    /// tokens this returns at once, and `reply` is called by a thread of the pool: it must not wait for anything.
    pub fn derive(&self, questions: Vec<Question>, reply: impl FnOnce(Vec<Derived>) + Send + 'static) {
        match self {
            Self::File(secret) => {
                let derive = |q: Question| Ok(derive_kc(secret, &q.object, &q.wrap, &q.part)?);
                reply(questions.into_iter().map(derive).collect());
            }
            #[cfg(feature = "pkcs11")]
            Self::Token(pool) => pool.derive(questions, reply),
        }
    }

    /// What there is to say about the tokens; nothing for a file.
    #[cfg(feature = "pkcs11")]
    #[must_use]
    pub fn health(&self) -> Vec<token::Health> {
        match self {
            Self::File(_) => Vec::new(),
            Self::Token(pool) => pool.health(),
        }
    }
}
