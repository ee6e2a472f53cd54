//! SoftHSM with tokens of a test's own.
//!
//! A PKCS#11 module is one for a whole process, and SoftHSM reads where its tokens lie from the environment when it is initialised. So each
//! test runs in a process of its own: this binary again, for that one test.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use quorate_crypto::customer::CustomerPublic;
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_fragment::token::{Created, Given, Pin, Pool, Settings, Timing, TokenError};
use quorate_fragment::{DeriveError, Derived, Fragment, Question};
use rand_core::UnwrapErr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) const PIN: &str = "1234";
pub(crate) const SO_PIN: &str = "12345678";
const FOLDER: &str = "QUORATE_SOFTHSM_FOLDER";

/// Where distributions put SoftHSM.
const MODULES: [&str; 3] =
    ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"];

pub(crate) fn module() -> PathBuf {
    let found = MODULES.iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("SoftHSM is missing: `make setup` installs the package softhsm2")
}

/// The tokens of one test.
pub(crate) struct Lab {
    folder: PathBuf,
}

/// Runs a test in a process with tokens of its own. `name` is the test's, as the test binary has it.
pub(crate) fn lab(name: &str, body: impl FnOnce(&Lab)) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return body(&Lab { folder: folder.into() });
    }
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let config = folder.path().join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    std::fs::write(&config, text).unwrap();
    let ran = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("SOFTHSM2_CONF", &config)
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    // SoftHSM's own code that runs at the end of a process has been seen to crash there, when all was done and said.
    assert!(said.contains("test result: ok. 1 passed"), "{name} ended with {}: {said}", ran.status);
}

/// Runs a program that has to succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let (succeeded, said) = tried(program, arguments);
    assert!(succeeded, "{program} {arguments:?}: {said}");
    said
}

/// Runs a program; whether it succeeded, and what it said.
pub(crate) fn tried(program: &str, arguments: &[&str]) -> (bool, String) {
    let ran = Command::new(program).args(arguments).output();
    let ran = ran.unwrap_or_else(|why| panic!("{program}: {why}; `make setup` installs softhsm2 and opensc"));
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    (ran.status.success(), said)
}

impl Lab {
    pub(crate) fn tokens(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    /// Makes a token; its folder.
    pub(crate) fn init(&self, label: &str) -> PathBuf {
        let before = folders(&self.tokens());
        let arguments = ["--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN];
        run("softhsm2-util", &arguments);
        folders(&self.tokens()).into_iter().find(|folder| !before.contains(folder)).unwrap()
    }

    /// OpenSC's own tool, logged in to a token.
    pub(crate) fn pkcs11_tool(&self, token: &str, arguments: &[&str]) -> (bool, String) {
        let module = module();
        let common = ["--module", module.to_str().unwrap(), "--token-label", token, "--login", "--pin", PIN];
        tried("pkcs11-tool", &[&common[..], arguments].concat())
    }

    /// Takes a token's folder away, as if it were unplugged; returns where it is.
    pub(crate) fn unplug(&self, folder: &Path) -> PathBuf {
        let away = self.folder.join("away");
        std::fs::rename(folder, &away).unwrap();
        away
    }
}

fn folders(of: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

pub(crate) fn pin(text: &str, given: Given) -> Pin {
    Pin::new(&SecretVec::new(text.as_bytes().to_vec()), given).unwrap()
}

pub(crate) fn rng() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

/// As impatient as a test.
pub(crate) const QUICK: Timing =
    Timing { retry: Duration::from_millis(100), revive: Duration::from_millis(300), check: Duration::from_millis(300) };

pub(crate) fn settings(tokens: &[&str], created: &Created) -> Settings {
    Settings {
        module: module(),
        tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
        key: "customer".to_owned(),
        public: created.public.clone(),
        kem: created.kem.clone(),
        sessions: 2,
        timing: QUICK,
    }
}

pub(crate) fn open(settings: Settings) -> Result<Pool, TokenError> {
    Pool::open(settings, pin(PIN, Given::ByFile))
}

/// A question and the value that the holder of the key must give.
pub(crate) fn question(public: &CustomerPublic) -> (Question, Secret<32>) {
    let (part, kc) = public.test_seal(b"object", b"wrap", &mut rng()).unwrap();
    (Question { object: b"object".to_vec(), wrap: b"wrap".to_vec(), part }, kc)
}

pub(crate) fn ask(fragment: &Fragment, questions: Vec<Question>) -> Vec<Derived> {
    let (answer, answered) = mpsc::channel();
    fragment.derive(questions, move |values| drop(answer.send(values)));
    answered.recv_timeout(Duration::from_secs(20)).expect("every question is answered")
}

/// Asks one thing; whether the answer was right, or why there was none.
pub(crate) fn right(fragment: &Fragment) -> Result<bool, DeriveError> {
    let (asked, kc) = question(fragment.public());
    let value = ask(fragment, vec![asked]).pop().unwrap()?;
    Ok(value.expose() == kc.expose())
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not in 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A session of the test's own, beside those of a pool.
pub(crate) fn own_session(token: &str) -> Session {
    let context = Pkcs11::new(module()).unwrap();
    // A pool in this process may have done that.
    let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slots = context.get_slots_with_initialized_token().unwrap();
    let slot = slots.into_iter().find(|slot| context.get_token_info(*slot).unwrap().label() == token).unwrap();
    let session = context.open_rw_session(slot).unwrap();
    // And this too.
    let _ = session.login(UserType::User, Some(&cryptoki::types::AuthPin::new(PIN.into())));
    session
}

/// Puts a private key onto a token that was made elsewhere: what a vendor's way of cloning does.
pub(crate) fn bring_in(session: &Session, label: &str, scalar: &[u8], with: &[Attribute]) -> ObjectHandle {
    use cryptoki::object::{KeyType, ObjectClass};
    let mut template = vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::EC),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::EcParams(vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]),
        Attribute::Value(scalar.to_vec()),
    ];
    let usual = [Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Derive(true)];
    let kind = std::mem::discriminant::<Attribute>;
    template.retain(|a| !with.iter().any(|w| kind(w) == kind(a)));
    template.extend(usual.into_iter().filter(|a| !with.iter().any(|w| kind(w) == kind(a))));
    template.extend(with.iter().cloned());
    session.create_object(&template).unwrap()
}

/// The public half of a scalar, as what was created.
pub(crate) fn created_of(scalar: &[u8]) -> Created {
    use p256::elliptic_curve::sec1::ToSec1Point as _;
    let point = p256::SecretKey::from_slice(scalar).unwrap().public_key().to_sec1_point(false);
    Created { public: CustomerPublic::of_device(point.as_bytes(), None).unwrap(), kem: None }
}
