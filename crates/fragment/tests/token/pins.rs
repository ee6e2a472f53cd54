//! PINs: tried once, never the last time, never again by itself.

use crate::lab::{PIN, SO_PIN, lab, module, open, pin, right, rng, run, settings, wait_until};
use quorate_crypto::customer::PartSuite;
use quorate_fragment::Fragment;
use quorate_fragment::token::{Given, Pool, create};
use std::path::Path;

/// What SoftHSM stores of a token's flags: its attribute `CKA_OS_TOKENFLAGS`, an unsigned long, both as eight bytes.
const TOKEN_FLAGS: [u8; 16] = [0, 0, 0, 0, 0x80, 0, 0x53, 0x4b, 0, 0, 0, 0, 0, 0, 0, 2];
const USER_PIN_COUNT_LOW: u64 = 0x1_0000;
const USER_PIN_FINAL_TRY: u64 = 0x2_0000;
const USER_PIN_LOCKED: u64 = 0x4_0000;

/// SoftHSM counts no tries and never locks. So the flags that others set are put where it keeps its own: it hands them out like those.
fn set_flags(token: &Path, change: impl FnOnce(u64) -> u64) {
    let file = token.join("token.object");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(16).position(|w| w == TOKEN_FLAGS).expect("SoftHSM 2.6 stores flags so") + 16;
    let flags = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let changed = change(flags);
    if changed == flags {
        return;
    }
    bytes[at..at + 8].copy_from_slice(&changed.to_be_bytes());
    // The number in front tells a module that is loaded that there is something new.
    let generation = u64::from_be_bytes(bytes[..8].try_into().unwrap());
    bytes[..8].copy_from_slice(&(generation + 1).to_be_bytes());
    std::fs::write(&file, bytes).unwrap();
}

fn flags(token: &Path) -> u64 {
    let mut seen = 0;
    set_flags(token, |flags| {
        seen = flags;
        flags
    });
    seen
}

#[test]
fn a_wrong_pin_is_tried_once_and_then_a_person_is_asked() {
    lab("pins::a_wrong_pin_is_tried_once_and_then_a_person_is_asked", |lab| {
        let token = lab.init("one");
        let created =
            create(&module(), "one", "customer", PartSuite::P256, &pin(PIN, Given::ByFile), &mut rng()).unwrap();
        let code = |text: &str, given| {
            Pool::open(settings(&["one"], &created), pin(text, given)).map(Pool::end).err().map(|why| why.code())
        };
        assert_eq!(code("0000", Given::ByFile), Some("pin_wrong"));
        assert_ne!(flags(&token) & USER_PIN_COUNT_LOW, 0, "the token has counted it");
        // What a service manager does: the same again, and again. Nothing is tried, not even the right one.
        assert_eq!(code("0000", Given::ByFile), Some("pin_doubtful"));
        assert_eq!(code(PIN, Given::ByFile), Some("pin_doubtful"));
        assert_ne!(flags(&token) & USER_PIN_COUNT_LOW, 0);
        // A person may, and the count begins anew.
        assert_eq!(code(PIN, Given::ByPerson), None);
        assert_eq!(flags(&token) & USER_PIN_COUNT_LOW, 0);
        assert_eq!(code(PIN, Given::ByFile), None);
    });
}

#[test]
fn the_last_try_is_nobodys_and_a_locked_token_is_said_so() {
    lab("pins::the_last_try_is_nobodys_and_a_locked_token_is_said_so", |lab| {
        let token = lab.init("one");
        let created =
            create(&module(), "one", "customer", PartSuite::P256, &pin(PIN, Given::ByFile), &mut rng()).unwrap();
        let code = |given| {
            Pool::open(settings(&["one"], &created), pin(PIN, given)).map(Pool::end).err().map(|why| why.code())
        };
        assert_eq!(code(Given::ByFile), None);
        set_flags(&token, |flags| flags | USER_PIN_COUNT_LOW | USER_PIN_FINAL_TRY);
        let before = flags(&token);
        for given in [Given::ByFile, Given::ByPerson] {
            assert_eq!(code(given), Some("pin_last_try"));
        }
        assert_eq!(flags(&token), before, "the right PIN would have reset them: none was tried");
        set_flags(&token, |flags| flags | USER_PIN_LOCKED);
        for given in [Given::ByFile, Given::ByPerson] {
            assert_eq!(code(given), Some("pin_locked"));
        }
        let made = create(&module(), "one", "second", PartSuite::P256, &pin(PIN, Given::ByPerson), &mut rng());
        assert_eq!(made.unwrap_err().code(), "pin_locked", "a key is not made there either");
    });
}

#[test]
fn a_pin_that_is_changed_meanwhile_is_refused_once_and_not_tried_again() {
    lab("pins::a_pin_that_is_changed_meanwhile_is_refused_once_and_not_tried_again", |lab| {
        let token = lab.init("one");
        let created =
            create(&module(), "one", "customer", PartSuite::P256, &pin(PIN, Given::ByFile), &mut rng()).unwrap();
        let fragment = Fragment::Token(open(settings(&["one"], &created)).unwrap());
        assert_eq!(right(&fragment), Ok(true));
        let module = module();
        let set = |new: &str| {
            let common =
                ["--module", module.to_str().unwrap(), "--token-label", "one", "--login", "--login-type", "so"];
            run("pkcs11-tool", &[&common[..], &["--so-pin", SO_PIN, "--init-pin", "--new-pin", new]].concat());
        };
        set("9999");
        // Every session has to log in again.
        let away = lab.unplug(&token);
        wait_until("it is missed", || fragment.health()[0].ready == 0);
        std::fs::rename(&away, &token).unwrap();
        wait_until(
            "the PIN is refused",
            || matches!(&fragment.health()[0].trouble, Some((code, _)) if *code == "pin_wrong"),
        );
        assert!(right(&fragment).is_err());
        // The right one again, with a clean count: still it is a person's turn.
        set(PIN);
        set_flags(&token, |flags| flags & !USER_PIN_COUNT_LOW);
        std::thread::sleep(crate::lab::QUICK.retry * 10);
        assert_eq!(fragment.health()[0].ready, 0, "nothing was tried again by itself");
        assert_eq!(flags(&token) & USER_PIN_COUNT_LOW, 0);
    });
}
