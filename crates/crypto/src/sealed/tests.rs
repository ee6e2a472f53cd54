//! What a dishonest writer can put into a header whose proof is right, and what he can't: these need the private parts.

use super::header::{Body, Slot};
use super::*;
use crate::group;
use crate::kdf::xchacha_seal;
use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;

fn random_scalar() -> Scalar {
    Scalar::from_bytes_mod_order_wide(Secret::<64>::random(&mut UnwrapErr(SysRng)).expose())
}

/// A keyring whose secret the test knows, and one sealed version taken apart.
struct Case {
    s: Scalar,
    keyring: KeyringPublic,
    g_bar: RistrettoPoint,
    object: Vec<u8>,
    wrap: Vec<u8>,
    payload: Vec<u8>,
    dek: Secret<32>,
    r: Scalar,
}

impl Case {
    fn new() -> Self {
        let s = random_scalar();
        let y = encode(&RistrettoPoint::mul_base(&s));
        let keyring = KeyringPublic { class: KeyringClass::Cluster, y };
        let object = ObjectLabel {
            payload_suite: PAYLOAD_SUITE,
            cluster: [1; 32],
            secret_id: [2; 16],
            version_id: [3; 16],
            created: 4,
            writer_id: "writer".into(),
            padded_len: 64,
        }
        .encode();
        let dek = Secret::init_with(|o| o.fill(5));
        let payload = payload::seal(b"value", &object, &dek, &Secret::init_with(|o| o.fill(6))).unwrap();
        let mut case =
            Self { s, keyring, g_bar: g_bar(&keyring.id()), object, wrap: vec![], payload, dek, r: random_scalar() };
        case.wrap = case.wrap_label("victim/path");
        case
    }

    fn wrap_label(&self, path: &str) -> Vec<u8> {
        WrapLabel {
            wrap_suite: WRAP_SUITE,
            keyring_id: self.keyring.id(),
            namespace: "ns".into(),
            path: path.into(),
            wrap_no: 1,
            wrapped_by: "writer".into(),
        }
        .encode()
    }

    fn ss1(&self) -> SecretPoint {
        SecretPoint::new(RistrettoPoint::mul_base(&self.r) * self.s)
    }

    fn kem(&self) -> [u8; 64] {
        pair(&encode(&RistrettoPoint::mul_base(&self.r)), &encode(&(self.g_bar * self.r)))
    }

    /// A slot wrapping `dek`, and the part of the header ahead of the proof; `change` may spoil the slot.
    fn header_a(&self, dek: &Secret<32>, commitment: &[u8; 32], change: impl Fn(&mut Slot)) -> Vec<u8> {
        let kem = self.kem();
        let schedule = wrap::Context { object: &self.object, wrap: &self.wrap, y: &self.keyring.y, kem: &kem };
        let (kek, kc) = schedule.kek(&self.ss1(), &[], &[]);
        let wdek = wrap_key(&kek, &schedule.aad(), dek).unwrap();
        let mut slot = Slot { parts: vec![], kc: *kc.expose(), wdek };
        change(&mut slot);
        Body {
            object: &self.object,
            wrap: &self.wrap,
            payload_hash: &payload::payload_hash(&self.payload),
            dek_commitment: commitment,
            kem: &kem,
            slot: &slot,
        }
        .encode()
    }

    fn open(&self, header: &[u8]) -> Result<SecretVec, OpenError> {
        let header = Header::decode(header).unwrap();
        assert_eq!(header.verify_proof(), Ok(()), "the proof is right: only opening can tell");
        open(&header, &self.payload, &self.keyring.y, &self.ss1(), &[])
    }

    fn finish(&self, header_a: Vec<u8>) -> Vec<u8> {
        proof::finish(header_a, &self.keyring.id(), &self.g_bar, &self.r, &random_scalar())
    }
}

#[test]
fn each_lie_of_a_writer_has_its_own_error() {
    let mut case = Case::new();
    let commitment = payload::dek_commitment(&case.dek);
    let honest = case.finish(case.header_a(&case.dek, &commitment, |_| {}));
    assert_eq!(case.open(&honest).unwrap().expose(), b"value");

    let other = Secret::init_with(|o| o.fill(9));
    let spoiled = case.finish(case.header_a(&case.dek, &commitment, |slot| slot.kc = [0; 32]));
    assert_eq!(case.open(&spoiled).unwrap_err(), OpenError::KeyCommitment);
    let spoiled = case.finish(case.header_a(&case.dek, &commitment, |slot| slot.wdek = [0; 48]));
    assert_eq!(case.open(&spoiled).unwrap_err(), OpenError::WrappedKey);
    let spoiled = case.finish(case.header_a(&other, &commitment, |_| {}));
    assert_eq!(case.open(&spoiled).unwrap_err(), OpenError::DekCommitment);
    let spoiled = case.finish(case.header_a(&other, &payload::dek_commitment(&other), |_| {}));
    assert_eq!(case.open(&spoiled).unwrap_err(), OpenError::PayloadTag);

    // The right key and tag, but a true length of 0, of more than fits the label's length, and a padding that is not zero.
    let pay_key = crate::kdf::expand256(&case.dek, &transcript("pay", &[]));
    for (at, value) in [(7, 0), (7, 57), (0, 1), (63, 1)] {
        let mut padded = vec![0; 64];
        padded[7] = 5;
        padded[at] = value;
        xchacha_seal(&pay_key, &[6; 24], &hash("pay-aad", &[&case.object]), &mut padded).unwrap();
        case.payload = [[6; 24].as_slice(), &padded].concat();
        let spoiled = case.finish(case.header_a(&case.dek, &commitment, |_| {}));
        assert_eq!(case.open(&spoiled).unwrap_err(), OpenError::Padding, "byte {at} = {value}");
    }
}

/// The attack that the proof is there for: R' = R + ρG under the attacker's own path, so that the partials which he is
/// entitled to would give him s·R.
#[test]
fn relabelled_points_have_no_proof() {
    let mut case = Case::new();
    let commitment = payload::dek_commitment(&case.dek);
    let victim = case.finish(case.header_a(&case.dek, &commitment, |_| {}));
    let replayed = victim[victim.len() - 36 - 68..].to_vec();

    let rho = random_scalar();
    let known_r = case.r;
    case.wrap = case.wrap_label("attacker/path");
    case.r = known_r + rho;
    let header_a = case.header_a(&case.dek, &commitment, |_| {});

    // With r he could, of course: the test would else prove nothing.
    assert!(Header::decode(&case.finish(header_a.clone())).unwrap().verify_proof().is_ok());
    // He knows only ρ.
    let forged = proof::finish(header_a.clone(), &case.keyring.id(), &case.g_bar, &rho, &random_scalar());
    // Or he reuses the victim's proof.
    let copied = [header_a, replayed].concat();
    for bytes in [forged, copied] {
        let header = Header::decode(&bytes).unwrap();
        assert_eq!(header.verify_proof(), Err(BadProof));
        let victim = Header::decode(&victim).unwrap();
        assert_eq!(verify_batch(&[&victim]), Ok(()));
        assert_eq!(verify_batch(&[&victim, &header]), Err(BadProof));
        assert_eq!(verify_batch(&[&header, &victim]), Err(BadProof));
    }
}

/// A header whose two equations are off by `first` and `second`: f fits the challenge, the commitments are shifted.
fn shifted(case: &Case, first: RistrettoPoint, second: RistrettoPoint) -> Header {
    let w = random_scalar();
    let commitments = pair(&encode(&(RistrettoPoint::mul_base(&w) - first)), &encode(&(case.g_bar * w - second)));
    let mut bytes = case.header_a(&case.dek, &payload::dek_commitment(&case.dek), |_| {});
    crate::encoding::lp(&mut bytes, &commitments);
    let e = hash_to_scalar("tdh2", &[&case.keyring.id(), &bytes]);
    crate::encoding::lp(&mut bytes, (w + case.r * e).as_bytes());
    Header::decode(&bytes).unwrap()
}

/// Errors that cancel when both equations of a header, or two headers, get the same weight.
#[test]
fn errors_that_cancel_under_equal_weights_are_found() {
    let case = Case::new();
    let d = RistrettoPoint::mul_base(&random_scalar());
    let zero = d - d;
    let good = shifted(&case, zero, zero);
    assert_eq!(good.verify_proof(), Ok(()));
    assert_eq!(verify_batch(&[&good, &good]), Ok(()));

    let within = shifted(&case, d, -d);
    let e = hash_to_scalar("tdh2", &[&case.keyring.id(), within.without_f()]);
    let first = RistrettoPoint::mul_base(&within.f) - within.a - within.r * e;
    let second = case.g_bar * within.f - within.a_bar - within.r_bar * e;
    assert_eq!(first + second, zero, "one weight for both equations would not see it");
    assert_eq!(within.verify_proof(), Err(BadProof));
    assert_eq!(verify_batch(&[&within]), Err(BadProof));

    let (plus, minus) = (shifted(&case, d, zero), shifted(&case, -d, zero));
    assert_eq!(verify_batch(&[&plus, &minus]), Err(BadProof));
    let (plus, minus) = (shifted(&case, zero, d), shifted(&case, zero, -d));
    assert_eq!(verify_batch(&[&plus, &good, &minus]), Err(BadProof));
    for one_sided in [shifted(&case, d, zero), shifted(&case, zero, d)] {
        assert_eq!(one_sided.verify_proof(), Err(BadProof), "both equations count");
    }
}

/// The weights must be fixed only after the last byte of the batch, f included.
#[test]
fn batch_weights_depend_on_every_header_in_full() {
    let case = Case::new();
    let d = RistrettoPoint::mul_base(&random_scalar());
    let (one, two) = (shifted(&case, d, d), shifted(&case, -d, -d));
    let seed = |headers: &[&Header]| hash("batch", &headers.iter().map(|h| h.as_bytes()).collect::<Vec<_>>());
    let before = seed(&[&one, &two]);
    let mut bytes = two.as_bytes().to_vec();
    let f_at = bytes.len() - 32;
    bytes[f_at..].copy_from_slice((two.f + Scalar::ONE).as_bytes());
    assert_ne!(before, seed(&[&one, &Header::decode(&bytes).unwrap()]));
    assert_ne!(before, seed(&[&two, &one]));
}

#[test]
fn keyring_decides_second_base_and_challenge() {
    let case = Case::new();
    let other = KeyringPublic { class: KeyringClass::Cluster, y: encode(&RistrettoPoint::mul_base(&random_scalar())) };
    let header_a = case.header_a(&case.dek, &payload::dek_commitment(&case.dek), |_| {});
    let bytes = proof::finish(header_a, &other.id(), &g_bar(&other.id()), &case.r, &random_scalar());
    assert_eq!(Header::decode(&bytes).unwrap().verify_proof(), Err(BadProof));
    assert!(group::point(&encode(&g_bar(&other.id()))).is_ok());
}
