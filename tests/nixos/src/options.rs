//! `nixos/OPTIONS.md`: every option in the modules' own words, for readers without Nix.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::{Outcome, nix::Nix, shell::repository};

fn place() -> PathBuf {
    repository().join("nixos/OPTIONS.md")
}

/// Writes it anew.
pub(crate) fn render(nix: &Nix) -> Outcome {
    let text = evaluate(nix)?;
    let place = place();
    fs::write(&place, text).map_err(|error| format!("{}: {error}", place.display()))
}

/// Whether it says what the modules say now.
pub(crate) fn compare(nix: &Nix) -> Outcome {
    let kept = fs::read_to_string(place()).unwrap_or_default();
    let now = evaluate(nix)?;
    if kept == now {
        return Ok(());
    }
    let first = now
        .lines()
        .find(|line| !kept.lines().any(|other| other == *line))
        .unwrap_or("something is gone");
    Err(format!(
        "nixos/OPTIONS.md is not what the modules say now; `cargo run -p nixos-checks -- render` writes it anew. It lacks: {first}"
    ))
}

fn evaluate(nix: &Nix) -> Outcome<String> {
    markdown(&nix.json("options", "options: options")?)
}

/// The page, from the list that `lib.optionAttrSetToDocList` makes.
fn markdown(options: &Value) -> Outcome<String> {
    let mut page = "# Options\n\nWritten by `cargo run -p nixos-checks -- render` from the modules, never by hand.\n".to_owned();
    let options = options.as_array().ok_or("options are no list")?;
    if options.is_empty() {
        return Err("there are no options".to_owned());
    }
    for option in options {
        let name = option["name"].as_str().unwrap_or_default();
        let description = words(&option["description"])
            .ok_or_else(|| format!("{name} has no description: write one in its module"))?;
        page += &format!("\n## `{name}`\n\n{}\n\n", roles(description.trim()));
        page += &format!("- type: {}\n", option["type"].as_str().unwrap_or_default());
        if option["readOnly"] == true {
            page += "- read-only\n";
        }
        for what in ["default", "example"] {
            match &option[what] {
                Value::Null => {}
                value => page += &shown(what, value),
            }
        }
    }
    Ok(page)
}

/// Plain text or an expression, as the option has it.
fn words(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["text"].as_str())
}

fn shown(what: &str, value: &Value) -> String {
    let text = words(value).unwrap_or_default().trim_end();
    if value["_type"] == "literalMD" {
        return format!("- {what}: {}\n", roles(text));
    }
    if !text.contains('\n') {
        return format!("- {what}: `{text}`\n");
    }
    let indented: Vec<String> = text.lines().map(|line| format!("  {line}")).collect();
    format!("- {what}:\n\n  ```nix\n{}\n  ```\n", indented.join("\n"))
}

/// Plain code for what only the NixOS manual's renderer knows: `{option}` and `{manpage}` before code.
fn roles(text: &str) -> String {
    text.replace("{option}`", "`").replace("{manpage}`", "`")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_option_is_shown_with_all_that_it_declares() {
        let page = markdown(&json!([{
            "name": "services.x.rate", "type": "integer", "readOnly": false,
            "description": "How fast. See {option}`services.x.enable`.\n",
            "default": { "_type": "literalExpression", "text": "20" },
            "example": { "_type": "literalExpression", "text": "{\n  a = 1;\n}" },
        }]))
        .unwrap();
        assert!(page.ends_with(
            "\n## `services.x.rate`\n\nHow fast. See `services.x.enable`.\n\n- type: integer\n- default: `20`\n- example:\n\n  ```nix\n  {\n    a = 1;\n  }\n  ```\n"
        ));
    }

    #[test]
    fn an_option_without_words_is_refused() {
        let error = markdown(&json!([{ "name": "services.x.rate", "type": "integer" }]));
        assert!(
            error
                .unwrap_err()
                .contains("services.x.rate has no description")
        );
    }
}
