//! After a switch or a boot: keep the system if the gateway becomes healthy in time, else return to the
//! last one under which it was.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::program::{ProgramError, run as program};

/// Arguments of `health`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds to become healthy in
    #[arg(long)]
    within: u64,
    /// Seconds to stay so
    #[arg(long)]
    steady: u64,
    /// The link that remembers the last good system; a root of Nix's garbage collector
    #[arg(long)]
    good: PathBuf,
    /// Where returns are written down
    #[arg(long)]
    log: PathBuf,
    /// The system that runs
    #[arg(long, default_value = "/run/current-system")]
    current: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HealthError {
    #[error(
        "the gateway is not healthy, and there is no earlier system to return to: look at `journalctl -u tidegate`"
    )]
    NowhereToGo,
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("returning to the last good system failed: {0}")]
    Return(#[from] ProgramError),
}

/// What is known at one moment.
#[derive(Clone, Copy, Debug)]
struct Observation {
    /// Since this began watching.
    elapsed: Duration,
    healthy: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Judgement {
    Wait,
    Good,
    Bad,
}

/// Judges observations as they come: good after `steady` of health without a gap, bad when that has not
/// begun within `within`.
#[derive(Debug)]
struct Judge {
    within: Duration,
    steady: Duration,
    healthy_since: Option<Duration>,
}

impl Judge {
    fn observe(&mut self, seen: Observation) -> Judgement {
        if !seen.healthy {
            self.healthy_since = None;
            return if seen.elapsed >= self.within {
                Judgement::Bad
            } else {
                Judgement::Wait
            };
        }
        let since = *self.healthy_since.get_or_insert(seen.elapsed);
        if seen.elapsed.saturating_sub(since) >= self.steady {
            Judgement::Good
        } else {
            Judgement::Wait
        }
    }
}

/// How often to look. The service's own watchdog is faster; this is about minutes.
const EVERY: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &Args) -> Result<(), HealthError> {
    let mut judge = Judge {
        within: Duration::from_secs(args.within),
        steady: Duration::from_secs(args.steady),
        healthy_since: None,
    };
    let started = Instant::now();
    loop {
        match judge.observe(Observation {
            elapsed: started.elapsed(),
            healthy: healthy(),
        }) {
            Judgement::Wait => thread::sleep(EVERY),
            Judgement::Good => return remember(args),
            Judgement::Bad => return go_back(args),
        }
    }
}

/// Whether the unit is up and the gateway itself says it runs.
fn healthy() -> bool {
    let quiet =
        |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    quiet(Command::new("systemctl").args(["is-active", "--quiet", "tidegate.service"]))
        && quiet(Command::new("tidegate").arg("status"))
}

fn system(link: &Path) -> Option<PathBuf> {
    fs::canonicalize(link).ok()
}

fn remember(args: &Args) -> Result<(), HealthError> {
    let Some(current) = system(&args.current) else {
        println!(
            "healthy; {} is no system, so there is nothing to remember",
            args.current.display()
        );
        return Ok(());
    };
    if system(&args.good).as_ref() != Some(&current) {
        let beside = args.good.with_extension("new");
        let _ = fs::remove_file(&beside);
        std::os::unix::fs::symlink(&current, &beside)
            .and_then(|()| fs::rename(&beside, &args.good))
            .map_err(|source| HealthError::Io {
                path: args.good.clone(),
                source,
            })?;
    }
    println!("healthy: {} is the system to return to", current.display());
    Ok(())
}

fn go_back(args: &Args) -> Result<(), HealthError> {
    let good = system(&args.good).filter(|good| Some(good) != system(&args.current).as_ref());
    let Some(good) = good else {
        return Err(HealthError::NowhereToGo);
    };
    eprintln!(
        "not healthy within {} s: returning to {}",
        args.within,
        good.display()
    );
    let line = format!(
        "{} instead of {}\n",
        good.display(),
        system(&args.current).unwrap_or_default().display()
    );
    // Known to whoever looks, even if switching back is the last thing this process does.
    fs::write(&args.log, line).map_err(|source| HealthError::Io {
        path: args.log.clone(),
        source,
    })?;
    program(
        Command::new("nix-env")
            .args(["--profile", "/nix/var/nix/profiles/system", "--set"])
            .arg(&good),
    )?;
    program(Command::new(good.join("bin/switch-to-configuration")).arg("switch"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge() -> Judge {
        Judge {
            within: Duration::from_secs(100),
            steady: Duration::from_secs(10),
            healthy_since: None,
        }
    }

    fn after(judge: &mut Judge, seconds: u64, healthy: bool) -> Judgement {
        judge.observe(Observation {
            elapsed: Duration::from_secs(seconds),
            healthy,
        })
    }

    #[test]
    fn health_must_last() {
        let mut judge = judge();
        assert_eq!(after(&mut judge, 0, false), Judgement::Wait);
        assert_eq!(after(&mut judge, 5, true), Judgement::Wait);
        assert_eq!(after(&mut judge, 14, true), Judgement::Wait);
        assert_eq!(after(&mut judge, 15, true), Judgement::Good);
    }

    #[test]
    fn a_gateway_that_keeps_falling_over_is_not_healthy() {
        let mut judge = judge();
        for second in (0..100).step_by(5) {
            assert_eq!(
                after(&mut judge, second, second % 10 == 0),
                Judgement::Wait,
                "{second}"
            );
        }
        assert_eq!(after(&mut judge, 100, false), Judgement::Bad);
    }

    #[test]
    fn what_became_healthy_in_time_gets_its_steady_time_as_well() {
        let mut judge = judge();
        assert_eq!(after(&mut judge, 98, true), Judgement::Wait);
        assert_eq!(after(&mut judge, 104, true), Judgement::Wait);
        assert_eq!(after(&mut judge, 108, true), Judgement::Good);
    }

    #[test]
    fn a_good_system_is_remembered_and_never_returned_to_from_itself() {
        let folder = tempfile::tempdir().unwrap();
        let generation = folder.path().join("one");
        fs::create_dir(&generation).unwrap();
        let args = Args {
            within: 0,
            steady: 0,
            good: folder.path().join("good"),
            log: folder.path().join("log"),
            current: generation.clone(),
        };
        assert!(matches!(go_back(&args), Err(HealthError::NowhereToGo)));
        remember(&args).unwrap();
        assert_eq!(
            fs::canonicalize(&args.good).unwrap(),
            fs::canonicalize(&generation).unwrap()
        );
        assert!(matches!(go_back(&args), Err(HealthError::NowhereToGo)));
        assert!(!args.log.exists());
    }
}
