//! What is missing at an account before it can be worked with, as a policy that cures it.
//!
//! IAM tells what a user may do (`SimulatePrincipalPolicy`), if that one may ask. Otherwise it is tried: on a user that is made for it, since what is
//! allowed depends on the path and the boundary of a user that is there; it is denied everything before it gets a key, and removed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::account::{ENDED, Mark, base, cut_user};
use super::api::{ACCESS_DENIED, Api, Query, is, is_absent};
use super::clean;
use super::rules::{Needs, Role, boundary, gives_power, needs};
use super::xml::Node;
use super::{Aws, Executor};
use crate::{Checked, Cleaning, EngineError, Fault, Missing, Slots, number_of};

/// What an executor does with users of its path, whatever its roles say.
const ON_USERS: [&str; 12] = [
    "CreateUser",
    "TagUser",
    "GetUser",
    "DeleteUser",
    "CreateAccessKey",
    "ListAccessKeys",
    "DeleteAccessKey",
    "PutUserPolicy",
    "GetUserPolicy",
    "ListUserPolicies",
    "DeleteUserPolicy",
    "ListAttachedUserPolicies",
];
/// What it does with users that have more than it has given them.
const ON_STRANGE_USERS: [&str; 9] = [
    "DeleteLoginProfile",
    "ListMFADevices",
    "DeactivateMFADevice",
    "ListSigningCertificates",
    "DeleteSigningCertificate",
    "ListSSHPublicKeys",
    "DeleteSSHPublicKey",
    "ListServiceSpecificCredentials",
    "DeleteServiceSpecificCredential",
];
/// A key that nobody has.
const NO_KEY: &str = "AKIAAAAAAAAAAAAAAAAA";

/// See [`crate::Engine::check`].
pub(super) async fn check(aws: &Aws, groups: &[String]) -> Result<Checked, EngineError> {
    aws.now_as_executor(&aws.ends).await?;
    let mut checked = Checked {
        server_version: 0,
        timeline: number_of(&aws.executor.account),
        endpoints: vec![aws.endpoint()],
        standbys: Vec::new(),
        unseen: Vec::new(),
        databases: Vec::new(),
        slots: Slots { free: 0, kept: None },
        unfit: Vec::new(),
        missing: Vec::new(),
    };
    let mut wanted = Vec::new();
    for group in groups {
        match needs(group) {
            Ok(found) => wanted.push((group, found)),
            Err(reason) => checked.unfit.push(Fault { name: group.clone(), reason: reason.to_owned() }),
        }
    }
    let boundary = groups.iter().find_map(|group| boundary(group));
    let mut lacking = lacking(aws, &wanted, boundary.as_deref()).await?;
    for (group, needs) in wanted {
        match needs {
            Needs::Nothing => {}
            Needs::Group(name) => fit_group(aws, group, &name, &mut checked).await?,
            Needs::Policy(arn) => {
                let query = Query::iam("GetPolicy").with("PolicyArn", &arn);
                if is_missing(aws.ends.iam.ask(&aws.config, query).await)? {
                    let name = arn.rsplit('/').next().unwrap_or_default();
                    checked
                        .missing
                        .push(missing(format!("aws iam create-policy --policy-name {name} --policy-document ...")));
                }
            }
            Needs::Role(role) => {
                if !can_assume(aws, &role).await? {
                    lacking.entry(role.arn).or_default().insert("sts:AssumeRole".to_owned());
                }
            }
        }
    }
    if !lacking.is_empty() {
        checked.missing.push(missing(policy(&lacking)));
    }
    Ok(checked)
}

fn missing(statement: String) -> Missing {
    Missing { database: String::new(), statement }
}

/// What lacks, by what it is lacking on.
type Lacking = BTreeMap<String, BTreeSet<String>>;

/// One line, to be attached to the executor's user as it is.
fn policy(lacking: &Lacking) -> String {
    let statement = |(resource, actions): (&String, &BTreeSet<String>)| json!({ "Effect": "Allow", "Action": actions, "Resource": resource });
    let statements: Vec<Value> = lacking.iter().map(statement).collect();
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}

/// Whether it is not there. What may not be asked is taken to be there: a login is made with it before anybody gets one.
fn is_missing<T>(asked: Result<T, EngineError>) -> Result<bool, EngineError> {
    match asked {
        Ok(_) => Ok(false),
        Err(error) if is_absent(&error) => Ok(true),
        Err(error) if is(&error, ACCESS_DENIED) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn fit_group(aws: &Aws, group: &str, name: &str, checked: &mut Checked) -> Result<(), EngineError> {
    let query = Query::iam("ListAttachedGroupPolicies").with("GroupName", name);
    let policy = |node: &Node| node.text(&["PolicyName"]).map(str::to_owned);
    let listed =
        aws.ends.iam.list(&aws.config, query, ["ListAttachedGroupPoliciesResult", "AttachedPolicies"], policy).await;
    match listed {
        Ok(policies) => {
            if let Some(power) = policies.iter().find(|policy| gives_power(policy)) {
                let reason = format!("it has the policy {power}, which gives power over the executor");
                checked.unfit.push(Fault { name: group.to_owned(), reason });
            }
            Ok(())
        }
        Err(error) => {
            if is_missing::<()>(Err(error))? {
                checked.missing.push(missing(format!("aws iam create-group --group-name {name}")));
            }
            Ok(())
        }
    }
}

/// Whether a role lets itself be assumed: by a session that may do nothing.
async fn can_assume(aws: &Aws, role: &Role) -> Result<bool, EngineError> {
    let query = Query::sts("AssumeRole").with("RoleArn", &role.arn).with("RoleSessionName", "quorate-check");
    let query = query.with("DurationSeconds", "900").with("Policy", &cut_user(0).to_string());
    match aws.ends.sts.ask(&aws.config, query).await {
        Ok(_) => Ok(true),
        Err(error) if is(&error, ACCESS_DENIED) || is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the executor may not do.
async fn lacking(aws: &Aws, wanted: &[(&String, Needs)], boundary: Option<&str>) -> Result<Lacking, EngineError> {
    let Executor { account, partition, .. } = &aws.executor;
    let users = format!("arn:{partition}:iam::{account}:user{}*", base(&aws.config.target));
    let mut actions: Vec<&str> = ON_USERS.into_iter().chain(["ListGroupsForUser"]).chain(ON_STRANGE_USERS).collect();
    if wanted.iter().any(|(_, needs)| matches!(needs, Needs::Policy(_))) {
        actions.extend(["AttachUserPolicy", "DetachUserPolicy"]);
    }
    let mut all = Lacking::new();
    let on_users = match simulate(aws, &actions, boundary).await? {
        Some(denied) => denied,
        None => try_on_a_user(aws, boundary).await?,
    };
    if !on_users.is_empty() {
        all.insert(users, on_users.into_iter().map(|action| format!("iam:{action}")).collect());
    }
    let list = Query::iam("ListUsers").with("PathPrefix", &base(&aws.config.target)).with("MaxItems", "1");
    if is_denied(&aws.ends.iam, aws, list).await? {
        // It has no narrower resource.
        all.entry("*".to_owned()).or_default().insert("iam:ListUsers".to_owned());
    }
    Ok(all)
}

/// Those of these actions that IAM says are not allowed; `None` when it does not say.
async fn simulate(
    aws: &Aws,
    actions: &[&str],
    boundary: Option<&str>,
) -> Result<Option<BTreeSet<String>>, EngineError> {
    let Executor { arn, account, partition, .. } = &aws.executor;
    let on = format!("arn:{partition}:iam::{account}:user{}user/q_check", base(&aws.config.target));
    let query = Query::iam("SimulatePrincipalPolicy").with("PolicySourceArn", arn).with("ResourceArns.member.1", &on);
    let query = actions
        .iter()
        .zip(1_u32..)
        .fold(query, |query, (action, n)| query.with(&format!("ActionNames.member.{n}"), &format!("iam:{action}")));
    // What a policy may ask of the users that it lets make.
    let query = boundary.iter().fold(query, |query, arn| {
        let query = query.with("ContextEntries.member.1.ContextKeyName", "iam:PermissionsBoundary");
        let query = query.with("ContextEntries.member.1.ContextKeyType", "string");
        query.with("ContextEntries.member.1.ContextKeyValues.member.1", arn)
    });
    let said =
        |node: &Node| Some((node.text(&["EvalActionName"])?.to_owned(), node.text(&["EvalDecision"])?.to_owned()));
    let path = ["SimulatePrincipalPolicyResult", "EvaluationResults"];
    let said = match aws.ends.iam.list(&aws.config, query, path, said).await {
        Ok(said) => said,
        Err(error) if error.is_login_refused() => return Err(error),
        Err(_) => return Ok(None),
    };
    let allowed = |action: &str| said.iter().any(|(name, decision)| name == action && decision == "allowed");
    Ok(Some(actions.iter().filter(|a| !allowed(&format!("iam:{a}"))).map(|a| (*a).to_owned()).collect()))
}

/// Whether IAM says so.
async fn is_denied(iam: &Api, aws: &Aws, query: Query) -> Result<bool, EngineError> {
    match iam.find(&aws.config, query).await {
        Ok(_) => Ok(false),
        Err(error) if is(&error, ACCESS_DENIED) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Those that are refused on a user of our path. What is done to strange users only is not tried.
async fn try_on_a_user(aws: &Aws, boundary: Option<&str>) -> Result<BTreeSet<String>, EngineError> {
    let iam = &aws.ends.iam;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| EngineError::Unavailable { reason: error.to_string() })?;
    // No principal has such a name.
    let name = format!("quorate-check-{:016x}", u64::from_be_bytes(random));
    let mut denied = BTreeSet::new();
    let make = Query::iam("CreateUser").with("UserName", &name).with("Path", &Mark::User.path(&aws.config.target));
    let make = boundary.iter().fold(make, |query, arn| query.with("PermissionsBoundary", arn));
    if is_denied(iam, aws, make.tagged([("quorate-target", aws.config.target.as_str())])).await? {
        // Nothing else can be tried then.
        return Ok(ON_USERS.into_iter().map(str::to_owned).collect());
    }
    let of = |action: &str| Query::iam(action).with("UserName", &name);
    let tries = [
        ("GetUser", of("GetUser")),
        (
            "PutUserPolicy",
            of("PutUserPolicy").with("PolicyName", ENDED).with("PolicyDocument", &cut_user(0).to_string()),
        ),
        ("GetUserPolicy", of("GetUserPolicy").with("PolicyName", ENDED)),
        ("ListUserPolicies", of("ListUserPolicies")),
        ("ListAttachedUserPolicies", of("ListAttachedUserPolicies")),
        ("ListGroupsForUser", of("ListGroupsForUser")),
        ("CreateAccessKey", of("CreateAccessKey")),
        ("ListAccessKeys", of("ListAccessKeys")),
        ("DeleteAccessKey", of("DeleteAccessKey").with("AccessKeyId", NO_KEY)),
        ("DeleteUserPolicy", of("DeleteUserPolicy").with("PolicyName", "quorate-none")),
    ];
    for (action, query) in tries {
        // No key where it could be used.
        if action == "CreateAccessKey" && denied.contains("PutUserPolicy") {
            continue;
        }
        match is_denied(iam, aws, query).await {
            Ok(false) => {}
            Ok(true) => drop(denied.insert(action.to_owned())),
            // It is removed all the same.
            Err(error) => {
                clean::remove(aws, iam, &name).await?;
                return Err(error);
            }
        }
    }
    match clean::remove(aws, iam, &name).await {
        Ok(Cleaning::Gone) => {}
        Ok(Cleaning::Left { .. }) => drop(denied.insert("DeleteUser".to_owned())),
        Err(error) => return Err(error),
    }
    Ok(denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_is_a_policy() {
        let mut lacking = Lacking::new();
        lacking.entry("arn:aws:iam::1:user/quorate/t/*".into()).or_default().insert("iam:GetUser".into());
        lacking.entry("*".into()).or_default().insert("iam:ListUsers".into());
        let policy: Value = serde_json::from_str(&policy(&lacking)).unwrap();
        assert_eq!(policy["Statement"][0], json!({"Effect": "Allow", "Action": ["iam:ListUsers"], "Resource": "*"}));
        assert_eq!(policy["Statement"][1]["Resource"], "arn:aws:iam::1:user/quorate/t/*");
    }
}
