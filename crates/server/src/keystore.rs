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

use crate::durable;
use crate::env::Env;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyfile::{KeyFileError, Protection, open_file, seal_file};
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_crypto::storage::StorageKey;
use quorate_crypto::threshold::{KeyShare, ShareError};
use quorate_state::ids::SessionId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const MEMBER: &str = "identity/member.key";
const STORAGE: &str = "identity/storage.key";

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

/// Where a key store's files lie: few, small, and none of them may be lost or half written.
pub trait Folder: Send + Sync {
    /// The content of a file; `None` where there is none.
    ///
    /// # Errors
    /// Those of the storage.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Makes `bytes` the content of a file: whole or not at all, durable on return.
    ///
    /// # Errors
    /// Those of the storage.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Overwrites and removes a file, durably; nothing where there is none.
    ///
    /// # Errors
    /// Those of the storage.
    fn erase(&self, name: &str) -> io::Result<()>;

    /// What errors call a file.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

/// An open key store.
pub struct Keystore {
    folder: Box<dyn Folder>,
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
        let folder = Directory::open(data)?;
        if folder.path(MEMBER).exists() {
            return Err(KeystoreError::Exists { path: data.to_owned() });
        }
        if !seal_key.exists() {
            if let Some(parent) = seal_key.parent() {
                durable::folder(parent).map_err(|source| io_error(parent, source))?;
            }
            let key = Secret::<32>::random(&mut env.rng());
            durable::make(seal_key, key.expose(), durable::PRIVATE).map_err(|source| io_error(seal_key, source))?;
        }
        Self::create_in(&folder, &read_seal_key(seal_key)?, env)
    }

    /// [`Keystore::create`] in any folder that holds no member yet, with any seal key.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn create_in(folder: &dyn Folder, seal: &Secret<32>, env: &Env) -> Result<SigningKey, KeystoreError> {
        let identity = SigningKey::generate(&mut env.rng());
        let storage = Secret::<32>::random(&mut env.rng());
        put(folder, STORAGE, "storage-key", storage.expose(), seal, env)?;
        // Last: its presence says that the member is whole.
        put(folder, MEMBER, "member-identity", identity.seed().expose(), seal, env)?;
        Ok(identity)
    }

    /// Opens a member's key store.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn open(data: &Path, seal_key: &Path) -> Result<Self, KeystoreError> {
        Self::open_in(Box::new(Directory::open(data)?), read_seal_key(seal_key)?)
    }

    /// [`Keystore::open`] in any folder, with any seal key.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn open_in(folder: Box<dyn Folder>, seal: Secret<32>) -> Result<Self, KeystoreError> {
        let identity = must(&*folder, MEMBER, exact::<32>(&*folder, MEMBER, "member-identity", &seal)?)?;
        let storage = must(&*folder, STORAGE, exact::<32>(&*folder, STORAGE, "storage-key", &seal)?)?;
        Ok(Self { folder, seal, identity: SigningKey::from_seed(&identity), storage })
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
        let name = slot(session, "seed");
        if let Some(seed) = exact::<32>(&*self.folder, &name, "ceremony-seed", &self.seal)? {
            return Ok(seed);
        }
        let seed = Secret::<32>::random(&mut env.rng());
        put(&*self.folder, &name, "ceremony-seed", seed.expose(), &self.seal, env)?;
        Ok(seed)
    }

    /// Makes a share durable. The same share again changes nothing.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn save_share(&self, session: &SessionId, share: &KeyShare, env: &Env) -> Result<(), KeystoreError> {
        put(&*self.folder, &slot(session, "share"), "share", share.to_secret().expose(), &self.seal, env)
    }

    /// This member's share of the epoch that `session` made; `None` where it holds none.
    ///
    /// # Errors
    /// [`KeystoreError`].
    pub fn share(&self, session: &SessionId) -> Result<Option<KeyShare>, KeystoreError> {
        let name = slot(session, "share");
        let Some(bytes) = open(&*self.folder, &name, "share", &self.seal)? else { return Ok(None) };
        let share = KeyShare::from_secret(bytes.expose());
        share.map(Some).map_err(|_: ShareError| KeystoreError::Content { path: self.folder.path(&name) })
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
        let name = slot(session, "seed");
        self.folder.erase(&name).map_err(|source| io_error(&self.folder.path(&name), source))
    }
}

fn slot(session: &SessionId, kind: &str) -> String {
    format!("slots/{session}.{kind}")
}

fn open(
    folder: &dyn Folder,
    name: &str,
    purpose: &'static str,
    seal: &Secret<32>,
) -> Result<Option<SecretVec>, KeystoreError> {
    let bytes = folder.read(name).map_err(|source| io_error(&folder.path(name), source))?;
    let Some(bytes) = bytes else { return Ok(None) };
    open_file(purpose, &bytes, &Protection::RawKey(seal))
        .map(Some)
        .map_err(|source| KeystoreError::Sealed { path: folder.path(name), source })
}

fn exact<const N: usize>(
    folder: &dyn Folder,
    name: &str,
    purpose: &'static str,
    seal: &Secret<32>,
) -> Result<Option<Secret<N>>, KeystoreError> {
    let Some(bytes) = open(folder, name, purpose, seal)? else { return Ok(None) };
    let secret = Secret::from_slice(bytes.expose());
    secret.map(Some).ok_or_else(|| KeystoreError::Content { path: folder.path(name) })
}

fn must<T>(folder: &dyn Folder, name: &str, found: Option<T>) -> Result<T, KeystoreError> {
    found.ok_or_else(|| io_error(&folder.path(name), io::ErrorKind::NotFound.into()))
}

fn put(
    folder: &dyn Folder,
    name: &str,
    purpose: &'static str,
    secret: &[u8],
    seal: &Secret<32>,
    env: &Env,
) -> Result<(), KeystoreError> {
    let sealed = seal_file(purpose, secret, &Protection::RawKey(seal), &mut env.rng())
        .map_err(|source| KeystoreError::Sealed { path: folder.path(name), source })?;
    folder.replace(name, &sealed).map_err(|source| io_error(&folder.path(name), source))
}

/// A member's data folder.
struct Directory(PathBuf);

impl Directory {
    fn open(data: &Path) -> Result<Self, KeystoreError> {
        for folder in ["identity", "slots"] {
            let path = data.join(folder);
            durable::private_folder(&path).map_err(|source| io_error(&path, source))?;
        }
        Ok(Self(data.to_owned()))
    }
}

impl Folder for Directory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        durable::replace(&self.path(name), bytes, durable::PRIVATE)
    }

    fn erase(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        let Ok(meta) = fs::metadata(&path) else { return Ok(()) };
        let length = usize::try_from(meta.len()).unwrap_or(0);
        let mut file = OpenOptions::new().write(true).open(&path)?;
        file.write_all(&vec![0; length])?;
        file.sync_all()?;
        fs::remove_file(&path)?;
        durable::sync_folder_of(&path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
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
        durable::make(&other, &[9; 32], durable::PRIVATE).unwrap();
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
