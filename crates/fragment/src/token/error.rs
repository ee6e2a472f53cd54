//! What can be wrong with a token, as facts with stable codes (`docs/errors.md`, tokens).

use crate::kem::KemError;
use cryptoki::error::{Error, RvError};
use std::path::PathBuf;

/// Why a token does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The module is not there, is no PKCS#11 module, or does not initialise.
    #[error("the PKCS#11 module {} cannot be used: {why}", path.display())]
    Module {
        /// Its path.
        path: PathBuf,
        /// The loader's or the module's own words.
        why: String,
    },
    /// No slot holds a token of that serial number or label.
    #[error("no slot of the module holds a token `{0}`")]
    NoToken(String),
    /// Several tokens have this label.
    #[error("several tokens have the label `{0}`")]
    AmbiguousToken(String),
    /// The token has no user PIN yet.
    #[error("the token `{0}` has no user PIN yet")]
    PinNotSet(String),
    /// The user PIN is locked.
    #[error("the user PIN of the token `{0}` is locked")]
    PinLocked(String),
    /// One wrong PIN more would lock the token: nothing was tried.
    #[error("the token `{0}` has one try of its user PIN left, and it was not used")]
    PinLastTry(String),
    /// A wrong PIN was given since the last right one; nobody is there to judge, so nothing was tried.
    #[error("a wrong user PIN was given to the token `{0}` before, and no other was tried")]
    PinDoubtful(String),
    /// The PIN was refused.
    #[error("the token `{token}` refuses the user PIN; {left}")]
    PinWrong {
        /// The token.
        token: String,
        /// What its flags say now.
        left: &'static str,
    },
    /// No private EC key has the label.
    #[error("the token `{token}` holds no private EC key with the label `{key}`")]
    NoKey {
        /// The token.
        token: String,
        /// The label.
        key: String,
    },
    /// Several keys have the label.
    #[error("the token `{token}` holds several private keys with the label `{key}`")]
    AmbiguousKey {
        /// The token.
        token: String,
        /// The label.
        key: String,
    },
    /// The key is not what a customer key must be.
    #[error("the key `{key}` of the token `{token}` cannot be a customer key: {why}")]
    UnfitKey {
        /// The token.
        token: String,
        /// The label.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The key is not the one of the public key that is configured.
    #[error("the key `{key}` of the token `{token}` is not the private key of the customer key that is configured")]
    OtherKey {
        /// The token.
        token: String,
        /// The label.
        key: String,
    },
    /// A label that is to be new is taken.
    #[error("the token `{token}` holds an object with the label `{key}` already")]
    KeyExists {
        /// The token.
        token: String,
        /// The label.
        key: String,
    },
    /// The token answered what no multiplication gives.
    #[error("the token `{token}` gave a wrong answer: {why}")]
    WrongAnswer {
        /// The token.
        token: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The ML-KEM key beside the token.
    #[error("the token `{token}`: {why}")]
    Kem {
        /// The token.
        token: String,
        /// What is wrong with the file.
        why: KemError,
    },
    /// The token has no room.
    #[error("the token `{token}` has no room: {why}")]
    Full {
        /// The token.
        token: String,
        /// The module's own words.
        why: String,
    },
    /// A call failed.
    #[error("the token `{token}`: {why}")]
    Failed {
        /// The token.
        token: String,
        /// The module's own words: function and return value.
        why: String,
    },
}

impl TokenError {
    /// The code, which is for ever.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Module { .. } => "pkcs11_module",
            Self::NoToken(_) | Self::AmbiguousToken(_) => "token_not_found",
            Self::PinNotSet(_) => "pin_not_set",
            Self::PinLocked(_) => "pin_locked",
            Self::PinLastTry(_) => "pin_last_try",
            Self::PinDoubtful(_) => "pin_doubtful",
            Self::PinWrong { .. } => "pin_wrong",
            Self::NoKey { .. } | Self::AmbiguousKey { .. } => "token_key_not_found",
            Self::UnfitKey { .. } => "token_key_unfit",
            Self::OtherKey { .. } => "token_key_other",
            Self::KeyExists { .. } => "exists",
            Self::WrongAnswer { .. } => "token_wrong_answer",
            Self::Kem { .. } => "token_kem_file",
            Self::Full { .. } => "token_full",
            Self::Failed { .. } => "token_failed",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Module { .. } => {
                "name the vendor's PKCS#11 library by its whole path; give it its own configuration, and its daemon"
            }
            Self::NoToken(_) => {
                "plug it in, or start what the module talks to; `quorate custodian doctor` lists what is there"
            }
            Self::AmbiguousToken(_) => "name it by its serial number",
            Self::PinNotSet(_) => "set a user PIN with the vendor's tool",
            Self::PinLocked(_) => {
                "unlock it with the vendor's tool and the SO PIN or PUK; meanwhile another token can serve"
            }
            Self::PinLastTry(_) => {
                "find out the right PIN and log in with the vendor's tool, which resets the count; then start again"
            }
            Self::PinDoubtful(_) => {
                "type the right PIN once, into `quorate custodian doctor` or the vendor's tool; then start again"
            }
            Self::PinWrong { .. } => "give the right PIN; it is not tried again by itself",
            Self::NoKey { .. } => "make it with `quorate custodian key create`, or name the label that it has",
            Self::AmbiguousKey { .. } => "give the others another label",
            Self::UnfitKey { .. } => "make a key of its own for this with `quorate custodian key create`",
            Self::OtherKey { .. } => "name the token and the label of the key that fragment.toml describes",
            Self::KeyExists { .. } => "name another label with --key; nothing on the token is written over",
            Self::WrongAnswer { .. } => "do not use this token: see what its vendor's diagnosis says",
            Self::Kem { .. } => "restore the file of the wrapped ML-KEM key from its copy",
            Self::Full { .. } => "delete what is not needed on the token, or make room where it keeps its objects",
            Self::Failed { .. } => {
                "see what the vendor's tool says of the token; a custodian that runs tries again by itself"
            }
        }
    }

    /// Whether trying again by itself can only make it worse: a PIN that was refused, or would be the last.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::PinNotSet(_)
            | Self::PinLocked(_)
            | Self::PinLastTry(_)
            | Self::PinDoubtful(_)
            | Self::PinWrong { .. } => true,
            Self::Module { .. }
            | Self::NoToken(_)
            | Self::AmbiguousToken(_)
            | Self::NoKey { .. }
            | Self::AmbiguousKey { .. }
            | Self::UnfitKey { .. }
            | Self::OtherKey { .. }
            | Self::KeyExists { .. }
            | Self::WrongAnswer { .. }
            | Self::Kem { .. }
            | Self::Full { .. }
            | Self::Failed { .. } => false,
        }
    }

    /// What a call said, of this token.
    pub(super) fn of(token: &str, error: &Error) -> Self {
        let (token, why) = (token.to_owned(), words(error));
        match error {
            Error::Pkcs11(RvError::DeviceMemory, _) => Self::Full { token, why },
            _ => Self::Failed { token, why },
        }
    }
}

/// The module's own words, on one line.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::Pkcs11(value, function) => format!("C_{function:?} answered {value:?}"),
        other => other.to_string().replace('\n', " "),
    }
}
