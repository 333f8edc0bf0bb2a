//! Certificates and bundles, made once with `tidegate pki` and kept between runs.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::{
    Fallible,
    place::{Place, run},
};

/// What an envelope of version 2 adds to its payload: the fixed text, a device id of eight
/// characters, ten digits of time, a UUID and a signature in hex.
const ENVELOPE: usize = 77 + 8 + 10 + 36 + 64;
/// The smallest payload of the load generator.
const SMALLEST: usize = 32;

/// The payload that makes a message of `message` bytes.
pub(crate) fn payload_for(message: usize) -> Fallible<usize> {
    message
        .checked_sub(ENVELOPE)
        .filter(|payload| *payload >= SMALLEST)
        .ok_or_else(|| {
            let smallest = ENVELOPE + SMALLEST;
            format!("a signed message has {smallest} bytes or more").into()
        })
}

/// The name of a device; eight characters.
pub(crate) fn device_id(index: usize) -> String {
    format!("dev{index:05}")
}

/// Programs that issue bundles at the same time; each waits for the disk most of its time.
const LANES: usize = 8;

#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    /// The folder `pki` of a state folder.
    pub(crate) pki: PathBuf,
    /// A folder with a bundle for each device.
    pub(crate) bundles: PathBuf,
    /// A folder with a file for each device.
    secrets: PathBuf,
}

impl Fleet {
    /// At least `devices` devices with bundles.
    pub(crate) fn of(place: &Place, devices: usize) -> Fallible<Self> {
        let fleet = Self {
            pki: place.work.join("issuer/pki"),
            bundles: place.work.join("bundles"),
            secrets: place.work.join("secrets"),
        };
        if !fleet.pki.join("server.crt").exists() {
            // Bundles of another authority are of no use.
            if fleet.bundles.exists() {
                fs::remove_dir_all(&fleet.bundles)?;
            }
            run(pki(place, &place.work.join("issuer"))?.args(["init", "--host", "localhost"]))?;
        }
        fs::create_dir_all(&fleet.bundles)?;
        fs::create_dir_all(&fleet.secrets)?;
        let missing: Vec<String> = (0..devices)
            .map(device_id)
            .filter(|id| !fleet.bundles.join(id).join("device.crt").exists())
            .collect();
        if !missing.is_empty() {
            eprintln!("    issuing {} bundles", missing.len());
        }
        let share = missing.len().div_ceil(LANES).max(1);
        thread::scope(|scope| {
            let threads: Vec<_> = missing
                .chunks(share)
                .enumerate()
                .map(|(lane, ids)| {
                    let fleet = &fleet;
                    scope.spawn(move || {
                        fleet
                            .issue(place, lane, ids)
                            .map_err(|error| error.to_string())
                    })
                })
                .collect();
            for thread in threads {
                thread
                    .join()
                    .map_err(|_| "a thread that issued bundles panicked")??;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        Ok(fleet)
    }

    /// Each lane has a state folder of its own, as issuing also enrols, with the same authority: the
    /// gateways that are measured declare their devices themselves.
    fn issue(&self, place: &Place, lane: usize, ids: &[String]) -> Fallible<()> {
        let state = place.work.join(format!("issuer/lane{lane}"));
        fs::create_dir_all(&state)?;
        let link = state.join("pki");
        if !link.exists() {
            symlink(&self.pki, link)?;
        }
        for id in ids {
            run(pki(place, &state)?
                .args(["issue", "device", id, "--force"])
                .args(["--gateway", "localhost:8883"])
                .arg("--secret-file")
                .arg(self.secret(id)?)
                .arg("--out")
                .arg(self.bundles.join(id)))?;
        }
        Ok(())
    }

    /// The file with a device's secret, made if it is not there.
    pub(crate) fn secret(&self, id: &str) -> Fallible<PathBuf> {
        let path = self.secrets.join(id);
        if !path.exists() {
            fs::write(&path, format!("the secret that {id} has in the benchmark"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        }
        Ok(path)
    }

    /// Declarations of `devices` devices, in TOML.
    pub(crate) fn declarations(&self, devices: usize) -> Fallible<String> {
        (0..devices)
            .map(device_id)
            .map(|id| {
                let secret = self.secret(&id)?;
                Ok(format!("\n[devices.{id}]\nsecret_file = {secret:?}\n"))
            })
            .collect()
    }

    /// What clients trust.
    pub(crate) fn root(&self) -> PathBuf {
        self.bundles.join(device_id(0)).join("ca.crt")
    }
}

/// `tidegate pki` with the state in `state`.
fn pki(place: &Place, state: &Path) -> Fallible<Command> {
    fs::create_dir_all(state)?;
    let config = state.join("tidegate.toml");
    fs::write(&config, format!("state_dir = {state:?}\n"))?;
    let mut command = Command::new(&place.tidegate);
    command.arg("--config").arg(config).arg("pki");
    Ok(command)
}
