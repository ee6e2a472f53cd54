//! Who the vault is in an account: one IAM user, known by its ARN, whichever of its access keys it has just now.

use quorate_crypto::secret::SecretVec;

use crate::EngineError;

/// The executor's user, as its ARN says: `arn:aws:iam::123456789012:user/NAME`, perhaps with a path before the name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Executor {
    pub(super) arn: String,
    /// For example `aws`, `aws-cn`.
    pub(super) partition: String,
    /// 12 digits.
    pub(super) account: String,
    pub(super) name: String,
}

impl Executor {
    pub(super) fn parse(arn: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b == b'-';
        let named = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
        let (partition, rest) = arn.strip_prefix("arn:")?.split_once(":iam::")?;
        let (account, path) = rest.split_once(":user/")?;
        let name = path.rsplit('/').next()?;
        let fits = !partition.is_empty()
            && partition.bytes().all(plain)
            && account.len() == 12
            && account.bytes().all(|b| b.is_ascii_digit())
            && path.split('/').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic()))
            && (1..=64).contains(&name.len())
            && name.bytes().all(named);
        let [arn, partition, account, name] = [arn, partition, account, name].map(str::to_owned);
        fits.then_some(Self { arn, partition, account, name })
    }
}

/// What the services say of a key that they do not know.
const UNKNOWN_KEY: &str = "InvalidClientTokenId";

/// An access key: its id, white space, its secret, as `aws iam create-access-key --output text` prints the two.
///
/// # Errors
/// Anything else is refused, as the services refuse a key that they do not know: another password may be one.
pub(super) fn access_key(password: &SecretVec) -> Result<(&str, SecretVec), EngineError> {
    let parse = || {
        let text = core::str::from_utf8(password.expose()).ok()?;
        let (id, secret) = text.trim_ascii().split_once([' ', '\t'])?;
        let secret = secret.trim_ascii();
        let fits = (16..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric())
            && !secret.is_empty()
            && secret.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| (id, SecretVec::new(secret.as_bytes().to_vec())))
    };
    parse().ok_or_else(|| EngineError::Refused {
        code: UNKNOWN_KEY.to_owned(),
        message: "the password is not an access key: its id, a space, and its secret".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executor_is_a_user_by_its_arn() {
        for (arn, partition, name) in [
            ("arn:aws:iam::123456789012:user/quorate", "aws", "quorate"),
            ("arn:aws-cn:iam::123456789012:user/ops/vaults/q.1@x", "aws-cn", "q.1@x"),
        ] {
            let executor = Executor::parse(arn).unwrap();
            assert_eq!(
                (executor.arn.as_str(), executor.partition.as_str(), executor.name.as_str()),
                (arn, partition, name)
            );
            assert_eq!(executor.account, "123456789012");
        }
        for arn in [
            "",
            "quorate",
            "AKIAIOSFODNN7EXAMPLE",
            "arn:aws:iam::123456789012:root",
            "arn:aws:iam::123456789012:role/quorate",
            "arn:aws:sts::123456789012:assumed-role/quorate/s",
            "arn:aws:iam::12345678901:user/quorate",
            "arn:aws:iam::12345678901x:user/quorate",
            "arn::iam::123456789012:user/quorate",
            "arn:aws:iam::123456789012:user/",
            "arn:aws:iam::123456789012:user//quorate",
            "arn:aws:iam::123456789012:user/quo rate",
            "arn:aws:iam::123456789012:user/quo&rate",
        ] {
            assert_eq!(Executor::parse(arn), None, "{arn}");
        }
    }

    #[test]
    fn a_key_is_its_id_and_its_secret() {
        let of = |text: &str| {
            let password = SecretVec::new(text.as_bytes().to_vec());
            access_key(&password).map(|(id, secret)| (id.to_owned(), secret.expose().to_vec()))
        };
        let right = Ok(("AKIAIOSFODNN7EXAMPLE".to_owned(), b"wJalr/XUtnFEMI+K7".to_vec()));
        assert_eq!(of("AKIAIOSFODNN7EXAMPLE wJalr/XUtnFEMI+K7"), right);
        assert_eq!(of("AKIAIOSFODNN7EXAMPLE\twJalr/XUtnFEMI+K7\n"), right);
        let (short, nothing, two) = ("AKIA wJalr/XUtnFEMI+K7", "AKIAIOSFODNN7EXAMPLE ", "AKIAIOSFODNN7EXAMPLE a b");
        for text in ["", "wJalr/XUtnFEMI+K7", short, nothing, two, "AKIAIOSFODNN7/XAMPLE x", "AKIAIOSFODNN7EXAMPLE é"]
        {
            assert!(of(text).is_err_and(|error| error.is_login_refused()), "{text}");
        }
    }
}
