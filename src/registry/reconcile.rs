//! Making the table what the configuration declares: what differs, as a pure decision.

use std::collections::{BTreeMap, HashMap};

use tidegate_wire::DeviceId;
use zeroize::Zeroizing;

use super::{
    DefinitionError, NAMED, RegistryError, credentials,
    definition::{Definition, blank},
    passwords,
};
use crate::{
    clock::UnixMillis,
    config,
    seal::{MasterKey, SealError},
    store::devices::DeviceRow,
};

/// What password files are fingerprinted as.
///
/// The fingerprint spares hashing every password at every start. It is faster to guess against than
/// the hash, but only for someone who has the master key, and who has that has the files too.
const PASSWORD_FILE: &str = "password_file";

/// A device whose declaration was checked and whose files were read.
pub(super) struct Declared {
    definition: Definition,
    secret: Option<Zeroizing<Vec<u8>>>,
    password: Option<Zeroizing<Vec<u8>>>,
}

impl Declared {
    /// All of them, or everything that is wrong with any.
    pub(super) fn read_all(
        declared: &BTreeMap<String, config::Device>,
    ) -> Result<BTreeMap<DeviceId, Self>, RegistryError> {
        let mut devices = BTreeMap::new();
        let mut errors = Vec::new();
        for (id, settings) in declared {
            match Self::read(id, settings) {
                Ok((id, device)) => {
                    devices.insert(id, device);
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(devices)
        } else {
            Err(RegistryError::Declarations(errors))
        }
    }

    fn read(id: &str, settings: &config::Device) -> Result<(DeviceId, Self), DefinitionError> {
        let id = DeviceId::try_from(id).map_err(|fault| DefinitionError::Id {
            id: id.chars().take(80).collect(),
            fault,
        })?;
        let definition = Definition::check(&id, settings)?;
        let read = |setting, path: &Option<_>| {
            path.as_deref()
                .map(|path| credentials::read_file(&id, setting, path))
                .transpose()
        };
        let secret = read("secret_file", &settings.secret_file)?;
        let password = read("password_file", &settings.password_file)?;
        Ok((
            id,
            Self {
                definition,
                secret,
                password,
            },
        ))
    }
}

/// What is to be written.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) inserts: Vec<DeviceRow>,
    pub(super) updates: Vec<DeviceRow>,
    pub(super) difference: Difference,
}

/// What reconciling changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Difference {
    pub added: Vec<DeviceId>,
    pub changed: Vec<Changed>,
    pub removed: Vec<DeviceId>,
    /// Declared devices that were as declared.
    pub unchanged: usize,
    /// Devices that were added at run time and are not declared.
    pub run_time: usize,
}

/// A device that changed, and in what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed {
    pub id: DeviceId,
    /// Names of settings.
    pub settings: Vec<&'static str>,
}

impl Difference {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    pub(super) fn log(&self) {
        for id in self.added.iter().take(NAMED) {
            tracing::info!(device = %id, "device added");
        }
        for Changed { id, settings } in self.changed.iter().take(NAMED) {
            tracing::info!(device = %id, settings = settings.join(","), "device changed");
        }
        for id in self.removed.iter().take(NAMED) {
            tracing::info!(device = %id, "device removed");
        }
        tracing::info!(
            added = self.added.len(),
            changed = self.changed.len(),
            removed = self.removed.len(),
            unchanged = self.unchanged,
            run_time = self.run_time,
            "device registry reconciled with the configuration"
        );
    }
}

/// What is left to look at once what is as declared is put aside.
pub(super) struct Unreconciled {
    declared: BTreeMap<DeviceId, Declared>,
    rows: Vec<DeviceRow>,
    unchanged: usize,
}

impl Unreconciled {
    pub(super) fn new(declared: BTreeMap<DeviceId, Declared>) -> Self {
        Self {
            declared,
            rows: Vec::new(),
            unchanged: 0,
        }
    }

    /// Takes a row of the table; each once.
    pub(super) fn take(&mut self, row: DeviceRow, master: &MasterKey) -> Result<(), RegistryError> {
        if let Ok(id) = DeviceId::try_from(row.id.as_str())
            && let Some(device) = self.declared.get(&id)
            && is_as_declared(&row, device, master)?
        {
            self.declared.remove(&id);
            self.unchanged += 1;
        } else {
            self.rows.push(row);
        }
        Ok(())
    }

    /// What is to be written. Hashes the passwords that are new.
    pub(super) fn plan(self, master: &MasterKey, now: UnixMillis) -> Result<Plan, RegistryError> {
        let mut plan = plan(self.rows, &self.declared, master, now)?;
        plan.difference.unchanged += self.unchanged;
        Ok(plan)
    }
}

/// Whether [`make`] would change nothing.
fn is_as_declared(
    row: &DeviceRow,
    device: &Declared,
    master: &MasterKey,
) -> Result<bool, RegistryError> {
    let password = match &device.password {
        Some(password) => is_fingerprinted(row, password, master),
        None => row.password_source.is_none(),
    };
    let secret = match &device.secret {
        Some(secret) => holds(row, secret, master)?,
        None => true,
    };
    Ok(row.declared
        && row.removed_at.is_none()
        && device.definition.is_in(row)
        && password
        && secret)
}

/// Compares the table with the declarations. Hashes only passwords that are new.
fn plan(
    rows: Vec<DeviceRow>,
    declared: &BTreeMap<DeviceId, Declared>,
    master: &MasterKey,
    now: UnixMillis,
) -> Result<Plan, RegistryError> {
    let mut plan = Plan {
        inserts: Vec::new(),
        updates: Vec::new(),
        difference: Difference::default(),
    };
    let mut rows: HashMap<String, DeviceRow> =
        rows.into_iter().map(|row| (row.id.clone(), row)).collect();
    for (id, device) in declared {
        let Some(mut row) = rows.remove(id.as_str()) else {
            let mut row = blank(id, now);
            make(&mut row, device, master)?;
            plan.inserts.push(row);
            plan.difference.added.push(*id);
            continue;
        };
        let was_removed = row.removed_at.is_some();
        let settings = make(&mut row, device, master)?;
        if was_removed {
            plan.difference.added.push(*id);
        } else if settings.is_empty() {
            plan.difference.unchanged += 1;
            continue;
        } else {
            plan.difference.changed.push(Changed { id: *id, settings });
        }
        row.updated_at = now;
        plan.updates.push(row);
    }
    let mut gone: Vec<DeviceRow> = rows
        .into_values()
        .filter(|row| row.declared && row.removed_at.is_none())
        .collect();
    gone.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    for mut row in gone {
        // Its secret is kept: a declaration dropped by mistake is put right by putting it back.
        row.removed_at = Some(now);
        row.updated_at = now;
        if let Ok(id) = DeviceId::try_from(row.id.as_str()) {
            plan.difference.removed.push(id);
        }
        plan.updates.push(row);
    }
    Ok(plan)
}

/// Makes a row what is declared and returns the names of what was different.
fn make(
    row: &mut DeviceRow,
    device: &Declared,
    master: &MasterKey,
) -> Result<Vec<&'static str>, RegistryError> {
    let mut changed = device.definition.apply_to(row);
    if !row.declared {
        row.declared = true;
        changed.push("declared");
    }
    row.removed_at = None;
    if let Some(secret) = &device.secret
        && !holds(row, secret, master)?
    {
        row.secret = Some(master.seal(credentials::place(&row.id), secret)?);
        changed.push("secret");
    }
    match &device.password {
        Some(password) if !is_fingerprinted(row, password, master) => {
            row.password = Some(passwords::hash(password)?);
            row.password_source = Some(
                master
                    .fingerprint(PASSWORD_FILE, &source(&row.id, password))
                    .to_vec(),
            );
            changed.push("password");
        }
        // It came from a file that is no longer declared. One that was set at run time stays.
        None if row.password_source.is_some() => {
            (row.password, row.password_source) = (None, None);
            changed.push("password");
        }
        _ => {}
    }
    Ok(changed)
}

fn holds(row: &DeviceRow, secret: &[u8], master: &MasterKey) -> Result<bool, SealError> {
    let Some(sealed) = &row.secret else {
        return Ok(false);
    };
    match master.open(credentials::place(&row.id), sealed) {
        Ok(held) => Ok(**held == *secret),
        // What was damaged is replaced by what is declared.
        Err(SealError::Tampered { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_fingerprinted(row: &DeviceRow, password: &[u8], master: &MasterKey) -> bool {
    row.password.is_some()
        && row.password_source.as_ref().is_some_and(|fingerprint| {
            master.fingerprint_matches(PASSWORD_FILE, &source(&row.id, password), fingerprint)
        })
}

/// The fingerprint is of this device's password: equal passwords of two devices do not show.
fn source(id: &str, password: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([id.as_bytes(), b"\0", password].concat())
}
