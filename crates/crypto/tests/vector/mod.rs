//! The JSON vectors of `docs/format.md`, section 17: made, and checked field by field against this implementation.
#![allow(dead_code, reason = "every test, and the example, uses a part of it")]

use curve25519_dalek::scalar::Scalar;
use quorate_crypto::customer::{CustomerPublic, CustomerSecret, PartSuite, derive_kc};
use quorate_crypto::dleq;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{self, Fresh, Header, ObjectTemplate, WrapTemplate};
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{KeyShare, combine, partial};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

/// One vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Vector {
    pub(crate) class: String,
    pub(crate) t: u8,
    pub(crate) n: u8,
    pub(crate) y: String,
    pub(crate) keyring_id: String,
    pub(crate) shares: Vec<Share>,
    pub(crate) customers: Vec<Customer>,
    pub(crate) fresh: String,
    pub(crate) fresh_w: String,
    pub(crate) obj: Obj,
    pub(crate) wrap: Wrap,
    pub(crate) plaintext: String,
    pub(crate) header: String,
    pub(crate) header_hash: String,
    pub(crate) payload: String,
    pub(crate) partials: Vec<Partial>,
    pub ss1: String,
    pub(crate) kcs: Vec<Kc>,
    pub(crate) dleq: Dleq,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) index: u8,
    pub(crate) secret: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Customer {
    pub(crate) secret: String,
    pub(crate) public: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Obj {
    pub(crate) cluster: String,
    pub(crate) secret_id: String,
    pub(crate) version_id: String,
    pub(crate) created: u64,
    pub(crate) writer_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wrap {
    pub(crate) namespace: String,
    pub(crate) path: String,
    pub(crate) wrap_no: u32,
    pub(crate) wrapped_by: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Partial {
    pub(crate) index: u8,
    pub(crate) point: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kc {
    pub(crate) cust_key_id: String,
    pub(crate) kc: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Dleq {
    pub(crate) index: u8,
    pub(crate) context: String,
    pub(crate) proof: String,
}

/// What went wrong, in words: this is for a reader of test output.
pub(crate) type Check<T> = Result<T, String>;

fn bytes(name: &str, hex: &str) -> Check<Vec<u8>> {
    hex::decode(hex).map_err(|e| format!("{name}: {e}"))
}

fn array<const N: usize>(name: &str, hex: &str) -> Check<[u8; N]> {
    bytes(name, hex)?.try_into().map_err(|_| format!("{name}: not {N} bytes"))
}

fn same<T: PartialEq + std::fmt::Debug>(name: &str, found: &T, expected: &T) -> Check<()> {
    if found == expected { Ok(()) } else { Err(format!("{name}: we get {found:?}, the vector has {expected:?}")) }
}

fn say<E: std::fmt::Display>(name: &'static str) -> impl Fn(E) -> String {
    move |e| format!("{name}: {e}")
}

/// Shares of a random key: index and scalar, and the public key. A dealer, which exists in tests only.
pub(crate) fn deal(t: u8, n: u8, rng: &mut impl CryptoRng) -> (Vec<(u8, [u8; 32])>, [u8; 32]) {
    let mut scalar = || Scalar::from_bytes_mod_order_wide(Secret::<64>::random(rng).expose());
    let coefficients: Vec<Scalar> = (0..t).map(|_| scalar()).collect();
    let at = |x: u8| coefficients.iter().rev().fold(Scalar::ZERO, |acc, c| acc * Scalar::from(x) + c);
    let y = curve25519_dalek::RistrettoPoint::mul_base(&at(0)).compress().to_bytes();
    ((1..=n).map(|i| (i, at(i).to_bytes())).collect(), y)
}

/// A vector from its inputs; everything else is computed.
pub(crate) struct Inputs {
    pub(crate) class: KeyringClass,
    pub(crate) t: u8,
    pub(crate) shares: Vec<(u8, [u8; 32])>,
    pub(crate) y: [u8; 32],
    pub(crate) customers: Vec<CustomerSecret>,
    pub(crate) fresh: Fresh,
    pub(crate) object: ObjectTemplate,
    pub(crate) wrap: WrapTemplate,
    pub(crate) plaintext: Vec<u8>,
}

impl Inputs {
    pub(crate) fn random(
        class: KeyringClass,
        suites: &[PartSuite],
        plaintext_len: usize,
        rng: &mut impl CryptoRng,
    ) -> Self {
        let n = 2 + (rng.next_u32() % 6) as u8;
        let t = 2 + (rng.next_u32() % u32::from(n - 1)) as u8;
        let (shares, y) = deal(t, n, rng);
        let mut id = |len: usize| {
            let mut out = vec![0; len];
            rng.fill_bytes(&mut out);
            out
        };
        let object = ObjectTemplate {
            cluster: id(32).try_into().unwrap_or_default(),
            secret_id: id(16).try_into().unwrap_or_default(),
            version_id: id(16).try_into().unwrap_or_default(),
            created: u64::from_be_bytes(id(8).try_into().unwrap_or_default()) >> 11,
            writer_id: format!("spiffe://example.org/w/{}", hex::encode(id(4))),
        };
        let wrap = WrapTemplate {
            namespace: format!("team/{}", hex::encode(id(2))),
            path: format!("db/пароль {}", hex::encode(id(3))),
            wrap_no: u32::from_be_bytes(id(4).try_into().unwrap_or_default()),
            wrapped_by: format!("spiffe://example.org/r/{}", hex::encode(id(4))),
        };
        let plaintext = id(plaintext_len);
        let customers = suites.iter().map(|s| CustomerSecret::generate(*s, rng)).collect();
        Self { class, t, shares, y, customers, fresh: Fresh::random(rng), object, wrap, plaintext }
    }

    pub(crate) fn vector(&self, rng: &mut impl CryptoRng) -> Check<Vector> {
        let keyring = KeyringPublic { class: self.class, y: self.y };
        let customers: Vec<CustomerPublic> = self.customers.iter().map(|c| c.public().clone()).collect();
        let sealed = sealed::seal_with(&self.plaintext, &self.object, &self.wrap, &keyring, &customers, &self.fresh)
            .map_err(say("seal"))?;
        let header = Header::decode(&sealed.header).map_err(say("header"))?;
        let shares = key_shares(&self.shares)?;
        let points = partials(&shares, &header)?;
        let ss1 = combine(points.get(..usize::from(self.t)).unwrap_or_default()).map_err(say("combine"))?;
        let share = shares.last().ok_or("no shares")?;
        let point = points.last().ok_or("no partials")?.1;
        let mut context = vec![0; 20];
        rng.fill_bytes(&mut context);
        let proof = dleq::prove(share, &[header.r()], &[point], &context, rng).map_err(say("dleq"))?;
        Ok(Vector {
            class: if self.class == KeyringClass::Cluster { "cluster" } else { "customer" }.into(),
            t: self.t,
            n: u8::try_from(self.shares.len()).map_err(say("n"))?,
            y: hex::encode(self.y),
            keyring_id: hex::encode(keyring.id()),
            shares: self.shares.iter().map(|(i, s)| Share { index: *i, secret: hex::encode(s) }).collect(),
            customers: self
                .customers
                .iter()
                .map(|c| Customer {
                    secret: hex::encode(c.encode().expose()),
                    public: hex::encode(c.public().encode()),
                })
                .collect(),
            fresh: hex::encode(self.fresh.keys.expose()),
            fresh_w: hex::encode(self.fresh.proof.expose()),
            obj: Obj {
                cluster: hex::encode(self.object.cluster),
                secret_id: hex::encode(self.object.secret_id),
                version_id: hex::encode(self.object.version_id),
                created: self.object.created,
                writer_id: self.object.writer_id.clone(),
            },
            wrap: Wrap {
                namespace: self.wrap.namespace.clone(),
                path: self.wrap.path.clone(),
                wrap_no: self.wrap.wrap_no,
                wrapped_by: self.wrap.wrapped_by.clone(),
            },
            plaintext: hex::encode(&self.plaintext),
            header: hex::encode(&sealed.header),
            header_hash: hex::encode(header.hash()),
            payload: hex::encode(&sealed.payload),
            partials: points.iter().map(|(i, p)| Partial { index: *i, point: hex::encode(p) }).collect(),
            ss1: hex::encode(ss1.expose()),
            kcs: kcs(&self.customers, &header)?
                .iter()
                .map(|(id, kc)| Kc { cust_key_id: hex::encode(id), kc: hex::encode(kc.expose()) })
                .collect(),
            dleq: Dleq { index: share.index(), context: hex::encode(&context), proof: hex::encode(proof) },
        })
    }
}

fn key_shares(shares: &[(u8, [u8; 32])]) -> Check<Vec<KeyShare>> {
    shares.iter().map(|(i, s)| KeyShare::new(*i, &Secret::init_with(|o| *o = *s)).map_err(say("share"))).collect()
}

fn partials(shares: &[KeyShare], header: &Header) -> Check<Vec<(u8, [u8; 32])>> {
    shares.iter().map(|s| Ok((s.index(), partial(s, &header.r()).map_err(say("partial"))?))).collect()
}

fn kcs(customers: &[CustomerSecret], header: &Header) -> Check<Vec<([u8; 32], Secret<32>)>> {
    let slot = header.slot();
    slot.parts
        .iter()
        .map(|part| {
            let key = customers.iter().find(|c| c.public().id() == part.cust_key_id).ok_or("a part for nobody")?;
            let kc = derive_kc(key, &header.object_bytes(), &header.wrap_bytes(), part).map_err(say("kc"))?;
            Ok((part.cust_key_id, kc))
        })
        .collect()
}

impl Vector {
    /// Checks everything: seals again, recomputes, verifies, opens.
    pub(crate) fn check(&self) -> Check<()> {
        let class = match self.class.as_str() {
            "cluster" => KeyringClass::Cluster,
            "customer" => KeyringClass::Customer,
            other => return Err(format!("class: {other}")),
        };
        let shares: Vec<(u8, [u8; 32])> =
            self.shares.iter().map(|s| Ok((s.index, array("share", &s.secret)?))).collect::<Check<_>>()?;
        let customers: Vec<CustomerSecret> = self
            .customers
            .iter()
            .map(|c| {
                let secret = CustomerSecret::decode(&bytes("customer", &c.secret)?).map_err(say("customer"))?;
                same("customer public", &hex::encode(secret.public().encode()), &c.public)?;
                CustomerPublic::decode(&bytes("customer", &c.public)?).map_err(say("customer public"))?;
                Ok(secret)
            })
            .collect::<Check<_>>()?;
        let inputs = Inputs {
            class,
            t: self.t,
            shares,
            y: array("y", &self.y)?,
            customers,
            fresh: Fresh {
                keys: Secret::from_slice(&bytes("fresh", &self.fresh)?).ok_or("fresh: not 64 bytes")?,
                proof: Secret::from_slice(&bytes("fresh_w", &self.fresh_w)?).ok_or("fresh_w: not 32 bytes")?,
            },
            object: ObjectTemplate {
                cluster: array("cluster", &self.obj.cluster)?,
                secret_id: array("secret_id", &self.obj.secret_id)?,
                version_id: array("version_id", &self.obj.version_id)?,
                created: self.obj.created,
                writer_id: self.obj.writer_id.clone(),
            },
            wrap: WrapTemplate {
                namespace: self.wrap.namespace.clone(),
                path: self.wrap.path.clone(),
                wrap_no: self.wrap.wrap_no,
                wrapped_by: self.wrap.wrapped_by.clone(),
            },
            plaintext: bytes("plaintext", &self.plaintext)?,
        };
        let header = Header::decode(&bytes("header", &self.header)?).map_err(say("header"))?;
        header.verify_proof().map_err(say("proof"))?;
        sealed::verify_batch(&[&header]).map_err(say("batch"))?;
        let accepted: Vec<_> = inputs.customers.iter().map(|c| (c.public().suite(), c.public().id())).collect();
        header.check_slot(&KeyringPublic { class, y: inputs.y }, &accepted).map_err(say("slot"))?;
        self.check_against(&inputs)?;
        self.check_dleq(&inputs, &header)?;
        self.check_opening(&inputs, &header)
    }

    /// Everything but the proof of the partial is a function of the inputs.
    fn check_against(&self, inputs: &Inputs) -> Check<()> {
        let mut again = inputs.vector(&mut getrandom::rand_core::UnwrapErr(getrandom::SysRng))?;
        again.dleq = self.dleq.clone();
        let fields = |v: &Self| -> Check<Vec<(String, serde_json::Value)>> {
            let value = serde_json::to_value(v).map_err(say("json"))?;
            Ok(value.as_object().ok_or("json")?.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
        };
        for ((name, ours), (_, theirs)) in fields(&again)?.iter().zip(&fields(self)?) {
            same(name, ours, theirs)?;
        }
        Ok(())
    }

    fn check_dleq(&self, inputs: &Inputs, header: &Header) -> Check<()> {
        let shares = key_shares(&inputs.shares)?;
        let share = shares.iter().find(|s| s.index() == self.dleq.index).ok_or("dleq: no such share")?;
        let point = partial(share, &header.r()).map_err(say("partial"))?;
        let (context, proof) = (bytes("context", &self.dleq.context)?, array("proof", &self.dleq.proof)?);
        dleq::verify(&share.public_share(), &[header.r()], &[point], &context, &proof).map_err(say("dleq"))
    }

    fn check_opening(&self, inputs: &Inputs, header: &Header) -> Check<()> {
        let points = partials(&key_shares(&inputs.shares)?, header)?;
        let t = usize::from(inputs.t);
        let kcs: Vec<Secret<32>> = kcs(&inputs.customers, header)?.into_iter().map(|(_, kc)| kc).collect();
        for chosen in [points.get(..t), points.get(points.len().saturating_sub(t)..)] {
            let ss1 = combine(chosen.ok_or("fewer than t shares")?).map_err(say("combine"))?;
            let payload = bytes("payload", &self.payload)?;
            let opened = sealed::open(header, &payload, &inputs.y, &ss1, &kcs).map_err(say("open"))?;
            same("opened", &hex::encode(opened.expose()), &self.plaintext)?;
        }
        Ok(())
    }
}

/// Not random at all: the same bytes every time, for golden files and tests that can be repeated.
#[derive(Debug)]
pub(crate) struct Counting(pub(crate) u64);

impl rand_core::TryRng for Counting {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|n| (n >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in out.chunks_mut(8) {
            let bytes = self.try_next_u64()?.to_be_bytes();
            chunk.copy_from_slice(bytes.get(..chunk.len()).unwrap_or_default());
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Counting {}
