//! What is missing at a server before it can be worked with, as commands that cure it.

use std::collections::BTreeSet;

use super::accounts::unseen;
use super::api::{self, Api, Grant, Named, Node, Overview, RIGHTS, WhoAmI};
use super::rules::vhost_of;
use super::starts::Starts;
use super::{OLDEST, RabbitMqConfig, TAG};
use crate::http::Path;
use crate::{Checked, EngineError, Fault, Missing, Slots};

/// What lets in for a while whom the server's accounts refuse.
const CACHE: &str = "rabbitmq_auth_backend_cache";

/// See [`crate::Engine::check`].
pub(super) async fn check(
    api: &Api,
    config: &RabbitMqConfig,
    starts: &Starts,
    groups: &[String],
) -> Result<Checked, EngineError> {
    let mut checked = nothing(config, groups);
    match api.get::<WhoAmI>(config, Path::new(&["api", "whoami"])?).await {
        // It lets us in, and no further.
        Err(EngineError::Refused { code, .. }) if code == RIGHTS => return Ok(checked),
        Ok(WhoAmI { tags }) if !tags.iter().any(|tag| tag == TAG) => return Ok(checked),
        other => other.map(drop)?,
    }
    checked.missing.clear();
    let Overview { rabbitmq_version } =
        api.get(config, Path::new(&["api", "overview"])?.with("columns", "rabbitmq_version")).await?;
    checked.server_version = version(&rabbitmq_version);
    if checked.server_version < OLDEST {
        let message = "RabbitMQ before 3.10: how its sessions are told from each other is not known".to_owned();
        return Err(EngineError::Refused { code: "VERSION".to_owned(), message });
    }
    let nodes: Vec<Node> = api.get(config, api::nodes()?).await?;
    checked.timeline = starts.number(&nodes);
    checked.unseen = unseen(&nodes);
    for node in nodes.iter().filter(|node| node.running && node.os_pid.is_empty()) {
        let reason = "it has just started, and says nothing of itself yet: ask again".to_owned();
        checked.unseen.push(Fault { name: node.name.clone(), reason });
    }
    let free = nodes.iter().map(|node| node.sockets_total).fold(0u32, u32::saturating_add);
    // None is kept for administrators.
    checked.slots = Slots { free, kept: None };
    if nodes.iter().any(|node| node.enabled_plugins.iter().any(|plugin| plugin == CACHE)) {
        checked.missing.push(missing(format!("rabbitmq-plugins disable {CACHE}")));
    }
    // It needs none: whoever has its password would have the messages too, without a step that shows.
    let path = Path::new(&["api", "users", &config.user, "permissions"])?;
    for Grant { vhost, .. } in api.get::<Vec<Grant>>(config, path).await? {
        checked.missing.push(missing(format!(
            "rabbitmqctl clear_permissions -p {} {}",
            word(&vhost),
            word(&config.user)
        )));
    }
    let vhosts: Vec<Named> = api.get(config, Path::new(&["api", "vhosts"])?.with("columns", "name")).await?;
    let there: BTreeSet<&str> = vhosts.iter().map(|vhost| vhost.name.as_str()).collect();
    let wanted: BTreeSet<String> = groups.iter().filter_map(|group| vhost_of(group).ok().flatten()).collect();
    for vhost in wanted.iter().filter(|vhost| !there.contains(vhost.as_str())) {
        checked.missing.push(missing(format!("rabbitmqctl add_vhost {}", word(vhost))));
    }
    Ok(checked)
}

/// What is known of a server at which we may not even ask.
fn nothing(config: &RabbitMqConfig, groups: &[String]) -> Checked {
    let unfit = |group: &String| {
        let reason = vhost_of(group).err()?.to_owned();
        Some(Fault { name: group.clone(), reason })
    };
    Checked {
        server_version: 0,
        timeline: 0,
        endpoints: vec![config.endpoint.to_string()],
        standbys: Vec::new(),
        unseen: Vec::new(),
        databases: Vec::new(),
        slots: Slots { free: 0, kept: None },
        unfit: groups.iter().filter_map(unfit).collect(),
        missing: vec![missing(format!("rabbitmqctl set_user_tags {} {TAG}", word(&config.user)))],
    }
}

fn missing(statement: String) -> Missing {
    Missing { database: String::new(), statement }
}

/// One word for a shell.
fn word(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'/' | b'.');
    if !text.starts_with('-') && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// 3.10.8 is 31008.
fn version(text: &str) -> u32 {
    let part = |n: usize| text.split(['.', '-', '+']).nth(n).and_then(|p| p.parse::<u32>().ok()).unwrap_or(0);
    part(0).saturating_mul(10_000) + part(1).min(99) * 100 + part(2).min(99)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let read = ["3.10.8", "3.8.2-rc.1", "4.1.0+2", ""].map(version);
        assert_eq!(read, [31_008, 30_802, 40_100, 0]);
    }

    #[test]
    fn a_word_is_one_word() {
        assert_eq!(
            ["/", "a-b", "a b", "$(x)", "it's", "-p"].map(word),
            ["/", "a-b", "'a b'", "'$(x)'", "'it'\\''s'", "'-p'"]
        );
    }
}
