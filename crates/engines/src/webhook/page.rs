//! Searches by prefix, a page at a time: there may be a million.

use super::call::Failed;
use super::message::{Claims, List};
use super::{Webhook, unreadable};
use crate::{EngineError, Principal, valid_name};

/// How many names a page has at most.
const PAGE: usize = 1_000;

impl Webhook {
    pub(super) async fn all_principals(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        let mut all: Vec<Principal> = Vec::new();
        loop {
            let after = all.last().map(|p| p.name.as_str());
            let act = List { prefix, after, limit: PAGE };
            let page = self.ask(&self.ends, &act).await.map_err(Failed::repeatable)?.data;
            let names = page.principals.iter().map(|one| one.name.as_str());
            check_page("list", prefix, after, names, page.more)?;
            all.extend(page.principals.into_iter().map(|one| Principal { name: one.name, oid: Some(one.number) }));
            if !page.more {
                return Ok(all);
            }
        }
    }

    pub(super) async fn all_claims(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        let mut all: Vec<String> = Vec::new();
        loop {
            let after = all.last().map(String::as_str);
            let act = Claims { prefix, after, limit: PAGE };
            let page = self.ask(&self.ends, &act).await.map_err(Failed::repeatable)?.data;
            check_page("claims", prefix, after, page.names.iter().map(String::as_str), page.more)?;
            all.extend(page.names);
            if !page.more {
                return Ok(all);
            }
        }
    }
}

/// In order, each after the last, all of that prefix, and not an empty page before the end: so a search comes to one.
fn check_page<'a>(
    act: &str,
    prefix: &str,
    mut after: Option<&'a str>,
    names: impl Iterator<Item = &'a str>,
    more: bool,
) -> Result<(), EngineError> {
    let mut count = 0;
    for name in names {
        if after.is_some_and(|after| name <= after) || !name.starts_with(prefix) || !valid_name(name) {
            return Err(unreadable(act));
        }
        (after, count) = (Some(name), count + 1);
    }
    if count > PAGE || (more && count == 0) { Err(unreadable(act)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_in_order_and_of_its_prefix() {
        let page = |after, names: &[&'static str], more| check_page("list", "q_", after, names.iter().copied(), more);
        assert!(page(None, &[], false).is_ok() && page(Some("q_a"), &["q_b", "q_c"], true).is_ok());
        assert!(page(None, &[], true).is_err(), "it would never end");
        for bad in [&["q_b", "q_a"][..], &["q_a", "q_a"], &["r_a"], &["q_A"]] {
            assert!(page(None, bad, false).is_err(), "{bad:?}");
        }
        assert!(page(Some("q_b"), &["q_b"], true).is_err(), "nor would this");
        let long: Vec<String> = (0..=PAGE).map(|i| format!("q_{i:05}")).collect();
        assert!(check_page("list", "q_", None, long.iter().map(String::as_str), false).is_err());
    }
}
