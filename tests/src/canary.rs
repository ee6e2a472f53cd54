//! Canaries: secrets that a test knows, and a search for each of them in whatever a process leaves behind, in every form
//! that a careless line of code gives to bytes.
//!
//! Only pieces of a form are looked for, of 16 bytes of the secret and more: an allocator overwrites the head of what is freed,
//! and what is left of the tail is a leak all the same. A piece has 64 random bits at least, so that no hit is chance.

use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use quorate_state::ids::hex;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

/// The shortest piece that is looked for, in bytes.
const SHORTEST: usize = 16;
/// How many bytes the search looks at to know how far it may skip.
const BLOCK: usize = 4;
const SLOTS: usize = 1 << 20;
const ZEROS: [u8; 4096] = [0; 4096];

/// A secret that must not be found.
#[derive(Clone)]
pub struct Canary {
    name: String,
    forms: Vec<(&'static str, Vec<u8>, usize)>,
}

impl Canary {
    /// Any secret bytes, 16 at least: raw, hexadecimal, base64 at each of its three alignments, a list of
    /// numbers, escaped, and UTF-16 of what is text.
    #[must_use]
    pub fn new(name: impl Into<String>, secret: &[u8]) -> Self {
        let mut forms = vec![("raw", secret.to_vec(), 16)];
        let lower = hex(secret);
        forms.push(("hex", lower.clone().into_bytes(), 32));
        forms.push(("HEX", lower.to_uppercase().into_bytes(), 32));
        for skip in 0..3 {
            for (form, engine) in [("base64", &STANDARD_NO_PAD), ("base64url", &URL_SAFE_NO_PAD)] {
                forms.push((form, inner_base64(engine, secret, skip), 22));
            }
        }
        // As `Debug` shows a slice, and as Rust and C escape bytes.
        forms.push(("list", format!("{secret:?}").trim_matches(['[', ']']).as_bytes().to_vec(), 64));
        if !secret.is_ascii() {
            forms.push(("escaped", secret.escape_ascii().to_string().into_bytes(), 48));
        }
        let text = if secret.is_ascii() { secret.to_vec() } else { lower.into_bytes() };
        forms.push(("UTF-16LE", text.iter().flat_map(|b| [*b, 0]).collect(), 64));
        forms.push(("UTF-16BE", text.iter().flat_map(|b| [0, *b]).collect(), 64));
        Self { name: name.into(), forms }
    }

    /// A scalar of the group, little-endian: also big-endian, and in the limbs that curve25519-dalek computes with.
    #[must_use]
    pub fn scalar(name: impl Into<String>, scalar: &[u8; 32]) -> Self {
        let mut canary = Self::new(name, scalar);
        canary.forms.push(("big-endian", scalar.iter().rev().copied().collect(), 16));
        let bit = |at: usize| u64::from(scalar.get(at / 8).map_or(0, |byte| byte >> (at % 8) & 1));
        let limb = |n: usize| (0..52).map(|at| bit(52 * n + at) << at).sum::<u64>();
        canary.forms.push(("limbs of 52 bits", (0..5).flat_map(|n| limb(n).to_le_bytes()).collect(), 16));
        canary
    }

    /// What it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its forms by name: to show that each is found.
    pub fn forms(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.forms.iter().map(|(name, form, _)| (*name, form.as_slice()))
    }
}

impl fmt::Debug for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Canary({})", self.name)
    }
}

/// The characters that do not depend on what stands around `secret` when it begins `skip` bytes after a group of three.
fn inner_base64(engine: &impl base64::Engine, secret: &[u8], skip: usize) -> Vec<u8> {
    let mut bytes = vec![0; skip];
    bytes.extend_from_slice(secret);
    let whole = bytes.len() * 8 / 6;
    let text = engine.encode(&bytes).into_bytes();
    text.get((skip * 8).div_ceil(6)..whole).unwrap_or_default().to_vec()
}

/// What was found, and where. Nothing of the secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// The canary's name.
    pub canary: String,
    /// Its form.
    pub form: &'static str,
    /// In what.
    pub place: String,
}

/// Everything that was found, and how often.
#[derive(Debug, Default, Clone)]
pub struct Found {
    /// By canary, form and place.
    pub hits: BTreeMap<Hit, usize>,
    /// How many bytes were searched.
    pub searched: u64,
}

impl Found {
    /// Whether a canary was found in a place whose name begins so.
    #[must_use]
    pub fn has(&self, canary: &str, place: &str) -> bool {
        self.hits.keys().any(|hit| hit.canary == canary && hit.place.starts_with(place))
    }

    /// Adds what another search found.
    pub fn extend(&mut self, other: Self) {
        self.searched += other.searched;
        for (hit, count) in other.hits {
            *self.hits.entry(hit).or_default() += count;
        }
    }

    /// Without what is allowed.
    #[must_use]
    pub fn except(mut self, allowed: impl Fn(&Hit) -> bool) -> Self {
        self.hits.retain(|hit, _| !allowed(hit));
        self
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB searched", self.searched >> 20)?;
        for (Hit { canary, form, place }, count) in &self.hits {
            write!(f, "\n  {canary}, {form}, {count} times in {place}")?;
        }
        Ok(())
    }
}

/// Looks for all pieces of all canaries at once (Wu and Manber, "A fast algorithm for multi-pattern searching", 1994).
#[derive(Debug)]
pub struct Searcher {
    canaries: Vec<Canary>,
    /// A piece, and the canary and form that it is of.
    pieces: Vec<(Vec<u8>, usize, usize)>,
    /// By a block of the text: how far the end of the next piece is away at least.
    shift: Vec<u8>,
    /// By the block that ends the first bytes of a piece: which pieces.
    ends: HashMap<usize, Vec<usize>>,
}

impl Searcher {
    /// For these.
    #[must_use]
    pub fn new(canaries: &[Canary]) -> Self {
        let mut pieces = Vec::new();
        for (c, canary) in canaries.iter().enumerate() {
            for (f, (_, form, window)) in canary.forms.iter().enumerate() {
                let window = (*window).min(form.len());
                let last = form.len() - window;
                let starts = (0..last).step_by((window / 2).max(1)).chain([last]);
                pieces.extend(starts.filter_map(|at| Some((form.get(at..at + window)?.to_vec(), c, f))));
            }
        }
        let far = u8::try_from(SHORTEST - BLOCK + 1).unwrap_or(1);
        let (mut shift, mut ends) = (vec![far; SLOTS], HashMap::<usize, Vec<usize>>::new());
        for (p, (piece, ..)) in pieces.iter().enumerate() {
            assert!(piece.len() >= SHORTEST, "a piece of {} bytes could be found by chance", piece.len());
            for end in BLOCK..=SHORTEST {
                let slot = slot(piece.get(end - BLOCK..end).unwrap_or_default());
                let away = u8::try_from(SHORTEST - end).unwrap_or(0);
                if let Some(s) = shift.get_mut(slot) {
                    *s = (*s).min(away);
                }
                if end == SHORTEST {
                    ends.entry(slot).or_default().push(p);
                }
            }
        }
        Self { canaries: canaries.to_vec(), pieces, shift, ends }
    }

    /// How much of the end of one part of a text must be searched again with the next.
    #[must_use]
    pub fn overlap(&self) -> usize {
        self.pieces.iter().map(|(piece, ..)| piece.len()).max().unwrap_or(0)
    }

    /// Searches `text`, which is at `place`.
    pub fn search(&self, place: &str, text: &[u8], found: &mut Found) {
        found.searched += text.len() as u64;
        let mut end = SHORTEST;
        while let Some(block) = text.get(end.wrapping_sub(BLOCK)..end) {
            // Memory is mostly zeros, and no piece has four of them.
            if block == [0; BLOCK] && text.get(end..end + ZEROS.len()) == Some(&ZEROS) {
                end += ZEROS.len();
                continue;
            }
            let slot = slot(block);
            match self.shift.get(slot) {
                Some(0) | None => {
                    self.compare(place, text, end - SHORTEST, slot, found);
                    end += 1;
                }
                Some(shift) => end += usize::from(*shift),
            }
        }
    }

    fn compare(&self, place: &str, text: &[u8], at: usize, slot: usize, found: &mut Found) {
        for (piece, canary, form) in self.ends.get(&slot).into_iter().flatten().filter_map(|p| self.pieces.get(*p)) {
            if text.get(at..).is_some_and(|rest| rest.starts_with(piece)) {
                let canary = self.canaries.get(*canary);
                let form = canary.and_then(|c| c.forms.get(*form)).map_or("?", |(name, ..)| name);
                let canary = canary.map_or("?", |c| c.name()).to_owned();
                *found.hits.entry(Hit { canary, form, place: place.to_owned() }).or_default() += 1;
            }
        }
    }

    /// Every file under a folder, but those whose path `skipped` says yes to. Each is its own place: `prefix` and its path.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn files(&self, prefix: &str, folder: &Path, skipped: &dyn Fn(&Path) -> bool) -> std::io::Result<Found> {
        let mut found = Found::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next)? {
                let path = entry?.path();
                let Ok(meta) = path.symlink_metadata() else { continue };
                if meta.is_dir() {
                    folders.push(path);
                } else if meta.is_file() && !skipped(&path) {
                    // RocksDB removes files while we look.
                    let Ok(bytes) = std::fs::read(&path) else { continue };
                    let at = path.strip_prefix(folder).unwrap_or(&path).display();
                    self.search(&format!("{prefix}{at}"), &bytes, &mut found);
                    self.search(&format!("{prefix}{at}"), path.as_os_str().as_encoded_bytes(), &mut found);
                }
            }
        }
        Ok(found)
    }
}

/// Knuth's multiplicative hash, of as many bits as there are slots.
fn slot(block: &[u8]) -> usize {
    let block = block.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    block.wrapping_mul(0x9e37_79b1) as usize >> 12
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    fn random<const N: usize>() -> [u8; N] {
        let mut bytes = [0; N];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn each_form_is_found_wherever_it_begins_and_with_its_head_overwritten() {
        let (secret, password) = (random::<32>(), hex(&random::<32>()));
        let canaries = [Canary::scalar("scalar", &secret), Canary::new("text", password.as_bytes())];
        let searcher = Searcher::new(&canaries);
        for canary in &canaries {
            for (form, bytes) in canary.forms() {
                for (at, cut) in [(0, 0), (1, 0), (4095, 0), (4096, 0), (8191, 0), (9000, 0), (77, bytes.len() / 6 * 2)]
                {
                    let mut text = vec![0; 10_000];
                    text[at..at + bytes.len()].copy_from_slice(bytes);
                    text[at..at + cut].fill(0xa5);
                    let mut found = Found::default();
                    searcher.search("here", &text, &mut found);
                    let hit = Hit { canary: canary.name().to_owned(), form, place: "here".to_owned() };
                    assert!(found.hits.contains_key(&hit), "{form} of {canary:?} at {at}, cut by {cut}: {found}");
                }
            }
        }
        let mut found = Found::default();
        searcher.search("noise", &random::<65_536>(), &mut found);
        assert!(found.hits.is_empty(), "nothing is in noise: {found}");
    }

    #[test]
    fn base64_is_found_at_every_alignment() {
        let secret = random::<32>();
        let searcher = Searcher::new(&[Canary::new("secret", &secret)]);
        for before in 0..7 {
            let mut bytes = vec![0x5a; before];
            bytes.extend_from_slice(&secret);
            bytes.extend_from_slice(&[0xc3; 5]);
            for text in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
                let mut found = Found::default();
                searcher.search("here", text.as_bytes(), &mut found);
                assert!(!found.hits.is_empty(), "{before} bytes before it: {text}");
            }
        }
    }

    #[test]
    fn limbs_are_those_that_the_scalar_is_made_of() {
        let mut secret = random::<32>();
        secret[31] &= 15;
        let canary = Canary::scalar("s", &secret);
        let (_, limbs) = canary.forms().find(|(form, _)| form.starts_with("limbs")).unwrap();
        let mut sum = [0u8; 33];
        for (n, limb) in limbs.chunks(8).enumerate() {
            let limb = u64::from_le_bytes(limb.try_into().unwrap());
            assert!(limb < 1 << 52);
            for bit in 0..52 {
                let at = 52 * n + bit;
                if limb >> bit & 1 == 1 {
                    sum[at / 8] |= 1 << (at % 8);
                }
            }
        }
        assert_eq!(sum[..32], secret);
    }
}
