//! RFC 5869 (HKDF), RFC 8032 (Ed25519), RFC 9180 (HPKE).

use super::bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey as Dalek, VerifyingKey};
use hkdf::Hkdf;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, X25519HkdfSha256};
use hpke::{Deserializable as _, OpModeR, Serializable as _, single_shot_open};
use quorate_crypto::identity::SigningKey;
use quorate_crypto::secret::Secret;
use sha2::Sha256;

/// RFC 5869, appendix A.1 to A.3: key material, salt, info, the extracted key, the output.
#[test]
fn hkdf_of_rfc_5869() {
    let range = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
    let cases: [([Vec<u8>; 3], &str, &str); 3] = [
        (
            [vec![0x0b; 22], range(0, 0x0c), range(0xf0, 0xf9)],
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            [range(0, 0x4f), range(0x60, 0xaf), range(0xb0, 0xff)],
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8\
             367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            [vec![0x0b; 22], vec![], vec![]],
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ];
    for ([ikm, salt, info], prk, okm) in cases {
        let (extracted, hkdf) = Hkdf::<Sha256>::extract(Some(&salt), &ikm);
        assert_eq!(hex::encode(extracted), prk);
        let mut out = vec![0; okm.len() / 2];
        hkdf.expand(&info, &mut out).unwrap();
        assert_eq!(hex::encode(out), okm);
    }
}

/// RFC 8032, section 7.1: seed, public key, message, signature.
#[test]
fn ed25519_of_rfc_8032() {
    let cases = [
        [
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ],
        [
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ],
        [
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ],
    ];
    for [seed, public, message, signature] in cases {
        let ours = SigningKey::from_seed(&Secret::from_slice(&bytes::<32>(seed)).unwrap());
        assert_eq!(hex::encode(ours.verify_key().0), public, "this crate's key of the seed");
        let message = hex::decode(message).unwrap();
        assert_eq!(hex::encode(Dalek::from_bytes(&bytes(seed)).sign(&message).to_bytes()), signature);
        let key = VerifyingKey::from_bytes(&bytes(public)).unwrap();
        assert!(key.verify_strict(&message, &Signature::from_bytes(&bytes(signature))).is_ok());
        assert!(key.verify_strict(b"another", &Signature::from_bytes(&bytes(signature))).is_err());
    }
}

/// RFC 9180, appendix A.2.1: the key schedule and AEAD of ceremonies, with the RFC's KEM.
#[test]
fn hpke_of_rfc_9180() {
    type Key = <X25519HkdfSha256 as Kem>::PrivateKey;
    let (private, public) = X25519HkdfSha256::derive_keypair(&bytes::<32>(
        "1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df",
    ));
    assert_eq!(hex::encode(public.to_bytes()), "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
    let given =
        Key::from_bytes(&bytes::<32>("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb")).unwrap();
    assert_eq!(X25519HkdfSha256::sk_to_pk(&given), public);
    let enc: [u8; 32] = bytes("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
    let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&enc).unwrap();
    let info = hex::decode("4f6465206f6e2061204772656369616e2055726e").unwrap();
    let ciphertext: [u8; 45] =
        bytes("1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28");
    let open = |aad: &[u8]| {
        single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &private,
            &enc,
            &info,
            &ciphertext,
            aad,
        )
    };
    assert_eq!(open(b"Count-0").unwrap(), b"Beauty is truth, truth beauty");
    assert!(open(b"Count-1").is_err());
}
