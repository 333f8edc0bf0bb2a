//! The tables, as numbered migrations.

use rusqlite::{Connection, TransactionBehavior};

/// All migrations, in order: file name and SQL. The database's `user_version` says how many of them it
/// has been through. A migration that was released is never edited.
pub(super) const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_log", include_str!("migrations/0001_log.sql")),
    (
        "0002_registry",
        include_str!("migrations/0002_registry.sql"),
    ),
    (
        "0003_sessions",
        include_str!("migrations/0003_sessions.sql"),
    ),
    ("0004_updates", include_str!("migrations/0004_updates.sql")),
];

/// The version a database has after [`migrate`].
pub(super) fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Brings the schema up to date, each migration in a transaction of its own.
pub(super) fn migrate(conn: &mut Connection, from: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(from).unwrap_or(0);
    for (version, (name, sql)) in (1_i64..).zip(MIGRATIONS).skip(done) {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
        tracing::info!(migration = name, "database migrated");
    }
    Ok(())
}
