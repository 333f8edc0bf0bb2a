//! What a box alone knows, made once, on the box: an image is the same for everybody and holds nothing
//! secret.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Arguments of `first-boot`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the secrets are kept
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FirstBootError {
    #[error("{path}: {source}; is the state partition full, or read-only?")]
    Io { path: PathBuf, source: io::Error },
}

/// File, and how many characters. The first is typed into phones, the others are not: 5 bits each.
const SECRETS: &[(&str, usize)] = &[
    ("wifi", 20),
    ("influxdb-password", 32),
    ("influxdb-token", 52),
    ("grafana-password", 20),
    ("grafana-secret-key", 52),
];
/// Nothing that is mistaken for something else when read from a screen: no 0, 1, 5 and l, and all lower
/// case; 32 characters, so that each takes five random bits and none is likelier.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2346789";

pub(crate) fn run(args: &Args) -> Result<(), FirstBootError> {
    let mut random = File::open("/dev/urandom").map_err(at(Path::new("/dev/urandom")))?;
    make(&args.dir, &mut |bytes| random.read_exact(bytes)).map(drop)
}

/// Makes those that are missing; how many that were.
fn make(
    dir: &Path,
    random: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
) -> Result<usize, FirstBootError> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    let mut made = 0;
    for (name, length) in SECRETS {
        let path = dir.join(name);
        if path.exists() {
            continue;
        }
        let mut bytes = vec![0; *length];
        random(&mut bytes).map_err(at(&path))?;
        let secret: Vec<u8> = bytes
            .iter()
            .filter_map(|byte| ALPHABET.get(usize::from(byte % 32)).copied())
            .collect();
        write(&path, &secret).map_err(at(&path))?;
        made += 1;
    }
    Ok(made)
}

/// Whole or not at all, even if the power goes: written beside, flushed, then renamed.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FirstBootError + use<> {
    let path = path.to_owned();
    move |source| FirstBootError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn secrets_are_made_once_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let mut next = 0_u8;
        let mut counting = |bytes: &mut [u8]| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(7);
            }
            Ok(())
        };
        assert_eq!(make(folder.path(), &mut counting).unwrap(), SECRETS.len());
        let before = fs::read(folder.path().join("wifi")).unwrap();
        assert_eq!(before.len(), 20);
        assert_eq!(
            fs::metadata(folder.path().join("wifi"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        assert_eq!(make(folder.path(), &mut counting).unwrap(), 0);
        assert_eq!(fs::read(folder.path().join("wifi")).unwrap(), before);
    }

    #[test]
    fn no_character_is_likelier_than_another() {
        let distinct: BTreeSet<u8> = ALPHABET.iter().copied().collect();
        assert_eq!(distinct.len(), ALPHABET.len());
    }
}
