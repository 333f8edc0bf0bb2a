//! Creating the authority: built complete beside its place, then moved there in one step.

use std::fs;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::authority::{Authority, Lifetime};
use super::certificate::{Certificate, PrivateKey, hex};
use super::error::PkiError;
use super::files::{self, Lock, PUBLIC, PkiDir};
use super::hosts::Host;
use super::issue;
use super::profile::{Kind, Profiles};
use super::revocation::{self, Record};

/// A certificate authority that now exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialised {
    /// The root's subject.
    pub root: String,
    /// The server certificate's names and addresses.
    pub hosts: Vec<Host>,
    /// Where the authority that was here before (`--force`) is now.
    pub former: Option<PathBuf>,
}

/// Creates root, intermediates, server certificate and empty revocation lists.
///
/// `name` is what the authorities are called (`{name}` in the profiles). With `force` an
/// existing authority is moved aside, never deleted.
///
/// # Errors
/// [`PkiError::AlreadyInitialised`] without `force`; a wrong clock; files.
pub fn init(
    dir: &PkiDir,
    profiles: &Profiles,
    name: &str,
    hosts: &[Host],
    force: bool,
    now: OffsetDateTime,
) -> Result<Initialised, PkiError> {
    create(dir, force, hosts, |staging, lock| {
        let key = PrivateKey::generate()?;
        let tag = tag()?;
        let params = profiles.params(Kind::Root, &[("name", name), ("tag", &tag)])?;
        let lifetime = Lifetime::from_now(profiles, Kind::Root, now)?;
        let pem = key.pem.clone();
        let root = Authority::create_root(params, key, lifetime)?;
        staging.write_pair("root", &root.certificate.pem(), &pem)?;
        below_root(staging, profiles, name, hosts, &root, now, lock)
    })
}

/// Everything below an existing root: intermediates, server certificate, lists.
pub(super) fn below_root(
    staging: &PkiDir,
    profiles: &Profiles,
    name: &str,
    hosts: &[Host],
    root: &Authority,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<(), PkiError> {
    for kind in [Kind::GatewayCa, Kind::DeviceCa] {
        create_intermediate(staging, profiles, kind, name, root, now)?;
    }
    finish(staging, profiles, hosts, now, lock)
}

/// The server certificate and the first revocation lists, once both issuers are in place.
pub(super) fn finish(
    staging: &PkiDir,
    profiles: &Profiles,
    hosts: &[Host],
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<(), PkiError> {
    issue::server(staging, profiles, hosts, issue::ServerKey::New, now, lock)?;
    revocation::sign_lists(staging, &mut Record::default(), now, lock)?;
    Ok(())
}

/// A new intermediate with a new key and a name of its own, replacing the one in place.
pub(super) fn create_intermediate(
    dir: &PkiDir,
    profiles: &Profiles,
    kind: Kind,
    name: &str,
    root: &Authority,
    now: OffsetDateTime,
) -> Result<Certificate, PkiError> {
    let tag = tag()?;
    let params = profiles.params(kind, &[("name", name), ("tag", &tag)])?;
    let lifetime = Lifetime::from_now(profiles, kind, now)?;
    let key = PrivateKey::generate()?;
    let certificate = root.issue(params, &[], &key.pair, lifetime, now)?;
    dir.write_pair(kind.name(), &certificate.pem(), &key.pem)?;
    Ok(certificate)
}

/// Runs `build` on a new directory and then puts that in place of `dir`.
pub(super) fn create(
    dir: &PkiDir,
    force: bool,
    hosts: &[Host],
    build: impl FnOnce(&PkiDir, &Lock) -> Result<(), PkiError>,
) -> Result<Initialised, PkiError> {
    let lock = dir.lock()?;
    if dir.is_initialised() && !force {
        return Err(PkiError::AlreadyInitialised(dir.path().to_path_buf()));
    }
    let staging = PkiDir::at(sibling(dir.path(), &format!("new-{}", std::process::id())));
    files::create_dir(staging.path())?;
    files::create_dir(&staging.issued())?;
    if let Err(error) = build(&staging, &lock) {
        // What failed is the error to report; a leftover is removed by the next command.
        let _ = fs::remove_dir_all(staging.path());
        return Err(error);
    }
    let root = Certificate::read(&staging.certificate("root"))?;
    let former = if fs::symlink_metadata(dir.path()).is_ok() {
        let aside = (1..)
            .map(|number| sibling(dir.path(), &format!("old-{number}")))
            .find(|path| fs::symlink_metadata(path).is_err())
            .unwrap_or_else(|| sibling(dir.path(), "old"));
        fs::rename(dir.path(), &aside).map_err(PkiError::io("rename", dir.path()))?;
        // An empty directory that was in the way is no former authority.
        fs::remove_dir(&aside).is_err().then_some(aside)
    } else {
        None
    };
    fs::rename(staging.path(), dir.path()).map_err(PkiError::io("rename", staging.path()))?;
    files::sync_parent(dir.path())?;
    Ok(Initialised {
        root: root.subject_text,
        hosts: hosts.to_vec(),
        former,
    })
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    path.with_file_name(format!("pki.{suffix}"))
}

/// Six hex digits that make an authority's name unique, so that two installations, or two
/// generations of one, are never confused by name.
fn tag() -> Result<String, PkiError> {
    let mut bytes = [0_u8; 3];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PkiError::NoRandomness)?;
    Ok(hex(&bytes))
}

/// Adds a certificate to those trusted for clients; its stem.
pub(super) fn add_trusted(
    dir: &PkiDir,
    certificate: &Certificate,
    folder: &str,
) -> Result<String, PkiError> {
    files::create_dir(&dir.path().join(folder))?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate.der);
    // 64 bits tell the handful of authorities a gateway ever trusts apart.
    let stem = format!(
        "{folder}/{}",
        hex(digest.as_ref().get(..8).unwrap_or_default())
    );
    files::write(
        &dir.certificate(&stem),
        certificate.pem().as_bytes(),
        PUBLIC,
    )?;
    Ok(stem)
}
