//! What is shown of the box, one function per story. Each can be read alone; later ones use the bundles
//! that earlier ones issued.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    around::{DOWN, received},
    device::Device,
    network::{ATTACKER, GATEWAY, OUTSIDE, inside},
    updates,
};
use crate::{
    Outcome,
    shell::{output, read},
};

/// Long enough for anything that happens soon, on an emulated processor.
const SOON: Duration = Duration::from_secs(300);
/// What systemd makes of the sandbox, at most: 0 is a service that can do nothing, 10 one that can do
/// everything.
const EXPOSURE: f64 = 1.5;
const UNITS: &[&str] = &[
    "chronyd.service",
    "nftables.service",
    "nginx.service",
    "tidegate-first-boot.service",
    "tidegate-tls.path",
    "tidegate-tls.service",
    "tidegate-welcome.service",
    "tidegate.service",
];

pub(super) fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> Outcome<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return Ok(found);
        }
        if started.elapsed() > SOON {
            return Err(format!("{what}: not within {} s", SOON.as_secs()));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn systemctl(arguments: &[&str]) -> Outcome<String> {
    read(Command::new("systemctl").args(arguments))
}

fn property(unit: &str, property: &str) -> Outcome<String> {
    Ok(
        systemctl(&["show", unit, "--property", property, "--value"])?
            .trim()
            .to_owned(),
    )
}

/// `tidegate` as the box's administrators have it: the wrapper that the rendered units name.
pub(super) fn tidegate(arguments: &[&str]) -> Outcome<String> {
    let wrapper = fs::read_dir("/nix/store")
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path().join("bin/tidegate"))
        .find(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("setpriv")))
        .ok_or("the rendered units name no wrapper of tidegate")?;
    read(Command::new(wrapper).args(arguments))
}

fn status() -> Outcome<Value> {
    let text = tidegate(&["--json", "status"])?;
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}

/// The device's bundle, issued when first asked for.
pub(super) fn device(id: &str) -> Outcome<Device> {
    let folder = PathBuf::from("/var/lib/tidegate").join(format!("bundle-{id}"));
    if !folder.exists() {
        tidegate(&[
            "pki",
            "issue",
            "device",
            id,
            "--out",
            &folder.to_string_lossy(),
        ])?;
    }
    Device::load(id, &folder)
}

fn delivered(word: &str) -> Vec<Value> {
    received()
        .into_iter()
        .filter(|request| {
            request["body"]
                .as_str()
                .is_some_and(|body| body.contains(word))
        })
        .collect()
}

pub(super) fn units_are_up() -> Outcome<String> {
    for unit in UNITS {
        let up = eventually(unit, || {
            match property(unit, "ActiveState").unwrap_or_default().as_str() {
                "active" => Some(Ok(())),
                "failed" => Some(Err(format!("{unit} failed"))),
                _ => None,
            }
        });
        up??;
    }
    let failed = systemctl(&["list-units", "--failed", "--plain", "--no-legend"])?;
    ensure(failed.trim().is_empty(), || failed)?;
    let boot = read(Command::new("systemd-analyze").arg("time")).unwrap_or_default();
    Ok(boot.lines().next().unwrap_or_default().to_owned())
}

pub(super) fn sandboxed() -> Outcome<String> {
    let text =
        read(Command::new("systemd-analyze").args(["security", "--no-pager", "tidegate.service"]))?;
    let overall = text
        .lines()
        .find(|line| line.contains("Overall exposure"))
        .ok_or(text.clone())?;
    let exposure: f64 = overall
        .split(':')
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("no number in {overall:?}"))?;
    ensure(exposure <= EXPOSURE, || text)?;
    // What it says is so: the process itself.
    let pid = property("tidegate.service", "MainPID")?;
    let process =
        fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure(process.contains(line), || {
            format!("{line} is not so:\n{process}")
        })?;
    }
    Ok(format!("exposure {exposure}"))
}

pub(super) fn welcome() -> Outcome<String> {
    let issue = "/run/issue.d/50-tidegate.issue";
    let text = fs::read_to_string(issue).map_err(|error| format!("{issue}: {error}"))?;
    ensure(text.contains("gateway.local"), || {
        format!("no address: {text}")
    })?;
    let code = text
        .split_whitespace()
        .find(|word| word.len() >= 24 && word.starts_with("tg"))
        .ok_or_else(|| format!("no code: {text}"))?;
    let log = read(Command::new("journalctl").args(["--no-pager", "--output=cat"]))?;
    ensure(!log.contains(code), || {
        "the code is in the journal".to_owned()
    })?;
    // It is a key that works.
    let answer = read(inside("outside", "curl").args([
        "--silent",
        "--cacert",
        "/var/lib/tidegate/pki/root.crt",
        "--resolve",
        &format!("gateway.local:8443:{}", management()?),
        "--header",
        &format!("Authorization: Bearer {code}"),
        "--write-out",
        " %{http_code}",
        "https://gateway.local:8443/command/sensor_001/550e8400-e29b-41d4-a716-446655440000",
    ]))?;
    ensure(
        !answer.ends_with(" 401") && !answer.ends_with(" 000"),
        || format!("the code is refused: {answer}"),
    )?;
    Ok(String::new())
}

/// The box's address on the management network, which its DHCP client got.
fn management() -> Outcome<String> {
    eventually("an address on eth0", || {
        let text =
            read(Command::new("ip").args(["-4", "-o", "addr", "show", "dev", "eth0"])).ok()?;
        let address = text
            .split_whitespace()
            .find(|word| word.starts_with("192.168.77."))?;
        Some(address.split('/').next()?.to_owned())
    })
}

pub(super) fn telemetry() -> Outcome<String> {
    let device = device("sensor_001")?;
    device.subscribe()?;
    device.publish(
        "data",
        &device.envelope(
            "11111111-0000-4000-8000-000000000001",
            r#"{"temperature":22.5,"n":"first"}"#,
            0,
        )?,
    )?;
    let request = eventually("the backend's request", || delivered("first").pop())?;
    let headers = &request["headers"];
    for (what, is, should) in [
        (
            "request",
            &request["request"],
            "POST /device/sensor_001/data HTTP/1.1",
        ),
        (
            "body",
            &request["body"],
            r#"{"temperature":22.5,"n":"first"}"#,
        ),
        (
            "idempotency key",
            &headers["idempotency-key"],
            "sensor_001:11111111-0000-4000-8000-000000000001",
        ),
        (
            "token",
            &headers["authorization"],
            "Bearer the-backend-knows-this",
        ),
    ] {
        ensure(is == should, || format!("{what}: {is}, not {should}"))?;
    }
    let heard = device.collect(1)?;
    ensure(
        heard == [("response".to_owned(), r#"{"thanks":true}"#.to_owned())],
        || format!("{heard:?}"),
    )?;
    Ok(String::new())
}

pub(super) fn rejections() -> Outcome<String> {
    let (one, two) = (device("sensor_001")?, device("sensor_002")?);
    let good = one.envelope(
        "22222222-0000-4000-8000-000000000001",
        r#"{"n":"twice"}"#,
        0,
    )?;
    let thanks = one.exchange(&good)?;
    ensure(thanks.contains("thanks"), || thanks.clone())?;
    let forged = one
        .envelope(
            "22222222-0000-4000-8000-000000000002",
            r#"{"n":"forged"}"#,
            0,
        )?
        .replace("forged", "f0rged");
    let stale = one.envelope(
        "22222222-0000-4000-8000-000000000003",
        r#"{"n":"stale"}"#,
        3600,
    )?;
    let foreign = two.envelope(
        "22222222-0000-4000-8000-000000000004",
        r#"{"n":"foreign"}"#,
        0,
    )?;
    for (message, reason) in [
        (&good, "replayed"),
        (&forged, "bad_signature"),
        (&stale, "stale_timestamp"),
        (&foreign, "identity_mismatch"),
        (&"{".to_owned(), "malformed"),
    ] {
        let heard = one
            .exchange(message)
            .map_err(|why| format!("{reason}: {why}"))?;
        ensure(heard.contains(reason), || format!("{reason}: {heard:?}"))?;
    }
    for word in ["f0rged", "stale", "foreign"] {
        ensure(delivered(word).is_empty(), || {
            format!("the backend got {word}")
        })?;
    }
    ensure(delivered("twice").len() == 1, || {
        "the repeated message was delivered twice".to_owned()
    })?;
    let log =
        read(Command::new("journalctl").args(["--no-pager", "--output=cat", "-u", "tidegate"]))?;
    ensure(
        log.contains("Rejected message from sensor_001: Invalid signature"),
        || "no log line".to_owned(),
    )?;
    Ok("5 reasons".to_owned())
}

pub(super) fn command() -> Outcome<String> {
    let device = device("sensor_001")?;
    let created = tidegate(&[
        "--json",
        "key",
        "create",
        "testbed",
        "--scope",
        "command:send",
        "--scope",
        "command:read",
    ])?;
    let created: Value = serde_json::from_str(&created).map_err(|error| error.to_string())?;
    let token = created["token"].as_str().ok_or("no token")?.to_owned();
    let ca = device.ca().to_string_lossy().into_owned();
    let resolve = format!("gateway.local:8443:{}", management()?);
    let answer = read(inside("outside", "curl").args([
        "--silent",
        "--show-error",
        "--cacert",
        &ca,
        "--resolve",
        &resolve,
        "--header",
        &format!("Authorization: Bearer {token}"),
        "--data",
        r#"{"led":80}"#,
        "https://gateway.local:8443/command/sensor_001",
    ]))?;
    ensure(answer.contains("queued"), || answer.clone())?;
    let heard = device.collect(1)?;
    let (channel, message) = heard.first().ok_or("no command came")?;
    ensure(channel == "command", || format!("{heard:?}"))?;
    let payload = device.command(message)?;
    ensure(payload == r#"{"led":80}"#, || payload.clone())?;
    let refused = read(inside("outside", "curl").args([
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        "--cacert",
        &ca,
        "--resolve",
        &resolve,
        "--data",
        "{}",
        "https://gateway.local:8443/command/sensor_001",
    ]))?;
    ensure(refused == "401", || format!("without a key: {refused}"))?;
    Ok(String::new())
}

/// The open TCP ports that nmap finds from a namespace.
fn open_ports(namespace: &str, target: &str) -> Outcome<Vec<u16>> {
    let ports = "22,53,80,123,443,1883,3000,5355,8080,8086,8443,8444,8883";
    let text = read(inside(namespace, "nmap").args([
        "-n",
        "-Pn",
        "-sT",
        "--max-retries",
        "1",
        "-oG",
        "-",
        "-p",
        ports,
        target,
    ]))?;
    Ok(text
        .split_whitespace()
        .filter_map(|word| word.split_once("/open/")?.0.parse().ok())
        .collect())
}

pub(super) fn firewall() -> Outcome<String> {
    let management = management()?;
    for (namespace, target, should) in [
        ("attacker", GATEWAY, vec![53, 8444, 8883]),
        ("attacker", management.as_str(), vec![]),
        ("attacker", OUTSIDE, vec![]),
        ("outside", management.as_str(), vec![8443]),
    ] {
        let open = open_ports(namespace, target)?;
        ensure(open == should, || {
            format!("from {namespace}, {target} has {open:?} open and should have {should:?}")
        })?;
    }
    // Not even with the device network's address as the way.
    read(inside("outside", "ip").args(["route", "replace", "10.93.0.0/24", "via", &management]))?;
    let open = open_ports("outside", GATEWAY)?;
    ensure(open.is_empty(), || {
        format!("from outside, the device side has {open:?} open")
    })?;
    let open = open_ports("outside", ATTACKER)?;
    ensure(open.is_empty(), || {
        format!("from outside, devices have {open:?} open")
    })?;
    // More than a burst of new connections from one address is cut off, and others are not.
    let _ = output(inside("attacker", "nmap").args([
        "-n",
        "-Pn",
        "-sS",
        "-T5",
        "--max-retries",
        "0",
        "--min-rate",
        "500",
        "-p",
        "1-3000",
        GATEWAY,
    ]));
    let rules = read(Command::new("nft").args(["list", "table", "inet", "tidegate"]))?;
    ensure(rules.contains(ATTACKER), || {
        format!("nobody is counted:\n{rules}")
    })?;
    let drops = rules
        .lines()
        .filter(|line| line.contains("counter packets") && !line.contains("packets 0 "))
        .count();
    ensure(drops > 0, || {
        format!("nothing was counted as dropped:\n{rules}")
    })?;
    let log = read(Command::new("journalctl").args(["--no-pager", "--output=cat", "-k"]))?;
    ensure(
        log.contains("tidegate refused: ") || log.contains("tidegate too fast: "),
        || "no drop was logged".to_owned(),
    )?;
    let device = device("sensor_001")?;
    device.publish(
        "data",
        &device.envelope(
            "33333333-0000-4000-8000-000000000001",
            r#"{"n":"in the storm"}"#,
            0,
        )?,
    )?;
    eventually("a message in the storm", || delivered("in the storm").pop())?;
    Ok(format!("{drops} rules counted drops"))
}

pub(super) fn time() -> Outcome<String> {
    // As the user the daemon runs as: Debian's chronyc would become one who may not reach its socket.
    let ask = || read(Command::new("chronyc").args(["-u", "chrony", "-n", "tracking"]));
    let tracking = eventually("a time source", || {
        ask()
            .ok()
            .filter(|text| text.contains("Leap status     : Normal"))
    })
    .map_err(|why| format!("{why}: {:?}", ask()))?;
    ensure(tracking.contains(OUTSIDE), || tracking.clone())?;
    let asked = eventually("an answer to a device", || {
        let query = format!("server {GATEWAY} iburst");
        let output =
            output(inside("device", "chronyd").args(["-Q", "-t", "20", "-u", "root", &query]))
                .ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        text.contains("System clock wrong by").then_some(text)
    })?;
    let offset = asked
        .lines()
        .find(|line| line.contains("wrong by"))
        .unwrap_or_default();
    Ok(offset
        .split_once("wrong by ")
        .map_or(String::new(), |(_, rest)| {
            format!(
                "a device is off by {}",
                rest.split(" (").next().unwrap_or(rest)
            )
        }))
}

pub(super) fn journal() -> Outcome<String> {
    let text = read(Command::new("journalctl").args([
        "--no-pager",
        "--output=json",
        "-u",
        "tidegate",
        "--grep",
        "Rejected message",
    ]))?;
    let line = text.lines().next().ok_or("no line of a rejection")?;
    let entry: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let fields = entry.as_object().ok_or("no fields")?;
    let device = fields
        .iter()
        .find(|(name, value)| name.contains("DEVICE") && *value == "sensor_001");
    ensure(device.is_some(), || {
        format!(
            "no field has the device: {:?}",
            fields.keys().collect::<Vec<_>>()
        )
    })?;
    let reason = fields.iter().any(|(name, value)| {
        name.contains("REASON")
            && value
                .as_str()
                .is_some_and(|text| text.contains('_') || !text.is_empty())
    });
    ensure(reason, || {
        format!(
            "no field has the reason: {:?}",
            fields.keys().collect::<Vec<_>>()
        )
    })?;
    ensure(fields.contains_key("PRIORITY"), || "no priority".to_owned())?;
    Ok(String::new())
}

/// Replaces the configuration as a switch does, by another link in /etc, and reloads.
fn with_configuration(text: &str) -> Outcome {
    let (new, place) = (
        "/etc/tidegate/tidegate.toml.new",
        "/etc/tidegate/tidegate.toml",
    );
    fs::write(new, text)
        .and_then(|()| fs::rename(new, place))
        .map_err(|error| error.to_string())?;
    systemctl(&["reload", "tidegate.service"]).map(drop)
}

pub(super) fn device_list() -> Outcome<String> {
    let place = "/etc/tidegate/tidegate.toml";
    let before = fs::read_to_string(place).map_err(|error| error.to_string())?;
    let pid = property("tidegate.service", "MainPID")?;
    let goes = device("sensor_002")?;
    let connection = goes.stay()?;
    eventually("the connection", || {
        (status().ok()?["devices"]["connected"] == 1).then_some(())
    })?;

    let without: Vec<&str> = before
        .split("\n\n")
        .filter(|table| !table.starts_with("[devices.sensor_002]"))
        .collect();
    let after = without.join("\n\n").trim_end().to_owned()
        + "\n\n[devices.sensor_003]\nenabled = true\nsigning = \"any\"\n";
    ensure(!after.contains("sensor_002"), || {
        format!("sensor_002 has no table:\n{before}")
    })?;
    with_configuration(&after)?;
    eventually("the removed device to be gone", || {
        (status().ok()?["devices"]["connected"] == 0).then_some(())
    })?;
    drop(connection);
    let message = goes.envelope(
        "44444444-0000-4000-8000-000000000001",
        r#"{"n":"removed"}"#,
        0,
    )?;
    goes.try_publish("device", "device/sensor_002/data", &message);
    ensure(delivered("removed").is_empty(), || {
        "a removed device was heard".to_owned()
    })?;
    let new = device("sensor_003")?;
    new.publish(
        "data",
        &new.envelope(
            "44444444-0000-4000-8000-000000000002",
            r#"{"n":"added"}"#,
            0,
        )?,
    )?;
    eventually("the added device's message", || delivered("added").pop())?;

    with_configuration(&before)?;
    let now = property("tidegate.service", "MainPID")?;
    ensure(pid == now, || format!("the daemon was {pid} and is {now}"))?;
    let broken = with_configuration("listeners = 7\n");
    with_configuration(&before)?;
    let now = property("tidegate.service", "MainPID")?;
    ensure(pid == now, || {
        format!("after a broken file ({broken:?}) the daemon was {pid} and is {now}")
    })?;
    Ok(String::new())
}

pub(super) fn revocation() -> Outcome<String> {
    let device = device("sensor_002")?;
    let message = |n: u8| {
        device.envelope(
            &format!("55555555-0000-4000-8000-00000000000{n}"),
            r#"{"n":"before revocation"}"#,
            0,
        )
    };
    device.publish("data", &message(1)?)?;
    tidegate(&["pki", "revoke", "sensor_002", "--reason", "key-compromise"])?;
    eventually("the gateway to refuse it", || {
        let message = message(2).ok()?;
        (!device.try_publish("device", "device/sensor_002/data", &message)).then_some(())
    })?;
    updates::refused(&device)
}

pub(super) fn restart() -> Outcome<String> {
    fs::write(DOWN, "").map_err(|error| error.to_string())?;
    let device = device("sensor_001")?;
    for n in 1..=3 {
        let id = format!("66666666-0000-4000-8000-00000000000{n}");
        device.publish(
            "data",
            &device.envelope(&id, &format!(r#"{{"restart":{n}}}"#), 0)?,
        )?;
    }
    let started = Instant::now();
    systemctl(&["restart", "tidegate.service"])?;
    let took = started.elapsed().as_secs_f64();
    fs::remove_file(DOWN).map_err(|error| error.to_string())?;
    eventually("three messages", || {
        (delivered("restart").len() == 3).then_some(())
    })?;
    Ok(format!("{took:.1} s"))
}

pub(super) fn watchdog() -> Outcome<String> {
    let pid = property("tidegate.service", "MainPID")?;
    let started = Instant::now();
    read(Command::new("kill").args(["-STOP", &pid]))?;
    eventually("another process", || {
        let now = property("tidegate.service", "MainPID").ok()?;
        let up = property("tidegate.service", "ActiveState").ok()? == "active";
        (up && now != pid && now != "0").then_some(())
    })?;
    let took = started.elapsed().as_secs_f64();
    let log =
        read(Command::new("journalctl").args(["--no-pager", "--output=cat", "-u", "tidegate"]))?;
    ensure(log.contains("Watchdog timeout"), || {
        "it was not the watchdog".to_owned()
    })?;
    Ok(format!("{took:.1} s"))
}

const OWED: usize = 5;

pub(super) fn before_power_cut() -> Outcome<String> {
    fs::write(DOWN, "").map_err(|error| error.to_string())?;
    let device = device("sensor_001")?;
    for n in 1..=OWED {
        let id = format!("77777777-0000-4000-8000-00000000000{n}");
        device.publish(
            "data",
            &device.envelope(&id, &format!(r#"{{"power":{n}}}"#), 0)?,
        )?;
    }
    ensure(delivered("power").is_empty(), || {
        "the backend was not down".to_owned()
    })?;
    Ok(format!("{OWED} messages acknowledged"))
}

pub(super) fn after_power_cut() -> Outcome<String> {
    ensure(!Path::new(DOWN).exists(), || {
        "the backend is still down".to_owned()
    })?;
    eventually("all messages", || {
        (delivered("power").len() >= OWED).then_some(())
    })?;
    let bodies: Vec<Value> = delivered("power")
        .iter()
        .map(|request| request["body"].clone())
        .collect();
    let should: Vec<Value> = (1..=OWED)
        .map(|n| Value::from(format!(r#"{{"power":{n}}}"#)))
        .collect();
    ensure(bodies == should, || format!("{bodies:?}"))?;
    let text = tidegate(&["status", "--verify"])?;
    Ok(format!(
        "{OWED} messages, in order, once; ledger verified ({} lines)",
        text.lines().count()
    ))
}
