//! One loaded PKCS#11 module.
//!
//! `C_Finalize` ends every session of the process at once, and a module may give the number of a dead session to a new one. So
//! every session knows in which life of the module it was opened, every call is made under a lock that no new life
//! overtakes, and what is left of an earlier life is forgotten without a call. At the end of a process sessions are closed, and the module is not
//! finalised: it may be somebody else's too.

use super::error::{TokenError, words};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::{Slot, TokenInfo};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// A session with the life of the module in which it was opened.
pub(super) struct Opened {
    pub(super) session: Session,
    life: u64,
}

pub(super) struct Module {
    path: PathBuf,
    context: Pkcs11,
    /// How often it was initialised.
    life: RwLock<u64>,
}

/// The module has been initialised anew since: the session is gone.
pub(super) struct Outlived;

impl Module {
    /// Loads and initialises a module.
    pub(super) fn load(path: &Path) -> Result<Self, TokenError> {
        let failed = |error: &Error| TokenError::Module { path: path.to_owned(), why: words(error) };
        if !path.is_absolute() {
            let why = "its path is not absolute, and the loader would search for it".to_owned();
            return Err(TokenError::Module { path: path.to_owned(), why });
        }
        let context = Pkcs11::new(path).map_err(|error| failed(&error))?;
        initialise(&context).map_err(|error| failed(&error))?;
        Ok(Self { path: path.to_owned(), context, life: RwLock::new(1) })
    }

    /// Runs calls that need no session of their own, within one life.
    pub(super) fn with<T>(&self, run: impl FnOnce(&Pkcs11) -> T) -> T {
        let _life = self.life.read().unwrap_or_else(PoisonError::into_inner);
        run(&self.context)
    }

    /// Opens a session.
    pub(super) fn open(&self, slot: Slot, writing: bool) -> Result<Opened, Error> {
        let life = self.life.read().unwrap_or_else(PoisonError::into_inner);
        // Never closed by being dropped: its number could be another session's by then.
        let session = if writing {
            self.context.open_rw_session_no_drop(slot)
        } else {
            self.context.open_ro_session_no_drop(slot)
        };
        Ok(Opened { session: session?, life: *life })
    }

    /// Runs calls on a session, unless it is of an earlier life.
    pub(super) fn call<T>(&self, opened: &Opened, run: impl FnOnce(&Session) -> T) -> Result<T, Outlived> {
        let life = self.life.read().unwrap_or_else(PoisonError::into_inner);
        if *life == opened.life { Ok(run(&opened.session)) } else { Err(Outlived) }
    }

    /// Closes a session, unless it is of an earlier life: then it is closed already.
    pub(super) fn close(&self, opened: Opened) {
        let life = self.life.read().unwrap_or_else(PoisonError::into_inner);
        if *life == opened.life {
            // What cannot be closed is gone already.
            let _ = opened.session.close();
        }
    }

    /// The present life.
    pub(super) fn life(&self) -> u64 {
        *self.life.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new life, unless somebody has since `seen`: some modules do not find a token that comes back otherwise.
    pub(super) fn revive(&self, seen: u64) -> Result<(), TokenError> {
        let mut life = self.life.write().unwrap_or_else(PoisonError::into_inner);
        if *life != seen {
            return Ok(());
        }
        // Whether or not it ends well: what counts is whether it begins again.
        let _ = self.context.clone().finalize();
        *life += 1;
        initialise(&self.context).map_err(|error| TokenError::Module { path: self.path.clone(), why: words(&error) })
    }

    /// The slot with the token of this serial number or label.
    pub(super) fn find(&self, token: &str) -> Result<(Slot, TokenInfo), TokenError> {
        let tokens = self.tokens()?;
        let one = |same: fn(&TokenInfo) -> &str| {
            let mut found = tokens.iter().filter(|(_, info)| same(info) == token);
            match (found.next(), found.next()) {
                (Some(one), None) => Some(Ok(one.clone())),
                (Some(_), Some(_)) => Some(Err(TokenError::AmbiguousToken(token.to_owned()))),
                (None, _) => None,
            }
        };
        // A serial number is its vendor's and unique; a label is anybody's.
        let found = one(TokenInfo::serial_number).or_else(|| one(TokenInfo::label));
        found.unwrap_or_else(|| Err(TokenError::NoToken(token.to_owned())))
    }

    /// Every token that is there and initialised. One that cannot be read is left out.
    pub(super) fn tokens(&self) -> Result<Vec<(Slot, TokenInfo)>, TokenError> {
        self.with(|context| {
            let slots = context.get_slots_with_token();
            let failed = |error| TokenError::Module { path: self.path.clone(), why: words(&error) };
            let read = |slot| context.get_token_info(slot).ok().map(|info| (slot, info));
            let tokens = slots.map_err(failed)?.into_iter().filter_map(read);
            Ok(tokens.filter(|(_, info)| info.token_initialized()).collect())
        })
    }

    /// What the token in a slot says of itself now.
    pub(super) fn info(&self, slot: Slot) -> Result<TokenInfo, Error> {
        self.with(|context| context.get_token_info(slot))
    }
}

fn initialise(context: &Pkcs11) -> Result<(), Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // Somebody else in this process has, or finalising failed.
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        done => done,
    }
}
