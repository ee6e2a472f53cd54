//! What is measured: an operation, the size of a value, how many secrets one request names.

use serde::Serialize;

/// An operation that every side knows by its own means, or says that it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// Read the newest version of a secret; of class `cluster` here.
    Open,
    /// The same through one member, which passes the question on.
    OpenRelayed,
    /// The same of class `customer`: a custodian gives the customer's part.
    OpenCustomer,
    /// Store a secret under a new path, acknowledged when it is durable.
    Write,
    /// List a folder of [`LISTED`] secrets.
    List,
    /// Have a login made at a PostgreSQL, for a time.
    Issue,
    /// Lengthen the life of a login.
    Renew,
}

/// How many secrets there are to read.
pub(crate) const READABLE: u64 = 256;
/// How many secrets the folder holds that is listed.
pub(crate) const LISTED: u64 = 100;

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Work {
    pub(crate) operation: Operation,
    /// Bytes of a value.
    pub(crate) size: usize,
    /// Secrets in one request; a side without such requests sends one after the other.
    pub(crate) batch: usize,
}

impl Operation {
    /// Its name, as on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::OpenRelayed => "open-relayed",
            Self::OpenCustomer => "open-customer",
            Self::Write => "write",
            Self::List => "list",
            Self::Issue => "issue",
            Self::Renew => "renew",
        }
    }

    /// Whether it reads secrets that must be there before.
    pub(crate) fn opens(self) -> bool {
        matches!(self, Self::Open | Self::OpenRelayed | Self::OpenCustomer)
    }

    /// Whether it works on logins of a database.
    pub(crate) fn leases(self) -> bool {
        matches!(self, Self::Issue | Self::Renew)
    }

    /// Whether a value's size means anything to it.
    pub(crate) fn sized(self) -> bool {
        self.opens() || self == Self::Write
    }
}

impl Work {
    /// Operations that one request counts for.
    pub(crate) fn weight(&self) -> u64 {
        u64::try_from(self.batch).unwrap_or(1)
    }
}

impl core::fmt::Display for Work {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.operation.name())?;
        if self.operation.sized() {
            write!(f, " {}", bytes(self.size))?;
        }
        if self.batch > 1 {
            write!(f, " x{}", self.batch)?;
        }
        Ok(())
    }
}

/// A size for people.
fn bytes(n: usize) -> String {
    match n {
        n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{} KiB", n >> 10),
        n => format!("{n} B"),
    }
}

/// A value of so many bytes that no compression shortens much: the same on every side, and text, because some peers store text only.
pub(crate) fn value(size: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut letter = || {
        // SplitMix64's step: spread, not secret.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        char::from(b'a' + u8::try_from((mixed >> 40) % 26).unwrap_or(0))
    };
    (0..size).map(|_| letter()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_says_what_it_is() {
        let work = |operation, size, batch| Work { operation, size, batch }.to_string();
        assert_eq!(work(Operation::Open, 1024, 16), "open 1 KiB x16");
        assert_eq!(work(Operation::Write, 100, 1), "write 100 B");
        assert_eq!(work(Operation::Issue, 1024, 1), "issue");
    }

    #[test]
    fn a_value_has_its_size() {
        assert_eq!(value(1000).len(), 1000);
        assert_ne!(value(64)[..32], value(64)[32..]);
    }
}
