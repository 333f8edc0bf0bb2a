//! The numbers of firmware updates.

use crate::{
    metrics::Page,
    ota::{Overview, Progress, Standing, UpdateMetrics, Why},
};

pub(in crate::app) fn updates(page: &mut Page, m: &UpdateMetrics) {
    for (answer, counter) in [("offered", &m.offered), ("nothing", &m.nothing)] {
        page.labelled_counter(
            "tidegate_update_questions_total",
            "Devices' questions for an update, by what they were answered",
            &[("answer", answer)],
            counter,
        );
    }
    for (server, counter) in [("gateway", &m.downloads), ("nginx", &m.downloads_by_nginx)] {
        page.labelled_counter(
            "tidegate_update_downloads_total",
            "Downloads of images begun, resumed ones again, by who sends the bytes",
            &[("server", server)],
            counter,
        );
    }
    for (request, refusals) in [
        ("question", &m.questions_refused),
        ("download", &m.downloads_refused),
    ] {
        for why in Why::ALL {
            page.labelled_counter(
                "tidegate_update_refused_total",
                "Questions and downloads refused, by reason",
                &[("request", request), ("reason", why.code())],
                refusals.of(why),
            );
        }
    }
    page.counter(
        "tidegate_update_downloads_completed_total",
        "Downloads the gateway sent to the end of what was asked for",
        &m.downloads_completed,
    );
    page.counter(
        "tidegate_update_downloads_revoked_total",
        "Downloads the gateway ended because the device lost its right to the rest",
        &m.downloads_revoked,
    );
    page.counter(
        "tidegate_update_sent_bytes_total",
        "Bytes of images the gateway sent itself",
        &m.bytes_sent,
    );
}

/// What is known of releases. Only published ones are named: their number is bounded.
pub(in crate::app) fn releases(
    page: &mut Page,
    all: &[Overview],
    disk_bytes: u64,
    disk_budget: u64,
) {
    let mut gauge = |name, help, labels: &[(&str, &str)], value| {
        page.number(name, "gauge", help, labels, value);
    };
    let count = |which: &dyn Fn(&Overview) -> bool| {
        all.iter()
            .filter(|one| which(one))
            .count()
            .try_into()
            .unwrap_or(u64::MAX)
    };
    for standing in Standing::ALL {
        gauge(
            "tidegate_releases",
            "Firmware releases ever published, by where they stand",
            &[("state", standing.as_str())],
            count(&|one| one.release.standing == standing),
        );
    }
    let published = |one: &&Overview| one.release.standing == Standing::Published;
    for (state, paused) in [("running", false), ("paused", true)] {
        let which = |one: &Overview| {
            let rollout = one.rollout.as_ref();
            published(&one) && rollout.is_some_and(|rollout| rollout.paused == paused)
        };
        gauge(
            "tidegate_rollouts",
            "Rollouts of published releases, by state",
            &[("state", state)],
            count(&which),
        );
    }
    for one in all.iter().filter(published) {
        let name = one.release.name();
        let labels = [("release", &*name)];
        if let Some(rollout) = &one.rollout {
            gauge(
                "tidegate_rollout_paused",
                "1 while the release's rollout is paused",
                &labels,
                rollout.paused.into(),
            );
            gauge(
                "tidegate_rollout_percent",
                "Share of all devices that are to have the release, besides those named",
                &labels,
                rollout.percent.into(),
            );
            gauge(
                "tidegate_rollout_step",
                "How often the rollout was changed; 1 is the first step",
                &labels,
                rollout.step.into(),
            );
        }
        for progress in Progress::ALL {
            let counted = one.counts.iter().find(|(which, _)| *which == progress);
            gauge(
                "tidegate_update_devices",
                "Devices by how far they are with a release",
                &[("release", &*name), ("state", progress.as_str())],
                counted.map_or(0, |(_, count)| *count),
            );
        }
    }
    gauge(
        "tidegate_release_disk_bytes",
        "Bytes that images take on disk",
        &[],
        disk_bytes,
    );
    gauge(
        "tidegate_release_disk_budget_bytes",
        "What they may take",
        &[],
        disk_budget,
    );
}
