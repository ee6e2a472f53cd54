//! The command line: which commands there are, and who runs them.

use crate::connection::Connection;
use crate::output::Format;
use crate::passphrase::Passphrases;
use crate::{
    audit, client_ca, clock, custodian, dev, identity, init, keyring, lease, member, mount, node, policy, role, run,
    secret, status, target, view,
};
use clap::{Parser, Subcommand};

/// A distributed secrets vault: every power takes a quorum of nodes that each decide for themselves.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    passphrases: Passphrases,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try it: three nodes or more, a custodian and a database on this machine.
    Dev(dev::Dev),
    /// Make a member's keys; record that one is gone.
    #[command(subcommand)]
    Member(member::Command),
    /// Begin a cluster from its members' cards.
    Init(init::Init),
    /// Run a member.
    Node(node::Node),
    /// Make the cluster's keyrings.
    #[command(subcommand)]
    Keyring(keyring::Command),
    /// Issue, renew, block and unblock callers.
    #[command(subcommand)]
    Identity(identity::Command),
    /// Replace the CA of callers, by the administrators' word alone.
    #[command(subcommand)]
    ClientCa(client_ca::Command),
    /// Set cluster time right.
    #[command(subcommand)]
    Clock(clock::Command),
    /// The customer's side: keys, the custodian itself, freezing it.
    #[command(subcommand)]
    Custodian(custodian::Command),
    /// Register customers' keys.
    #[command(subcommand)]
    CustomerKey(mount::CustomerKeyCommand),
    /// Make namespaces.
    #[command(subcommand)]
    Namespace(mount::NamespaceCommand),
    /// Make and list mounts.
    #[command(subcommand)]
    Mount(mount::MountCommand),
    /// Write, show and remove policies.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Store a new version of a secret, read from standard input or a file.
    Put(secret::Put),
    /// Open a secret.
    Get(secret::Get),
    /// List secrets below a prefix.
    List(secret::List),
    /// Show the versions of a secret.
    Versions(secret::Versions),
    /// Hide versions; the newest when none is named.
    Delete(secret::TakenAway),
    /// Bring deleted versions back.
    Undelete(secret::Numbered),
    /// Erase versions for ever.
    Destroy(secret::TakenAway),
    /// Describe systems in which leases make logins.
    #[command(subcommand)]
    Target(target::TargetCommand),
    /// Describe what leases get.
    #[command(subcommand)]
    Role(role::RoleCommand),
    /// Bound how many leases there may be at once.
    #[command(subcommand)]
    Quota(role::QuotaCommand),
    /// Take, look at, renew and revoke short-lived credentials.
    #[command(subcommand)]
    Lease(lease::Command),
    Run(run::Run),
    /// Show the cluster as every member sees it.
    Status,
    /// Print what there is to alert on, in the text format of Prometheus: `deploy/alerts.yml` has the alerts.
    Metrics,
    /// Verify and show a member's audit log.
    #[command(subcommand)]
    Audit(audit::Command),
    /// A scratch database for `dev`.
    #[command(hide = true)]
    ScratchPostgres(dev::ScratchPostgres),
}

impl Cli {
    /// Runs the command.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { output, connection, passphrases, command } = self;
        match command {
            Command::Dev(dev) => dev::run(&dev).await,
            Command::Member(command) => member::run(command, &connection, &passphrases, output).await,
            Command::Init(init) => init::run(&init, &passphrases, output),
            Command::Node(node) => node::run(&node).await,
            Command::Keyring(command) => keyring::run(command, &connection, &passphrases, output).await,
            Command::Identity(command) => identity::run(command, &connection, &passphrases, output).await,
            Command::ClientCa(command) => client_ca::run(command, &connection, &passphrases, output).await,
            Command::Clock(command) => clock::run(command, &connection, &passphrases, output).await,
            Command::Custodian(command) => custodian::run(command, &connection, &passphrases, output).await,
            Command::CustomerKey(command) => mount::customer_key(command, &connection, &passphrases, output).await,
            Command::Namespace(command) => mount::namespace(command, &connection, output).await,
            Command::Mount(command) => mount::mount(command, &connection, output).await,
            Command::Policy(command) => policy::run(command, &connection, &passphrases, output).await,
            Command::Put(put) => secret::put(put, &connection, output).await,
            Command::Get(get) => secret::get(get, &connection, output).await,
            Command::List(list) => secret::list(list, &connection, output).await,
            Command::Versions(versions) => secret::versions(versions, &connection, output).await,
            Command::Delete(which) => secret::delete(which, &connection, output).await,
            Command::Undelete(which) => secret::undelete(which, &connection, output).await,
            Command::Destroy(which) => secret::destroy(which, &connection, output).await,
            Command::Target(command) => target::target(command, &connection, &passphrases, output).await,
            Command::Role(command) => role::role(command, &connection, output).await,
            Command::Quota(command) => role::quota(command, &connection, output).await,
            Command::Lease(command) => lease::run(command, &connection, output).await,
            Command::Run(command) => run::run(command, &connection).await,
            Command::Status => status::run(&connection, output).await,
            Command::Metrics => view::metrics(&connection).await,
            Command::Audit(command) => audit::run(&command, output),
            Command::ScratchPostgres(postgres) => dev::scratch_postgres(&postgres).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_secret_can_be_given_as_an_argument_or_in_the_environment() {
        fn walk(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let secret = name.contains("password") || name.contains("passphrase");
                // Says where a password goes, and takes none.
                let secret = secret && argument.get_action().takes_values();
                assert!(!secret || name.ends_with("_file") || name.ends_with("_fd"), "{name}");
                let pin = name == "pin" || name.starts_with("pin_") || name.ends_with("_pin");
                assert!(!pin || name.ends_with("_credential") || name.ends_with("_fd"), "{name}");
                let env = argument.get_env().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
                assert!(!env.contains("PASS") && !env.contains("SECRET"), "{env}");
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }

    #[test]
    fn what_can_take_something_away_can_be_waited_for() {
        let taking = "policy put, policy delete, identity block, delete, destroy, role add, role delete, lease revoke, \
                      client-ca replace, member record, target remove";
        let cli = Cli::command();
        for path in taking.split(", ") {
            let command = path.split(' ').fold(&cli, |command, name| {
                command.find_subcommand(name).unwrap_or_else(|| panic!("{path} is no command"))
            });
            let waits = command.get_arguments().any(|a| a.get_long() == Some("wait-effective"));
            assert!(waits, "`quorate {path}` takes something away and has no --wait-effective");
        }
    }

    #[test]
    fn a_record_of_a_member_names_it_and_says_why() {
        let parse =
            |words: &str| Cli::try_parse_from(["quorate", "member", "record"].into_iter().chain(words.split(' ')));
        assert!(parse("--destroyed n3 --reason burned --operator o").is_ok());
        assert!(parse("--powered-off n3 --reason sold --administrator a --wait-effective 5s").is_ok());
        for bad in [
            "--destroyed n3 --operator o",
            "--destroyed --reason burned --operator o",
            "--reason burned --operator o",
            "--destroyed n3 --powered-off n2 --reason burned --operator o",
            "--destroyed n3 --reason burned",
        ] {
            assert!(parse(bad).is_err(), "`quorate member record {bad}` was taken");
        }
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = Cli::try_parse_from(["quorate", "status", "--output", "json", "--profile", "p"]).unwrap();
        assert_eq!(cli.output, Format::Json);
        assert!(Cli::try_parse_from(["quorate", "--profile", "p", "get", "default:app/x"]).is_ok());
        assert!(Cli::try_parse_from(["quorate", "get", "a", "--custodian", "h:1", "--fragment", "f"]).is_err());
    }
}
