//! Commands on their way to a live connection.

use std::sync::Arc;

use tidegate_wire::MessageId;

use super::Shared;
use crate::{command::Prepared, registry::Device};

/// Takes what waits for the device, signs it now and notes it as sent, in that order: a command noted
/// as sent that was not is sent again on the next connection.
pub(super) async fn fetch(shared: &Arc<Shared>, device: &Device) -> Vec<(MessageId, Prepared)> {
    let Ok(now) = shared.clock.now() else {
        return Vec::new();
    };
    let fetched = async {
        let mut prepared = Vec::new();
        for pending in shared.commands.pending(device.key, now).await? {
            match shared.commands.prepare(&pending, device, now) {
                Ok(message) => prepared.push((pending.message_id, message)),
                Err(error) => tracing::warn!(
                    device = %device.id, command = %pending.message_id, %error,
                    "a command cannot be sent and waits until it expires"
                ),
            }
        }
        if !prepared.is_empty() {
            let ids = prepared.iter().map(|(id, _)| *id).collect();
            // One that expired since it was fetched was told to have expired, and is not sent.
            let may = shared.commands.sent(device.key, ids, now).await?;
            prepared.retain(|(id, _)| may.contains(id));
        }
        Ok::<_, crate::store::StoreError>(prepared)
    };
    fetched.await.unwrap_or_else(|error| {
        tracing::error!(device = %device.id, %error, "waiting commands were not fetched");
        Vec::new()
    })
}
