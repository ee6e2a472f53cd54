//! An account of Amazon Web Services, by its IAM: users and their access keys. What STS has issued nobody lists, so that this is for targets whose
//! roles make users.

use super::first_line;
use super::http::{Answer, Http};
use crate::judge::{Identity, Look, Role};
use anyhow::{Context as _, bail};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use roxmltree::{Document, Node};
use serde_json::Value;
use std::path::PathBuf;
use std::time::SystemTime;

const VERSION: &str = "2010-05-08";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
/// All but the unreserved characters (RFC 3986 section 2.3): who verifies a signature may write a body anew.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where it is.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Address {
    /// An IAM of AWS: `iam.amazonaws.com:443`, with `--ca-file`.
    #[arg(long, value_name = "HOST:PORT", group = "kind")]
    aws: Option<String>,
    /// The region that requests to it are signed for.
    #[arg(long, requires = "aws", value_name = "REGION", default_value = "us-east-1")]
    aws_region: String,
    /// The access key of somebody who may `iam:GetAccountAuthorizationDetails` and `iam:ListAccessKeys`.
    #[arg(long, requires = "aws", value_name = "ID", default_value = "")]
    aws_access_key_id: String,
    /// The file whose first line is the secret of that key.
    #[arg(long, requires = "aws", value_name = "FILE")]
    aws_secret_key_file: Option<PathBuf>,
}

pub(crate) struct Aws {
    http: Http,
    region: String,
    credentials: Credentials,
    prefix: String,
}

impl Aws {
    /// None where no AWS was said.
    pub(super) fn new(address: Address, roots: Option<PathBuf>, prefix: &str) -> anyhow::Result<Option<Self>> {
        let Address { aws, aws_region, aws_access_key_id, aws_secret_key_file } = address;
        let Some(address) = aws else { return Ok(None) };
        let secret = first_line(aws_secret_key_file.context("AWS needs --aws-secret-key-file")?)?;
        let credentials = Credentials::new(aws_access_key_id, secret, None, None, "auditor");
        Ok(Some(Self { http: Http::new(address, roots)?, region: aws_region, credentials, prefix: prefix.to_owned() }))
    }

    /// Users first, with what they are denied: a key that is made after that is one of a user who is denied nothing by then.
    pub(super) async fn look(&mut self) -> anyhow::Result<Look> {
        let (mut seen, mut marker) = (Look::default(), None::<String>);
        loop {
            let mut asked = vec![("Action", "GetAccountAuthorizationDetails"), ("Filter.member.1", "User")];
            asked.extend(marker.as_deref().map(|marker| ("Marker", marker)));
            let page = self.ask(&asked).await?.good().context("the users")?;
            let (users, next) = users(std::str::from_utf8(&page)?)?;
            for User { name, is_denied } in users {
                if !name.starts_with(&self.prefix) {
                    continue;
                }
                let can_login = !is_denied && self.has_key(&name).await?;
                seen.roles.insert(name.clone(), Role { identity: Identity::Name(name), can_login });
            }
            marker = next;
            if marker.is_none() {
                return Ok(seen);
            }
        }
    }

    /// Whether a user has a key that is active. One who is gone has none. Nobody may have more than two.
    async fn has_key(&mut self, name: &str) -> anyhow::Result<bool> {
        let answer = self.ask(&[("Action", "ListAccessKeys"), ("UserName", name)]).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let body = answer.good().context("the keys of a user")?;
        let document = Document::parse(std::str::from_utf8(&body)?)?;
        Ok(document.descendants().any(|node| node.has_tag_name_of("Status") && node.text() == Some("Active")))
    }

    async fn ask(&mut self, parameters: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let encoded = |(name, value): &(&str, &str)| format!("&{name}={}", utf8_percent_encode(value, RESERVED));
        let body = format!("Version={VERSION}{}", parameters.iter().map(encoded).collect::<String>());
        let identity = self.credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("iam")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let headers = [("host", self.http.host()), ("content-type", FORM)];
        let bytes = SignableBody::Bytes(body.as_bytes());
        let signable = SignableRequest::new("POST", "https://signed/", headers.into_iter(), bytes)?;
        let (signed, _) = sign(signable, &parameters)?.into_parts();
        let mut request = Request::post("/").header(CONTENT_TYPE, FORM);
        for (name, value) in signed.headers() {
            request = request.header(name, value);
        }
        self.http.call(request, &body).await
    }
}

struct User {
    name: String,
    /// One of its own policies denies it everything.
    is_denied: bool,
}

/// A page of users, and where the next one begins.
fn users(page: &str) -> anyhow::Result<(Vec<User>, Option<String>)> {
    let document = Document::parse(page)?;
    let Some(list) = document.descendants().find(|node| node.has_tag_name_of("UserDetailList")) else {
        bail!("no list of users");
    };
    let mut users = Vec::new();
    for user in list.children().filter(Node::is_element) {
        let name = user.text_of("UserName").context("a user without a name")?.to_owned();
        let policies = user.children().filter(|node| node.has_tag_name_of("UserPolicyList")).flat_map(|l| l.children());
        let is_denied = policies.filter_map(|policy| policy.text_of("PolicyDocument")).any(denies_all);
        users.push(User { name, is_denied });
    }
    let result = list.parent().context("a list in nothing")?;
    let next = result.text_of("IsTruncated").filter(|is| *is == "true").and_then(|_| result.text_of("Marker"));
    Ok((users, next.map(str::to_owned)))
}

/// Whether a policy denies everything, on everything, always. It comes encoded as in an address (RFC 3986), or as it is.
fn denies_all(document: &str) -> bool {
    let decoded = percent_decode_str(document).decode_utf8_lossy().into_owned();
    let Ok(policy) = serde_json::from_str::<Value>(&decoded) else { return false };
    let denies = |statement: &Value| {
        let is = |field: &str, word: &str| match statement.get(field) {
            Some(Value::Array(words)) => words.iter().any(|one| one == word),
            Some(one) => one == word,
            None => false,
        };
        is("Effect", "Deny") && is("Action", "*") && is("Resource", "*") && statement.get("Condition").is_none()
    };
    match policy.get("Statement") {
        Some(Value::Array(statements)) => statements.iter().any(denies),
        Some(statement) => denies(statement),
        None => false,
    }
}

/// Elements by their names, of whatever namespace.
trait Element<'a> {
    fn has_tag_name_of(&self, name: &str) -> bool;
    /// The text of the first child of that name.
    fn text_of(&self, name: &str) -> Option<&'a str>;
}

impl<'a> Element<'a> for Node<'a, '_> {
    fn has_tag_name_of(&self, name: &str) -> bool {
        self.tag_name().name() == name
    }

    fn text_of(&self, name: &str) -> Option<&'a str> {
        self.children().find(|child| child.has_tag_name_of(name))?.text()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_with_what_they_are_denied() {
        let policy = "%7B%22Statement%22%3A%5B%7B%22Effect%22%3A%22Deny%22%2C%22Action%22%3A%22%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";
        let page = format!(
            "<R xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><Result><IsTruncated>true</IsTruncated><UserDetailList>\
             <member><UserName>q1_a</UserName><GroupList/></member>\
             <member><UserName>q1_b</UserName><UserPolicyList><member><PolicyName>ended</PolicyName>\
             <PolicyDocument>{policy}</PolicyDocument></member></UserPolicyList></member>\
             </UserDetailList><Marker>next</Marker></Result></R>"
        );
        let (found, next) = users(&page).unwrap();
        let found: Vec<(&str, bool)> = found.iter().map(|user| (user.name.as_str(), user.is_denied)).collect();
        assert_eq!((found, next.as_deref()), (vec![("q1_a", false), ("q1_b", true)], Some("next")));
        assert!(users("<R/>").is_err() && users("no XML").is_err());
    }

    #[test]
    fn only_what_denies_everything_ends_a_key() {
        let policy = |rest: &str| format!(r#"{{"Version":"2012-10-17","Statement":[{{{rest}}}]}}"#);
        let all = r#""Effect":"Deny","Action":"*","Resource":["*"]"#;
        assert!(denies_all(&policy(all)));
        assert!(!denies_all(&policy(&format!(r#"{all},"Condition":{{}}"#))));
        assert!(!denies_all(&policy(r#""Effect":"Allow","Action":"*","Resource":"*""#)));
        assert!(!denies_all(&policy(r#""Effect":"Deny","Action":"s3:*","Resource":"*""#)));
        assert!(!denies_all("no JSON") && !denies_all("{}"));
    }
}
