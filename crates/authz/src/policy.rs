//! From a [`Principal`] and the policies to a [`Grant`].
//!
//! Denied by default; a `forbid` that applies wins over every `permit` (`docs/policies.md`). Policies are parsed and
//! type-checked when they are written, and compiled once per change of any of them, never per request.

use crate::identity::Principal;
use crate::model::Model;
use cedar_policy::ffi::DetailedError;
use cedar_policy::{AuthorizationError, Authorizer, Decision, Effect, Policy, PolicyId, PolicySet, ValidationMode};
use core::fmt;
use quorate_state::access::MAX_POLICY;
use quorate_state::change::{Kind, Resource};
use quorate_state::ids::Millis;
use std::collections::BTreeSet;

/// The right of one principal to one operation on one resource.
///
/// Only [`Authority::authorize`] makes one, and it cannot be cloned: what takes a grant by value was authorised for exactly
/// that.
///
/// ```compile_fail,E0451
/// use quorate_authz::{Grant, Principal};
/// use quorate_state::change::{Kind, Resource};
/// fn forge(principal: Principal) -> Grant {
///     Grant { principal, kind: Kind::OpenSecret, resource: Resource::Cluster, policies: Vec::new() }
/// }
/// ```
/// ```compile_fail,E0277
/// fn twice<T: Clone>() {}
/// twice::<quorate_authz::Grant>();
/// ```
/// Both examples fail for that reason only; this one compiles:
/// ```
/// use quorate_authz::{Grant, Principal};
/// use quorate_state::change::{Kind, Resource};
/// fn look(grant: &Grant) -> (&Principal, Kind, &Resource, &[String]) {
///     (grant.principal(), grant.kind(), grant.resource(), grant.policies())
/// }
/// fn once<T: core::fmt::Debug>() {}
/// once::<Grant>();
/// ```
///
/// # Security
/// It stands for the policies and the time of its decision. Holding it across a wait is a decision to honour it after
/// they changed.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Grant {
    principal: Principal,
    kind: Kind,
    resource: Resource,
    policies: Vec<String>,
}

impl Grant {
    /// Who.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// May do what.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// On what.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The policies that permit it, as `name#index`, sorted. Never empty.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

/// Why there is no grant. For the audit record: the caller learns only that it was refused, since the rest would tell it
/// what exists and who may use it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("denied")]
pub struct Denial {
    /// The policies that forbid it, as `name#index`, sorted. Empty when nothing permits it, which is enough.
    pub policies: Vec<String>,
    /// What could not be evaluated, sorted: a request that cannot be asked, or a policy that failed on it.
    pub errors: Vec<String>,
}

impl Denial {
    fn unasked(error: impl ToString) -> Self {
        Self { policies: Vec::new(), errors: vec![error.to_string()] }
    }
}

/// What a decision depends on besides principal, operation and resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Cluster time.
    pub now: Millis,
    /// The lease, when the resource is one and this node's state knows it. Without it, operations on leases are denied.
    pub lease: Option<LeaseFacts>,
}

/// What policies may ask of a lease: fields of [`quorate_state::lease::Lease`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseFacts {
    /// The SPIFFE id of who asked for it.
    pub owner: String,
    /// Its role.
    pub role: String,
    /// Its target.
    pub target: String,
}

/// All policies at one epoch, ready to decide.
pub struct Authority {
    model: &'static Model,
    authorizer: Authorizer,
    policies: PolicySet,
}

impl Authority {
    /// Compiles the policies of a state: name and text of each.
    ///
    /// Milliseconds for each hundred policies: for once per [`quorate_state::access::policy_epoch`].
    ///
    /// # Errors
    /// [`PolicyError`] for a text that is not valid, though its endorsers found it so. There is no authority without it,
    /// and so no grant for anybody: it might have been the one that forbids.
    pub fn compile<N: AsRef<str>, T: AsRef<str>>(policies: &[(N, T)]) -> Result<Self, PolicyError> {
        let mut set = PolicySet::new();
        for (name, text) in policies {
            for policy in parse(name.as_ref(), text.as_ref())? {
                let id = policy.id().to_string();
                set.add(policy).map_err(|error| PolicyError::whole(&id, error))?;
            }
        }
        let model = Model::get().map_err(|error| PolicyError::whole("schema", error))?;
        Ok(Self { model, authorizer: Authorizer::new(), policies: set })
    }

    /// Decides.
    ///
    /// A `forbid` that fails on the request (arithmetic can overflow) forbids it; a `permit` that fails permits nothing.
    ///
    /// # Errors
    /// [`Denial`].
    pub fn authorize(
        &self,
        principal: &Principal,
        kind: Kind,
        resource: &Resource,
        facts: &Facts,
    ) -> Result<Grant, Denial> {
        if principal.not_after() < facts.now {
            return Err(Denial::unasked("the caller's certificate has expired since it was authenticated"));
        }
        let (request, entities) = self.model.ask(principal, kind, resource, facts).map_err(Denial::unasked)?;
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);

        let diagnostics = response.diagnostics();
        let policies: BTreeSet<String> = diagnostics.reason().map(ToString::to_string).collect();
        let failed_forbid = diagnostics.errors().any(|error| self.effect_of(error) != Some(Effect::Permit));
        if response.decision() == Decision::Allow && !failed_forbid {
            let policies = policies.into_iter().collect();
            return Ok(Grant { principal: principal.clone(), kind, resource: resource.clone(), policies });
        }
        let errors: BTreeSet<String> = diagnostics.errors().map(ToString::to_string).collect();
        let policies = if response.decision() == Decision::Deny { policies } else { BTreeSet::new() };
        Err(Denial { policies: policies.into_iter().collect(), errors: errors.into_iter().collect() })
    }

    fn effect_of(&self, error: &AuthorizationError) -> Option<Effect> {
        let AuthorizationError::PolicyEvaluationError(error) = error;
        self.policies.policy(error.policy_id()).map(Policy::effect)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority of {} policies", self.policies.num_of_policies())
    }
}

/// A policy text that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy `{policy}`, line {line}, column {column}: {message}")]
pub struct PolicyError {
    /// The name, with `#index` where one policy of the text is meant.
    pub policy: String,
    /// What is wrong.
    pub message: String,
    /// The line, from 1; 1 where the whole text is meant.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What to do about it, where that is known.
    pub help: Option<String>,
}

impl PolicyError {
    pub(crate) fn whole(policy: &str, message: impl ToString) -> Self {
        Self { policy: policy.to_owned(), message: message.to_string(), line: 1, column: 1, help: None }
    }

    fn at(policy: &str, text: &str, error: DetailedError) -> Self {
        let offset = error.source_locations.iter().map(|label| label.loc.start).min().unwrap_or(0);
        let (line, column) = position(text, offset);
        Self { policy: policy.to_owned(), message: error.message, line, column, help: error.help }
    }
}

/// Checks a text before it becomes a policy: what every endorser does before it endorses
/// [`quorate_state::change::Change::PutPolicy`].
///
/// # Errors
/// [`PolicyError`] with the first thing that is wrong: the syntax; a type, entity, action or attribute that the schema
/// does not know; a policy that can never apply; characters that only look like others; a template; no policy at all;
/// more than [`MAX_POLICY`] bytes.
pub fn validate(name: &str, text: &str) -> Result<(), PolicyError> {
    parse(name, text).map(drop)
}

/// The policies of a text in their order, named `name#0`, `name#1`, ...
fn parse(name: &str, text: &str) -> Result<Vec<Policy>, PolicyError> {
    if text.len() > MAX_POLICY {
        return Err(PolicyError::whole(name, format_args!("longer than {MAX_POLICY} bytes")));
    }
    check_nesting(name, text)?;
    let model = Model::get().map_err(|error| PolicyError::whole(name, error))?;
    let parsed: PolicySet = text.parse().map_err(|errors| PolicyError::at(name, text, DetailedError::from(&errors)))?;
    if parsed.templates().next().is_some() {
        let message = "templates (`?principal`, `?resource`) cannot be stored: nothing links them";
        return Err(PolicyError::whole(name, message));
    }
    let count = parsed.num_of_policies();
    if count == 0 {
        return Err(PolicyError::whole(name, "there is no policy in the text"));
    }
    let mut policies = Vec::with_capacity(count);
    for index in 0..count {
        // Cedar names the policies of a text by their order.
        let policy = parsed.policy(&PolicyId::new(format!("policy{index}")));
        let policy = policy.ok_or_else(|| PolicyError::whole(name, "its policies cannot be told apart"))?;
        policies.push(policy.new_id(PolicyId::new(format!("{name}#{index}"))));
    }
    check_types(model, name, text, &policies)?;
    Ok(policies)
}

/// How deep brackets and `if`s of one policy may nest.
const MAX_NESTING: usize = 24;

/// How many operators and brackets one policy may have. Cedar recurses per level, and gives up on a policy when the stack
/// runs low. Elements of a set are no operators: a policy may name many entities.
const MAX_OPERATORS: usize = 64;

/// Refuses what would overflow the stack of a parser or evaluator that recurses, before one sees it: each level of a
/// policy's syntax tree comes from a bracket, an `if` or an operator.
fn check_nesting(name: &str, text: &str) -> Result<(), PolicyError> {
    let (mut depth, mut operators) = (0usize, 0usize);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let token = token_len(rest, c);
        let (word, after) = rest.split_at_checked(token).unwrap_or((rest, ""));
        match word {
            ";" => (depth, operators) = (0, 0),
            // A bracket that closes again has still made a level: `a[..][..]`, `f(..).g(..)`.
            "(" | "[" | "{" | "if" => {
                depth = depth.saturating_add(1);
                operators = operators.saturating_add(1);
            }
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "!" | "-" | "+" | "*" | "." | "&" | "|" | "=" | "<" | ">" | "in" | "has" | "like" | "is" => {
                operators = operators.saturating_add(1);
            }
            _ => {}
        }
        if depth > MAX_NESTING || operators > MAX_OPERATORS {
            let mut error = PolicyError::whole(name, "the policy is too deeply nested, or has too many operators");
            error.help = Some("split it into several policies".to_owned());
            (error.line, error.column) = position(text, text.len().saturating_sub(rest.len()));
            return Err(error);
        }
        rest = after;
    }
    Ok(())
}

/// How many bytes the token has that `rest` begins with: a string, a comment, a word or one character.
fn token_len(rest: &str, first: char) -> usize {
    if first == '"' {
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        return end.map_or(rest.len(), |(at, _)| at.saturating_add(1));
    }
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if first.is_alphanumeric() || first == '_' {
        return rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    }
    first.len_utf8()
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count().saturating_add(1), line.chars().count().saturating_add(1))
}

/// Strict validation, policy by policy, so that the first one in the text that is wrong is the one reported.
fn check_types(model: &Model, name: &str, text: &str, policies: &[Policy]) -> Result<(), PolicyError> {
    for policy in policies {
        let alone = PolicySet::from_policies([policy.clone()]).map_err(|error| PolicyError::whole(name, error))?;
        let result = model.validator.validate(&alone, ValidationMode::Strict);
        let errors = result.validation_errors().map(DetailedError::from);
        // Cedar keeps them in no order.
        let start = |error: &DetailedError| error.source_locations.iter().map(|label| label.loc.start).min();
        let first = errors.min_by(|a, b| (start(a), &a.message).cmp(&(start(b), &b.message)));
        // A warning is a policy that never applies, or text that reads as something else: both hide a mistake.
        let first = first
            .or_else(|| result.validation_warnings().map(DetailedError::from).min_by(|a, b| a.message.cmp(&b.message)));
        if let Some(error) = first {
            return Err(PolicyError::at(policy.id().as_ref(), text, error));
        }
    }
    Ok(())
}
