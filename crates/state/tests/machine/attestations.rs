//! Who vouches for a state: t distinct members of this roster and cluster, for exactly this state at this index.

use crate::world::*;
use quorate_state::attest::{Applied, Attestation, vouchers};
use quorate_state::genesis::Roster;
use quorate_state::ids::ClusterId;

const APPLIED: Applied = Applied { index: 4_096, log: [1; 32], state: [2; 32] };

fn roster() -> Roster {
    genesis().roster
}

fn by(member: u8, applied: Applied) -> Attestation {
    Attestation::sign(&genesis().cluster(), ROSTER, member, applied, &node(member))
}

fn count(attestations: &[Attestation]) -> usize {
    vouchers(&genesis().cluster(), &roster(), &APPLIED, attestations)
}

#[test]
fn distinct_members_of_the_roster_count_once_each() {
    let t = usize::from(roster().threshold);
    assert_eq!(count(&[by(1, APPLIED), by(2, APPLIED)]), t);
    assert_eq!(count(&[by(1, APPLIED)]), t - 1);
    assert_eq!(count(&[by(1, APPLIED), by(1, APPLIED), by(1, APPLIED)]), t - 1, "one member, three times");
    // A valid statement of a member counts however often somebody forged another in its name.
    let forged = Attestation { signature: [9; 64], ..by(2, APPLIED) };
    assert_eq!(count(&[forged.clone(), by(1, APPLIED), by(2, APPLIED)]), t);
    assert_eq!(count(&vec![forged; 40]), 0);
    let stranger = Attestation::sign(&genesis().cluster(), ROSTER, 9, APPLIED, &node(9));
    assert_eq!(count(&[by(1, APPLIED), stranger]), t - 1, "not in the roster");
    let another = Attestation::sign(&genesis().cluster(), ROSTER, 2, APPLIED, &node(1));
    assert_eq!(count(&[by(1, APPLIED), another]), t - 1, "signed by another member's key");
}

#[test]
fn only_this_very_state_at_this_index_of_this_cluster_counts() {
    let changed = [
        Applied { index: 4_097, ..APPLIED },
        Applied { log: [3; 32], ..APPLIED },
        Applied { state: [3; 32], ..APPLIED },
    ];
    for applied in changed {
        assert_eq!(count(&[by(1, APPLIED), by(2, applied)]), 1, "{applied:?}");
        // And a genuine signature does not stretch to what it was not made for.
        let moved = Attestation { applied, ..by(2, APPLIED) };
        let n = vouchers(&genesis().cluster(), &roster(), &applied, &[moved]);
        assert_eq!(n, 0, "{applied:?}");
    }
    let elsewhere = Attestation::sign(&ClusterId([9; 32]), ROSTER, 2, APPLIED, &node(2));
    assert_eq!(count(&[by(1, APPLIED), elsewhere]), 1, "of another cluster");
    let older = Attestation::sign(&genesis().cluster(), ROSTER - 1, 2, APPLIED, &node(2));
    assert_eq!(count(&[by(1, APPLIED), older]), 1, "of another roster");
    let moved = Attestation { member: 3, ..by(2, APPLIED) };
    assert_eq!(count(&[by(1, APPLIED), moved]), 1, "under another name");
    assert!(by(2, APPLIED).is_signed(&genesis().cluster(), &node(2).verify_key().0));
    assert!(!by(2, APPLIED).is_signed(&genesis().cluster(), &node(1).verify_key().0));
}
