//! Ending: the fence of a create, refusing, and what a look shows.

use std::collections::{BTreeMap, BTreeSet};

use super::Aws;
use super::account::{self, ENDED, INSTANTS, Mark, cut_at, cut_session, cut_user};
use super::api::{Query, is_absent, repeatable, unreadable};
use super::bound::last_signed;
use super::issue::instant_text;
use super::xml::Node;
use crate::{Binding, EngineError, Fault, Fenced, Principal, Refusal, Refused, Seen, valid_name};

/// Up to how many users are asked for one by one; of more, all that are ours are listed.
const FEW: usize = 8;

/// A user that has a name of ours.
#[derive(Clone, Debug)]
pub(super) enum Holder {
    Ours(Mark),
    /// Of another path.
    Other(String),
}

fn holder(aws: &Aws, user: &Node) -> Option<Holder> {
    let path = user.text(&["Path"])?;
    Some(Mark::of(path, &aws.config.target).map_or_else(|| Holder::Other(path.to_owned()), Holder::Ours))
}

/// Who has a name.
pub(super) async fn find(aws: &Aws, name: &str) -> Result<Option<Holder>, EngineError> {
    let Some(said) = aws.ends.iam.find(&aws.config, Query::iam("GetUser").with("UserName", name)).await? else {
        return Ok(None);
    };
    let user = said.root.at(&["GetUserResult", "User"]).filter(|user| user.text(&["UserName"]) == Some(name));
    user.and_then(|user| holder(aws, user)).map(Some).ok_or_else(unreadable)
}

/// All users of ours at this target, by name.
pub(super) async fn all(aws: &Aws) -> Result<BTreeMap<String, Mark>, EngineError> {
    let query = Query::iam("ListUsers").with("PathPrefix", &account::base(&aws.config.target));
    let entry = |user: &Node| Some((user.text(&["UserName"])?.to_owned(), holder(aws, user)?));
    let users = aws.ends.iam.list(&aws.config, query, ["ListUsersResult", "Users"], entry).await?;
    let ours = users.into_iter().filter_map(|(name, holder)| match holder {
        Holder::Ours(mark) if valid_name(&name) => Some((name, mark)),
        Holder::Ours(_) | Holder::Other(_) => None,
    });
    Ok(ours.collect())
}

/// Who has these names.
async fn holders(aws: &Aws, principals: &[Principal]) -> Result<BTreeMap<String, Holder>, EngineError> {
    let names: BTreeSet<&String> = principals.iter().map(|p| &p.name).collect();
    let mut found = BTreeMap::new();
    if names.len() > FEW {
        let mut all = all(aws).await?;
        for name in &names {
            if let Some(mark) = all.remove(*name) {
                found.insert((*name).clone(), Holder::Ours(mark));
            }
        }
        // A list lags behind a single answer, and does not show who is not of our path.
    }
    for name in names {
        if !found.contains_key(name)
            && let Some(holder) = find(aws, name).await?
        {
            found.insert(name.clone(), holder);
        }
    }
    Ok(found)
}

/// See [`crate::Engine::fence`].
///
/// The name decides: of all requests that make a user of a name, the service does one. When it is ours, the create's own fails whenever it
/// arrives, as long as the name is kept, which is until the service takes nothing any more that is signed for the binding.
pub(super) async fn fence(aws: &Aws, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
    // In the account in which the create was.
    let now = aws.now_as_executor(&aws.ends).await?;
    let fence = Mark::Fence { until: last_signed(binding) };
    let ours = [("quorate-target", aws.config.target.as_str())];
    let path = fence.path(&aws.config.target);
    let take = Query::iam("CreateUser").with("UserName", name).with("Path", &path).tagged(ours);
    match repeatable(aws.ends.iam.call(&aws.config, &take).await) {
        Ok(_) => return Ok(Fenced::Absent),
        Err(EngineError::Duplicate) => {}
        Err(error) => return Err(error),
    }
    match find(aws, name).await? {
        Some(Holder::Ours(Mark::Fence { .. })) => Ok(Fenced::Absent),
        Some(Holder::Ours(mark @ (Mark::User | Mark::Session { .. }))) => {
            // Its next request may be under way. A key that comes yet is good for nothing, and the create that made it sees this and hands it out to nobody.
            cut(aws, name, now).await?;
            Ok(Fenced::Won { oid: mark.number(name) })
        }
        Some(Holder::Ours(Mark::Claim)) => Err(EngineError::Refused {
            code: "EntityAlreadyExists".to_owned(),
            message: "a claim has that name: a person has to look".to_owned(),
        }),
        Some(Holder::Other(path)) => Err(others(&path)),
        None => Err(EngineError::Busy {
            code: "EntityAlreadyExists".to_owned(),
            message: "a user of that name is not shown yet, or is gone by now".to_owned(),
        }),
    }
}

fn others(path: &str) -> EngineError {
    let message = format!("a user of that name is not ours, but of the path {path}: a person has to look");
    EngineError::Refused { code: "EntityAlreadyExists".to_owned(), message }
}

/// See [`crate::Engine::refuse`].
pub(super) async fn refuse(aws: &Aws, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
    let now = aws.now_as_executor(&aws.ends).await?;
    let holders = holders(aws, principals).await?;
    let mut all = Vec::with_capacity(principals.len());
    for Principal { name, oid } in principals {
        let (oid, done) = match holders.get(name) {
            None | Some(Holder::Ours(Mark::Fence { .. })) => (None, None),
            Some(Holder::Other(path)) => (None, Some(Err(others(path)))),
            Some(Holder::Ours(Mark::User)) => (Some(account::number(name)), Some(disable(aws, name, now).await)),
            Some(Holder::Ours(mark @ Mark::Claim)) => (Some(mark.number(name)), Some(delete_keys(aws, name).await)),
            Some(Holder::Ours(Mark::Session { until, role })) => {
                let ends = ends_at(*oid, *until);
                let done = match role {
                    Some(role) if now <= ends => cut_off(aws, role, name, now).await,
                    Some(_) | None => Ok(()),
                };
                (Some(account::instant(ends)), Some(done))
            }
        };
        let outcome = match done {
            None => Refusal::Absent,
            Some(Ok(())) => Refusal::Disabled { groups_left: Vec::new() },
            Some(Err(error @ EngineError::Unavailable { .. })) => return Err(error),
            Some(Err(error)) => Refusal::Failed(error),
        };
        all.push(Refused { name: name.clone(), oid, outcome });
    }
    Ok(all)
}

/// First what makes all that it has good for nothing, sessions that it has made with its key among it; then its keys.
async fn disable(aws: &Aws, name: &str, now: u64) -> Result<(), EngineError> {
    let cut = cut(aws, name, now).await;
    delete_keys(aws, name).await?;
    cut
}

/// Denies a user everything, unless it is.
pub(super) async fn cut(aws: &Aws, name: &str, now: u64) -> Result<(), EngineError> {
    if cut_since(aws, name).await?.is_some_and(|at| at <= now) {
        return Ok(());
    }
    let query = Query::iam("PutUserPolicy").with("UserName", name).with("PolicyName", ENDED);
    aws.ends.iam.ask(&aws.config, query.with("PolicyDocument", &cut_user(now).to_string())).await.map(drop)
}

/// Since when a user is denied everything.
pub(super) async fn cut_since(aws: &Aws, name: &str) -> Result<Option<u64>, EngineError> {
    let query = Query::iam("GetUserPolicy").with("UserName", name).with("PolicyName", ENDED);
    let Some(said) = aws.ends.iam.find(&aws.config, query).await? else { return Ok(None) };
    let document = said.root.text(&["GetUserPolicyResult", "PolicyDocument"]).ok_or_else(unreadable)?;
    Ok(cut_at(document, cut_user))
}

pub(super) async fn delete_keys(aws: &Aws, name: &str) -> Result<(), EngineError> {
    for id in keys(aws, name).await? {
        // One that is only deactivated can be activated again.
        let query = Query::iam("DeleteAccessKey").with("UserName", name).with("AccessKeyId", &id);
        aws.ends.iam.find(&aws.config, query).await?;
    }
    Ok(())
}

/// Of whatever status.
pub(super) async fn keys(aws: &Aws, name: &str) -> Result<Vec<String>, EngineError> {
    let query = Query::iam("ListAccessKeys").with("UserName", name);
    let id = |key: &Node| key.text(&["AccessKeyId"]).map(str::to_owned);
    match aws.ends.iam.list(&aws.config, query, ["ListAccessKeysResult", "AccessKeyMetadata"], id).await {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        other => other,
    }
}

/// The name of the inline policy of a role by which the sessions of a name are cut off.
pub(super) fn policy_of(name: &str) -> String {
    format!("{ENDED}-{name}")
}

/// Cuts the sessions of a name off, unless they are.
async fn cut_off(aws: &Aws, role: &str, name: &str, now: u64) -> Result<(), EngineError> {
    if cut_off_since(aws, role, name).await?.is_some_and(|at| at <= now) {
        return Ok(());
    }
    let query = Query::iam("PutRolePolicy").with("RoleName", role).with("PolicyName", &policy_of(name));
    aws.ends.iam.ask(&aws.config, query.with("PolicyDocument", &cut_session(now, name).to_string())).await.map(drop)
}

/// Since when they are.
async fn cut_off_since(aws: &Aws, role: &str, name: &str) -> Result<Option<u64>, EngineError> {
    let query = Query::iam("GetRolePolicy").with("RoleName", role).with("PolicyName", &policy_of(name));
    let Some(said) = aws.ends.iam.find(&aws.config, query).await? else { return Ok(None) };
    let document = said.root.text(&["GetRolePolicyResult", "PolicyDocument"]).ok_or_else(unreadable)?;
    Ok(cut_at(document, |at| cut_session(at, name)))
}

/// When a session ends: as its lease has recorded it, or at the latest.
pub(super) fn ends_at(asked: Option<u32>, until: u64) -> u64 {
    asked.filter(|number| *number >= INSTANTS).map(u64::from).filter(|ends| *ends <= until).unwrap_or(until)
}

/// See [`crate::Engine::look`].
pub(super) async fn look(aws: &Aws, endpoint: &str, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
    if principals.is_empty() {
        return Ok(Vec::new());
    }
    // In another account nobody is ours, and everybody would be gone.
    let now = aws.now_as_executor(&aws.ends).await?;
    let holders = holders(aws, principals).await?;
    let mut all = Vec::with_capacity(principals.len());
    for principal in principals {
        let look = Look { aws, endpoint, now, principal };
        all.push(look.at(holders.get(&principal.name)).await?);
    }
    Ok(all)
}

struct Look<'a> {
    aws: &'a Aws,
    endpoint: &'a str,
    now: u64,
    principal: &'a Principal,
}

impl Look<'_> {
    async fn at(&self, holder: Option<&Holder>) -> Result<Seen, EngineError> {
        let Principal { name, oid } = self.principal;
        let nothing = Seen {
            name: name.clone(),
            oid: None,
            can_login: false,
            login_at: Vec::new(),
            behind: Vec::new(),
            sessions: 0,
            held_by: None,
        };
        let seen = |number| Seen { oid: Some(number), ..nothing.clone() };
        Ok(match holder {
            None => {
                // Somebody has removed what it was known by.
                let ends = oid.filter(|ends| *ends >= INSTANTS && u64::from(*ends) >= self.now);
                match ends {
                    Some(ends) => self.doubted(nothing, &dies_at(u64::from(ends))),
                    None => nothing,
                }
            }
            // It can't log in, and is nobody.
            Some(Holder::Ours(Mark::Fence { .. })) => nothing,
            Some(Holder::Other(path)) => self.doubted(nothing, &others(path).to_string()),
            Some(Holder::Ours(Mark::Claim)) => {
                let seen = seen(account::number(name));
                if keys(self.aws, name).await?.is_empty() { seen } else { self.may_log_in(seen) }
            }
            Some(Holder::Ours(Mark::User)) => {
                // In this order: what is cut off can't make itself a key.
                let cut = cut_since(self.aws, name).await?;
                let cut = if keys(self.aws, name).await?.is_empty() { cut } else { None };
                self.since(seen(account::number(name)), cut)
            }
            Some(Holder::Ours(Mark::Session { until, role })) => {
                let ends = ends_at(*oid, *until);
                let seen = seen(account::instant(ends));
                match role {
                    _ if self.now > ends => seen,
                    Some(role) => self.since(seen, cut_off_since(self.aws, role, name).await?),
                    None => self.doubted(seen, &dies_at(ends)),
                }
            }
        })
    }

    /// The services tell all their servers of a change, within seconds.
    fn since(&self, seen: Seen, cut: Option<u64>) -> Seen {
        let settled = |at: u64| at.saturating_add(self.aws.config.propagation.as_secs());
        match cut {
            None => self.may_log_in(seen),
            Some(at) if self.now < settled(at) => {
                let until = instant_text(settled(at));
                self.doubted(seen, &format!("refused just now, which is not known everywhere at once: until {until}"))
            }
            Some(_) => seen,
        }
    }

    fn may_log_in(&self, seen: Seen) -> Seen {
        Seen { can_login: true, login_at: vec![self.endpoint.to_owned()], ..seen }
    }

    fn doubted(&self, mut seen: Seen, reason: &str) -> Seen {
        seen.doubt(&Fault { name: self.endpoint.to_owned(), reason: reason.to_owned() });
        seen
    }
}

fn dies_at(ends: u64) -> String {
    format!("can not be revoked; dies at {}", instant_text(ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_when_its_lease_has_recorded_it_or_at_the_latest() {
        let until = 2_000_000_000;
        assert_eq!(ends_at(Some(1_999_999_999), until), 1_999_999_999);
        for asked in [None, Some(2_000_000_001), Some(999_999_999), Some(u32::MAX)] {
            assert_eq!(ends_at(asked, until), until, "{asked:?}");
        }
    }
}
