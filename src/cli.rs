//! The commands of the program.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Config, ConfigError, LogConfig, LogFormat};

mod bench;
mod build;
mod check;
mod client;
mod dev;
mod inspect;
mod new;
mod notify;
mod record;
mod run;
mod server;
mod subscribe;
mod test;
mod to_toml;
mod token;

/// A realtime gateway whose rooms are decided by WebAssembly plugins.
#[derive(Debug, Parser)]
#[command(name = "wayleave", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until a signal ends it. SIGHUP reloads, SIGTERM and Ctrl-C drain.
    Run(ConfigArgument),
    /// Check a config and its plugins, and say everything that is wrong.
    Check(ConfigArgument),
    /// Serve, and rebuild and reload plugins whenever their sources change.
    Dev(ConfigArgument),
    /// Make a token for a user, with the config's secret.
    Token(token::Token),
    /// Publish to a room, by the server API, or as a client.
    ///
    /// The key is taken from the variable `WAYLEAVE_API_KEY`, or from the config.
    Publish(server::Publish),
    /// Hear a room, as a client: what comes is printed as JSON, a line each.
    Subscribe(subscribe::Subscribe),
    /// Show what passes in a room, of a user, or everything, by the server API.
    ///
    /// The key is taken from the variable `WAYLEAVE_API_KEY`, or from the config.
    Tail(server::Tail),
    /// Load a gateway with connections and messages, and measure.
    Bench(bench::Bench),
    /// Work on plugins.
    #[command(subcommand)]
    Plugin(PluginCommand),
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// Build source folders, each into its `plugin.wasm` or `plugin.js`.
    Build {
        /// The folders; without any, those that the config names.
        folders: Vec<PathBuf>,
        #[command(flatten)]
        config: ConfigArgument,
    },
    Test(test::Test),
    New(new::New),
    Inspect(inspect::Inspect),
    Record(record::Record),
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The config file.
    #[arg(long, short, default_value = "config.toml")]
    config: PathBuf,
}

/// A mistake of the config or a plugin, as against a failure while running.
const EXIT_MISTAKE: u8 = 2;

/// Runs the program with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(ConfigArgument { config }) => run::main(&config),
        Command::Check(ConfigArgument { config }) => check::main(&config),
        Command::Dev(ConfigArgument { config }) => dev::main(&config),
        Command::Token(token) => token::main(&token),
        Command::Publish(publish) => server::publish(&publish),
        Command::Subscribe(subscribe) => subscribe::main(&subscribe),
        Command::Tail(tail) => server::tail(&tail),
        Command::Bench(bench) => bench::main(&bench),
        Command::Plugin(PluginCommand::Build { folders, config }) => build::main(folders, &config.config),
        Command::Plugin(PluginCommand::Test(test)) => test::main(&test),
        Command::Plugin(PluginCommand::New(new)) => new::main(&new),
        Command::Plugin(PluginCommand::Inspect(inspect)) => inspect::main(&inspect),
        Command::Plugin(PluginCommand::Record(record)) => record::main(&record),
    }
}

/// The config, or its mistakes on standard error.
fn load(file: &std::path::Path) -> Result<Config, ExitCode> {
    Config::load(file).map_err(|error: ConfigError| {
        eprintln!("{error}");
        ExitCode::from(EXIT_MISTAKE)
    })
}

/// A JSON text among the arguments.
fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}; a text stands in quotes: '\"hello\"'"))
}

/// How a tool ends.
fn finish(result: anyhow::Result<()>) -> ExitCode {
    result.map_or_else(
        |error| {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// Runs a tool.
fn block_on(tool: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    finish(run::runtime().and_then(|runtime| runtime.block_on(tool)))
}

fn start_log(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    match config.format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(colours)).init(),
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).init(),
    }
}
