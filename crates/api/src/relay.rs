//! Questions that reach members through another member, and their sealed answers (`docs/wire.md`, section 6): one
//! definition, for the client that asks, the members that answer, and the one between them that can do neither.
//!
//! The question is signed by the caller and travels unchanged. Each member that it names authenticates the caller and decides
//! by itself, signs its answer over the question's hash, and seals it to the key in the question. The member in between sees
//! ciphertext. What it can do is not to pass something on.

use crate::vault::{OpenReply, ReadMountsReply};
use borsh::{BorshDeserialize, BorshSerialize};
use prost::Message as _;
use quorate_crypto::answer::{AnswerKey, BadAnswerKey, seal_answer};
use quorate_crypto::encoding::{hash, transcript};
use quorate_crypto::identity::{SigningKey, VerifyKey};
use quorate_crypto::secret::SecretVec;
use quorate_state::ids::{ClusterId, MemberIndex, Millis, RequestId};
use quorate_state::outcome::Refusal;
use rand_core::CryptoRng;

/// What a caller asks of members that it does not reach. Canonical: borsh after one version byte.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Question {
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// The caller's id for it: stands in every audit record.
    pub id: RequestId,
    /// What is asked.
    pub ask: Asked,
    /// The public half of the [`AnswerKey`] that answers are sealed to.
    pub epk: [u8; 32],
    /// Who is to answer, ascending.
    pub members: Vec<MemberIndex>,
    /// When it is over, milliseconds since 1970: at most 30 s ahead.
    pub not_after: Millis,
    /// The caller's SPIFFE id, as its certificate says it.
    pub principal: String,
    /// The caller's certificate chain, DER, the caller's own first.
    pub chain: Vec<Vec<u8>>,
}

/// What can be asked through another member: what takes more than one member's answer.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Asked {
    /// As `OpenRequest`.
    Open {
        /// The member must have applied this index.
        min_index: u64,
        /// Whether to prove that the partials are right.
        prove: bool,
        /// Who is to send headers and payloads.
        content: Vec<MemberIndex>,
        /// 1 to 256.
        items: Vec<Version>,
    },
    /// As `ReadMountsRequest`: whose answers t members must give alike before anybody is blamed for a part.
    ReadMounts {
        /// The namespace.
        namespace: String,
    },
}

/// As `SecretVersion`.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Version {
    /// The namespace.
    pub namespace: String,
    /// The path.
    pub path: String,
    /// 0: the newest.
    pub number: u64,
}

/// A question and its caller's signature.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedQuestion {
    /// The canonical bytes of a [`Question`].
    pub bytes: Vec<u8>,
    /// The caller's Ed25519 key.
    pub key: [u8; 32],
    /// Purpose `question`, over `bytes`.
    pub signature: [u8; 64],
}

/// What a member says.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Answer {
    /// An `OpenReply` in protobuf.
    Opened(Vec<u8>),
    /// A `ReadMountsReply` in protobuf.
    Mounts(Vec<u8>),
    /// That it does not answer: a code of `docs/errors.md`, and why.
    Refused {
        /// The code.
        code: String,
        /// Why.
        reason: String,
    },
}

impl Answer {
    /// [`Answer::Opened`].
    #[must_use]
    pub fn opened(reply: &OpenReply) -> Self {
        Self::Opened(reply.encode_to_vec())
    }

    /// [`Answer::Mounts`].
    #[must_use]
    pub fn mounts(reply: &ReadMountsReply) -> Self {
        Self::Mounts(reply.encode_to_vec())
    }

    /// The reply inside [`Answer::Opened`], if it is one.
    #[must_use]
    pub fn as_opened(&self) -> Option<OpenReply> {
        match self {
            Self::Opened(bytes) => OpenReply::decode(bytes.as_slice()).ok(),
            Self::Mounts(_) | Self::Refused { .. } => None,
        }
    }

    /// The reply inside [`Answer::Mounts`], if it is one.
    #[must_use]
    pub fn as_mounts(&self) -> Option<ReadMountsReply> {
        match self {
            Self::Mounts(bytes) => ReadMountsReply::decode(bytes.as_slice()).ok(),
            Self::Opened(_) | Self::Refused { .. } => None,
        }
    }
}

impl core::fmt::Debug for Answer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Opened(bytes) => write!(f, "Opened({} bytes)", bytes.len()),
            Self::Mounts(bytes) => write!(f, "Mounts({} bytes)", bytes.len()),
            Self::Refused { code, .. } => write!(f, "Refused({code})"),
        }
    }
}

/// What is sealed: an [`Answer`] in borsh, and the member's signature.
#[derive(BorshSerialize, BorshDeserialize)]
struct Signed {
    answer: Vec<u8>,
    /// Purpose `relayed`, over cluster, question hash, member and `answer`.
    signature: [u8; 64],
}

/// A sealed answer is not what the member that it is ascribed to can have said to this question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Altered {
    /// It does not open with the key of the question: whoever passed it on altered or swapped it, or the member made it so.
    #[error("it was not sealed to this question")]
    Seal,
    /// It is not signed by that member over this question: somebody else made it.
    #[error("it does not carry that member's signature over this question")]
    Signature,
    /// The member signed it, and it says nothing: this is that member's doing.
    #[error("it is signed and unreadable")]
    Unreadable,
}

/// The version of all three formats.
const VERSION: u8 = 1;

fn encode(value: &impl BorshSerialize) -> Vec<u8> {
    let mut out = vec![VERSION];
    // Writing into a vector fails only for lengths above u32::MAX, which no message can carry.
    let _ = value.serialize(&mut out);
    out
}

fn decode<T: BorshDeserialize>(bytes: &[u8]) -> Option<T> {
    let (version, rest) = bytes.split_first()?;
    if *version == VERSION { T::try_from_slice(rest).ok() } else { None }
}

impl SignedQuestion {
    /// Signs with the key of the caller's certificate.
    #[must_use]
    pub fn sign(question: &Question, caller: &SigningKey) -> Self {
        let bytes = encode(question);
        let signature = caller.sign("question", &[&bytes]);
        Self { bytes, key: caller.verify_key().0, signature }
    }

    /// The bytes that travel: borsh after one version byte.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The inverse of [`SignedQuestion::encode`].
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        decode(bytes).ok_or(Refusal::Malformed)
    }

    /// The question inside.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] when the bytes are not one; [`Refusal`] about `members` when it names nobody, somebody twice or
    /// not in order.
    pub fn question(&self) -> Result<Question, Refusal> {
        let question: Question = decode(&self.bytes).ok_or(Refusal::Malformed)?;
        let rising = question.members.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        if question.members.is_empty() || !rising {
            return Err(Refusal::invalid("members", "must be members, each once, in order"));
        }
        Ok(question)
    }

    /// What answers are bound to: over the question and its signature.
    #[must_use]
    pub fn hash(&self) -> [u8; 64] {
        hash("signed-question", &[&self.bytes, &self.key, &self.signature])
    }

    /// Checks the signature. Whose key it is, only the certificate in the question says.
    ///
    /// # Errors
    /// [`Refusal::BadSignature`].
    pub fn verify(&self) -> Result<(), Refusal> {
        let verified = VerifyKey(self.key).verify("question", &[&self.bytes], &self.signature);
        verified.map_err(|_| Refusal::BadSignature)
    }
}

/// The `info` of HPKE: for whom, by whom, to what.
fn info(cluster: &ClusterId, question: &[u8; 64], member: MemberIndex) -> Vec<u8> {
    transcript("relay", &[&cluster.0, question, &[member]])
}

/// Signs and seals `answer`, which `member` gives to the question of this `hash`.
///
/// # Errors
/// [`BadAnswerKey`].
pub fn seal(
    question: &Question,
    hash: &[u8; 64],
    member: MemberIndex,
    key: &SigningKey,
    answer: &Answer,
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, BadAnswerKey> {
    let answer = SecretVec::new(borsh::to_vec(answer).unwrap_or_default());
    let signature = key.sign("relayed", &[&question.cluster.0, hash, &[member], answer.expose()]);
    let signed = SecretVec::new(encode(&Signed { answer: answer.expose().to_vec(), signature }));
    seal_answer(&question.epk, &info(&question.cluster, hash, member), signed.expose(), rng)
}

/// Opens the answer of `member`, whose identity key is `key`, to the question of this `hash`.
///
/// # Errors
/// [`Altered`].
pub fn open(
    cluster: &ClusterId,
    hash: &[u8; 64],
    member: MemberIndex,
    key: &VerifyKey,
    own: &AnswerKey,
    sealed: &[u8],
) -> Result<Answer, Altered> {
    let signed = own.open(&info(cluster, hash, member), sealed).ok_or(Altered::Seal)?;
    let Signed { answer, signature } = decode(signed.expose()).ok_or(Altered::Seal)?;
    let answer = SecretVec::new(answer);
    key.verify("relayed", &[&cluster.0, hash, &[member], answer.expose()], &signature)
        .map_err(|_| Altered::Signature)?;
    borsh::from_slice(answer.expose()).map_err(|_| Altered::Unreadable)
}
