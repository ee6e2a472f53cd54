//! SCRAM-SHA-256 verifiers (RFC 5802 section 3, RFC 7677): what a target stores instead of a password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use quorate_crypto::secret::Secret;
use sha2::{Digest as _, Sha256};

/// The verifier of a password, as PostgreSQL stores it: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
///
/// The password must be ASCII: SASLprep (RFC 4013) leaves printable ASCII as it is, and nothing else is generated here.
/// `iterations` of 0 count as 1.
///
/// # Security
/// Does not give the password away, but can be guessed against: use it with passwords of high entropy only, such as
/// those of [`crate::client::Client::issue_lease`].
#[must_use]
pub fn verifier(password: &[u8], salt: &[u8; 16], iterations: u32) -> String {
    let salted = Secret::<32>::init_with(|out| pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations.max(1), out));
    let client_key = Secret::<32>::init_with(|out| *out = hmac(salted.expose(), b"Client Key"));
    let stored_key: [u8; 32] = Sha256::digest(client_key.expose()).into();
    let server_key = hmac(salted.expose(), b"Server Key");
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key),
        STANDARD.encode(server_key)
    )
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    // A key shorter than the hash's block is padded with zeros (RFC 2104 section 2).
    let block = Secret::<64>::init_with(|out| out.iter_mut().zip(key).for_each(|(o, k)| *o = *k));
    let mut mac = Hmac::<Sha256>::new(block.expose().into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 section 3: user `user`, password `pencil`. The verifier must check the client's proof, and make the
    /// server's signature, of that exchange.
    #[test]
    fn rfc_7677_exchange() {
        const CLIENT_FIRST_BARE: &str = "n=user,r=rOprNGfwEbeRWgbNEkqO";
        const SERVER_FIRST: &str =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        const CLIENT_FINAL_BARE: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let array = |text: &str| -> [u8; 32] { STANDARD.decode(text).unwrap().try_into().unwrap() };
        let proof = array("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let server_signature = array("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");

        let salt: [u8; 16] = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        let verifier = verifier(b"pencil", &salt, 4096);
        let keys = verifier.strip_prefix("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$").unwrap();
        let (stored, server) = keys.split_once(':').unwrap();
        let message = [CLIENT_FIRST_BARE, SERVER_FIRST, CLIENT_FINAL_BARE].join(",");
        let signature = hmac(&array(stored), message.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(p, s)| p ^ s).collect();
        assert_eq!(<[u8; 32]>::from(Sha256::digest(client_key)), array(stored));
        assert_eq!(hmac(&array(server), message.as_bytes()), server_signature);
    }

    #[test]
    fn another_password_salt_or_count_is_another_verifier() {
        let one = verifier(b"p", &[1; 16], 2);
        for other in [verifier(b"q", &[1; 16], 2), verifier(b"p", &[2; 16], 2), verifier(b"p", &[1; 16], 3)] {
            assert_ne!(one.rsplit('$').next(), other.rsplit('$').next());
        }
    }
}
