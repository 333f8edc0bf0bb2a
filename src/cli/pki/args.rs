//! The arguments of `tidegate pki …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::pki::{Endpoint, Host, Reason};

/// Certificates: who may speak as a device, and who is the gateway
#[derive(Debug, Args)]
pub struct PkiArgs {
    /// Folder with certificate profiles that override the shipped ones [default: pki.profiles_dir]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) profiles: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: PkiCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum PkiCommand {
    /// Create root, intermediates and the server certificate
    Init(InitArgs),
    /// Issue a certificate
    #[command(subcommand)]
    Issue(IssueCommand),
    /// Renew `server`, `gateway-ca`, `device-ca`, a device, an operator or a serial number
    Renew(RenewArgs),
    /// Revoke a device's or operator's certificates, or one by serial number or file
    Revoke(RevokeArgs),
    /// Sign the revocation lists again
    Crl,
    /// Show all certificates with the days they have left
    List(ListArgs),
    /// Take over an existing certificate authority
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// What the authorities are called
    #[arg(long, default_value = "Tidegate")]
    pub(super) name: String,
    /// A DNS name or IP address the gateway is reached by (repeatable)
    /// [default: this machine's name, with .local, localhost, 127.0.0.1 and ::1]
    #[arg(long = "host", value_name = "NAME|IP", value_parser = Host::parse)]
    pub(super) hosts: Vec<Host>,
    /// Move an existing authority aside and start anew
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum IssueCommand {
    /// A device: certificate, key, trust, shared secret and address in one bundle
    Device(IssueDeviceArgs),
    /// The gateway itself, with a new key
    Server {
        /// A DNS name or IP address (repeatable) [default: the current ones]
        #[arg(long = "host", value_name = "NAME|IP", value_parser = Host::parse)]
        hosts: Vec<Host>,
    },
    /// A person or program that looks after the gateway
    Operator {
        name: String,
        /// Folder for the files [default: ./NAME]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Sign this request; the key stays where it is
        #[arg(long, value_name = "FILE")]
        csr: Option<PathBuf>,
        /// Overwrite files, and issue beside a certificate that is still valid
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct IssueDeviceArgs {
    /// 1 to 64 of A-Z a-z 0-9 _ -
    pub(super) id: String,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    /// Sign this request; the key stays on the device
    #[arg(long, value_name = "FILE")]
    pub(super) csr: Option<PathBuf>,
    /// Where the device finds the gateway [default: the server certificate's first name, 8883]
    #[arg(long, value_name = "HOST:PORT", value_parser = Endpoint::parse)]
    pub(super) gateway: Option<Endpoint>,
    /// Use the shared secret in this file [default: a new one]
    #[arg(long, value_name = "FILE")]
    pub(super) secret_file: Option<PathBuf>,
    /// Have the device trust firmware releases signed by this key (repeatable, for a change of keys)
    /// [default: updates.release_keys of the configuration]
    #[arg(long = "release-key", value_name = "FILE")]
    pub(super) release_keys: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Folder for the bundle [default: ./ID]
    #[arg(long, value_name = "DIR", conflicts_with = "bundle_file")]
    pub(super) out: Option<PathBuf>,
    /// Write the bundle as one file, such as ID.tidegate.json
    #[arg(long, value_name = "FILE")]
    pub(super) bundle_file: Option<PathBuf>,
    /// Overwrite files, and issue beside a certificate that is still valid
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct RenewArgs {
    /// `device:<id>` and `operator:<name>` resolve a doubtful name
    #[arg(value_name = "server|gateway-ca|device-ca|NAME|SERIAL")]
    pub(super) target: String,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    /// Sign this request; the key stays where it is
    #[arg(long, value_name = "FILE")]
    pub(super) csr: Option<PathBuf>,
    /// For devices: where to find the gateway
    #[arg(long, value_name = "HOST:PORT", value_parser = Endpoint::parse)]
    pub(super) gateway: Option<Endpoint>,
    /// For the server: other names than the current ones (repeatable)
    #[arg(long = "host", value_name = "NAME|IP", value_parser = Host::parse)]
    pub(super) hosts: Vec<Host>,
    /// For the server and the intermediates: make a new key too
    #[arg(long)]
    pub(super) new_key: bool,
    /// For devices and operators: revoke the certificate this replaces
    #[arg(long)]
    pub(super) revoke_former: bool,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// `device:<id>` and `operator:<name>` resolve a doubtful name
    #[arg(value_name = "NAME|SERIAL", required_unless_present = "cert")]
    pub(super) target: Option<String>,
    /// Revoke the certificate in this file, which an imported authority may have issued
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    pub(super) cert: Option<PathBuf>,
    /// unspecified, key-compromise, superseded, cessation-of-operation or privilege-withdrawn
    #[arg(long, default_value = "unspecified", value_parser = Reason::parse)]
    pub(super) reason: Reason,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Role {
    /// The root above new intermediates (recommended)
    Root,
    /// Signs device certificates itself
    DeviceCa,
    /// Signs the gateway's certificate itself
    GatewayCa,
    /// Signs both itself
    Both,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The authority's certificate, often ca.crt
    #[arg(long, value_name = "FILE")]
    pub(super) ca_cert: PathBuf,
    /// The authority's private key, often ca.key
    #[arg(long, value_name = "FILE", required_unless_present = "trust_only")]
    pub(super) ca_key: Option<PathBuf>,
    /// What the authority does from now on
    #[arg(
        long,
        value_enum,
        default_value = "root",
        conflicts_with = "trust_only"
    )]
    pub(super) role: Role,
    /// Let in clients this authority certified, and nothing else
    #[arg(long, conflicts_with = "ca_key")]
    pub(super) trust_only: bool,
    /// What the new intermediates are called [default: the authority's common name]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// A DNS name or IP address the gateway is reached by (repeatable)
    #[arg(long = "host", value_name = "NAME|IP", value_parser = Host::parse)]
    pub(super) hosts: Vec<Host>,
    /// Move an existing authority aside
    #[arg(long)]
    pub(super) force: bool,
}
