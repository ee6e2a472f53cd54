//! The server's accounts: making them, refusing them, removing them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::RabbitMqConfig;
use super::api::{self, Account, Api, Client, Grant, Node};
use super::rules::{Permission, Rights, Topic};
use super::session::Session;
use crate::engine::Create;
use crate::http::{Path, Request};
use crate::{
    Cleaned, Cleaning, Created, EngineError, Fault, Ghost, Principal, Refusal, Refused, Seen, number_of, valid_name,
};

/// Up to how many accounts are asked for one by one; of more, all that there are are asked for at once.
const FEW: usize = 8;
/// Plugins by which others than the server's own accounts can log in.
const OTHER_ACCOUNTS: [&str; 3] =
    ["rabbitmq_auth_backend_ldap", "rabbitmq_auth_backend_http", "rabbitmq_auth_backend_oauth2"];

/// See [`crate::Engine::create`]. `rights` were understood before.
///
/// The account comes first and its permissions last, each let in by the server for an account only that there is. So what is delivered after the
/// account was removed has no effect; and an account that is made too late, which the server does for whoever asks, lets into no virtual host.
pub(super) async fn create(
    session: &Session,
    api: &Api,
    create: &Create,
    rights: &Rights,
) -> Result<Created, EngineError> {
    let name = create.name.as_str();
    let body = api::account(&create.verifier, "");
    session.call(api, Request::put(api::user(name)?).json(api::bytes(&body))).await?;
    match grant(session, api, create, rights).await {
        Ok(()) => Ok(Created::by_client(number_of(name))),
        // Then there is to be no effect.
        Err(error @ (EngineError::Refused { .. } | EngineError::Busy { .. })) => {
            let undone = session.call(api, Request::delete(api::user(name)?)).await;
            Err(match api::removed(undone) {
                Ok(_) => error,
                Err(_) => EngineError::Unknown { reason: format!("{error}; and it could not be undone") },
            })
        }
        Err(EngineError::StaleBinding) => {
            Err(EngineError::Unknown { reason: "the session was ended meanwhile".to_owned() })
        }
        Err(error) => Err(error),
    }
}

/// Its limits, then what it may do with topics, and then what lets it in.
async fn grant(session: &Session, api: &Api, create: &Create, rights: &Rights) -> Result<(), EngineError> {
    let name = create.name.as_str();
    let channels = rights.channels.map(|channels| ("max-channels", i64::from(channels)));
    for (limit, value) in
        [Some(("max-connections", i64::from(create.connection_limit))), channels].into_iter().flatten()
    {
        let path = Path::new(&["api", "user-limits", name, limit])?;
        session.call(api, Request::put(path).json(api::bytes(&json!({ "value": value })))).await?;
    }
    for Topic { vhost, exchange, write, read } in &rights.topics {
        let path = Path::new(&["api", "topic-permissions", vhost, name])?;
        let body = json!({ "exchange": exchange, "write": write, "read": read });
        session.call(api, Request::put(path).json(api::bytes(&body))).await?;
    }
    for Permission { vhost, configure, write, read } in &rights.permissions {
        let body = json!({ "configure": configure, "write": write, "read": read });
        session.call(api, Request::put(api::permission(vhost, name)?).json(api::bytes(&body))).await?;
    }
    Ok(())
}

/// See [`crate::Engine::refuse`].
///
/// To remove an account ends its connections too, sooner or later and by the server itself. So it stays, without a password and without a virtual
/// host, until its sessions are known to have ended.
pub(super) async fn refuse(
    api: &Api,
    config: &RabbitMqConfig,
    principals: &[Principal],
) -> Result<Vec<Refused>, EngineError> {
    let accounts = accounts(api, config, principals).await?;
    let mut granted = grants(api, config, principals).await?;
    let mut all = Vec::with_capacity(principals.len());
    for Principal { name, .. } in principals {
        let Some(account) = accounts.get(name) else {
            all.push(Refused { name: name.clone(), oid: None, outcome: Refusal::Absent });
            continue;
        };
        let vhosts = granted.remove(name).unwrap_or_default();
        let outcome = match disable(api, config, account, &vhosts).await {
            Ok(()) => Refusal::Disabled { groups_left: Vec::new() },
            Err(error @ EngineError::Unavailable { .. }) => return Err(error),
            Err(error) => Refusal::Failed(error),
        };
        all.push(Refused { name: name.clone(), oid: Some(number_of(name)), outcome });
    }
    Ok(all)
}

async fn disable(api: &Api, config: &RabbitMqConfig, account: &Account, vhosts: &[String]) -> Result<(), EngineError> {
    if !account.is_mark() {
        api.put(config, api::user(&account.name)?, &api::account("", "")).await?;
    }
    // Who has given the right password and not yet said where to would be let in.
    for vhost in vhosts {
        api.remove(config, api::permission(vhost, &account.name)?).await?;
    }
    Ok(())
}

/// The virtual hosts that each may enter.
async fn grants(
    api: &Api,
    config: &RabbitMqConfig,
    principals: &[Principal],
) -> Result<BTreeMap<String, Vec<String>>, EngineError> {
    let mut found: Vec<Grant> = Vec::new();
    if principals.len() > FEW {
        found = api.get(config, Path::new(&["api", "permissions"])?).await?;
    } else {
        for Principal { name, .. } in principals {
            let path = Path::new(&["api", "users", name, "permissions"])?;
            found.extend(api.find::<Vec<Grant>>(config, path).await?.unwrap_or_default());
        }
    }
    let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Grant { user, vhost } in found {
        by_name.entry(user).or_default().push(vhost);
    }
    Ok(by_name)
}

/// See [`crate::Engine::kill`].
pub(super) async fn kill(api: &Api, config: &RabbitMqConfig, principals: &[Principal]) -> Result<usize, EngineError> {
    let mut killed = 0;
    for (name, count) in sessions(api, config, principals).await? {
        // Whatever it is that they speak, and whether there is an account of that name or not.
        api.remove(config, api::connections_of(&name)?).await?;
        killed += count;
    }
    Ok(killed)
}

/// How many sessions each has, where it has any.
async fn sessions(
    api: &Api,
    config: &RabbitMqConfig,
    principals: &[Principal],
) -> Result<BTreeMap<String, usize>, EngineError> {
    let mut counted = BTreeMap::new();
    if principals.len() > FEW {
        let names: BTreeSet<&str> = principals.iter().map(|p| p.name.as_str()).collect();
        for client in clients(api, config).await?.into_iter().filter(|client| names.contains(client.user.as_str())) {
            *counted.entry(client.user).or_insert(0_usize) += 1;
        }
        return Ok(counted);
    }
    for Principal { name, .. } in principals {
        let theirs: Vec<Client> = api.get(config, api::connections_of(name)?).await?;
        if !theirs.is_empty() {
            counted.insert(name.clone(), theirs.len());
        }
    }
    Ok(counted)
}

async fn clients(api: &Api, config: &RabbitMqConfig) -> Result<Vec<Client>, EngineError> {
    api.get(config, api::connections()?).await
}

/// See [`crate::Engine::look`].
pub(super) async fn look(
    api: &Api,
    config: &RabbitMqConfig,
    endpoint: &str,
    principals: &[Principal],
) -> Result<Vec<Seen>, EngineError> {
    if principals.is_empty() {
        return Ok(Vec::new());
    }
    // In this order: who was let in before the account was read is among the connections that are listed after.
    let accounts = accounts(api, config, principals).await?;
    let sessions = sessions(api, config, principals).await?;
    let unseen = unseen(&api.get::<Vec<Node>>(config, api::nodes()?).await?);
    let look = |principal: &Principal| {
        let account = accounts.get(&principal.name);
        let can_login = account.is_some_and(|account| !account.is_mark());
        let mut seen = Seen {
            name: principal.name.clone(),
            oid: account.map(|account| number_of(&account.name)),
            can_login,
            login_at: if can_login { vec![endpoint.to_owned()] } else { Vec::new() },
            behind: Vec::new(),
            sessions: sessions.get(&principal.name).map_or(0, |n| u64::try_from(*n).unwrap_or(u64::MAX)),
            held_by: None,
        };
        unseen.iter().for_each(|why| seen.doubt(why));
        seen
    };
    Ok(principals.iter().map(look).collect())
}

/// The servers of the cluster whose sessions are not seen.
pub(super) fn unseen(nodes: &[Node]) -> Vec<Fault> {
    let fault = |node: &Node| {
        let reason = match (node.running, node.partitions.as_slice()) {
            (false, _) => "it does not run, or can't be reached by the others".to_owned(),
            (true, []) => return None,
            (true, others) => format!("it was cut off from {}", others.join(", ")),
        };
        Some(Fault { name: node.name.clone(), reason })
    };
    nodes.iter().filter_map(fault).collect()
}

/// See [`crate::Engine::clean`]. Accounts own nothing: queues and exchanges are their virtual host's.
pub(super) async fn clean(
    api: &Api,
    config: &RabbitMqConfig,
    principals: &[Principal],
) -> Result<Vec<Cleaned>, EngineError> {
    for Principal { name, .. } in principals {
        api.remove(config, api::user(name)?).await?;
    }
    Ok(principals.iter().map(|p| Cleaned { name: p.name.clone(), outcome: Cleaning::Gone }).collect())
}

/// The names of ours that start so, in order. What only begins like one of ours is somebody else's.
pub(super) async fn names(api: &Api, config: &RabbitMqConfig, prefix: &str) -> Result<Vec<String>, EngineError> {
    let all: Vec<Account> = api.get(config, api::users()?).await?;
    let ours = |name: &String| name.starts_with(prefix) && valid_name(name);
    let mut names: Vec<String> = all.into_iter().map(|account| account.name).filter(ours).collect();
    names.sort();
    Ok(names)
}

/// See [`crate::Engine::list`].
pub(super) async fn list(api: &Api, config: &RabbitMqConfig, prefix: &str) -> Result<Vec<Principal>, EngineError> {
    let principal = |name: String| Principal { oid: Some(number_of(&name)), name };
    Ok(names(api, config, prefix).await?.into_iter().map(principal).collect())
}

/// See [`crate::Engine::ghosts`].
pub(super) async fn ghosts(
    api: &Api,
    config: &RabbitMqConfig,
    endpoint: &str,
) -> Result<(Vec<Ghost>, Vec<Fault>), EngineError> {
    let nodes: Vec<Node> = api.get(config, api::nodes()?).await?;
    let mut faults = unseen(&nodes);
    if nodes.iter().flat_map(|node| &node.enabled_plugins).any(|plugin| OTHER_ACCOUNTS.contains(&plugin.as_str())) {
        let reason = "others than its own accounts can log in: whose sessions have none can't be told".to_owned();
        faults.push(Fault { name: endpoint.to_owned(), reason });
        return Ok((Vec::new(), faults));
    }
    // In this order: whoever was let in has an account by then, or none any more.
    let clients = clients(api, config).await?;
    let all: Vec<Account> = api.get(config, api::users()?).await?;
    let names: BTreeSet<&str> = all.iter().map(|account| account.name.as_str()).collect();
    let ghost = |client: &Client| Ghost {
        endpoint: endpoint.to_owned(),
        pid: i32::try_from(number_of(&client.name) & 0x7fff_ffff).unwrap_or(i32::MAX),
        oid: number_of(&client.user),
    };
    let lost = |client: &&Client| !client.user.is_empty() && !names.contains(client.user.as_str());
    Ok((clients.iter().filter(lost).map(ghost).collect(), faults))
}

/// See [`crate::Engine::claim`].
pub(super) async fn claim(
    session: &Session,
    api: &Api,
    config: &RabbitMqConfig,
    name: &str,
) -> Result<(), EngineError> {
    if api.find::<Account>(config, api::user(name)?).await?.is_some() {
        return Err(EngineError::Duplicate);
    }
    let request = Request::put(api::user(name)?).json(api::bytes(&api::account("", "")));
    match api::repeatable(session.call(api, request).await) {
        // 204 says that there was one.
        Ok(answer) if answer.status == 201 => Ok(()),
        Ok(_) => Err(EngineError::Duplicate),
        // And so does this, when two make it at once.
        Err(EngineError::Refused { message, .. }) if message.ends_with("user_already_exists") => {
            Err(EngineError::Duplicate)
        }
        Err(error) => Err(error),
    }
}

/// See [`crate::Engine::disclaim`].
pub(super) async fn disclaim(api: &Api, config: &RabbitMqConfig, names: &[String]) -> Result<Vec<String>, EngineError> {
    let mut left = Vec::new();
    for name in names {
        match api.find::<Account>(config, api::user(name)?).await? {
            None => {}
            Some(account) if account.is_mark() => {
                api.remove(config, api::user(name)?).await?;
            }
            Some(_) => left.push(name.clone()),
        }
    }
    Ok(left)
}

/// See [`crate::Engine::set_password`].
pub(super) async fn set_password(
    session: &Session,
    api: &Api,
    config: &RabbitMqConfig,
    verifier: &str,
) -> Result<(), EngineError> {
    // What is not said of an account it loses.
    let account: Account = api.get(config, api::user(&config.user)?).await?;
    let body = api::account(verifier, &account.tags.join(","));
    let request = Request::put(api::user(&config.user)?).json(api::bytes(&body));
    api::repeatable(session.call(api, request).await).map(drop)
}

/// Those that there are, by name.
async fn accounts(
    api: &Api,
    config: &RabbitMqConfig,
    principals: &[Principal],
) -> Result<BTreeMap<String, Account>, EngineError> {
    let mut found = BTreeMap::new();
    if principals.len() > FEW {
        let all: Vec<Account> = api.get(config, api::users()?).await?;
        let names: BTreeSet<&str> = principals.iter().map(|p| p.name.as_str()).collect();
        for account in all.into_iter().filter(|account| names.contains(account.name.as_str())) {
            found.insert(account.name.clone(), account);
        }
        return Ok(found);
    }
    for Principal { name, .. } in principals {
        if let Some(account) = api.find::<Account>(config, api::user(name)?).await? {
            found.insert(account.name.clone(), account);
        }
    }
    Ok(found)
}
