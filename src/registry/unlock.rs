//! The right master key, or none.

use super::RegistryError;
use crate::{
    seal::{self, MasterKey, Place, SealError},
    store::{Store, devices as rows},
};

/// The place of the value that proves the master key.
const CHECK: Place<'static> = Place {
    table: "seal_check",
    column: "sealed",
    row: "1",
};

/// Loads the master key and proves that it is the one that sealed this database. At the very first
/// start the proof is made.
///
/// # Errors
/// [`RegistryError::Seal`]: there is no such key, it is unsafe, or it is another one.
pub async fn unlock(
    store: &Store,
    sources: seal::Sources,
) -> Result<(MasterKey, seal::Origin), RegistryError> {
    let (sealed, check) = store
        .read(|conn| Ok((rows::holds_sealed(conn)?, rows::seal_check(conn)?)))
        .await?;
    let (master, origin) =
        tokio::task::spawn_blocking(move || seal::load(&sources, sealed)).await??;
    let outdated = match &check {
        Some(check) => {
            // Whatever the failure, it has one cause an operator can do something about.
            master.open(CHECK, check).map_err(|_| SealError::WrongKey)?;
            master.is_outdated(check)
        }
        None => true,
    };
    if outdated {
        let check = master.seal(CHECK, b"tidegate")?;
        store
            .write(move |conn| rows::set_seal_check(conn, &check))
            .await?;
    }
    Ok((master, origin))
}
