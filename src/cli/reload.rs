//! `tidegate reload`: the running gateway reads its configuration again.

use super::{Context, Ended, output::harmless, state::State};
use crate::control::{Request, answer::Reloaded};

pub(super) fn run(context: &Context) -> Ended {
    let loaded = context.load()?;
    let reloaded: Reloaded = State::open(&loaded.config)?.ask(Request::Reload)?;
    context.output.answer(&reloaded, |reloaded| {
        let mut text = String::new();
        for change in &reloaded.changes {
            text.push_str(&format!("{}\n", harmless(change)));
        }
        for key in &reloaded.needs_restart {
            text.push_str(&format!(
                "{} is different, but needs a restart\n",
                harmless(key)
            ));
        }
        if text.is_empty() {
            "Nothing changed.".to_owned()
        } else {
            text
        }
    })?;
    Ok(())
}
