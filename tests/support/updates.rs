//! What stories about firmware updates need: release keys, signed images, a real nginx, and a client
//! that asks as a device does.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use super::{
    Gateway, SOON, Setup, envelope, eventually,
    gateway::free_address,
    mqtt::{Client, Hello},
};

/// Each story as two tests, one with either [`Server`], which the file has imported.
macro_rules! with_both_servers {
    ($($story:ident)*) => {
        mod embedded {
            $(#[test] fn $story() { super::$story(super::Server::Embedded); })*
        }
        mod nginx {
            $(#[test] fn $story() { super::$story(super::Server::Nginx); })*
        }
    };
}
pub(crate) use with_both_servers;

/// Who serves the devices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Server {
    Embedded,
    Nginx,
}

/// A gateway that serves updates, and what its releases are signed with.
pub struct Fleet {
    pub gateway: Gateway,
    pub server: Server,
    pub address: SocketAddr,
    pub key: PathBuf,
    nginx: Option<Nginx>,
}

/// An image and how it is signed.
pub struct Signed<'a> {
    pub version: &'a str,
    pub product: &'a str,
    pub chip: &'a str,
    pub more: &'a [&'a str],
}

impl Default for Signed<'_> {
    fn default() -> Self {
        Self {
            version: "1.1.0",
            product: "dashboard",
            chip: "esp32c3",
            more: &[],
        }
    }
}

/// Bytes that look like no others: `length` of them.
pub fn image(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Makes a release key in the story's folder; its file and its public half.
pub fn keygen(setup: &Setup, name: &str) -> (PathBuf, String) {
    let path = setup.path(name);
    let made = setup.tidegate(&["firmware", "keygen", "--out", path.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    let public = fs::read_to_string(path.with_extension("key.pub")).unwrap();
    (path, public.trim().to_owned())
}

impl Fleet {
    /// Starts a gateway whose devices are `devices`, and nginx in front if that is who serves.
    /// `lines` are further settings of `[updates]`.
    pub fn start(server: Server, devices: &[&str], lines: &str) -> Self {
        let setup = devices
            .iter()
            .fold(Setup::new(), |setup, id| setup.device(id));
        Self::with(setup, server, lines)
    }

    pub fn with(setup: Setup, server: Server, lines: &str) -> Self {
        let (key, public) = keygen(&setup, "release.key");
        let address = free_address();
        let listens = match server {
            Server::Embedded => format!("address = \"{address}\""),
            Server::Nginx => {
                format!(
                    "address = \"off\"\nsocket = {:?}",
                    setup.path("updates.sock")
                )
            }
        };
        let gateway = setup
            .toml(&format!(
                "[updates]\n{listens}\nrelease_keys = [{public:?}]\nconnections_per_address = 4000\n{lines}\n"
            ))
            .start();
        let nginx = (server == Server::Nginx).then(|| Nginx::start(&gateway, address));
        Self {
            gateway,
            server,
            address,
            key,
            nginx,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.gateway.setup.path(name)
    }

    /// Writes an image and signs it; its file.
    pub fn sign(&self, bytes: &[u8], signed: &Signed<'_>) -> PathBuf {
        let path = self.path(&format!("{}-{}.bin", signed.chip, signed.version));
        fs::write(&path, bytes).unwrap();
        let _ = fs::remove_file(path.with_extension("bin.manifest"));
        let mut arguments = vec![
            "firmware",
            "sign",
            path.to_str().unwrap(),
            "--key",
            self.key.to_str().unwrap(),
            "--product",
            signed.product,
            "--chip",
            signed.chip,
            "--release",
            signed.version,
        ];
        arguments.extend(signed.more);
        self.gateway.run(&arguments);
        path
    }

    /// Signs, publishes and names a release.
    pub fn publish(&self, bytes: &[u8], signed: &Signed<'_>) -> String {
        let path = self.sign(bytes, signed);
        let answer = self
            .gateway
            .json(&["firmware", "publish", path.to_str().unwrap()]);
        answer["release"].as_str().unwrap().to_owned()
    }

    /// Publishes what must be refused; what was said, and the exit status.
    pub fn refused(&self, path: &Path) -> (i32, String) {
        let output: Output =
            self.gateway
                .setup
                .tidegate(&["firmware", "publish", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "published");
        (output.status.code().unwrap(), said)
    }

    /// Asks as `device`, which runs `version` on an esp32c3.
    pub fn ask(&self, device: &str, version: &str) -> Reply {
        self.ask_as(device, "dashboard", "esp32c3", version, 0)
    }

    pub fn ask_as(
        &self,
        device: &str,
        product: &str,
        chip: &str,
        version: &str,
        security: u32,
    ) -> Reply {
        let path = format!(
            "/v1/update?product={product}&chip={chip}&version={version}&security_version={security}"
        );
        self.get(device, &path, &[])
    }

    /// GET as a device; `more` are further arguments of curl.
    pub fn get(&self, device: &str, path: &str, more: &[&str]) -> Reply {
        self.get_with(&self.gateway.bundle(device), path, more)
    }

    /// GET with the certificate, key and trust in a folder.
    pub fn get_with(&self, bundle: &Path, path: &str, more: &[&str]) -> Reply {
        let file = |name: &str| bundle.join(name).to_str().unwrap().to_owned();
        let scratch = tempfile::tempdir().unwrap();
        let (body, head) = (scratch.path().join("body"), scratch.path().join("head"));
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "60",
                "--http1.1",
                "--path-as-is",
            ])
            .args(["--write-out", "%{http_code}"])
            .arg("--output")
            .arg(&body)
            .arg("--dump-header")
            .arg(&head)
            .args(["--cacert", &file("ca.crt")]);
        if bundle.join("device.crt").exists() {
            command.args(["--cert", &file("device.crt"), "--key", &file("device.key")]);
        }
        let output = command
            .args(more)
            .arg(format!("https://localhost:{}{path}", self.address.port()))
            .output()
            .expect("curl; tests/run installs it");
        Reply {
            status: String::from_utf8_lossy(&output.stdout).parse().unwrap_or(0),
            curl: output.status.code().unwrap_or(-1),
            head: fs::read_to_string(head).unwrap_or_default(),
            body: fs::read(body).unwrap_or_default(),
        }
    }

    /// Begins a download into a file.
    pub fn begin_download(&self, device: &str, path: &str, into: &Path) -> Child {
        let bundle = self.gateway.bundle(device);
        let file = |name: &str| bundle.join(name).to_str().unwrap().to_owned();
        Command::new("curl")
            .args([
                "--silent",
                "--no-buffer",
                "--max-time",
                "90",
                "--cacert",
                &file("ca.crt"),
            ])
            .args([
                "--cert",
                &file("device.crt"),
                "--key",
                &file("device.key"),
                "--output",
            ])
            .arg(into)
            .arg(format!("https://localhost:{}{path}", self.address.port()))
            .spawn()
            .expect("curl; tests/run installs it")
    }

    /// Publishes signed events of a device over MQTT.
    pub fn report(&self, device: &str, events: &[&str]) {
        let bundle = self.gateway.bundle(device);
        let mut client = Client::connect(&self.gateway, &bundle, &Hello::default());
        for event in events {
            let message = envelope(device, event);
            let (code, why) = client.publish(&format!("device/{device}/event"), message.as_bytes());
            assert_eq!(code, 0, "{why}");
        }
        client.disconnect();
    }

    /// What the audit record holds, oldest first: actor, action, target, detail.
    pub fn audit(&self) -> Vec<[String; 4]> {
        let database = self.gateway.setup.state_dir().join("tidegate.db");
        let conn = rusqlite::Connection::open_with_flags(
            database,
            rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
        )
        .unwrap();
        let mut rows = conn
            .prepare("SELECT actor, action, target, detail FROM audit ORDER BY seq")
            .unwrap();
        let text = |row: &rusqlite::Row<'_>, at| {
            row.get::<_, Option<String>>(at)
                .map(Option::unwrap_or_default)
        };
        rows.query_map([], |row| {
            Ok([text(row, 0)?, text(row, 1)?, text(row, 2)?, text(row, 3)?])
        })
        .unwrap()
        .map(Result::unwrap)
        .collect()
    }

    /// Has nginx take up changed certificates and revocations, as its service does.
    pub fn reload_nginx(&self) {
        if let Some(nginx) = &self.nginx {
            nginx.signal("-HUP");
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// 0: there was none.
    pub status: u16,
    /// curl's exit status.
    pub curl: i32,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The image's path in the signed manifest that this is.
    pub fn image_path(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        let manifest: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        format!(
            "/v1/image/{}",
            manifest["manifest"]["sha256"].as_str().unwrap()
        )
    }
}

/// nginx, started with the configuration that the gateway prints.
struct Nginx(Child);

impl Nginx {
    fn start(gateway: &Gateway, address: SocketAddr) -> Self {
        let folder = gateway.setup.path("nginx");
        fs::create_dir(&folder).unwrap();
        let listen = address.to_string();
        let printed = gateway.run(&["firmware", "nginx", "--listen", &listen]);
        fs::write(folder.join("updates.conf"), printed).unwrap();
        // What the distribution's own configuration has around an http block. As root its workers
        // would be somebody else, who may not enter the story's folder.
        let root = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own));
        let user = if root.unwrap() == 0 { "user root;" } else { "" };
        let at = folder.to_str().unwrap();
        let main = format!(
            "{user} daemon off; worker_processes 2; pid {at}/pid; error_log {at}/error.log info;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n access_log {at}/access.log;\n client_body_temp_path {at}/b; proxy_temp_path {at}/p;\n \
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n \
             include {at}/updates.conf;\n}}\n"
        );
        let config = folder.join("nginx.conf");
        fs::write(&config, main).unwrap();
        let debians = Path::new("/usr/sbin/nginx");
        let program = if debians.exists() {
            debians
        } else {
            Path::new("nginx")
        };
        let mut child = Command::new(program)
            .args(["-e", "stderr", "-p", at, "-c", config.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("stderr")).unwrap())
            .spawn()
            .expect("nginx; tests/run installs it");
        eventually("nginx to listen", SOON, || {
            if let Some(status) = child.try_wait().unwrap() {
                let said = fs::read_to_string(folder.join("stderr")).unwrap();
                panic!("nginx ended with {status}: {said}");
            }
            TcpStream::connect(address).ok()
        });
        Self(child)
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it, other than after a kill.
        self.signal("-TERM");
        let _ = self.0.wait();
    }
}
