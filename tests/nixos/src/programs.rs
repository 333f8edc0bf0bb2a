//! The rendered files, checked by the programs that will read them, in the tree of the guest: nothing is
//! booted.

use std::{fs, path::Path, process::Command};

use crate::{
    Outcome, debian,
    mapping::{PROGRAMS, below, install, link, write},
    render::{CONFIGURATIONS, folder},
    shell::{cache, output, read, run as shell},
    snapshot::Snapshot,
};

/// As for the guest: what systemd may make of our unit's sandbox at most.
const EXPOSURE: &str = "15";

/// The command `programs`.
pub(crate) fn run() -> Outcome {
    let base = debian::guest()?;
    let mut failed = Vec::new();
    for configuration in CONFIGURATIONS {
        let tree = cache().join("programs-tree");
        if tree.exists() {
            fs::remove_dir_all(&tree).map_err(|error| format!("{}: {error}", tree.display()))?;
        }
        shell(Command::new("cp").arg("-al").arg(&base).arg(&tree))?;
        let snapshot = Snapshot::load(&folder(configuration))?;
        install(&snapshot, &tree)?;
        for folder in ["usr/bin", "usr/sbin"] {
            for entry in fs::read_dir(tree.join(folder))
                .into_iter()
                .flatten()
                .flatten()
            {
                let target = Path::new("/").join(folder).join(entry.file_name());
                link(&target, &below(&tree, PROGRAMS).join(entry.file_name()))?;
            }
        }
        // Programs of ours that units start need only be there.
        for program in [
            "opt/tidegate/bin/tidegate",
            "opt/tidegate-box/bin/tidegate-box",
        ] {
            write(&tree.join(program), "#!/bin/sh\n", 0o755)?;
        }
        failed.extend(
            check(&tree, &snapshot)
                .into_iter()
                .map(|why| format!("{configuration}: {why}")),
        );
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}

fn check(tree: &Path, snapshot: &Snapshot) -> Vec<String> {
    let chroot = |program: &str| {
        let mut command = Command::new("chroot");
        command.arg(tree).arg(program);
        command
    };
    let mut failed = Vec::new();
    let units: Vec<&str> = snapshot
        .files
        .keys()
        .filter_map(|place| place.strip_prefix("etc/systemd/system/"))
        .collect();
    for unit in &units {
        // Debian has no hostapd here, and units of others may be missing: only what is said of ours counts.
        match output(chroot("systemd-analyze").args([
            "verify",
            "--man=no",
            "--recursive-errors=no",
            unit,
        ])) {
            Err(why) => failed.push(why),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                failed.extend(
                    text.lines()
                        .filter(|line| line.contains(unit) || line.contains("/etc/systemd/system/"))
                        .filter(|line| !line.contains("is not executable: No such file"))
                        .map(str::to_owned),
                );
            }
        }
    }
    println!("{} units verified", units.len());
    match read(chroot("systemd-analyze").args([
        "security",
        "--offline=yes",
        "--no-pager",
        &format!("--threshold={EXPOSURE}"),
        "tidegate.service",
    ])) {
        Ok(text) => println!("{}", text.lines().last().unwrap_or_default().trim()),
        Err(why) => failed.push(why),
    }
    let ruleset = snapshot
        .texts
        .iter()
        .find(|(path, _)| path.ends_with("-nftables-rules"));
    match ruleset {
        None => failed.push("no ruleset was rendered".to_owned()),
        Some((path, text)) => {
            // What the unit makes before it loads the rules.
            failed.extend(write(&tree.join("var/lib/nftables/deletions.nft"), "", 0o600).err());
            // Checked in a network namespace of its own: nothing of this machine is touched.
            let at = path.clone() + &text.destination;
            let mut nft = Command::new("unshare");
            nft.args(["--net", "chroot"])
                .arg(tree)
                .args(["nft", "--check", "--file", &at]);
            failed.extend(read(&mut nft).err());
        }
    }
    failed.extend(certificates(tree).err());
    if snapshot.files.contains_key("etc/nginx/nginx.conf") {
        failed
            .extend(read(chroot("nginx").args(["-t", "-q", "-c", "/etc/nginx/nginx.conf"])).err());
    }
    let chrony = snapshot
        .texts
        .keys()
        .find(|path| path.ends_with("-chrony.conf"));
    match chrony {
        None => failed.push("no chrony.conf was rendered".to_owned()),
        Some(path) => failed.extend(read(chroot("chronyd").args(["-p", "-f", path])).err()),
    }
    failed
}

/// nginx opens what its configuration names: certificates that stand for the gateway's, users and folders.
fn certificates(tree: &Path) -> Outcome {
    write(
        &tree.join("etc/passwd"),
        fs::read_to_string(tree.join("etc/passwd")).unwrap_or_default()
            + "nginx:x:60:60::/var/empty:/usr/sbin/nologin\nchrony:x:61:61::/var/empty:/usr/sbin/nologin\n",
        0o644,
    )?;
    write(
        &tree.join("etc/group"),
        fs::read_to_string(tree.join("etc/group")).unwrap_or_default()
            + "nginx:x:60:\nchrony:x:61:\n",
        0o644,
    )?;
    for folder in [
        "run/tidegate-tls",
        "run/nginx",
        "var/log/nginx",
        "var/cache/nginx",
    ] {
        fs::create_dir_all(tree.join(folder)).map_err(|error| format!("{folder}: {error}"))?;
    }
    let tls = "/run/tidegate-tls";
    let mut openssl = Command::new("chroot");
    openssl.arg(tree).args([
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=gateway",
        "-days",
        "2",
    ]);
    read(openssl.args([
        "-keyout",
        &format!("{tls}/server.key"),
        "-out",
        &format!("{tls}/server.crt"),
    ]))?;
    fs::copy(
        tree.join("run/tidegate-tls/server.crt"),
        tree.join("run/tidegate-tls/clients.pem"),
    )
    .map_err(|error| error.to_string())?;
    write(
        &tree.join("run/testbed-ca.cnf"),
        "[ca]\ndefault_ca=x\n[x]\ndatabase=/run/testbed-index\ndefault_md=sha256\ndefault_crl_days=2\n",
        0o600,
    )?;
    write(&tree.join("run/testbed-index"), "", 0o600)?;
    let mut crl = Command::new("chroot");
    crl.arg(tree).args([
        "openssl",
        "ca",
        "-config",
        "/run/testbed-ca.cnf",
        "-gencrl",
        "-keyfile",
        &format!("{tls}/server.key"),
        "-cert",
        &format!("{tls}/server.crt"),
        "-out",
        &format!("{tls}/crl.pem"),
    ]);
    read(&mut crl).map(drop)
}
