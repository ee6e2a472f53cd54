//! What is missing at a cluster before it can be worked with, as objects that cure it (`kubectl apply -f -`).

use serde::Deserialize;
use serde_json::{Value, json};

use super::KubernetesConfig;
use super::api::{self, Api, FORBIDDEN};
use super::rules::{self, Rule};
use super::timeline::Timeline;
use crate::http::Path;
use crate::{Checked, EngineError, Fault, Missing, Slots};

/// The oldest version that is worked with, 1.28: the first with `SelfSubjectReview` in `v1`.
const OLDEST: u32 = 12_800;
/// What objects that cure something are named by.
const ROLE: &str = "quorate-executor";

/// One thing that somebody may do in the namespace.
#[derive(Clone, Copy)]
struct Act<'a> {
    verb: &'a str,
    group: &'a str,
    resource: &'a str,
    subresource: &'a str,
    name: &'a str,
}

impl Act<'_> {
    fn attributes(&self, namespace: &str) -> Value {
        let Self { verb, group, resource, subresource, name } = self;
        json!({
            "namespace": namespace, "verb": verb, "group": group, "resource": resource,
            "subresource": subresource, "name": name,
        })
    }
}

impl core::fmt::Display for Act<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if self.subresource.is_empty() { Ok(()) } else { write!(f, "/{}", self.subresource) }
    }
}

const AUTHORIZATION: &str = "authorization.k8s.io";

/// With any of these a service account makes itself, or takes, what no lease ends: tokens of its own, old-fashioned ones in Secrets, those of
/// pods, and the executor's.
const POWER: [Act<'static>; 9] = [
    power("create", "", "serviceaccounts", "token"),
    power("impersonate", "", "serviceaccounts", ""),
    power("create", "", "secrets", ""),
    power("get", "", "secrets", ""),
    power("list", "", "secrets", ""),
    power("create", "", "pods", ""),
    power("create", "apps", "deployments", ""),
    power("create", "batch", "jobs", ""),
    power("create", "rbac.authorization.k8s.io", "rolebindings", ""),
];

const fn power(
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
) -> Act<'static> {
    Act { verb, group, resource, subresource, name: "" }
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "gitVersion")]
    git_version: String,
}

#[derive(Deserialize)]
struct Review {
    status: Allowed,
}

#[derive(Deserialize)]
struct Allowed {
    allowed: bool,
}

#[derive(Deserialize)]
struct Named {
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// See [`crate::Engine::check`].
pub(super) async fn check(
    api: &Api,
    config: &KubernetesConfig,
    timeline: &Timeline,
    groups: &[String],
) -> Result<Checked, EngineError> {
    let user = super::who(&api.call(config, super::self_review()?).await)?;
    if user != config.user {
        let message = format!("the executor's token is not {}'s: it is {user}'s", config.user);
        return Err(EngineError::Refused { code: "USER".to_owned(), message });
    }
    let Version { git_version } = api.get(config, Path::new(&["version"])?).await?;
    let mut checked = nothing(config, groups);
    checked.server_version = version(&git_version);
    if checked.server_version < OLDEST {
        let message = "Kubernetes before 1.28: it does not say who a token's bearer is".to_owned();
        return Err(EngineError::Refused { code: "VERSION".to_owned(), message });
    }
    let base = base_rights(config);
    if !may_all(api, config, &base).await? {
        checked.missing.extend(role(config, ROLE, &base_rules(config)));
        return Ok(checked);
    }
    checked.timeline = timeline.number(api, config).await?;
    let mut accounts: Vec<(&String, String)> = Vec::new();
    let mut is_for_others = false;
    for group in groups {
        match rules::parse(group, config.own_account()) {
            Ok(Rule::Account(account)) => accounts.push((group, account)),
            Ok(Rule::Audience(_)) => is_for_others = true,
            Err(_) => {}
        }
    }
    for (group, account) in accounts {
        checked.unfit.extend(fitness(api, config, group, &account, &mut checked.missing).await?);
    }
    // Whether such a token is taken only the API server can be asked, by somebody else.
    let reviews =
        Act { verb: "create", group: "authentication.k8s.io", resource: "tokenreviews", subresource: "", name: "" };
    if is_for_others && !may(api, config, &reviews, "").await? {
        checked.missing.push(missing(format!(
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: {ROLE}-{}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: \"system:auth-delegator\"}}\n\
             subjects: [{}]",
            config.namespace,
            subject(config)
        )));
    }
    Ok(checked)
}

/// What the executor has to do with every lease.
fn base_rights(config: &KubernetesConfig) -> Vec<Act<'_>> {
    let secrets = ["create", "delete", "get", "list"];
    let act = |verb| Act { verb, group: "", resource: "secrets", subresource: "", name: "" };
    let mut all: Vec<Act<'_>> = secrets.map(act).to_vec();
    let namespace = config.namespace.as_str();
    all.push(Act { verb: "get", group: "", resource: "namespaces", subresource: "", name: namespace });
    let resource = "localsubjectaccessreviews";
    all.push(Act { verb: "create", group: AUTHORIZATION, resource, subresource: "", name: "" });
    all
}

fn base_rules(config: &KubernetesConfig) -> String {
    format!(
        "- {{apiGroups: [\"\"], resources: [secrets], verbs: [create, delete, get, list]}}\n\
         - {{apiGroups: [\"\"], resources: [namespaces], resourceNames: [\"{}\"], verbs: [get]}}\n\
         - {{apiGroups: [{AUTHORIZATION}], resources: [localsubjectaccessreviews], verbs: [create]}}",
        config.namespace
    )
}

/// Whether a service account can be a role's; what is missing of it and of our rights to it goes to `lacks`.
async fn fitness(
    api: &Api,
    config: &KubernetesConfig,
    group: &str,
    account: &str,
    lacks: &mut Vec<Missing>,
) -> Result<Option<Fault>, EngineError> {
    let namespace = &config.namespace;
    let rights = [
        Act { verb: "get", group: "", resource: "serviceaccounts", subresource: "", name: account },
        Act { verb: "create", group: "", resource: "serviceaccounts", subresource: "token", name: account },
    ];
    if !may_all(api, config, &rights).await? {
        let rules = format!(
            "- {{apiGroups: [\"\"], resources: [serviceaccounts], resourceNames: [\"{account}\"], verbs: [get]}}\n\
             - {{apiGroups: [\"\"], resources: [serviceaccounts/token], resourceNames: [\"{account}\"], verbs: [create]}}"
        );
        lacks.extend(role(config, &format!("quorate-of-{account}"), &rules));
        return Ok(None);
    }
    let there: Option<Named> = api.find(config, api::account_path(config, account)?).await?;
    if there.is_none_or(|there| there.metadata.name != account) {
        lacks.push(missing(format!(
            "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: \"{account}\", namespace: \"{namespace}\"}}\n\
             automountServiceAccountToken: false"
        )));
        return Ok(None);
    }
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let path = Path::new(&["apis", AUTHORIZATION, "v1", "namespaces", namespace, "localsubjectaccessreviews"])?;
    for act in POWER {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "LocalSubjectAccessReview",
            "metadata": { "namespace": namespace },
            "spec": {
                "user": user,
                "groups": [
                    "system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated",
                ],
                "resourceAttributes": act.attributes(namespace),
            },
        });
        let review: Review = api.ask(config, path.clone(), &body).await?;
        if review.status.allowed {
            let reason = format!("it may {act} in {namespace}: with that it has tokens that no lease ends");
            return Ok(Some(Fault { name: group.to_owned(), reason }));
        }
    }
    Ok(None)
}

/// Whether the executor may do all of these.
async fn may_all(api: &Api, config: &KubernetesConfig, acts: &[Act<'_>]) -> Result<bool, EngineError> {
    for act in acts {
        if !may(api, config, act, &config.namespace).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the executor may, in that namespace or, for the empty one, wherever there is none.
async fn may(api: &Api, config: &KubernetesConfig, act: &Act<'_>, namespace: &str) -> Result<bool, EngineError> {
    let path = Path::new(&["apis", AUTHORIZATION, "v1", "selfsubjectaccessreviews"])?;
    let body = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": act.attributes(namespace) },
    });
    match api.ask::<Review>(config, path, &body).await {
        Ok(review) => Ok(review.status.allowed),
        Err(error) if api::is(&error, FORBIDDEN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is known of a server at which we may not even look.
fn nothing(config: &KubernetesConfig, groups: &[String]) -> Checked {
    let unfit = |group: &String| {
        let reason = rules::parse(group, config.own_account()).err()?.to_owned();
        Some(Fault { name: group.clone(), reason })
    };
    Checked {
        server_version: 0,
        timeline: 0,
        endpoints: vec![config.endpoint.to_string()],
        standbys: Vec::new(),
        unseen: Vec::new(),
        databases: Vec::new(),
        // There are no connections to run out of: it counts none.
        slots: Slots { free: u32::MAX, kept: None },
        unfit: groups.iter().filter_map(unfit).collect(),
        missing: Vec::new(),
    }
}

/// A role of the namespace, and that the executor has it.
fn role(config: &KubernetesConfig, name: &str, rules: &str) -> [Missing; 2] {
    let namespace = &config.namespace;
    let metadata = format!("metadata: {{name: \"{name}\", namespace: \"{namespace}\"}}");
    let head = "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ";
    [
        missing(format!("{head}Role\n{metadata}\nrules:\n{rules}")),
        missing(format!(
            "{head}RoleBinding\n{metadata}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: \"{name}\"}}\n\
             subjects: [{}]",
            subject(config)
        )),
    ]
}

/// Who the executor is, as a binding says it. JSON is YAML.
fn subject(config: &KubernetesConfig) -> Value {
    let account = config.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace }),
        None => json!({ "kind": "User", "name": config.user, "apiGroup": "rbac.authorization.k8s.io" }),
    }
}

fn missing(statement: String) -> Missing {
    Missing { database: String::new(), statement }
}

/// v1.30.2 is 13002.
fn version(text: &str) -> u32 {
    let text = text.strip_prefix('v').unwrap_or(text);
    let part = |n: usize| text.split(['.', '-', '+']).nth(n).and_then(|p| p.parse::<u32>().ok()).unwrap_or(0);
    part(0).saturating_mul(10_000).saturating_add(part(1).min(99) * 100 + part(2).min(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let read = ["v1.30.2", "v1.28.0-rc.1", "v1.31.4-eks-2d5f260", "1.9.0+k3s1", ""].map(version);
        assert_eq!(read, [13_002, 12_800, 13_104, 10_900, 0]);
    }
}
