//! What is asked of either side, in the same words.

use super::fact::Millis;
use zeroize::Zeroizing;

/// A login that was handed out.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) lease: String,
    pub(crate) name: String,
    pub(crate) password: Zeroizing<String>,
    /// The end that it was said to have.
    pub(crate) ends: Millis,
}

/// That something did not come about.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Whether it is certain that it did not.
    pub(crate) known: bool,
    pub(crate) why: String,
}

/// What a vault lists in the end.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) leases: Vec<String>,
    pub(crate) given_up: u64,
    /// Of leases whose login the vault says.
    pub(crate) logins: Vec<String>,
}

/// A vault under test. Each caller has one of its own; none waits much longer than [`super::users::PATIENCE`].
#[async_trait::async_trait]
pub(crate) trait Vault: Send + Sync {
    /// A login for so many milliseconds.
    async fn issue(&self, ttl: Millis) -> Result<Login, Failed>;
    /// Moves its end to so many milliseconds from now: the new end.
    async fn renew(&self, lease: &str, ttl: Millis) -> Result<Millis, Failed>;
    /// Ends it; whether the vault says that it is over, at the database too.
    async fn end(&self, lease: &str) -> Result<bool, Failed>;
    /// Whether the vault says that it is over. `ended` if its end was asked for and not acknowledged: then it is asked for again.
    async fn over(&self, lease: &str, ended: bool) -> Result<bool, Failed>;
    /// Writes a secret.
    async fn write(&self, number: u64) -> Result<(), Failed>;
    /// What it lists.
    async fn left(&self) -> Result<Left, Failed>;
}
