//! Debian in folders: one to run Nix in, one to boot.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Outcome,
    mapping::write,
    shell::{cache, need, read, run},
};

/// What the guest needs beyond a minimal system: what the rendered units name, and what tests them.
const GUEST: &[&str] = &[
    "age",
    "ca-certificates",
    "chrony",
    "curl",
    "dbus",
    "dnsmasq-base",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "libnss-resolve",
    "linux-image-cloud-amd64",
    "mosquitto-clients",
    "nftables",
    "nginx-light",
    "nmap",
    "openssl",
    "polkitd",
    "procps",
    "systemd-resolved",
    "systemd-sysv",
    "tzdata",
    "udev",
    "zstd",
];

/// The guest's Debian: with programs as young as those of the evaluated system (stable's chrony does not
/// say when it is ready), and less in motion than unstable. A tree that was made is kept.
const GUEST_SUITE: &str = "testing";
/// Nix is young enough only here.
const NIX_SUITE: &str = "sid";

/// The tree of the machine that boots.
pub(crate) fn guest() -> Outcome<PathBuf> {
    root("guest", GUEST_SUITE, GUEST)
}

/// A tree with Nix in it, ready to be run by chroot.
pub(crate) fn with_nix() -> Outcome<PathBuf> {
    let root = root("sid-nix", NIX_SUITE, &["nix-bin", "git", "ca-certificates"])?;
    bind(Path::new("/proc"), &root.join("proc"))?;
    bind(Path::new("/dev"), &root.join("dev"))?;
    Ok(root)
}

/// A tree made by debootstrap, with packages. Made once for one suite and list of packages; one that is
/// half-made, or made for others, is made anew.
fn root(name: &str, suite: &str, packages: &[&str]) -> Outcome<PathBuf> {
    let root = cache().join(name);
    let ready = root.join(".ready");
    let key = format!("{suite}: {}\n", packages.join(" "));
    if fs::read_to_string(&ready).is_ok_and(|made| made == key) {
        return Ok(root);
    }
    need(&["debootstrap"], &["debootstrap"])?;
    if root.exists() {
        unmount(&root)?;
        fs::remove_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    }
    fs::create_dir_all(cache()).map_err(|error| format!("{}: {error}", cache().display()))?;
    run(Command::new("debootstrap")
        .args(["--variant=minbase", suite])
        .arg(&root))?;
    // Nothing starts while packages are installed: the services would be this machine's.
    write(
        &root.join("usr/sbin/policy-rc.d"),
        "#!/bin/sh\nexit 101\n",
        0o755,
    )?;
    bind(Path::new("/proc"), &root.join("proc"))?;
    let installed = run(Command::new("chroot")
        .arg(&root)
        .args(["apt-get", "install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive"));
    unmount(&root)?;
    installed?;
    fs::write(&ready, key).map_err(|error| format!("{}: {error}", ready.display()))?;
    Ok(root)
}

/// Makes a folder of this machine visible in a tree.
pub(crate) fn bind(folder: &Path, at: &Path) -> Outcome {
    if mounted(at) {
        return Ok(());
    }
    fs::create_dir_all(at).map_err(|error| format!("{}: {error}", at.display()))?;
    run(Command::new("mount").arg("--bind").arg(folder).arg(at))
}

fn mounted(at: &Path) -> bool {
    Command::new("mountpoint")
        .arg("-q")
        .arg(at)
        .status()
        .is_ok_and(|status| status.success())
}

/// Takes away every mount below a tree.
fn unmount(root: &Path) -> Outcome {
    let root = root
        .canonicalize()
        .map_err(|error| format!("{}: {error}", root.display()))?;
    let mounts =
        fs::read_to_string("/proc/mounts").map_err(|error| format!("/proc/mounts: {error}"))?;
    let mut below: Vec<&Path> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(Path::new)
        .filter(|at| at.starts_with(&root) && *at != root)
        .collect();
    below.sort();
    for at in below.into_iter().rev() {
        run(Command::new("umount").arg(at))?;
    }
    Ok(())
}

/// The kernel and the initial file system of a tree, newest.
pub(crate) fn kernel(root: &Path) -> Outcome<(PathBuf, PathBuf)> {
    let newest = |prefix: &str| {
        let mut found: Vec<PathBuf> = fs::read_dir(root.join("boot"))
            .ok()?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
            .collect();
        found.sort();
        found.pop()
    };
    match (newest("vmlinuz-"), newest("initrd.img-")) {
        (Some(kernel), Some(initrd)) => Ok((kernel, initrd)),
        _ => Err(format!("{} has no kernel", root.display())),
    }
}

/// An ext4 image with a tree's files, of a given size in MiB.
pub(crate) fn image(tree: &Path, image: &Path, mib: u32) -> Outcome {
    need(&["mkfs.ext4"], &["e2fsprogs"])?;
    let _ = fs::remove_file(image);
    read(
        Command::new("mkfs.ext4")
            .args([
                "-q",
                "-F",
                "-O",
                "^metadata_csum_seed",
                "-E",
                "lazy_itable_init=1",
                "-d",
            ])
            .arg(tree)
            .arg(image)
            .arg(format!("{mib}M")),
    )
    .map(drop)
}
