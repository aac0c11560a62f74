//! Arguments of the verbs about brokers.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// The image of the container, unless another is named.
pub const IMAGE: &str = "cloudamqp/lavinmq:latest";

/// Arguments of `start`.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// AMQP port [default: 5672]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Management port [default: 15672]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub mgmt_port: Option<u16>,
    /// Run LavinMQ in a container instead
    #[arg(long)]
    pub docker: bool,
    /// The image to run
    #[arg(
        long,
        value_name = "IMAGE",
        requires = "docker",
        default_value = IMAGE
    )]
    pub image: String,
    /// Keep the container's user guest, for other programs that log in as guest
    #[arg(long, requires = "docker")]
    pub guest: bool,
    /// Options of `serve` that `restart` read from `broker.json`; not a command-line option.
    #[arg(skip)]
    pub serve_arguments: Vec<String>,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Print the full URL with its password
    #[arg(long)]
    pub show_url: bool,
}

/// Arguments of `logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// The log of this session instead: what it was given, and what it holds and why
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// Keep printing as the log grows
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines to print first
    #[arg(short = 'n', long, value_name = "N", default_value_t = 200)]
    pub lines: usize,
}

/// Arguments of `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// AMQP port; 0 selects a free one
    #[arg(long, value_name = "PORT", default_value_t = 5672)]
    pub port: u16,
    /// Management port; 0 selects a free one
    #[arg(long, value_name = "PORT", default_value_t = 15672)]
    pub mgmt_port: u16,
    /// The address to listen on; beyond loopback it needs TLS or --insecure [default: 127.0.0.1 and
    /// `::1`]
    #[arg(long, value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// The folder of the store [default: ~/.cbroker/data]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// The server's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// AMQPS port; 0 selects a free one
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 5671,
        requires = "tls_cert"
    )]
    pub tls_port: u16,
    /// Let the user guest log in
    #[arg(long)]
    pub allow_guest: bool,
    /// Listen beyond loopback without TLS
    #[arg(long)]
    pub insecure: bool,
    /// Block publishers above this much memory, in MiB [default: two fifths of the machine's]
    #[arg(long, value_name = "MIB")]
    pub memory_limit: Option<u64>,
    /// Run in the background: detach from the terminal and log to a rotated file. Set by `start`.
    #[arg(long, hide = true)]
    pub background: bool,
}

const MOVE_TO_HELP: &str = "The broker to move to: amqp://user:password@host:5672/vhost, amqps:// \
    with TLS, or `docker` for the container of `start --docker` [default: the broker that other \
    commands use: --url, CBROKER_URL, config.toml, else the local one]";

const MOVE_FROM_HELP: &str = "The broker to move from, in the same forms [default: as for --to]. \
    The options for a management API mean the one of this broker, never that of the target";

/// Arguments of `move`.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct MoveArgs {
    /// The target.
    #[arg(long, value_name = "URL", help = MOVE_TO_HELP)]
    pub to: Option<String>,
    /// The source.
    #[arg(long, value_name = "URL", help = MOVE_FROM_HELP)]
    pub from: Option<String>,
}

/// What to do with the service.
#[derive(Subcommand)]
pub enum ServiceVerb {
    /// Start the broker with this user's session (systemd or launchd)
    #[command(after_help = "Example:\n  cbroker service install")]
    Install,
    /// Undo `install`; the broker's data stays
    #[command(after_help = "Example:\n  cbroker service uninstall")]
    Uninstall,
    /// Show whether it is installed and runs; exits with 1 unless it does
    #[command(after_help = "Example:\n  cbroker service status")]
    Status,
}
