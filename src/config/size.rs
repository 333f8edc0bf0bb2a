//! Sizes as they are shown.

use bytesize::ByteSize;
use serde::Serializer;

const UNITS: [(u64, &str); 4] = [
    (1 << 40, "TiB"),
    (1 << 30, "GiB"),
    (1 << 20, "MiB"),
    (1 << 10, "KiB"),
];

/// A size in the largest unit that leaves no remainder, otherwise in bytes: what is shown is what is
/// in force, to the byte. `ByteSize` itself rounds to a tenth of a unit.
pub(super) fn exact<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&text(size.as_u64()))
}

fn text(bytes: u64) -> String {
    UNITS
        .into_iter()
        .map(|(unit, name)| (bytes / unit, bytes % unit, name))
        .find(|(count, rest, _)| *rest == 0 && *count > 0)
        .map_or_else(
            || bytes.to_string(),
            |(count, _, name)| format!("{count} {name}"),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_to_the_byte() {
        for (bytes, shown) in [
            (0, "0"),
            (1, "1"),
            (1023, "1023"),
            (1024, "1 KiB"),
            (1_048_577, "1048577"),
            (1_572_864, "1536 KiB"),
            (64 << 10, "64 KiB"),
            (1 << 30, "1 GiB"),
            (u64::MAX, "18446744073709551615"),
            (u64::MAX - 1023, "18014398509481983 KiB"),
        ] {
            assert_eq!(text(bytes), shown);
            assert_eq!(shown.parse(), Ok(ByteSize::b(bytes)), "{shown}");
        }
    }
}
