//! The device: its application on this machine, its images for the chips, and one of them in QEMU.

use std::fs;

use object::{
    Architecture, Object, ObjectSection, ObjectSymbol, SectionFlags, SectionKind, elf::SHF_ALLOC,
};

use crate::{Failure, install, sh, sh_env, steps::NEXTEST};

const MANIFEST: &str = "firmware/Cargo.toml";

/// Packages that run on this machine.
const SOFTWARE: [&str; 6] = [
    "-p",
    "tidegate-app",
    "-p",
    "tidegate-embassy",
    "-p",
    "tidegate-host",
];

const IMC: &str = "riscv32imc-unknown-none-elf";
const IMAC: &str = "riscv32imac-unknown-none-elf";

/// A build of a board, as arguments of cargo.
struct Build {
    package: &'static str,
    target: &'static str,
    features: &'static [&'static str],
}

const VIRT: Build = Build {
    package: "tidegate-virt",
    target: IMC,
    features: &[],
};

const C3: Build = Build {
    package: "tidegate-esp32",
    target: IMC,
    features: &["--features", "esp32c3"],
};

const C6: Build = Build {
    package: "tidegate-esp32",
    target: IMAC,
    features: &["--features", "esp32c6"],
};

/// The other profiles, once: what differs by chip is built above.
const PROFILES: [Build; 2] = [
    Build {
        features: &["--no-default-features", "--features", "esp32c3,climate"],
        ..C3
    },
    Build {
        features: &["--no-default-features", "--features", "esp32c3,gates"],
        ..C3
    },
];

/// Formatting, licences, warnings, tests and documentation of what runs on this machine.
///
/// # Errors
/// The first of them that fails.
pub(crate) fn software() -> Result<(), Failure> {
    sh(
        "cargo",
        &["fmt", "--manifest-path", MANIFEST, "--all", "--check"],
    )?;
    let mut deny = vec!["deny", "--log-level", "error", "--manifest-path", MANIFEST];
    deny.extend(["check", "bans", "licenses", "sources"]);
    sh("cargo", &deny)?;
    let mut clippy = vec!["clippy", "--manifest-path", MANIFEST];
    clippy.extend(SOFTWARE);
    clippy.extend(["--all-targets", "--", "-D", "warnings"]);
    sh("cargo", &clippy)?;
    let mut tests = vec!["nextest", "run", "--manifest-path", MANIFEST];
    tests.extend(SOFTWARE);
    tests.extend(NEXTEST);
    sh("cargo", &tests)?;
    let mut doc = vec!["doc", "--quiet", "--manifest-path", MANIFEST];
    doc.extend(SOFTWARE);
    doc.extend(["--no-deps", "--document-private-items"]);
    sh_env("cargo", &doc, &[("RUSTDOCFLAGS", "-D warnings")])
}

/// Builds the images and checks that they fit.
///
/// # Errors
/// A warning, or an image that does not build or fit.
pub(crate) fn boards() -> Result<(), Failure> {
    sh("rustup", &["target", "add", IMC, IMAC])?;
    for build in [&VIRT, &C3, &C6].into_iter().chain(&PROFILES) {
        cargo("clippy", build, &["--", "-D", "warnings"])?;
    }
    let slot = slot()?;
    for (build, chip) in [(&C3, &ESP32C3), (&C6, &ESP32C6), (&VIRT, &QEMU)] {
        cargo("build", build, &[])?;
        check(build, chip, slot)?;
    }
    Ok(())
}

/// The device in QEMU against the real gateway.
///
/// # Errors
/// QEMU cannot be installed, or a story fails.
pub(crate) fn virt() -> Result<(), Failure> {
    install::package("qemu-system-riscv32", "qemu-system-misc")?;
    sh("rustup", &["target", "add", IMC])?;
    // The stories build it too; here it can be seen.
    cargo("build", &VIRT, &[])?;
    // As the step `tests` builds, so that nothing is built anew.
    let mut stories = vec!["nextest", "run", "--workspace", "--all-features"];
    stories.extend(["--test", "device_virt", "--test", "device_virt_updates"]);
    stories.extend(["--run-ignored", "all"]);
    stories.extend(NEXTEST);
    sh("cargo", &stories)
}

fn cargo(command: &str, build: &Build, more: &[&str]) -> Result<(), Failure> {
    let mut arguments = vec![command, "--quiet", "--manifest-path", MANIFEST];
    arguments.extend(["-p", build.package, "--profile", "firmware"]);
    arguments.extend(["--target", build.target]);
    arguments.extend(build.features);
    arguments.extend(more);
    sh("cargo", &arguments)
}

/// What an image is checked against.
struct Chip {
    name: &'static str,
    /// Addresses a section may have: flash as it is mapped, and RAM.
    memory: &'static [(u64, u64)],
    /// Marks the image for the boot loader, where there is one.
    descriptor: Option<&'static str>,
    /// Part of the name of the statics, or the section, that are the heap; and the least that it must be.
    heap: (&'static str, u64),
}

/// From the chips' technical reference manuals, chapter System and Memory: flash as data and as code,
/// RAM as data and as code, RTC memory.
const ESP32C3: Chip = Chip {
    name: "ESP32-C3",
    memory: &[
        (0x3c00_0000, 0x3c80_0000),
        (0x4200_0000, 0x4280_0000),
        (0x3fc8_0000, 0x3fce_0000),
        (0x4037_c000, 0x403e_0000),
        (0x5000_0000, 0x5000_2000),
    ],
    descriptor: Some(".flash.appdesc"),
    heap: ("memory5start4HEAP", RADIO_AND_HANDSHAKE),
};

const ESP32C6: Chip = Chip {
    name: "ESP32-C6",
    memory: &[
        (0x4200_0000, 0x4300_0000),
        (0x4080_0000, 0x4088_0000),
        (0x5000_0000, 0x5000_4000),
    ],
    descriptor: Some(".flash.appdesc"),
    heap: ("memory5start4HEAP", RADIO_AND_HANDSHAKE),
};

/// firmware/virt/memory.x
const QEMU: Chip = Chip {
    name: "QEMU virt",
    memory: &[(0x8000_0000, 0x801e_0000), (0x8020_0000, 0x8023_a000)],
    descriptor: None,
    heap: (".heap", HANDSHAKE),
};

/// The radio's 60 KiB and a handshake's 40 KiB; firmware/README.md says where they are from.
const RADIO_AND_HANDSHAKE: u64 = 100 * 1024;
const HANDSHAKE: u64 = 44 * 1024;

/// Variables, the part of the heap among them that is not the boot loader's memory.
const RAM_SECTIONS: [&str; 3] = [".data", ".bss", ".noinit"];

/// A handshake needs 37 KiB; half as much again for interrupts.
const STACK: u64 = 56 * 1024;

/// Of a slot, what later versions may grow by.
const SPARE: u64 = 128 * 1024;

/// What an ESP-IDF boot loader knows an image by (`esp_app_desc_t`, ESP-IDF's `esp_app_desc.h`).
const APP_DESCRIPTOR: [u8; 4] = 0xabcd_5432_u32.to_le_bytes();

const FLASH: u64 = 4 << 20;

/// Bytes of an update slot, from the partition table; that the two are alike and in a flash of 4 MiB.
fn slot() -> Result<u64, String> {
    const TABLE: &str = "firmware/esp32/partitions.csv";
    let table = fs::read_to_string(TABLE).map_err(|error| format!("{TABLE}: {error}"))?;
    let mut slots = Vec::new();
    let mut end = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [_, kind, _, offset, size, ..] = fields[..] else {
            continue;
        };
        let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
        let (Ok(offset), Ok(size)) = (hex(offset), hex(size)) else {
            return Err(format!("{TABLE}: {line:?} has no offset and size"));
        };
        if offset < end {
            return Err(format!("{TABLE}: {line:?} overlaps what is before it"));
        }
        end = offset + size;
        if kind == "app" {
            slots.push(size);
        }
    }
    match slots[..] {
        [one, other] if one == other && end <= FLASH => Ok(one),
        _ => Err(format!(
            "{TABLE}: there must be two slots of one size in 4 MiB, not {slots:?} up to {end:#x}"
        )),
    }
}

fn check(build: &Build, chip: &Chip, slot: u64) -> Result<(), Failure> {
    let path = format!(
        "firmware/target/{}/firmware/{}",
        build.target, build.package
    );
    let bytes = fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
    let image = object::File::parse(&*bytes).map_err(|error| format!("{path}: {error}"))?;
    let wrong = |what: String| Err(format!("{path}, for the {}: {what}", chip.name).into());
    if image.architecture() != Architecture::Riscv32 {
        return wrong(format!("it is for {:?}", image.architecture()));
    }
    let (mut flash, mut ram, mut stack, mut heap) = (0, 0, 0, 0);
    for section in image.sections() {
        let name = section.name().unwrap_or_default();
        let (start, size) = (section.address(), section.size());
        let allocated = matches!(section.flags(), SectionFlags::Elf { sh_flags } if sh_flags & u64::from(SHF_ALLOC) != 0);
        // The boot loader's record for tools is in no memory.
        if !allocated || size == 0 || name == ".espressif.metadata" {
            continue;
        }
        let within = |(from, to): &(u64, u64)| *from <= start && start + size <= *to;
        if !chip.memory.iter().any(within) {
            return wrong(format!(
                "{name} at {start:#x}, {size} bytes, is in no memory"
            ));
        }
        let loaded = !matches!(section.kind(), SectionKind::UninitializedData);
        if loaded {
            flash += size;
        }
        if name == ".stack" {
            stack = size;
        } else if name == chip.heap.0 {
            heap += size;
        } else if RAM_SECTIONS.iter().any(|ram| name.starts_with(ram)) {
            ram += size;
        }
    }
    for symbol in image.symbols() {
        if symbol.name().is_ok_and(|name| name.contains(chip.heap.0)) {
            heap += symbol.size();
        }
    }
    if let Some(name) = chip.descriptor {
        let section = image.section_by_name(name);
        let found = section.and_then(|section| section.data().ok());
        if !found.is_some_and(|data| data.starts_with(&APP_DESCRIPTOR)) {
            return wrong(format!("{name} is not an application's descriptor"));
        }
    }
    println!(
        "{}: image {flash} of {slot} bytes in a slot; data {ram}; heap {heap}; stack {stack}",
        chip.name
    );
    if flash + SPARE > slot {
        return wrong(format!("{flash} bytes leave less than {SPARE} of a slot"));
    }
    if stack < STACK {
        return wrong(format!("{stack} bytes of stack, and it needs {STACK}"));
    }
    if heap < chip.heap.1 {
        return wrong(format!(
            "{heap} bytes of heap, and it needs {}",
            chip.heap.1
        ));
    }
    Ok(())
}
