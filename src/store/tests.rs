//! The store through its own edge, with the real writer thread and real files.

mod budget;
mod durability;
mod ledger;
mod reading;
mod running;
mod updates;
