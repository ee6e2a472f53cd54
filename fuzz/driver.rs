//! A fuzzer small enough to run in every build: kept inputs and golden bytes, and seeded mutations of them.
//!
//! It knows nothing of coverage; `make fuzz` does the same targets under libFuzzer, and what that finds is kept in `fuzz/corpus`,
//! where this one begins. `FUZZ_MILLIS` says for how long each target is tried, `FUZZ_SEED` with which numbers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// A target is tried for so long, in milliseconds, unless `FUZZ_MILLIS` says otherwise.
const MILLIS: u64 = 1_000;
/// No input is longer, in bytes.
const LONGEST: usize = 64 << 10;

/// Tries `target` with the seeds, with `fuzz/corpus/<name>`, and with mutations of both, and says how often.
///
/// # Panics
/// With the input, when the target panics. The input is left in `fuzz/crashes`.
pub(crate) fn fuzz(name: &str, seeds: Vec<Vec<u8>>, target: impl Fn(&[u8])) -> u64 {
    let root = root();
    let mut corpus = seeds;
    corpus.extend(kept(&root.join("corpus").join(name)));
    corpus.push(Vec::new());
    let number = |variable: &str, or: u64| std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(or);
    let (seed, length) = (number("FUZZ_SEED", 1), Duration::from_millis(number("FUZZ_MILLIS", MILLIS)));
    let mut random = Random(
        seed ^ name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)),
    );
    let attempt = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
            let file = root.join("crashes").join(format!("{name}-{seed}"));
            let _ = std::fs::create_dir_all(root.join("crashes"));
            let _ = std::fs::write(&file, input);
            eprintln!("{name}: an input of {} bytes ends in a panic; it is left in {}", input.len(), file.display());
            std::panic::resume_unwind(panic);
        }
    };
    corpus.iter().for_each(|input| attempt(input));
    let mut tries = 0;
    let end = Instant::now() + length;
    while Instant::now() < end {
        // A few at a time: the clock is slower than most targets.
        for _ in 0..16 {
            attempt(&random.mutant(&corpus));
            tries += 1;
        }
    }
    tries
}

/// `fuzz`, from wherever a test is run.
fn root() -> std::path::PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|folder| folder.join("fuzz")).find(|folder| folder.join("driver.rs").is_file());
    found.expect("the folder `fuzz` of the repository")
}

fn kept(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n as u64)).unwrap_or(0)
    }

    /// One of the corpus, changed in 1 to 4 places.
    pub(crate) fn mutant(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input, corpus);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        // What lengths, counts and signs go wrong with.
        const EDGES: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, b'"'];
        let at = self.below(input.len() + 1);
        let length = self.below(input.len() - at + 1).min(64);
        match self.below(9) {
            0 | 1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 if at < input.len() => input[at] = EDGES[self.below(EDGES.len())],
            3 => input.truncate(at),
            4 => drop(input.drain(at..at + length)),
            5 => input.insert(at, EDGES[self.below(EDGES.len())]),
            6 => {
                let again = input[at..at + length].to_vec();
                input.splice(at..at, again);
            }
            7 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            // A length or a count, in either order of its bytes.
            _ => {
                let n = [u32::MAX, 1 << 31, 0x0100_0000, 1 << 16, self.below(300) as u32][self.below(5)];
                let bytes = if self.below(2) == 0 { n.to_be_bytes() } else { n.to_le_bytes() };
                input.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
            }
        }
    }
}
