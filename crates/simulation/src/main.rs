//! Runs many seeds: `quorate-simulation [SEEDS [FIRST]]`, or replays one: `quorate-simulation 1 SEED`.
//!
//! Ends with 1 at the first seed whose run does not hold, and says which.

use quorate_simulation::{SETUPS, Seen, run};
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let (Ok(seeds), Ok(first)) = (numbers.next().unwrap_or(Ok(10_000)), numbers.next().unwrap_or(Ok(0))) else {
        let _ = writeln!(std::io::stderr(), "usage: quorate-simulation [SEEDS [FIRST]]");
        return ExitCode::from(2);
    };
    let mut out = std::io::stdout().lock();
    for setup in SETUPS {
        let mut all = Seen::default();
        for seed in first..first.saturating_add(seeds) {
            match run(&setup, seed, None) {
                Ok(seen) => all.add(&seen),
                Err(violation) => {
                    let _ = writeln!(out, "{}, seed {seed}: {violation}", setup.name);
                    return ExitCode::FAILURE;
                }
            }
        }
        let _ = writeln!(out, "{}: {seeds} runs from seed {first} hold: {all}0 violations", setup.name);
    }
    ExitCode::SUCCESS
}
