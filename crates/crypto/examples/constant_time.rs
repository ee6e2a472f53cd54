//! One operation on one of several secrets, for `tests/constant_time.rs` to count its instructions: `constant_time CASE VARIANT`.
//!
//! Everything but the secret is the same in all variants, and the variant is taken from a table, not by a branch.

#![allow(clippy::indexing_slicing, clippy::expect_used, reason = "a test's program, over tables of one length")]

use core::hint::black_box;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyfile::{Protection, open_file, seal_file};
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{Header, ObjectTemplate, WrapTemplate, open, seal};
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{KeyShare, combine, partial};
use subtle::ConstantTimeEq as _;

/// How many variants there are of each case.
const VARIANTS: usize = 4;

const KEY: [u8; 32] = [0x42; 32];

/// The key; another first byte, another last byte, every byte another.
const KEYS: [[u8; 32]; VARIANTS] = {
    let (mut first, mut last) = (KEY, KEY);
    first[0] = 0;
    last[31] = 0xff;
    [KEY, first, last, [0xbd; 32]]
};

/// Scalars of all sizes: 1, few bits, many bits, the order less 1.
const SCALARS: [[u8; 32]; VARIANTS] = {
    let (mut one, mut few, mut many) = ([0; 32], [0; 32], [0xff; 32]);
    one[0] = 1;
    few[17] = 8;
    many[31] = 0x0f;
    let last = [
        0xec, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    [one, few, many, last]
};

/// The generator.
const POINT: [u8; 32] = [
    0xe2, 0xf2, 0xae, 0x0a, 0x6a, 0xbc, 0x4e, 0x71, 0xa8, 0x84, 0xa9, 0x61, 0xc5, 0x00, 0x51, 0x5f, 0x58, 0xe3, 0x0b,
    0x6a, 0xa5, 0x82, 0xdd, 0x8d, 0xb6, 0xa6, 0x59, 0x45, 0xe0, 0x8d, 0x2d, 0x76,
];

fn secret(bytes: &[u8; 32]) -> Secret<32> {
    Secret::init_with(|s| *s = *bytes)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let case = arguments.next().unwrap_or_default();
    let variant = arguments.next().and_then(|v| v.parse::<usize>().ok()).filter(|v| *v < VARIANTS);
    let Some(variant) = variant else {
        eprintln!("usage: constant_time CASE VARIANT, where VARIANT is below {VARIANTS}");
        std::process::exit(2);
    };
    match case.as_str() {
        "compare" => _ = black_box(secret(&KEY).ct_eq(&secret(black_box(&KEYS[variant])))),
        "key-file" => key_file(black_box(&KEYS[variant])),
        "key-commitment" => key_commitment(black_box(&SCALARS[variant])),
        "share" => _ = black_box(KeyShare::new(1, &secret(black_box(&SCALARS[variant])))),
        "partial" => _ = black_box(partial(&share(black_box(&SCALARS[variant])), &POINT)),
        "sign" => _ = black_box(SigningKey::from_seed(&secret(black_box(&KEYS[variant]))).sign("test", &[b"message"])),
        "planted-early-exit" => _ = black_box(early_exit(&KEY, black_box(&KEYS[variant]))),
        "planted-lookup" => _ = black_box(significant(black_box(&SCALARS[variant]))),
        _ => {
            eprintln!("there is no case {case}");
            std::process::exit(2);
        }
    }
}

fn share(scalar: &[u8; 32]) -> KeyShare {
    KeyShare::new(1, &secret(scalar)).expect("a canonical scalar that is not 0")
}

/// Opens a file with the wrong key: it is refused at the check, which differs from the file's in other bytes each time.
fn key_file(key: &[u8; 32]) {
    let Ok(file) = seal_file("share", b"secret", &Protection::RawKey(&secret(&[7; 32])), &mut Zeros) else { return };
    _ = black_box(open_file("share", &file, &Protection::RawKey(&secret(key))));
}

/// Opens a version with a wrong combined point: the key commitment refuses it.
fn key_commitment(scalar: &[u8; 32]) {
    let ring = KeyringPublic { class: KeyringClass::Cluster, y: POINT };
    let object = ObjectTemplate {
        cluster: [1; 32],
        secret_id: [2; 16],
        version_id: [3; 16],
        created: 4,
        writer_id: "spiffe://example.org/w".to_owned(),
    };
    let wrap = WrapTemplate {
        namespace: "team".to_owned(),
        path: "app/a".to_owned(),
        wrap_no: 0,
        wrapped_by: "spiffe://example.org/w".to_owned(),
    };
    let sealed = seal(b"value", &object, &wrap, &ring, &[], &mut Zeros).expect("sealed");
    let header = Header::decode(&sealed.header).expect("a header");
    let partials =
        [1, 2].map(|i| (i, partial(&KeyShare::new(i, &secret(scalar)).expect("a share"), &POINT).expect("a point")));
    let point = combine(&partials).expect("a point");
    _ = black_box(open(&header, &sealed.payload, &POINT, &point, &[]));
}

/// What must be found: a comparison that ends at the first difference.
fn early_exit(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).all(|(a, b)| black_box(a) == black_box(b))
}

/// What must be found: work that depends on how many bits a scalar has.
fn significant(scalar: &[u8; 32]) -> u32 {
    let mut sum = 0;
    for byte in scalar {
        for bit in 0..8 {
            if byte >> bit & 1 == 1 {
                sum = black_box(sum + bit);
            }
        }
    }
    sum
}

/// No randomness at all: what is counted must be the same twice.
struct Zeros;

impl rand_core::TryRng for Zeros {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(0)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(0)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        out.fill(9);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Zeros {}
