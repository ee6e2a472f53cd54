//! What a member keeps outside the replicated store: its identity, its storage key, its key slots.
//!
//! They are untouched when a log is set aside: a damaged disk page in the log must never cost a share. Each is a file
//! sealed with the node's seal key (`docs/format.md`, sealed key files), written whole, synced, renamed into place.
//!
//! ```text
//! <data>/identity/member.key       the Ed25519 identity: never changes
//! <data>/identity/storage.key      the seal over values in the replicated store
//! <data>/slots/<session>.seed      the seed of a ceremony under way; erased when the share is in use
//! <data>/slots/<session>.share     this member's share of the epoch that the session made
//! ```

use crate::env::Env;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyfile::{KeyFileError, Protection, open_file, seal_file};
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_crypto::storage::StorageKey;
use quorate_crypto::threshold::{KeyShare, ShareError};
use quorate_state::ids::SessionId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// What went wrong with a file of the key store.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// The file system.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        source: io::Error,
    },
    /// A file that does not open.
    #[error("{path}: {source}")]
    Sealed {
        /// Where.
        path: PathBuf,
        /// What.
        source: KeyFileError,
    },
    /// A file that opens to something else.
    #[error("{path}: not what should be in it")]
    Content {
        /// Where.
        path: PathBuf,
    },
    /// A key file that others can read.
    #[error("{path}: readable by others than its owner: run `chmod 600 {path}`")]
    Permissions {
        /// Where.
        path: PathBuf,
    },
    /// The folder holds a member already.
    #[error("{path} holds the identity of a member already: it is made once, and never anew")]
    Exists {
        /// Where.
        path: PathBuf,
    },
}

/// An open key store.
pub struct Keystore {
    slots: PathBuf,
    seal: Secret<32>,
    identity: SigningKey,
    storage: Secret<32>,
}

impl Keystore {
    /// Makes a new member: a fresh identity and storage key, sealed with the seal key of `seal_key`, which is made too
    /// where there is none.
    ///
    /// # Errors
    /// [`KeystoreError`]; [`KeystoreError::Exists`] rather than making a second identity.
    pub fn create(data: &Path, seal_key: &Path, env: &Env) -> Result<SigningKey, KeystoreError> {
        let folder = data.join("identity");
        let member = folder.join("member.key");
        if member.exists() {
            return Err(KeystoreError::Exists { path: data.to_owned() });
        }
        for folder in [&folder, &data.join("slots")] {
            private_folder(folder)?;
        }
        if !seal_key.exists() {
            if let Some(parent) = seal_key.parent() {
                fs::create_dir_all(parent).map_err(|source| io_error(parent, source))?;
            }
            let key = Secret::<32>::random(&mut env.rng());
            write_new(seal_key, key.expose())?;
        }
        let seal = read_seal_key(seal_key)?;
        let identity = SigningKey::generate(&mut env.rng());
        let storage = Secret::<32>::random(&mut env.rng());
        put(&folder.join("storage.key"), "storage-key", storage.expose(), &seal, env)?;
        // Last: its presence says that the member is whole.
        put(&member, "member-identity", identity.seed().expose(), &seal, env)?;
        Ok(identity)
    }

    /// Opens a member's key store.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn open(data: &Path, seal_key: &Path) -> Result<Self, KeystoreError> {
        let seal = read_seal_key(seal_key)?;
        let folder = data.join("identity");
        let identity = exact::<32>(&folder.join("member.key"), "member-identity", &seal)?;
        let storage = exact::<32>(&folder.join("storage.key"), "storage-key", &seal)?;
        let slots = data.join("slots");
        private_folder(&slots)?;
        Ok(Self { slots, seal, identity: SigningKey::from_seed(&identity), storage })
    }

    /// The member's identity.
    #[must_use]
    pub fn identity(&self) -> &SigningKey {
        &self.identity
    }

    /// The seal over the replicated store's values.
    #[must_use]
    pub fn storage(&self) -> StorageKey {
        StorageKey::new(&self.storage)
    }

    /// The seed of a ceremony: made durable before it is first returned, the same ever after.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn ceremony_seed(&self, session: &SessionId, env: &Env) -> Result<Secret<32>, KeystoreError> {
        let path = self.slot(session, "seed");
        if path.exists() {
            return exact::<32>(&path, "ceremony-seed", &self.seal);
        }
        let seed = Secret::<32>::random(&mut env.rng());
        put(&path, "ceremony-seed", seed.expose(), &self.seal, env)?;
        Ok(seed)
    }

    /// Makes a share durable. The same share again changes nothing.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn save_share(&self, session: &SessionId, share: &KeyShare, env: &Env) -> Result<(), KeystoreError> {
        put(&self.slot(session, "share"), "share", share.to_secret().expose(), &self.seal, env)
    }

    /// This member's share of the epoch that `session` made; `None` where it holds none.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn share(&self, session: &SessionId) -> Result<Option<KeyShare>, KeystoreError> {
        let path = self.slot(session, "share");
        if !path.exists() {
            return Ok(None);
        }
        let bytes = open(&path, "share", &self.seal)?;
        let share = KeyShare::from_secret(bytes.expose());
        share.map(Some).map_err(|_: ShareError| KeystoreError::Content { path })
    }

    /// Erases the seed of a ceremony that is over.
    ///
    /// # Security
    /// The file is overwritten before it is removed. Against forensic recovery from the medium only the seal key
    /// protects: whoever has both had the share.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn erase_seed(&self, session: &SessionId) -> Result<(), KeystoreError> {
        let path = self.slot(session, "seed");
        let Ok(meta) = fs::metadata(&path) else { return Ok(()) };
        let length = usize::try_from(meta.len()).unwrap_or(0);
        let erase = || {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.write_all(&vec![0; length])?;
            file.sync_all()?;
            fs::remove_file(&path)?;
            sync_folder(&self.slots)
        };
        erase().map_err(|source| io_error(&path, source))
    }

    fn slot(&self, session: &SessionId, kind: &str) -> PathBuf {
        self.slots.join(format!("{session}.{kind}"))
    }
}

fn read_seal_key(path: &Path) -> Result<Secret<32>, KeystoreError> {
    let mut file = File::open(path).map_err(|source| io_error(path, source))?;
    let mode = file.metadata().map_err(|source| io_error(path, source))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(KeystoreError::Permissions { path: path.to_owned() });
    }
    let mut content = Vec::with_capacity(64);
    file.read_to_end(&mut content).map_err(|source| io_error(path, source))?;
    let content = SecretVec::new(content);
    let key = Secret::<32>::from_slice(content.expose());
    key.ok_or_else(|| KeystoreError::Content { path: path.to_owned() })
}

fn open(path: &Path, purpose: &'static str, seal: &Secret<32>) -> Result<SecretVec, KeystoreError> {
    let bytes = fs::read(path).map_err(|source| io_error(path, source))?;
    open_file(purpose, &bytes, &Protection::RawKey(seal))
        .map_err(|source| KeystoreError::Sealed { path: path.to_owned(), source })
}

fn exact<const N: usize>(path: &Path, purpose: &'static str, seal: &Secret<32>) -> Result<Secret<N>, KeystoreError> {
    let bytes = open(path, purpose, seal)?;
    Secret::from_slice(bytes.expose()).ok_or_else(|| KeystoreError::Content { path: path.to_owned() })
}

fn put(path: &Path, purpose: &'static str, secret: &[u8], seal: &Secret<32>, env: &Env) -> Result<(), KeystoreError> {
    let sealed = seal_file(purpose, secret, &Protection::RawKey(seal), &mut env.rng())
        .map_err(|source| KeystoreError::Sealed { path: path.to_owned(), source })?;
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    write_new(&fresh, &sealed)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::rename(&fresh, path).and_then(|()| sync_folder(folder)).map_err(|source| io_error(path, source))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeystoreError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| io_error(path, source))
}

fn private_folder(path: &Path) -> Result<(), KeystoreError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(|source| io_error(path, source))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn io_error(path: &Path, source: io::Error) -> KeystoreError {
    KeystoreError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_made_once_and_opens_with_its_own_seal_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let (data, key) = (folder.path().join("d"), folder.path().join("seal.key"));
        let env = Env::system();
        let made = Keystore::create(&data, &key, &env).unwrap();
        let store = Keystore::open(&data, &key).unwrap();
        assert_eq!(store.identity().verify_key(), made.verify_key());
        assert!(matches!(Keystore::create(&data, &key, &env), Err(KeystoreError::Exists { .. })));

        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keystore::open(&data, &key), Err(KeystoreError::Permissions { .. })));
        let other = folder.path().join("other.key");
        write_new(&other, &[9; 32]).unwrap();
        assert!(matches!(Keystore::open(&data, &other), Err(KeystoreError::Sealed { .. })));
    }

    #[test]
    fn slots_survive_and_seeds_are_erased() {
        let folder = tempfile::tempdir().unwrap();
        let (data, key) = (folder.path().join("d"), folder.path().join("seal.key"));
        let env = Env::system();
        Keystore::create(&data, &key, &env).unwrap();
        let store = Keystore::open(&data, &key).unwrap();
        let session = SessionId([3; 32]);
        let seed = store.ceremony_seed(&session, &env).unwrap();
        assert_eq!(store.ceremony_seed(&session, &env).unwrap().expose(), seed.expose());
        assert!(store.share(&session).unwrap().is_none());
        let share = KeyShare::new(2, &Secret::init_with(|s| s[0] = 5)).unwrap();
        store.save_share(&session, &share, &env).unwrap();
        store.erase_seed(&session).unwrap();
        store.erase_seed(&session).unwrap();
        let again = Keystore::open(&data, &key).unwrap();
        assert_eq!(again.share(&session).unwrap().unwrap().public_share(), share.public_share());
        assert_ne!(again.ceremony_seed(&session, &env).unwrap().expose(), seed.expose());
        let path = data.join("slots").join(format!("{session}.share"));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(again.share(&session).is_err(), "a damaged share is never used");
    }
}
