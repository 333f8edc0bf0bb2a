//! A Debian machine that runs the box's rendered files, in QEMU.
//!
//! This half prepares the disk, boots it, prints what the guest reports over its second serial line,
//! and pulls the plug when the guest asks for it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::Value;

use crate::{
    Outcome, debian,
    mapping::{BOX, DAEMON, PROGRAMS, below, install, link, write},
    render::{CONFIGURATIONS, folder},
    shell::{cache, need, read, repository, run as shell},
    snapshot::Snapshot,
};

/// The words between guest and host.
pub(crate) const POWER_CUT: &str = "POWER CUT";
pub(crate) const DONE: &str = "DONE";
pub(crate) const FAILED: &str = "FAILED";

/// The whole flow takes two to five minutes without hardware virtualisation, on two busy cores.
const PATIENCE: Duration = Duration::from_secs(2400);
const DISK_MIB: u32 = 3072;
/// NixOS-only (it switches generations), or for hardware that is not there.
const NOT_STARTED: &[&str] = &[
    "tidegate-health.service",
    "tidegate-backup.timer",
    "tidegate-factory-reset.service",
];

#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    /// The daemon to run [default: target/debug/tidegate, built first]
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// The box's own program [default: target/debug/tidegate-box, likewise]
    #[arg(long = "box")]
    box_program: Option<PathBuf>,
}

/// The command `vm`.
pub(crate) fn run(args: &VmArgs) -> Outcome {
    need(
        &["qemu-system-x86_64", "setpriv"],
        &["qemu-system-x86", "util-linux"],
    )?;
    let daemon = program(args.daemon.as_deref(), "tidegate")?;
    let box_program = program(args.box_program.as_deref(), "tidegate-box")?;
    for configuration in CONFIGURATIONS {
        accepted(&daemon, configuration)?;
    }
    let base = debian::guest()?;
    let snapshot = Snapshot::load(&folder("box"))?;

    let tree = cache().join("guest-tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(|error| format!("{}: {error}", tree.display()))?;
    }
    shell(Command::new("cp").arg("-al").arg(&base).arg(&tree))?;
    furnish(&tree, &snapshot, &daemon, &box_program)?;
    let disk = cache().join("guest.ext4");
    debian::image(&tree, &disk, DISK_MIB)?;
    let (kernel, initrd) = debian::kernel(&base)?;

    let started = Instant::now();
    let mut boots = 0;
    loop {
        boots += 1;
        println!("-- boot {boots}");
        match boot(&kernel, &initrd, &disk, started + PATIENCE)? {
            End::Done => return Ok(()),
            End::PowerCut if boots < 4 => println!("-- the plug is pulled"),
            End::PowerCut => return Err("the guest asks for one power cut too many".to_owned()),
        }
    }
}

/// Has the daemon check a rendered configuration, as it does when the system is built, and compares what
/// nginx gets with what the daemon would give it.
fn accepted(daemon: &Path, configuration: &str) -> Outcome {
    let snapshot = Snapshot::load(&folder(configuration))?;
    let text = snapshot
        .content("etc/tidegate/tidegate.toml")
        .ok_or_else(|| format!("{configuration} has no tidegate.toml"))?;
    let file = cache().join(format!("{configuration}.toml"));
    write(&file, text, 0o644)?;
    read(
        Command::new(daemon)
            .args(["check", "--no-files", "--config"])
            .arg(&file),
    )
    .map_err(|why| format!("tidegate.toml of {configuration}: {why}"))?;
    let Some(nginx) = snapshot.content("etc/nginx/nginx.conf") else {
        return Ok(());
    };
    // One text makes both; a snapshot from before it was changed is noticed here.
    let printed = read(Command::new(daemon).arg("--config").arg(&file).args([
        "firmware",
        "nginx",
        "--pki-dir",
        "/run/tidegate-tls",
    ]))?;
    if nginx.contains(printed.trim()) {
        return Ok(());
    }
    Err(format!(
        "nginx.conf of {configuration} has not what tidegate firmware nginx prints:\n{printed}"
    ))
}

/// The program as given, or this repository's.
fn program(given: Option<&Path>, name: &str) -> Outcome<PathBuf> {
    if let Some(path) = given {
        return path
            .canonicalize()
            .map_err(|error| format!("{}: {error}", path.display()));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from);
    shell(
        Command::new("cargo")
            .args(["build", "--package", name])
            .current_dir(repository()),
    )?;
    Ok(target.join("debug").join(name))
}

/// Puts everything into the tree that makes a Debian machine this box.
fn furnish(tree: &Path, snapshot: &Snapshot, daemon: &Path, box_program: &Path) -> Outcome {
    let etc = tree.join("etc");
    // What Debian starts by itself: the rendered units do.
    for unit in [
        "nginx.service",
        "chrony.service",
        "nftables.service",
        "e2scrub_reap.service",
    ] {
        let _ = fs::remove_file(
            etc.join("systemd/system/multi-user.target.wants")
                .join(unit),
        );
        let _ = fs::remove_file(etc.join("systemd/system/sysinit.target.wants").join(unit));
    }
    for timer in [
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "fstrim.timer",
    ] {
        let _ = fs::remove_file(etc.join("systemd/system/timers.target.wants").join(timer));
    }
    install(snapshot, tree)?;
    for (folder, programs) in [(DAEMON, daemon), (BOX, box_program)] {
        let name = programs
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        copy(programs, &below(tree, folder).join(name))?;
    }
    // This very program, whatever became of its file since it was started.
    copy(Path::new("/proc/self/exe"), &tree.join("opt/nixos-checks"))?;
    for folder in ["usr/bin", "usr/sbin"] {
        let entries =
            fs::read_dir(tree.join(folder)).map_err(|error| format!("{folder}: {error}"))?;
        for entry in entries.flatten() {
            link(
                &Path::new("/").join(folder).join(entry.file_name()),
                &below(tree, PROGRAMS).join(entry.file_name()),
            )?;
        }
    }
    users(tree, &snapshot.users)?;
    let lines: Vec<&str> = snapshot
        .tmpfiles
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    write(
        &etc.join("tmpfiles.d/box.conf"),
        lines.join("\n") + "\n",
        0o644,
    )?;
    for (unit, by) in snapshot.starts.as_object().into_iter().flatten() {
        if NOT_STARTED.contains(&unit.as_str()) {
            continue;
        }
        for (kind, folder) in [("wantedBy", "wants"), ("requiredBy", "requires")] {
            for target in by[kind]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                enable(tree, unit, &format!("{target}.{folder}"))?;
            }
        }
    }
    for unit in ["systemd-networkd.service", "systemd-resolved.service"] {
        link(
            &Path::new("/usr/lib/systemd/system").join(unit),
            &etc.join("systemd/system/multi-user.target.wants")
                .join(unit),
        )?;
    }
    link(
        Path::new("/run/systemd/resolve/stub-resolv.conf"),
        &etc.join("resolv.conf"),
    )?;
    write(&etc.join("hostname"), "gateway\n", 0o644)?;
    write(
        &etc.join("hosts"),
        "127.0.0.1 localhost\n10.93.0.1 gateway gateway.local\n",
        0o644,
    )?;
    write(
        &tree.join("var/lib/secrets/backend-token"),
        "the-backend-knows-this\n",
        0o600,
    )?;
    for (unit, text) in TEST_UNITS {
        write(&etc.join("systemd/system").join(unit), text, 0o644)?;
        enable(tree, unit, "multi-user.target.wants")?;
    }
    Ok(())
}

fn enable(tree: &Path, unit: &str, folder: &str) -> Outcome {
    link(
        &Path::new("/etc/systemd/system").join(unit),
        &tree.join("etc/systemd/system").join(folder).join(unit),
    )
}

fn copy(from: &Path, to: &Path) -> Outcome {
    let content = fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
    write(to, content, 0o755)
}

/// The networks around the box, and what happens on them.
const TEST_UNITS: &[(&str, &str)] = &[
    (
        "testbed-network.service",
        "[Unit]\nDefaultDependencies=no\nAfter=systemd-remount-fs.service\nBefore=network-pre.target systemd-networkd.service\nWants=network-pre.target\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/opt/nixos-checks guest network\n",
    ),
    (
        "testbed-around.service",
        "[Unit]\nRequires=testbed-network.service\nAfter=testbed-network.service\nBefore=network.target\n\
         [Service]\nType=notify\nNotifyAccess=all\nExecStart=/opt/nixos-checks guest around\n",
    ),
    (
        "testbed-flow.service",
        "[Unit]\nAfter=testbed-around.service\n\
         [Service]\nType=exec\nExecStart=/opt/nixos-checks guest flow\nStandardOutput=journal\n",
    ),
];

/// Adds users and groups as the configuration declares them; numbers it leaves open are given here.
fn users(tree: &Path, users: &Value) -> Outcome {
    let (passwd, group) = (tree.join("etc/passwd"), tree.join("etc/group"));
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (mut users_text, mut groups_text) = (read(&passwd)?, read(&group)?);
    for (number, (name, user)) in users.as_object().into_iter().flatten().enumerate() {
        let id = user["uid"].as_u64().unwrap_or(980 - number as u64);
        let (group_name, home) = (
            user["group"].as_str().unwrap_or(name),
            user["home"].as_str().unwrap_or("/var/empty"),
        );
        users_text += &format!("{name}:x:{id}:{id}::{home}:/usr/sbin/nologin\n");
        groups_text += &format!("{group_name}:x:{id}:\n");
    }
    write(&passwd, users_text, 0o644)?;
    write(&group, groups_text, 0o644)
}

enum End {
    Done,
    PowerCut,
}

/// A running machine; ended when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot(kernel: &Path, initrd: &Path, disk: &Path, until: Instant) -> Outcome<End> {
    let console = cache().join("guest-console.log");
    // Debian 12's QEMU leaves rubbish in the flags after CMPXCHG16B, which kernels then stumble over; they
    // do without where a processor has none.
    // It ends with this program, however that ends.
    let mut machine = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-machine",
            "q35",
            "-cpu",
            "Nehalem,cx16=off",
            "-smp",
            "2",
            "-m",
            "2048",
        ])
        .args(["-display", "none", "-nodefaults", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        .arg("root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off panic=-1")
        .arg("-drive")
        .arg(format!(
            "if=virtio,format=raw,cache=writeback,file={}",
            disk.display()
        ))
        .args(["-device", "virtio-rng-pci"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("qemu-system-x86_64: {error}"))?;
    let lines = machine.stdout.take().ok_or("QEMU has no output")?;
    let _machine = Machine(machine);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let line = receiver.recv_timeout(left).map_err(|_| {
            format!(
                "the guest ended or took too long; its console:\n{}",
                tail(&console, 60)
            )
        })?;
        let line = line.trim_end();
        println!("   {line}");
        if line == DONE {
            return Ok(End::Done);
        }
        if line == POWER_CUT {
            return Ok(End::PowerCut);
        }
        if line.starts_with(FAILED) {
            return Err(format!("in the guest: {line}"));
        }
    }
}

fn tail(path: &Path, lines: usize) -> String {
    let Ok(file) = File::open(path) else {
        return String::new();
    };
    let all: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}
