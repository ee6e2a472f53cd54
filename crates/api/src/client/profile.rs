//! `cluster.toml`: what a client pins, so that no node's answer decides whom it trusts (`docs/wire.md`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_crypto::customer::CustomerPublic;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_state::ids::{ClusterId, MemberIndex, hex, parse_hex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A cluster as a client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The cluster's id: the hash of its genesis.
    pub cluster: ClusterId,
    /// How many members it takes for anything.
    pub threshold: u8,
    /// The members.
    pub members: Vec<Member>,
    /// The keyrings that secrets may be sealed to.
    pub keyrings: Vec<KeyringPublic>,
    /// The customer keys that secrets may be sealed to.
    pub customer_keys: Vec<CustomerPublic>,
    /// Mounts whose sealing is fixed here: an answer that names other keys for one of them is refused.
    pub mounts: Vec<PinnedMount>,
    /// The name of the one member that this client reaches: it passes questions on to the others. Without one the client
    /// asks each member itself.
    pub via: Option<String>,
}

/// A member as a client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// 1 to n.
    pub index: MemberIndex,
    /// For people.
    pub name: String,
    /// Its Ed25519 identity key.
    pub key: [u8; 32],
    /// Where it listens for clients, `host:port`.
    pub api_address: String,
}

/// What secrets below one mount are sealed to.
///
/// # Security
/// Without it a client takes from a node's answer *which* of the pinned keyrings a mount uses: t corrupt nodes could
/// have a secret of class `customer` sealed to a pinned keyring of class `cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedMount {
    /// The namespace.
    pub namespace: String,
    /// The first segment of the paths.
    pub mount: String,
    /// The keyring's id, hexadecimal.
    pub keyring: String,
    /// The ids of the customer keys, hexadecimal, sorted.
    #[serde(default)]
    pub customer_keys: Vec<String>,
}

/// Why a text is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not TOML, an unknown field, or one that is missing.
    #[error("cluster.toml: {0}")]
    Toml(#[from] toml::de::Error),
    /// A value breaks its rule.
    #[error("cluster.toml: {field}: {why}")]
    Invalid {
        /// Which.
        field: String,
        /// The rule.
        why: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: String,
    threshold: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    members: Vec<MemberEntry>,
    #[serde(default)]
    keyrings: Vec<KeyringEntry>,
    #[serde(default)]
    customer_keys: Vec<CustomerEntry>,
    #[serde(default)]
    mounts: Vec<PinnedMount>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberEntry {
    index: MemberIndex,
    name: String,
    key: String,
    api_address: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyringEntry {
    id: String,
    class: Class,
    y: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Class {
    Cluster,
    Customer,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CustomerEntry {
    id: String,
    public: String,
}

fn invalid(field: impl Into<String>, why: &'static str) -> ProfileError {
    ProfileError::Invalid { field: field.into(), why }
}

impl Profile {
    /// Reads `cluster.toml`.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let file: File = toml::from_str(text)?;
        let key =
            |field: String, text: &str| parse_hex(text).ok_or_else(|| invalid(field, "expected 64 hexadecimal digits"));
        let members = file
            .members
            .into_iter()
            .map(|m| {
                let key = key(format!("members.{}.key", m.name), &m.key)?;
                Ok(Member { index: m.index, name: m.name, key, api_address: m.api_address })
            })
            .collect::<Result<_, ProfileError>>()?;
        let keyrings = file
            .keyrings
            .into_iter()
            .map(|k| {
                let field = format!("keyrings.{}", k.id);
                let class = match k.class {
                    Class::Cluster => KeyringClass::Cluster,
                    Class::Customer => KeyringClass::Customer,
                };
                let ring = KeyringPublic { class, y: key(field.clone(), &k.y)? };
                if hex(&ring.id()) == k.id { Ok(ring) } else { Err(invalid(field, "the id is not that of y")) }
            })
            .collect::<Result<_, _>>()?;
        let customer_keys = file
            .customer_keys
            .into_iter()
            .map(|k| {
                let field = || format!("customer_keys.{}", k.id);
                let bytes = STANDARD.decode(&k.public).map_err(|_| invalid(field(), "public is not base64"))?;
                let public =
                    CustomerPublic::decode(&bytes).map_err(|_| invalid(field(), "public is no customer key"))?;
                if hex(&public.id()) == k.id {
                    Ok(public)
                } else {
                    Err(invalid(field(), "the id is not that of public"))
                }
            })
            .collect::<Result<_, _>>()?;
        let cluster = ClusterId(key("cluster".to_owned(), &file.cluster)?);
        let File { threshold, mounts, via, .. } = file;
        let profile = Self { cluster, threshold, members, keyrings, customer_keys, mounts, via };
        profile.check()?;
        Ok(profile)
    }

    /// The text of `cluster.toml`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let file = File {
            cluster: self.cluster.to_string(),
            threshold: self.threshold,
            via: self.via.clone(),
            members: self
                .members
                .iter()
                .map(|m| MemberEntry {
                    index: m.index,
                    name: m.name.clone(),
                    key: hex(&m.key),
                    api_address: m.api_address.clone(),
                })
                .collect(),
            keyrings: self
                .keyrings
                .iter()
                .map(|k| KeyringEntry {
                    id: hex(&k.id()),
                    class: match k.class {
                        KeyringClass::Cluster => Class::Cluster,
                        KeyringClass::Customer => Class::Customer,
                    },
                    y: hex(&k.y),
                })
                .collect(),
            customer_keys: self
                .customer_keys
                .iter()
                .map(|k| CustomerEntry { id: hex(&k.id()), public: STANDARD.encode(k.encode()) })
                .collect(),
            mounts: self.mounts.clone(),
        };
        // Strings and small numbers: TOML can hold all of it.
        toml::to_string(&file).unwrap_or_default()
    }

    fn check(&self) -> Result<(), ProfileError> {
        if self.threshold < 2 || usize::from(self.threshold) > self.members.len() {
            return Err(invalid("threshold", "must be at least 2 and at most the number of members"));
        }
        let mut indexes = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for member in &self.members {
            if member.index == 0 || !indexes.insert(member.index) || !keys.insert(member.key) {
                return Err(invalid(format!("members.{}", member.name), "index and key must be its own, from 1"));
            }
        }
        if self.via.as_deref().is_some_and(|name| self.member_named(name).is_none()) {
            return Err(invalid("via", "must be the name of a member"));
        }
        Ok(())
    }

    /// The pinned keyring of an id.
    #[must_use]
    pub fn keyring(&self, id: &[u8]) -> Option<&KeyringPublic> {
        self.keyrings.iter().find(|k| k.id() == id)
    }

    /// The pinned customer key of an id.
    #[must_use]
    pub fn customer_key(&self, id: &[u8]) -> Option<&CustomerPublic> {
        self.customer_keys.iter().find(|k| k.id() == id)
    }

    /// The member of a name.
    #[must_use]
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.name == name)
    }

    /// The member of an index.
    #[must_use]
    pub fn member(&self, index: MemberIndex) -> Option<&Member> {
        self.members.iter().find(|m| m.index == index)
    }
}
