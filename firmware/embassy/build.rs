//! When the image was built: the earliest time a device believes.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time of a reproducible build, else of the last commit, else now. All of them are past when
/// the image runs, and that is all that is asked.
fn built_at() -> u64 {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let number = |text: &str| text.trim().parse().ok();
    std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| number(&text))
        .or_else(|| {
            let git = Command::new("git")
                .args(["log", "-1", "--format=%ct"])
                .output()
                .ok()?;
            number(core::str::from_utf8(&git.stdout).ok()?)
        })
        .or_else(|| Some(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs()))
        .unwrap_or(0)
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=TIDEGATE_BUILT_AT={}", built_at());
}
