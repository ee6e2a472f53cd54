//! Shapes of partitions: who no longer hears whom. Computed here, cut elsewhere.

use crate::random::Random;
use std::collections::BTreeSet;

/// Somebody on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum End {
    /// A member, by its index.
    Member(u8),
    /// All clients.
    Clients,
    /// The database.
    Target,
    /// The customer's custodian.
    Custodian,
}

/// Packets from the first no longer reach the second.
pub(crate) type Cut = (End, End);

/// How a network can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The victims and the other members hear nothing of each other; clients hear all.
    Isolated,
    /// The victims hear none of the others, which hear them.
    Deaf,
    /// None of the others hears the victims, which hear them.
    Mute,
    /// The victims hear nobody, and nobody hears them.
    Unplugged,
    /// The victims and clients hear nothing of each other.
    FromClients,
    /// Clients hear none of the victims, and the victims hear them: what they are asked happens, and nobody learns of it.
    Unanswered,
    /// Two halves, and one member that both hear.
    Bridge,
    /// Every member hears its two neighbours only.
    Ring,
    /// A member hears only those before it.
    Cascade,
}

const ALL: &[Shape] = &[
    Shape::Isolated,
    Shape::Deaf,
    Shape::Mute,
    Shape::Unplugged,
    Shape::FromClients,
    Shape::Unanswered,
    Shape::Bridge,
    Shape::Ring,
    Shape::Cascade,
];

impl Shape {
    /// One that cuts something among so many members.
    pub(crate) fn choose(random: &mut Random, nodes: u8) -> Self {
        let fits: Vec<Self> =
            ALL.iter().copied().filter(|shape| nodes > 3 || !matches!(shape, Self::Ring | Self::Cascade)).collect();
        random.pick(&fits).copied().unwrap_or(Self::Isolated)
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Isolated => "isolated from the other members",
            Self::Deaf => "hears no other member",
            Self::Mute => "is heard by no other member",
            Self::Unplugged => "off the network",
            Self::FromClients => "cut off from clients",
            Self::Unanswered => "its answers to clients are lost",
            Self::Bridge => "halves with a bridge",
            Self::Ring => "a ring",
            Self::Cascade => "each hears only those before it",
        }
    }

    /// What is to be cut. The victims of a bridge, a ring or a cascade are all members: the first named is the bridge.
    pub(crate) fn cuts(self, victims: &[u8], nodes: u8) -> BTreeSet<Cut> {
        let hit: BTreeSet<u8> = victims.iter().copied().collect();
        let others: Vec<u8> = (1..=nodes).filter(|member| !hit.contains(member)).collect();
        let pairs = |from: &mut dyn Iterator<Item = u8>, to: &[u8]| -> BTreeSet<Cut> {
            from.flat_map(|a| to.iter().map(move |b| (End::Member(a), End::Member(*b)))).collect()
        };
        let victims: Vec<u8> = hit.iter().copied().collect();
        let inward = pairs(&mut others.iter().copied(), &victims);
        let outward = pairs(&mut victims.iter().copied(), &others);
        let to_clients = victims.iter().map(|v| (End::Member(*v), End::Clients));
        let from_clients = victims.iter().map(|v| (End::Clients, End::Member(*v)));
        match self {
            Self::Isolated => inward.into_iter().chain(outward).collect(),
            Self::Deaf => inward,
            Self::Mute => outward,
            Self::Unplugged => {
                let rest = victims.iter().flat_map(|v| {
                    [End::Target, End::Custodian].into_iter().flat_map(|e| [(End::Member(*v), e), (e, End::Member(*v))])
                });
                inward.into_iter().chain(outward).chain(to_clients).chain(from_clients).chain(rest).collect()
            }
            Self::FromClients => to_clients.chain(from_clients).collect(),
            Self::Unanswered => to_clients.collect(),
            Self::Bridge => {
                let bridge = victims.first().copied().unwrap_or(1);
                let rest: Vec<u8> = (1..=nodes).filter(|member| *member != bridge).collect();
                let (left, right) = rest.split_at(rest.len() / 2);
                let there = pairs(&mut left.iter().copied(), right);
                let back = pairs(&mut right.iter().copied(), left);
                there.into_iter().chain(back).collect()
            }
            Self::Ring => Self::between(nodes, |a, b| {
                let apart = a.abs_diff(b);
                apart > 1 && apart != nodes.saturating_sub(1)
            }),
            Self::Cascade => Self::between(nodes, |from, to| from > to),
        }
    }

    fn between(nodes: u8, cut: impl Fn(u8, u8) -> bool) -> BTreeSet<Cut> {
        let pairs = (1..=nodes).flat_map(|a| (1..=nodes).map(move |b| (a, b)));
        pairs.filter(|(a, b)| a != b && cut(*a, *b)).map(|(a, b)| (End::Member(a), End::Member(b))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(cuts: &BTreeSet<Cut>, from: u8, to: u8) -> bool {
        cuts.contains(&(End::Member(from), End::Member(to)))
    }

    #[test]
    fn every_shape_cuts_something_and_nobody_from_itself() {
        for nodes in [3, 5] {
            for shape in ALL.iter().filter(|s| nodes > 3 || !matches!(s, Shape::Ring | Shape::Cascade)) {
                for victims in [vec![1], vec![2, 3]] {
                    let cuts = shape.cuts(&victims, nodes);
                    assert!(!cuts.is_empty(), "{shape:?} of {victims:?} among {nodes}");
                    assert!(cuts.iter().all(|(from, to)| from != to), "{shape:?}: {cuts:?}");
                }
            }
        }
    }

    #[test]
    fn one_way_is_one_way() {
        let deaf = Shape::Deaf.cuts(&[2], 3);
        assert!(member(&deaf, 1, 2) && member(&deaf, 3, 2) && deaf.len() == 2);
        let mute = Shape::Mute.cuts(&[2], 3);
        assert!(member(&mute, 2, 1) && member(&mute, 2, 3) && mute.len() == 2);
        let both = Shape::Isolated.cuts(&[2], 3);
        assert!(both.is_superset(&deaf) && both.is_superset(&mute) && both.len() == 4);
        assert!(!member(&both, 1, 3), "the others hear each other");
        assert_eq!(Shape::Unanswered.cuts(&[2], 3), BTreeSet::from([(End::Member(2), End::Clients)]));
    }

    #[test]
    fn a_bridge_is_heard_by_all_and_halves_are_not() {
        let cuts = Shape::Bridge.cuts(&[3], 5);
        assert!((1..=5).all(|m| !member(&cuts, 3, m) && !member(&cuts, m, 3)));
        assert!(member(&cuts, 1, 4) && member(&cuts, 5, 2) && !member(&cuts, 1, 2) && !member(&cuts, 4, 5));
        let ring = Shape::Ring.cuts(&[], 5);
        assert!(!member(&ring, 1, 2) && !member(&ring, 1, 5) && member(&ring, 1, 3) && member(&ring, 4, 1));
        let cascade = Shape::Cascade.cuts(&[], 5);
        assert!(member(&cascade, 5, 1) && !member(&cascade, 1, 5));
    }
}
