//! Writes what makes a board this device: the image of its credentials partition.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use tidegate_app::credentials::{Credentials, Wifi, image};
use tidegate_embassy::layout::{CREDENTIALS, FLASH};
use tidegate_host::Bundle;
use zeroize::Zeroizing;

/// Makes the image of a device's credentials partition.
///
/// Write it to the board with `espflash write-bin 0xc000 FILE`. It holds the private key and the
/// shared secret: only its owner may read it, and it is best deleted afterwards.
#[derive(Debug, Parser)]
#[command(name = "provision", version)]
struct Arguments {
    /// The device's bundle, a folder or a file, as `tidegate pki issue device` makes it.
    bundle: PathBuf,
    /// Name of the Wi-Fi network.
    #[arg(long, value_name = "SSID", requires = "passphrase_file")]
    ssid: Option<String>,
    /// File with its passphrase; `-` is standard input, an empty one an open network.
    #[arg(long, value_name = "FILE", requires = "ssid")]
    passphrase_file: Option<PathBuf>,
    /// Port of the gateway's NTP server.
    #[arg(long, value_name = "PORT", default_value_t = 123)]
    ntp_port: u16,
    /// Where the image goes.
    #[arg(long, value_name = "FILE", default_value = "credentials.bin")]
    out: PathBuf,
    /// Write into the image of a whole flash, for QEMU; it is made, erased, if it is not there.
    #[arg(long)]
    whole_flash: bool,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
enum ProvisionError {
    #[error(transparent)]
    Bundle(#[from] tidegate_host::bundle::BundleError),
    #[error(transparent)]
    Image(#[from] tidegate_app::credentials::StoreError),
    #[error("Wi-Fi network names have 1 to 32 bytes, this one {0}")]
    Ssid(usize),
    #[error("Wi-Fi passphrases have 8 to 63 bytes or, on an open network, none; this one {0}")]
    Passphrase(usize),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

fn main() -> ExitCode {
    match provision(&Arguments::parse()) {
        Ok(device) => {
            println!("{device}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn provision(arguments: &Arguments) -> Result<String, ProvisionError> {
    let bundle = Bundle::read(&arguments.bundle)?;
    let mut credentials = bundle.credentials(wifi(arguments)?)?;
    credentials.gateway.ntp_port = arguments.ntp_port;
    let partition = partition(&credentials)?;
    let (at, size) = if arguments.whole_flash {
        (CREDENTIALS.offset, FLASH)
    } else {
        (0, CREDENTIALS.size)
    };
    write(&arguments.out, at, size, &partition).map_err(|source| ProvisionError::File {
        path: arguments.out.clone(),
        source,
    })?;
    Ok(format!(
        "{}: credentials of {} for {}:{}",
        arguments.out.display(),
        credentials.device_id,
        credentials.gateway.host,
        credentials.gateway.port,
    ))
}

fn wifi(arguments: &Arguments) -> Result<Option<Wifi>, ProvisionError> {
    let (Some(ssid), Some(path)) = (&arguments.ssid, &arguments.passphrase_file) else {
        return Ok(None);
    };
    let read = if path.as_os_str() == "-" {
        io::read_to_string(io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    let text = Zeroizing::new(read.map_err(|source| ProvisionError::File {
        path: path.clone(),
        source,
    })?);
    let passphrase = text.trim_end_matches(['\r', '\n']);
    if !(1..=32).contains(&ssid.len()) {
        return Err(ProvisionError::Ssid(ssid.len()));
    }
    if !passphrase.is_empty() && !(8..=63).contains(&passphrase.len()) {
        return Err(ProvisionError::Passphrase(passphrase.len()));
    }
    Ok(Some(Wifi {
        ssid: ssid.clone(),
        passphrase: Zeroizing::new(passphrase.to_owned()),
    }))
}

/// The whole partition: what is not used is erased, so nothing of an earlier set is left.
fn partition(credentials: &Credentials) -> Result<Zeroizing<Vec<u8>>, ProvisionError> {
    let size = CREDENTIALS.size as usize;
    let set = image(credentials, size)?;
    let mut bytes = Zeroizing::new(vec![0xff; size]);
    for (to, from) in bytes.iter_mut().zip(set.iter()) {
        *to = *from;
    }
    Ok(bytes)
}

fn write(path: &Path, at: u32, size: u32, partition: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.len() != u64::from(size) {
        file.set_len(0)?;
        file.write_all(&vec![0xff; size as usize])?;
    }
    file.write_all_at(partition, at.into())?;
    file.sync_all()
}
