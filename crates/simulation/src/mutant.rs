//! Rules that can be broken, one at a time.

use crate::{FIVE, GROWING, SHRINKING, Setup, THREE, TOO_FEW};

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident in $setup:ident;)*) => {
        /// One broken rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant { $($(#[$doc])* $name,)* }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The cluster in which it shows.
            #[must_use]
            pub fn setup(self) -> Setup {
                match self { $(Self::$name => $setup,)* }
            }
        }
    };
}

mutants! {
    /// A node answers from its state as it is.
    NothingNoted in FIVE;
    /// A node notes the last entry that it has applied instead of the last of its log.
    AppliedNoted in THREE;
    /// A node notes the last entry that it knows to be committed.
    CommittedNoted in THREE;
    /// What was noted stays where it was when the tail is cut.
    CutIgnored in THREE;
    /// What was noted is forgotten when the tail is cut.
    CutForgets in THREE;
    /// Only the last entry of the tail is looked at.
    LastEntryOnly in THREE;
    /// An entry that changes policies or identities has no footprint.
    PolicyPassedOver in THREE;
    /// An entry that writes an item has no footprint.
    ItemPassedOver in THREE;
    /// After a start, the tail begins where the state is.
    TailLostAtStart in THREE;
    /// A node answers from its log, committed or not.
    UnappliedRead in THREE;
    /// A client takes the first answer of t, equal or not.
    FirstAnswer in THREE;
    /// A client takes t-1 equal answers.
    OneTooFew in FIVE;
    /// A client asks again for the highest index that anybody named.
    HighestNamed in THREE;
    /// Nodes never ask the leader: 2 of 5.
    MembershipIgnored in TOO_FEW;
    /// Nodes go by the membership that they have applied.
    MembershipApplied in GROWING;
    /// Nodes without a vote answer as if they had one.
    LearnersAnswer in GROWING;
    /// A membership change under way makes no difference.
    JointIgnored in SHRINKING;
    /// A follower acknowledges entries before they are synced.
    AcknowledgedUnsynced in THREE;
}
