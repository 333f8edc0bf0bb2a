//! `tidegate pki …`: the certificate authority on the command line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use time::{Duration, OffsetDateTime};

mod args;

pub use args::PkiArgs;
use args::{
    ImportArgs, InitArgs, IssueCommand, IssueDeviceArgs, ListArgs, OutputArgs, PkiCommand,
    RenewArgs, RevokeArgs, Role,
};

use tidegate_wire::manifest::{MAX_SIGNATURES, PublicKey};

use crate::ota::signing;
use crate::pki::{
    self, Bundle, CrlUpdate, DeviceRequest, Entry, Host, Identity, Import, IssuedDevice,
    IssuedOperator, IssuedServer, Kind, OperatorRequest, PkiDir, PkiError, Profiles, RenewOptions,
    Renewed, RevokeTarget, SecretSource, SigningRequest,
};

/// What the rest of the command line may have to act upon.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing more to do.
    Done,
    /// The device and the secret in its bundle are to be put into the registry; a bundle
    /// without secret leaves the registered one in force.
    DeviceIssued(Box<IssuedDevice>),
}

/// What a `tidegate pki` command works with, as the configuration says it.
#[derive(Debug)]
pub struct Settings<'a> {
    pub dir: PkiDir,
    /// Folder of profiles, unless the command names another.
    pub profiles: Option<&'a Path>,
    /// What device bundles carry, unless the command names others.
    pub release_keys: Vec<PublicKey>,
}

/// Runs one `tidegate pki` command and writes for people to `out`.
///
/// # Errors
/// [`PkiError`]; its text is meant for the operator.
pub fn run(
    args: PkiArgs,
    settings: Settings<'_>,
    now: OffsetDateTime,
    out: &mut dyn Write,
) -> Result<Outcome, PkiError> {
    let profiles = match args.profiles.as_deref().or(settings.profiles) {
        Some(folder) => Profiles::load(folder)?,
        None => Profiles::embedded()?,
    };
    let session = Session {
        dir: settings.dir,
        profiles,
        release_keys: settings.release_keys,
        now,
    };
    let (outcome, text) = match args.command {
        PkiCommand::Init(args) => session.init(&args)?,
        PkiCommand::Issue(IssueCommand::Device(args)) => session.issue_device(args)?,
        PkiCommand::Issue(IssueCommand::Server { hosts }) => {
            let issued = pki::issue_server(&session.dir, &session.profiles, &hosts, now)?;
            (Outcome::Done, session.server_text(&issued))
        }
        PkiCommand::Issue(IssueCommand::Operator {
            name,
            out,
            csr,
            force,
        }) => session.issue_operator(name, out, csr.as_deref(), force)?,
        PkiCommand::Renew(args) => session.renew(args)?,
        PkiCommand::Revoke(args) => session.revoke(args)?,
        PkiCommand::Crl => {
            let update = pki::sign_crl(&session.dir, now)?;
            (Outcome::Done, crl_text(&update))
        }
        PkiCommand::List(args) => (Outcome::Done, session.list(&args)?),
        PkiCommand::Import(args) => session.import(&args)?,
    };
    out.write_all(text.as_bytes()).map_err(output_failed)?;
    Ok(outcome)
}

fn output_failed(source: io::Error) -> PkiError {
    PkiError::Io {
        action: "write to",
        path: "the terminal".into(),
        source,
    }
}

type Answer = Result<(Outcome, String), PkiError>;

struct Session {
    dir: PkiDir,
    profiles: Profiles,
    now: OffsetDateTime,
    /// For device bundles.
    release_keys: Vec<PublicKey>,
}

impl Session {
    fn init(&self, args: &InitArgs) -> Answer {
        let hosts = or_default_hosts(&args.hosts);
        let made = pki::init(
            &self.dir,
            &self.profiles,
            &args.name,
            &hosts,
            args.force,
            self.now,
        )?;
        Ok((Outcome::Done, self.initialised_text(&made)))
    }

    fn initialised_text(&self, made: &pki::Initialised) -> String {
        let mut text = String::new();
        if let Some(former) = &made.former {
            text += &format!("The former authority is now in {}.\n", former.display());
        }
        text += &format!(
            "Certificate authority ready in {}: {}.\nThe gateway answers to {}.\n\n",
            self.dir.path().display(),
            made.root,
            join(&made.hosts),
        );
        if self.dir.path().join("root.key").exists() {
            text += &format!(
                "Keep {} somewhere safe and offline; only renewing an intermediate needs it.\n",
                self.dir.path().join("root.key").display()
            );
        }
        text + "Next: tidegate pki issue device <id>\n"
    }

    fn issue_device(&self, args: IssueDeviceArgs) -> Answer {
        let target = args.output.target(&args.id);
        target.check(args.output.force)?;
        let request = DeviceRequest {
            csr: read_csr(args.csr.as_deref())?,
            gateway: args.gateway,
            secret: match &args.secret_file {
                Some(path) => SecretSource::read(path)?,
                None => SecretSource::Generate,
            },
            release_keys: self.release_keys(&args.release_keys)?,
            force: args.output.force,
            id: args.id,
        };
        let issued = pki::issue_device(&self.dir, &self.profiles, &request, self.now)?;
        self.deliver(issued, &target, args.output.force)
    }

    /// The keys in these files; without any, those of the configuration.
    fn release_keys(&self, files: &[PathBuf]) -> Result<Vec<PublicKey>, PkiError> {
        if files.is_empty() {
            return Ok(self.release_keys.clone());
        }
        if files.len() > MAX_SIGNATURES {
            return Err(PkiError::Usage(
                "a device trusts one release key, or two while one replaces the other",
            ));
        }
        let read = |path: &PathBuf| {
            signing::read_public(path).map_err(|error| PkiError::BadBundle {
                path: path.clone(),
                reason: error.to_string(),
            })
        };
        files.iter().map(read).collect()
    }

    fn deliver(&self, issued: IssuedDevice, target: &Target, force: bool) -> Answer {
        let bundle = &issued.bundle;
        let id = &bundle.device_id;
        let mut text = format!(
            "Device {id}: certificate until {} ",
            issued.not_after.date()
        );
        match target {
            Target::Folder(folder) => {
                bundle.write_folder(folder, force)?;
                text += &format!("in {}/\n", folder.display());
            }
            Target::File(path) => {
                bundle.write_file(path, force)?;
                text += &format!("in {}\n", path.display());
            }
        }
        text += if bundle.secret.is_some() {
            "It holds the device's secrets: bring it to the device, then delete it here.\n"
        } else {
            "The device keeps the shared secret it has.\n"
        };
        if let (Target::Folder(folder), Some(_)) = (target, &bundle.key) {
            let folder = folder.display();
            text += &format!(
                "\nTry the connection (an unsigned message is answered on device/{id}/response with a rejection):\n  \
                 mosquitto_pub -h {} -p {} --cafile {folder}/ca.crt --cert {folder}/device.crt --key {folder}/device.key -q 1 -t device/{id}/data -m '{{}}'\n",
                bundle.gateway.host, bundle.gateway.port,
            );
        }
        Ok((Outcome::DeviceIssued(Box::new(issued)), text))
    }

    fn issue_operator(
        &self,
        name: String,
        out: Option<PathBuf>,
        csr: Option<&Path>,
        force: bool,
    ) -> Answer {
        let folder = out.unwrap_or_else(|| PathBuf::from(&name));
        if !force {
            IssuedOperator::refuse_existing(&folder, &name)?;
        }
        let request = OperatorRequest {
            csr: read_csr(csr)?,
            name,
            force,
        };
        let issued = pki::issue_operator(&self.dir, &self.profiles, &request, self.now)?;
        Ok((Outcome::Done, operator_text(&issued, &folder, force)?))
    }

    fn server_text(&self, issued: &IssuedServer) -> String {
        format!(
            "Server certificate until {} for {}.\nA running gateway takes it up by itself.\n",
            issued.not_after.date(),
            join(&issued.hosts)
        )
    }

    fn renew(&self, args: RenewArgs) -> Answer {
        let force = args.output.force;
        // Known before anything is issued, so that nothing is issued in vain.
        let holder = match args.target.as_str() {
            "server" | "gateway-ca" | "device-ca" | "root" => None,
            name => Some(pki::find_holder(&self.dir, name)?),
        };
        let name = holder.as_ref().map_or("", Identity::name).to_owned();
        let target = args.output.target(&name);
        match &holder {
            Some(Identity::Device(_)) => target.check(force)?,
            Some(Identity::Operator(_)) if !force => {
                IssuedOperator::refuse_existing(target.path(), &name)?;
            }
            _ => {}
        }
        let options = RenewOptions {
            csr: read_csr(args.csr.as_deref())?,
            new_key: args.new_key,
            revoke_former: args.revoke_former,
            release_keys: self.release_keys(&[])?,
            gateway: args.gateway,
            hosts: args.hosts,
        };
        match pki::renew(&self.dir, &self.profiles, &args.target, options, self.now)? {
            Renewed::Server(issued) => Ok((Outcome::Done, self.server_text(&issued))),
            Renewed::Intermediate { kind, not_after } => {
                let mut text = format!(
                    "{kind} renewed until {}; what it issued stays valid.\n",
                    not_after.date()
                );
                if args.new_key && kind == Kind::DeviceCa {
                    text += &format!(
                        "The former one is kept in {}; delete it there once its devices have new certificates, or at once if its key was stolen.\n",
                        self.dir.path().join("retired").display()
                    );
                }
                Ok((Outcome::Done, text))
            }
            Renewed::Device(issued) => self.deliver(*issued, &target, force),
            Renewed::Operator(issued) => {
                Ok((Outcome::Done, operator_text(&issued, target.path(), force)?))
            }
        }
    }

    fn revoke(&self, args: RevokeArgs) -> Answer {
        let target = match (args.cert, args.target) {
            (Some(path), _) => RevokeTarget::File(path),
            (None, Some(name)) => RevokeTarget::Name(name),
            (None, None) => return Err(PkiError::Usage("say what to revoke")),
        };
        let revoked = pki::revoke(&self.dir, &target, args.reason, self.now)?;
        let mut text = String::new();
        for (serial, subject) in revoked.serials.iter().zip(&revoked.subjects) {
            text += &format!("Revoked {subject} (serial {serial}).\n");
        }
        text += "A running gateway refuses it within a second and closes its sessions.\n";
        if !revoked.crl.skipped.is_empty() {
            text += &crl_text(&revoked.crl);
        }
        Ok((Outcome::Done, text))
    }

    fn list(&self, args: &ListArgs) -> Result<String, PkiError> {
        let entries = pki::list(&self.dir, self.now)?;
        if args.json {
            let json = serde_json::to_string_pretty(&entries)
                .map_err(|error| output_failed(io::Error::other(error)))?;
            return Ok(json + "\n");
        }
        let mut text = table(&entries);
        for expiry in pki::expiring(&self.dir, self.now, Duration::days(30))? {
            let when = if expiry.days_left < 0 {
                format!("ended {} days ago", -expiry.days_left)
            } else {
                format!("ends in {} days", expiry.days_left)
            };
            text += &format!("\n{} {when}: {}.", expiry.name, expiry.advice);
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    fn import(&self, args: &ImportArgs) -> Answer {
        if args.trust_only {
            let imported = pki::trust(&self.dir, &args.ca_cert, self.now)?;
            return Ok((
                Outcome::Done,
                format!(
                    "Clients certified by {} are let in, if they are registered.\nTo revoke one: tidegate pki revoke --cert FILE\n",
                    imported.subject
                ),
            ));
        }
        let Some(key) = &args.ca_key else {
            return Err(PkiError::Usage(
                "give the authority's key with --ca-key, or --trust-only",
            ));
        };
        // An import beside an existing authority keeps the server's names.
        let hosts = if args.hosts.is_empty() && self.dir.is_initialised() && !args.force {
            Vec::new()
        } else {
            or_default_hosts(&args.hosts)
        };
        let role = match args.role {
            Role::Root => pki::Role::Root,
            Role::DeviceCa => pki::Role::DeviceCa,
            Role::GatewayCa => pki::Role::GatewayCa,
            Role::Both => pki::Role::Both,
        };
        let request = Import {
            certificate: &args.ca_cert,
            key,
            role,
            name: args.name.as_deref(),
            hosts: &hosts,
            force: args.force,
        };
        let imported = pki::import(&self.dir, &self.profiles, &request, self.now)?;
        let mut text = format!(
            "Imported {}, valid until {}. Certificates it issued to devices go on working.\n",
            imported.subject,
            imported.not_after.date()
        );
        if role == pki::Role::Both {
            text += "Note: with one authority for both sides, only the certificates' usage keeps a device from posing as the gateway. New intermediates (--role root) keep them further apart.\n";
        }
        if let Some(made) = &imported.initialised {
            text += &self.initialised_text(made);
        }
        Ok((Outcome::Done, text))
    }
}

/// Where a bundle goes.
enum Target {
    Folder(PathBuf),
    File(PathBuf),
}

impl Target {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::File(path) => path,
        }
    }

    fn check(&self, force: bool) -> Result<(), PkiError> {
        if force {
            return Ok(());
        }
        match self {
            Self::Folder(folder) => Bundle::refuse_existing(&Bundle::folder_files(folder)),
            Self::File(path) => Bundle::refuse_existing(std::slice::from_ref(path)),
        }
    }
}

impl OutputArgs {
    fn target(&self, id: &str) -> Target {
        match (&self.out, &self.bundle_file) {
            (_, Some(file)) => Target::File(file.clone()),
            (Some(folder), None) => Target::Folder(folder.clone()),
            (None, None) => Target::Folder(PathBuf::from(id)),
        }
    }
}

fn read_csr(path: Option<&Path>) -> Result<Option<SigningRequest>, PkiError> {
    path.map(SigningRequest::read).transpose()
}

fn or_default_hosts(hosts: &[Host]) -> Vec<Host> {
    if !hosts.is_empty() {
        return hosts.to_vec();
    }
    // Without it the certificate still serves the machine itself.
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    Host::defaults(hostname.as_deref().map(str::trim))
}

fn operator_text(issued: &IssuedOperator, folder: &Path, force: bool) -> Result<String, PkiError> {
    issued.write(folder, force)?;
    let (name, folder) = (&issued.name, folder.display());
    let mut text = format!(
        "Operator {name}: certificate until {} in {folder}/\n",
        issued.not_after.date()
    );
    if issued.key.is_some() {
        text += &format!(
            "For a browser: openssl pkcs12 -export -in {folder}/{name}.crt -inkey {folder}/{name}.key -out {name}.p12\n"
        );
    }
    Ok(text)
}

fn crl_text(update: &CrlUpdate) -> String {
    let mut text = String::new();
    for subject in &update.signed {
        text += &format!("Signed the revocation list of {subject}.\n");
    }
    for subject in &update.skipped {
        text += &format!(
            "The revocation list of {subject} stays as it is: its key is not here. This gateway refuses what is revoked all the same.\n"
        );
    }
    text
}

fn join(hosts: &[Host]) -> String {
    hosts
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn table(entries: &[Entry]) -> String {
    let rows: Vec<[String; 5]> =
        std::iter::once(["KIND", "NAME", "STATE", "DAYS LEFT", "SERIAL"].map(str::to_owned))
            .chain(entries.iter().map(|entry| {
                let mut state = entry.state.text().to_owned();
                if entry.key_here == Some(false) && entry.kind != "trusted" {
                    state += " (key offline)";
                }
                [
                    entry.kind.to_owned(),
                    entry.name.clone(),
                    state,
                    entry.days_left.to_string(),
                    entry.serial.clone(),
                ]
            }))
            .collect();
    let mut widths = [0_usize; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line += &format!("{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
