//! What a peer says: packets are taken as they come, and what they need goes to disk in one burst.

use bytes::Buf as _;
use tidegate_mqtt::{
    Accept, AckKind, ClientPacket, Disconnect, PINGRESP, ReasonCode, decode, frame,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, Done, End};
use crate::{
    clock::UnixMillis,
    front::{
        metrics::Ended,
        session::{Breach, Received, Release},
        stage::Deferred,
    },
    store::sessions,
};

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// Goes on with what was read before, if it had been kept waiting.
    pub(super) fn buffered_burst(&mut self) -> Result<(), End> {
        if self.input.is_empty() {
            Ok(())
        } else {
            self.read_burst()
        }
    }

    /// Takes as many packets as are there and sends what they need on its way.
    pub(super) fn read_burst(&mut self) -> Result<(), End> {
        if !self.may_read() {
            return Ok(());
        }
        let input = std::mem::take(&mut self.input);
        let (taken, result) = self.take_packets(&input);
        self.input = input;
        self.input.advance(taken);
        // Also when the last packet was a bad one: what came before it is on its way all the same.
        self.submit();
        result
    }

    fn take_packets(&mut self, input: &[u8]) -> (usize, Result<(), End>) {
        let version = self.session.version();
        let now = match self.shared.clock.now() {
            Ok(now) => now,
            Err(untrusted) => {
                let reason = ReasonCode::ImplementationSpecificError;
                return (
                    0,
                    Err(End::new(
                        Ended::Administrative,
                        reason,
                        untrusted.to_string(),
                    )),
                );
            }
        };
        let tick = self.shared.tick();
        let mut at = 0;
        while self.paused_until.is_none() && self.pipeline.has_room_for(&self.burst) {
            let rest = input.get(at..).unwrap_or_default();
            let step = frame(rest, self.shared.max_packet, Accept::FromClient(version))
                .map_err(End::from)
                .and_then(|found| {
                    let Some(frame) = found else { return Ok(None) };
                    let Some(body) = frame.body(rest) else {
                        return Ok(None);
                    };
                    let packet = decode(version, frame, body)?;
                    self.take(packet, now, tick)?;
                    Ok(Some(frame.total_len()))
                });
            match step {
                Ok(Some(len)) => at += len,
                Ok(None) => break,
                Err(end) => return (at, Err(end)),
            }
        }
        (at, Ok(()))
    }

    fn take(&mut self, packet: ClientPacket<'_>, now: UnixMillis, tick: u64) -> Result<(), End> {
        match packet {
            ClientPacket::Publish(publish) => self.take_publish(&publish, now, tick)?,
            ClientPacket::Ack(ack) => match ack.kind {
                AckKind::PubAck => self.session.puback(ack.packet_id),
                AckKind::PubRec => match self.session.pubrec(ack.packet_id, ack.reason) {
                    Received::Now(reason) => {
                        self.defer(Deferred::PubRel {
                            id: ack.packet_id,
                            reason,
                        });
                    }
                    Received::AfterCommit => {
                        self.tell_progress();
                        let reason = ReasonCode::Success;
                        self.defer(Deferred::PubRel {
                            id: ack.packet_id,
                            reason,
                        });
                    }
                    Received::Nothing => {}
                },
                AckKind::PubRel => {
                    let release = self.session.pubrel(ack.packet_id)?;
                    let reason = match release {
                        Release::Now(reason) => reason,
                        Release::AfterCommit => {
                            self.tell_progress();
                            ReasonCode::Success
                        }
                    };
                    self.defer(Deferred::PubComp {
                        id: ack.packet_id,
                        reason,
                    });
                }
                AckKind::PubComp => self.session.completed(ack.packet_id),
            },
            ClientPacket::Subscribe(subscribe) => self.take_subscribe(&subscribe, now),
            ClientPacket::Unsubscribe(unsubscribe) => self.take_unsubscribe(&unsubscribe),
            ClientPacket::PingReq => self.out.extend_from_slice(PINGRESP),
            ClientPacket::Disconnect(disconnect) => return Err(self.take_disconnect(&disconnect)),
            ClientPacket::Auth(_) => return Err(Breach::Auth.into()),
        }
        Ok(())
    }

    fn take_disconnect(&mut self, disconnect: &Disconnect<'_>) -> End {
        if let Some(expiry) = disconnect.properties.session_expiry_interval() {
            if self.expiry == 0 && expiry > 0 {
                // `[MQTT-3.14.2-2]` and the paragraph after it.
                return Breach::SessionExpiry.into();
            }
            self.expiry = self.shared.cap_expiry(expiry);
        }
        End {
            publish_will: disconnect.reason != ReasonCode::NORMAL_DISCONNECTION,
            ..End::silent(Ended::ByClient, "DISCONNECT")
        }
    }

    pub(in crate::front) fn defer(&mut self, deferred: Deferred) {
        self.burst.deferred.push(deferred);
    }

    /// Adds what the session learned about its queue to the burst's write.
    fn tell_progress(&mut self) {
        let Some(session) = self.live.session else {
            return;
        };
        if self.session.progress.is_empty() {
            return;
        }
        let progress = std::mem::take(&mut self.session.progress);
        self.burst.writes.push(Box::new(move |conn| {
            sessions::progress(conn, session, &progress)
        }));
    }

    /// Sends the burst on its way, and says what can be said at once.
    pub(super) fn submit(&mut self) {
        self.tell_progress();
        if let Some(completed) = self.pipeline.submit(&mut self.burst, &self.shared.store) {
            self.completed(completed);
        }
        if !self.session.delivered.is_empty()
            && let Some(device) = &self.device
        {
            let ids = std::mem::take(&mut self.session.delivered);
            let (shared, key) = (self.shared.clone(), device.key);
            self.side.push(Box::pin(async move {
                let now = shared.clock.unchecked_now();
                Done::Told(shared.commands.delivered(key, ids, now).await)
            }));
        }
    }
}
