//! One target of `targets.rs`, named by `FUZZ_TARGET`, under libFuzzer. `FUZZ_TARGET=list` prints the names.
#![no_main]

mod engines;
mod replay;
mod targets;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use targets::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        if name == "list" {
            TARGETS.iter().for_each(|t| println!("{}", t.name));
            std::process::exit(0);
        }
        // A driver's panic at what a target says is contained, and an error: no find.
        let ends = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |why| {
            if !quorate_engines::contained::is_contained() {
                ends(why);
            }
        }));
        let chosen = TARGETS.iter().find(|t| t.name == name).copied();
        _ = CHOSEN.set(chosen.unwrap_or_else(|| panic!("FUZZ_TARGET names no target: {name:?}")));
    },
    |input: &[u8]| {
        if let Some(target) = CHOSEN.get() {
            (target.run)(input);
        }
    }
);
