//! The network of a cage: a bridge, and a namespace for each member, the database and the custodian. There is no way out of it.

use crate::cage::tool;
use crate::hold::QUEUE;
use crate::nemesis::cuts::{Cut, End};
use anyhow::Context as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Where this program's clients call from.
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Where this program watches from.
pub(crate) const OBSERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// Where the database is.
pub(crate) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);
/// Where the custodian is.
pub(crate) const CUSTODIAN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 21);

/// The address of somebody.
pub(crate) fn address(end: End) -> Ipv4Addr {
    match end {
        End::Member(index) => Ipv4Addr::new(10, 77, 0, index),
        End::Clients => CLIENTS,
        End::Target => TARGET,
        End::Custodian => CUSTODIAN,
    }
}

/// The network namespace of somebody; clients are in that of this program.
pub(crate) fn namespace(end: End) -> Option<String> {
    match end {
        End::Member(index) => Some(format!("n{index}")),
        End::Clients => None,
        End::Target => Some("target".to_owned()),
        End::Custodian => Some("custodian".to_owned()),
    }
}

/// Who holds somebody's packets back.
#[derive(Debug)]
pub(crate) struct Holder {
    space: String,
    from: Option<End>,
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

/// The bridge and the namespaces, made.
#[derive(Debug)]
pub(crate) struct Network(());

impl Network {
    /// Makes it for so many members.
    pub(crate) async fn create(nodes: u8) -> anyhow::Result<Self> {
        tool("ip", &["link", "add", "name", "hub", "type", "bridge"]).await?;
        for own in [OBSERVER, CLIENTS] {
            tool("ip", &["addr", "add", &format!("{own}/24"), "dev", "hub"]).await?;
        }
        tool("ip", &["link", "set", "hub", "up"]).await?;
        for end in (1..=nodes).map(End::Member).chain([End::Target, End::Custodian]) {
            let Some(name) = namespace(end) else { continue };
            let outer = format!("v-{name}");
            tool("ip", &["netns", "add", &name]).await?;
            let pair = ["link", "add", "name", &outer, "type", "veth", "peer", "name", "eth0", "netns", &name];
            tool("ip", &pair).await?;
            tool("ip", &["link", "set", &outer, "master", "hub", "up"]).await?;
            tool("ip", &["-n", &name, "addr", "add", &format!("{}/24", address(end)), "dev", "eth0"]).await?;
            tool("ip", &["-n", &name, "link", "set", "eth0", "up"]).await?;
            tool("ip", &["-n", &name, "link", "set", "lo", "up"]).await?;
        }
        Ok(Self(()))
    }

    /// Drops packets of each of these ways where they arrive, until [`Network::mend`].
    pub(crate) async fn cut(&self, fault: u32, cuts: &BTreeSet<Cut>) -> anyhow::Result<()> {
        let mut rules: BTreeMap<End, Vec<String>> = BTreeMap::new();
        for (from, to) in cuts {
            rules.entry(*to).or_default().push(format!("ip saddr {} counter drop", address(*from)));
        }
        for (at, rules) in rules {
            // Only what is for this address: in the namespace of clients there is the observer's too.
            let here = address(at);
            let rules: Vec<String> = rules.iter().map(|rule| format!("ip daddr {here} {rule}")).collect();
            filter(at, fault, &rules).await?;
        }
        Ok(())
    }

    /// Drops a part of all packets that arrive at a member, until [`Network::mend`].
    pub(crate) async fn lose(&self, fault: u32, members: &[u8], percent: u64) -> anyhow::Result<()> {
        for member in members {
            let rule = format!("numgen random mod 100 < {percent} counter drop");
            filter(End::Member(*member), fault, &[rule]).await?;
        }
        Ok(())
    }

    /// Takes the rules of a fault away, and says how many packets they have dropped, by where.
    pub(crate) async fn mend(&self, fault: u32, at: &[End]) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut dropped = BTreeMap::new();
        for end in at {
            let table = format!("chaos{fault}");
            let Ok(list) = nft(*end, &["--json", "list", "table", "inet", &table], "").await else { continue };
            let place = namespace(*end).unwrap_or_else(|| "clients".to_owned());
            dropped.insert(format!("packets dropped at {place}"), packets(&list)?);
            nft(*end, &["delete", "table", "inet", &table], "").await?;
        }
        Ok(dropped)
    }

    /// Resets every TCP connection of somebody; how many sockets the kernel has destroyed.
    pub(crate) async fn reset(&self, whose: End) -> anyhow::Result<u64> {
        let name = namespace(whose).context("clients are not reset")?;
        let space = format!("--net=/run/netns/{name}");
        let said = tool("nsenter", &[&space, "ss", "--kill", "--no-header", "--tcp", "state", "established"]).await?;
        Ok(u64::try_from(said.lines().filter(|line| !line.trim().is_empty()).count())?)
    }

    /// Has packets that arrive at somebody wait, all or those of one sender, until [`Network::let_go`]. Times in milliseconds.
    pub(crate) async fn hold(
        &self,
        whose: End,
        from: Option<End>,
        (delay, jitter): (u64, u64),
        seed: u64,
    ) -> anyhow::Result<Holder> {
        let name = namespace(whose).context("packets of clients are not held back")?;
        let space = format!("--net=/run/netns/{name}");
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let numbers = [delay, jitter, seed].map(|number| number.to_string());
        let [delay, jitter, seed] = &numbers;
        let mut child = Command::new("nsenter")
            .arg(&space)
            .arg(own)
            .args(["hold", "--delay", delay, "--jitter", jitter, "--seed", seed])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot hold packets")?;
        let mut said = BufReader::new(child.stdout.take().context("no output")?).lines();
        anyhow::ensure!(said.next_line().await?.as_deref() == Some("ready"), "packets cannot be held");
        queue(&space, "--append", from).await?;
        Ok(Holder { space, from, child, said })
    }

    /// Lets them go; how many were held, and how many of them were overtaken.
    pub(crate) async fn let_go(&self, mut holder: Holder) -> anyhow::Result<(u64, u64)> {
        queue(&holder.space, "--delete", holder.from).await?;
        drop(holder.child.stdin.take());
        let line = holder.said.next_line().await?.context("the holder of packets has ended")?;
        holder.child.wait().await?;
        let (held, overtaken) = line.split_once(' ').context("the holder of packets says nothing")?;
        Ok((held.parse()?, overtaken.parse()?))
    }

    /// Makes a member's interface slow, until [`Network::quicken`].
    pub(crate) async fn slow(&self, member: u8) -> anyhow::Result<()> {
        let name = format!("n{member}");
        let shape = ["-n", &name, "qdisc", "add", "dev", "eth0", "root", "tbf"];
        let how = ["rate", "256kbit", "burst", "4kb", "latency", "800ms"];
        tool("tc", &[shape.as_slice(), &how].concat()).await?;
        Ok(())
    }

    /// Ends that; how many packets had to wait or were dropped.
    pub(crate) async fn quicken(&self, member: u8) -> anyhow::Result<BTreeMap<String, u64>> {
        let name = format!("n{member}");
        let text = tool("tc", &["-n", &name, "-s", "-j", "qdisc", "show", "dev", "eth0"]).await?;
        tool("tc", &["-n", &name, "qdisc", "del", "dev", "eth0", "root"]).await?;
        let list: Value = serde_json::from_str(&text).context("what tc says")?;
        let count = |key: &str| list.pointer(&format!("/0/{key}")).and_then(Value::as_u64).unwrap_or(0);
        let held = count("overlimits");
        Ok(BTreeMap::from([
            (format!("packets held back at {name}"), held),
            (format!("packets dropped by the shaper at {name}"), count("drops")),
        ]))
    }
}

/// Appends or deletes the rule that has arriving packets wait. It is one of iptables: nft's own word for it is not in every kernel.
async fn queue(space: &str, what: &str, from: Option<End>) -> anyhow::Result<()> {
    let (number, from) = (QUEUE.to_string(), from.map(|end| address(end).to_string()));
    let of: Vec<&str> = from.iter().flat_map(|from| ["--source", from.as_str()]).collect();
    let rule = ["--jump", "NFQUEUE", "--queue-num", &number, "--queue-bypass"];
    tool("nsenter", &[[space, "iptables", "--wait", what, "INPUT"].as_slice(), &of, &rule].concat()).await?;
    Ok(())
}

async fn filter(at: End, fault: u32, rules: &[String]) -> anyhow::Result<()> {
    let rules = rules.join("\n");
    let table = format!(
        "table inet chaos{fault} {{\nchain in {{\ntype filter hook input priority 0; policy accept;\n{rules}\n}}\n}}\n"
    );
    nft(at, &["--file", "-"], &table).await?;
    Ok(())
}

/// Has the packet filter of somebody's namespace do something.
async fn nft(at: End, arguments: &[&str], script: &str) -> anyhow::Result<String> {
    let mut command = match namespace(at) {
        Some(name) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{name}")).arg("nft");
            command
        }
        None => Command::new("nft"),
    };
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft: is nftables installed?")?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing may have ended.
        let _ = stdin.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "nft {} refused: {}\n{script}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The sum of all packet counters of what nft lists.
fn packets(list: &str) -> anyhow::Result<u64> {
    fn sum(value: &Value) -> u64 {
        match value {
            Value::Object(all) => all
                .iter()
                .map(|(key, value)| match key.as_str() {
                    "counter" => value.get("packets").and_then(Value::as_u64).unwrap_or(0),
                    _ => sum(value),
                })
                .sum(),
            Value::Array(all) => all.iter().map(sum).sum(),
            _ => 0,
        }
    }
    Ok(sum(&serde_json::from_str(list).context("what nft says")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up() {
        let said = r#"{"nftables": [{"metainfo": {"version": "1"}}, {"rule": {"expr": [{"match": {"op": "=="}},
            {"counter": {"packets": 3, "bytes": 180}}, {"drop": null}]}}, {"rule": {"expr": [{"counter": {"packets": 4}}]}}]}"#;
        assert_eq!(packets(said).unwrap(), 7);
        assert!(packets("no").is_err());
    }
}
