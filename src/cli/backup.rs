//! `tidegate backup`: everything the gateway knows, in one file.
//!
//! A tar archive: what it is, the database as of one moment, the master key unless it is kept
//! elsewhere, the certificates, and the images of the firmware releases that were published at that
//! moment. Whoever has it can pose as the gateway and as every device.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Context, Ended,
    images::{self, Chosen, Image, Lacking, RELEASES},
};
use crate::{
    clock::system_now,
    config::Config,
    control::{Code, Problem},
    ota::Shelf,
    pki::PkiDir,
    store::{
        DATABASE,
        backup::{BackupError, backup},
    },
};

/// Arguments of `tidegate backup`.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The file to write; it must not exist
    file: PathBuf,
    /// Leave out firmware images, which can be large; after a restore those releases are to be published
    /// again, with the same image and manifest
    #[arg(long)]
    without_images: bool,
}

/// The archive's first entry.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Manifest {
    /// Counted up when the archive's layout changes.
    pub(super) format: u32,
    pub(super) version: String,
    /// Milliseconds since 1970.
    pub(super) created_at: u64,
    /// Whether the images of all published releases are in it,
    #[serde(default)]
    pub(super) images: bool,
    /// but for those of these releases, which were lost already.
    #[serde(default)]
    pub(super) left_out: Vec<String>,
}

/// 2: images. One without them is as it was in format 1.
pub(super) const FORMAT: u32 = 2;
pub(super) const MANIFEST: &str = "tidegate-backup.json";
pub(super) const MASTER_KEY: &str = "master.key";
pub(super) const PKI: &str = "pki";

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Done {
    file: PathBuf,
    bytes: u64,
    /// Messages in the log.
    messages: u64,
    /// False: it is kept elsewhere (a credential, `master_key_file`) and must be kept safe there.
    master_key: bool,
    /// Images of firmware releases.
    images: usize,
    /// Releases whose images are not in it because they are missing or damaged.
    left_out: Vec<Lacking>,
}

pub(super) fn run(context: &Context, args: &BackupArgs) -> Ended {
    let loaded = context.load()?;
    let done = write(&loaded.config, args)?;
    context.output.answer(&done, |done| {
        let mut text = format!(
            "{} ({} bytes, {} messages, {} firmware images).\n",
            done.file.display(),
            done.bytes,
            done.messages,
            done.images
        );
        text.push_str("It holds the gateway's keys: keep it where nobody else can read it.\n");
        if !done.master_key {
            text.push_str("The master key is kept elsewhere and is not in it: keep that too.\n");
        }
        text += &images::told(
            &done.left_out,
            "These releases have no image any more that could be kept; publish them again, or withdraw them:",
        );
        text
    })?;
    Ok(())
}

pub(super) fn io_problem(path: &Path, error: &io::Error) -> Problem {
    let (code, remedy) = match error.kind() {
        io::ErrorKind::PermissionDenied => (Code::Denied, "use sudo, or choose another place"),
        io::ErrorKind::NotFound => (Code::NotFound, "mend the path"),
        io::ErrorKind::AlreadyExists => (Code::Conflict, "choose another name"),
        _ => (
            Code::Io,
            "check that there is space, and that the disk is sound",
        ),
    };
    Problem::new(code, format!("{}: {error}", path.display()), remedy)
}

pub(super) fn store_problem(error: &BackupError) -> Problem {
    let code = match error {
        BackupError::Io { .. } | BackupError::Sql { .. } => Code::Io,
        BackupError::Exists { .. } | BackupError::NotEmpty { .. } => Code::Conflict,
        BackupError::InUse { .. } => Code::InUse,
        BackupError::Damaged { .. } => Code::Damaged,
    };
    Problem::of(code, error)
}

/// A file that goes when this does, unless it is kept.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn write(config: &Config, args: &BackupArgs) -> Result<Done, Problem> {
    let file = &*args.file;
    let state_dir = &config.state_dir;
    let database = state_dir.join(DATABASE);
    if !database.exists() {
        let message = format!("there is nothing to back up in {}", state_dir.display());
        let remedy = "name the gateway's configuration with --config";
        return Err(Problem::new(Code::NotFound, message, remedy));
    }
    if file.exists() {
        let message = format!("{} exists", file.display());
        return Err(Problem::new(
            Code::Conflict,
            message,
            "choose another name, or remove it first",
        ));
    }
    let beside = |suffix: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let partial = Temporary(beside(".partial"));
    let mut options = OpenOptions::new();
    let out = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial.0)
        .map_err(|error| io_problem(&partial.0, &error))?;
    let copy = Temporary(beside(".db"));
    let (contents, chosen) = if args.without_images {
        let copied = backup(&database, &copy.0, |_, _| {});
        (copied.map_err(|error| store_problem(&error))?, None)
    } else {
        let (contents, chosen) = images::snapshot(&database, &copy.0, &Shelf::of(config))?;
        (contents, Some(chosen))
    };
    let failed = |error: io::Error| io_problem(file, &error);
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: system_now().0,
        images: chosen.is_some(),
        left_out: chosen.iter().flat_map(Chosen::names_left_out).collect(),
    };
    let Chosen { images, left_out } = chosen.unwrap_or_default();
    let count = images.len();
    let master_key = archive(config, &manifest, &copy.0, images, out).map_err(failed)?;
    fs::hard_link(&partial.0, file).map_err(failed)?;
    let bytes = fs::metadata(file).map_err(failed)?.len();
    Ok(Done {
        file: file.to_owned(),
        bytes,
        messages: contents.messages,
        master_key,
        images: count,
        left_out,
    })
}

/// Writes the archive to disk; says whether the master key is in it.
fn archive(
    config: &Config,
    manifest: &Manifest,
    copy: &Path,
    images: Vec<Image>,
    out: File,
) -> io::Result<bool> {
    let mut tar = tar::Builder::new(io::BufWriter::new(out));
    tar.follow_symlinks(false);
    let header = |size| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o600);
        header.set_mtime(system_now().seconds());
        header
    };
    let manifest = serde_json::to_vec(manifest)?;
    let size = u64::try_from(manifest.len()).unwrap_or(u64::MAX);
    tar.append_data(&mut header(size), MANIFEST, &*manifest)?;
    tar.append_path_with_name(copy, DATABASE)?;
    let master = config.state_dir.join(MASTER_KEY);
    let master_key = config.master_key_file.is_none() && master.is_file();
    if master_key {
        tar.append_path_with_name(&master, MASTER_KEY)?;
    }
    let pki = PkiDir::of(config);
    if pki.path().is_dir() {
        tar.append_dir_all(PKI, pki.path())?;
    }
    for Image { sha256, size, file } in images {
        let path = Path::new(RELEASES).join(sha256);
        tar.append_data(&mut header(size), path, file.take(size))?;
    }
    let mut out = tar.into_inner()?;
    out.flush()?;
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(master_key)
}
