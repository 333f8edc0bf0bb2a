//! `tidegate restore`: a gateway's state from a backup.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use serde::Serialize;

use super::{
    Context, Ended,
    backup::{FORMAT, MANIFEST, MASTER_KEY, Manifest, PKI, io_problem, store_problem},
    images::{self, Found, Lacking, Placed, RELEASES},
    output::moment,
};
use crate::{
    clock,
    config::Config,
    control::{Code, Problem},
    ota::{Fault, Shelf, UpdateError, is_digest},
    pki::PkiDir,
    store::{DATABASE, backup},
};

/// Certificates and keys are small; so is what says what the archive is.
const MAX_SMALL_BYTES: u64 = 1 << 20;
/// Entries of a folder of certificates: one per certificate ever issued, and some.
const MAX_ENTRIES: usize = 1_000_000;

/// Arguments of `tidegate restore`.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The file that backup wrote
    file: PathBuf,
    /// Leave firmware images in it; publish those releases again afterwards
    #[arg(long)]
    without_images: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Done {
    state_dir: PathBuf,
    created_at: u64,
    /// Messages in the log.
    messages: u64,
    /// Published releases whose images are not there.
    lacking: Vec<Lacking>,
}

pub(super) fn run(context: &Context, args: &RestoreArgs) -> Ended {
    let loaded = context.load()?;
    let done = put_back(&loaded.config, args)?;
    context.output.answer(&done, |done| {
        let text = format!(
            "{} is as it was at {} ({} messages). What was delivered since is delivered again.\n",
            done.state_dir.display(),
            moment(done.created_at),
            done.messages
        );
        let heading = "These releases are offered again once they are published again, with the same image and manifest:";
        text + &images::told(&done.lacking, heading)
    })?;
    Ok(())
}

/// The folder an archive is unpacked in before anything of it is believed.
struct Unpacked(PathBuf);

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn put_back(config: &Config, args: &RestoreArgs) -> Result<Done, Problem> {
    let file = &*args.file;
    let state_dir = &config.state_dir;
    let pki = PkiDir::of(config).path().to_owned();
    let (database, master) = (state_dir.join(DATABASE), state_dir.join(MASTER_KEY));
    for path in [&database, &master, &pki] {
        if path.exists() {
            return Err(Problem::new(
                Code::Conflict,
                format!("{} is there already and is not overwritten", path.display()),
                "stop the gateway and move its state away first",
            ));
        }
    }
    let archive = File::open(file).map_err(|error| io_problem(file, &error))?;
    let failed = |error: io::Error| io_problem(state_dir, &error);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(failed)?;
    let unpacked = Unpacked(state_dir.join("restore.partial"));
    if unpacked.0.exists() {
        fs::remove_dir_all(&unpacked.0).map_err(failed)?;
    }
    DirBuilder::new()
        .mode(0o700)
        .create(&unpacked.0)
        .map_err(failed)?;
    let unusable = |error| match error {
        Unusable::Io(error) => io_problem(file, &error),
        Unusable::Not(why) => {
            let message = format!("{} is no backup of a gateway: {why}", file.display());
            Problem::new(
                Code::Damaged,
                message,
                "use a file that tidegate backup wrote",
            )
        }
    };
    let Contents { manifest, found } = unpack(&archive, &unpacked.0).map_err(unusable)?;
    let releases =
        backup::published(&unpacked.0.join(DATABASE)).map_err(|error| store_problem(&error))?;
    let shelf = Shelf::of(config);
    let mut images = Placed::new(&shelf);
    if !args.without_images {
        images::judge(&releases, &found, &manifest).map_err(|why| {
            let message = format!("{}: {why}", file.display());
            let remedy =
                "use another copy, or restore --without-images and publish that release again";
            Problem::new(Code::Damaged, message, remedy)
        })?;
        place(&archive, &mut images).map_err(unusable)??;
    }
    // The database comes last: with it the state is there, without it there is none.
    let mut placed = Vec::new();
    let result = [(MASTER_KEY, &master), (PKI, &pki)]
        .into_iter()
        .filter(|(name, _)| unpacked.0.join(name).exists())
        .try_for_each(|(name, to)| {
            fs::rename(unpacked.0.join(name), to).map_err(|error| io_problem(to, &error))?;
            placed.push(to.clone());
            Ok(())
        })
        .and_then(|()| {
            backup::restore(
                &unpacked.0.join(DATABASE),
                &database,
                false,
                clock::system_now(),
            )
            .map_err(|error| store_problem(&error))
        });
    match result {
        Ok(contents) => Ok(Done {
            state_dir: state_dir.clone(),
            created_at: manifest.created_at,
            messages: contents.messages,
            lacking: images.keep(&releases)?,
        }),
        Err(problem) => {
            for path in placed {
                // Back into the folder that goes; what fails here is said by the next try.
                let _ = fs::rename(&path, unpacked.0.join(path.file_name().unwrap_or_default()));
            }
            Err(problem)
        }
    }
}

enum Unusable {
    Io(io::Error),
    Not(String),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        // Not of the file system: the archive's own text.
        if error.raw_os_error().is_none() {
            Self::Not(error.to_string())
        } else {
            Self::Io(error)
        }
    }
}

/// What an archive holds besides what was unpacked.
#[derive(Debug)]
struct Contents {
    manifest: Manifest,
    found: Found,
}

/// The SHA-256 by which an image is named, if this is the path of one.
fn image(path: &Path) -> Option<&str> {
    let name = path.strip_prefix(RELEASES).ok()?.to_str()?;
    is_digest(name).then_some(name)
}

/// Unpacks only what a backup has: plain files of these names, in this order. Nothing in an archive
/// decides about modes, owners, links or places outside `into`. Images are only looked at: they are not
/// believed before the database is there that names them.
fn unpack(archive: &File, into: &Path) -> Result<Contents, Unusable> {
    let not = |why: &str| Unusable::Not(why.to_owned());
    let mut found = Found::new();
    let mut archive = tar::Archive::new(io::BufReader::new(archive));
    let mut entries = archive.entries()?;
    let mut first = entries.next().ok_or_else(|| not("it is empty"))??;
    if first.path()? != Path::new(MANIFEST) || first.size() > MAX_SMALL_BYTES {
        return Err(not("it does not begin as one"));
    }
    let mut text = Vec::new();
    first.read_to_end(&mut text)?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| Unusable::Not(error.to_string()))?;
    if !(1..=FORMAT).contains(&manifest.format) {
        return Err(Unusable::Not(format!(
            "it is of format {}, written by tidegate {}; this one reads formats up to {FORMAT}",
            manifest.format, manifest.version
        )));
    }
    let mut database = false;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let shown = path.display();
        let plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let in_pki = path.starts_with(PKI);
        let is_database = path == Path::new(DATABASE);
        let image = image(&path);
        let known = is_database || in_pki || image.is_some() || path == Path::new(MASTER_KEY);
        if !plain || !known || count >= MAX_ENTRIES {
            return Err(Unusable::Not(format!("{shown:?} has no place in it")));
        }
        let to = into.join(&path);
        match (entry.header().entry_type(), image) {
            (tar::EntryType::Regular, Some(sha256)) => {
                let size = entry.size();
                let fault = Fault::find(&mut entry, sha256, size)?;
                found.insert(sha256.to_owned(), (size, fault));
            }
            (tar::EntryType::Directory, None) if in_pki => {
                DirBuilder::new().recursive(true).mode(0o700).create(&to)?;
            }
            (tar::EntryType::Regular, None) => {
                if !is_database && entry.size() > MAX_SMALL_BYTES {
                    return Err(Unusable::Not(format!("{shown:?} is too large")));
                }
                let mut options = OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(0o600).open(&to)?;
                let expected = entry.size();
                if io::copy(&mut entry, &mut file)? != expected {
                    return Err(not("it is cut short"));
                }
                file.sync_all()?;
                database |= is_database;
            }
            // What a folder of certificates is linked with is made anew.
            _ => {
                return Err(Unusable::Not(format!(
                    "{shown:?} is neither file nor folder"
                )));
            }
        }
    }
    if database {
        Ok(Contents { manifest, found })
    } else {
        Err(not("it holds no database"))
    }
}

/// Puts the images of an archive that was found to be sound into the release folder.
fn place(mut archive: &File, images: &mut Placed<'_>) -> Result<Result<(), UpdateError>, Unusable> {
    archive.rewind()?;
    let mut archive = tar::Archive::new(io::BufReader::new(archive));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let (path, size) = (entry.path()?.into_owned(), entry.size());
        let Some(sha256) = image(&path) else { continue };
        if let Err(error) = images.put(sha256, size, &mut entry) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
