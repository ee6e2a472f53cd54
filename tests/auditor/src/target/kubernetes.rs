//! A Kubernetes. It lists no tokens: one lets in for as long as the Secret is there to which it is bound, and that is what is looked for.

use super::first_line;
use super::http::{Answer, Http};
use crate::judge::{Identity, Look, Role};
use anyhow::Context as _;
use hyper::Request;
use hyper::header::AUTHORIZATION;
use serde_json::Value;
use std::path::PathBuf;

/// What the names of leases' Secrets end with, for theirs may not end with what a login's may.
const SUFFIX: &str = "-quorate";
/// How many a page is to have.
const PAGE: usize = 500;

/// Where it is.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Address {
    /// A Kubernetes' API server.
    #[arg(long, value_name = "HOST:PORT", group = "kind")]
    kubernetes: Option<String>,
    /// The namespace in which leases have their Secrets.
    #[arg(long, requires = "kubernetes", value_name = "NAMESPACE", default_value = "default")]
    kubernetes_namespace: String,
    /// The file with a token of somebody who may list Secrets there.
    #[arg(long, requires = "kubernetes", value_name = "FILE")]
    kubernetes_token_file: Option<PathBuf>,
}

pub(crate) struct Kubernetes {
    http: Http,
    path: String,
    authorization: String,
    prefix: String,
}

impl Kubernetes {
    /// None where no Kubernetes was said.
    pub(super) fn new(address: Address, roots: Option<PathBuf>, prefix: &str) -> anyhow::Result<Option<Self>> {
        let Address { kubernetes, kubernetes_namespace, kubernetes_token_file } = address;
        let Some(address) = kubernetes else { return Ok(None) };
        let token = first_line(kubernetes_token_file.context("Kubernetes needs --kubernetes-token-file")?)?;
        let path = format!("/api/v1/namespaces/{kubernetes_namespace}/secrets?limit={PAGE}");
        let authorization = format!("Bearer {token}");
        Ok(Some(Self { http: Http::new(address, roots)?, path, authorization, prefix: prefix.to_owned() }))
    }

    /// All pages are of one moment, which is that of the first or later: they are asked for without `resourceVersion`.
    pub(super) async fn look(&mut self) -> anyhow::Result<Look> {
        let (mut seen, mut path) = (Look::default(), self.path.clone());
        loop {
            let request = Request::get(&path).header(AUTHORIZATION, &self.authorization);
            let page = self.http.call(request, "").await.and_then(Answer::json).context("a list of Secrets")?;
            for secret in page.get("items").and_then(Value::as_array).context("a list without items")? {
                let name =
                    secret.pointer("/metadata/name").and_then(Value::as_str).context("a Secret without a name")?;
                if let Some(name) = login(name).filter(|name| name.starts_with(&self.prefix)) {
                    let identity = Identity::Name(name.clone());
                    seen.roles.insert(name, Role { identity, can_login: true });
                }
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                // What it says so can stand in an address as it is: base64 for such.
                Some(next) if !next.is_empty() => path = format!("{}&continue={next}", self.path),
                _ => return Ok(seen),
            }
        }
    }
}

/// The login whose Secret has this name: there `_` is written `-`, which no login has.
fn login(secret: &str) -> Option<String> {
    Some(secret.strip_suffix(SUFFIX)?.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_says_whose_it_is() {
        assert_eq!(login("q1f0a77c2-0a1b-quorate").as_deref(), Some("q1f0a77c2_0a1b"));
        assert_eq!(login("quorate.6b.1.00000001"), None);
        assert_eq!(login("default-token"), None);
    }
}
