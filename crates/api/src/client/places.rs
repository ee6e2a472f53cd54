//! What members have said of where secrets lie: the keys of a mount, the id of a path. Kept, because a put would ask for both each time, and
//! tried, never believed: members refuse what is sealed for other keys or another id, and then both are asked for anew.

use crate::vault::Mount;
use std::collections::{BTreeMap, VecDeque};

/// How many ids of paths are kept, and how many mounts: those that were learned last.
const KEPT: usize = 4_096;

/// A place is a namespace and a path.
#[derive(Debug, Default)]
pub(super) struct Places {
    mounts: Newest<Mount>,
    ids: Newest<[u8; 16]>,
}

impl Places {
    /// What is known of a place: its mount, and the id of the secret there.
    pub(super) fn of(&self, (namespace, path): (&str, &str)) -> (Option<Mount>, Option<[u8; 16]>) {
        (self.mounts.get(namespace, mount_of(path)).cloned(), self.ids.get(namespace, path).copied())
    }

    pub(super) fn learn_mount(&mut self, namespace: &str, mount: &Mount) {
        self.mounts.put(namespace, &mount.name, mount.clone());
    }

    pub(super) fn learn_id(&mut self, (namespace, path): (&str, &str), id: [u8; 16]) {
        self.ids.put(namespace, path, id);
    }

    /// It was of no use.
    pub(super) fn forget(&mut self, (namespace, path): (&str, &str)) {
        self.mounts.remove(namespace, mount_of(path));
        self.ids.remove(namespace, path);
    }
}

/// The name of the mount that a path lies in.
pub(super) fn mount_of(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

/// Values by two names: at most [`KEPT`], of which the oldest goes first.
#[derive(Debug)]
struct Newest<T> {
    values: BTreeMap<(String, String), T>,
    order: VecDeque<(String, String)>,
}

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<T> Newest<T> {
    fn get(&self, outer: &str, inner: &str) -> Option<&T> {
        self.values.get(&(outer.to_owned(), inner.to_owned()))
    }

    fn put(&mut self, outer: &str, inner: &str, value: T) {
        let at = (outer.to_owned(), inner.to_owned());
        if self.values.insert(at.clone(), value).is_none() {
            self.order.push_back(at);
        }
        while self.order.len() > KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.values.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, outer: &str, inner: &str) {
        let at = (outer.to_owned(), inner.to_owned());
        if self.values.remove(&at).is_some() {
            self.order.retain(|other| *other != at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_known_until_it_is_forgotten_and_the_oldest_goes_first() {
        let mut places = Places::default();
        let place = ("default", "app/db");
        assert_eq!(places.of(place), (None, None));
        let mount = Mount { name: "app".to_owned(), ..Mount::default() };
        places.learn_mount("default", &mount);
        places.learn_id(place, [7; 16]);
        assert_eq!(places.of(place), (Some(mount), Some([7; 16])));
        assert_eq!(places.of(("other", "app/db")), (None, None), "of another namespace nothing is known");
        places.forget(place);
        assert_eq!(places.of(place), (None, None));
        assert!(places.ids.order.is_empty() && places.mounts.order.is_empty());
        (0..KEPT + 1).for_each(|n| places.learn_id(("default", &format!("app/{n}")), [1; 16]));
        places.learn_id(("default", "app/1"), [2; 16]);
        assert_eq!(places.ids.values.len(), KEPT);
        assert_eq!(places.of(("default", "app/0")).1, None);
        assert_eq!(places.of(("default", "app/1")).1, Some([2; 16]), "learned again, it is what was learned last");
    }
}
