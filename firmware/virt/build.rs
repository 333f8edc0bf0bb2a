//! The linker scripts: memory of this board, then riscv-rt's, then what must fit.

/// What each program is linked with.
const SCRIPTS: [(&str, &[&str]); 2] = [
    ("tidegate-virt", &["memory.x", "link.x", "budget.x"]),
    ("tidegate-virt-boot", &["boot.x", "link.x"]),
];

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-search={here}");
    for (program, scripts) in SCRIPTS {
        for script in scripts {
            println!("cargo:rustc-link-arg-bin={program}=-T{script}");
        }
    }
    for script in ["memory.x", "boot.x", "budget.x", "build.rs"] {
        println!("cargo:rerun-if-changed={script}");
    }
}
