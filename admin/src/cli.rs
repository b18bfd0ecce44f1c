//! The command line: every word of `hsraft`, a noun a file.
//!
//! Words, flags and aliases are Headscale's where it has them; removed ones still work where they have a meaning. Data
//! goes to standard output, everything else to standard error, and exit codes are stable ([`problem::exit`]).
//!
//! `node` starts members itself: it calls [`parse`], handles [`Word::Serve`], [`Word::Join`], [`Word::Configtest`] and
//! [`Word::Check`],
//! and hands everything else to [`run`].

mod api_keys;
mod audit;
pub mod backup;
mod bundle;
mod certificates;
pub mod check;
mod cluster;
mod debug;
mod desk;
mod dialect;
mod drill;
mod lab;
mod leave;
pub(crate) mod moving;
mod nodes;
mod oauth_clients;
mod output;
mod policy;
mod pre_auth_keys;
pub mod problem;
mod routes;
mod server;
mod shell;
mod spans;
mod ssh;
mod table;
mod upgrade;
mod users;
mod verify;
mod webhooks;
mod words;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand};

pub(crate) use output::{Format, Output};

use problem::{Problem, exit};
use raft::World;

/// hsraft: a Tailscale control server whose state survives the loss of a machine.
#[derive(Debug, Parser)]
#[command(name = "hsraft", version = concat!(env!("CARGO_PKG_VERSION")), disable_help_subcommand = false)]
#[command(
    after_help = "Start here:\n  hsraft lab up             three members on this machine\n  hsraft serve              a member of its own\n  hsraft token create       a ticket for the next member\n  hsraft status             how the cluster is"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub word: Word,
}

/// What every word understands.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Configuration file [default: config.yaml in /etc/hsraft, /etc/headscale, ~/.headscale or here]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Output for programs: json, json-line or yaml
    #[arg(short, long, global = true, default_value = "", hide_default_value = true, value_name = "FORMAT")]
    pub output: Format,
    /// Answer yes to every question
    #[arg(long, global = true, alias = "yes")]
    pub force: bool,
    /// Unix socket of the local member [env: HSRAFT_SOCKET]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Which member")]
    pub socket: Option<PathBuf>,
    /// URL of a remote member; its key comes from HSRAFT_CLI_API_KEY [env: HSRAFT_CLI_ADDRESS, HEADSCALE_CLI_ADDRESS]
    #[arg(long, global = true, value_name = "URL", help_heading = "Which member")]
    pub address: Option<String>,
    /// Trust the issuers in this PEM file alone
    #[arg(long, global = true, value_name = "FILE", help_heading = "Which member")]
    pub ca_file: Option<PathBuf>,
    /// Believe any certificate [env: HSRAFT_CLI_INSECURE, HEADSCALE_CLI_INSECURE]
    #[arg(long, global = true, help_heading = "Which member")]
    pub insecure: bool,
    /// How long to wait for an answer, such as 30s
    #[arg(long, global = true, value_parser = spans::parse, value_name = "SPAN", help_heading = "Which member")]
    pub timeout: Option<Duration>,
}

/// The first word.
#[derive(Debug, Subcommand)]
pub enum Word {
    /// Run a member: found a cluster when the data folder is empty, continue otherwise
    #[command(after_help = "Example:\n  hsraft serve --config /etc/hsraft/config.yaml")]
    Serve(ServeArgs),
    /// Bring this machine into a cluster, then run as its member
    #[command(after_help = "Example:\n  hsraft join 10.0.0.1:7443 --token hsr1.… --config /etc/hsraft/config.yaml")]
    Join(JoinArgs),
    /// Check the configuration file and say what is wrong with it
    #[command(after_help = "Example:\n  hsraft configtest --config /etc/hsraft/config.yaml")]
    Configtest(ConfigtestArgs),
    /// Measure disk, network and surroundings, and say whether a member can run here; exits 16 when not
    #[command(after_help = "Example:\n  hsraft check\n  hsraft check perf,net --members 10.0.0.1:7443 -o json")]
    Check(check::CheckArgs),
    /// The configuration file itself
    #[command(subcommand)]
    Config(ConfigWord),
    /// A login provider for trying things out; it lets everybody in and asks nothing
    #[command(
        name = "mockoidc",
        after_help = "Example:\n  MOCKOIDC_CLIENT_ID=hsraft MOCKOIDC_CLIENT_SECRET=secret MOCKOIDC_ADDR=127.0.0.1 MOCKOIDC_PORT=10000 \\\n    MOCKOIDC_USERS='[{\"Subject\":\"1\",\"Email\":\"ann@example.com\",\"EmailVerified\":true,\"PreferredUsername\":\"ann\"}]' hsraft mockoidc"
    )]
    MockOidc,

    /// Users: who owns nodes
    #[command(subcommand, alias = "user", aliases = ["namespaces", "namespace", "ns"])]
    Users(users::Users),
    /// Nodes: the machines of the tailnet
    #[command(subcommand, alias = "node", aliases = ["machines", "machine"])]
    Nodes(nodes::Nodes),
    /// Pre-auth keys: let nodes in without a person
    #[command(subcommand, name = "preauthkeys", aliases = ["preauthkey", "authkey", "pre"])]
    PreAuthKeys(pre_auth_keys::PreAuthKeys),
    /// API keys: let programs in
    #[command(subcommand, name = "apikeys", aliases = ["apikey", "api"])]
    ApiKeys(api_keys::ApiKeys),
    /// OAuth clients: programs that fetch tokens for Tailscale's API
    #[command(subcommand, name = "oauth-clients", aliases = ["oauth-client", "oauthclients", "oauthclient", "oauth"])]
    OauthClients(oauth_clients::OauthClients),
    /// Policy: who may reach whom
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Logins and connections that wait for a person
    #[command(subcommand)]
    Auth(nodes::Auth),
    /// Connections by SSH that the policy wants to be checked
    #[command(subcommand)]
    Ssh(ssh::Ssh),

    /// Webhooks: tell others what changes
    #[command(subcommand, alias = "webhook")]
    Webhooks(webhooks::Webhooks),

    /// The audit log: who changed what, when and from where
    #[command(subcommand)]
    Audit(audit::Audit),

    /// Routes, as before 0.26; today: nodes list-routes, nodes approve-routes
    #[command(subcommand, hide = true, alias = "route")]
    Routes(routes::Routes),
    /// Trying things out without a client
    #[command(subcommand)]
    Debug(debug::Debug),

    /// Members of the cluster
    #[command(after_help = "Example:\n  hsraft members --watch")]
    Members(cluster::MembersArgs),
    /// One member of the cluster
    #[command(subcommand)]
    Member(cluster::MemberWord),
    /// How the cluster is; exits 0 healthy, 1 degraded, 3 no quorum, 12 unreachable
    #[command(after_help = "Example:\n  hsraft status -o json | jq .verdict")]
    Status,
    /// Join tokens: one-use tickets into the cluster
    #[command(subcommand)]
    Token(cluster::TokenWord),
    /// Leave a member alone, before work on its machine: another leads, its clients go elsewhere, it says it is not ready
    #[command(after_help = "Example:\n  hsraft drain hs2")]
    Drain(cluster::DrainArgs),
    /// Use a drained member again
    #[command(after_help = "Example:\n  hsraft undrain hs2")]
    Undrain(cluster::DrainArgs),
    /// Take the member that answers out of the cluster: drain it, give its lead away, remove it
    #[command(
        after_help = "Examples:\n  hsraft leave --drain-timeout 1m\n  hsraft leave --wipe --config /etc/hsraft/config.yaml"
    )]
    Leave(leave::LeaveArgs),
    /// Hand leadership to another member
    #[command(after_help = "Example:\n  hsraft transfer-leader --to hs2")]
    TransferLeader(cluster::TransferArgs),

    /// Another program: check it, see what runs where, finish
    #[command(subcommand)]
    Upgrade(upgrade::UpgradeWord),

    /// Take over the database of a Headscale server
    #[command(
        after_help = "Examples:\n  hsraft import --from headscale --db /var/lib/headscale/db.sqlite --dry-run\n  hsraft import --from headscale --db postgres://headscale:secret@localhost:5432/headscale --dry-run"
    )]
    Import(moving::Import),
    /// Write a database that a Headscale server opens
    #[command(after_help = "Example:\n  hsraft export --to headscale --db headscale.sqlite")]
    Export(moving::Export),
    /// Are the states of all members one; does a disk give back what it was given; exits 40 when not
    #[command(
        after_help = "Examples:\n  hsraft verify --cluster\n  hsraft verify --deep\n  hsraft verify --deep --data-dir /var/lib/hsraft   # its member does not run"
    )]
    Verify(verify::VerifyArgs),
    /// Backups: save, look, verify, restore
    #[command(subcommand, alias = "snapshots")]
    Snapshot(backup::SnapshotWord),
    /// Certificates: between members and for clients
    #[command(subcommand, alias = "certs")]
    Cert(certificates::CertWord),
    /// The data key that seals the cluster's secrets
    #[command(subcommand)]
    Key(certificates::KeyWord),
    /// The key that opens backups
    #[command(subcommand)]
    RecoveryKey(backup::RecoveryKeyWord),
    /// Go on with what is left when a majority of the members is lost for ever
    #[command(
        after_help = "Example:\n  hsraft recover plan --survivor /var/lib/hsraft\n  hsraft recover --force-new-cluster --data-dir /var/lib/hsraft --expect-last-log 184223 --acknowledge-data-loss"
    )]
    Recover(backup::RecoverArgs),

    /// Drills: break something on purpose, under watch, and see whether the cluster keeps its promises
    #[command(subcommand, alias = "drills")]
    Drill(drill::DrillWord),

    /// What a code such as HSR-2001 means, and what to do; without one all of them
    #[command(after_help = "Example:\n  hsraft explain HSR-2001")]
    Explain(ExplainArgs),
    /// Whether the member can serve; exits 1 when not
    #[command(after_help = "Example:\n  hsraft health && echo fine")]
    Health,
    /// Which program this is
    #[command(after_help = "Example:\n  hsraft version -o json")]
    Version,
    /// Make a key for a configuration file
    #[command(subcommand, alias = "gen")]
    Generate(shell::Generate),
    /// Teach a shell to complete these words
    #[command(after_help = "Example:\n  hsraft completion bash > /etc/bash_completion.d/hsraft")]
    Completion(shell::Completion),
    /// Write manual pages
    #[command(alias = "man", after_help = "Example:\n  hsraft manual /usr/share/man/man1")]
    Manual(shell::Manual),
    /// A whole cluster on this machine, for trying things out
    #[command(subcommand)]
    Lab(lab::LabWord),
}

/// `serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Look at the configuration and leave, as scripts for other servers ask before an upgrade
    #[arg(long, hide = true)]
    pub migrate_only: bool,
}

/// `explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// HSR-nnnn, or the number alone
    pub code: Option<String>,
}

/// What can be done with a configuration file.
#[derive(Debug, Subcommand)]
pub enum ConfigWord {
    /// Write a file of Headscale 0.22 to 0.28 in today's keys; comments stay, what changed is listed
    #[command(after_help = "Example:\n  hsraft config migrate /etc/headscale/config.yaml > /etc/hsraft/config.yaml")]
    Migrate { file: PathBuf },
}

/// `configtest`.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigtestArgs {}

/// `join`.
#[derive(Args, Clone)]
pub struct JoinArgs {
    /// Where members listen for each other: host:port, several with commas
    #[arg(required = true, value_delimiter = ',', value_name = "HOST:PORT")]
    pub addresses: Vec<String>,
    /// The ticket that `hsraft token create` printed
    #[arg(long, env = "HSRAFT_JOIN_TOKEN", hide_env_values = true)]
    pub token: String,
    /// Take the place of this member, which is gone; the token must be for this name
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub replace: String,
    /// host:port other members dial; wins over cluster.peer_advertise_addr
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// How long to try to be let in, and then to receive the state
    #[arg(long, default_value = "10m", value_parser = spans::parse, value_name = "SPAN")]
    pub retry_for: std::time::Duration,
    /// Stop as soon as this is reached, for a service that goes on with: hsraft serve
    #[arg(long, value_name = "WHAT")]
    pub wait: Option<WaitFor>,
    /// With --wait: give up after so long (exit 20); the same command goes on where it was
    #[arg(long, default_value = "10m", value_parser = spans::parse, value_name = "SPAN", requires = "wait")]
    pub wait_for: std::time::Duration,
}

/// What a join waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WaitFor {
    /// It has a vote.
    Voter,
    /// It has caught up with the others.
    Learner,
}

impl std::fmt::Debug for JoinArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinArgs")
            .field("addresses", &self.addresses)
            .field("replace", &self.replace)
            .finish_non_exhaustive()
    }
}

/// The whole grammar, also for completion and manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads the words of a command line, the program's name first. `Err` is the exit code: help was asked for (0) or the
/// words make no sense (2); both have been printed.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, i32> {
    let words: Vec<OsString> = words.into_iter().collect();
    let is_headscale = called_as_headscale(words.first());
    let (words, hints) = words::modern(words);
    match Cli::try_parse_from(words) {
        Ok(cli) => {
            let output = Output::default();
            hints.iter().for_each(|hint| output.talk(hint));
            Ok(cli)
        }
        Err(error) => {
            // Help goes to standard output, complaints to standard error; nobody to tell when even that fails.
            let _ = error.print();
            if error.use_stderr() {
                Output::default().talk(&format!("[{}]", state_machine::codes::USAGE));
            }
            Err(exit_as(is_headscale, error.exit_code()))
        }
    }
}

/// Whether the program was called by Headscale's name: a link in place of its binary.
fn called_as_headscale(name: Option<&OsString>) -> bool {
    name.and_then(|name| Path::new(name).file_name()).is_some_and(|name| name == "headscale")
}

/// Headscale knows two exit codes.
fn exit_as(is_headscale: bool, code: i32) -> i32 {
    if is_headscale { code.min(1) } else { code }
}

/// Carries out everything but the words that start a member; the result is the exit code.
pub async fn run(cli: Cli, world: &World) -> i32 {
    let output = Output::new(cli.global.output, desk::shape());
    let code = match carry_out(cli, output.clone(), world).await {
        Ok(code) => code,
        Err(problem) => {
            output.problem(&problem);
            problem.exit
        }
    };
    exit_as(called_as_headscale(std::env::args_os().next().as_ref()), code)
}

async fn carry_out(cli: Cli, output: Output, world: &World) -> Result<i32, Problem> {
    let is_report = matches!(cli.word, Word::Drill(drill::DrillWord::Report(_)));
    if matches!(output.format, Format::Markdown | Format::Html) && !is_report {
        return Err(Problem::of(
            &state_machine::codes::FORMAT_UNFIT,
            "md and html are for reports: hsraft drill report -o html",
        ));
    }
    match cli.word {
        Word::Serve(_) | Word::Join(_) | Word::Configtest(_) | Word::Check(_) | Word::Config(_) | Word::MockOidc => {
            return Err(Problem::of(
                &state_machine::codes::SERVER_WORD,
                "this word belongs to the server program: run it as hsraft",
            ));
        }
        Word::Lab(word) => return lab::run(word, &output).await,
        Word::Drill(word) => return drill::run(word, &cli.global, output).await,
        Word::Version => return server::version(&output).await,
        Word::Policy(policy::Policy::Convert { file, write }) => {
            return policy::convert(&policy::read(&file)?, write.as_deref(), &output).map(|()| exit::OK);
        }
        Word::Import(args) => return moving::import(args, &cli.global, output).await.map(|()| exit::OK),
        Word::Generate(word) => return shell::generate(&word, &output).map(|()| exit::OK),
        Word::Completion(args) => return shell::completion(&args, &output).map(|()| exit::OK),
        Word::Manual(args) => return shell::manual(&args, &output).map(|()| exit::OK),
        Word::Snapshot(backup::SnapshotWord::Agent(backup::AgentWord::Status)) => {
            let desk = desk::Desk::open(&cli.global, output)?;
            return backup::agent_status(&desk).await;
        }
        Word::Snapshot(backup::SnapshotWord::Save { file }) => {
            let desk = desk::Desk::open(&cli.global, output)?;
            return backup::save(&file, &desk, world).await.map(|()| exit::OK);
        }
        Word::Snapshot(word) => return backup::snapshot(word, &output, world).await,
        Word::Key(certificates::KeyWord::Unlock { file, to }) => {
            return certificates::unlock(&file, to, &cli.global, &output, world).map(|()| exit::OK);
        }
        Word::Leave(args) => {
            let desk = desk::Desk::open(&cli.global, output)?;
            return leave::leave(args, &cli.global, &desk, world).await.map(|()| exit::OK);
        }
        Word::Verify(args) if args.is_offline() => return verify::offline(args, &output, world).await,
        Word::Recover(args) => return backup::recover(args, &cli.global, &output, world).await,
        Word::Policy(policy::Policy::Preview { scenario }) => {
            return policy::preview(&policy::read(&scenario)?, &output);
        }
        Word::Audit(audit::Audit::Verify { file: Some(ref file) }) => {
            return audit::verify_file(file, &output).map(|()| exit::OK);
        }
        Word::Explain(args) => return server::explain(args.code.as_deref(), &output).map(|()| exit::OK),
        _ => {}
    }
    let desk = desk::Desk::open(&cli.global, output)?;
    on_desk(cli.word, &desk).await
}

async fn on_desk(word: Word, desk: &desk::Desk) -> Result<i32, Problem> {
    match word {
        Word::Users(word) => users::run(word, desk).await,
        Word::Nodes(word) => nodes::run(word, desk).await,
        Word::PreAuthKeys(word) => pre_auth_keys::run(word, desk).await,
        Word::ApiKeys(word) => api_keys::run(word, desk).await,
        Word::OauthClients(word) => oauth_clients::run(word, desk).await,
        Word::Policy(word) => return policy::run(word, desk).await,
        Word::Auth(word) => nodes::run_auth(word, desk).await,
        Word::Ssh(word) => ssh::run(word, desk).await,
        Word::Webhooks(word) => webhooks::run(word, desk).await,
        Word::Audit(word) => audit::run(word, desk).await,
        Word::Routes(word) => routes::run(word, desk).await,
        Word::Debug(word) => debug::run(word, desk).await,
        Word::Export(args) => moving::export(args, desk).await,
        Word::Members(args) => cluster::members(args, desk).await,
        Word::Member(word) => cluster::member(word, desk).await,
        Word::Status => return cluster::status(desk).await,
        Word::Token(word) => cluster::token(word, desk).await,
        Word::Upgrade(word) => return upgrade::run(word, desk).await,
        Word::TransferLeader(args) => cluster::transfer_leader(args, desk).await,
        Word::Drain(args) => cluster::drain(args, true, desk).await,
        Word::Undrain(args) => cluster::drain(args, false, desk).await,
        Word::Health => return server::health(desk).await,
        Word::Verify(args) => return verify::run(args, desk).await,
        Word::RecoveryKey(word) => backup::recovery_key(word, desk).await,
        Word::Cert(word) => certificates::cert(word, desk).await,
        Word::Key(word) => certificates::key(word, desk).await,
        Word::Snapshot(_)
        | Word::Recover(_)
        | Word::Leave(_)
        | Word::Explain(_)
        | Word::Serve(_)
        | Word::Join(_)
        | Word::Configtest(_)
        | Word::Check(_)
        | Word::Config(_)
        | Word::MockOidc
        | Word::Version
        | Word::Import(_)
        | Word::Generate(_)
        | Word::Completion(_)
        | Word::Manual(_)
        | Word::Drill(_)
        | Word::Lab(_) => unreachable!("carried out without a desk"),
    }
    .map(|()| exit::OK)
}

/// What tests outside need of the desk.
#[cfg(test)]
pub(crate) mod for_tests {
    use super::{Output, desk::Desk};
    use crate::client::Client;

    /// A desk that asks nobody.
    pub fn desk(client: Client, output: Output) -> Desk {
        Desk::fixed(client, output, false, state_machine::Timestamp(1_767_225_600_000))
    }
}

#[cfg(test)]
mod tests;
