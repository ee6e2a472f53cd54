//! What is asked and answered, as JSON (docs/webhook.md). What an answer has more than is named here is not read.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Binding, Principal};

/// What a receiver is asked to do. The name is the end of the path, and stands in the body, since a path is not signed.
pub(super) trait Act: Serialize + Sync {
    const NAME: &'static str;
    /// Whether a refusal means that there was no effect, so that nothing may be said once an answer was lost.
    const IS_DEFINITE: bool;
    type Answer: DeserializeOwned;
}

macro_rules! acts {
    ($($act:ty => $name:literal, $answer:ty;)*) => {
        $(impl Act for $act {
            const NAME: &'static str = $name;
            const IS_DEFINITE: bool = matches!($name.as_bytes(), b"create" | b"set-password");
            type Answer = $answer;
        })*
    };
}

acts! {
    Bind => "bind", Bound;
    TakeOver => "take-over", Ended;
    CreateAccount<'_> => "create", Made;
    Fence<'_> => "fence", Standing;
    Refuse<'_> => "refuse", Principals<RefusedOne>;
    Kill<'_> => "kill", Ended;
    Look<'_> => "look", Principals<SeenOne>;
    Clean<'_> => "clean", Principals<CleanedOne>;
    List<'_> => "list", Listed;
    Ghosts => "ghosts", Sessions;
    Check<'_> => "check", Report;
    Timeline => "timeline", Lived;
    Claims<'_> => "claims", Named;
    Claim<'_> => "claim", Done;
    Disclaim<'_> => "disclaim", Stayed;
    SetPassword<'_> => "set-password", Done;
    EndStrangers => "end-strangers", Ended;
    TryOut<'_> => "try-out", Tried;
}

/// The body of a request.
#[derive(Serialize)]
pub(super) struct Asked<'a, A> {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) target: &'a str,
    pub(super) term: u64,
    pub(super) data: &'a A,
}

/// The body of an answer that is signed: `data` or `error`.
#[derive(Deserialize)]
pub(super) struct Said<T> {
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The life of the receiver that answered.
    pub(super) instance: u32,
    pub(super) data: Option<T>,
    pub(super) error: Option<Wrong>,
}

/// Why something was not done. The whole of an answer that is not signed.
#[derive(Deserialize)]
pub(super) struct Wrong {
    pub(super) code: String,
    pub(super) message: String,
}

/// What is not signed.
#[derive(Deserialize)]
pub(super) struct Unsigned {
    pub(super) error: Wrong,
}

/// What may be null, and has to be said all the same: nothing is taken for "there is none" but that.
fn null_too<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    Option::deserialize(from)
}

/// A session of an executor at the receiver.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Session {
    instance: i32,
    number: i64,
}

impl From<&Binding> for Session {
    fn from(binding: &Binding) -> Self {
        Self { instance: binding.pid, number: binding.backend_start_micros }
    }
}

#[derive(Clone, Serialize)]
pub(super) struct One<'a> {
    name: &'a str,
    number: Option<u32>,
}

pub(super) fn ones(principals: &[Principal]) -> Vec<One<'_>> {
    principals.iter().map(|p| One { name: &p.name, number: p.oid }).collect()
}

#[derive(Serialize)]
pub(super) struct Bind {
    pub(super) keep: Option<Session>,
}

#[derive(Deserialize)]
pub(super) struct Bound {
    pub(super) session: i64,
}

#[derive(Serialize)]
pub(super) struct TakeOver {}

#[derive(Deserialize)]
pub(super) struct Ended {
    pub(super) ended: u32,
}

#[derive(Serialize)]
pub(super) struct CreateAccount<'a> {
    pub(super) idempotency_key: String,
    pub(super) name: &'a str,
    pub(super) verifier: &'a str,
    pub(super) groups: &'a [String],
    pub(super) connection_limit: i32,
    pub(super) max_ttl_seconds: u64,
    pub(super) session: Session,
}

#[derive(Deserialize)]
pub(super) struct Made {
    pub(super) number: u32,
}

#[derive(Serialize)]
pub(super) struct Fence<'a> {
    pub(super) name: &'a str,
    pub(super) session: Session,
}

#[derive(Deserialize)]
pub(super) struct Standing {
    #[serde(deserialize_with = "null_too")]
    pub(super) number: Option<u32>,
}

macro_rules! of_principals {
    ($($name:ident)*) => {
        $(#[derive(Serialize)]
        pub(super) struct $name<'a> {
            pub(super) principals: Vec<One<'a>>,
        })*
    };
}

of_principals! { Refuse Kill Look Clean }

/// One for each that was asked for, in that order.
#[derive(Deserialize)]
pub(super) struct Principals<T> {
    pub(super) principals: Vec<T>,
}

#[derive(Deserialize)]
pub(super) struct RefusedOne {
    pub(super) name: String,
    #[serde(deserialize_with = "null_too")]
    pub(super) number: Option<u32>,
    pub(super) outcome: RefusedAs,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RefusedAs {
    Dropped,
    Disabled,
    Absent,
    Failed,
}

#[derive(Deserialize)]
pub(super) struct SeenOne {
    pub(super) name: String,
    #[serde(deserialize_with = "null_too")]
    pub(super) number: Option<u32>,
    pub(super) can_login: bool,
    pub(super) sessions: u64,
    #[serde(default)]
    pub(super) held_by: Option<String>,
    #[serde(default)]
    pub(super) doubt: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct CleanedOne {
    pub(super) name: String,
    pub(super) outcome: CleanedAs,
    #[serde(default)]
    pub(super) left: Vec<String>,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CleanedAs {
    Gone,
    Left,
}

#[derive(Serialize)]
pub(super) struct List<'a> {
    pub(super) prefix: &'a str,
    pub(super) after: Option<&'a str>,
    pub(super) limit: usize,
}

#[derive(Deserialize)]
pub(super) struct Listed {
    pub(super) principals: Vec<ListedOne>,
    pub(super) more: bool,
}

#[derive(Deserialize)]
pub(super) struct ListedOne {
    pub(super) name: String,
    pub(super) number: u32,
}

#[derive(Serialize)]
pub(super) struct Ghosts {}

#[derive(Deserialize)]
pub(super) struct Sessions {
    pub(super) sessions: Vec<GhostOne>,
}

#[derive(Deserialize)]
pub(super) struct GhostOne {
    pub(super) id: i32,
    pub(super) number: u32,
}

#[derive(Serialize)]
pub(super) struct Check<'a> {
    pub(super) groups: &'a [String],
}

#[derive(Deserialize)]
pub(super) struct Report {
    pub(super) release: u32,
    pub(super) timeline: u32,
    pub(super) logins: u32,
    pub(super) unfit: Vec<Unfit>,
    pub(super) missing: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Unfit {
    pub(super) name: String,
    pub(super) reason: String,
}

#[derive(Serialize)]
pub(super) struct Timeline {}

#[derive(Deserialize)]
pub(super) struct Lived {
    pub(super) timeline: u32,
}

#[derive(Serialize)]
pub(super) struct Claims<'a> {
    pub(super) prefix: &'a str,
    pub(super) after: Option<&'a str>,
    pub(super) limit: usize,
}

#[derive(Deserialize)]
pub(super) struct Named {
    pub(super) names: Vec<String>,
    pub(super) more: bool,
}

#[derive(Serialize)]
pub(super) struct Claim<'a> {
    pub(super) name: &'a str,
}

#[derive(Deserialize)]
pub(super) struct Done {}

#[derive(Serialize)]
pub(super) struct Disclaim<'a> {
    pub(super) names: &'a [String],
}

#[derive(Deserialize)]
pub(super) struct Stayed {
    pub(super) stay: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct SetPassword<'a> {
    pub(super) secret: &'a str,
    pub(super) session: Session,
}

#[derive(Serialize)]
pub(super) struct EndStrangers {
    pub(super) own: Vec<Session>,
}

#[derive(Serialize)]
pub(super) struct TryOut<'a> {
    pub(super) name: &'a str,
    pub(super) secret: &'a str,
}

#[derive(Deserialize)]
pub(super) struct Tried {
    pub(super) let_in: bool,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/webhook-v1.jsonl");

    fn line<A: Act>(act: &A) -> String {
        let kind = format!("quorate.v1.{}", A::NAME);
        serde_json::to_string(&Asked { kind, target: "t1", term: 7, data: act }).unwrap()
    }

    /// Others have written receivers of these.
    #[test]
    fn requests_are_frozen() {
        let session = Session { instance: 831, number: 12 };
        let (name, groups, names) = ("q_1", ["readers".to_owned()], ["q_1".to_owned()]);
        let principals = || vec![One { name, number: Some(5) }, One { name: "q_2", number: None }];
        let create = CreateAccount {
            idempotency_key: "q_1/create".to_owned(),
            name,
            verifier: "v",
            groups: &groups,
            connection_limit: 5,
            max_ttl_seconds: 3600,
            session,
        };
        let lines = [
            line(&Bind { keep: None }),
            line(&Bind { keep: Some(session) }),
            line(&TakeOver {}),
            line(&create),
            line(&Fence { name, session }),
            line(&Refuse { principals: principals() }),
            line(&Kill { principals: principals() }),
            line(&Look { principals: principals() }),
            line(&Clean { principals: principals() }),
            line(&List { prefix: "q_", after: None, limit: 1000 }),
            line(&Ghosts {}),
            line(&Check { groups: &groups }),
            line(&Timeline {}),
            line(&Claims { prefix: "q_", after: Some(name), limit: 1000 }),
            line(&Claim { name }),
            line(&Disclaim { names: &names }),
            line(&SetPassword { secret: "whsec_", session }),
            line(&EndStrangers { own: vec![session] }),
            line(&TryOut { name, secret: "\"" }),
        ];
        assert_eq!(lines.to_vec(), GOLDEN.lines().collect::<Vec<_>>());
    }

    /// What a receiver of this version may leave out, and may say more.
    #[test]
    fn answers_are_read() {
        fn read<A: Act>(data: &str) -> bool {
            let said = format!(r#"{{"type":"x","instance":1,"more":[],"data":{data}}}"#);
            serde_json::from_str::<Said<A::Answer>>(&said).is_ok_and(|said| said.data.is_some() && said.error.is_none())
        }
        assert!(read::<Fence<'_>>(r#"{"number":null,"more":1}"#) && read::<Claim<'_>>("{}"));
        assert!(read::<Refuse<'_>>(r#"{"principals":[{"name":"q_1","number":null,"outcome":"absent"}]}"#));
        assert!(read::<Look<'_>>(r#"{"principals":[{"name":"q_1","number":1,"can_login":false,"sessions":0}]}"#));
        assert!(read::<Clean<'_>>(r#"{"principals":[{"name":"q_1","outcome":"gone"}]}"#));
        assert!(!read::<Refuse<'_>>(r#"{"principals":[{"name":"q_1","number":null,"outcome":"perhaps"}]}"#));
        assert!(!read::<Look<'_>>(r#"{"principals":[{"name":"q_1","number":1,"sessions":0}]}"#), "it has to say");
        assert!(!read::<Look<'_>>(r#"{"principals":[{"name":"q_1","number":1,"can_login":false,"sessions":-1}]}"#));
        assert!(
            read::<TryOut<'_>>(r#"{"let_in":false}"#) && !read::<TryOut<'_>>(r#"{"reason":null}"#),
            "it has to say"
        );
        assert!(!read::<TryOut<'_>>(r#"{"let_in":"yes"}"#) && !read::<TryOut<'_>>(r#"{"let_in":1}"#));
        assert!(!read::<Fence<'_>>("{}"), "nothing is not null");
        assert!(!read::<Look<'_>>(r#"{"principals":[{"name":"q_1","can_login":false,"sessions":0}]}"#));
        assert!(!read::<CreateAccount<'_>>(r#"{"number":4294967296}"#) && !read::<CreateAccount<'_>>("{}"));
    }
}
