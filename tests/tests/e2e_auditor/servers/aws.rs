//! moto beside a cluster, which stands in for AWS and lets in nobody whose signature is not right; as the engine's tests have it.

use super::{Server, describe_at};
use crate::moto::{Key, Moto, executor_arn, signed};
use crate::network::request;
use quorate_api::client::{Credential, Proof};
use quorate_tests::Cluster;
use std::sync::Arc;
use tempfile::NamedTempFile;

const GROUP: &str = "readers";

/// It.
pub(crate) struct Aws {
    moto: Arc<Moto>,
    /// The secret of the administrator's key.
    file: NamedTempFile,
}

impl Aws {
    pub(crate) async fn beside(cluster: &Cluster) -> Self {
        let moto = Moto::start().await;
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{}\n", moto.admin.secret)).unwrap();
        let (port, key) = (moto.port.to_string(), &moto.executor);
        let place = ["--system", "aws", "--host", "127.0.0.1", "--port", &port, "--user", &executor_arn()];
        let place = [&place[..], &["--database", "eu-central-1"]].concat();
        describe_at::<Self>(cluster, &place, &key.text(), &["--group", &format!("group:{GROUP}")]);
        Self { moto, file }
    }

    /// What an administrator is answered, whether he is refused or not.
    async fn ask(&self, action: &str, user: &str, more: &[(&str, &str)]) -> (u16, String) {
        let parameters = [&[("Action", action), ("UserName", user)], more].concat();
        self.moto.ask(&self.moto.admin, "iam", &parameters).await
    }
}

/// Who has a key.
#[derive(Clone)]
pub(crate) struct Caller {
    port: u16,
    key: Key,
}

impl Caller {
    pub(crate) fn of(credential: &Credential) -> Self {
        let Proof::Issued(fields) = &credential.proof else { panic!("a password: {credential:?}") };
        Self { port: credential.port, key: Key::of(fields) }
    }

    /// Whether it is let in.
    pub(crate) async fn is_let_in(&self) -> bool {
        let host = format!("127.0.0.1:{}", self.port);
        let asked = signed(&self.key, "sts", &host, "Version=2011-06-15&Action=GetCallerIdentity");
        let said = String::from_utf8(request(self.port, &asked).await.unwrap()).unwrap();
        let is_let_in = said.starts_with("HTTP/1.1 200");
        assert!(is_let_in || said.starts_with("HTTP/1.1 403"), "{said}");
        is_let_in
    }
}

impl Server for Aws {
    const TARGET: &'static str = "cloud";
    const ROLE: &'static str = "cloud-users";

    fn place(&self) -> Vec<String> {
        let (address, file) = (format!("127.0.0.1:{}", self.moto.port), self.file.path().display().to_string());
        let words = ["--aws", &address, "--aws-access-key-id", &self.moto.admin.id, "--aws-secret-key-file", &file];
        words.map(str::to_owned).to_vec()
    }

    async fn has(&self, login: &str) -> bool {
        self.ask("GetUser", login, &[]).await.0 == 200
    }

    async fn make(&self, login: &str) {
        for (action, more) in [("CreateUser", &[("Path", "/quorate/cloud/user/")][..]), ("CreateAccessKey", &[])] {
            let (status, said) = self.ask(action, login, more).await;
            assert_eq!(status, 200, "{action}: {said}");
        }
    }

    async fn unmake(&self, login: &str) {
        // The vault may be at it, too: what is gone is.
        let (_, keys) = self.ask("ListAccessKeys", login, &[]).await;
        for id in keys.split("<AccessKeyId>").skip(1).filter_map(|rest| rest.split('<').next()) {
            self.ask("DeleteAccessKey", login, &[("AccessKeyId", id)]).await;
        }
        self.ask("RemoveUserFromGroup", login, &[("GroupName", GROUP)]).await;
        self.ask("DeleteUserPolicy", login, &[("PolicyName", "quorate-ended")]).await;
        self.ask("DeleteUser", login, &[]).await;
        assert!(!self.has(login).await, "{login} is gone");
    }

    async fn lets_in(credential: &Credential) -> bool {
        Caller::of(credential).is_let_in().await
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let mut alive = Vec::new();
        for name in self.moto.users().await.into_iter().filter(|name| name.starts_with(prefix)) {
            if self.moto.has_key(&name).await == Some(true) {
                alive.push(name);
            }
        }
        alive
    }
}
