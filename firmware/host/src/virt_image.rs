//! The image of QEMU's board, as its boot stage reads it from a slot (`firmware/virt/src/boot.rs`).

use aws_lc_rs::digest::{SHA256, digest};
use object::elf::FileHeader32;
use object::read::elf::{ElfFile, ProgramHeader};
use object::{LittleEndian, Object, ObjectSymbol};

const MAGIC: [u8; 8] = *b"TGVIRT\x00\x01";

/// Bytes before the program.
const HEADER: usize = 64;

/// Where programs are loaded to and entered.
const START: u32 = 0x8000_0000;

/// The program cannot be made into an image.
#[derive(Debug, thiserror::Error)]
pub enum VirtImageError {
    /// It is no ELF file of the right kind.
    #[error("program is not a 32-bit little-endian ELF file: build tidegate-virt for riscv32imc")]
    Elf(#[from] object::Error),
    /// It is linked for another place.
    #[error("program does not begin at {START:#x}: build tidegate-virt")]
    Place,
    /// It has no function `main`.
    #[error("program has no function main: build it with its symbols")]
    NoMain,
}

/// Makes an image from what the linker made. With `crashes`, the first instruction of its `main` is
/// one that does not exist: an image to try with how the board goes back to the one before.
///
/// # Errors
///
/// [`VirtImageError`]
pub fn virt_image(elf: &[u8], crashes: bool) -> Result<Vec<u8>, VirtImageError> {
    let file = ElfFile::<FileHeader32<LittleEndian>>::parse(elf)?;
    let mut program = Vec::new();
    for segment in file.elf_program_headers() {
        let bytes = segment
            .data(LittleEndian, elf)
            .map_err(|()| VirtImageError::Place)?;
        if segment.p_type.get(LittleEndian) != object::elf::PT_LOAD || bytes.is_empty() {
            continue;
        }
        let at = segment.p_paddr.get(LittleEndian).checked_sub(START);
        let at = at.ok_or(VirtImageError::Place)? as usize;
        if program.len() < at + bytes.len() {
            program.resize(at + bytes.len(), 0);
        }
        if let Some(place) = program.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
    if crashes {
        let main = file
            .symbols()
            .find(|symbol| symbol.name() == Ok("main"))
            .and_then(|main| main.address().checked_sub(START.into()))
            .and_then(|at| usize::try_from(at).ok())
            .ok_or(VirtImageError::NoMain)?;
        program
            .get_mut(main..main + 4)
            .ok_or(VirtImageError::NoMain)?
            .fill(0);
    }
    let mut image = Vec::with_capacity(HEADER + program.len());
    image.extend_from_slice(&MAGIC);
    image.extend_from_slice(&(program.len() as u32).to_le_bytes());
    image.extend_from_slice(digest(&SHA256, &program).as_ref());
    image.resize(HEADER, 0);
    image.extend_from_slice(&program);
    Ok(image)
}
