//! Sealing, accepting and opening from outside: any t members open, nothing that was changed passes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod vector;

use proptest::prelude::*;
use quorate_crypto::customer::{CustomerError, CustomerPublic, CustomerSecret, PartSuite, derive_kc, derive_kc_from_x};
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{
    self, AcceptError, FormatError, Fresh, Header, MAX_PLAINTEXT, NewWrap, ObjectTemplate, OpenError, RewrapError,
    SealError, Sealed, WrapTemplate, verify_batch,
};
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_crypto::threshold::{KeyShare, SecretPoint, combine, partial};
use vector::{Counting, deal};

/// A keyring with its shares, customers, and labels to seal under.
struct World {
    keyring: KeyringPublic,
    shares: Vec<KeyShare>,
    customers: Vec<CustomerSecret>,
    object: ObjectTemplate,
    wrap: WrapTemplate,
    rng: Counting,
}

impl World {
    fn new(t: u8, n: u8, suites: &[PartSuite], seed: u64) -> Self {
        let mut rng = Counting(seed);
        let (shares, y) = deal(t, n, &mut rng);
        let class = if suites.is_empty() { KeyringClass::Cluster } else { KeyringClass::Customer };
        Self {
            keyring: KeyringPublic { class, y },
            shares: shares.iter().map(|(i, s)| KeyShare::new(*i, &Secret::init_with(|o| *o = *s)).unwrap()).collect(),
            customers: suites.iter().map(|s| CustomerSecret::generate(*s, &mut rng)).collect(),
            object: ObjectTemplate {
                cluster: [1; 32],
                secret_id: [2; 16],
                version_id: [3; 16],
                created: 1_700_000_000_000,
                writer_id: "spiffe://example.org/writer".into(),
            },
            wrap: WrapTemplate {
                namespace: "team".into(),
                path: "db/password".into(),
                wrap_no: 1,
                wrapped_by: "spiffe://example.org/writer".into(),
            },
            rng,
        }
    }

    fn publics(&self) -> Vec<CustomerPublic> {
        self.customers.iter().map(|c| c.public().clone()).collect()
    }

    fn named(&self) -> Vec<(PartSuite, [u8; 32])> {
        self.customers.iter().map(|c| (c.public().suite(), c.public().id())).collect()
    }

    fn seal(&mut self, plaintext: &[u8]) -> Sealed {
        let publics = self.publics();
        sealed::seal(plaintext, &self.object, &self.wrap, &self.keyring, &publics, &mut self.rng).unwrap()
    }

    fn ss1(&self, header: &Header, members: &[usize]) -> SecretPoint {
        let partials: Vec<_> = members
            .iter()
            .map(|m| (self.shares[*m].index(), partial(&self.shares[*m], &header.r()).unwrap()))
            .collect();
        combine(&partials).unwrap()
    }

    fn kcs(&self, header: &Header) -> Vec<Secret<32>> {
        header
            .slot()
            .parts
            .iter()
            .map(|part| {
                let key = self.customers.iter().find(|c| c.public().id() == part.cust_key_id).unwrap();
                derive_kc(key, &header.object_bytes(), &header.wrap_bytes(), part).unwrap()
            })
            .collect()
    }

    fn open(&self, header: &Header, payload: &[u8], members: &[usize]) -> Result<SecretVec, OpenError> {
        sealed::open(header, payload, &self.keyring.y, &self.ss1(header, members), &self.kcs(header))
    }

    fn accepts(&self, header: &[u8]) -> bool {
        Header::decode(header)
            .is_ok_and(|h| h.check_slot(&self.keyring, &self.named()).is_ok() && h.verify_proof().is_ok())
    }
}

const HYBRID: PartSuite = PartSuite::Hybrid;
const P256: PartSuite = PartSuite::P256;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_t_members_open_and_fewer_do_not(
        seed: u64,
        n in 2u8..=6,
        t_of in 0u8..=4,
        order in Just((0usize..6).collect::<Vec<_>>()).prop_shuffle(),
        kinds in 0usize..4,
        plaintext in proptest::collection::vec(any::<u8>(), 1..300),
    ) {
        let t = 2 + t_of % (n - 1);
        let suites: &[PartSuite] = [&[][..], &[HYBRID], &[P256], &[P256, HYBRID]][kinds];
        let mut world = World::new(t, n, suites, seed);
        let sealed = world.seal(&plaintext);
        let header = Header::decode(&sealed.header).unwrap();
        prop_assert!(world.accepts(&sealed.header));
        let members: Vec<usize> = order.into_iter().filter(|m| *m < usize::from(n)).collect();
        for count in 2..=members.len() {
            let opened = world.open(&header, &sealed.payload, &members[..count]);
            if count >= usize::from(t) {
                prop_assert!(opened.unwrap().expose() == plaintext);
            } else {
                prop_assert_eq!(opened.unwrap_err(), OpenError::KeyCommitment);
            }
        }
    }
}

#[test]
fn every_changed_byte_of_the_header_is_refused() {
    for suites in [&[][..], &[HYBRID], &[P256]] {
        let mut world = World::new(2, 3, suites, 7);
        let sealed = world.seal(b"value");
        assert!(world.accepts(&sealed.header));
        let proof_at = sealed.header.len() - 36 - 68;
        for at in 0..sealed.header.len() {
            let mut changed = sealed.header.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(!world.accepts(&changed), "byte {at} of {suites:?}");
            // Opening does not look at the proof. ML-KEM is slow without optimisation: a part of its bytes will do.
            let opens = at < proof_at && (suites != [HYBRID] || at % 16 == 0);
            if let (Ok(header), true) = (Header::decode(&changed), opens) {
                let kcs = world.kcs_or_any(&header);
                let opened =
                    sealed::open(&header, &sealed.payload, &world.keyring.y, &world.ss1(&header, &[0, 1]), &kcs);
                assert!(opened.is_err(), "byte {at} of {suites:?} opens");
            }
        }
        for len in 0..sealed.header.len() {
            assert!(Header::decode(&sealed.header[..len]).is_err(), "cut to {len}");
        }
        let longer = [&sealed.header[..], &[0]].concat();
        assert_eq!(Header::decode(&longer), Err(FormatError::Malformed));
    }
}

impl World {
    /// The customers' values where a part still names a known key, anything otherwise.
    fn kcs_or_any(&self, header: &Header) -> Vec<Secret<32>> {
        let (object, wrap) = (header.object_bytes(), header.wrap_bytes());
        let value = |part| self.customers.iter().find_map(|c| derive_kc(c, &object, &wrap, part).ok());
        header.slot().parts.iter().map(|part| value(part).unwrap_or_else(|| Secret::init_with(|_| {}))).collect()
    }
}

#[test]
fn every_changed_byte_of_the_payload_is_refused() {
    let mut world = World::new(2, 3, &[], 8);
    let sealed = world.seal(b"value");
    let header = Header::decode(&sealed.header).unwrap();
    assert_eq!(header.check_payload(&sealed.payload), Ok(()));
    for at in 0..sealed.payload.len() {
        let mut changed = sealed.payload.clone();
        changed[at] ^= 1 << (at % 8);
        assert_eq!(header.check_payload(&changed), Err(AcceptError::PayloadHash));
        assert_eq!(world.open(&header, &changed, &[0, 1]).unwrap_err(), OpenError::PayloadHash);
    }
    for changed in [&sealed.payload[1..], &[&sealed.payload[..], &[0]].concat(), &[]] {
        assert_eq!(header.check_payload(changed), Err(AcceptError::PayloadLength));
        assert_eq!(world.open(&header, changed, &[0, 1]).unwrap_err(), OpenError::PayloadLength);
    }
}

#[test]
fn a_wrong_partial_or_customer_value_fails_the_commitment() {
    let mut world = World::new(2, 3, &[HYBRID, P256], 9);
    let sealed = world.seal(b"value");
    let header = Header::decode(&sealed.header).unwrap();
    let (ss1, kcs) = (world.ss1(&header, &[0, 2]), world.kcs(&header));
    let y = &world.keyring.y;
    assert!(sealed::open(&header, &sealed.payload, y, &ss1, &kcs).is_ok());

    let one = partial(&world.shares[0], &header.r()).unwrap();
    let wrong = combine(&[(1, one), (3, header.r())]).unwrap();
    assert_eq!(sealed::open(&header, &sealed.payload, y, &wrong, &kcs).unwrap_err(), OpenError::KeyCommitment);

    let mut swapped = world.kcs(&header);
    swapped.swap(0, 1);
    assert_eq!(sealed::open(&header, &sealed.payload, y, &ss1, &swapped).unwrap_err(), OpenError::KeyCommitment);
    assert_eq!(
        sealed::open(&header, &sealed.payload, y, &ss1, &kcs[..1]).unwrap_err(),
        OpenError::CustomerValues { given: 1, parts: 2 }
    );
    let other = World::new(2, 3, &[], 10).keyring.y;
    assert_eq!(sealed::open(&header, &sealed.payload, &other, &ss1, &kcs).unwrap_err(), OpenError::OtherKeyring);
}

#[test]
fn slots_name_exactly_the_customers_of_the_mount() {
    let mut world = World::new(2, 3, &[HYBRID, P256], 11);
    let named = world.named();
    let both = world.seal(b"value").header;
    let both = Header::decode(&both).unwrap();
    assert_eq!(both.check_slot(&world.keyring, &named), Ok(()));
    let reversed: Vec<_> = named.iter().rev().copied().collect();
    assert_eq!(both.check_slot(&world.keyring, &reversed), Ok(()));

    assert_eq!(both.check_slot(&world.keyring, &named[..1]), Err(AcceptError::Customers));
    let doubled = [named[0], named[0], named[1]];
    assert_eq!(both.check_slot(&world.keyring, &doubled), Err(AcceptError::Customers));
    let other_suite = [(P256, named[0].1), named[1]];
    assert_eq!(both.check_slot(&world.keyring, &other_suite), Err(AcceptError::Customers));
    assert_eq!(both.check_slot(&world.keyring, &[]), Err(AcceptError::Class));
    let cluster = KeyringPublic { class: KeyringClass::Cluster, ..world.keyring };
    assert_eq!(both.check_slot(&cluster, &named), Err(AcceptError::Class));
    assert_eq!(both.check_slot(&cluster, &[]), Err(AcceptError::Customers));
    let other = World::new(2, 3, &[], 12).keyring;
    assert_eq!(both.check_slot(&other, &[]), Err(AcceptError::OtherKeyring));

    // One writer leaves all customers out: a valid header, which a customer mount must not take.
    let without = sealed::seal(b"value", &world.object, &world.wrap, &cluster, &[], &mut world.rng).unwrap().header;
    let without = Header::decode(&without).unwrap();
    assert_eq!(without.verify_proof(), Ok(()));
    assert_eq!(without.check_slot(&world.keyring, &named), Err(AcceptError::Customers));
    // Or one of two.
    let one = [world.customers[0].public().clone()];
    let one = sealed::seal(b"value", &world.object, &world.wrap, &world.keyring, &one, &mut world.rng).unwrap().header;
    let one = Header::decode(&one).unwrap();
    assert_eq!(one.verify_proof(), Ok(()));
    assert_eq!(one.check_slot(&world.keyring, &named), Err(AcceptError::Customers));
}

#[test]
fn sealing_refuses_what_no_one_would_accept() {
    let mut world = World::new(2, 3, &[HYBRID], 13);
    let publics = world.publics();
    let twice = [publics[0].clone(), publics[0].clone()];
    let keyring = world.keyring;
    let cluster = KeyringPublic { class: KeyringClass::Cluster, ..keyring };
    let mut seal = |plaintext: &[u8], wrap: &WrapTemplate, keyring: &KeyringPublic, customers: &[CustomerPublic]| {
        sealed::seal(plaintext, &world.object, wrap, keyring, customers, &mut world.rng).unwrap_err()
    };
    let wrap = world.wrap.clone();
    assert_eq!(seal(b"", &wrap, &keyring, &publics), SealError::Format(FormatError::PlaintextLength(0)));
    let long = vec![0; MAX_PLAINTEXT + 1];
    assert_eq!(seal(&long, &wrap, &keyring, &publics), SealError::Format(FormatError::PlaintextLength(long.len())));
    assert_eq!(seal(b"v", &wrap, &keyring, &[]), SealError::Class);
    assert_eq!(seal(b"v", &wrap, &cluster, &publics), SealError::Class);
    assert_eq!(seal(b"v", &wrap, &keyring, &twice), SealError::DuplicateCustomer);
    let nine = vec![publics[0].clone(); 9];
    assert_eq!(seal(b"v", &wrap, &keyring, &nine), SealError::Format(FormatError::PartCount(9)));
    for y in [[0; 32], [0xff; 32]] {
        assert_eq!(seal(b"v", &wrap, &KeyringPublic { y, ..keyring }, &publics), SealError::BadKeyring);
    }
    let bad = WrapTemplate { path: "a/../b".into(), ..wrap.clone() };
    assert_eq!(seal(b"v", &bad, &keyring, &publics), SealError::Format(FormatError::Path));
    let bad = WrapTemplate { namespace: "/n".into(), ..wrap.clone() };
    assert_eq!(seal(b"v", &bad, &keyring, &publics), SealError::Format(FormatError::Namespace));
    let bad = WrapTemplate { wrapped_by: String::new(), ..wrap };
    assert_eq!(seal(b"v", &bad, &keyring, &publics), SealError::Format(FormatError::Principal));
}

#[test]
fn the_largest_plaintext_goes_round() {
    let mut world = World::new(2, 2, &[], 14);
    let plaintext = vec![0xa5; MAX_PLAINTEXT];
    let sealed = world.seal(&plaintext);
    let header = Header::decode(&sealed.header).unwrap();
    assert_eq!(sealed.payload.len(), 17 * 65_536 + 40);
    assert_eq!(world.open(&header, &sealed.payload, &[0, 1]).unwrap().expose(), plaintext);
}

#[test]
fn encodings_that_are_not_canonical_are_refused() {
    let mut world = World::new(2, 3, &[], 15);
    let header = world.seal(b"value").header;
    let len = header.len();
    // From the end: LP(f) 36, LP(A || Ā) 68, LP(slots) 4 + 82, LP(kem) 68.
    let (f, a, slots, kem) = (len - 32, len - 36 - 64, len - 36 - 68 - 82, len - 36 - 68 - 86 - 64);
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = header.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        Header::decode(&changed).unwrap_err()
    };
    let identity = [0; 32];
    let mut negative = [0; 32];
    negative[0] = 1; // The RFC's list of bad encodings begins with such values: a negative field element.
    let p_plus_2 = {
        // 2 is not canonical as p + 2.
        let mut x = [0xff; 32];
        (x[0], x[31]) = (0xef, 0x7f);
        x
    };
    for at in [kem, kem + 32, a, a + 32] {
        for bad in [identity, negative, p_plus_2, [0xff; 32]] {
            assert_eq!(with(at, &bad), FormatError::BadPoint);
        }
    }
    let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
    assert_eq!(with(f, &order), FormatError::BadScalar);
    assert_eq!(with(f, &[0xff; 32]), FormatError::BadScalar);
    assert_eq!(with(slots, &[0]), FormatError::SlotCount(0));
    assert_eq!(with(slots, &[2]), FormatError::SlotCount(2));
    assert_eq!(with(slots + 1, &[9]), FormatError::PartCount(9));
    assert_eq!(with(4, &[2]), FormatError::UnknownPayloadSuite(2));
    let wrap_at = 4 + Header::decode(&header).unwrap().object_bytes().len() + 4;
    assert_eq!(with(wrap_at, &[0]), FormatError::UnknownWrapSuite(0));
}

#[test]
fn parts_are_checked_and_ordered() {
    let mut world = World::new(2, 3, &[P256, P256], 16);
    let header = world.seal(b"value").header;
    const PART: usize = 1 + 32 + 4 + 65;
    let first = header.len() - 36 - 68 - 80 - 2 * PART;
    let change = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = header.clone();
        edit(&mut changed);
        Header::decode(&changed).unwrap_err()
    };
    let swap = |h: &mut Vec<u8>| h[first..first + 2 * PART].rotate_left(PART);
    assert_eq!(change(&swap), FormatError::PartOrder);
    let repeat = |h: &mut Vec<u8>| h.copy_within(first..first + PART, first + PART);
    assert_eq!(change(&repeat), FormatError::PartOrder);
    assert_eq!(change(&|h| h[first] = 3), FormatError::UnknownPartSuite(3));
    assert_eq!(change(&|h| h[first] = 1), FormatError::BadPart, "the length is that of the other suite");
    assert_eq!(change(&|h| h[first + PART - 1] ^= 1), FormatError::BadPart, "off the curve");
    assert_eq!(change(&|h| h[first + 37] = 2), FormatError::BadPart, "compressed tag");
    assert_eq!(change(&|h| h[first + 37..first + PART].fill(0)), FormatError::BadPart, "infinity");
}

#[test]
fn customer_values_are_bound_to_one_label() {
    let mut world = World::new(2, 3, &[HYBRID], 17);
    let sealed = world.seal(b"value");
    let header = Header::decode(&sealed.header).unwrap();
    let (object, wrap, part) = (header.object_bytes(), header.wrap_bytes(), &header.slot().parts[0]);
    let kc = |object: &[u8], wrap: &[u8], part| *derive_kc(&world.customers[0], object, wrap, part).unwrap().expose();
    let right = kc(&object, &wrap, part);
    assert_eq!(right, kc(&object, &wrap, part));

    // The victim's R2 in the attacker's own header.
    let mut elsewhere = header.wrap().clone();
    elsewhere.path = "attacker/path".into();
    assert_ne!(right, kc(&object, &elsewhere.encode(), part));
    let mut other_object = header.object().clone();
    other_object.version_id[0] ^= 1;
    assert_ne!(right, kc(&other_object.encode(), &wrap, part));
    let mut other_kem = part.clone();
    *other_kem.ct.last_mut().unwrap() ^= 1;
    assert_ne!(right, kc(&object, &wrap, &other_kem), "implicit rejection");

    let mut other_key = part.clone();
    other_key.cust_key_id[0] ^= 1;
    let refused = |part| derive_kc(&world.customers[0], &object, &wrap, part).unwrap_err();
    assert_eq!(refused(&other_key), CustomerError::OtherKey);
    let mut off_curve = part.clone();
    off_curve.ct[64] ^= 1;
    assert_eq!(refused(&off_curve), CustomerError::BadPart);
    let mut short = part.clone();
    short.ct.truncate(65);
    assert_eq!(refused(&short), CustomerError::BadPart);
}

/// A device computes c·R2 itself and gives out the x coordinate.
#[test]
fn a_key_in_a_device_gives_the_same_value() {
    for suite in [HYBRID, P256] {
        let mut world = World::new(2, 3, &[suite], 24);
        let header = Header::decode(&world.seal(b"value").header).unwrap();
        let (object, wrap, part) = (header.object_bytes(), header.wrap_bytes(), &header.slot().parts[0]);
        let (key, encoded) = (&world.customers[0], world.customers[0].encode());
        let scalar = p256::SecretKey::from_slice(&encoded.expose()[1..33]).unwrap();
        let r2 = p256::PublicKey::from_sec1_bytes(part.r2()).unwrap();
        let x = Secret::from_slice(scalar.diffie_hellman(&r2).raw_secret_bytes()).unwrap();
        let seed = Secret::from_slice(&encoded.expose()[33..]);
        let kc = derive_kc_from_x(key.public(), &x, seed.as_ref(), &object, &wrap, part).unwrap();
        assert_eq!(kc.expose(), derive_kc(key, &object, &wrap, part).unwrap().expose());
        let other = if seed.is_some() { None } else { Some(Secret::init_with(|_| {})) };
        let refused = derive_kc_from_x(key.public(), &x, other.as_ref(), &object, &wrap, part).unwrap_err();
        assert_eq!(refused, CustomerError::BadKey);
    }
}

#[test]
fn customer_keys_go_round_and_bad_ones_are_refused() {
    for (suite, secret_len, public_len) in [(HYBRID, 97, 1250), (P256, 33, 66)] {
        let key = CustomerSecret::generate(suite, &mut Counting(18));
        let secret = key.encode();
        let public = key.public().encode();
        assert_eq!((secret.len(), public.len()), (secret_len, public_len));
        assert_eq!(CustomerSecret::decode(secret.expose()).unwrap().public().id(), key.public().id());
        assert_eq!(CustomerPublic::decode(&public).as_ref(), Ok(key.public()));
        for len in 0..secret_len {
            assert!(CustomerSecret::decode(&secret.expose()[..len]).is_err());
        }
        let zero = [&secret.expose()[..1], &[0; 32], &secret.expose()[33..]].concat();
        assert_eq!(CustomerSecret::decode(&zero).unwrap_err(), CustomerError::BadKey);
        let mut off_curve = public.clone();
        off_curve[65] ^= 1;
        assert_eq!(CustomerPublic::decode(&off_curve), Err(CustomerError::BadKey));
        assert_eq!(CustomerPublic::decode(&public[..public_len - 1]), Err(CustomerError::BadKey));
        assert_eq!(CustomerPublic::decode(&[&public[..], &[0]].concat()), Err(CustomerError::BadKey));
        assert_eq!(CustomerPublic::decode(&[3]), Err(CustomerError::UnknownSuite(3)));
    }
    let mut unreduced = CustomerSecret::generate(HYBRID, &mut Counting(19)).public().encode();
    unreduced[66..69].fill(0xff);
    assert_eq!(CustomerPublic::decode(&unreduced), Err(CustomerError::BadKey), "FIPS 203's modulus check");
}

#[test]
fn repeated_randomness_repeats_no_key() {
    let world = World::new(2, 3, &[P256], 20);
    let publics = world.publics();
    let seal = |plaintext: &[u8], wrap: &WrapTemplate| {
        let fresh = Fresh::random(&mut Counting(21));
        sealed::seal_with(plaintext, &world.object, wrap, &world.keyring, &publics, &fresh).unwrap()
    };
    let first = seal(b"value", &world.wrap);
    assert_eq!(first, seal(b"value", &world.wrap), "the same inputs give the same bytes");
    let elsewhere = seal(b"value", &WrapTemplate { path: "other".into(), ..world.wrap.clone() });
    let changed = seal(b"other", &world.wrap);
    let header = |s: &Sealed| Header::decode(&s.header).unwrap();
    for other in [&elsewhere, &changed] {
        assert_ne!(header(&first).r(), header(other).r());
        assert_ne!(header(&first).slot().parts[0].ct, header(other).slot().parts[0].ct);
    }
    assert_ne!(first.payload[..24], changed.payload[..24], "another nonce");
    assert_ne!(header(&first).dek_commitment(), header(&changed).dek_commitment());
}

#[test]
fn a_rewrap_keeps_the_payload_and_moves_the_key() {
    let mut old = World::new(2, 3, &[HYBRID], 22);
    let sealed = old.seal(b"value");
    let header = Header::decode(&sealed.header).unwrap();
    let new = World::new(3, 5, &[], 23);
    let wrap = WrapTemplate { path: "moved/here".into(), wrap_no: 2, ..old.wrap.clone() };
    let target = NewWrap { wrap: &wrap, keyring: &new.keyring, customers: &[] };
    let (ss1, kcs) = (old.ss1(&header, &[0, 1]), old.kcs(&header));
    let moved = sealed::rewrap(&header, &old.keyring.y, &ss1, &kcs, &target, &mut old.rng).unwrap();
    let moved = Header::decode(&moved).unwrap();
    assert_eq!(moved.verify_proof(), Ok(()));
    assert_eq!(moved.check_slot(&new.keyring, &[]), Ok(()));
    assert_eq!(moved.check_rewrap_of(&header), Ok(()));
    assert_eq!(header.check_rewrap_of(&moved), Err(AcceptError::Rewrap), "numbers rise");
    assert_eq!(moved.check_rewrap_of(&moved), Err(AcceptError::Rewrap));
    let other = Header::decode(&old.seal(b"value").header).unwrap();
    assert_eq!(moved.check_rewrap_of(&other), Err(AcceptError::Rewrap), "another payload");
    assert_eq!(new.open(&moved, &sealed.payload, &[4, 0, 2]).unwrap().expose(), b"value");
    assert_eq!(verify_batch(&[&header, &moved, &other]), Ok(()), "a batch over two keyrings");

    let wrong = old.ss1(&other, &[0, 1]);
    let refused = sealed::rewrap(&header, &old.keyring.y, &wrong, &kcs, &target, &mut old.rng).unwrap_err();
    assert_eq!(refused, RewrapError::Open(OpenError::KeyCommitment));
}
