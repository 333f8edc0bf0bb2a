//! `tidegate firmware`: releases, from the key that signs them to the devices that run them.

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tidegate_wire::manifest::MAX_SIGNED;

use super::{Context, Ended, Failed, exit::Exit, output::print, state::State};
use crate::{
    control::{
        Code, FirmwareRequest, Problem, Request,
        answer::Done,
        firmware::{Begun, Checked, PIECE_BYTES, Release, Releases, Rolled, RolloutDetail},
    },
    ota::{Shelf, nginx, signing::SigningError},
    pki::PkiDir,
};

mod shown;
mod sign;

/// Subcommands of `tidegate firmware`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum FirmwareCommand {
    /// Make a key that signs releases; keep it where releases are built, not on the gateway
    Keygen {
        /// File for the private key; the public one goes beside it, with .pub appended
        #[arg(long, value_name = "FILE", default_value = "release.key")]
        out: PathBuf,
    },
    /// Sign an image: make its manifest
    Sign(Box<sign::SignArgs>),
    /// Give a signed image to the gateway; nobody is offered it before it is rolled out
    Publish {
        /// The image that was signed
        image: PathBuf,
        /// The signed manifest [default: IMAGE with .manifest appended]
        #[arg(long, value_name = "FILE")]
        manifest: Option<PathBuf>,
    },
    /// List releases, their rollouts and how many devices are where
    List,
    /// Take a rollout one step further, or without options show how far each device is
    Rollout(RolloutArgs),
    /// Offer a release to nobody for now
    Pause {
        /// PRODUCT/CHIP/VERSION
        release: String,
        /// Why, for those who look at it later
        #[arg(long, value_name = "TEXT", default_value = "paused by an operator")]
        reason: String,
    },
    /// Let a paused rollout go on
    Resume {
        /// PRODUCT/CHIP/VERSION
        release: String,
    },
    /// Withdraw a release for good and delete its image
    Withdraw {
        /// PRODUCT/CHIP/VERSION
        release: String,
        /// Why, for those who look at it later
        #[arg(long, value_name = "TEXT", default_value = "withdrawn by an operator")]
        reason: String,
    },
    /// Check every published release again: signature, expiry, image
    Verify,
    /// Print the configuration of an nginx that serves updates, for its http block
    Nginx {
        /// Where devices connect
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8444")]
        listen: SocketAddr,
        /// Folder with server.crt, server.key, clients.pem and crl.pem for nginx to read
        /// [default: <state_dir>/pki]
        #[arg(long, value_name = "DIR")]
        pki_dir: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct RolloutArgs {
    /// PRODUCT/CHIP/VERSION
    release: String,
    /// Also to this device (repeatable)
    #[arg(long = "device", value_name = "ID")]
    devices: Vec<String>,
    /// Also to the devices of this group (repeatable)
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// To so many of all devices in percent; a larger share includes every smaller one
    #[arg(long, value_name = "0-100")]
    percent: Option<u8>,
    /// Pause by itself when so many of those that are through have failed [default: 10]
    #[arg(long, value_name = "1-100")]
    max_failure_percent: Option<u8>,
    /// but not before so many have [default: 2]
    #[arg(long, value_name = "COUNT")]
    min_failures: Option<u32>,
    /// Have devices try again that failed
    #[arg(long)]
    again: bool,
    /// Tell devices that are connected to look now
    #[arg(long)]
    now: bool,
}

pub(super) fn run(context: &Context, command: FirmwareCommand) -> Ended {
    let output = context.output;
    let command = match command {
        FirmwareCommand::Keygen { out } => return sign::keygen(context, &out),
        FirmwareCommand::Sign(args) => return sign::run(context, &args),
        command => command,
    };
    let loaded = context.load()?;
    let open = || State::open(&loaded.config);
    let ask = |request| Request::Firmware { request };
    match command {
        FirmwareCommand::Keygen { .. } | FirmwareCommand::Sign(_) => {}
        FirmwareCommand::Publish { image, manifest } => {
            let release = publish(&mut open()?, &image, manifest)?;
            output.answer(&release, |release| {
                let name = &release.release;
                if release.rollout.is_some() {
                    return format!("Release {name} has its image again; it is rolled out as it was.");
                }
                format!("Release {name} is published; nobody is offered it yet.\nNext: tidegate firmware rollout {name} --percent 10")
            })?;
        }
        FirmwareCommand::List => {
            let releases: Releases = open()?.ask(ask(FirmwareRequest::List))?;
            output.answer(&releases, shown::list)?;
        }
        FirmwareCommand::Rollout(args) => rollout(context, &mut open()?, args)?,
        FirmwareCommand::Pause { release, reason } => {
            let request = FirmwareRequest::Pause {
                release: release.clone(),
                reason,
            };
            let rolled: Rolled = open()?.ask(ask(request))?;
            output.answer(&rolled, |_| {
                format!("Release {release} is offered to nobody for now.")
            })?;
        }
        FirmwareCommand::Resume { release } => {
            let request = FirmwareRequest::Resume {
                release: release.clone(),
            };
            let rolled: Rolled = open()?.ask(ask(request))?;
            output.answer(&rolled, |rolled| shown::step(&release, rolled))?;
        }
        FirmwareCommand::Withdraw { release, reason } => {
            let request = FirmwareRequest::Withdraw {
                release: release.clone(),
                reason,
            };
            let done: Done = open()?.ask(ask(request))?;
            output.answer(&done, |_| {
                format!("Release {release} is withdrawn, its image deleted.")
            })?;
        }
        FirmwareCommand::Verify => {
            let checked: Checked = open()?.ask(ask(FirmwareRequest::Verify))?;
            output.answer(&checked, shown::checked)?;
            if !checked.bad.is_empty() {
                return Err(Failed::Said(Exit::Damaged));
            }
        }
        FirmwareCommand::Nginx { listen, pki_dir } => {
            let updates = &loaded.config.updates;
            let Some(socket) = updates.socket.clone() else {
                let message = "updates.socket is not set, so nginx could ask nobody";
                let remedy = "set it to a path in a folder that nginx's group may enter, such as /run/tidegate-updates/socket";
                return Err(Problem::new(Code::Config, message, remedy).into());
            };
            let settings = nginx::Settings {
                listen,
                socket,
                releases: Shelf::of(&loaded.config).dir().to_owned(),
                pki: pki_dir.unwrap_or_else(|| PkiDir::of(&loaded.config).path().to_owned()),
                connections_per_address: updates.connections_per_address,
                stall_seconds: updates.stall_timeout.as_secs().max(1),
            };
            let text =
                nginx::render(&settings).map_err(|error| Problem::of(Code::Config, &error))?;
            print(&text)?;
        }
    }
    Ok(())
}

fn rollout(context: &Context, state: &mut State<'_>, args: RolloutArgs) -> Ended {
    let RolloutArgs {
        release,
        devices,
        groups,
        percent,
        max_failure_percent: failure_percent,
        min_failures: failures_least,
        again,
        now,
    } = args;
    let shows = devices.is_empty()
        && groups.is_empty()
        && percent.is_none()
        && failure_percent.is_none()
        && failures_least.is_none()
        && !again
        && !now;
    if shows {
        let request = FirmwareRequest::Show { release };
        let detail: RolloutDetail = state.ask(Request::Firmware { request })?;
        context.output.answer(&detail, shown::detail)?;
        return Ok(());
    }
    let request = FirmwareRequest::Rollout {
        release: release.clone(),
        devices,
        groups,
        percent,
        failure_percent,
        failures_least,
        again,
        now,
    };
    let rolled: Rolled = state.ask(Request::Firmware { request })?;
    context
        .output
        .answer(&rolled, |rolled| shown::step(&release, rolled))?;
    Ok(())
}

/// Hands an image over, piece by piece.
fn publish(
    state: &mut State<'_>,
    image: &Path,
    manifest: Option<PathBuf>,
) -> Result<Release, Problem> {
    let manifest = manifest.unwrap_or_else(|| sign::beside(image));
    let mut text = String::new();
    let failed = |path: &Path, error: std::io::Error| {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound,
            _ => Code::Io,
        };
        let remedy = "tidegate firmware sign IMAGE makes a manifest";
        Problem::new(code, format!("{}: {error}", path.display()), remedy)
    };
    // One byte more than is allowed shows that it is too long.
    File::open(&manifest)
        .and_then(|file| file.take(MAX_SIGNED as u64 + 1).read_to_string(&mut text))
        .map_err(|error| failed(&manifest, error))?;
    let mut file = File::open(image).map_err(|error| failed(image, error))?;
    let ask = |request| Request::Firmware { request };
    let begun: Begun = state.ask(ask(FirmwareRequest::Begin { manifest: text }))?;
    let (mut offset, mut buffer) = (0_u64, vec![0; PIECE_BYTES]);
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(|error| failed(image, error))?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break;
        };
        let bytes = BASE64_STANDARD.encode(piece);
        let _: Done = state.ask(ask(FirmwareRequest::Piece { offset, bytes }))?;
        offset += read as u64;
    }
    let release = begun.release;
    state.ask(ask(FirmwareRequest::Publish { release }))
}

/// What signing has to say.
fn problem(error: &SigningError) -> Problem {
    let code = match error {
        SigningError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Code::NotFound
        }
        SigningError::Io { .. } => Code::Io,
        SigningError::Exists(_) => Code::Conflict,
        SigningError::NoRandomness => Code::Internal,
        _ => Code::Invalid,
    };
    Problem::of(code, error)
}
