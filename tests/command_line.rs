//! The program as an operator uses it without a running gateway: what it prints, how it ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a configuration and room for state.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(toml: &str) -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let text = format!("state_dir = {:?}\n{toml}", place.state_dir());
        fs::write(place.config(), text).unwrap();
        place
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("tidegate.toml")
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut all = vec!["--config", self.config().to_str().unwrap()]
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        Ran::of(bare().args(all))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[&["--json"], arguments].concat());
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.out))
    }

    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

/// The program with nothing of this environment.
fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        Self {
            code: status.code().expect("no signal"),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn without_arguments_it_says_where_to_begin() {
    let ran = Ran::of(&mut bare());
    assert_eq!(ran.code, 0);
    assert!(
        ran.out.contains("tidegate demo") && ran.out.contains("tidegate run"),
        "{}",
        ran.out
    );
    assert!(ran.out.lines().count() < 10);
    let help = Ran::of(bare().arg("--help"));
    assert_eq!(help.code, 0);
    for part in ["check", "backup", "Exit status", "78", "--set"] {
        assert!(help.out.contains(part), "{part} in {}", help.out);
    }
    assert_eq!(Ran::of(bare().arg("frobnicate")).code, 2);
    assert!(
        Ran::of(bare().arg("--version"))
            .out
            .starts_with("tidegate ")
    );
}

#[test]
fn a_configuration_is_checked_with_places_and_status() {
    let place = Place::new("[limits]\nin_fligth = 5\n[verification]\nfreshness = \"5 minuts\"\n");
    let ran = place.run(&["check"]);
    assert_eq!(ran.code, 78, "{}", ran.err);
    for part in [
        "tidegate.toml:3:1: limits.in_fligth: unknown key; did you mean limits.in_flight?",
        "tidegate.toml:5:13: verification.freshness: \"5 minuts\" is not a duration; write",
        "2 errors",
    ] {
        assert!(ran.out.contains(part), "{part} in {}", ran.out);
    }
    let report: Value =
        serde_json::from_str(&place.run(&["check", "--json"]).out).expect("one JSON document");
    assert_eq!(report["ok"], false);
    assert_eq!(report["findings"][0]["severity"], "error");
    assert_eq!(report["findings"][0]["place"]["line"], 3);
}

#[test]
fn a_build_can_check_without_the_files() {
    let place = Place::new(
        "[upstreams.b]\ntype = \"http\"\nurl = \"https://b\"\n[devices.a]\nsecret_file = \"/run/secrets/a\"\n",
    );
    let with = place.run(&["check"]);
    assert_eq!(with.code, 78);
    assert!(
        with.out
            .contains("devices.a.secret_file: /run/secrets/a does not exist"),
        "{}",
        with.out
    );
    let without = place.run(&["check", "--no-files", "--strict"]);
    assert_eq!(without.code, 0, "{}", without.out);
    assert!(without.out.ends_with(": fine\n"), "{}", without.out);
}

#[test]
fn warnings_count_only_when_asked_to() {
    let place = Place::new("");
    assert_eq!(place.run(&["check"]).code, 0);
    assert_eq!(place.run(&["check", "--strict"]).code, 78);
}

#[test]
fn the_settings_in_force_are_a_configuration_again() {
    let place = Place::new("[upstreams.b]\ntype = \"http\"\nurl = \"https://u:hunter2@b/\"\n");
    let shown = place.run(&["config", "show", "--set", "limits.connections=7"]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    assert!(!shown.out.contains("hunter2") && shown.out.contains("connections = 7"));
    let again = Place::new("");
    fs::write(again.config(), &shown.out).unwrap();
    let tail = |text: &str| text.split_once('\n').unwrap().1.to_owned();
    assert_eq!(tail(&again.run(&["config", "show"]).out), tail(&shown.out));
}

#[test]
fn every_command_refuses_a_wrong_configuration_alike() {
    let place = Place::new("x = 1\n");
    for arguments in [
        &["run"][..],
        &["status"],
        &["device", "list"],
        &["backup", "/nowhere/x"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, 78, "{arguments:?}: {}", ran.err);
        assert!(
            ran.err.contains("tidegate.toml:2:") && ran.err.contains("x: unknown key"),
            "{}",
            ran.err
        );
        assert!(
            !ran.err.contains('\x1b'),
            "no colours where there is no terminal"
        );
    }
    let json: Value = serde_json::from_str(&place.run(&["--json", "status"]).err).unwrap();
    assert_eq!(json["problem"]["code"], "config");
    assert_eq!(json["settings"][0]["key"], "x");
}

#[test]
fn what_must_not_start_does_not() {
    let place = Place::new("[limits]\nin_flight = 0\n");
    let ran = place.run(&["run"]);
    assert_eq!(ran.code, 78);
    assert!(
        ran.err
            .contains("limits.in_flight: 0 would let nothing through"),
        "{}",
        ran.err
    );
    assert!(!place.state_dir().exists());
}

#[test]
fn without_gateway_and_state_there_is_nothing_to_see() {
    let place = Place::new("");
    for arguments in [
        &["status"][..],
        &["device", "list"],
        &["key", "list"],
        &["reload"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, 69, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains("tidegate run"), "{}", ran.err);
    }
    assert!(!place.state_dir().exists(), "looking leaves nothing behind");
}

#[test]
fn devices_are_kept_without_a_running_gateway() {
    let place = Place::new("");
    let secret = place.secret("s", "0123456789abcdef0123456789abcdef\n");
    let added = place.json(&[
        "device",
        "add",
        "sensor_001",
        "--secret-file",
        text(&secret),
        "--publish",
        "hall/+/state",
        "--group",
        "hall",
    ]);
    assert_eq!(added["id"], "sensor_001");
    assert_eq!(
        (&added["has_secret"], &added["declared"]),
        (&Value::from(true), &Value::from(false))
    );
    assert_eq!(added["publish"][0], "hall/+/state");

    let twice = place.run(&["device", "add", "sensor_001"]);
    assert_eq!(twice.code, 1, "{}", twice.err);
    assert!(twice.err.contains("exists"), "{}", twice.err);
    assert_eq!(place.run(&["device", "show", "nobody"]).code, 66);
    assert_eq!(place.run(&["device", "add", "not an id"]).code, 1);

    place.json(&["device", "disable", "sensor_001", "--reason", "stolen"]);
    let list = place.json(&["device", "list"]);
    assert_eq!(list["devices"][0]["enabled"], false);
    assert_eq!(list["devices"][0]["blocked_reason"], "stolen");
    assert!(place.run(&["device", "list"]).out.contains("blocked"));
    place.json(&["device", "enable", "sensor_001"]);
    assert_eq!(
        place.json(&["device", "show", "sensor_001"])["enabled"],
        true
    );

    let made = place.json(&["device", "set-secret", "sensor_001", "--generate"]);
    assert_eq!(made["secret"].as_str().unwrap().len(), 64);
    assert_eq!(
        place.json(&["device", "remove", "sensor_001"])["done"],
        true
    );
    assert_eq!(
        place.json(&["device", "list"])["devices"],
        Value::Array(vec![])
    );
    let mode = fs::metadata(place.state_dir())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let place = Place::new("");
    let made = place.json(&[
        "key",
        "create",
        "backend",
        "--scope",
        "command:send",
        "--group",
        "hall",
    ]);
    let (id, token) = (
        made["id"].as_str().unwrap(),
        made["token"].as_str().unwrap(),
    );
    assert!(token.starts_with("tg_"), "{token}");
    let list = place.run(&["--json", "key", "list"]).out;
    assert!(list.contains(id) && !list.contains(token));
    place.json(&["key", "revoke", id]);
    let list = place.json(&["key", "list"]);
    assert!(list["keys"][0]["revoked_at"].is_u64(), "{list}");
    assert_eq!(place.run(&["key", "revoke", "00000000"]).code, 66);
    let wrong = place.run(&["key", "create", "x", "--scope", "everything"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("command:send"), "{}", wrong.err);
}

#[test]
fn commands_wait_for_a_gateway_that_does_not_run_yet() {
    let place = Place::new("");
    let secret = place.secret("s", "0123456789abcdef0123456789abcdef");
    place.json(&["device", "add", "a", "--secret-file", text(&secret)]);
    let queued = place.json(&["command", "send", "a", "{\"led\": \"on\"}"]);
    assert_eq!(queued["status"], "queued");
    let status = place.json(&[
        "command",
        "status",
        "a",
        queued["message_id"].as_str().unwrap(),
    ]);
    assert_eq!(status["commands"][0]["status"], "queued");
    assert_eq!(
        place.run(&["command", "send", "a", "turn_on"]).code,
        1,
        "not JSON"
    );
    assert_eq!(place.run(&["command", "send", "b", "1"]).code, 66);
}

#[test]
fn status_of_a_gateway_that_does_not_run() {
    let place = Place::new("");
    place.json(&["device", "add", "a"]);
    let ran = place.run(&["--json", "status"]);
    assert_eq!(ran.code, 69);
    let status: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&status["running"], &status["devices"]["total"]),
        (&false.into(), &1.into())
    );
    assert!(place.run(&["status"]).out.contains("does not run"));
}

#[test]
fn a_backup_is_a_whole_gateway() {
    let place = Place::new("");
    let made = place.json(&["key", "create", "backend", "--scope", "command:send"]);
    let secret = place.secret("s", "0123456789abcdef0123456789abcdef");
    place.json(&["device", "add", "a", "--secret-file", text(&secret)]);
    let file = place.dir.path().join("backup.tar");
    let done = place.json(&["backup", text(&file)]);
    assert_eq!(done["master_key"], true);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = place.run(&["backup", text(&file)]);
    assert_eq!(again.code, 1, "it is not overwritten: {}", again.err);
    let beside: Vec<_> = fs::read_dir(place.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("backup.tar"))
        .collect();
    assert_eq!(beside, ["backup.tar"], "nothing is left lying about");

    let other = Place::new("");
    let restored = other.run(&["restore", text(&file)]);
    assert_eq!(restored.code, 0, "{}", restored.err);
    let twice = other.run(&["restore", text(&file)]);
    assert_eq!(twice.code, 1);
    assert!(twice.err.contains("is there already"), "{}", twice.err);
    let keys = other.json(&["key", "list"]);
    assert_eq!(keys["keys"][0]["id"], made["id"]);
    assert_eq!(
        other.json(&["device", "show", "a"])["has_secret"],
        true,
        "the key came along"
    );
    let left: Vec<_> = fs::read_dir(other.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_damaged_backup_leaves_nothing_behind() {
    let place = Place::new("");
    place.json(&["device", "add", "a"]);
    let file = place.dir.path().join("backup.tar");
    place.json(&["backup", text(&file)]);
    let mut bytes = fs::read(&file).unwrap();
    // The header of the database inside.
    let at = bytes
        .windows(15)
        .position(|window| window == b"SQLite format 3")
        .unwrap();
    bytes[at..at + 200].fill(0x55);
    fs::write(&file, &bytes).unwrap();
    let other = Place::new("");
    let ran = other.run(&["restore", text(&file)]);
    assert!(matches!(ran.code, 65 | 74), "{}: {}", ran.code, ran.err);
    for name in ["tidegate.db", "master.key", "pki", "restore.partial"] {
        assert!(!other.state_dir().join(name).exists(), "{name}");
    }
    let missing = other.run(&["restore", "/nowhere/x.tar"]);
    assert_eq!(missing.code, 66, "{}", missing.err);
}

#[test]
fn a_state_that_is_in_use_is_not_opened_a_second_time() {
    let place = Place::new("");
    place.json(&["device", "add", "a"]);
    let lock = place.state_dir().join("tidegate.lock");
    let held = fs::OpenOptions::new().write(true).open(&lock).unwrap();
    held.lock().unwrap();
    let ran = place.run(&["device", "list"]);
    assert_eq!(ran.code, 75, "{}", ran.err);
    assert!(ran.err.contains("in use"), "{}", ran.err);
}

#[test]
fn completions_name_the_subcommands_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = Ran::of(bare().args(["completions", shell]));
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("outbox"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let mut child = bare()
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(err, "");
}

#[test]
fn lists_of_certificates_are_json_when_everything_is() {
    let place = Place::new("");
    assert_eq!(place.run(&["pki", "init"]).code, 0);
    for arguments in [&["--json", "pki", "list"][..], &["pki", "list", "--json"]] {
        let ran = place.run(arguments);
        let list: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}", ran.out));
        assert!(list.is_array() && ran.code == 0, "{list}");
    }
}

#[test]
fn issuing_a_bundle_puts_the_secret_into_the_registry() {
    let place = Place::new("");
    assert_eq!(place.run(&["pki", "init"]).code, 0);
    let folder = place.dir.path().join("bundle");
    let ran = place.run(&["device", "bundle", "sensor_001", "--out", text(&folder)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(folder.join("device.crt").exists());
    assert_eq!(
        place.json(&["device", "show", "sensor_001"])["has_secret"],
        true
    );
    assert_eq!(
        place
            .run(&["device", "bundle", "sensor_001", "--frobnicate"])
            .code,
        2
    );
}
