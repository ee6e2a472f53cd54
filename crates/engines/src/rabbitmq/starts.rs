//! Which starts of the cluster's servers there were.
//!
//! A server says how long it runs, in milliseconds, and the number of its process, which in a container is the same each time. When it
//! started is worked out from that; it is the same start as long as it has aged by as much as we have.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::api::Node;
use crate::number_of;

/// By how much what a server says of its age may be off: it is from its statistics, which are 5 s old, or what somebody has set. Of two
/// starts that are nearer to each other, with the same number, the second is not noticed.
const TOLERANCE: Duration = Duration::from_secs(65);

/// What is remembered of the servers.
#[derive(Debug, Default)]
pub(super) struct Starts(Mutex<BTreeMap<String, Start>>);

#[derive(Debug)]
struct Start {
    process: String,
    /// In milliseconds since 1970, as it was first worked out.
    began: u128,
    /// How old it was, and when.
    age: Duration,
    at: Instant,
}

impl Starts {
    /// A number that is another one after each start of a server, and when one begins or ceases to run. A server that has just started
    /// has two: there are no statistics of it for some seconds.
    pub(super) fn number(&self, nodes: &[Node]) -> u32 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.number_at(nodes, Instant::now(), now)
    }

    fn number_at(&self, nodes: &[Node], at: Instant, now: Duration) -> u32 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = || nodes.iter().filter(|node| node.running);
        let told = || running().filter(|node| !node.os_pid.is_empty());
        known.retain(|name, _| told().any(|node| node.name == *name));
        for node in told() {
            let age = Duration::from_millis(node.uptime);
            if let Some(start) = known.get_mut(&node.name)
                && start.process == node.os_pid
                && (start.age + at.saturating_duration_since(start.at)).abs_diff(age) <= TOLERANCE
            {
                (start.age, start.at) = (age, at);
                continue;
            }
            let began = now.saturating_sub(age).as_millis();
            known.insert(node.name.clone(), Start { process: node.os_pid.clone(), began, age, at });
        }
        let mut text = String::new();
        for node in running().filter(|node| node.os_pid.is_empty()) {
            text.push_str(&format!("{} has just started\n", node.name));
        }
        for (name, start) in known.iter() {
            text.push_str(&format!("{name} {} {}\n", start.process, start.began));
        }
        number_of(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, pid: &str, uptime: u64) -> Node {
        serde_json::from_value(serde_json::json!({ "name": name, "running": true, "os_pid": pid, "uptime": uptime }))
            .unwrap()
    }

    #[test]
    fn a_start_is_noticed_and_the_passing_of_time_is_not() {
        let (starts, first, epoch) = (Starts::default(), Instant::now(), Duration::from_secs(1_000_000));
        let number = |nodes: &[Node], seconds: u64| {
            let passed = Duration::from_secs(seconds);
            starts.number_at(nodes, first + passed, epoch + passed)
        };
        let one = number(&[node("a", "1", 60_000)], 0);
        assert_eq!(number(&[node("a", "1", 60_000)], 10), one, "it has aged, and its statistics have not");
        // A clock that is a little slow is so for ever.
        assert_eq!(number(&[node("a", "1", 1_010_000)], 1010), one);
        assert_eq!(number(&[node("a", "1", 1_960_000)], 2010), one);
        let again = number(&[node("a", "1", 2_000)], 2020);
        assert_ne!(again, one, "a container that starts anew has the same process number");
        assert_ne!(number(&[node("a", "2", 12_000)], 2030), again);
        let silent = number(&[node("a", "", 0)], 2035);
        assert_ne!(silent, again, "what has started says nothing of itself for a while");
        let two = number(&[node("a", "2", 22_000), node("b", "1", 5_000)], 2040);
        assert_ne!(two, number(&[node("a", "2", 32_000)], 2050));
    }
}
