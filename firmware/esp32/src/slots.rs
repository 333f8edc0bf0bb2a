//! The two images: which one runs, and where the other one goes.
//!
//! The record of which one starts is the device's own ([`otadata`](tidegate_app::update::otadata)),
//! in ESP-IDF's format: esp-bootloader-esp-idf refuses to go on when power was lost while an entry
//! was written, and it takes two writes to activate an image on trial.

use alloc::boxed::Box;

use esp_bootloader_esp_idf::partitions::{
    AppPartitionSubType, PARTITION_TABLE_MAX_LEN, PartitionType, read_partition_table,
};
use tidegate_app::update::slots::PartitionSlots;
use tidegate_embassy::{Partition, layout};

use crate::flash::{Chip, NoPartition, Table};

/// The slots of this board.
pub(crate) type Slots = PartitionSlots<Partition<Chip>>;

/// The slots, as the partition table has them.
pub(crate) fn open(table: &Table) -> Result<Slots, NoPartition> {
    let running = running(table)?;
    let [first, second] = &table.slots;
    let inactive = if running == 0 { second } else { first };
    Ok(PartitionSlots::new(
        table.otadata.clone(),
        inactive.clone(),
        running,
    ))
}

/// The slot whose image is mapped.
fn running(table: &Table) -> Result<u8, NoPartition> {
    let mut chip = table.chip.borrow_mut();
    // Three pages' worth of table are too much for the stack.
    let mut buffer = Box::new([0; PARTITION_TABLE_MAX_LEN]);
    let partitions =
        read_partition_table(chip.storage(), &mut buffer[..]).map_err(|_| NoPartition("table"))?;
    let booted = partitions
        .booted_partition()
        .map_err(|_| NoPartition("that runs"))?
        .map(|entry| entry.partition_type());
    match booted {
        Some(PartitionType::App(AppPartitionSubType::Ota0)) => Ok(0),
        Some(PartitionType::App(AppPartitionSubType::Ota1)) => Ok(1),
        _ => Err(NoPartition("that runs")),
    }
}

/// An image must fit into either slot.
const _: () = assert!(layout::SLOTS[0].size == layout::SLOTS[1].size);
