//! A client that sends bytes. It shares no code with the gateway's codec, so a mistake made there is
//! not made here as well.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::support::mqtt::Stream;

const PATIENCE: Duration = Duration::from_secs(60);

/// Control packet types, as the first byte of a packet without flags.
pub mod first {
    pub const CONNACK: u8 = 0x20;
    pub const PUBLISH: u8 = 0x30;
    pub const PUBACK: u8 = 0x40;
    pub const PUBREC: u8 = 0x50;
    pub const PUBREL: u8 = 0x62;
    pub const PUBCOMP: u8 = 0x70;
    pub const SUBSCRIBE: u8 = 0x82;
    pub const SUBACK: u8 = 0x90;
    pub const UNSUBSCRIBE: u8 = 0xA2;
    pub const UNSUBACK: u8 = 0xB0;
    pub const PINGRESP: u8 = 0xD0;
    pub const DISCONNECT: u8 = 0xE0;
    pub const AUTH: u8 = 0xF0;
}

/// Property identifiers (5.0, table 2-4).
pub mod id {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0B;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTH_METHOD: u8 = 0x15;
    pub const AUTH_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1A;
    pub const REASON_STRING: u8 = 0x1F;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER_PROPERTY: u8 = 0x26;
    pub const MAXIMUM_PACKET: u8 = 0x27;
    pub const SHARED_AVAILABLE: u8 = 0x2A;
}

// --- bytes ---------------------------------------------------------------------------------------

/// A variable byte integer.
pub fn variable(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let digit = u8::try_from(value % 128).unwrap();
        value /= 128;
        if value == 0 {
            out.push(digit);
            return out;
        }
        out.push(digit | 0x80);
    }
}

/// Bytes with a two-byte length before them: a string or binary data.
pub fn data(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// A whole packet: first byte, remaining length, body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [vec![first], variable(body.len()), body.to_vec()].concat()
}

pub fn byte(id: u8, value: u8) -> Vec<u8> {
    vec![id, value]
}

pub fn two(id: u8, value: u16) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

pub fn four(id: u8, value: u32) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

pub fn text(id: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![id], data(value)].concat()
}

pub fn user(name: &str, value: &str) -> Vec<u8> {
    [vec![id::USER_PROPERTY], data(name), data(value)].concat()
}

pub fn subscription_id(value: usize) -> Vec<u8> {
    [vec![id::SUBSCRIPTION_ID], variable(value)].concat()
}

/// The property section: its length and the properties.
pub fn section(properties: &[u8]) -> Vec<u8> {
    [variable(properties.len()), properties.to_vec()].concat()
}

/// A will as CONNECT carries it.
#[derive(Clone, Debug, Default)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<u8>,
}

pub fn will(topic: &str, payload: &str) -> Will {
    Will {
        topic: topic.into(),
        payload: payload.into(),
        ..Will::default()
    }
}

/// CONNECT, by its fields.
#[derive(Clone, Debug)]
pub struct Connect {
    pub v5: bool,
    pub client_id: String,
    pub clean: bool,
    pub keep_alive: u16,
    pub properties: Vec<u8>,
    pub will: Option<Will>,
    pub login: Option<(String, String)>,
}

impl Connect {
    pub fn v5(client_id: &str) -> Self {
        Self {
            v5: true,
            client_id: client_id.into(),
            clean: true,
            keep_alive: 0,
            properties: Vec::new(),
            will: None,
            login: None,
        }
    }

    pub fn v3(client_id: &str) -> Self {
        Self {
            v5: false,
            ..Self::v5(client_id)
        }
    }

    /// A session that outlives its connection, in both versions.
    pub fn durable(mut self) -> Self {
        self.clean = false;
        if self.v5 {
            self.properties.extend(four(id::SESSION_EXPIRY, 600));
        }
        self
    }

    pub fn clean(mut self, clean: bool) -> Self {
        self.clean = clean;
        self
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub fn with(mut self, property: impl AsRef<[u8]>) -> Self {
        self.properties.extend_from_slice(property.as_ref());
        self
    }

    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    pub fn flags(&self) -> u8 {
        let mut flags = if self.clean { 2 } else { 0 };
        if let Some(will) = &self.will {
            flags |= 4 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        if self.login.is_some() {
            flags |= 0xC0;
        }
        flags
    }

    pub fn body(&self) -> Vec<u8> {
        self.body_with(self.flags())
    }

    /// The body with these connect flags, whatever is in it.
    pub fn body_with(&self, flags: u8) -> Vec<u8> {
        let mut out = data("MQTT");
        out.push(if self.v5 { 5 } else { 4 });
        out.push(flags);
        out.extend(self.keep_alive.to_be_bytes());
        if self.v5 {
            out.extend(section(&self.properties));
        }
        out.extend(data(&self.client_id));
        if let Some(will) = &self.will {
            if self.v5 {
                out.extend(section(&will.properties));
            }
            out.extend(data(&will.topic));
            out.extend(data(&will.payload));
        }
        if let Some((user, password)) = &self.login {
            out.extend(data(user));
            out.extend(data(password));
        }
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        packet(0x10, &self.body())
    }
}

/// PUBLISH, by its fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub dup: bool,
    pub retain: bool,
    pub id: Option<u16>,
    /// Identifier and value, in their order; empty in 3.1.1.
    pub properties: Vec<(u8, Vec<u8>)>,
    /// For sending.
    pub raw_properties: Vec<u8>,
}

pub fn publish(topic: &str, payload: &str) -> Publish {
    Publish {
        topic: topic.into(),
        payload: payload.into(),
        ..Publish::default()
    }
}

impl Publish {
    pub fn qos(mut self, qos: u8, id: u16) -> Self {
        self.qos = qos;
        self.id = (qos > 0).then_some(id);
        self
    }

    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn with(mut self, property: impl AsRef<[u8]>) -> Self {
        self.raw_properties.extend_from_slice(property.as_ref());
        self
    }

    pub fn bytes(&self, v5: bool) -> Vec<u8> {
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = data(&self.topic);
        if let Some(id) = self.id {
            body.extend(id.to_be_bytes());
        }
        if v5 {
            body.extend(section(&self.raw_properties));
        }
        body.extend(&self.payload);
        packet(first::PUBLISH | flags, &body)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.payload.clone()).unwrap()
    }

    pub fn property(&self, id: u8) -> Option<&[u8]> {
        self.properties
            .iter()
            .find(|(found, _)| *found == id)
            .map(|(_, value)| value.as_slice())
    }

    pub fn all(&self, id: u8) -> Vec<&[u8]> {
        self.properties
            .iter()
            .filter(|(found, _)| *found == id)
            .map(|(_, value)| value.as_slice())
            .collect()
    }
}

/// Takes properties apart; panics on what the specification does not allow.
pub fn properties(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((&id, rest)) = bytes.split_first() {
        let len = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x21 | 0x22 | 0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x0B => 1 + rest.iter().take_while(|byte| **byte & 0x80 != 0).count(),
            0x26 => {
                let name = 2 + usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                name + 2 + usize::from(u16::from_be_bytes([rest[name], rest[name + 1]]))
            }
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => {
                2 + usize::from(u16::from_be_bytes([rest[0], rest[1]]))
            }
            other => panic!("property {other:#x} does not exist"),
        };
        found.push((id, rest[..len].to_vec()));
        bytes = &rest[len..];
    }
    found
}

fn split_section(body: &[u8]) -> (&[u8], &[u8]) {
    let (mut len, mut shift, mut at) = (0, 0, 0);
    loop {
        len |= usize::from(body[at] & 0x7F) << shift;
        shift += 7;
        at += 1;
        if body[at - 1] & 0x80 == 0 {
            break;
        }
    }
    (&body[at..at + len], &body[at + len..])
}

pub fn subscribe(v5: bool, id: u16, properties: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if v5 {
        body.extend(section(properties));
    }
    for (filter, options) in filters {
        body.extend(data(filter));
        body.push(*options);
    }
    packet(first::SUBSCRIBE, &body)
}

pub fn unsubscribe(v5: bool, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if v5 {
        body.push(0);
    }
    for filter in filters {
        body.extend(data(filter));
    }
    packet(first::UNSUBSCRIBE, &body)
}

/// An acknowledgement without reason or properties.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

// --- the connection ------------------------------------------------------------------------------

/// A packet as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub first: u8,
    pub body: Vec<u8>,
}

/// CONNACK taken apart.
#[derive(Clone, Debug)]
pub struct ConnAck {
    pub flags: u8,
    pub reason: u8,
    pub properties: Vec<(u8, Vec<u8>)>,
}

impl ConnAck {
    pub fn property(&self, id: u8) -> Option<&[u8]> {
        self.properties
            .iter()
            .find(|(found, _)| *found == id)
            .map(|(_, value)| value.as_slice())
    }
}

pub struct Raw {
    stream: Box<dyn Stream>,
    pub socket: TcpStream,
    inbox: Vec<u8>,
    /// Whole packets that came while another was waited for.
    stash: VecDeque<Seen>,
    pub v5: bool,
}

impl Raw {
    pub fn tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let socket = tcp(address);
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let stream = StreamOwned::new(connection, socket.try_clone().unwrap());
        Self {
            stream: Box::new(stream),
            socket,
            inbox: Vec::new(),
            stash: VecDeque::new(),
            v5: true,
        }
    }

    pub fn plain(address: SocketAddr) -> Self {
        let socket = tcp(address);
        Self {
            stream: Box::new(socket.try_clone().unwrap()),
            socket,
            inbox: Vec::new(),
            stash: VecDeque::new(),
            v5: true,
        }
    }

    /// Sends bytes; a gateway that closed already is no mistake here.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
        let _ = self.stream.flush();
    }

    /// The next packet; `None` when the gateway has closed.
    pub fn next(&mut self) -> Option<Seen> {
        self.next_within(PATIENCE)
            .expect("a packet or the end of the connection")
    }

    /// The next packet or the end within `limit`; `Err` if neither comes.
    pub fn next_within(&mut self, limit: Duration) -> Result<Option<Seen>, &'static str> {
        if let Some(seen) = self.stash.pop_front() {
            return Ok(Some(seen));
        }
        self.read_within(limit)
    }

    fn read_within(&mut self, limit: Duration) -> Result<Option<Seen>, &'static str> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        loop {
            if let Some((seen, len)) = cut(&self.inbox) {
                self.inbox.drain(..len);
                return Ok(Some(seen));
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => self.inbox.extend_from_slice(&buffer[..read]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Err("nothing came");
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A reset, or TLS cut off: the end all the same.
                Err(_) => return Ok(None),
            }
        }
    }

    pub fn connack(&mut self) -> ConnAck {
        let seen = self.next().expect("CONNACK, not the end");
        assert_eq!(seen.first, first::CONNACK, "the first packet is CONNACK");
        assert_eq!(seen.body[0] & 0xFE, 0, "reserved bits of CONNACK");
        let properties = match seen.body.get(2..) {
            Some(rest) if !rest.is_empty() => properties(split_section(rest).0),
            _ => Vec::new(),
        };
        ConnAck {
            flags: seen.body[0],
            reason: seen.body[1],
            properties,
        }
    }

    /// The next packet must be these bytes.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        let seen = self.next().expect("a packet, not the end");
        assert_eq!(packet(seen.first, &seen.body), bytes, "got {seen:02x?}");
    }

    /// The next packet must be an acknowledgement of this type and identifier; its reason.
    #[track_caller]
    pub fn expect_ack(&mut self, first: u8, id: u16) -> u8 {
        let seen = self.next().expect("an acknowledgement, not the end");
        assert_eq!(seen.first, first, "got {seen:02x?}");
        assert_eq!(seen.body[..2], id.to_be_bytes(), "packet identifier");
        seen.body.get(2).copied().unwrap_or(0)
    }

    /// The next packet must be a PUBLISH.
    #[track_caller]
    pub fn expect_publish(&mut self) -> Publish {
        let seen = self.next().expect("PUBLISH, not the end");
        assert_eq!(seen.first & 0xF0, first::PUBLISH, "got {seen:02x?}");
        let body = &seen.body;
        let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + len].to_vec()).unwrap();
        let qos = seen.first >> 1 & 3;
        let mut rest = &body[2 + len..];
        let mut id = None;
        if qos > 0 {
            id = Some(u16::from_be_bytes([rest[0], rest[1]]));
            assert_ne!(id, Some(0), "a packet identifier is not 0");
            rest = &rest[2..];
        }
        let mut found = Vec::new();
        if self.v5 {
            let (section, payload) = split_section(rest);
            found = properties(section);
            rest = payload;
        }
        Publish {
            topic,
            payload: rest.to_vec(),
            qos,
            dup: seen.first & 8 != 0,
            retain: seen.first & 1 != 0,
            id,
            properties: found,
            raw_properties: Vec::new(),
        }
    }

    /// Takes a PUBLISH through its whole flow.
    #[track_caller]
    pub fn take(&mut self) -> Publish {
        let message = self.expect_publish();
        match (message.qos, message.id) {
            (1, Some(id)) => self.send(ack(first::PUBACK, id)),
            (2, Some(id)) => {
                self.send(ack(first::PUBREC, id));
                self.await_release(id);
                self.send(ack(first::PUBCOMP, id));
            }
            _ => {}
        }
        message
    }

    /// Waits for PUBREL; messages that come before it are kept for later.
    #[track_caller]
    fn await_release(&mut self, id: u16) {
        let release = Seen {
            first: first::PUBREL,
            body: id.to_be_bytes().to_vec(),
        };
        if let Some(at) = self.stash.iter().position(|seen| *seen == release) {
            self.stash.remove(at);
            return;
        }
        loop {
            let seen = self.read_within(PATIENCE).unwrap().expect("PUBREL");
            if seen == release {
                return;
            }
            assert_eq!(seen.first & 0xF0, first::PUBLISH, "got {seen:02x?}");
            self.stash.push_back(seen);
        }
    }

    /// Publishes, through the whole flow; the reason of the first acknowledgement.
    #[track_caller]
    pub fn publish(&mut self, message: &Publish) -> u8 {
        self.send(message.bytes(self.v5));
        match (message.qos, message.id) {
            (1, Some(id)) => self.expect_ack(first::PUBACK, id),
            (2, Some(id)) => {
                let reason = self.expect_ack(first::PUBREC, id);
                if reason < 0x80 {
                    self.send(ack(first::PUBREL, id));
                    assert_eq!(self.expect_ack(first::PUBCOMP, id), 0);
                }
                reason
            }
            _ => 0,
        }
    }

    /// Subscribes; the codes of SUBACK.
    #[track_caller]
    pub fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_with(&[], filters)
    }

    #[track_caller]
    pub fn subscribe_with(&mut self, properties: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
        self.send(subscribe(self.v5, 4242, properties, filters));
        self.codes(first::SUBACK)
    }

    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        self.send(unsubscribe(self.v5, 4242, filters));
        self.codes(first::UNSUBACK)
    }

    #[track_caller]
    fn codes(&mut self, first: u8) -> Vec<u8> {
        let seen = self.next().expect("an answer, not the end");
        assert_eq!(seen.first, first, "got {seen:02x?}");
        assert_eq!(seen.body[..2], 4242_u16.to_be_bytes());
        let rest = &seen.body[2..];
        match self.v5 {
            true => split_section(rest).1.to_vec(),
            false => rest.to_vec(),
        }
    }

    /// The connection lives and nothing waits before the answer to a ping.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send([0xC0, 0]);
        self.expect(&[first::PINGRESP, 0]);
    }

    /// DISCONNECT with this reason and the end in MQTT 5; the end alone in 3.1.1.
    #[track_caller]
    pub fn expect_end(&mut self, reason: u8) {
        if self.v5 {
            let seen = self.next().expect("DISCONNECT before the end");
            assert_eq!(seen.first, first::DISCONNECT, "got {seen:02x?}");
            let found = seen.body.first().copied().unwrap_or(0);
            assert_eq!(found, reason, "got {found:#04x}, not {reason:#04x}");
            if seen.body.len() > 1 {
                let sent = properties(split_section(&seen.body[1..]).0);
                assert!(sent.iter().all(|(id, _)| *id != id::SESSION_EXPIRY));
            }
        }
        self.expect_closed();
    }

    /// The end, with no packet before it.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let seen = self.next();
        assert_eq!(seen, None, "the connection ends and nothing comes before");
    }

    /// Says goodbye.
    pub fn disconnect(mut self) {
        self.send([first::DISCONNECT, 0]);
        self.expect_closed();
    }
}

fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// One whole packet at the start of `bytes`, and its size.
fn cut(bytes: &[u8]) -> Option<(Seen, usize)> {
    let (&first, rest) = bytes.split_first()?;
    let (mut len, mut digits) = (0, 0);
    loop {
        let digit = *rest.get(digits)?;
        len |= usize::from(digit & 0x7F) << (7 * digits);
        digits += 1;
        if digit & 0x80 == 0 {
            break;
        }
        assert!(digits < 4, "a remaining length has four digits at most");
    }
    let body = rest.get(digits..digits + len)?.to_vec();
    Some((Seen { first, body }, 1 + digits + len))
}
