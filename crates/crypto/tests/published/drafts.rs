//! draft-connolly-cfrg-xwing-kem (X-Wing, as HPKE uses it) and draft-irtf-cfrg-xchacha-03.

use super::bytes;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use core::convert::Infallible;
use hpke::kem::{Kem, XWing};
use hpke::{Deserializable as _, Serializable as _};
use rand_core::{TryCryptoRng, TryRng};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    sk: String,
    eseed: String,
    pk: String,
    ct: String,
    ss: String,
}

/// Gives out what it was given, once.
struct Given(Vec<u8>);

impl TryRng for Given {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        panic!("X-Wing takes bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        panic!("X-Wing takes bytes")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0.drain(..out.len()).collect::<Vec<u8>>());
        Ok(())
    }
}

impl TryCryptoRng for Given {}

#[test]
fn x_wing() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("xwing.json")).unwrap();
    assert_eq!(vectors.len(), 3);
    for v in vectors {
        let private = <XWing as Kem>::PrivateKey::from_bytes(&bytes::<32>(&v.sk)).unwrap();
        let public = XWing::sk_to_pk(&private);
        assert_eq!(hex::encode(public.to_bytes()), v.pk);
        let mut rng = Given(hex::decode(&v.eseed).unwrap());
        let (shared, enc) = XWing::encap_with_rng(&public, None, &mut rng).unwrap();
        assert_eq!((hex::encode(enc.to_bytes()), hex::encode(shared.0)), (v.ct, v.ss.clone()));
        assert_eq!(hex::encode(XWing::decap(&private, None, &enc).unwrap().0), v.ss);
    }
}

/// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
#[test]
fn xchacha20_poly1305() {
    let key: [u8; 32] = bytes("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce: [u8; 24] = bytes("404142434445464748494a4b4c4d4e4f5051525354555657");
    let aad: [u8; 12] = bytes("50515253c0c1c2c3c4c5c6c7");
    let plaintext: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    let sealed = "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216\
                  cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff921f9664c97637da9768812f615c68b13b52e\
                  c0875924c1c7987947deafd8780acf49";
    let cipher = XChaCha20Poly1305::new(&key.into());
    let out = cipher.encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad: &aad }).unwrap();
    assert_eq!(hex::encode(&out), sealed);
    assert_eq!(cipher.decrypt(&XNonce::from(nonce), Payload { msg: &out, aad: &aad }).unwrap(), plaintext);
}
