//! `tidegate completions`: a completion script.

use clap_complete::{Shell, generate};

use super::{Ended, output::print};

/// Arguments of `tidegate completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For bash: tidegate completions bash > ~/.local/share/bash-completion/completions/tidegate"
)]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, mut command: clap::Command) -> Ended {
    let mut script = Vec::new();
    generate(args.shell, &mut command, "tidegate", &mut script);
    Ok(print(&String::from_utf8_lossy(&script))?)
}
