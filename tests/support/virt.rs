//! A device on QEMU's riscv32 board: its flash, its serial port, its plug; and the gateway's NTP.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::eventually;

/// The host, as a board in QEMU's user network sees it. What goes there stays on this machine.
pub const HOST: &str = "10.0.2.2";

const TARGET: &str = "riscv32imc-unknown-none-elf";

/// Time for QEMU on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Builds a program of the firmware's workspace, if it is not up to date, and returns its path.
fn build(arguments: &[&str], program: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware");
    let status = Command::new("cargo")
        .args(["build", "--quiet"])
        .args(arguments)
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(&workspace)
        .status()
        .unwrap();
    assert!(status.success(), "cargo build {arguments:?}: {status}");
    workspace.join("target").join(program)
}

/// The image that runs on the board.
pub fn firmware() -> PathBuf {
    let arguments = [
        "-p",
        "tidegate-virt",
        "--profile",
        "firmware",
        "--target",
        TARGET,
    ];
    build(&arguments, &format!("{TARGET}/firmware/tidegate-virt"))
}

/// The board's flash, and where in it the credentials are (firmware/esp32/partitions.csv).
const FLASH: usize = 4 << 20;
const CREDENTIALS: usize = 0xc000;

/// Makes a flash with a device's credentials, as a user provisions a board.
pub fn provision(bundle: &Path, ntp_port: u16, flash: &Path) {
    let tool = build(
        &["-p", "tidegate-host", "--bin", "tidegate-host"],
        "debug/tidegate-host",
    );
    let image = flash.with_extension("credentials");
    let status = Command::new(tool)
        .args(["image", "--ntp-port", &ntp_port.to_string(), "--device"])
        .arg(bundle)
        .arg("--out")
        .arg(&image)
        .status()
        .unwrap();
    assert!(status.success(), "image: {status}");
    let image = fs::read(image).unwrap();
    let mut bytes = vec![0xff; FLASH];
    bytes[CREDENTIALS..][..image.len()].copy_from_slice(&image);
    fs::write(flash, bytes).unwrap();
}

/// The board. Dropped, it loses power.
pub struct Board {
    qemu: Child,
    serial: ChildStdin,
    log: Arc<Mutex<String>>,
}

impl Board {
    /// Applies power.
    pub fn start(firmware: &Path, flash: &Path, more: &[&str]) -> Self {
        let drive = format!("if=none,id=flash,format=raw,file={}", flash.display());
        let mut qemu = Command::new("qemu-system-riscv32")
            .args([
                "-machine", "virt", "-m", "8M", "-bios", "none", "-display", "none",
            ])
            .args(["-serial", "stdio", "-monitor", "none"])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .args([
                "-netdev",
                "user,id=net",
                "-device",
                "virtio-net-device,netdev=net",
            ])
            .args(["-device", "virtio-rng-device"])
            .args(["-drive", &drive, "-device", "virtio-blk-device,drive=flash"])
            .args(more)
            .arg("-kernel")
            .arg(firmware)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-riscv32, of Debian's package qemu-system-misc");
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(qemu.stdout.take().unwrap()).lines();
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self {
            serial: qemu.stdin.take().unwrap(),
            qemu,
            log,
        }
    }

    /// Everything the board logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line of the log that contains `text` and returns it.
    pub fn wait(&mut self, text: &str) -> String {
        eventually(&format!("{text:?} in the board's log"), PATIENCE, || {
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return Some(line.to_owned());
            }
            let ended = self.qemu.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the board stopped without {text:?}:\n{}",
                self.log()
            );
            None
        })
    }

    /// Types a line on the serial port.
    pub fn type_line(&mut self, line: &str) {
        writeln!(self.serial, "{line}").unwrap();
        self.serial.flush().unwrap();
    }

    /// Waits until the board switches itself off.
    pub fn ended(&mut self) -> ExitStatus {
        eventually("the board to stop", PATIENCE, || {
            self.qemu.try_wait().unwrap()
        })
    }

    /// The plug is pulled.
    pub fn lose_power(self) {
        drop(self);
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if thread::panicking() {
            eprintln!("--- the board's log\n{}", self.log());
        }
    }
}

/// An NTP server (RFC 5905, client and server modes only) that can lie.
pub struct Ntp {
    pub port: u16,
    off_by: Arc<AtomicI64>,
}

impl Ntp {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let off_by = Arc::new(AtomicI64::new(0));
        let lie = Arc::clone(&off_by);
        thread::spawn(move || {
            let mut request = [0; 64];
            while let Ok((len, from)) = socket.recv_from(&mut request) {
                if len >= 48 {
                    let answer = answer(&request, lie.load(Ordering::SeqCst));
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { port, off_by }
    }

    /// From now on it is off by this many seconds.
    pub fn lie(&self, seconds: i64) {
        self.off_by.store(seconds, Ordering::SeqCst);
    }
}

fn answer(request: &[u8], off_by: i64) -> [u8; 48] {
    /// Seconds from 1900 to 1970.
    const ERA: i64 = 2_208_988_800;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seconds = u32::try_from(i64::try_from(now.as_secs()).unwrap() + ERA + off_by).unwrap();
    let fraction = u32::try_from((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000).unwrap();
    let time = (u64::from(seconds) << 32 | u64::from(fraction)).to_be_bytes();
    let mut answer = [0; 48];
    answer[0] = 0x24; // no leap second, version 4, server
    answer[1] = 2; // stratum
    answer[2] = 6; // poll
    answer[3] = 0xec; // precision, 2^-20 s
    answer[12..16].copy_from_slice(&[127, 0, 0, 1]);
    answer[16..24].copy_from_slice(&time);
    answer[24..32].copy_from_slice(&request[40..48]);
    answer[32..40].copy_from_slice(&time);
    answer[40..48].copy_from_slice(&time);
    answer
}
