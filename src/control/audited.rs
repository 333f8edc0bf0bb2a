//! What of the operators' doings is written into the audit record.

use super::{OutboxFilter, Request};

/// What changes something: its name in the audit record, and what it is done to.
pub(super) fn audited(request: &Request) -> Option<(&'static str, String)> {
    let (action, target) = match request {
        Request::DeviceAdd { id, .. } => ("device.add", id),
        Request::DeviceEnrol { id, .. } => ("device.enrol", id),
        Request::DeviceSetEnabled {
            id, enabled: true, ..
        } => ("device.enable", id),
        Request::DeviceSetEnabled {
            id, enabled: false, ..
        } => ("device.disable", id),
        Request::DeviceRemove { id } => ("device.remove", id),
        Request::DeviceSetSecret { id, .. } => ("device.set_secret", id),
        Request::DeviceSetPassword { id, .. } => ("device.set_password", id),
        Request::KeyCreate { name, .. } => ("key.create", name),
        Request::KeyRevoke { id } => ("key.revoke", id),
        Request::CommandSend { device, .. } => ("command.send", device),
        Request::OutboxRetry { filter } => return Some(("outbox.retry", described(filter))),
        Request::OutboxDrop { filter } => return Some(("outbox.drop", described(filter))),
        Request::Firmware { request } => return request.audited(),
        Request::Reload => return Some(("config.reload", String::new())),
        Request::Status { .. }
        | Request::DeviceList
        | Request::DeviceShow { .. }
        | Request::KeyList
        | Request::CommandStatus { .. }
        | Request::OutboxList { .. } => return None,
    };
    Some((action, target.clone()))
}

fn described(filter: &OutboxFilter) -> String {
    let part = |name: &str, value: &Option<String>| {
        value
            .as_ref()
            .map(|value| format!("{name}={value}"))
            .unwrap_or_default()
    };
    let seq = filter
        .seq
        .map(|seq| format!("seq={seq}"))
        .unwrap_or_default();
    let parts = [
        part("upstream", &filter.upstream),
        part("device", &filter.device),
        seq,
    ];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
