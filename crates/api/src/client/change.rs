//! What changes something: sealed and signed here, sent until its outcome is known.

use super::places::mount_of;
use super::quorum::index_to_ask_for;
use super::{Client, lock};
use crate::status::{
    BAD_ANSWER, CLIENT_SETUP, DEADLINE, Failure, NOT_FOUND, NOT_PINNED, REQUEST_TOO_LATE, Retry, STALE_AUTHORITY,
    UNACCEPTABLE_SEAL,
};
use crate::vault::{Lease, Mount, SubmitRequest, TargetProof};
use quorate_crypto::customer::CustomerPublic;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{ObjectTemplate, Sealed, WrapTemplate, seal};
use quorate_state::absence::Absence;
use quorate_state::access::SYSTEM_NAMESPACE;
use quorate_state::change::Change;
use quorate_state::ids::{CustomerKeyId, KeyringId, MemberIndex, Millis, SessionId, hex};
use quorate_state::outcome::Outcome;
use quorate_state::request::{MAX_VALIDITY, Request, SignedRequest};
use quorate_state::store::decode;
use quorate_state::target::{Role, TargetSpec, credential_path};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a request stays valid: room for retries, and below the limit by more than clocks differ.
const VALIDITY: Millis = MAX_VALIDITY / 2;
/// Between two readings of the rules' version, when the first was an old one.
const READ_AGAIN: Duration = Duration::from_millis(300);

/// The administrators' signing keys for one change, and the authority version that they saw.
#[derive(Debug)]
pub struct Administrators<'a> {
    /// At least m of the k, distinct.
    pub keys: &'a [&'a SigningKey],
    /// From [`Client::policies`] or [`Client::status`]; a change in between makes the request `stale_authority`.
    pub authority_version: u64,
}

/// A stored version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Its number, which the log gave it.
    pub number: u64,
    /// The entry of the log that stored it.
    pub index: u64,
}

/// What became of a change.
#[derive(Debug)]
pub struct Submitted {
    /// Never a refusal.
    pub outcome: Outcome,
    /// The entry of the log that made it so, however often the request was sent.
    pub index: u64,
    /// The term in which this answer was found: of a request that was sent again it may be a later one than that of its entry.
    pub term: u64,
    /// For a lease: as it was when the credential had become usable.
    pub lease: Option<Lease>,
    /// For a lease: what its target issued, sealed; empty where the client made the password.
    pub issued: Vec<u8>,
    /// For a change that takes something away: members of whom the answering one does not know yet that they have applied it.
    /// [`Client::effective`] asks for their own words.
    pub unconfirmed: Vec<MemberIndex>,
    /// For the same: members that the answering one does not wait for, because they are recorded as gone.
    pub gone: Vec<MemberIndex>,
}

impl Client {
    /// Stores a new version. `cas` is the newest version that the caller knows, 0 for none; without it the version is stored whatever others
    /// write meanwhile.
    ///
    /// # Security
    /// Which of the pinned keyrings a mount uses is taken from a member's answer unless [`super::Profile::mounts`] pins it.
    ///
    /// # Errors
    /// `not_pinned`; `check_and_set`; the members'.
    pub async fn put(&self, namespace: &str, path: &str, plaintext: &[u8], cas: Option<u64>) -> Result<Put, Failure> {
        let place = (namespace, path);
        // What was learned from members before is tried first: a request less for each, and what it is about hardly ever changes.
        let (known, id) = lock(&self.places).of(place);
        let asked = known.is_none();
        let mount = match known {
            Some(mount) => mount,
            None => self.mount(place).await?,
        };
        let failure = match self.put_knowing(&mount, id, place, plaintext, cas).await {
            Err(failure)
                if failure.code == UNACCEPTABLE_SEAL || (!asked && matches!(failure.code, NOT_FOUND | NOT_PINNED)) =>
            {
                failure
            }
            done => return done,
        };
        // The path is there, and has an id that was not known here; or its mount has other keys by now. A path keeps its id, so this happens
        // once; whether the expected version is still the newest is for the log to say again.
        lock(&self.places).forget(place);
        let mount = if asked { mount } else { self.mount(place).await? };
        match self.secret_id(namespace, path).await? {
            None if asked => Err(failure),
            id => self.put_knowing(&mount, id, place, plaintext, cas).await,
        }
    }

    /// What a member says of the mount of a path.
    async fn mount(&self, (namespace, path): (&str, &str)) -> Result<Mount, Failure> {
        let name = mount_of(path);
        let answer = self.mounts(namespace).await?;
        let mount = answer.mounts.into_iter().find(|m| m.name == name);
        let mount = mount
            .ok_or_else(|| Failure::new(NOT_FOUND, format!("there is no mount {name} in namespace {namespace}")))?;
        lock(&self.places).learn_mount(namespace, &mount);
        Ok(mount)
    }

    /// Stores a version below a mount, of the secret with this id. Without one, of one that is to begin, or whose id has to be asked for
    /// because a version of it is expected.
    async fn put_knowing(
        &self,
        mount: &Mount,
        id: Option<[u8; 16]>,
        place: (&str, &str),
        plaintext: &[u8],
        cas: Option<u64>,
    ) -> Result<Put, Failure> {
        let (namespace, path) = place;
        let (keyring, customers) = self.sealing(namespace, mount)?;
        let known = match id {
            None if cas.is_some_and(|expected| expected > 0) => self.secret_id(namespace, path).await?,
            known => known,
        };
        let id = known.unwrap_or_else(|| self.random());
        let stored = self.put_as(id, place, plaintext, cas, (&keyring, &customers)).await?;
        lock(&self.places).learn_id(place, id);
        Ok(stored)
    }

    /// The id of the secret at a path, if there is one.
    async fn secret_id(&self, namespace: &str, path: &str) -> Result<Option<[u8; 16]>, Failure> {
        match self.versions(namespace, path).await {
            Ok(reply) => <[u8; 16]>::try_from(reply.secret_id.as_slice())
                .map(Some)
                .map_err(|_| Failure::new(BAD_ANSWER, "the secret id has not 16 bytes")),
            Err(failure) if failure.code == NOT_FOUND => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Stores a version of a secret with this id.
    async fn put_as(
        &self,
        secret_id: [u8; 16],
        (namespace, path): (&str, &str),
        plaintext: &[u8],
        cas: Option<u64>,
        (keyring, customers): (&KeyringPublic, &[CustomerPublic]),
    ) -> Result<Put, Failure> {
        let Sealed { header, payload } = self.seal(plaintext, secret_id, (namespace, path), keyring, customers)?;
        let change = Change::PutSecret {
            namespace: namespace.to_owned(),
            path: path.to_owned(),
            header,
            payload,
            expected: cas,
        };
        match self.change(change).await? {
            Submitted { outcome: Outcome::Stored { number, .. }, index, .. } => Ok(Put { number, index }),
            other => Err(unexpected(&other.outcome)),
        }
    }

    /// The pinned keys of a mount.
    fn sealing(&self, namespace: &str, mount: &Mount) -> Result<(KeyringPublic, Vec<CustomerPublic>), Failure> {
        let what = format!("mount {} of namespace {namespace}", mount.name);
        let pins = &self.profile;
        if let Some(pin) = pins.mounts.iter().find(|p| p.namespace == namespace && p.mount == mount.name) {
            let ids: Vec<String> = mount.customer_key_ids.iter().map(|id| hex(id)).collect();
            if pin.keyring != hex(&mount.keyring_id) || pin.customer_keys != ids {
                return Err(Failure::new(
                    NOT_PINNED,
                    format!("{what}: a member names other keys than the pinned ones"),
                ));
            }
        }
        let keyring = *pins.keyring(&mount.keyring_id).ok_or_else(|| {
            Failure::new(NOT_PINNED, format!("{what}: keyring {} is not pinned", hex(&mount.keyring_id)))
        })?;
        if (keyring.class == KeyringClass::Customer) == mount.customer_key_ids.is_empty() {
            return Err(Failure::new(
                NOT_PINNED,
                format!("{what}: its customer keys do not fit class {}", keyring.class),
            ));
        }
        let customers = mount
            .customer_key_ids
            .iter()
            .map(|id| {
                pins.customer_key(id)
                    .cloned()
                    .ok_or_else(|| Failure::new(NOT_PINNED, format!("{what}: customer key {} is not pinned", hex(id))))
            })
            .collect::<Result<_, _>>()?;
        Ok((keyring, customers))
    }

    fn seal(
        &self,
        plaintext: &[u8],
        secret_id: [u8; 16],
        (namespace, path): (&str, &str),
        keyring: &KeyringPublic,
        customers: &[CustomerPublic],
    ) -> Result<Sealed, Failure> {
        let author = self.identity.principal().to_owned();
        let object = ObjectTemplate {
            cluster: self.profile.cluster.0,
            secret_id,
            version_id: self.random(),
            created: self.now(),
            writer_id: author.clone(),
        };
        let wrap =
            WrapTemplate { namespace: namespace.to_owned(), path: path.to_owned(), wrap_no: 0, wrapped_by: author };
        seal(plaintext, &object, &wrap, keyring, customers, &mut *lock(&self.rng))
            .map_err(|why| Failure::new(crate::status::INVALID_ARGUMENT, format!("{namespace}:{path}: {why}")))
    }

    /// Hides versions, or the newest when none is named.
    ///
    /// # Errors
    /// The members'.
    pub async fn delete(&self, namespace: &str, path: &str, numbers: &[u64]) -> Result<Vec<u64>, Failure> {
        let (namespace, path, numbers) = (namespace.to_owned(), path.to_owned(), numbers.to_vec());
        self.versions_changed(Change::DeleteSecret { namespace, path, numbers }).await
    }

    /// Brings deleted versions back.
    ///
    /// # Errors
    /// The members'.
    pub async fn undelete(&self, namespace: &str, path: &str, numbers: &[u64]) -> Result<Vec<u64>, Failure> {
        let (namespace, path, numbers) = (namespace.to_owned(), path.to_owned(), numbers.to_vec());
        self.versions_changed(Change::UndeleteSecret { namespace, path, numbers }).await
    }

    /// Erases versions for ever.
    ///
    /// # Errors
    /// The members'.
    pub async fn destroy(&self, namespace: &str, path: &str, numbers: &[u64]) -> Result<Vec<u64>, Failure> {
        let (namespace, path, numbers) = (namespace.to_owned(), path.to_owned(), numbers.to_vec());
        self.versions_changed(Change::DestroySecret { namespace, path, numbers }).await
    }

    async fn versions_changed(&self, change: Change) -> Result<Vec<u64>, Failure> {
        match self.change(change).await?.outcome {
            Outcome::Versions { changed } => Ok(changed),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// The members'.
    pub async fn create_namespace(&self, namespace: &str) -> Result<Submitted, Failure> {
        self.change(Change::CreateNamespace { namespace: namespace.to_owned() }).await
    }

    /// Makes a mount.
    ///
    /// # Errors
    /// The members'.
    pub async fn create_mount(
        &self,
        namespace: &str,
        mount: &str,
        keyring: KeyringId,
        customer_keys: &[CustomerKeyId],
    ) -> Result<Submitted, Failure> {
        let (namespace, mount, customer_keys) = (namespace.to_owned(), mount.to_owned(), customer_keys.to_vec());
        self.change(Change::CreateMount { namespace, mount, keyring, customer_keys }).await
    }

    /// Registers a customer key; `owner` is the customer's own signing key, which vouches for it.
    ///
    /// # Errors
    /// The members'.
    pub async fn register_customer_key(
        &self,
        name: &str,
        public: &CustomerPublic,
        owner: &SigningKey,
    ) -> Result<Submitted, Failure> {
        let public = public.encode();
        let signature = owner.sign("customer-key", &[&self.profile.cluster.0, name.as_bytes(), &public]);
        let (name, owner) = (name.to_owned(), owner.verify_key().0);
        self.change(Change::RegisterCustomerKey { name, public, owner, signature }).await
    }

    /// Writes a policy.
    ///
    /// # Errors
    /// `stale_authority` when the rules changed since they were read; the members'.
    pub async fn put_policy(&self, name: &str, text: &str, by: &Administrators<'_>) -> Result<Submitted, Failure> {
        self.administer(Change::PutPolicy { name: name.to_owned(), text: text.to_owned() }, by).await
    }

    /// Any change that needs administrators.
    ///
    /// # Errors
    /// As [`Client::put_policy`].
    pub async fn administer(&self, change: Change, by: &Administrators<'_>) -> Result<Submitted, Failure> {
        self.submit(&self.sign(change, Some(by))).await
    }

    /// Records that a member is gone, or with no absence that it is there again. `reason` says how that is known.
    ///
    /// # Security
    /// From then on changes count as effective without that member. If it runs all the same, kept from hearing of them, it and corrupt
    /// members together act on the old rules.
    ///
    /// # Errors
    /// As [`Client::put_policy`]; `not_found` when no member is called so.
    pub async fn record_member(
        &self,
        name: &str,
        absence: Option<Absence>,
        reason: &str,
        by: &Administrators<'_>,
    ) -> Result<Submitted, Failure> {
        self.administer(self.member_record(name, absence, reason)?, by).await
    }

    /// The change of [`Client::record_member`].
    ///
    /// # Errors
    /// `not_found` when no pinned member is called so.
    pub fn member_record(&self, name: &str, absence: Option<Absence>, reason: &str) -> Result<Change, Failure> {
        let found = self.profile.member_named(name).map(|m| m.index);
        let member = found.ok_or_else(|| Failure::new(NOT_FOUND, format!("cluster.toml names no member {name}")))?;
        Ok(Change::RecordMember { member, name: name.to_owned(), absence, reason: reason.to_owned() })
    }

    /// Puts other client CAs (certificates, DER) in the place of those that there are. For a client that is an administrator:
    /// [`super::Identity::administrator`]; of certificates of clients none needs to be valid.
    ///
    /// # Errors
    /// `not_by_administrators`, `invalid_argument`; the members'.
    pub async fn set_client_roots(
        &self,
        certificates: Vec<Vec<u8>>,
        keys: &[&SigningKey],
    ) -> Result<Submitted, Failure> {
        self.administer(Change::SetClientRoots { certificates }, &Administrators { keys, authority_version: 0 }).await
    }

    /// Sets cluster time back to `to`. The request is valid by cluster time as t members reckon it: by other clocks it would be over, or far
    /// too long.
    ///
    /// # Errors
    /// As [`Client::put_policy`]; `invalid_argument` when `to` is not before cluster time, or before the end of a request that is
    /// forgotten already.
    pub async fn reset_clock(&self, to: Millis, keys: &[&SigningKey]) -> Result<Submitted, Failure> {
        let all: Vec<_> = self.status().await.into_iter().filter_map(|(_, status)| status.ok()).collect();
        let until = index_to_ask_for(all.iter().map(|s| s.cluster_time), self.threshold()).saturating_add(VALIDITY);
        let authority_version = index_to_ask_for(all.iter().map(|s| s.authority_version), self.threshold());
        let by = Administrators { keys, authority_version };
        self.submit(&self.sign_until(Change::ResetClock { to }, Some(&by), until)).await
    }

    /// Begins the generation of a keyring; the ceremony then runs by itself, see [`Client::status`].
    ///
    /// # Errors
    /// As [`Client::put_policy`].
    pub async fn begin_key_generation(
        &self,
        class: KeyringClass,
        by: &Administrators<'_>,
    ) -> Result<SessionId, Failure> {
        let session = SessionId(self.random());
        self.administer(Change::BeginKeyGeneration { session, class }, by).await?;
        Ok(session)
    }

    /// Has administrators change something under the rules as they are now: reads their version, signs, and does both again
    /// when that was an old one, for as long as a call may take. A member that has just come back knows old rules for a moment.
    ///
    /// # Errors
    /// As [`Client::put_policy`].
    pub async fn administer_now(&self, change: Change, keys: &[&SigningKey]) -> Result<Submitted, Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let authority_version = self.policies().await?.authority_version;
            let by = Administrators { keys, authority_version };
            match self.administer(change.clone(), &by).await {
                Err(failure) if failure.code == STALE_AUTHORITY && Instant::now() < deadline => sleep(READ_AGAIN).await,
                done => return done,
            }
        }
    }

    /// Describes a target; its password is sealed to a pinned keyring of class `cluster`. Leases are issued there once it was
    /// proved: see [`Client::prove_target`].
    ///
    /// # Errors
    /// `not_pinned`; the members'.
    pub async fn put_target(
        &self,
        name: &str,
        spec: &TargetSpec,
        password: &[u8],
        keyring: KeyringId,
    ) -> Result<Submitted, Failure> {
        let Sealed { header, payload } = self.seal_password(name, password, keyring)?;
        self.change(Change::PutTarget { name: name.to_owned(), spec: spec.clone(), header, payload }).await
    }

    /// Says what the password of a target's administrative login is now, after it was changed there; sealed as by
    /// [`Client::put_target`]. Whoever is in office takes it up at once.
    ///
    /// # Errors
    /// As [`Client::put_target`].
    pub async fn replace_password(
        &self,
        name: &str,
        password: &[u8],
        keyring: KeyringId,
    ) -> Result<Submitted, Failure> {
        let Sealed { header, payload } = self.seal_password(name, password, keyring)?;
        self.change(Change::ReplacePassword { name: name.to_owned(), header, payload }).await
    }

    fn seal_password(&self, target: &str, password: &[u8], keyring: KeyringId) -> Result<Sealed, Failure> {
        let pinned =
            self.profile.keyring(&keyring.0).filter(|k| k.class == KeyringClass::Cluster).ok_or_else(|| {
                Failure::new(NOT_PINNED, format!("keyring {keyring} is not a pinned one of class cluster"))
            })?;
        self.seal(password, self.random(), (SYSTEM_NAMESPACE, &credential_path(target)), pinned, &[])
    }

    /// Has the cluster find out whether a target does what leases need: its rights are looked at, and one credential is issued
    /// there, used, and revoked. Waits for what was found out, at most `limit`; with the first proof without findings leases
    /// are issued there.
    ///
    /// # Errors
    /// `deadline` when nothing was found out in time: it goes on by itself. `not_found`; the members'.
    pub async fn prove_target(&self, name: &str, limit: Duration) -> Result<TargetProof, Failure> {
        let asked = self.change(Change::ProveTarget { name: name.to_owned() }).await?.index;
        self.found_out(name, asked, limit).await
    }

    /// Waits for what was found out about a target since it was asked for a proof at a log index, at most `limit`: by
    /// [`Client::prove_target`], or by [`Client::put_role`] at an enabled one.
    ///
    /// # Errors
    /// As [`Client::prove_target`].
    pub async fn found_out(&self, name: &str, asked: u64, limit: Duration) -> Result<TargetProof, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            let found = self.roles().await?.targets.into_iter().find(|t| t.name == name);
            match found.and_then(|target| target.proof) {
                Some(proof) if proof.asked >= asked => return Ok(proof),
                _ if Instant::now() >= deadline => {
                    return Err(Failure::new(DEADLINE, format!("nothing was found out about target {name} yet")));
                }
                _ => sleep(READ_AGAIN).await,
            }
        }
    }

    /// Describes a role. An enabled target is asked for a proof by this, so that somebody looks at what the role needs there:
    /// [`Client::found_out`] with the index of the outcome waits for it.
    ///
    /// # Errors
    /// The members'.
    pub async fn put_role(&self, name: &str, role: &Role) -> Result<Submitted, Failure> {
        self.change(Change::PutRole { name: name.to_owned(), role: role.clone() }).await
    }

    /// Signs a change that needs no administrators and sends it.
    ///
    /// # Errors
    /// The members'.
    pub async fn change(&self, change: Change) -> Result<Submitted, Failure> {
        self.submit(&self.sign(change, None)).await
    }

    /// Signs, without sending: for requests whose administrators sign elsewhere.
    #[must_use]
    pub fn sign(&self, change: Change, by: Option<&Administrators<'_>>) -> SignedRequest {
        self.sign_until(change, by, self.now().saturating_add(VALIDITY))
    }

    fn sign_until(&self, change: Change, by: Option<&Administrators<'_>>, not_after: Millis) -> SignedRequest {
        let named = by.filter(|_| change.names_authority_version());
        let expected_authority_version = named.map(|a| a.authority_version);
        let request = Request {
            cluster: self.profile.cluster,
            id: self.request_id(),
            change,
            reply_to: None,
            expected_authority_version,
            not_after,
            principal: self.identity.principal().to_owned(),
            chain: self.identity.chain().to_vec(),
        };
        SignedRequest::sign(&request, self.identity.key(), by.map_or(&[], |a| a.keys))
    }

    /// Sends a signed request to one member after the other, the same bytes each time, until its outcome is known or
    /// time is up: however often it arrives, it happens once.
    ///
    /// # Errors
    /// The members'. `stale_authority` is not tried again where the request names an authority version.
    pub async fn submit(&self, signed: &SignedRequest) -> Result<Submitted, Failure> {
        let request = signed.request()?;
        let bytes = borsh::to_vec(signed).map_err(|why| Failure::new(CLIENT_SETUP, why))?;
        // The same bytes stay stale for ever when they name a version: only a new signature helps.
        let final_when_stale = request.expected_authority_version.is_some();
        // One member whose clock is ahead does not decide that a request is over; t of them do, or this clock does.
        let too_late = AtomicUsize::new(0);
        let give_up = |failure: &Failure| match failure.code {
            STALE_AUTHORITY => final_when_stale,
            REQUEST_TOO_LATE => {
                request.not_after <= self.now() || too_late.fetch_add(1, Ordering::Relaxed) + 1 >= self.threshold()
            }
            _ => failure.retry == Retry::No,
        };
        let reply = self
            .any_until(give_up, |mut vault| {
                let request = SubmitRequest { signed_request: bytes.clone() };
                async move { vault.submit(request).await }
            })
            .await?;
        let outcome: Outcome =
            decode(0, &reply.outcome).map_err(|_| Failure::new(BAD_ANSWER, "the outcome is in no known format"))?;
        match outcome {
            Outcome::Refused(refusal) => Err(refusal.into()),
            outcome => Ok(Submitted {
                outcome,
                index: reply.index,
                term: reply.term,
                lease: reply.lease,
                issued: reply.issued,
                unconfirmed: members(&reply.unconfirmed),
                gone: members(&reply.gone),
            }),
        }
    }
}

fn members(indexes: &[u32]) -> Vec<MemberIndex> {
    indexes.iter().filter_map(|m| MemberIndex::try_from(*m).ok()).collect()
}

/// An outcome that this change cannot have.
pub(super) fn unexpected(outcome: &Outcome) -> Failure {
    Failure::new(BAD_ANSWER, format!("the outcome is of another kind of change: {outcome:?}"))
}
