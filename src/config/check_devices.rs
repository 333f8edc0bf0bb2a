//! Checks of the declared devices.

use std::collections::BTreeMap;

use tidegate_mqtt::topic::{valid_filter, valid_name};
use tidegate_wire::DeviceId;

use super::{
    Config, Device, Signing,
    check::{name, no_store, positive},
    finding::Findings,
};

/// Topics below this belong to the contract; what may be said there is not configured.
const CONTRACT: &str = "device";

pub(super) fn devices(config: &Config, findings: &mut Findings) {
    let mut secrets: BTreeMap<&std::path::Path, &str> = BTreeMap::new();
    for (id, device) in &config.devices {
        let key = format!("devices.{id}");
        if let Err(error) = DeviceId::try_from(id.as_str()) {
            findings.error(
                key.clone(),
                format!("{id:?} is no device id: {error}"),
                "use 1 to 64 characters of A-Z a-z 0-9 _ -",
            );
        }
        no_store(
            &format!("{key}.secret_file"),
            device.secret_file.as_deref(),
            findings,
        );
        no_store(
            &format!("{key}.password_file"),
            device.password_file.as_deref(),
            findings,
        );
        if let Some(other) = device
            .secret_file
            .as_deref()
            .and_then(|path| secrets.insert(path, id))
        {
            findings.warning(
                format!("{key}.secret_file"),
                format!("is the same as that of {other}: each of the two can pose as the other"),
                "give every device its own secret",
            );
        }
        if let Some(rate) = device.messages_per_second {
            positive(&format!("{key}.messages_per_second"), rate, findings);
        }
        for group in &device.groups {
            name(&format!("{key}.groups"), group, findings);
        }
        topics(&key, device, findings);
        signing(&key, device, findings);
    }
}

fn topics(key: &str, device: &Device, findings: &mut Findings) {
    for (list, filters) in [
        ("publish", &device.publish),
        ("subscribe", &device.subscribe),
        ("telemetry", &device.telemetry),
    ] {
        let key = format!("{key}.{list}");
        for filter in filters {
            let first = filter.split('/').next().unwrap_or_default();
            if !valid_filter(filter) {
                findings.error(
                    key.clone(),
                    format!("{filter:?} is no topic filter"),
                    "write levels with /, + for one level, # alone at the end: \"sensors/+/set\"",
                );
            } else if first == CONTRACT {
                findings.error(
                    key.clone(),
                    format!("{filter:?} lies below {CONTRACT}/, which is the contract's own"),
                    "list only free topics; a device's contract topics are always its own",
                );
            } else if first.starts_with('$') {
                findings.error(
                    key.clone(),
                    format!("{filter:?} begins with $, which clients may not use here"),
                    "list ordinary topics",
                );
            } else if matches!(first, "#" | "+") && list != "telemetry" {
                findings.warning(
                    key.clone(),
                    format!("{filter:?} covers the free topics of every device"),
                    "list only what this device needs",
                );
            }
        }
    }
    for wanted in &device.telemetry {
        if valid_filter(wanted) && !device.publish.iter().any(|allowed| covers(allowed, wanted)) {
            findings.error(
                format!("{key}.telemetry"),
                format!("{wanted:?} is not among what the device may publish"),
                "add it to publish as well",
            );
        }
    }
    if let Some(topic) = &device.command_topic
        && (!valid_name(topic)
            || topic.starts_with('$')
            || topic.split('/').next() == Some(CONTRACT))
    {
        findings.error(
            format!("{key}.command_topic"),
            format!("{topic:?} is no topic to publish on"),
            "write one free topic without wildcards, such as \"gates/gate1/control\"",
        );
    }
}

fn signing(key: &str, device: &Device, findings: &mut Findings) {
    if device.signing == Signing::None {
        if device.publish.is_empty()
            && device.subscribe.is_empty()
            && device.command_topic.is_none()
        {
            findings.error(
                format!("{key}.signing"),
                "a device that does not sign has only the topics listed for it, and none are",
                "list them in publish, subscribe, telemetry or command_topic",
            );
        }
        if device.secret_file.is_some() {
            findings.warning(
                format!("{key}.secret_file"),
                "is not used: signing = \"none\"",
                "take it out, or let the device sign",
            );
        }
        return;
    }
    for (field, set) in [
        ("telemetry", !device.telemetry.is_empty()),
        ("command_topic", device.command_topic.is_some()),
    ] {
        if set {
            findings.error(
                format!("{key}.{field}"),
                "is only for devices with signing = \"none\"",
                "take it out: a device that signs uses its own contract topics",
            );
        }
    }
}

/// Whether every topic that `inner` matches is matched by `outer` too; both are valid filters.
fn covers(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('/'), inner.split('/'));
    loop {
        match (outer.next(), inner.next()) {
            (Some("#"), _) | (None, None) => return true,
            // `#` also matches its parent, which no fixed number of levels does.
            (_, Some("#")) | (None, Some(_)) | (Some(_), None) => return false,
            (Some("+"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_filter_covers_what_it_matches_wholly() {
        for (outer, inner) in [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("a/#", "a/b/c"),
            ("a/#", "a"),
            ("a/#", "a/#"),
            ("#", "a/+/c"),
            ("+/b", "+/b"),
            ("a/+/#", "a/b/#"),
        ] {
            assert!(covers(outer, inner), "{outer} covers {inner}");
        }
        for (outer, inner) in [
            ("a/b", "a/+"),
            ("a/+", "a/#"),
            ("a/+", "a/b/c"),
            ("a/b", "a"),
            ("a/+/#", "a/#"),
        ] {
            assert!(!covers(outer, inner), "{outer} does not cover {inner}");
        }
    }
}
