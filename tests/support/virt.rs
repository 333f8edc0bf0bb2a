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
fn build(arguments: &[&str], environment: &[(&str, &str)], program: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware");
    let status = Command::new("cargo")
        .args(["build", "--quiet"])
        .args(arguments)
        .env_remove("CARGO_TARGET_DIR")
        .envs(environment.iter().copied())
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
    build(&arguments, &[], &format!("{TARGET}/firmware/tidegate-virt"))
}

/// An image for one of the board's slots: of this version, if not the source's; one that crashes at
/// once, if it is to.
pub fn image(version: Option<&str>, crashes: bool, out: &Path) {
    let elf = version.map_or_else(firmware, versioned);
    let behaviour = if crashes {
        "crashes-at-start"
    } else {
        "healthy"
    };
    let status = Command::new(tool())
        .args(["firmware", "--behaviour", behaviour, "--elf"])
        .arg(elf)
        .arg("--out")
        .arg(out)
        .status()
        .unwrap();
    assert!(status.success(), "firmware: {status}");
}

/// The firmware as another version, built beside the usual one so that neither is built twice.
fn versioned(version: &str) -> PathBuf {
    let target = format!("target/version-{version}");
    let arguments = [
        "-p",
        "tidegate-virt",
        "--bin",
        "tidegate-virt",
        "--profile",
        "firmware",
        "--target",
        TARGET,
        "--target-dir",
        &target,
    ];
    let elf = build(
        &arguments,
        &[("TIDEGATE_VERSION", version)],
        &format!("version-{version}/{TARGET}/firmware/tidegate-virt"),
    );
    assert!(elf.exists(), "{}", elf.display());
    elf
}

/// What the board starts with: its boot stage, as large as the board's ROM.
pub fn boot_stage(out: &Path) {
    /// QEMU's `virt` has two flash devices of this size.
    const ROM: u64 = 32 << 20;
    let elf = firmware().with_file_name("tidegate-virt-boot");
    let bytes = fs::read(elf).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
    let mut rom = Vec::new();
    // ELF, 32 bits: the program headers say what is to be where.
    for header in (0..half(44)).map(|index| word(28) + index * half(42)) {
        let [kind, offset, place, len] = [0, 4, 12, 16].map(|field| word(header + field));
        if kind == 1 && len > 0 {
            let at = place - 0x2000_0000;
            rom.resize(rom.len().max(at + len), 0);
            rom[at..at + len].copy_from_slice(&bytes[offset..offset + len]);
        }
    }
    fs::write(out, rom).unwrap();
    let file = fs::OpenOptions::new().write(true).open(out).unwrap();
    file.set_len(ROM).unwrap();
}

/// The board's flash, and where in it are the credentials and the first slot
/// (firmware/esp32/partitions.csv).
const FLASH: usize = 4 << 20;
const CREDENTIALS: usize = 0xc000;
const SLOT: usize = 0x2_0000;

/// Writes an image to the first slot, as a user flashes a board by wire.
pub fn flash_image(image: &Path, flash: &Path) {
    let image = fs::read(image).unwrap();
    let mut bytes = fs::read(flash).unwrap();
    bytes[SLOT..][..image.len()].copy_from_slice(&image);
    fs::write(flash, bytes).unwrap();
}

fn tool() -> PathBuf {
    build(
        &["-p", "tidegate-host", "--bin", "tidegate-host"],
        &[],
        "debug/tidegate-host",
    )
}

/// Makes a flash with a device's credentials, as a user provisions a board.
pub fn provision(bundle: &Path, ntp_port: u16, flash: &Path) {
    provision_with(bundle, ntp_port, &[], flash);
}

/// As [`provision`], with further arguments for the tool.
pub fn provision_with(bundle: &Path, ntp_port: u16, more: &[&str], flash: &Path) {
    let tool = tool();
    let image = flash.with_extension("credentials");
    let status = Command::new(tool)
        .args(["image", "--ntp-port", &ntp_port.to_string()])
        .args(more)
        .arg("--device")
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
        let kernel = firmware.to_str().unwrap();
        Self::power(flash, &[more, &["-kernel", kernel]].concat())
    }

    /// Applies power to a board with a boot stage, which starts what is in the flash.
    pub fn boot(boot_stage: &Path, flash: &Path) -> Self {
        let rom = boot_stage.display();
        let rom = format!("if=pflash,unit=0,format=raw,readonly=on,file={rom}");
        Self::power(flash, &["-drive", &rom])
    }

    fn power(flash: &Path, more: &[&str]) -> Self {
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
        self.wait_long(text, PATIENCE)
    }

    /// As [`wait`](Self::wait), for what takes its time.
    pub fn wait_long(&mut self, text: &str, patience: Duration) -> String {
        eventually(&format!("{text:?} in the board's log"), patience, || {
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
