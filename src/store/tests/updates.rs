use super::running::Running;
use crate::{
    clock::UnixMillis,
    store::{
        DeviceKey,
        updates::{self, FirmwareRow},
    },
};

#[test]
fn a_device_of_another_product_or_chip_is_a_stranger_to_a_release() {
    let running = Running::new();
    for (device, product, chip) in [
        (1, "dashboard", "esp32c3"),
        (2, "dashboard", "esp32c6"),
        (3, "dash", "esp32c3"),
        (4, "dashboards", "esp32c3"),
    ] {
        let row = FirmwareRow {
            product: product.to_owned(),
            chip: chip.to_owned(),
            version: "1.0.0".to_owned(),
            security_version: 0,
            at: UnixMillis(0),
        };
        running
            .store
            .write_blocking(move |conn| updates::set_firmware(conn, DeviceKey(device), &row))
            .unwrap();
    }
    let strangers = running
        .store
        .read_blocking(|conn| updates::strangers(conn, "dashboard/esp32c3/1.1.0"))
        .unwrap();
    let mut strangers: Vec<u32> = strangers.into_iter().map(|device| device.0).collect();
    strangers.sort_unstable();
    // Device 5 never said what it is.
    assert_eq!(strangers, [2, 3, 4]);
}
