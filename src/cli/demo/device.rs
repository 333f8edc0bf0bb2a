//! A simulated device: it really connects over mutual TLS, signs what it measures, keeps what was
//! not acknowledged, and obeys signed commands.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    num::NonZeroU16,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::{ClientConfig, pki_types::ServerName};
use tidegate_mqtt::{AckKind, ServerPacket};
use tidegate_wire::{
    Channel, DeviceId, Direction, Draft, Limits, MessageId, Payload, SigningKey, Version,
    command::{Ack as Outcome, Receiver, Status, receive},
    limits::{ENVELOPE_OVERHEAD, FRESHNESS_S},
};
use tokio_util::sync::CancellationToken;

use super::link::{Link, LinkError};
use crate::clock::system_now;

/// Readings a device keeps while it waits for acknowledgements; the oldest goes first.
const MAX_PENDING: usize = 1_000;
/// Command ids remembered against repetition: more than the gateway lets wait for one device.
const MAX_EXECUTED: usize = 256;
/// Latencies kept for percentiles.
const MAX_LATENCIES: usize = 4_096;
/// Often enough for the 30 s keep alive.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Most slots that a payload of a simulated device needs; see [`tidegate_wire::limits::slots_for`].
const SLOTS: usize = 256;

/// What all simulated devices did together.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) connected: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) replies: AtomicU64,
    pub(super) commands: AtomicU64,
    latencies: Mutex<VecDeque<Duration>>,
}

impl Tally {
    fn acknowledged(&self, latency: Duration) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut latencies = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if latencies.len() == MAX_LATENCIES {
            latencies.pop_front();
        }
        latencies.push_back(latency);
    }

    /// The time from publish to acknowledgement that 99 of 100 recent messages stayed under.
    pub(super) fn p99(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 99 / 100).copied()
    }
}

/// Where and as whom a device connects.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) id: DeviceId,
    pub(super) key: SigningKey,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) address: SocketAddr,
    pub(super) name: ServerName<'static>,
}

impl Identity {
    /// Opens a connection as this device.
    ///
    /// # Errors
    /// As [`Link::open`].
    pub(super) async fn connect(&self) -> Result<Link, LinkError> {
        Link::open(
            self.address,
            self.name.clone(),
            Arc::clone(&self.tls),
            self.id.as_str(),
        )
        .await
    }

    /// A signed envelope of version 2 with `payload`, which must be JSON.
    pub(super) fn sign(
        &self,
        payload: &str,
        message_id: MessageId,
        timestamp: u64,
    ) -> Option<Vec<u8>> {
        let mut slots = [0; SLOTS];
        let draft = Draft {
            version: Version::V2,
            device_id: &self.id,
            timestamp,
            message_id,
            payload: Payload::parse(payload.as_bytes(), &mut slots).ok()?,
        };
        let mut bytes = vec![0; payload.len() + ENVELOPE_OVERHEAD];
        let length = draft.sign_into(&self.key, Direction::Up, &mut bytes).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }
}

/// A message id that no device had before.
pub(super) fn fresh_message_id() -> MessageId {
    MessageId::from_bytes(uuid::Uuid::new_v4().into_bytes())
}

struct Pending {
    packet_id: NonZeroU16,
    bytes: Vec<u8>,
    channel: Channel,
    published: Instant,
}

/// A device with its sensor, its LED and what it still has to deliver.
pub(super) struct Device {
    identity: Identity,
    tally: Arc<Tally>,
    every: Duration,
    celsius: f64,
    led: i64,
    pending: VecDeque<Pending>,
    next_packet_id: u16,
    /// Commands carried out, with the payload of their acknowledgement: a repeated one is answered
    /// again and not done again.
    executed: VecDeque<(MessageId, String)>,
}

impl Device {
    pub(super) fn new(identity: Identity, every: Duration, tally: Arc<Tally>) -> Self {
        Self {
            identity,
            tally,
            every,
            celsius: 22.5,
            led: 0,
            pending: VecDeque::new(),
            next_packet_id: 0,
            executed: VecDeque::new(),
        }
    }

    /// Lives until `stopping`: measures, publishes, reconnects with back-off.
    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let mut wait = Duration::from_millis(200);
        while !stopping.is_cancelled() {
            if let Ok(link) = self.identity.connect().await {
                wait = Duration::from_millis(200);
                self.tally.connected.fetch_add(1, Ordering::Relaxed);
                let ended = self.converse(link, &stopping).await;
                self.tally.connected.fetch_sub(1, Ordering::Relaxed);
                if let Err(error) = ended {
                    tracing::debug!(device = %self.identity.id, %error, "the simulated device lost its connection");
                }
            }
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    async fn converse(
        &mut self,
        mut link: Link,
        stopping: &CancellationToken,
    ) -> Result<(), LinkError> {
        for (id, channel) in [
            (NonZeroU16::MIN, Channel::Response),
            (NonZeroU16::MAX, Channel::Command),
        ] {
            link.queue_subscribe(id, &channel.topic(&self.identity.id))?;
        }
        for pending in &mut self.pending {
            pending.published = Instant::now();
            let topic = pending.channel.topic(&self.identity.id);
            link.queue_publish(pending.packet_id, &topic, &pending.bytes, true)?;
        }
        link.flush().await?;
        let mut measure = tokio::time::interval(self.every);
        let mut ping = tokio::time::interval(PING_EVERY);
        measure.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopping.cancelled() => {
                    link.queue_disconnect()?;
                    return link.flush().await;
                }
                _ = measure.tick() => self.measure(&mut link)?,
                _ = ping.tick() => link.queue_ping(),
                frame = link.receive() => {
                    let frame = frame?;
                    self.obey(&mut link, frame)?;
                }
            }
            link.flush().await?;
        }
    }

    /// One reading, signed and on its way.
    fn measure(&mut self, link: &mut Link) -> Result<(), LinkError> {
        let step = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0 - 0.5;
        self.celsius = (self.celsius + step).clamp(15.0, 35.0);
        let payload = format!(
            r#"{{"temperature":{:.1},"humidity":{},"led":{}}}"#,
            self.celsius,
            (self.celsius * 2.0).round(),
            self.led
        );
        self.publish(link, Channel::Data, &payload)
    }

    fn publish(
        &mut self,
        link: &mut Link,
        channel: Channel,
        payload: &str,
    ) -> Result<(), LinkError> {
        let Some(bytes) = self
            .identity
            .sign(payload, fresh_message_id(), system_now().seconds())
        else {
            return Ok(());
        };
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.next_packet_id = self.next_packet_id % 60_000 + 1;
        let packet_id = NonZeroU16::new(self.next_packet_id).unwrap_or(NonZeroU16::MIN);
        link.queue_publish(packet_id, &channel.topic(&self.identity.id), &bytes, false)?;
        self.pending.push_back(Pending {
            packet_id,
            bytes,
            channel,
            published: Instant::now(),
        });
        Ok(())
    }

    fn obey(&mut self, link: &mut Link, frame: tidegate_mqtt::Frame) -> Result<(), LinkError> {
        let mut answer = None;
        let mut acknowledge = None;
        match link.packet(frame)? {
            ServerPacket::Ack(ack) if ack.kind == AckKind::PubAck => {
                if let Some(at) = self
                    .pending
                    .iter()
                    .position(|p| p.packet_id == ack.packet_id)
                    && let Some(done) = self.pending.remove(at)
                {
                    self.tally.acknowledged(done.published.elapsed());
                }
            }
            ServerPacket::Publish(publish) => {
                acknowledge = publish.packet_id;
                if publish.topic == &*Channel::Response.topic(&self.identity.id) {
                    self.tally.replies.fetch_add(1, Ordering::Relaxed);
                } else {
                    let bytes = publish.payload.to_vec();
                    answer = self.execute(&bytes);
                }
            }
            ServerPacket::Disconnect(_) => return Err(LinkError::Closed),
            _ => {}
        }
        link.consume(frame);
        if let Some(packet_id) = acknowledge {
            link.queue_ack(packet_id)?;
        }
        answer.map_or(Ok(()), |payload| self.publish(link, Channel::Ack, &payload))
    }

    /// Verifies and carries out a command; the payload of its acknowledgement, if it is to have one.
    fn execute(&mut self, bytes: &[u8]) -> Option<String> {
        let mut slots = [0; SLOTS];
        let receiver = Receiver {
            own: &self.identity.id,
            key: &self.identity.key,
            min_version: Version::V1,
            tolerance_s: FRESHNESS_S,
            limits: Limits::CONTRACT,
        };
        let command = receive(bytes, &receiver, system_now().seconds(), &mut slots).ok()?;
        let command_id = command.message_id();
        if let Some((_, answer)) = self.executed.iter().find(|(id, _)| *id == command_id) {
            return Some(answer.clone());
        }
        let value: serde_json::Value = serde_json::from_str(command.payload().as_str()).ok()?;
        let (status, detail) = match (value["action"].as_str(), value["value"].as_i64()) {
            (Some("led"), Some(percent @ 0..=100)) => {
                self.led = percent;
                (Status::Done, format!(r#"{{"led":{percent}}}"#))
            }
            (Some("led"), _) => (Status::Failed, r#""value must be 0 to 100""#.to_owned()),
            _ => (
                Status::Failed,
                r#""this device knows {\"action\":\"led\",\"value\":0..100}""#.to_owned(),
            ),
        };
        let detail = Payload::parse(detail.as_bytes(), &mut slots).ok();
        let mut text = [0; 256];
        let length = Outcome {
            command_id,
            status,
            detail,
        }
        .write(&mut text)
        .ok()?;
        let answer = String::from_utf8(text.get(..length)?.to_vec()).ok()?;
        if self.executed.len() == MAX_EXECUTED {
            self.executed.pop_front();
        }
        self.executed.push_back((command_id, answer.clone()));
        self.tally.commands.fetch_add(1, Ordering::Relaxed);
        Some(answer)
    }
}
