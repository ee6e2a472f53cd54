//! The server's users: making them, refusing them, removing them.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Cmd, Pipeline, Value};

use super::clients;
use super::rules;
use super::session::{Persistence, Session, answer, text, texts, unexpected};
use crate::engine::Create;
use crate::{
    Binding, Cleaned, Cleaning, Created, EngineError, Fenced, Ghost, Principal, Refusal, Refused, Seen, number_of,
    valid_name,
};

/// How many users one round trip is about.
const BULK: usize = 500;
/// The user as whom the server's own connections work.
const SERVER_ITSELF: &str = "(superuser)";

/// A user as the server shows it.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    on: bool,
    /// Off, without a password and without a right.
    is_mark: bool,
}

/// See [`crate::Engine::create`]. `rules` were understood before.
pub(super) async fn create(session: &mut Session, create: &Create, rules: &[String]) -> Result<Created, EngineError> {
    match session.persistence {
        Persistence::AclFile | Persistence::ConfigFile => {}
        Persistence::Nowhere => {
            return Err(refused("NOPERSIST", "users are kept in neither an aclfile nor a configuration file"));
        }
        Persistence::Unseen => return Err(refused("NOPERM", "whether an aclfile is used can't be seen: +config|get")),
    }
    let mut command = setuser(&create.name);
    command.arg("reset").arg("resetchannels").arg(rules).arg(&create.verifier).arg("on");
    session.call_bound(&command).await.map_err(|error| match error {
        EngineError::Unavailable { reason } => EngineError::Unknown { reason },
        other => other,
    })?;
    // It can log in by now, whatever becomes of the file.
    session.save().await.map_err(|error| EngineError::Unknown { reason: format!("not kept: {error}") })?;
    Ok(Created::by_client(number_of(&create.name)))
}

/// See [`crate::Engine::fence`].
///
/// The name is no fence: a create overwrites it. The connection is: after the server has ended it, nothing that was sent on it
/// and not executed can be. Only then is it looked whether it was.
pub(super) async fn fence(session: &mut Session, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
    clients::end(session, binding).await?;
    let there = accounts(session, &[name]).await?.into_iter().next().transpose()?.flatten();
    Ok(there.map_or(Fenced::Absent, |_| Fenced::Won { oid: number_of(name) }))
}

/// See [`crate::Engine::refuse`].
pub(super) async fn refuse(session: &mut Session, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
    let mut all = Vec::with_capacity(principals.len());
    for chunk in principals.chunks(BULK) {
        let names: Vec<&str> = chunk.iter().map(|p| p.name.as_str()).collect();
        let accounts = accounts(session, &names).await?;
        // To change what is not there would make it.
        let there: BTreeSet<&str> =
            names.iter().zip(&accounts).filter(|(_, a)| matches!(a, Ok(Some(_)))).map(|(n, _)| *n).collect();
        let mut commands = Pipeline::new();
        for name in &there {
            let mut command = setuser(name);
            command.arg(&["reset", "resetpass", "off", "-@all", "resetkeys", "resetchannels", "clearselectors"]);
            commands.add_command(command);
        }
        let mut answers = session.call_all(&commands, there.len()).await?.into_iter();
        let mut outcomes: BTreeMap<&str, Refusal> = there
            .iter()
            .zip(answers.by_ref())
            .map(|(name, answer)| {
                (*name, answer.map_or_else(Refusal::Failed, |_| Refusal::Disabled { groups_left: Vec::new() }))
            })
            .collect();
        for (name, account) in names.iter().zip(accounts) {
            let outcome = match account {
                Ok(Some(_)) => outcomes.remove(name).unwrap_or_else(|| Refusal::Disabled { groups_left: Vec::new() }),
                Ok(None) => Refusal::Absent,
                Err(error) => Refusal::Failed(error),
            };
            let oid = (outcome != Refusal::Absent).then(|| number_of(name));
            all.push(Refused { name: (*name).to_owned(), oid, outcome });
        }
    }
    // Also for those that are gone: whoever removed them may have died before this, and a restart would bring them back.
    if !all.is_empty()
        && let Err(error) = session.save().await
    {
        if matches!(error, EngineError::Unavailable { .. }) {
            return Err(error);
        }
        all.iter_mut().for_each(|refused| refused.outcome = Refusal::Failed(error.clone()));
    }
    Ok(all)
}

/// See [`crate::Engine::kill`].
pub(super) async fn kill(session: &mut Session, principals: &[Principal]) -> Result<usize, EngineError> {
    let names: BTreeSet<&str> = principals.iter().map(|p| p.name.as_str()).collect();
    let all = clients::list(session).await?;
    let ids = all.iter().filter(|client| names.contains(client.user.as_str())).map(|client| client.id).collect();
    clients::kill(session, &ids).await
}

/// See [`crate::Engine::look`].
pub(super) async fn look(
    session: &mut Session,
    endpoint: &str,
    principals: &[Principal],
) -> Result<Vec<Seen>, EngineError> {
    // In this order: who was let in before the account was read is among the connections that are listed after.
    let mut all = Vec::with_capacity(principals.len());
    for chunk in principals.chunks(BULK) {
        let names: Vec<&str> = chunk.iter().map(|p| p.name.as_str()).collect();
        for (name, account) in names.iter().zip(accounts(session, &names).await?) {
            let account = account?;
            let on = account.as_ref().is_some_and(|account| account.on);
            all.push(Seen {
                name: (*name).to_owned(),
                oid: account.map(|_| number_of(name)),
                can_login: on,
                login_at: if on { vec![endpoint.to_owned()] } else { Vec::new() },
                behind: Vec::new(),
                sessions: 0,
                held_by: None,
            });
        }
    }
    let mut sessions: BTreeMap<String, u64> = BTreeMap::new();
    for client in clients::list(session).await? {
        *sessions.entry(client.user).or_default() += 1;
    }
    for seen in &mut all {
        seen.sessions = sessions.get(&seen.name).copied().unwrap_or(0);
    }
    Ok(all)
}

/// See [`crate::Engine::clean`]. Users own nothing: keys have no owner, and functions run as whoever calls them.
pub(super) async fn clean(session: &mut Session, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
    for chunk in principals.chunks(BULK) {
        let mut command = redis::cmd("ACL");
        command.arg("DELUSER");
        chunk.iter().for_each(|p| {
            command.arg(&p.name);
        });
        session.call(&command).await?;
    }
    if !principals.is_empty() {
        session.save().await?;
    }
    Ok(principals.iter().map(|p| Cleaned { name: p.name.clone(), outcome: Cleaning::Gone }).collect())
}

/// The names of ours that start so, in order. What only begins like one of ours is somebody else's.
pub(super) async fn names(session: &mut Session, prefix: &str) -> Result<Vec<String>, EngineError> {
    let all = texts(&session.call(redis::cmd("ACL").arg("USERS")).await?);
    let mut names: Vec<String> = all.into_iter().filter(|name| name.starts_with(prefix) && valid_name(name)).collect();
    names.sort();
    Ok(names)
}

/// See [`crate::Engine::list`].
pub(super) async fn list(session: &mut Session, prefix: &str) -> Result<Vec<Principal>, EngineError> {
    let principal = |name: String| Principal { oid: Some(number_of(&name)), name };
    Ok(names(session, prefix).await?.into_iter().map(principal).collect())
}

/// See [`crate::Engine::ghosts`].
pub(super) async fn ghosts(session: &mut Session, endpoint: &str) -> Result<Vec<Ghost>, EngineError> {
    let mut both = Pipeline::new();
    both.cmd("ACL").arg("USERS").cmd("CLIENT").arg("LIST");
    let [users, clients] = at_once(session, &both).await?;
    let users: BTreeSet<String> = texts(&users).into_iter().collect();
    let ghost = |client: clients::Client| Ghost {
        endpoint: endpoint.to_owned(),
        pid: i32::try_from(client.id).unwrap_or(i32::MAX),
        oid: number_of(&client.user),
    };
    let lost = |client: &clients::Client| client.user != SERVER_ITSELF && !users.contains(&client.user);
    Ok(clients::parse(&clients)?.into_iter().filter(lost).map(ghost).collect())
}

/// See [`crate::Engine::claim`].
pub(super) async fn claim(session: &mut Session, name: &str) -> Result<(), EngineError> {
    // Without a rule the second makes a user that is off if there is none of that name, and leaves one that there is as it is.
    let mut both = Pipeline::new();
    both.cmd("ACL").arg("GETUSER").arg(name).add_command(setuser(name));
    let [before, _] = at_once(session, &both).await?;
    // Also for one that was there: who made it may have died before this.
    session.save().await?;
    if before == Value::Nil { Ok(()) } else { Err(EngineError::Duplicate) }
}

/// See [`crate::Engine::disclaim`].
pub(super) async fn disclaim(session: &mut Session, names: &[String]) -> Result<Vec<String>, EngineError> {
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut marks, mut left) = (Vec::new(), Vec::new());
    for (name, account) in names.iter().zip(accounts(session, &asked).await?) {
        match account? {
            None => {}
            Some(account) if account.is_mark => marks.push(Principal { name: name.clone(), oid: None }),
            Some(_) => left.push(name.clone()),
        }
    }
    clean(session, &marks).await?;
    if marks.is_empty() && !names.is_empty() {
        session.save().await?;
    }
    Ok(left)
}

/// See [`crate::Engine::set_password`].
pub(super) async fn set_password(session: &mut Session, user: &str, verifier: &str) -> Result<(), EngineError> {
    session.call_bound(setuser(user).arg("resetpass").arg(verifier)).await?;
    session.save().await
}

/// What the roles' groups say, as arguments.
pub(super) fn arguments(groups: &[String]) -> Result<Vec<String>, EngineError> {
    let mut arguments = Vec::new();
    for group in groups {
        let rules = rules::parse(group).map_err(|reason| EngineError::Invalid { field: "groups", reason })?;
        arguments.extend(rules);
    }
    Ok(arguments)
}

fn setuser(name: &str) -> Cmd {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg(name);
    command
}

fn refused(code: &str, message: &str) -> EngineError {
    EngineError::Refused { code: code.to_owned(), message: message.to_owned() }
}

/// Two commands between which nobody else's comes.
async fn at_once(session: &mut Session, both: &Pipeline) -> Result<[Value; 2], EngineError> {
    let mut commands = Pipeline::new();
    commands.cmd("MULTI");
    both.cmd_iter().for_each(|command| {
        commands.add_command(command.clone());
    });
    commands.cmd("EXEC");
    let mut last = Value::Nil;
    // What one of them is refused for is said where it was queued.
    for answer in session.call_all(&commands, 4).await? {
        last = answer?;
    }
    let Value::Array(answers) = last else { return Err(unexpected("EXEC")) };
    let answers: Vec<Value> = answers.into_iter().map(|value| answer(Ok(value))).collect::<Result<_, _>>()?;
    answers.try_into().map_err(|_| unexpected("EXEC"))
}

async fn accounts(
    session: &mut Session,
    names: &[&str],
) -> Result<Vec<Result<Option<Account>, EngineError>>, EngineError> {
    let mut commands = Pipeline::new();
    names.iter().for_each(|name| {
        commands.cmd("ACL").arg("GETUSER").arg(*name);
    });
    let answers = session.call_all(&commands, names.len()).await?;
    Ok(answers.into_iter().map(|answer| answer.map(|value| account(&value))).collect())
}

fn account(answer: &Value) -> Option<Account> {
    let fields: Vec<(String, &Value)> = match answer {
        Value::Array(items) => items
            .chunks_exact(2)
            .filter_map(|pair| match pair {
                [key, value] => Some((text(key)?, value)),
                _ => None,
            })
            .collect(),
        Value::Map(items) => items.iter().filter_map(|(key, value)| Some((text(key)?, value))).collect(),
        _ => return None,
    };
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    let flags = field("flags").map(texts).unwrap_or_default();
    // What can't be read is taken for a user that may log in.
    let on = !flags.iter().any(|flag| flag == "off");
    let has_no = |name: &str| field(name).is_some_and(|value| texts(value).is_empty());
    let commands = field("commands").and_then(text);
    let is_mark = !on && has_no("passwords") && has_no("selectors") && commands.as_deref() == Some("-@all");
    Some(Account { on, is_mark })
}
