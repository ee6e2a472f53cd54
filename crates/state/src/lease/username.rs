//! The readable end of a login's name, so that whoever reads a target's log sees whose login it is. It is for people: a login is known
//! by the prefix and the lease's id that stand before it, and those are never cut.

use super::principal_prefix;
use crate::ids::{ClusterId, LeaseId};

/// How many bytes the readable end has at most: with what stands before it, 63, where PostgreSQL cuts names without a word.
pub const MAX_LABEL: usize = 20;

/// How many bytes a template has at most.
pub const MAX_TEMPLATE: usize = 128;

/// Why a text is no template of usernames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUsername {
    /// There is nothing.
    #[error("must not be empty: leave it out for a login that is named by its lease alone")]
    Empty,
    /// It is longer than any text that has an effect.
    #[error("must have at most {MAX_TEMPLATE} bytes")]
    TooLong,
    /// A character that must be in no name.
    #[error("byte {0}: only `a-z 0-9 _` and places may stand in it, quotes and other characters not")]
    Character(usize),
    /// A place that there is not.
    #[error(
        "byte {0}: no such place. There are {{{{role}}}}, {{{{identity}}}} and {{{{namespace}}}}; {{{{role:8}}}} is at most 8 bytes of it, of {MAX_LABEL}"
    )]
    Place(usize),
    /// What stands for itself leaves no room.
    #[error("has {0} bytes beside its places, and a login has room for {MAX_LABEL}")]
    Literal(usize),
}

/// What places stand for.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The name of the role.
    pub role: &'a str,
    /// The SPIFFE id of who asked; its last segment is shown.
    pub owner: &'a str,
    /// The namespace of the role; empty for none.
    pub namespace: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Role,
    Identity,
    Namespace,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// A place, and how many bytes of it are shown.
    Place(Place, usize),
}

/// A template of usernames: literal `a-z 0-9 _`, and places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Username(Vec<Piece>);

impl Username {
    /// Reads a template.
    ///
    /// # Errors
    /// [`BadUsername`] with what is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, BadUsername> {
        if text.is_empty() {
            return Err(BadUsername::Empty);
        }
        if text.len() > MAX_TEMPLATE {
            return Err(BadUsername::TooLong);
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let at = text.len() - rest.len();
            if let Some(place) = rest.strip_prefix("{{") {
                let (name, after) = place.split_once("}}").ok_or(BadUsername::Place(at))?;
                pieces.push(place_of(name).ok_or(BadUsername::Place(at))?);
                rest = after;
            } else {
                let (literal, after) = rest.split_at(rest.find("{{").unwrap_or(rest.len()));
                if let Some(bad) = literal.bytes().position(|b| !is_plain(b)) {
                    return Err(BadUsername::Character(at + bad));
                }
                pieces.push(Piece::Literal(literal.to_owned()));
                rest = after;
            }
        }
        let literal = pieces.iter().map(|piece| if let Piece::Literal(text) = piece { text.len() } else { 0 }).sum();
        if literal > MAX_LABEL {
            return Err(BadUsername::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// What it says of a lease: at most [`MAX_LABEL`] of `a-z 0-9 _`, the same on every node. Capital letters become small ones, other
    /// characters `_`; what does not fit is cut.
    #[must_use]
    pub fn label(&self, facts: &Facts<'_>) -> String {
        let of = |place: &Place| match place {
            Place::Role => facts.role,
            Place::Identity => facts.owner.rsplit('/').next().unwrap_or_default(),
            Place::Namespace => facts.namespace,
        };
        let plain =
            |c: char| Some(c.to_ascii_lowercase()).filter(|c| u8::try_from(*c).is_ok_and(is_plain)).unwrap_or('_');
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Place(place, most) => of(place).chars().map(plain).take(*most).collect(),
        });
        pieces.collect::<String>().chars().take(MAX_LABEL).collect()
    }
}

fn place_of(text: &str) -> Option<Piece> {
    let (name, most) = match text.split_once(':') {
        None => (text, MAX_LABEL),
        // `parse` alone would take a sign and leading zeros.
        Some((name, most)) => (name, most.parse().ok().filter(|n: &usize| n.to_string() == most)?),
    };
    let place = match name {
        "role" => Place::Role,
        "identity" => Place::Identity,
        "namespace" => Place::Namespace,
        _ => return None,
    };
    (1..=MAX_LABEL).contains(&most).then_some(Piece::Place(place, most))
}

fn is_plain(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'
}

/// The login of a lease with its readable end; as it is when there is none.
pub(super) fn labelled(principal: &str, label: &str) -> String {
    if label.is_empty() { principal.to_owned() } else { format!("{principal}_{label}") }
}

/// The lease that a login of this cluster at a target is named by; none for a name that no lease's login can have.
#[must_use]
pub fn lease_of(cluster: &ClusterId, target: &str, login: &str) -> Option<LeaseId> {
    let (id, label) = login.strip_prefix(&principal_prefix(cluster, target))?.split_at_checked(32)?;
    let readable =
        label.strip_prefix('_').is_some_and(|l| (1..=MAX_LABEL).contains(&l.len()) && l.bytes().all(is_plain));
    // Digits in upper case read as the same id, but are another login.
    id.parse().ok().filter(|lease: &LeaseId| (label.is_empty() || readable) && lease.to_string() == id)
}

#[cfg(test)]
mod tests;
