//! SQLite's write-ahead log as a file: whether what a dead process left is whole ([`mod@inspect`]), and room
//! ahead of what is written ([`Wal`]).

mod inspect;
mod room;

pub(super) use inspect::inspect;
pub(super) use room::Wal;
