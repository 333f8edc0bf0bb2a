//! The linker scripts: esp-hal's, then what must fit.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-search={here}");
    for script in ["linkall.x", "budget.x"] {
        println!("cargo:rustc-link-arg-bins=-T{script}");
    }
    println!("cargo:rerun-if-changed=budget.x");
    println!("cargo:rerun-if-changed=build.rs");
}
