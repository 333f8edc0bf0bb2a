//! Fuzzing, in short: the committed corpora, then a look for new inputs with libFuzzer. See
//! `tests/fuzz/README.md`.

use std::{env, fs, path::Path};

use crate::{Failure, sh};

const FOLDER: &str = "tests/fuzz/libfuzzer";
/// For each target, unless `TIDEGATE_FUZZ_SECONDS` says otherwise: enough to notice what a change broke.
const SECONDS: &str = "10";

/// Replays, then explores.
///
/// # Errors
/// The first target for which something does not hold; libFuzzer names the file with the input.
pub(crate) fn short() -> Result<(), Failure> {
    sh("cargo", &["test", "--quiet", "--package", "fuzz"])?;
    let seconds = env::var("TIDEGATE_FUZZ_SECONDS").unwrap_or_else(|_| SECONDS.to_owned());
    for target in targets()? {
        let found = format!("target/fuzz/{target}");
        fs::create_dir_all(&found).map_err(|error| format!("{found}: {error}"))?;
        let corpus = format!("tests/fuzz/corpora/{target}");
        let time = format!("-max_total_time={seconds}");
        sh(
            "cargo",
            &[
                "fuzz",
                "run",
                "--fuzz-dir",
                FOLDER,
                "-s",
                "none",
                &target,
                &found,
                &corpus,
                "--",
                &time,
                "-timeout=5",
                "-rss_limit_mb=1024",
                "-max_len=4096",
                "-verbosity=0",
                "-print_final_stats=1",
            ],
        )?;
    }
    Ok(())
}

fn targets() -> Result<Vec<String>, String> {
    let folder = Path::new(FOLDER).join("fuzz_targets");
    let unreadable = |error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}
