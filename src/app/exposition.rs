//! The metrics page: every number of every module in Prometheus' text format, named in one place.

mod updates;

pub(super) use updates::{releases, updates};

use tidegate_wire::Reason;

use crate::{
    broker::BrokerMetrics,
    forward::ForwardMetrics,
    front::{
        FrontMetrics,
        metrics::{Dropped, Ended, HandshakeFailure},
    },
    metrics::Page,
    store::{Ledger, StoreMetrics},
};

pub(super) fn store(page: &mut Page, m: &StoreMetrics) {
    page.counter(
        "tidegate_store_commits_total",
        "Group commits that reached the disk",
        &m.commits,
    );
    page.counter(
        "tidegate_store_failed_commits_total",
        "Group commits that failed",
        &m.failed_commits,
    );
    page.counter(
        "tidegate_store_commit_microseconds_total",
        "Time spent in COMMIT",
        &m.commit_micros,
    );
    page.counter(
        "tidegate_store_group_microseconds_total",
        "Time spent on groups in all",
        &m.group_micros,
    );
    page.gauge(
        "tidegate_store_slowest_commit_microseconds",
        "Slowest COMMIT since the start",
        &m.slowest_commit_micros,
    );
    page.counter(
        "tidegate_store_requests_total",
        "Requests taken into groups",
        &m.requests,
    );
    page.counter(
        "tidegate_store_messages_total",
        "Messages stored",
        &m.stored_messages,
    );
    page.counter(
        "tidegate_store_bytes_total",
        "Payload bytes stored",
        &m.stored_bytes,
    );
    page.counter(
        "tidegate_store_duplicates_total",
        "Re-deliveries recognised",
        &m.duplicates,
    );
    page.counter(
        "tidegate_store_replayed_total",
        "Replays refused",
        &m.replayed,
    );
    page.counter(
        "tidegate_store_unknowable_total",
        "Messages as old as what was forgotten while the clock was ahead",
        &m.unknowable,
    );
    page.counter(
        "tidegate_store_refused_batches_total",
        "Batches refused for want of space",
        &m.refused_batches,
    );
    page.gauge(
        "tidegate_store_full",
        "1 while the budget or the disk is full",
        &m.full,
    );
    page.gauge(
        "tidegate_store_disk_bytes",
        "Bytes of database and WAL in use",
        &m.disk_bytes,
    );
    page.gauge(
        "tidegate_store_disk_budget_bytes",
        "The disk budget",
        &m.disk_budget_bytes,
    );
    page.gauge("tidegate_store_wal_bytes", "Bytes of WAL", &m.wal_bytes);
    page.counter(
        "tidegate_store_checkpoints_total",
        "Checkpoints",
        &m.checkpoints,
    );
    page.counter(
        "tidegate_store_forced_checkpoints_total",
        "Checkpoints the writer had to do itself",
        &m.forced_checkpoints,
    );
    page.counter(
        "tidegate_store_pruned_segments_total",
        "Segments of the log deleted",
        &m.pruned_segments,
    );
    page.gauge(
        "tidegate_replay_remembered",
        "Messages remembered against replay",
        &m.remembered,
    );
    page.gauge(
        "tidegate_replay_memory_bytes",
        "Memory that takes",
        &m.remembered_memory_bytes,
    );
    page.gauge(
        "tidegate_replay_runs",
        "Runs of them on disk",
        &m.remembered_runs,
    );
    page.counter(
        "tidegate_store_expired_total",
        "Owed messages given up on",
        &m.expired,
    );
}

pub(super) fn front(page: &mut Page, m: &FrontMetrics) {
    page.gauge("tidegate_connections", "Open connections", &m.connections);
    page.counter(
        "tidegate_connections_opened_total",
        "Connections accepted",
        &m.connections_opened,
    );
    page.counter(
        "tidegate_connections_refused_total",
        "Connections over a limit",
        &m.connections_refused,
    );
    page.counter(
        "tidegate_accept_errors_total",
        "Connections the system could not accept",
        &m.accept_errors,
    );
    page.counter("tidegate_handshakes_total", "TLS handshakes", &m.handshakes);
    page.counter(
        "tidegate_handshakes_resumed_total",
        "TLS handshakes resumed",
        &m.handshakes_resumed,
    );
    page.counter(
        "tidegate_sessions_taken_over_total",
        "Sessions taken over by a newer connection",
        &m.sessions_taken_over,
    );
    page.counter(
        "tidegate_received_bytes_total",
        "Bytes from peers",
        &m.bytes_received,
    );
    page.counter("tidegate_sent_bytes_total", "Bytes to peers", &m.bytes_sent);
    page.counter(
        "tidegate_messages_received_total",
        "Publishes on contract and telemetry topics",
        &m.messages_received,
    );
    page.counter(
        "tidegate_messages_accepted_total",
        "Committed and acknowledged",
        &m.messages_accepted,
    );
    page.counter(
        "tidegate_messages_duplicate_total",
        "Acknowledged again",
        &m.messages_duplicate,
    );
    page.counter(
        "tidegate_free_messages_received_total",
        "Publishes on free topics",
        &m.free_received,
    );
    page.counter(
        "tidegate_publish_denied_total",
        "Publishes without the right to",
        &m.publish_denied,
    );
    page.counter(
        "tidegate_subscribe_denied_total",
        "Subscriptions without the right to",
        &m.subscribe_denied,
    );
    page.counter(
        "tidegate_messages_sent_total",
        "Messages sent to peers",
        &m.messages_sent,
    );
    page.counter(
        "tidegate_storage_refusals_total",
        "Batches the storage did not take",
        &m.storage_refusals,
    );
    page.counter(
        "tidegate_reading_paused_total",
        "Pauses of devices over their rate",
        &m.reading_paused,
    );
    page.counter(
        "tidegate_wills_published_total",
        "Wills published",
        &m.wills_published,
    );
    page.gauge(
        "tidegate_retained_messages",
        "Retained messages",
        &m.retained_messages,
    );
    page.counter(
        "tidegate_retained_refused_total",
        "Messages not retained for want of room",
        &m.retained_refused,
    );
    for reason in Reason::ALL {
        let labels = [("reason", reason.code())];
        page.labelled_counter(
            "tidegate_messages_rejected_total",
            "Messages refused, by reason",
            &labels,
            m.rejected(reason),
        );
    }
    for cause in HandshakeFailure::ALL {
        let labels = [("cause", cause.code())];
        page.labelled_counter(
            "tidegate_handshake_failures_total",
            "Connections that did not get in, by cause",
            &labels,
            m.handshake_failed(cause),
        );
    }
    for why in Ended::ALL {
        let labels = [("why", why.code())];
        page.labelled_counter(
            "tidegate_connections_ended_total",
            "Connections ended, by who or what",
            &labels,
            m.ended(why),
        );
    }
    for why in Dropped::ALL {
        let labels = [("why", why.code())];
        page.labelled_counter(
            "tidegate_messages_dropped_total",
            "Messages to peers given up, by why",
            &labels,
            m.dropped(why),
        );
    }
}

pub(super) fn forward(page: &mut Page, all: &[(&str, &ForwardMetrics, Ledger)]) {
    for (upstream, m, ledger) in all {
        let labels = [("upstream", *upstream)];
        let mut one = |name, help, counter| page.labelled_counter(name, help, &labels, counter);
        one(
            "tidegate_forward_attempts_total",
            "Deliveries tried",
            &m.attempts,
        );
        one(
            "tidegate_forward_attempt_microseconds_total",
            "Time spent waiting for answers",
            &m.attempt_micros,
        );
        one(
            "tidegate_forward_delivered_total",
            "Messages taken",
            &m.delivered,
        );
        one(
            "tidegate_forward_dead_total",
            "Messages refused for good",
            &m.dead,
        );
        one(
            "tidegate_forward_expired_total",
            "Messages given up on",
            &m.expired,
        );
        one(
            "tidegate_forward_parked_total",
            "Messages set aside with their device",
            &m.parked,
        );
        one(
            "tidegate_forward_replies_total",
            "Replies handed to devices",
            &m.replies,
        );
        one(
            "tidegate_forward_replies_dropped_total",
            "Replies nobody took",
            &m.replies_dropped,
        );
        one(
            "tidegate_forward_failed_flushes_total",
            "Settlements that could not be committed at first",
            &m.failed_flushes,
        );
        for (cause, counter) in [
            ("unreachable", &m.retries_unreachable),
            ("no_answer", &m.retries_no_answer),
            ("overloaded", &m.retries_overloaded),
            ("failed", &m.retries_failed),
            ("torn_reply", &m.retries_torn_reply),
        ] {
            let labels = [("upstream", *upstream), ("cause", cause)];
            page.labelled_counter(
                "tidegate_forward_retries_total",
                "Deliveries to try again, by cause",
                &labels,
                counter,
            );
        }
        for (state, count) in [
            ("accepted", ledger.accepted),
            ("delivered", ledger.delivered),
            ("owed", ledger.owed),
            ("dead", ledger.dead),
            ("expired", ledger.expired),
        ] {
            let labels = [("upstream", *upstream), ("state", state)];
            page.number(
                "tidegate_ledger_messages",
                "gauge",
                "accepted = delivered + owed + dead + expired",
                &labels,
                count,
            );
        }
    }
}

pub(super) fn broker(page: &mut Page, m: &BrokerMetrics) {
    page.counter(
        "tidegate_broker_published_total",
        "Publishes on free topics taken",
        &m.published,
    );
    page.counter(
        "tidegate_broker_delivered_total",
        "Copies handed to subscribers",
        &m.delivered,
    );
    page.counter(
        "tidegate_broker_refused_total",
        "Publishes refused because too much was waiting",
        &m.refused,
    );
    page.counter(
        "tidegate_broker_lost_total",
        "Messages lost with a router that panicked",
        &m.lost,
    );
    page.gauge("tidegate_broker_clients", "Clients attached", &m.clients);
    page.gauge("tidegate_broker_filters", "Distinct filters", &m.filters);
    page.counter(
        "tidegate_broker_router_panics_total",
        "Routers replaced after a panic",
        &m.router_panics,
    );
    page.counter(
        "tidegate_broker_router_renewals_total",
        "Routers replaced because of what they never free",
        &m.router_renewals,
    );
}
