//! The policies that a cluster begins with, and one to begin an application with.

use crate::model::{Model, Unaskable};
use crate::policy::{PolicyError, validate};

/// The first policies of a cluster, name and text: what `quorate init` writes into its genesis.
///
/// `administrators` permits the group `spiffe://<trust domain>/admin` everything but learning secrets and taking
/// credentials: administration does not imply reading. An administrator who wants to read writes a policy that says so,
/// which takes the administrators' signatures and stands in every node's audit record. `status` permits every workload to see
/// the cluster's state and to handle its own leases.
///
/// # Errors
/// [`PolicyError`] when they do not validate, which a well-formed trust domain cannot cause.
pub fn initial_policies(trust_domain: &str) -> Result<Vec<(String, String)>, PolicyError> {
    let admins = group(&format!("spiffe://{trust_domain}/admin"))?;
    let administrators = format!(
        r#"// Administrators manage everything, and read nothing: opening secrets and taking credentials needs a policy of its own.
permit (principal in {admins}, action, resource)
unless {{ action in [Quorate::Action::"secret:open", Quorate::Action::"lease:issue"] }};
"#
    );
    let status = r#"// Everybody sees how the cluster is.
permit (principal, action == Quorate::Action::"cluster:status", resource);

// Whoever took a lease may look at it, renew it and end it.
permit (
    principal,
    action in [Quorate::Action::"lease:read", Quorate::Action::"lease:renew", Quorate::Action::"lease:revoke"],
    resource
) when { resource.owner == principal.id };
"#;
    let policies = [("administrators", administrators), ("status", status.to_owned())];
    for (name, text) in &policies {
        validate(name, text)?;
    }
    Ok(policies.map(|(name, text)| (name.to_owned(), text)).into())
}

/// A policy for an application, to begin with: the group `spiffe://<trust domain>/<path>` may use the secrets of one folder,
/// such as `default:app/billing`, but destroy none.
///
/// # Errors
/// [`PolicyError`] when it does not validate.
pub fn application_policy(trust_domain: &str, path: &str, folder: &str) -> Result<String, PolicyError> {
    let (namespace, _) = folder.split_once(':').unwrap_or((folder, ""));
    let (group, namespace) = (group(&format!("spiffe://{trust_domain}/{path}"))?, entity("Namespace", namespace)?);
    let folder = entity("Folder", folder)?;
    let text = format!(
        r#"permit (
    principal in {group},
    action in [
        Quorate::Action::"secret:open",
        Quorate::Action::"secret:list",
        Quorate::Action::"secret:versions",
        Quorate::Action::"write"
    ],
    resource in {folder}
);
// Writers need to know which keys the mount seals to.
permit (principal in {group}, action == Quorate::Action::"mount:read", resource == {namespace});
"#
    );
    validate("application", &text)?;
    Ok(text)
}

fn group(id: &str) -> Result<String, PolicyError> {
    entity("Group", id)
}

/// An entity as a policy writes it, its id escaped.
fn entity(of: &str, id: &str) -> Result<String, PolicyError> {
    let uid = Model::get().map_err(Unaskable::clone).and_then(|model| model.uid(of, id));
    uid.map(|uid| uid.to_string()).map_err(|error| PolicyError::whole("schema", error))
}
