//! Finding the master key, or making one at the first start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use zeroize::{Zeroize, Zeroizing};

use super::{MasterKey, SealError};
use crate::config::Config;

/// The systemd credential that may hold the key (`LoadCredential=` or `LoadCredentialEncrypted=`).
const CREDENTIAL: &str = "tidegate-master-key";
/// The key's file in the state directory when neither a file nor a credential is given.
const FILE: &str = "master.key";
/// Far more than any number of keys to rotate through; keeps a wrong file from being read whole.
const MAX_BYTES: u64 = 4096;

/// Where to look, first to last.
#[derive(Clone, Debug)]
pub struct Sources {
    /// `master_key_file` of the configuration.
    pub file: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`, which systemd sets.
    pub credentials: Option<PathBuf>,
    pub state_dir: PathBuf,
}

/// Where the key was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The file named in the configuration.
    Configured(PathBuf),
    /// The systemd credential.
    Credential,
    /// The file in the state directory.
    StateDir(PathBuf),
    /// That file, just made. Whoever loses it loses every device's secret: it belongs in a backup.
    Created(PathBuf),
}

impl Sources {
    /// What the configuration and the environment say.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        Self {
            file: config.master_key_file.clone(),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            state_dir: config.state_dir.clone(),
        }
    }
}

/// Loads the master key. If there is none, makes one, unless `sealed` says that the database already
/// holds secrets, which a new key could not open.
///
/// # Errors
/// [`SealError`]: it cannot be read, others could read it, it is malformed, or it is lost.
pub fn load(sources: &Sources, sealed: bool) -> Result<(MasterKey, Origin), SealError> {
    if let Some(path) = &sources.file {
        return Ok((read(path, true)?, Origin::Configured(path.clone())));
    }
    if let Some(path) = sources.credentials.as_ref().map(|dir| dir.join(CREDENTIAL))
        && path.exists()
    {
        // systemd lets the service in through an access control list, which shows as group bits.
        return Ok((read(&path, false)?, Origin::Credential));
    }
    let path = sources.state_dir.join(FILE);
    match read(&path, true) {
        Err(SealError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        found => return Ok((found?, Origin::StateDir(path))),
    }
    if sealed {
        return Err(SealError::Missing { path });
    }
    create(&path)?;
    // Read back: what was written is what will be found at the next start.
    Ok((read(&path, true)?, Origin::Created(path)))
}

fn read(path: &Path, private: bool) -> Result<MasterKey, SealError> {
    let failed = |source| SealError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    if private && file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(SealError::Exposed {
            path: path.to_owned(),
        });
    }
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize));
    file.take(MAX_BYTES)
        .read_to_end(&mut content)
        .map_err(failed)?;
    parse(&content).ok_or_else(|| SealError::Malformed {
        path: path.to_owned(),
    })
}

fn parse(content: &[u8]) -> Option<MasterKey> {
    // Not text at all: a credential made with `head -c 32 /dev/urandom`.
    if let Ok(raw) = <&[u8; 32]>::try_from(content) {
        return Some(MasterKey::new(raw, &[]));
    }
    let text = std::str::from_utf8(content).ok()?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys = lines.map(from_hex).collect::<Option<Vec<_>>>()?;
    let (current, older) = keys.split_first()?;
    Some(MasterKey::new(current, older))
}

fn from_hex(line: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits: &[u8; 64] = line.as_bytes().try_into().ok()?;
    let mut key = Zeroizing::new([0; 32]);
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        for &digit in pair {
            *byte = *byte << 4 | u8::try_from(char::from(digit).to_digit(16)?).ok()?;
        }
    }
    Some(key)
}

/// Writes a new key under another name, flushes it and links it into place: the file is there with
/// all of its content or not at all, and an existing one is never replaced.
fn create(path: &Path) -> Result<(), SealError> {
    let mut key = Zeroizing::new([0; 32]);
    rand::fill(key.as_mut_slice()).map_err(|_| SealError::NoRandomness)?;
    let mut line = Zeroizing::new(String::with_capacity(65));
    for byte in key.iter() {
        for digit in [byte >> 4, byte & 0x0f] {
            line.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    line.push('\n');
    key.zeroize();

    let temporary = path.with_extension(format!("key.new-{}", std::process::id()));
    let result = write_new(&temporary, line.as_bytes())
        .and_then(|()| fs::hard_link(&temporary, path))
        .and_then(|()| match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        });
    // The first error is the one to report; the name holds nothing that the key's own does not.
    let _ = fs::remove_file(&temporary);
    result.map_err(|source| SealError::Io {
        path: path.to_owned(),
        source,
    })
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::seal::Place;

    const PLACE: Place<'static> = Place {
        table: "t",
        column: "c",
        row: "r",
    };

    fn sources(dir: &Path) -> Sources {
        Sources {
            file: None,
            credentials: None,
            state_dir: dir.to_owned(),
        }
    }

    fn put(path: &Path, content: &[u8], mode: u32) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_start_makes_a_private_key_and_the_next_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let (first, origin) = load(&sources(dir.path()), false).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(origin, Origin::Created(path.clone()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing else is left behind"
        );
        let sealed = first.seal(PLACE, b"x").unwrap();
        let (second, origin) = load(&sources(dir.path()), true).unwrap();
        assert_eq!(origin, Origin::StateDir(path));
        assert_eq!(&**second.open(PLACE, &sealed).unwrap(), b"x");
    }

    #[test]
    fn a_lost_key_is_not_replaced_once_something_is_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let error = load(&sources(dir.path()), true).unwrap_err();
        assert!(matches!(error, SealError::Missing { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_key_others_can_read_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for mode in [0o640, 0o604, 0o660] {
            put(&path, "ab".repeat(32).as_bytes(), mode);
            let error = load(&sources(dir.path()), false).unwrap_err().to_string();
            assert!(
                error.contains(&format!("chmod 600 {}", path.display())),
                "{error}"
            );
        }
    }

    #[test]
    fn malformed_and_empty_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let long = "ab".repeat(32);
        for content in [
            "",
            "\n",
            "abcd",
            &long[..63],
            &format!("{long}0"),
            &format!("{long}\nxyz"),
        ] {
            put(&path, content.as_bytes(), 0o600);
            let error = load(&sources(dir.path()), false).unwrap_err();
            assert!(
                matches!(error, SealError::Malformed { .. }),
                "{content:?}: {error}"
            );
        }
    }

    #[test]
    fn the_configured_file_goes_before_the_credential_and_that_before_the_state_dir() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        put(&credentials.join(CREDENTIAL), &[9; 32], 0o440);
        put(&dir.path().join(FILE), "ab".repeat(32).as_bytes(), 0o600);
        let configured = dir.path().join("elsewhere");
        put(
            &configured,
            format!("{}\n{}\n", "cd".repeat(32), "ab".repeat(32)).as_bytes(),
            0o600,
        );

        let all = Sources {
            file: Some(configured.clone()),
            credentials: Some(credentials.clone()),
            state_dir: dir.path().to_owned(),
        };
        let (key, origin) = load(&all, true).unwrap();
        assert_eq!(origin, Origin::Configured(configured));
        let old = MasterKey::new(&[0xab; 32], &[]).seal(PLACE, b"x").unwrap();
        assert!(key.open(PLACE, &old).is_ok(), "its second line opens");
        assert!(key.is_outdated(&old));

        let (_, origin) = load(
            &Sources {
                file: None,
                ..all.clone()
            },
            true,
        )
        .unwrap();
        assert_eq!(origin, Origin::Credential);
        let absent = Sources {
            file: Some(dir.path().join("absent")),
            ..all
        };
        assert!(
            matches!(load(&absent, false), Err(SealError::Io { .. })),
            "no silent fallback"
        );
    }
}
