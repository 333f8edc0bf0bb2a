//! One lean device's connection.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write as _};
use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BytesMut};
use hdrhistogram::Histogram;
use rustls::HandshakeKind;
use tidegate_mqtt::{
    Accept, Ack, AckKind, Connect, Disconnect, Filters, PINGREQ, Peer, Property, PropertyBuf,
    Publish, QoS, RawProperties, ReasonCode, ServerPacket, Subscribe, Subscription, Version,
    decode_from_server, frame,
};
use tidegate_wire::limits::ENVELOPE_OVERHEAD;
use tidegate_wire::{Channel, Direction, Draft, MessageId, Payload};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{Lean, Mode, Options, Schedule};

/// The smallest payload: `{"n":"0000000000","pad":"…"}` with something to pad.
pub(super) const MIN_PAYLOAD: usize = 32;
/// Where in it its number is, in ten digits.
const NUMBER: std::ops::Range<usize> = 6..16;

/// Messages are written in pieces of about one TLS record.
const CHUNK: usize = 16 * 1024;

/// Largest packet taken; the gateway has nothing to send but acknowledgements.
const MAX_PACKET: u32 = 128 * 1024;

const KEEP_ALIVE_S: u16 = 120;
/// Half of it: pings are late under load.
const PING: Duration = Duration::from_secs(60);

/// A connection that is not made by then never will be.
const CONNECT: Duration = Duration::from_secs(30);

/// What is in flight at the end may take this long.
const DRAIN: Duration = Duration::from_secs(5);

/// What the connections of one thread count.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters(Rc<Shared>);

impl Counters {
    /// What was counted, once all connections are gone.
    pub(super) fn finish(self) -> Shared {
        Rc::into_inner(self.0).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) connected: Cell<u64>,
    pub(super) resumed: Cell<u64>,
    pub(super) sent: Cell<u64>,
    pub(super) acknowledged: Cell<u64>,
    pub(super) rejected: Cell<u64>,
    pub(super) unanswered: Cell<u64>,
    pub(super) lost: Cell<u64>,
    /// Microseconds, of messages or of handshakes.
    pub(super) latency: RefCell<Histogram<u64>>,
    pub(super) errors: RefCell<BTreeMap<String, u64>>,
}

impl Default for Shared {
    #[expect(clippy::expect_used, reason = "the bounds are constants, and valid")]
    fn default() -> Self {
        Self {
            connected: Cell::default(),
            resumed: Cell::default(),
            sent: Cell::default(),
            acknowledged: Cell::default(),
            rejected: Cell::default(),
            unanswered: Cell::default(),
            lost: Cell::default(),
            latency: RefCell::new(
                Histogram::new_with_bounds(1, 600_000_000, 3).expect("one to ten minutes is valid"),
            ),
            errors: RefCell::default(),
        }
    }
}

impl std::ops::Deref for Counters {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
    fn error(&self, what: &str, error: &io::Error) {
        *self
            .errors
            .borrow_mut()
            .entry(format!("{what}: {error}"))
            .or_default() += 1;
    }

    fn record(&self, since: Instant, now: Instant) {
        let micros = now.saturating_duration_since(since).as_micros();
        // Beyond ten minutes is ten minutes.
        self.latency
            .borrow_mut()
            .saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
    }
}

fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}

/// A connection with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Makes a connection and an MQTT session on it; what goes wrong is counted.
pub(super) async fn connect(
    device: &Lean,
    gate: &Semaphore,
    counters: &Counters,
) -> Option<Box<dyn Stream>> {
    let _permit = gate.acquire().await.ok()?;
    match tokio::time::timeout(CONNECT, establish(device)).await {
        Ok(Ok((stream, kind))) => {
            add(&counters.connected, 1);
            add(
                &counters.resumed,
                u64::from(kind == Some(HandshakeKind::Resumed)),
            );
            Some(stream)
        }
        Ok(Err(error)) => {
            counters.error("connect", &error);
            None
        }
        Err(_) => {
            counters.error("connect", &io::ErrorKind::TimedOut.into());
            None
        }
    }
}

async fn establish(device: &Lean) -> io::Result<(Box<dyn Stream>, Option<HandshakeKind>)> {
    let tcp = TcpStream::connect(device.address).await?;
    tcp.set_nodelay(true)?;
    let (mut stream, kind): (Box<dyn Stream>, _) = match &device.tls {
        None => (Box::new(tcp), None),
        Some(connector) => {
            let tls = connector.connect(device.name.clone(), tcp).await?;
            let kind = tls.get_ref().1.handshake_kind();
            (Box::new(tls), kind)
        }
    };
    let mut out = BytesMut::new();
    let mut properties = PropertyBuf::new();
    properties
        .push(Property::SessionExpiryInterval(0))
        .map_err(invalid)?;
    Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: KEEP_ALIVE_S,
        client_id: &device.client_id,
        will: None,
        user_name: None,
        password: None,
        properties: properties.as_raw(),
    }
    .encode(&Peer::server(Version::V5), &mut out)
    .map_err(invalid)?;
    stream.write_all(&out).await?;
    stream.flush().await?;
    let mut input = BytesMut::new();
    loop {
        if let Some(frame) =
            frame(&input, MAX_PACKET, Accept::ConnAck(Version::V5)).map_err(invalid)?
            && let Some(body) = frame.body(&input)
        {
            return match decode_from_server(Version::V5, frame, body).map_err(invalid)? {
                ServerPacket::ConnAck(ack) if ack.reason == ReasonCode::Success => {
                    Ok((stream, kind))
                }
                other => Err(invalid(format!("refused: {other:?}"))),
            };
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Connects and disconnects until the end.
pub(super) async fn shake_hands(
    device: &Lean,
    gate: &Semaphore,
    schedule: Schedule,
    counters: &Counters,
) {
    let mut goodbye = BytesMut::new();
    // A constant packet.
    let _ = Disconnect::new(ReasonCode::Success).encode(&Peer::server(Version::V5), &mut goodbye);
    while Instant::now() < schedule.until {
        let Ok(_permit) = gate.acquire().await else {
            return;
        };
        let start = Instant::now();
        match tokio::time::timeout(CONNECT, establish(device)).await {
            Ok(Ok((mut stream, kind))) => {
                let now = Instant::now();
                if start >= schedule.from && now <= schedule.until {
                    add(&counters.connected, 1);
                    add(
                        &counters.resumed,
                        u64::from(kind == Some(HandshakeKind::Resumed)),
                    );
                    counters.record(start, now);
                }
                let _ = stream.write_all(&goodbye).await;
                let _ = stream.shutdown().await;
            }
            Ok(Err(error)) => {
                counters.error("connect", &error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(_) => counters.error("connect", &io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Publishes until the end. `phase` is when within its interval this device's messages are due.
pub(super) async fn publish(
    device: &Lean,
    stream: Box<dyn Stream>,
    options: &Options,
    schedule: Schedule,
    phase: f64,
    counters: &Counters,
) {
    let mut publisher = Publisher::new(device, options, schedule, phase, counters);
    if options.responses {
        publisher.subscribe();
    }
    if let Err(error) = publisher.run(stream).await {
        add(&counters.lost, 1);
        counters.error("connection lost", &error);
    }
    add(&counters.unanswered, publisher.in_flight() as u64);
}

struct Publisher<'a> {
    device: &'a Lean,
    counters: &'a Counters,
    schedule: Schedule,
    payload: Vec<u8>,
    signature: tidegate_wire::Version,
    spread_s: u64,
    qos: QoS,
    window: usize,
    /// Time between messages that are due; `None` if they always are.
    interval: Option<Duration>,
    next_due: Option<Instant>,
    /// Packet identifiers not in use; they are the window.
    free: Vec<NonZeroU16>,
    /// When the message with this identifier was due.
    due: Vec<Instant>,
    /// When the messages that wait for a reply were due, by number; `None` if acknowledgements are
    /// what is waited for.
    unanswered: Option<HashMap<u64, Instant>>,
    /// Unique ids: a random part, and a number.
    id: [u8; 16],
    number: u64,
    last_number: u64,
    message: Vec<u8>,
    out: BytesMut,
}

impl<'a> Publisher<'a> {
    fn new(
        device: &'a Lean,
        options: &Options,
        schedule: Schedule,
        phase: f64,
        counters: &'a Counters,
    ) -> Self {
        let interval = match options.mode {
            Mode::Rate(rate) => Some(Duration::from_secs_f64(options.devices as f64 / rate)),
            Mode::Max | Mode::Idle | Mode::Handshakes { .. } => None,
        };
        let now = Instant::now();
        let next_due = match (options.mode, interval) {
            (Mode::Idle, _) => None,
            (_, Some(interval)) => Some(now + interval.mul_f64(phase)),
            (_, None) => Some(now),
        };
        let mut id = [0; 16];
        // Only uniqueness matters: these ids guard nothing.
        let _ = aws_lc_rs::rand::fill(&mut id);
        let payload = format!(
            r#"{{"n":"0000000000","pad":"{}"}}"#,
            "x".repeat(options.size - 27)
        );
        // Acknowledgements may be late where replies are waited for, and take no part in the window.
        let identifiers = match options.responses {
            true => options.window.max(1).saturating_mul(4),
            false => options.window.max(1),
        };
        Self {
            device,
            counters,
            schedule,
            signature: options.signature,
            spread_s: options.spread.as_secs(),
            window: usize::from(options.window.max(1)),
            unanswered: options.responses.then(HashMap::new),
            last_number: options.messages.unwrap_or(u64::MAX),
            qos: if options.qos == 0 {
                QoS::AtMostOnce
            } else {
                QoS::AtLeastOnce
            },
            interval,
            next_due,
            free: (1..=identifiers)
                .rev()
                .filter_map(NonZeroU16::new)
                .collect(),
            due: vec![now; usize::from(identifiers) + 1],
            id,
            number: 0,
            message: vec![0; payload.len() + ENVELOPE_OVERHEAD],
            payload: payload.into_bytes(),
            out: BytesMut::with_capacity(CHUNK + 4096),
        }
    }

    fn in_flight(&self) -> usize {
        match &self.unanswered {
            Some(unanswered) => unanswered.len(),
            None => self.due.len() - 1 - self.free.len(),
        }
    }

    fn may_send(&self) -> bool {
        !self.free.is_empty() && self.in_flight() < self.window && self.number < self.last_number
    }

    /// Asks for the replies to this device, before anything else is sent.
    fn subscribe(&mut self) {
        let topic = Channel::Response.topic(&self.device.id);
        let wanted = [Subscription::new(&topic, QoS::AtLeastOnce)];
        let subscribe = Subscribe {
            packet_id: NonZeroU16::MAX,
            properties: RawProperties::EMPTY,
            filters: Filters::from(&wanted[..]),
        };
        // A constant packet but for a topic that is valid.
        let _ = subscribe.encode(&Peer::server(Version::V5), &mut self.out);
    }

    async fn run(&mut self, mut stream: Box<dyn Stream>) -> io::Result<()> {
        let mut input = BytesMut::with_capacity(CHUNK);
        let mut last_sent = Instant::now();
        loop {
            let now = Instant::now();
            let over = now >= self.schedule.until || self.number >= self.last_number;
            if over && (self.in_flight() == 0 || now >= self.schedule.until + DRAIN) {
                break;
            }
            if !over {
                self.fill(now)?;
            }
            if now.duration_since(last_sent) >= PING {
                self.out.extend_from_slice(PINGREQ);
            }
            if !self.out.is_empty() {
                stream.write_all(&self.out).await?;
                stream.flush().await?;
                self.out.clear();
                last_sent = now;
            }
            let more_is_due = self.may_send() && !over;
            let wake = match self.next_due {
                // Without acknowledgements there is nothing to wait for.
                Some(_) if more_is_due && self.interval.is_none() => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Some(due) if more_is_due => due,
                _ => last_sent + PING,
            };
            let wake = if over {
                self.schedule.until + DRAIN
            } else {
                wake.min(self.schedule.until)
            };
            tokio::select! {
                biased;
                read = stream.read_buf(&mut input) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.take_acknowledgements(&mut input)?;
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        Disconnect::new(ReasonCode::Success)
            .encode(&Peer::server(Version::V5), &mut self.out)
            .map_err(invalid)?;
        stream.write_all(&self.out).await?;
        stream.shutdown().await
    }

    /// Signs and writes what is due and fits into the window and a chunk.
    fn fill(&mut self, now: Instant) -> io::Result<()> {
        let timestamp = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(invalid)?
            .as_secs();
        let peer = Peer::server(Version::V5);
        while self.out.len() < CHUNK
            && self.may_send()
            && let Some(due) = self.next_due.filter(|due| *due <= now)
        {
            let packet_id = match self.qos {
                QoS::AtMostOnce => None,
                _ => match self.free.pop() {
                    None => break,
                    id => id,
                },
            };
            self.number += 1;
            if let Some(tail) = self.id.last_chunk_mut() {
                *tail = self.number.to_be_bytes();
            }
            if let Some(unanswered) = &mut self.unanswered {
                if let Some(digits) = self.payload.get_mut(NUMBER) {
                    write!(&mut digits[..], "{:010}", self.number)?;
                }
                unanswered.insert(self.number, due);
            }
            let mut slots = [0; 4];
            let payload = Payload::parse(&self.payload, &mut slots).map_err(invalid)?;
            let timestamp = match self.spread_s {
                0 => timestamp,
                spread => timestamp - spread + self.number % (2 * spread),
            };
            let len = Draft {
                version: self.signature,
                device_id: &self.device.id,
                timestamp,
                message_id: MessageId::from_random(self.id),
                payload,
            }
            .sign_into(&self.device.key, Direction::Up, &mut self.message)
            .map_err(invalid)?;
            Publish {
                dup: false,
                qos: self.qos,
                retain: false,
                topic: &self.device.topic,
                packet_id,
                properties: RawProperties::EMPTY,
                payload: self.message.get(..len).unwrap_or(&[]),
            }
            .encode(&peer, &mut self.out)
            .map_err(invalid)?;
            if let Some(id) = packet_id
                && let Some(slot) = self.due.get_mut(usize::from(id.get()))
            {
                *slot = due;
            }
            if now >= self.schedule.from {
                add(&self.counters.sent, 1);
            }
            self.next_due = Some(match self.interval {
                Some(interval) => due + interval,
                None => now,
            });
        }
        Ok(())
    }

    fn take_acknowledgements(&mut self, input: &mut BytesMut) -> io::Result<()> {
        let now = Instant::now();
        let mut taken = 0;
        while let Some(rest) = input.get(taken..)
            && let Some(frame) =
                frame(rest, MAX_PACKET, Accept::FromServer(Version::V5)).map_err(invalid)?
            && let Some(body) = frame.body(rest)
        {
            taken += frame.total_len();
            let ack = match decode_from_server(Version::V5, frame, body).map_err(invalid)? {
                ServerPacket::Ack(ack) if ack.kind == AckKind::PubAck => ack,
                ServerPacket::Publish(publish) => {
                    if let Some(id) = publish.packet_id {
                        Ack::success(AckKind::PubAck, id)
                            .encode(&Peer::server(Version::V5), &mut self.out)
                            .map_err(invalid)?;
                    }
                    let due = number(publish.payload)
                        .and_then(|number| self.unanswered.as_mut()?.remove(&number));
                    if let Some(due) = due {
                        self.count(due, now);
                    }
                    continue;
                }
                ServerPacket::Disconnect(disconnect) => {
                    return Err(invalid(format!("disconnected: {:?}", disconnect.reason)));
                }
                _ => continue,
            };
            let id = ack.packet_id;
            let Some(due) = self.due.get(usize::from(id.get())) else {
                return Err(invalid("an acknowledgement of what was never sent"));
            };
            let due = *due;
            self.free.push(id);
            if ack.reason.is_failure() {
                add(&self.counters.rejected, 1);
            } else if self.unanswered.is_none() {
                self.count(due, now);
            }
        }
        input.advance(taken);
        Ok(())
    }

    /// A message is done.
    fn count(&self, due: Instant, now: Instant) {
        if now >= self.schedule.from && now <= self.schedule.until {
            add(&self.counters.acknowledged, 1);
            if due >= self.schedule.from {
                self.counters.record(due, now);
            }
        }
    }
}

/// The `n` of a reply, a number or a string of digits.
fn number(reply: &[u8]) -> Option<u64> {
    let reply: serde_json::Value = serde_json::from_slice(reply).ok()?;
    let n = reply.get("n")?;
    n.as_u64().or_else(|| n.as_str()?.parse().ok())
}
