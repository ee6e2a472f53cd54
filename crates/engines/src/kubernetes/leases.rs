//! The leases' Secrets: making them and their tokens, removing them, looking for them.

use std::collections::BTreeMap;

use super::api::{self, Api, CONFLICT};
use super::object::{self, Kind, Secret, is_ours, secret_name};
use super::rules::Wanted;
use super::session::Bound;
use super::{KubernetesConfig, ended::Ended, token};
use crate::engine::Create;
use crate::http::Request;
use crate::{Cleaned, Cleaning, Created, EngineError, Fault, Principal, Refusal, Refused, Seen};

/// Up to how many Secrets are asked for one by one; of more, all that there are are asked for at once.
const FEW: usize = 8;

/// See [`crate::Engine::create`]. `wanted` was understood before.
///
/// In this order: a Secret without a token lets nobody in, and no token is asked for before the session was seen to be there after it.
pub(super) async fn create(
    mut session: Bound<'_>,
    api: &Api,
    config: &KubernetesConfig,
    create: &Create,
    wanted: &Wanted,
) -> Result<Created, EngineError> {
    let name = secret_name(&create.name)?;
    let body = object::secret(Kind::Lease, &name, &config.target, &create.name, Some(&wanted.account));
    let secret = match api.make(config, &body).await {
        Err(error) if api::is(&error, CONFLICT) => return Err(EngineError::Duplicate),
        other => other?,
    };
    let issued = async {
        session.still(api, config).await?;
        let seconds = token::life(create.max_ttl_seconds);
        let request = Request::post(api::token_path(config, &wanted.account)?)
            .json(api::bytes(&token::request(wanted, &secret, seconds)));
        let answered = api::read(&api.call(config, request).await?)?;
        token::issued(answered, wanted, &secret, &config.namespace, seconds).map_err(|why| EngineError::Refused {
            code: "token".to_owned(),
            message: format!("what the target issued is not handed on: {why}"),
        })
    };
    let error = match issued.await {
        Ok(issued) => return Ok(Created { oid: secret.number(), issued: Some(issued) }),
        Err(error) => error,
    };
    if !matches!(error, EngineError::StaleBinding | EngineError::Refused { .. } | EngineError::Busy { .. }) {
        return Err(error);
    }
    // Then there is to be no effect.
    match api.remove(config, &secret).await {
        // Somebody has ended it meanwhile, and that is why.
        Ok(false) => Err(EngineError::StaleBinding),
        Ok(true) => Err(error),
        Err(why) => Err(EngineError::Unknown { reason: format!("{error}; and it could not be undone: {why}") }),
    }
}

/// The lease's or mark's Secret of that name, if there is one. What else may have the name is not ours, and no token of ours is bound to it.
pub(super) async fn find(api: &Api, config: &KubernetesConfig, name: &str) -> Result<Option<Secret>, EngineError> {
    Ok(api.secret(config, &secret_name(name)?).await?.filter(ours))
}

fn ours(secret: &Secret) -> bool {
    secret.is(Kind::Lease) || secret.is(Kind::Claim)
}

/// Those that there are, by the name of the principal.
async fn found(
    api: &Api,
    config: &KubernetesConfig,
    principals: &[Principal],
) -> Result<BTreeMap<String, Secret>, EngineError> {
    let mut found = BTreeMap::new();
    if principals.len() > FEW {
        for kind in [Kind::Lease, Kind::Claim] {
            let all = api.all(config, kind).await?;
            found.extend(all.into_iter().filter_map(|secret| Some((secret.principal()?, secret))));
        }
        return Ok(found);
    }
    for Principal { name, .. } in principals {
        if let Some(secret) = find(api, config, name).await? {
            found.insert(name.clone(), secret);
        }
    }
    Ok(found)
}

/// See [`crate::Engine::refuse`].
pub(super) async fn refuse(
    api: &Api,
    config: &KubernetesConfig,
    ended: &Ended,
    principals: &[Principal],
) -> Result<Vec<Refused>, EngineError> {
    let found = found(api, config, principals).await?;
    let mut all = Vec::with_capacity(principals.len());
    for Principal { name, .. } in principals {
        let (oid, outcome) = match found.get(name) {
            None => (None, Refusal::Absent),
            // A mark: there is no token of it.
            Some(secret) if secret.is(Kind::Claim) => {
                (Some(secret.number()), Refusal::Disabled { groups_left: Vec::new() })
            }
            Some(secret) => {
                let outcome = match api.remove(config, secret).await {
                    Ok(_) => Refusal::Dropped,
                    Err(error @ EngineError::Unavailable { .. }) => return Err(error),
                    Err(error) => Refusal::Failed(error),
                };
                (Some(secret.number()), outcome)
            }
        };
        if matches!(outcome, Refusal::Dropped | Refusal::Absent) {
            ended.is_gone(name);
        }
        all.push(Refused { name: name.clone(), oid, outcome });
    }
    Ok(all)
}

/// See [`crate::Engine::look`].
pub(super) async fn look(
    api: &Api,
    config: &KubernetesConfig,
    ended: &Ended,
    principals: &[Principal],
) -> Result<Vec<Seen>, EngineError> {
    if principals.is_empty() {
        return Ok(Vec::new());
    }
    let (found, endpoint) = (found(api, config, principals).await?, config.endpoint.to_string());
    let look = |Principal { name, .. }: &Principal| {
        let secret = found.get(name);
        let can_login = secret.is_some_and(|secret| secret.is(Kind::Lease));
        let mut seen = Seen {
            name: name.clone(),
            oid: secret.map(Secret::number),
            can_login,
            login_at: if can_login { vec![endpoint.clone()] } else { Vec::new() },
            behind: Vec::new(),
            // It says of nobody's connections.
            sessions: 0,
            held_by: None,
        };
        if can_login {
            ended.is_there(name);
        } else if secret.is_none()
            && let Some(left) = ended.is_gone(name)
        {
            let seconds = left.as_secs() + 1;
            let reason = format!("its API servers may still let in whom they let in before: for {seconds} s yet");
            seen.doubt(&Fault { name: endpoint.clone(), reason });
        }
        seen
    };
    Ok(principals.iter().map(look).collect())
}

/// See [`crate::Engine::clean`]. A token owns nothing: what was made with it is the cluster's.
pub(super) async fn clean(
    api: &Api,
    config: &KubernetesConfig,
    principals: &[Principal],
) -> Result<Vec<Cleaned>, EngineError> {
    let found = found(api, config, principals).await?;
    let mut all = Vec::with_capacity(principals.len());
    for Principal { name, .. } in principals {
        let outcome = match found.get(name) {
            None => Cleaning::Gone,
            Some(secret) => match api.remove(config, secret).await {
                Ok(_) => Cleaning::Gone,
                Err(error @ EngineError::Unavailable { .. }) => return Err(error),
                Err(error) => Cleaning::Left { databases: Vec::new(), reason: Some(error.to_string()) },
            },
        };
        all.push(Cleaned { name: name.clone(), outcome });
    }
    Ok(all)
}

/// See [`crate::Engine::list`].
pub(super) async fn list(api: &Api, config: &KubernetesConfig, prefix: &str) -> Result<Vec<Principal>, EngineError> {
    let all = api.all(config, Kind::Lease).await?;
    let principal = |secret: &Secret| {
        let name = secret.principal().filter(|name| is_ours(name, prefix))?;
        Some(Principal { name, oid: Some(secret.number()) })
    };
    let mut list: Vec<Principal> = all.iter().filter_map(principal).collect();
    list.sort();
    Ok(list)
}

/// See [`crate::Engine::claims`].
pub(super) async fn claims(api: &Api, config: &KubernetesConfig, prefix: &str) -> Result<Vec<String>, EngineError> {
    let mut names = Vec::new();
    for kind in [Kind::Claim, Kind::Lease] {
        let all = api.all(config, kind).await?;
        names.extend(all.iter().filter_map(Secret::principal).filter(|name| is_ours(name, prefix)));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// See [`crate::Engine::claim`].
pub(super) async fn claim(api: &Api, config: &KubernetesConfig, name: &str) -> Result<(), EngineError> {
    let body = object::secret(Kind::Claim, &secret_name(name)?, &config.target, name, None);
    match api::repeatable(api.make(config, &body).await) {
        Err(error) if api::is(&error, CONFLICT) => Err(EngineError::Duplicate),
        other => other.map(drop),
    }
}

/// See [`crate::Engine::disclaim`].
pub(super) async fn disclaim(
    api: &Api,
    config: &KubernetesConfig,
    names: &[String],
) -> Result<Vec<String>, EngineError> {
    let mut left = Vec::new();
    for name in names {
        match api.secret(config, &secret_name(name)?).await? {
            None => {}
            Some(secret) if secret.is(Kind::Claim) => {
                api.remove(config, &secret).await?;
            }
            Some(_) => left.push(name.clone()),
        }
    }
    Ok(left)
}
