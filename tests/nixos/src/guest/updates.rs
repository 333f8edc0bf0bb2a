//! Firmware updates as a device on the network sees them: nginx in front, the gateway behind its socket.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    device::Device,
    network::{GATEWAY, inside},
    story::{device, ensure, eventually, tidegate},
};
use crate::{
    Outcome,
    shell::{output, read},
};

/// A key that everybody has; the configuration of the box trusts its public half.
const RELEASE_KEY: &str = include_str!("../../../../nixos/tests/release.key");
const RELEASE: &str = "dashboard/virt/1.1.0";
const QUESTION: &str = "https://gateway.local:8444/v1/update?product=dashboard&chip=virt&version=1.0.0&security_version=0";
const SOCKET: &str = "/run/tidegate-updates/socket";

/// curl with a device's certificate, to the update server.
fn curl(device: &Device, arguments: &[&str]) -> Outcome<String> {
    let resolve = format!("gateway.local:8444:{GATEWAY}");
    let mut all = vec!["--resolve", &resolve];
    all.extend(arguments);
    device.curl(&all)
}

/// The status of an answer.
fn code(device: &Device, arguments: &[&str]) -> Outcome<String> {
    let mut all = vec!["--output", "/dev/null", "--write-out", "%{http_code}"];
    all.extend(arguments);
    curl(device, &all)
}

fn expect(device: &Device, arguments: &[&str], should: &str) -> Outcome {
    let is = code(device, arguments)?;
    ensure(is == should, || {
        format!("{arguments:?}: {is}, not {should}")
    })
}

pub(super) fn offered() -> Outcome<String> {
    let device = device("sensor_001")?;
    let image: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let digest: String = Sha256::digest(&image)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (file, key) = ("/var/lib/tidegate/app.bin", "/var/lib/tidegate/release.key");
    fs::write(file, &image)
        .and_then(|()| fs::write(key, RELEASE_KEY))
        .map_err(|error| error.to_string())?;
    let release = [
        "--product",
        "dashboard",
        "--chip",
        "virt",
        "--release",
        "1.1.0",
    ];
    let mut sign = vec!["firmware", "sign", file, "--key", key];
    sign.extend(release);
    tidegate(&sign)?;
    tidegate(&["firmware", "publish", file])?;
    expect(&device, &[QUESTION], "204")?;
    tidegate(&["firmware", "rollout", RELEASE, "--percent", "100"])?;

    let answer = curl(&device, &["--fail", QUESTION])?;
    let signed: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    ensure(
        signed["manifest"]["sha256"] == digest.as_str() && signed["signatures"][0].is_object(),
        || format!("not the release: {answer}"),
    )?;
    let url = format!("https://gateway.local:8444/v1/image/{digest}");
    let (whole, part) = ("/run/testbed-whole", "/run/testbed-part");
    curl(&device, &["--fail", "--output", whole, &url])?;
    curl(
        &device,
        &["--fail", "--range", "1000-1999", "--output", part, &url],
    )?;
    ensure(fs::read(whole).is_ok_and(|bytes| bytes == image), || {
        "the download differs".to_owned()
    })?;
    ensure(
        fs::read(part).is_ok_and(|bytes| Some(bytes.as_slice()) == image.get(1000..2000)),
        || "the range differs".to_owned(),
    )?;

    expect(&device, &["--request", "PUT", "--data", "x", &url], "403")?;
    // What nginx has on disk is sent when the gateway says so, and not when a device does.
    for path in [
        format!("_images/{digest}"),
        format!("v1/../_images/{digest}"),
        format!("v1/image/{}", "0".repeat(64)),
        "releases/app.bin".to_owned(),
        String::new(),
    ] {
        let url = format!("https://gateway.local:8444/{path}");
        expect(&device, &["--path-as-is", &url], "404")?;
    }
    let resolve = format!("gateway.local:8444:{GATEWAY}");
    let stranger = read(inside("attacker", "curl").args([
        "--silent",
        "--insecure",
        "--resolve",
        &resolve,
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        &url,
    ]))?;
    ensure(stranger == "403", || {
        format!("without a certificate: {stranger}")
    })?;
    for_nginx_alone(&digest)?;
    Ok(String::new())
}

/// The socket believes nginx about whom it speaks for, so nobody else may open it.
fn for_nginx_alone(digest: &str) -> Outcome {
    let nginx = read(Command::new("id").args(["--group", "nginx"]))?;
    let image = format!("/var/lib/tidegate-releases/{digest}");
    for (path, mode) in [
        ("/run/tidegate-updates", 0o2750),
        (SOCKET, 0o660),
        ("/var/lib/tidegate-releases", 0o2750),
        (&image, 0o640),
    ] {
        let there = fs::metadata(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
        let is = there.permissions().mode() & 0o7777;
        ensure(
            is == mode && there.gid().to_string() == nginx.trim(),
            || {
                format!(
                    "{path} is {is:o} of group {}, not {mode:o} of {nginx}",
                    there.gid()
                )
            },
        )?;
    }
    let opens = |user: &str, group: &str| {
        let mut command = Command::new("setpriv");
        command.args([
            &format!("--reuid={user}"),
            &format!("--regid={group}"),
            "--clear-groups",
            "curl",
            "--silent",
            "--unix-socket",
            SOCKET,
            "http://gateway/v1/update",
        ]);
        output(&mut command).map(|output| output.status.success())
    };
    ensure(opens("nginx", "nginx")?, || {
        "nginx's user cannot open the socket".to_owned()
    })?;
    ensure(!opens("nobody", "nogroup")?, || {
        "anybody can open the socket".to_owned()
    })
}

/// A revoked device is told so, others are served as before.
pub(super) fn refused(revoked: &Device) -> Outcome<String> {
    eventually("the update server to refuse it", || {
        code(revoked, &[QUESTION])
            .is_ok_and(|code| code == "403")
            .then_some(())
    })?;
    // Once nginx has the new list, as before.
    eventually("nginx to have the revocation", || {
        let list = |folder: &str| fs::read(Path::new(folder).join("crl.pem")).ok();
        let gateways = list("/var/lib/tidegate/pki")?;
        (list("/run/tidegate-tls")? == gateways).then_some(())
    })?;
    expect(revoked, &[QUESTION], "403")?;
    expect(&device("sensor_001")?, &[QUESTION], "200")?;
    Ok(String::new())
}
