//! Every operation there is. [`Change`] alters the state and goes through the log; [`Query`] does not.
//!
//! [`Kind`] names them all: a test walks [`Kind::ALL`] and fails when one lacks a Cedar action, an audit rendering, an
//! RPC or a denied-by-default case.

use crate::absence::Absence;
use crate::ids::{CustomerKeyId, KeyringId, LeaseId, MemberIndex, Millis, SessionId};
use crate::lease::{Selector, Subject};
use crate::target::{Revision, Role, TargetSpec};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

/// What a client asks to change. Canonical bytes: borsh, inside [`crate::request::Request`].
///
/// Variants are numbered by their order: new ones go to the end, none is removed.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Change {
    /// Stores a new version of a secret, sealed by the client.
    PutSecret {
        /// The namespace of the path.
        namespace: String,
        /// The path; its first segment is a mount of the namespace.
        path: String,
        /// The sealed header (`docs/format.md`).
        header: Vec<u8>,
        /// The sealed payload.
        payload: Vec<u8>,
        /// Check-and-set: the number of the newest version as the writer knows it, 0 for "must not exist".
        expected: Option<u64>,
    },
    /// Hides versions; they can be brought back.
    DeleteSecret {
        /// The namespace of the path.
        namespace: String,
        /// The path.
        path: String,
        /// The versions, or none for the newest.
        numbers: Vec<u64>,
    },
    /// Brings deleted versions back.
    UndeleteSecret {
        /// The namespace of the path.
        namespace: String,
        /// The path.
        path: String,
        /// The versions, or none for the newest.
        numbers: Vec<u64>,
    },
    /// Erases header and payload of versions for ever.
    DestroySecret {
        /// The namespace of the path.
        namespace: String,
        /// The path.
        path: String,
        /// The versions: at least one.
        numbers: Vec<u64>,
    },
    /// Makes a namespace.
    CreateNamespace {
        /// Its name: segments between slashes.
        namespace: String,
    },
    /// Makes a mount, which decides the keyring and the customer keys of every secret below it.
    CreateMount {
        /// Its namespace.
        namespace: String,
        /// The first segment of the paths below it.
        mount: String,
        /// The keyring that secrets are sealed to.
        keyring: KeyringId,
        /// The customer keys of the one slot; none exactly when the keyring is of class `cluster`.
        customer_keys: Vec<CustomerKeyId>,
    },
    /// Registers a customer key.
    RegisterCustomerKey {
        /// A name for people.
        name: String,
        /// The public keys, as `docs/format.md` encodes them.
        public: Vec<u8>,
        /// The customer's Ed25519 key that signs for it.
        owner: [u8; 32],
        /// The customer's signature over cluster, name and public keys (purpose `customer-key`).
        signature: [u8; 64],
    },
    /// Writes a policy. Needs the administrators' signatures.
    PutPolicy {
        /// Its name.
        name: String,
        /// Cedar text, validated against the schema by every endorser.
        text: String,
    },
    /// Removes a policy. Needs the administrators' signatures.
    DeletePolicy {
        /// Its name.
        name: String,
    },
    /// Refuses an identity from here on, everywhere, and ends its leases. Needs the administrators' signatures.
    BlockIdentity {
        /// The SPIFFE id.
        principal: String,
    },
    /// Admits a blocked identity again. Needs the administrators' signatures.
    UnblockIdentity {
        /// The SPIFFE id.
        principal: String,
    },
    /// Begins a key generation. Needs the administrators' signatures.
    BeginKeyGeneration {
        /// A fresh session.
        session: SessionId,
        /// What the keyring is for.
        class: KeyringClass,
    },
    /// Describes a PostgreSQL server whose roles the vault is to make and end.
    PutTarget {
        /// Its name.
        name: String,
        /// Where it is, and how it is spoken to.
        spec: TargetSpec,
        /// Its password, sealed to a keyring of class `cluster` under namespace `sys`, path `target/<name>`.
        header: Vec<u8>,
        /// The sealed payload of the password.
        payload: Vec<u8>,
    },
    /// Describes what a lease of this role gets.
    PutRole {
        /// Its name.
        name: String,
        /// What.
        role: Role,
    },
    /// Removes a role and ends its leases.
    DeleteRole {
        /// Its name.
        name: String,
    },
    /// Asks for a credential whose password the client made.
    IssueLease {
        /// The role.
        role: String,
        /// `SCRAM-SHA-256$...`: what the target stores.
        verifier: String,
        /// How long, or the role's default.
        ttl: Option<Millis>,
    },
    /// Moves the end of a lease.
    RenewLease {
        /// The lease.
        lease: LeaseId,
        /// How long from now.
        ttl: Millis,
    },
    /// Ends a lease.
    RevokeLease {
        /// The lease.
        lease: LeaseId,
    },
    /// Puts other client CAs in the place of those that there are. Needs the administrators' signatures, and nothing else: no
    /// client's certificate and no policy, so that it can be done when every certificate has ended.
    SetClientRoots {
        /// 1 to [`crate::access::MAX_ROOTS`] CA certificates, DER; every endorser has read them.
        certificates: Vec<Vec<u8>>,
    },
    /// Sets cluster time back, after clocks that were wrong have moved it ahead. Needs the administrators' signatures.
    ResetClock {
        /// What it is to be.
        to: Millis,
    },
    /// Records that a member is gone, or is there again. Needs the administrators' signatures.
    RecordMember {
        /// The member.
        member: MemberIndex,
        /// Its name, which must be that of the index.
        name: String,
        /// How it is gone; nothing when it is there again.
        absence: Option<Absence>,
        /// How that is known: 1 to [`crate::absence::MAX_REASON`] bytes.
        reason: String,
    },
    /// Ends every lease that a selector names, at one log index.
    RevokeLeases {
        /// Which.
        selector: Selector,
    },
    /// Asks for a proof that a target does what leases need; with the first good one, leases are issued there.
    ProveTarget {
        /// Its name.
        name: String,
    },
    /// Ends every lease at a target, and with the last of them the target.
    DeleteTarget {
        /// Its name.
        name: String,
    },
    /// Bounds how many leases there may be at once.
    SetQuota {
        /// Whose.
        subject: Subject,
        /// How many; none for as many as they like.
        limit: Option<u32>,
    },
    /// Says that this cluster is the one that counts, at a target that has seen more of it. Needs the administrators' signatures.
    TakeOver {
        /// The target.
        target: String,
        /// What the quarantine says that the target has seen.
        counter: u64,
    },
    /// Says what a target's administrative password is now, after somebody has changed it there.
    ReplacePassword {
        /// The target.
        name: String,
        /// The password, sealed as that of [`Change::PutTarget`].
        header: Vec<u8>,
        /// The sealed payload.
        payload: Vec<u8>,
    },
    /// Describes a target anew. Nothing is issued there until that is proved. Administrators sign it: the executor presents a password
    /// there that whoever describes it need not know.
    ReviseTarget {
        /// The target.
        name: String,
        /// What is said anew.
        revision: Revision,
    },
}

/// What only looks. Answered by nodes from their own state, never logged in Raft.
#[derive(Clone, PartialEq, Eq)]
pub enum Query {
    /// A partial of each of up to 256 sealed versions.
    OpenSecret {
        /// The namespace of the path.
        namespace: String,
        /// The path.
        path: String,
        /// The version, or the newest.
        number: Option<u64>,
    },
    /// The paths below a prefix.
    ListSecrets {
        /// The namespace.
        namespace: String,
        /// A path, or nothing for the whole namespace.
        prefix: String,
    },
    /// The versions of a secret, without their content.
    ReadVersions {
        /// The namespace of the path.
        namespace: String,
        /// The path.
        path: String,
    },
    /// Keyrings, mounts, namespaces and customer keys: what a writer needs besides its own pins.
    ReadMounts {
        /// The namespace.
        namespace: String,
    },
    /// The policies.
    ReadPolicies,
    /// Targets and roles, without any credential.
    ReadRoles,
    /// One lease.
    ReadLease {
        /// The lease.
        lease: LeaseId,
    },
    /// The leases of the caller, or all that it may see.
    ListLeases,
    /// The members, their indexes, the leader, cluster time.
    ReadStatus,
}

pub use quorate_crypto::keyring::KeyringClass;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $action:literal, $rpc:literal;)*) => {
        /// The name of an operation, without its arguments.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every operation.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The name in audit records and metrics. Stable.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// The Cedar action that decides it. Stable: policies name it.
            #[must_use]
            pub fn action(self) -> &'static str {
                match self { $(Self::$kind => $action,)* }
            }

            /// The RPC of `proto/vault.proto` that carries it.
            #[must_use]
            pub fn rpc(self) -> &'static str {
                match self { $(Self::$kind => $rpc,)* }
            }
        }
    };
}

kinds! {
    /// [`Change::PutSecret`]
    PutSecret = "secret.put", "secret:put", "Submit";
    /// [`Change::DeleteSecret`]
    DeleteSecret = "secret.delete", "secret:delete", "Submit";
    /// [`Change::UndeleteSecret`]
    UndeleteSecret = "secret.undelete", "secret:undelete", "Submit";
    /// [`Change::DestroySecret`]
    DestroySecret = "secret.destroy", "secret:destroy", "Submit";
    /// [`Change::CreateNamespace`]
    CreateNamespace = "namespace.create", "namespace:create", "Submit";
    /// [`Change::CreateMount`]
    CreateMount = "mount.create", "mount:create", "Submit";
    /// [`Change::RegisterCustomerKey`]
    RegisterCustomerKey = "customer-key.register", "customer-key:register", "Submit";
    /// [`Change::PutPolicy`]
    PutPolicy = "policy.put", "policy:put", "Submit";
    /// [`Change::DeletePolicy`]
    DeletePolicy = "policy.delete", "policy:delete", "Submit";
    /// [`Change::BlockIdentity`]
    BlockIdentity = "identity.block", "identity:block", "Submit";
    /// [`Change::UnblockIdentity`]
    UnblockIdentity = "identity.unblock", "identity:unblock", "Submit";
    /// [`Change::BeginKeyGeneration`]
    BeginKeyGeneration = "keyring.generate", "keyring:generate", "Submit";
    /// [`Change::PutTarget`]
    PutTarget = "target.put", "target:put", "Submit";
    /// [`Change::PutRole`]
    PutRole = "role.put", "role:put", "Submit";
    /// [`Change::DeleteRole`]
    DeleteRole = "role.delete", "role:delete", "Submit";
    /// [`Change::IssueLease`]
    IssueLease = "lease.issue", "lease:issue", "Submit";
    /// [`Change::RenewLease`]
    RenewLease = "lease.renew", "lease:renew", "Submit";
    /// [`Change::RevokeLease`]
    RevokeLease = "lease.revoke", "lease:revoke", "Submit";
    /// [`Change::SetClientRoots`]
    SetClientRoots = "client-roots.set", "client-roots:set", "Submit";
    /// [`Change::ResetClock`]
    ResetClock = "clock.reset", "clock:reset", "Submit";
    /// [`Change::RecordMember`]
    RecordMember = "member.record", "member:record", "Submit";
    /// [`Change::RevokeLeases`]
    RevokeLeases = "lease.revoke-all", "lease:revoke-all", "Submit";
    /// [`Change::ProveTarget`]
    ProveTarget = "target.prove", "target:prove", "Submit";
    /// [`Change::DeleteTarget`]
    DeleteTarget = "target.delete", "target:delete", "Submit";
    /// [`Change::SetQuota`]
    SetQuota = "quota.set", "quota:set", "Submit";
    /// [`Change::TakeOver`]
    TakeOver = "target.take-over", "target:take-over", "Submit";
    /// [`Change::ReplacePassword`]
    ReplacePassword = "target.password", "target:password", "Submit";
    /// [`Change::ReviseTarget`]
    ReviseTarget = "target.revise", "target:revise", "Submit";
    /// [`Query::OpenSecret`]
    OpenSecret = "secret.open", "secret:open", "Open";
    /// [`Query::ListSecrets`]
    ListSecrets = "secret.list", "secret:list", "ListSecrets";
    /// [`Query::ReadVersions`]
    ReadVersions = "secret.versions", "secret:versions", "ReadVersions";
    /// [`Query::ReadMounts`]
    ReadMounts = "mount.read", "mount:read", "ReadMounts";
    /// [`Query::ReadPolicies`]
    ReadPolicies = "policy.read", "policy:read", "ReadPolicies";
    /// [`Query::ReadRoles`]
    ReadRoles = "role.read", "role:read", "ReadRoles";
    /// [`Query::ReadLease`]
    ReadLease = "lease.read", "lease:read", "ReadLease";
    /// [`Query::ListLeases`]
    ListLeases = "lease.list", "lease:list", "ListLeases";
    /// [`Query::ReadStatus`]
    ReadStatus = "cluster.status", "cluster:status", "ReadStatus";
}

/// What an operation is about: the resource of its Cedar request, and the `resource` of its audit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A secret or a folder of secrets.
    Secret {
        /// The namespace.
        namespace: String,
        /// The path; empty for the whole namespace.
        path: String,
    },
    /// A namespace.
    Namespace(String),
    /// A policy.
    Policy(String),
    /// An identity.
    Identity(String),
    /// A customer key, by name.
    CustomerKey(String),
    /// A target.
    Target(String),
    /// A role.
    Role(String),
    /// A lease.
    Lease(LeaseId),
    /// A member, by name.
    Member(String),
    /// The cluster itself.
    Cluster,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret { namespace, path } => write!(f, "secret {namespace}:{path}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Policy(name) => write!(f, "policy {name}"),
            Self::Identity(name) => write!(f, "identity {name}"),
            Self::CustomerKey(name) => write!(f, "customer-key {name}"),
            Self::Target(name) => write!(f, "target {name}"),
            Self::Role(name) => write!(f, "role {name}"),
            Self::Lease(id) => write!(f, "lease {id}"),
            Self::Member(name) => write!(f, "member {name}"),
            Self::Cluster => f.write_str("cluster"),
        }
    }
}

impl Change {
    /// Which operation this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::PutSecret { .. } => Kind::PutSecret,
            Self::DeleteSecret { .. } => Kind::DeleteSecret,
            Self::UndeleteSecret { .. } => Kind::UndeleteSecret,
            Self::DestroySecret { .. } => Kind::DestroySecret,
            Self::CreateNamespace { .. } => Kind::CreateNamespace,
            Self::CreateMount { .. } => Kind::CreateMount,
            Self::RegisterCustomerKey { .. } => Kind::RegisterCustomerKey,
            Self::PutPolicy { .. } => Kind::PutPolicy,
            Self::DeletePolicy { .. } => Kind::DeletePolicy,
            Self::BlockIdentity { .. } => Kind::BlockIdentity,
            Self::UnblockIdentity { .. } => Kind::UnblockIdentity,
            Self::BeginKeyGeneration { .. } => Kind::BeginKeyGeneration,
            Self::PutTarget { .. } => Kind::PutTarget,
            Self::PutRole { .. } => Kind::PutRole,
            Self::DeleteRole { .. } => Kind::DeleteRole,
            Self::IssueLease { .. } => Kind::IssueLease,
            Self::RenewLease { .. } => Kind::RenewLease,
            Self::RevokeLease { .. } => Kind::RevokeLease,
            Self::SetClientRoots { .. } => Kind::SetClientRoots,
            Self::ResetClock { .. } => Kind::ResetClock,
            Self::RecordMember { .. } => Kind::RecordMember,
            Self::RevokeLeases { .. } => Kind::RevokeLeases,
            Self::ProveTarget { .. } => Kind::ProveTarget,
            Self::DeleteTarget { .. } => Kind::DeleteTarget,
            Self::SetQuota { .. } => Kind::SetQuota,
            Self::TakeOver { .. } => Kind::TakeOver,
            Self::ReplacePassword { .. } => Kind::ReplacePassword,
            Self::ReviseTarget { .. } => Kind::ReviseTarget,
        }
    }

    /// What it is about.
    #[must_use]
    pub fn resource(&self) -> Resource {
        match self {
            Self::PutSecret { namespace, path, .. }
            | Self::DeleteSecret { namespace, path, .. }
            | Self::UndeleteSecret { namespace, path, .. }
            | Self::DestroySecret { namespace, path, .. } => {
                Resource::Secret { namespace: namespace.clone(), path: path.clone() }
            }
            Self::CreateNamespace { namespace } => Resource::Namespace(namespace.clone()),
            Self::CreateMount { namespace, mount, .. } => {
                Resource::Secret { namespace: namespace.clone(), path: mount.clone() }
            }
            Self::RegisterCustomerKey { name, .. } => Resource::CustomerKey(name.clone()),
            Self::PutPolicy { name, .. } | Self::DeletePolicy { name } => Resource::Policy(name.clone()),
            Self::BlockIdentity { principal } | Self::UnblockIdentity { principal } => {
                Resource::Identity(principal.clone())
            }
            Self::BeginKeyGeneration { .. } | Self::SetClientRoots { .. } | Self::ResetClock { .. } => {
                Resource::Cluster
            }
            Self::RecordMember { name, .. } => Resource::Member(name.clone()),
            Self::PutTarget { name, .. }
            | Self::ProveTarget { name }
            | Self::DeleteTarget { name }
            | Self::ReplacePassword { name, .. }
            | Self::ReviseTarget { name, .. } => Resource::Target(name.clone()),
            Self::TakeOver { target, .. } => Resource::Target(target.clone()),
            Self::SetQuota { subject, .. } => match subject {
                Subject::Target(name) => Resource::Target(name.clone()),
                Subject::Namespace(name) => Resource::Namespace(name.clone()),
                Subject::Identity(id) => Resource::Identity(id.clone()),
                Subject::EachIdentity => Resource::Cluster,
            },
            Self::PutRole { name, .. } | Self::DeleteRole { name } => Resource::Role(name.clone()),
            Self::IssueLease { role, .. } => Resource::Role(role.clone()),
            Self::RenewLease { lease, .. } | Self::RevokeLease { lease } => Resource::Lease(*lease),
            Self::RevokeLeases { selector } => match selector {
                Selector::Role(name) => Resource::Role(name.clone()),
                Selector::Target(name) => Resource::Target(name.clone()),
                Selector::Identity(id) | Selector::Below(id) => Resource::Identity(id.clone()),
                Selector::Namespace(name) => Resource::Namespace(name.clone()),
            },
        }
    }

    /// Whether it can take something away from somebody: then it matters when every member has applied it.
    #[must_use]
    pub fn takes_away(&self) -> bool {
        match self {
            Self::DeleteSecret { .. }
            | Self::DestroySecret { .. }
            | Self::PutPolicy { .. }
            | Self::DeletePolicy { .. }
            | Self::BlockIdentity { .. }
            | Self::PutRole { .. }
            | Self::DeleteRole { .. }
            | Self::RevokeLease { .. }
            | Self::SetClientRoots { .. }
            | Self::ResetClock { .. }
            | Self::RecordMember { .. }
            | Self::RevokeLeases { .. }
            | Self::DeleteTarget { .. } => true,
            Self::PutSecret { .. }
            | Self::UndeleteSecret { .. }
            | Self::CreateNamespace { .. }
            | Self::CreateMount { .. }
            | Self::RegisterCustomerKey { .. }
            | Self::UnblockIdentity { .. }
            | Self::BeginKeyGeneration { .. }
            | Self::PutTarget { .. }
            | Self::ReplacePassword { .. }
            | Self::ReviseTarget { .. }
            | Self::ProveTarget { .. }
            | Self::SetQuota { .. }
            | Self::TakeOver { .. }
            | Self::IssueLease { .. }
            | Self::RenewLease { .. } => false,
        }
    }

    /// Whether m of the k administrators must sign the request besides the caller: what changes who may do what.
    #[must_use]
    pub fn needs_administrators(&self) -> bool {
        match self {
            Self::PutPolicy { .. }
            | Self::DeletePolicy { .. }
            | Self::BlockIdentity { .. }
            | Self::UnblockIdentity { .. }
            | Self::BeginKeyGeneration { .. }
            | Self::SetClientRoots { .. }
            | Self::ResetClock { .. }
            | Self::RecordMember { .. }
            | Self::TakeOver { .. }
            | Self::ReviseTarget { .. } => true,
            Self::PutSecret { .. }
            | Self::DeleteSecret { .. }
            | Self::UndeleteSecret { .. }
            | Self::DestroySecret { .. }
            | Self::CreateNamespace { .. }
            | Self::CreateMount { .. }
            | Self::RegisterCustomerKey { .. }
            | Self::PutTarget { .. }
            | Self::ReplacePassword { .. }
            | Self::PutRole { .. }
            | Self::DeleteRole { .. }
            | Self::IssueLease { .. }
            | Self::RenewLease { .. }
            | Self::RevokeLease { .. }
            | Self::RevokeLeases { .. }
            | Self::ProveTarget { .. }
            | Self::DeleteTarget { .. }
            | Self::SetQuota { .. } => false,
        }
    }
}

impl Change {
    /// Whether the request must name the authority version that its signers saw. Of what administrators sign, only new client
    /// roots need not: they stand for themselves, and whoever needs them cannot ask for a version.
    #[must_use]
    pub fn names_authority_version(&self) -> bool {
        self.needs_administrators() && !matches!(self, Self::SetClientRoots { .. })
    }
}

impl Query {
    /// Which operation this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::OpenSecret { .. } => Kind::OpenSecret,
            Self::ListSecrets { .. } => Kind::ListSecrets,
            Self::ReadVersions { .. } => Kind::ReadVersions,
            Self::ReadMounts { .. } => Kind::ReadMounts,
            Self::ReadPolicies => Kind::ReadPolicies,
            Self::ReadRoles => Kind::ReadRoles,
            Self::ReadLease { .. } => Kind::ReadLease,
            Self::ListLeases => Kind::ListLeases,
            Self::ReadStatus => Kind::ReadStatus,
        }
    }

    /// What it is about.
    #[must_use]
    pub fn resource(&self) -> Resource {
        match self {
            Self::OpenSecret { namespace, path, .. } | Self::ReadVersions { namespace, path } => {
                Resource::Secret { namespace: namespace.clone(), path: path.clone() }
            }
            Self::ListSecrets { namespace, prefix } => {
                Resource::Secret { namespace: namespace.clone(), path: prefix.clone() }
            }
            Self::ReadMounts { namespace } => Resource::Namespace(namespace.clone()),
            Self::ReadLease { lease } => Resource::Lease(*lease),
            Self::ReadPolicies | Self::ReadRoles | Self::ListLeases | Self::ReadStatus => Resource::Cluster,
        }
    }
}

/// Kind and resource only: a change can carry sealed payloads and verifiers, and this is what logs show.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind().name(), self.resource())
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind().name(), self.resource())
    }
}
