//! From an accepted connection to a session: CONNECT, and who is to have it.

use std::{net::IpAddr, num::NonZeroU16, sync::Arc};

use bytes::BytesMut;
use tidegate_mqtt::{
    Accept, ConnAck, Connect, DecodeError, Peer, Property, PropertyBuf, RawProperties, ReasonCode,
    Role, Version, decode_connect, frame,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    Shared,
    connection::{self, Connection, Opened},
    directory::{NewLive, Owner, Principal},
    inbound::random_message_id,
    mailbox::Mailbox,
    metrics::Ended,
    session::{Session, TOPIC_ALIAS_MAXIMUM, Terms},
    subscription::Subscriptions,
    will,
};
use crate::{
    pki,
    store::sessions::{self, Open, StoredWill},
};

/// Largest CONNECT: a will of some kilobytes and room for the rest. What a stranger sends is small.
const MAX_CONNECT: u32 = 16 * 1024;
/// Longest client id, in bytes. The specification asks for 23 at least; it is kept per session.
const MAX_CLIENT_ID: usize = 256;
/// Live connections of one operator: dashboards, scripts and some to spare.
const MAX_OPERATOR_CONNECTIONS: usize = 64;

/// A peer before CONNECT.
pub(super) struct Arrival<S> {
    pub(super) io: S,
    pub(super) address: IpAddr,
    /// Who the certificate says it is; `None` where a password does.
    pub(super) certificate: Option<pki::Peer>,
    pub(super) principal: Option<Principal>,
}

/// CONNECT is refused, or not one.
struct Refused {
    /// The whole answer; empty to close without one.
    answer: BytesMut,
    text: String,
}

impl Refused {
    fn silent(text: impl Into<String>) -> Self {
        Self {
            answer: BytesMut::new(),
            text: text.into(),
        }
    }

    fn new(peer: &Peer, reason: ReasonCode, text: &str) -> Self {
        let mut answer = BytesMut::new();
        let mut properties = PropertyBuf::new();
        // Short and ours.
        let _ = properties.push(Property::ReasonString(text));
        let connack = ConnAck {
            session_present: false,
            reason,
            properties: properties.as_raw(),
        };
        // 3.1.1 has no code for some reasons: closing is the answer then.
        let _ = connack.encode(peer, &mut answer);
        Self {
            answer,
            text: text.to_owned(),
        }
    }
}

/// What CONNECT asks for, taken out of the read buffer.
struct Wanted {
    peer: Peer,
    clean_start: bool,
    keep_alive: u16,
    client_id: Arc<str>,
    assigned: bool,
    /// Asked for, and capped.
    asked_expiry: u32,
    expiry: u32,
    window: u16,
    will: Option<StoredWill>,
    principal: Principal,
}

/// Serves a peer until its connection ends.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(
    shared: Arc<Shared>,
    arrival: Arrival<S>,
) {
    // What it takes to get here is not carried through the connection's life.
    let connection = Box::pin(establish(shared, arrival)).await;
    if let Some(connection) = connection {
        connection::run(connection).await;
    }
}

/// From CONNECT to CONNACK.
async fn establish<S: AsyncRead + AsyncWrite + Unpin + Send>(
    shared: Arc<Shared>,
    mut arrival: Arrival<S>,
) -> Option<Box<Connection<S>>> {
    let mut input = BytesMut::new();
    let deadline = shared.limits.connect_timeout;
    let wanted = match timeout(deadline, receive(&shared, &mut arrival, &mut input)).await {
        Ok(Ok(wanted)) => wanted,
        Ok(Err(refused)) => return refuse(&shared, arrival, refused).await,
        Err(_) => {
            return refuse(&shared, arrival, Refused::silent("no CONNECT in time")).await;
        }
    };
    let owner = Owner::new(&wanted.principal, &wanted.client_id);
    let turn = match timeout(deadline, shared.directory.take_turn(&owner)).await {
        Ok(Some(turn)) => turn,
        Ok(None) | Err(_) => {
            let refused = Refused::silent("a newer connection of the same client came meanwhile");
            return refuse(&shared, arrival, refused).await;
        }
    };
    match open(&shared, arrival.address, &wanted).await {
        Ok(made) => Some(Box::new(Connection::new(Opened {
            io: arrival.io,
            shared,
            owner,
            turn,
            live: made.live,
            session: made.session,
            expiry: wanted.expiry,
            keep_alive: wanted.keep_alive,
            will: made.will,
            certificate: arrival.certificate,
            input,
            out: made.out,
        }))),
        Err(refused) => {
            shared.directory.end_turn(&owner, turn);
            refuse(&shared, arrival, refused).await
        }
    }
}

/// Says why not. There is no connection then, whatever the type.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin + Send>(
    shared: &Shared,
    mut arrival: Arrival<S>,
    refused: Refused,
) -> Option<Box<Connection<S>>> {
    shared.metrics.ended(Ended::Refused).increment();
    tracing::debug!(address = %arrival.address, why = %refused.text, "CONNECT refused");
    let _ = timeout(shared.limits.connect_timeout, async {
        arrival.io.write_all(&refused.answer).await?;
        arrival.io.shutdown().await
    })
    .await;
    None
}

/// Reads CONNECT and judges it.
async fn receive<S: AsyncRead + AsyncWrite + Unpin + Send>(
    shared: &Shared,
    arrival: &mut Arrival<S>,
    input: &mut BytesMut,
) -> Result<Wanted, Refused> {
    let max = shared.max_packet.min(MAX_CONNECT);
    let len = loop {
        let found = frame(input, max, Accept::Connect)
            .map_err(|error| Refused::silent(error.to_string()))?;
        if let Some(frame) = found
            && frame.body(input).is_some()
        {
            break frame.total_len();
        }
        let read = arrival.io.read_buf(input).await;
        if read.map_err(|error| Refused::silent(error.to_string()))? == 0 {
            return Err(Refused::silent("closed before CONNECT"));
        }
    };
    let packet = input.split_to(len);
    let header = packet
        .iter()
        .skip(1)
        .take_while(|byte| **byte & 0x80 != 0)
        .count()
        + 2;
    let body = packet.get(header..).unwrap_or_default();
    let connect = decode_connect(body).map_err(|error| undecodable(error, body))?;
    let principal = authenticate(shared, arrival, &connect).await?;
    judge(shared, &connect, principal)
}

/// The answer to a CONNECT that cannot be read, in the version it claims to be of.
fn undecodable(error: DecodeError, body: &[u8]) -> Refused {
    match error {
        DecodeError::UnsupportedVersion { answer, .. } => Refused {
            answer: answer.connack().into(),
            text: error.to_string(),
        },
        DecodeError::ProtocolName => Refused::silent(error.to_string()),
        // Name, level 5: everything after that is worth an answer.
        _ if body.starts_with(b"\x00\x04MQTT\x05") => Refused::new(
            &Peer::client(Version::V5),
            error.reason(),
            &error.to_string(),
        ),
        _ => Refused::silent(error.to_string()),
    }
}

/// Who it is: by the certificate, or by user name and password.
async fn authenticate<S>(
    shared: &Shared,
    arrival: &Arrival<S>,
    connect: &Connect<'_>,
) -> Result<Principal, Refused> {
    if let Some(principal) = &arrival.principal {
        return Ok(principal.clone());
    }
    let peer = Peer::client(connect.version);
    // One answer for everything that can be wrong: it tells nothing about which devices exist.
    let bad = || {
        Refused::new(
            &peer,
            ReasonCode::BadUserNameOrPassword,
            "bad user name or password",
        )
    };
    let (Some(name), Some(password)) = (connect.user_name, connect.password) else {
        return Err(bad());
    };
    let id = name.parse().map_err(|_| bad())?;
    // Closed only with the process.
    let _permit = shared.passwords.acquire().await.map_err(|_| bad())?;
    let (registry, password) = (shared.registry.clone(), password.to_vec());
    let checked = tokio::task::spawn_blocking(move || registry.check_password(&id, &password));
    let enabled = shared
        .registry
        .get(&id)
        .is_some_and(|device| device.enabled);
    if checked.await.unwrap_or(false) && enabled {
        return Ok(Principal::Device(id));
    }
    Err(bad())
}

fn judge(shared: &Shared, connect: &Connect<'_>, principal: Principal) -> Result<Wanted, Refused> {
    let properties = &connect.properties;
    let v5 = connect.version == Version::V5;
    let peer = Peer {
        version: connect.version,
        role: Role::Client,
        max_packet_size: properties
            .maximum_packet_size()
            .map_or(u32::MAX, Into::into),
        problem_information: properties.request_problem_information().unwrap_or(true),
    };
    let refuse = |reason, text| Err(Refused::new(&peer, reason, text));
    if connect.lacks_client_id() || connect.client_id.len() > MAX_CLIENT_ID {
        return refuse(
            ReasonCode::ClientIdentifierNotValid,
            "a client id of 1 to 256 bytes is needed to keep a session",
        );
    }
    if properties.authentication_method().is_some() {
        return refuse(
            ReasonCode::BadAuthenticationMethod,
            "enhanced authentication is not offered",
        );
    }
    if let Some(will) = &connect.will {
        if !will::may_leave(shared, &principal, will.topic) {
            return refuse(ReasonCode::NotAuthorized, "the will's topic is not allowed");
        }
        will::learn_version(shared, &principal, will);
    }
    if matches!(principal, Principal::Operator(_))
        && shared.directory.connections_of(&principal) >= MAX_OPERATOR_CONNECTIONS
    {
        return refuse(
            ReasonCode::QuotaExceeded,
            "too many connections of this operator",
        );
    }
    let assigned = connect.client_id.is_empty();
    let client_id = match assigned {
        true => format!("auto-{}", random_message_id()).into(),
        false => connect.client_id.into(),
    };
    // 3.1.1 knows no expiry: a session that is not clean lives as long as we let any live.
    let asked_expiry = match (v5, connect.clean_start) {
        (true, _) => properties.session_expiry_interval().unwrap_or(0),
        (false, true) => 0,
        (false, false) => u32::MAX,
    };
    let theirs = properties
        .receive_maximum()
        .map_or(u16::MAX, NonZeroU16::get);
    Ok(Wanted {
        peer,
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive,
        client_id,
        assigned,
        asked_expiry,
        expiry: shared.cap_expiry(asked_expiry),
        window: theirs.min(shared.limits.in_flight.max(1)),
        will: connect
            .will
            .as_ref()
            .map(|will| will::to_stored(will, connect.version)),
        principal,
    })
}

/// What [`open`] made.
struct Made {
    live: Arc<super::directory::Live>,
    session: Session,
    will: Option<StoredWill>,
    out: BytesMut,
}

/// Opens the session and makes the connection known. The owner's turn is held.
async fn open(shared: &Arc<Shared>, address: IpAddr, wanted: &Wanted) -> Result<Made, Refused> {
    let limits = &shared.limits;
    let now = shared.clock.unchecked_now();
    let mut will = wanted.will.clone();
    let known = shared
        .directory
        .has_session(&wanted.principal, &wanted.client_id);
    // Most devices keep nothing beyond the connection: nothing is written for them.
    let opened = if wanted.expiry > 0 || known {
        let open = Open {
            identity: wanted.principal.to_string(),
            client_id: wanted.client_id.as_ref().to_owned(),
            clean_start: wanted.clean_start,
            expiry: wanted.expiry,
            will: will.clone(),
            now_ms: i64::try_from(now.0).unwrap_or(i64::MAX),
            max_queued: limits.queued_messages,
            max_bytes: limits.queued_bytes.as_u64(),
            max_sessions: limits.sessions_per_identity,
        };
        shared
            .store
            .write(move |conn| sessions::open(conn, &open))
            .await
            .map_err(|error| {
                tracing::error!(%error, "a session was not opened");
                Refused::new(
                    &wanted.peer,
                    ReasonCode::ServerUnavailable,
                    "the storage is unavailable",
                )
            })?
    } else {
        sessions::Opened::default()
    };
    shared.directory.forget(&opened.ended);
    for due in opened.wills {
        will::publish(shared, due).await;
    }
    if opened.key.is_some() {
        // The store keeps it, so that it is published even if the gateway dies first.
        will = None;
    }
    let new = NewLive {
        principal: wanted.principal.clone(),
        client_id: wanted.client_id.clone(),
        address,
        connected_at: now,
        session: opened.key,
        mailbox: Mailbox::new(
            limits.queued_messages as usize,
            usize::try_from(limits.queued_bytes.as_u64()).unwrap_or(usize::MAX),
        ),
    };
    let owner = Owner::new(&wanted.principal, &wanted.client_id);
    let live = shared.directory.register(&owner, new);
    shared.metrics.connections.increment();
    shared.metrics.connections_opened.increment();
    let terms = Terms {
        version: wanted.peer.version,
        peer: wanted.peer,
        durable: opened.key.is_some(),
        receive_maximum: limits.in_flight.max(1),
        window: wanted.window,
        number: live.number,
        sent_through: opened.sent_through,
    };
    let subscriptions = Subscriptions::from_stored(&opened.subscriptions);
    let session = Session::new(terms, subscriptions, &opened.inbound);
    let out = accept(shared, wanted, opened.present);
    Ok(Made {
        live,
        session,
        will,
        out,
    })
}

/// CONNACK.
fn accept(shared: &Shared, wanted: &Wanted, session_present: bool) -> BytesMut {
    let mut properties = PropertyBuf::new();
    let mut push = |property| {
        // Each once, and in range.
        let _ = properties.push(property);
    };
    if wanted.expiry != wanted.asked_expiry {
        push(Property::SessionExpiryInterval(wanted.expiry));
    }
    if let Some(maximum) = NonZeroU16::new(shared.limits.in_flight.max(1)) {
        push(Property::ReceiveMaximum(maximum));
    }
    if let Ok(maximum) = shared.max_packet.try_into() {
        push(Property::MaximumPacketSize(maximum));
    }
    push(Property::TopicAliasMaximum(TOPIC_ALIAS_MAXIMUM));
    push(Property::SharedSubscriptionAvailable(false));
    if wanted.assigned {
        push(Property::AssignedClientIdentifier(&wanted.client_id));
    }
    let mut out = BytesMut::new();
    let connack = ConnAck {
        session_present,
        reason: ReasonCode::Success,
        properties: properties.as_raw(),
    };
    if connack.encode(&wanted.peer, &mut out).is_err() {
        // A peer that takes no packet of 30 bytes: it gets the bare answer.
        let bare = ConnAck {
            properties: RawProperties::EMPTY,
            ..connack
        };
        let _ = bare.encode(&wanted.peer, &mut out);
    }
    out
}
