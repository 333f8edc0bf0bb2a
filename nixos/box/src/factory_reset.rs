//! Back to how the image was: every secret, key and message of this box is forgotten.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::program::{ProgramError, run as program};

/// Arguments of `factory-reset`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that asks for it
    #[arg(long)]
    marker: PathBuf,
    /// Folders to empty
    #[arg(required = true)]
    folders: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ResetError {
    #[error("{path} is not there, so nobody asked for a reset")]
    NotAsked { path: PathBuf },
    #[error(
        "{path}: {source}; what was to be forgotten may still be there: try again, or write the card anew"
    )]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the card's first partition cannot be written, so the reset would repeat at every boot: {0}"
    )]
    ReadOnly(#[from] ProgramError),
}

pub(crate) fn run(args: &Args) -> Result<(), ResetError> {
    reset(&args.marker, &args.folders)
}

/// Empties the folders, then removes the marker: whatever interrupts this, the next boot finishes it.
fn reset(marker: &Path, folders: &[PathBuf]) -> Result<(), ResetError> {
    if !marker.exists() {
        return Err(ResetError::NotAsked {
            path: marker.to_owned(),
        });
    }
    for folder in folders {
        empty(folder).map_err(at(folder))?;
    }
    match fs::remove_file(marker) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let partition = marker.parent().unwrap_or(Path::new("/"));
            program(
                Command::new("mount")
                    .args(["-o", "remount,rw"])
                    .arg(partition),
            )?;
            fs::remove_file(marker).map_err(at(marker))
        }
        removed => removed.map_err(at(marker)),
    }
}

/// Removes what is in a folder and keeps the folder, which may be a mount. Links are not followed.
fn empty(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ResetError + use<> {
    let path = path.to_owned();
    move |source| ResetError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_forgotten_unless_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::write(state.join("master.key"), "x").unwrap();
        let marker = folder.path().join("marker");
        assert!(matches!(
            reset(&marker, std::slice::from_ref(&state)),
            Err(ResetError::NotAsked { .. })
        ));
        assert!(state.join("master.key").exists());
    }

    #[test]
    fn a_reset_empties_the_folders_and_is_done_once() {
        let folder = tempfile::tempdir().unwrap();
        let (state, outside) = (folder.path().join("state"), folder.path().join("outside"));
        fs::create_dir_all(state.join("pki")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(state.join("pki/root.key"), "x").unwrap();
        fs::write(outside.join("other"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, state.join("link")).unwrap();
        let marker = folder.path().join("marker");
        fs::write(&marker, "").unwrap();
        reset(&marker, &[state.clone(), folder.path().join("never made")]).unwrap();
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
        assert!(outside.join("other").exists() && !marker.exists());
    }
}
