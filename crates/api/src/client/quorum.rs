//! What a client makes of several members' answers, as plain functions: the SDK runs them, and so does the simulation.

use std::collections::BTreeMap;

/// What `threshold` members say alike, and who they are. Anything that only one says has no weight, whatever index it names.
///
/// Members must be distinct.
pub fn alike<M, S: Ord>(answers: impl IntoIterator<Item = (M, S)>, threshold: usize) -> Option<(S, Vec<M>)> {
    let mut groups: BTreeMap<S, Vec<M>> = BTreeMap::new();
    for (member, said) in answers {
        groups.entry(said).or_default().push(member);
    }
    groups.into_iter().find(|(_, group)| group.len() >= threshold)
}

/// The index to ask for when no t members agree: the t-th highest of those that were named. Of t members one is honest, so it is an index
/// that there is; the highest could be a liar's, for which everybody would wait in vain.
pub fn index_to_ask_for(named: impl IntoIterator<Item = u64>, threshold: usize) -> u64 {
    let mut named: Vec<u64> = named.into_iter().collect();
    named.sort_unstable_by(|a, b| b.cmp(a));
    named.get(threshold.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_t_say_alike_counts() {
        assert_eq!(alike([(1, 'a'), (2, 'b'), (3, 'c')], 2), None);
        assert_eq!(alike([(1, 'b'), (2, 'a'), (3, 'b')], 2), Some(('b', vec![1, 3])));
        assert_eq!(alike([(1, 'a'), (2, 'a'), (3, 'b'), (4, 'b')], 3), None, "two and two are not three");
        assert_eq!(alike::<u8, char>([], 1), None);
    }

    #[test]
    fn a_liar_does_not_set_the_index_to_wait_for() {
        assert_eq!(index_to_ask_for([7, u64::MAX, 9], 2), 9);
        assert_eq!(index_to_ask_for([7, u64::MAX, 9, u64::MAX, 3], 3), 9, "nor do two of five");
        assert_eq!(index_to_ask_for([7], 2), 0, "too few have answered");
    }
}
