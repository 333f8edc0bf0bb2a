//! Dead letters and parked messages.

use super::Operations;
use crate::{
    control::{
        Code, OutboxFilter, Problem,
        answer::{Count, DeadLetter, Outbox, Parked},
    },
    store::{DeadFilter, Seq, Store, StoreError, UpstreamInfo, UpstreamKey},
};

impl Operations {
    pub(super) async fn outbox(&self, filter: &OutboxFilter) -> Result<Outbox, Problem> {
        let mut outbox = Outbox {
            dead: Vec::new(),
            parked: Vec::new(),
        };
        let letters = self.letters(filter)?;
        for info in self.upstreams(filter)? {
            let key = info.key;
            let dead = self.blocking(move |store| store.dead(key, letters)).await?;
            let parked = self
                .blocking(move |store| store.parked_devices(key))
                .await?;
            outbox
                .dead
                .extend(dead.into_iter().map(|letter| DeadLetter {
                    upstream: info.name.clone(),
                    seq: letter.message.seq.0,
                    device_id: self.name(letter.message.device),
                    message_id: letter.message.message_id.to_string(),
                    status: letter.status,
                    reason: letter.reason,
                    died_at: letter.died_at.0,
                    received_at: letter.message.received_at.0,
                    bytes: letter.message.payload.len(),
                }));
            let wanted = |device| letters.device.is_none_or(|only| only == device);
            let parked = parked.into_iter().filter(|parked| wanted(parked.device));
            outbox.parked.extend(parked.map(|parked| Parked {
                upstream: info.name.clone(),
                device_id: self.name(parked.device),
                messages: parked.messages,
                oldest_seq: parked.oldest.0,
            }));
        }
        Ok(outbox)
    }

    pub(super) async fn each_upstream(
        &self,
        filter: &OutboxFilter,
        change: fn(&Store, UpstreamKey, DeadFilter) -> Result<u64, StoreError>,
    ) -> Result<Count, Problem> {
        let letters = self.letters(filter)?;
        let mut messages = 0;
        for UpstreamInfo { key, .. } in self.upstreams(filter)? {
            let changed = self
                .blocking(move |store| change(store, key, letters))
                .await?;
            if changed > 0 {
                self.live.outbox_changed(key);
            }
            messages += changed;
        }
        if messages == 0 && filter.seq.is_some() {
            let remedy = "tidegate outbox list shows those there are";
            return Err(Problem::new(Code::NotFound, "no such dead letter", remedy));
        }
        Ok(Count { messages })
    }

    fn letters(&self, filter: &OutboxFilter) -> Result<DeadFilter, Problem> {
        let device = filter
            .device
            .as_deref()
            .map(|id| self.device(id))
            .transpose()?;
        Ok(DeadFilter {
            device: device.map(|device| device.key),
            seq: filter.seq.map(Seq),
            after: None,
            limit: filter.limit,
        })
    }

    fn upstreams(&self, filter: &OutboxFilter) -> Result<Vec<UpstreamInfo>, Problem> {
        let mut all = self.store.list_upstreams();
        if let Some(name) = &filter.upstream {
            all.retain(|info| info.name == *name);
            if all.is_empty() {
                let remedy = "tidegate status shows those there are";
                return Err(Problem::new(
                    Code::NotFound,
                    format!("no upstream {name}"),
                    remedy,
                ));
            }
        }
        Ok(all)
    }
}
