//! Releases and rollouts, for people.

use bytesize::ByteSize;

use crate::{
    cli::output::{count, harmless, moment, table},
    control::firmware::{Checked, DeviceProgress, Release, Releases, Rolled, RolloutDetail},
};

pub(super) fn list(releases: &Releases) -> String {
    if releases.releases.is_empty() {
        return "No releases. Sign one: tidegate firmware sign IMAGE --key release.key …"
            .to_owned();
    }
    let rows: Vec<[String; 6]> = releases
        .releases
        .iter()
        .map(|release| {
            [
                release.release.clone(),
                state(release),
                audience(release.rollout.as_ref()),
                devices(release),
                ByteSize(release.size.into()).to_string(),
                moment(release.published_at),
            ]
        })
        .collect();
    let headings = ["RELEASE", "STATE", "TO", "DEVICES", "SIZE", "PUBLISHED"];
    format!(
        "{}{} of {} used\n",
        table(headings, &rows),
        ByteSize(releases.disk_bytes),
        ByteSize(releases.disk_budget)
    )
}

fn state(release: &Release) -> String {
    match &release.rollout {
        _ if release.state != "published" => release.state.clone(),
        None => "published".to_owned(),
        Some(rollout) if rollout.paused => "paused".to_owned(),
        Some(_) => "rolling out".to_owned(),
    }
}

fn audience(rollout: Option<&Rolled>) -> String {
    let Some(rollout) = rollout else {
        return "nobody".to_owned();
    };
    let percent = (rollout.percent > 0).then(|| format!("{} %", rollout.percent));
    let groups = rollout.groups.iter().map(|group| format!("group:{group}"));
    let named = match rollout.devices.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(count(many.len() as u64, "named device")),
    };
    let parts: Vec<String> = percent.into_iter().chain(groups).chain(named).collect();
    if parts.is_empty() {
        "nobody".to_owned()
    } else {
        parts.join(" ")
    }
}

fn devices(release: &Release) -> String {
    let parts: Vec<String> = release
        .devices
        .iter()
        .map(|(state, count)| format!("{count} {}", state.replace('_', " ")))
        .collect();
    parts.join(", ")
}

pub(super) fn step(release: &str, rolled: &Rolled) -> String {
    let devices = count(rolled.included as u64, "registered device");
    let mut text = format!(
        "Release {release}, step {}: to {}, that is {devices}.\n\
         It pauses by itself at {} % failures, from {} on.\n",
        rolled.step,
        audience(Some(rolled)),
        rolled.failure_percent,
        rolled.failures_least,
    );
    if rolled.told > 0 {
        text.push_str(&format!(
            "{} told to look now.\n",
            count(rolled.told as u64, "device")
        ));
    }
    if rolled.paused {
        let why = rolled.reason.as_deref().unwrap_or_default();
        text.push_str(&format!("It is paused: {}\n", harmless(why)));
    }
    text
}

pub(super) fn detail(detail: &RolloutDetail) -> String {
    let release = &detail.release;
    let mut lines = vec![
        ("release", release.release.clone()),
        ("state", state(release)),
        ("to", audience(release.rollout.as_ref())),
        ("security", release.security_version.to_string()),
        ("sequence", release.sequence.to_string()),
        ("size", format!("{} bytes", release.size)),
        ("sha256", release.sha256.clone()),
        ("expires", moment(release.expires_at)),
        (
            "published",
            format!(
                "{} by {}",
                moment(release.published_at),
                release.published_by
            ),
        ),
    ];
    let why = release.reason.as_ref();
    let paused = release
        .rollout
        .as_ref()
        .and_then(|rollout| rollout.reason.as_ref());
    if let Some(why) = why.or(paused) {
        lines.push(("because", why.clone()));
    }
    let mut text: String = lines
        .iter()
        .map(|(name, value)| format!("{name:<12} {}\n", harmless(value)))
        .collect();
    if !detail.progress.is_empty() {
        text.push('\n');
        text.push_str(&progress(&detail.progress));
    }
    text
}

fn progress(devices: &[DeviceProgress]) -> String {
    let rows: Vec<[String; 4]> = devices
        .iter()
        .map(|device| {
            [
                device.device.clone(),
                device.state.replace('_', " "),
                device.reason.clone().unwrap_or_default(),
                moment(device.at),
            ]
        })
        .collect();
    table(["DEVICE", "STATE", "BECAUSE", "SINCE"], &rows)
}

pub(super) fn checked(checked: &Checked) -> String {
    let mut text = format!(
        "{} as they should be, {} of images.\n",
        count(checked.good as u64, "release"),
        ByteSize(checked.disk_bytes)
    );
    for bad in &checked.bad {
        text.push_str(&format!(
            "BAD {}: {}\n",
            bad.release,
            harmless(&bad.problem)
        ));
    }
    for name in &checked.strangers {
        text.push_str(&format!("belongs to no release: {}\n", harmless(name)));
    }
    text
}
