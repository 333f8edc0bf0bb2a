//! Which Debian folder stands for which package of the snapshots. This is the only place that knows.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::{Outcome, snapshot::Snapshot};

/// One folder with a link to every program of /usr/bin and /usr/sbin: packages of Nix have their own.
pub(crate) const PROGRAMS: &str = "/opt/programs";
/// Ours, put there by the test.
pub(crate) const DAEMON: &str = "/opt/tidegate/bin";
pub(crate) const BOX: &str = "/opt/tidegate-box/bin";

/// What every package has unless a line of [`TABLE`] says otherwise.
const USUAL: &[(&str, &str)] = &[
    ("bin", PROGRAMS),
    ("sbin", PROGRAMS),
    ("lib", "/usr/lib"),
    ("share", "/usr/share"),
    ("etc", "/etc"),
];

/// By the beginning of the package's name, first match: folders in the package, and for each the one in
/// Debian.
const TABLE: &[(&str, &[(&str, &str)])] = &[
    ("tidegate-box-", &[("bin", BOX)]),
    ("tidegate-", &[("bin", DAEMON)]),
    ("nginx-", &[("bin", PROGRAMS), ("conf", "/etc/nginx")]),
    // nginx's list of media types, which Debian has in nginx's own folder.
    ("mailcap-", &[("etc/nginx", "/etc/nginx")]),
];

/// The folders of one package, by the name after its hash.
fn folders(name: &str) -> &'static [(&'static str, &'static str)] {
    TABLE
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map_or(USUAL, |(_, folders)| folders)
}

/// Puts a snapshot's files where they belong below `root`: texts at their store paths, packages as
/// links to what Debian has, `/etc` as links into the store as on NixOS.
pub(crate) fn install(snapshot: &Snapshot, root: &Path) -> Outcome {
    for (path, text) in &snapshot.texts {
        let target = below(root, &(path.clone() + &text.destination));
        write(
            &target,
            &text.content,
            if text.executable { 0o755 } else { 0o644 },
        )?;
    }
    for package in &snapshot.packages {
        let name = package
            .rsplit('/')
            .next()
            .and_then(|name| name.get(33..))
            .unwrap_or_default();
        for (inside, outside) in folders(name) {
            link(Path::new(outside), &below(root, package).join(inside))?;
        }
    }
    for (place, source) in &snapshot.files {
        link(Path::new(source), &root.join(place))?;
    }
    Ok(())
}

/// Where an absolute path of the guest is below the folder that will be its root.
pub(crate) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Writes a file and the folders above it, in place of whatever link or file was there.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>, mode: u32) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    make_way(path)?;
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes a symbolic link, likewise.
pub(crate) fn link(to: &Path, at: &Path) -> Outcome {
    make_way(at)?;
    symlink(to, at).map_err(|error| format!("{}: {error}", at.display()))
}

fn make_way(path: &Path) -> Outcome {
    if path.symlink_metadata().is_ok() {
        // Never written through: the file may be shared with the tree this one was linked from.
        fs::remove_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_packages_are_ours_and_others_are_debians() {
        assert_eq!(folders("tidegate-0.1.0"), [("bin", DAEMON)]);
        assert_eq!(folders("tidegate-box-0.1.0"), [("bin", BOX)]);
        assert_eq!(folders("coreutils-9.11"), USUAL);
    }

    #[test]
    fn a_file_that_is_shared_is_replaced_and_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (original, copy) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&original, "before").unwrap();
        fs::hard_link(&original, &copy).unwrap();
        write(&copy, "after", 0o644).unwrap();
        assert_eq!(fs::read_to_string(original).unwrap(), "before");
    }
}
