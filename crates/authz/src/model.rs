//! What policies see: the schema, and how principals and resources become Cedar entities.

use crate::identity::Principal;
use crate::policy::{Facts, LeaseFacts};
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema, Validator,
};
use quorate_state::change::{Kind, Resource};
use quorate_state::ids::{check_namespace, check_path};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

/// The schema in Cedar's own syntax.
pub(crate) const SCHEMA: &str = include_str!("schema.cedarschema");

/// The schema as loaded, and the names that requests are made of.
pub(crate) struct Model {
    pub(crate) schema: Schema,
    pub(crate) validator: Validator,
    actions: BTreeMap<Kind, EntityUid>,
    types: BTreeMap<&'static str, EntityTypeName>,
}

/// Why no request can be made, in words for the audit record.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unaskable(String);

impl Unaskable {
    fn new(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

const TYPES: [&str; 13] = [
    "Group",
    "Workload",
    "Cluster",
    "Namespace",
    "Folder",
    "Secret",
    "Policy",
    "Identity",
    "CustomerKey",
    "Target",
    "Role",
    "Lease",
    "Member",
];

/// Loaded once. The text is a constant, so it loads or no test passes; where it does not, nothing is authorised.
static MODEL: LazyLock<Result<Model, Unaskable>> = LazyLock::new(Model::load);

impl Model {
    pub(crate) fn get() -> Result<&'static Self, &'static Unaskable> {
        MODEL.as_ref()
    }

    fn load() -> Result<Self, Unaskable> {
        let (schema, _warnings) = Schema::from_cedarschema_str(SCHEMA).map_err(Unaskable::new)?;
        let name = |text: &str| format!("Quorate::{text}").parse::<EntityTypeName>().map_err(Unaskable::new);
        let types = TYPES.into_iter().map(|t| Ok((t, name(t)?))).collect::<Result<_, Unaskable>>()?;
        let action = name("Action")?;
        let mut actions = BTreeMap::new();
        for kind in Kind::ALL {
            let uid = EntityUid::from_type_name_and_id(action.clone(), EntityId::new(kind.action()));
            if !schema.actions().any(|known| known == &uid) {
                return Err(Unaskable(format!("the schema has no action `{}`", kind.action())));
            }
            actions.insert(*kind, uid);
        }
        Ok(Self { validator: Validator::new(schema.clone()), schema, actions, types })
    }

    /// The name of an entity, as policies write it.
    pub(crate) fn uid(&self, of: &str, id: &str) -> Result<EntityUid, Unaskable> {
        let name = self.types.get(of).ok_or_else(|| Unaskable(format!("no entity type `{of}`")))?;
        Ok(EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id)))
    }

    /// The Cedar request, and every entity that it can reach.
    pub(crate) fn ask(
        &self,
        principal: &Principal,
        kind: Kind,
        resource: &Resource,
        facts: &Facts,
    ) -> Result<(Request, Entities), Unaskable> {
        let principal = self.principal(principal)?;
        let action = self.actions.get(&kind).ok_or_else(|| Unaskable(format!("no action for `{}`", kind.name())))?;
        let resource = self.resource(kind, resource, facts.lease.as_ref())?;
        let now = i64::try_from(facts.now / 1_000).map_err(Unaskable::new)?;
        let context = Context::from_pairs([("now".to_owned(), RestrictedExpression::new_long(now))]);
        let request = Request::new(
            principal.uid(),
            action.clone(),
            resource.uid(),
            context.map_err(Unaskable::new)?,
            Some(&self.schema),
        );
        let entities = Entities::from_entities([principal, resource], Some(&self.schema)).map_err(Unaskable::new)?;
        Ok((request.map_err(Unaskable::new)?, entities))
    }

    fn principal(&self, principal: &Principal) -> Result<Entity, Unaskable> {
        let id = principal.id();
        let attributes = [("id", id.as_str()), ("trust_domain", id.trust_domain()), ("path", id.path())];
        let groups = id.groups().map(|group| self.uid("Group", group)).collect::<Result<_, _>>()?;
        Entity::new(self.uid("Workload", id.as_str())?, strings(attributes), groups).map_err(Unaskable::new)
    }

    /// The entity that an operation is about.
    fn resource(&self, kind: Kind, resource: &Resource, lease: Option<&LeaseFacts>) -> Result<Entity, Unaskable> {
        let plain = |of, id: &str| Ok(Entity::with_uid(self.uid(of, id)?));
        match resource {
            Resource::Secret { namespace, path } => match kind {
                // Where a mount is made is a matter of the namespace, not of a folder that does not exist yet.
                Kind::CreateMount => self.below("Folder", namespace, ""),
                Kind::ListSecrets => self.below("Folder", namespace, path),
                _ => self.below("Secret", namespace, path),
            },
            Resource::Namespace(namespace) => {
                check_nameable(namespace)?;
                let above = ancestors(namespace).map(|above| self.uid("Namespace", above));
                Ok(Entity::new_no_attrs(self.uid("Namespace", namespace)?, above.collect::<Result<_, _>>()?))
            }
            Resource::Policy(name) => plain("Policy", name),
            Resource::Identity(id) => plain("Identity", id),
            Resource::CustomerKey(name) => plain("CustomerKey", name),
            Resource::Target(name) => plain("Target", name),
            Resource::Role(name) => plain("Role", name),
            Resource::Member(name) => plain("Member", name),
            Resource::Cluster => plain("Cluster", "cluster"),
            Resource::Lease(id) => {
                // A lease that this node has not seen may exist: with made-up attributes a `forbid` could fail to match.
                let LeaseFacts { owner, role, target } =
                    lease.ok_or_else(|| Unaskable("this node knows no such lease".to_owned()))?;
                let attributes = [("owner", owner.as_str()), ("role", role), ("target", target)];
                Entity::new(self.uid("Lease", &id.to_string())?, strings(attributes), HashSet::new())
                    .map_err(Unaskable::new)
            }
        }
    }

    /// A secret or folder, with every folder above it and every namespace around it.
    fn below(&self, of: &str, namespace: &str, path: &str) -> Result<Entity, Unaskable> {
        check_nameable(namespace)?;
        let is_whole_namespace = of == "Folder" && path.is_empty();
        if !is_whole_namespace {
            check_path(path).map_err(Unaskable::new)?;
        }
        let mut above = HashSet::from([self.uid("Namespace", namespace)?]);
        for outer in ancestors(namespace) {
            above.insert(self.uid("Namespace", outer)?);
        }
        if !is_whole_namespace {
            above.insert(self.uid("Folder", &format!("{namespace}:"))?);
        }
        for folder in ancestors(path) {
            above.insert(self.uid("Folder", &format!("{namespace}:{folder}"))?);
        }
        Ok(Entity::new_no_attrs(self.uid(of, &format!("{namespace}:{path}"))?, above))
    }
}

/// `a` and `a/b` of `a/b/c`: by whole segments, so that `a/bx` is not below `a/b`.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(end, _)| path.get(..end))
}

/// A namespace must be well-formed, and hold no colon: `a:b` with path `c` would have the name of `a` with path `b:c`.
fn check_nameable(namespace: &str) -> Result<(), Unaskable> {
    check_namespace(namespace).map_err(Unaskable::new)?;
    if namespace.contains(':') {
        return Err(Unaskable("a namespace with `:` in its name cannot be named in a policy".to_owned()));
    }
    Ok(())
}

fn strings<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, RestrictedExpression> {
    pairs.map(|(name, value)| (name.to_owned(), RestrictedExpression::new_string(value.to_owned()))).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn actions_of_the_schema_are_the_operations() {
        let model = Model::get().unwrap();
        let groups: BTreeSet<String> =
            model.schema.action_groups().map(|uid| uid.id().unescaped().to_owned()).collect();
        assert_eq!(groups, ["admin", "lease", "read", "write"].map(str::to_owned).into());
        let actions: BTreeSet<String> = model.schema.actions().map(|uid| uid.id().unescaped().to_owned()).collect();
        let operations: BTreeSet<String> = Kind::ALL.iter().map(|kind| kind.action().to_owned()).collect();
        assert_eq!(actions.difference(&groups).cloned().collect::<BTreeSet<_>>(), operations);
    }

    #[test]
    fn types_of_the_schema_are_the_ones_made_here() {
        let model = Model::get().unwrap();
        let of_schema: BTreeSet<String> = model.schema.entity_types().map(|name| name.basename().to_owned()).collect();
        assert_eq!(of_schema, TYPES.map(str::to_owned).into());
    }

    #[test]
    fn ancestors_are_whole_segments() {
        assert_eq!(ancestors("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(ancestors("a").count(), 0);
        assert_eq!(ancestors("").count(), 0);
    }
}
