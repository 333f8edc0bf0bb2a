//! Where each partition is in 4 MiB of flash.
//!
//! `esp32/partitions.csv` says the same to the ESP32's boot loader; a test compares the two.

/// A part of the flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Name in the partition table.
    pub name: &'static str,
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// Bytes of the smallest flash that is supported.
pub const FLASH: u32 = 4 << 20;

/// Which of the two images starts, and whether it is on trial: two pages, written in turn.
pub const OTADATA: Place = Place {
    name: "otadata",
    offset: 0x9000,
    size: 0x2000,
};

/// Who the device is. Two sets of two pages: certificate, key, one to four roots.
pub const CREDENTIALS: Place = Place {
    name: "credentials",
    offset: 0xc000,
    size: 0x4000,
};

/// Boot count, executed commands, last known time: small records, often written, so sixteen pages
/// for endurance.
pub const STATE: Place = Place {
    name: "state",
    offset: 0x10000,
    size: 0x10000,
};

/// The two images, equally large; they start on 64 KiB boundaries, which the chips' MMU demands.
pub const SLOTS: [Place; 2] = [
    Place {
        name: "ota_0",
        offset: 0x2_0000,
        size: 0x1e_0000,
    },
    Place {
        name: "ota_1",
        offset: 0x20_0000,
        size: 0x1e_0000,
    },
];

/// Readings that outlast an outage: about 100 bytes each, so about 1,300 in 128 KiB.
pub const BUFFER: Place = Place {
    name: "buffer",
    offset: 0x3e_0000,
    size: 0x2_0000,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> u32 {
        match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
            None => text.parse().unwrap(),
        }
    }

    #[test]
    fn the_boot_loaders_table_says_the_same() {
        let csv = include_str!("../../esp32/partitions.csv");
        let table: Vec<_> = csv
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| {
                let fields: Vec<_> = line.split(',').map(str::trim).collect();
                (fields[0], number(fields[3]), number(fields[4]))
            })
            .collect();
        let ours = [OTADATA, CREDENTIALS, STATE, BUFFER, SLOTS[0], SLOTS[1]];
        for place in ours {
            assert!(
                table.contains(&(place.name, place.offset, place.size)),
                "{place:?} is not in {table:?}"
            );
        }
        // The boot loader and the table itself end at 0x9000.
        let mut free_from = 0x9000;
        for (name, offset, size) in table {
            assert!(offset >= free_from, "{name} overlaps what is before it");
            assert_eq!(
                (offset % 4096, size % 4096),
                (0, 0),
                "{name} is not whole pages"
            );
            free_from = offset + size;
        }
        assert!(free_from <= FLASH);
    }
}
