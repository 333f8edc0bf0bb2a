//! `tidegate config`: the settings in force.

use super::{Context, Ended};
use crate::{
    config::{Config, Upstream},
    control::{Code, Problem},
};

/// Subcommands of `tidegate config`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every setting as it is in force, defaults and all
    ///
    /// The output is a configuration file. It names files with secrets, and holds none.
    Show,
}

pub(super) fn run(context: &Context, command: &ConfigCommand) -> Ended {
    let ConfigCommand::Show = command;
    let loaded = context.load()?;
    let config = without_secrets(loaded.config);
    let toml = toml::to_string(&config)
        .map_err(|error| Problem::new(Code::Internal, error.to_string(), ""))?;
    let head = match &loaded.file {
        Some(path) => format!("# {} and what goes before it\n", path.display()),
        None => "# No file; defaults, variables and flags\n".to_owned(),
    };
    Ok(context.output.answer(&config, |_| head + &toml)?)
}

/// `check` refuses user names in URLs, but what is shown here has not been checked.
fn without_secrets(mut config: Config) -> Config {
    for upstream in config.upstreams.values_mut() {
        let Upstream::Http(http) = upstream;
        http.url = redacted(&http.url);
    }
    config
}

fn redacted(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(start);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}…{}", rest.get(user.len()..).unwrap_or_default()),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn no_user_name_is_shown() {
        for (url, shown) in [
            ("https://u:p@host/a@b", "https://…@host/a@b"),
            ("https://u:p@q@host", "https://…@host"),
            ("u:p@host", "…@host"),
            ("https://host/a@b", "https://host/a@b"),
            ("http://[::1]:8080/x?y=z@", "http://[::1]:8080/x?y=z@"),
            ("", ""),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }
}
