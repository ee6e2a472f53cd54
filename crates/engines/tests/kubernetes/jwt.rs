//! Tokens as the API server makes and verifies them: JWS with ES256 (RFC 7515, RFC 7518).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The key that a cluster signs with, in PKCS#8.
pub(crate) fn generate() -> Vec<u8> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    key.as_ref().to_vec()
}

/// Makes a token of these claims.
pub(crate) fn sign(key: &[u8], claims: &Value) -> String {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key).unwrap();
    let head = URL_SAFE_NO_PAD.encode(json!({ "alg": "ES256", "kid": "stub" }).to_string());
    let text = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

/// The claims of a token that this key has signed.
pub(crate) fn verify(key: &[u8], token: &str) -> Option<Value> {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key).unwrap();
    let (text, signature) = token.rsplit_once('.')?;
    let (head, payload) = text.split_once('.')?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let head: Value = serde_json::from_slice(&decoded(head)?).ok()?;
    if head["alg"] != "ES256" {
        return None;
    }
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
    public.verify(text.as_bytes(), &decoded(signature)?).ok()?;
    serde_json::from_slice(&decoded(payload)?).ok()
}

#[test]
fn what_is_signed_is_verified_and_nothing_else() {
    let (key, other) = (generate(), generate());
    let token = sign(&key, &json!({ "sub": "a" }));
    assert_eq!(verify(&key, &token), Some(json!({ "sub": "a" })));
    assert_eq!(verify(&other, &token), None);
    let forged =
        token.replacen(&URL_SAFE_NO_PAD.encode(r#"{"sub":"a"}"#), &URL_SAFE_NO_PAD.encode(r#"{"sub":"b"}"#), 1);
    assert_ne!(forged, token);
    assert_eq!(verify(&key, &forged), None);
    let unsigned = format!("{}.e30.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
    assert_eq!(verify(&key, &unsigned), None);
}
