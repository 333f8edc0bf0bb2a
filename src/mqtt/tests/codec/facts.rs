//! One packet as two codecs read it: this one and rmqtt-codec, fact by fact.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::BytesMut;
use rmqtt_codec::{v3, v5};
use tidegate_mqtt::{
    Accept, Ack, AckKind, ClientPacket, Connect, Filters, Property, PropertyId, Publish,
    RawProperties, ServerPacket, SubAck, TopicFilters, UnsubAck, Version,
};
use tokio_util::codec::Decoder;

use crate::common::{Any, V5, V311, take};

/// Field names and values, by which two readings of a packet are compared.
#[derive(Debug, Default, PartialEq)]
struct Facts(BTreeMap<String, String>);

impl Facts {
    fn of(kind: &str) -> Self {
        Self::default().with("packet", kind)
    }

    fn with(mut self, name: &str, value: impl Debug) -> Self {
        self.0.insert(name.to_owned(), format!("{value:?}"));
        self
    }

    fn text<T: ToString>(self, name: &str, value: Option<T>) -> Self {
        self.with(name, value.map(|value| value.to_string()))
    }

    fn bytes<T: AsRef<[u8]>>(self, name: &str, value: Option<T>) -> Self {
        self.with(name, value.map(|value| value.as_ref().to_vec()))
    }

    fn users<A: ToString, B: ToString>(self, list: impl Iterator<Item = (A, B)>) -> Self {
        let list: Vec<_> = list.map(|(a, b)| (a.to_string(), b.to_string())).collect();
        self.with("user properties", list)
    }
}

fn reason(facts: Facts, code: u8, properties: &RawProperties<'_>) -> Facts {
    facts
        .with("reason", code)
        .text("reason string", properties.reason_string())
        .users(properties.user_properties())
}

fn ours(version: Version, any: &Any<'_>) -> Facts {
    match any {
        Any::Connect(p) => our_connect(p),
        Any::Client(ClientPacket::Publish(p)) | Any::Server(ServerPacket::Publish(p)) => {
            our_publish(version, p)
        }
        Any::Client(ClientPacket::Ack(p)) | Any::Server(ServerPacket::Ack(p)) => {
            our_ack(version, p)
        }
        Any::Client(ClientPacket::Subscribe(p)) => our_filters(version, &p.filters)
            .with("id", p.packet_id)
            .with(
                "subscription id",
                p.properties.subscription_identifiers().next(),
            )
            .users(p.properties.user_properties()),
        Any::Client(ClientPacket::Unsubscribe(p)) => our_names(&p.filters)
            .with("id", p.packet_id)
            .users(p.properties.user_properties()),
        Any::Client(ClientPacket::PingReq) => Facts::of("pingreq"),
        Any::Server(ServerPacket::PingResp) => Facts::of("pingresp"),
        Any::Client(ClientPacket::Disconnect(p)) | Any::Server(ServerPacket::Disconnect(p)) => {
            reason(Facts::of("disconnect"), p.reason.as_u8(), &p.properties)
                .with("expiry", p.properties.session_expiry_interval())
                .text("server", p.properties.server_reference())
        }
        Any::Client(ClientPacket::Auth(p)) | Any::Server(ServerPacket::Auth(p)) => {
            reason(Facts::of("auth"), p.reason.as_u8(), &p.properties)
                .text("method", p.properties.authentication_method())
                .bytes("data", p.properties.authentication_data())
        }
        Any::Server(ServerPacket::ConnAck(p)) => {
            let facts = Facts::of("connack").with("present", p.session_present);
            let code = p.reason.connect_return_code();
            match version {
                V311 => facts.with("code", code.expect("a return code")),
                V5 => our_grants(
                    reason(facts, p.reason.as_u8(), &p.properties),
                    &p.properties,
                ),
            }
        }
        Any::Server(ServerPacket::SubAck(SubAck {
            packet_id,
            properties,
            codes,
        })) => {
            let facts = Facts::of("suback")
                .with("id", packet_id)
                .with("codes", codes);
            facts
                .text("reason string", properties.reason_string())
                .users(properties.user_properties())
        }
        Any::Server(ServerPacket::UnsubAck(UnsubAck {
            packet_id,
            properties,
            codes,
        })) => {
            let facts = Facts::of("unsuback")
                .with("id", packet_id)
                .with("codes", codes);
            facts
                .text("reason string", properties.reason_string())
                .users(properties.user_properties())
        }
    }
}

fn our_connect(p: &Connect<'_>) -> Facts {
    let facts = Facts::of("connect")
        .with("clean", p.clean_start)
        .with("keep alive", p.keep_alive)
        .with("client id", p.client_id)
        .text("user", p.user_name)
        .bytes("password", p.password)
        .with(
            "will",
            p.will
                .map(|w| (w.qos.as_u8(), w.retain, w.topic, w.payload.to_vec())),
        );
    if p.version == V311 {
        return facts;
    }
    let q = p.properties;
    let facts = facts
        .with("expiry", q.session_expiry_interval().unwrap_or(0))
        .text("method", q.authentication_method())
        .bytes("data", q.authentication_data())
        .with("problem", q.request_problem_information().unwrap_or(true))
        .with(
            "response",
            q.request_response_information().unwrap_or(false),
        )
        .with("receive maximum", q.receive_maximum())
        .with("alias maximum", q.topic_alias_maximum().unwrap_or(0))
        .with("maximum packet size", q.maximum_packet_size())
        .users(q.user_properties());
    match p.will {
        None => facts,
        Some(will) => {
            let q = will.properties;
            facts
                .with("will delay", q.will_delay_interval())
                .bytes("will correlation", q.correlation_data())
                .with("will message expiry", q.message_expiry_interval())
                .text("will content type", q.content_type())
                .with("will UTF-8", q.payload_format_indicator())
                .text("will response", q.response_topic())
                .with("will users", q.user_properties().collect::<Vec<_>>())
        }
    }
}

fn our_publish(version: Version, p: &Publish<'_>) -> Facts {
    let facts = Facts::of("publish")
        .with("flags", (p.dup, p.qos.as_u8(), p.retain))
        .with("topic", p.topic)
        .with("id", p.packet_id)
        .with("payload", p.payload);
    if version == V311 {
        return facts;
    }
    let q = p.properties;
    facts
        .with("alias", q.topic_alias())
        .bytes("correlation", q.correlation_data())
        .with("message expiry", q.message_expiry_interval())
        .text("content type", q.content_type())
        .with("UTF-8", q.payload_format_indicator().unwrap_or(false))
        .text("response", q.response_topic())
        .with(
            "subscription ids",
            q.subscription_identifiers().collect::<Vec<_>>(),
        )
        .users(q.user_properties())
}

fn our_ack(version: Version, p: &Ack<'_>) -> Facts {
    let facts = Facts::of(match p.kind {
        AckKind::PubAck => "puback",
        AckKind::PubRec => "pubrec",
        AckKind::PubRel => "pubrel",
        AckKind::PubComp => "pubcomp",
    })
    .with("id", p.packet_id);
    match version {
        V311 => facts,
        V5 => reason(facts, p.reason.as_u8(), &p.properties),
    }
}

fn our_filters(version: Version, filters: &Filters<'_>) -> Facts {
    let list: Vec<_> = filters
        .iter()
        .map(|s| {
            let options = (s.no_local, s.retain_as_published, s.retain_handling as u8);
            (s.filter, s.qos.as_u8(), (version == V5).then_some(options))
        })
        .collect();
    Facts::of("subscribe").with("filters", list)
}

fn our_names(filters: &TopicFilters<'_>) -> Facts {
    Facts::of("unsubscribe").with("filters", filters.iter().collect::<Vec<_>>())
}

fn our_grants(facts: Facts, q: &RawProperties<'_>) -> Facts {
    facts
        .with("expiry", q.session_expiry_interval())
        .with(
            "receive maximum",
            q.receive_maximum().map_or(65_535, u16::from),
        )
        .with(
            "maximum QoS",
            q.maximum_qos().map_or(2, tidegate_mqtt::QoS::as_u8),
        )
        .with(
            "maximum packet size",
            q.maximum_packet_size().map(u32::from),
        )
        .text("assigned id", q.assigned_client_identifier())
        .with("alias maximum", q.topic_alias_maximum().unwrap_or(0))
        .with("retain", q.retain_available().unwrap_or(true))
        .with(
            "wildcard",
            q.wildcard_subscription_available().unwrap_or(true),
        )
        .with("ids", q.subscription_identifier_available().unwrap_or(true))
        .with("shared", q.shared_subscription_available().unwrap_or(true))
        .with("keep alive", q.server_keep_alive())
        .text("response", q.response_information())
        .text("server", q.server_reference())
        .text("method", q.authentication_method())
        .bytes("data", q.authentication_data())
}

fn theirs_v3(packet: v3::Packet) -> Facts {
    use v3::Packet as P;
    let no_users = || std::iter::empty::<(&str, &str)>();
    match packet {
        P::Connect(p) => Facts::of("connect")
            .with("clean", p.clean_session)
            .with("keep alive", p.keep_alive)
            .with("client id", p.client_id.to_string())
            .text("user", p.username)
            .bytes("password", p.password)
            .with(
                "will",
                p.last_will.map(|w| {
                    (
                        w.qos.value(),
                        w.retain,
                        w.topic.to_string(),
                        w.message.to_vec(),
                    )
                }),
            ),
        P::ConnectAck(p) => Facts::of("connack")
            .with("present", p.session_present)
            .with("code", u8::from(p.return_code)),
        P::Publish(p) => Facts::of("publish")
            .with("flags", (p.dup, p.qos.value(), p.retain))
            .with("topic", p.topic.to_string())
            .with("id", p.packet_id)
            .with("payload", p.payload.to_vec()),
        P::PublishAck { packet_id } => Facts::of("puback").with("id", packet_id),
        P::PublishReceived { packet_id } => Facts::of("pubrec").with("id", packet_id),
        P::PublishRelease { packet_id } => Facts::of("pubrel").with("id", packet_id),
        P::PublishComplete { packet_id } => Facts::of("pubcomp").with("id", packet_id),
        P::Subscribe {
            packet_id,
            topic_filters,
        } => {
            let list: Vec<_> = topic_filters
                .iter()
                .map(|(filter, qos)| (filter.to_string(), qos.value(), None::<()>))
                .collect();
            let facts = Facts::of("subscribe")
                .with("id", packet_id)
                .with("filters", list);
            facts.with("subscription id", None::<u32>).users(no_users())
        }
        P::SubscribeAck { packet_id, status } => {
            let codes: Vec<_> = status
                .iter()
                .map(|status| match status {
                    v3::SubscribeReturnCode::Success(qos) => qos.value(),
                    v3::SubscribeReturnCode::Failure => 0x80,
                })
                .collect();
            let facts = Facts::of("suback")
                .with("id", packet_id)
                .with("codes", codes);
            facts
                .text("reason string", None::<String>)
                .users(no_users())
        }
        P::Unsubscribe {
            packet_id,
            topic_filters,
        } => {
            let list: Vec<_> = topic_filters.iter().map(ToString::to_string).collect();
            Facts::of("unsubscribe")
                .with("id", packet_id)
                .with("filters", list)
                .users(no_users())
        }
        P::UnsubscribeAck { packet_id } => {
            let facts = Facts::of("unsuback")
                .with("id", packet_id)
                .with("codes", [0_u8; 0]);
            facts
                .text("reason string", None::<String>)
                .users(no_users())
        }
        P::PingRequest => Facts::of("pingreq"),
        P::PingResponse => Facts::of("pingresp"),
        P::Disconnect => Facts::of("disconnect")
            .with("reason", 0)
            .text("reason string", None::<String>)
            .users(no_users())
            .with("expiry", None::<u32>)
            .text("server", None::<String>),
    }
}

fn theirs_v5(packet: v5::Packet) -> Facts {
    use v5::Packet as P;
    let ack = |kind: &str, p: v5::PublishAck| {
        Facts::of(kind)
            .with("id", p.packet_id)
            .with("reason", u8::from(p.reason_code))
            .text("reason string", p.reason_string)
            .users(p.properties.into_iter())
    };
    let ack2 = |kind: &str, p: v5::PublishAck2| {
        Facts::of(kind)
            .with("id", p.packet_id)
            .with("reason", u8::from(p.reason_code))
            .text("reason string", p.reason_string)
            .users(p.properties.into_iter())
    };
    match packet {
        P::Connect(p) => their_connect(*p),
        P::ConnectAck(p) => their_connack(*p),
        P::Publish(p) => {
            let q = p.properties.unwrap_or_default();
            Facts::of("publish")
                .with("flags", (p.dup, p.qos.value(), p.retain))
                .with("topic", p.topic.to_string())
                .with("id", p.packet_id)
                .with("payload", p.payload.to_vec())
                .with("alias", q.topic_alias)
                .bytes("correlation", q.correlation_data)
                .with("message expiry", q.message_expiry_interval)
                .text("content type", q.content_type)
                .with("UTF-8", q.is_utf8_payload)
                .text("response", q.response_topic)
                .with("subscription ids", q.subscription_ids)
                .users(q.user_properties.into_iter())
        }
        P::PublishAck(p) => ack("puback", p),
        P::PublishReceived(p) => ack("pubrec", p),
        P::PublishRelease(p) => ack2("pubrel", p),
        P::PublishComplete(p) => ack2("pubcomp", p),
        P::Subscribe(p) => {
            let list: Vec<_> = p
                .topic_filters
                .iter()
                .map(|(filter, o)| {
                    let options = (
                        o.no_local,
                        o.retain_as_published,
                        u8::from(o.retain_handling),
                    );
                    (filter.to_string(), o.qos.value(), Some(options))
                })
                .collect();
            Facts::of("subscribe")
                .with("id", p.packet_id)
                .with("filters", list)
                .with("subscription id", p.id)
                .users(p.user_properties.into_iter())
        }
        P::SubscribeAck(p) => Facts::of("suback")
            .with("id", p.packet_id)
            .with(
                "codes",
                p.status.into_iter().map(u8::from).collect::<Vec<_>>(),
            )
            .text("reason string", p.reason_string)
            .users(p.properties.into_iter()),
        P::Unsubscribe(p) => Facts::of("unsubscribe")
            .with("id", p.packet_id)
            .with(
                "filters",
                p.topic_filters
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
            )
            .users(p.user_properties.into_iter()),
        P::UnsubscribeAck(p) => Facts::of("unsuback")
            .with("id", p.packet_id)
            .with(
                "codes",
                p.status.into_iter().map(u8::from).collect::<Vec<_>>(),
            )
            .text("reason string", p.reason_string)
            .users(p.properties.into_iter()),
        P::PingRequest => Facts::of("pingreq"),
        P::PingResponse => Facts::of("pingresp"),
        P::Disconnect(p) => Facts::of("disconnect")
            .with("reason", u8::from(p.reason_code))
            .text("reason string", p.reason_string)
            .users(p.user_properties.into_iter())
            .with("expiry", p.session_expiry_interval_secs)
            .text("server", p.server_reference),
        P::Auth(p) => Facts::of("auth")
            .with("reason", u8::from(p.reason_code))
            .text("reason string", p.reason_string)
            .users(p.user_properties.into_iter())
            .text("method", p.auth_method)
            .bytes("data", p.auth_data),
    }
}

fn their_connect(p: v5::Connect) -> Facts {
    let will = p.last_will;
    let facts = Facts::of("connect")
        .with("clean", p.clean_start)
        .with("keep alive", p.keep_alive)
        .with("client id", p.client_id.to_string())
        .text("user", p.username)
        .bytes("password", p.password)
        .with(
            "will",
            will.as_ref().map(|w| {
                (
                    w.qos.value(),
                    w.retain,
                    w.topic.to_string(),
                    w.message.to_vec(),
                )
            }),
        )
        .with("expiry", p.session_expiry_interval_secs)
        .text("method", p.auth_method)
        .bytes("data", p.auth_data)
        .with("problem", p.request_problem_info)
        .with("response", p.request_response_info)
        .with("receive maximum", p.receive_max)
        .with("alias maximum", p.topic_alias_max)
        .with("maximum packet size", p.max_packet_size)
        .users(p.user_properties.into_iter());
    match will {
        None => facts,
        Some(w) => {
            let users: Vec<_> = w
                .user_properties
                .iter()
                .map(|(a, b)| (a.to_string(), b.to_string()))
                .collect();
            facts
                .with("will delay", w.will_delay_interval_sec)
                .bytes("will correlation", w.correlation_data)
                .with("will message expiry", w.message_expiry_interval)
                .text("will content type", w.content_type)
                .with("will UTF-8", w.is_utf8_payload)
                .text("will response", w.response_topic)
                .with("will users", users)
        }
    }
}

fn their_connack(p: v5::ConnectAck) -> Facts {
    Facts::of("connack")
        .with("present", p.session_present)
        .with("reason", u8::from(p.reason_code))
        .text("reason string", p.reason_string)
        .users(p.user_properties.into_iter())
        .with("expiry", p.session_expiry_interval_secs)
        .with("receive maximum", p.receive_max)
        .with("maximum QoS", p.max_qos.value())
        .with("maximum packet size", p.max_packet_size)
        .text("assigned id", p.assigned_client_id)
        .with("alias maximum", p.topic_alias_max)
        .with("retain", p.retain_available)
        .with("wildcard", p.wildcard_subscription_available)
        .with("ids", p.subscription_identifiers_available)
        .with("shared", p.shared_subscription_available)
        .with("keep alive", p.server_keepalive_sec)
        .text("response", p.response_info)
        .text("server", p.server_reference)
        .text("method", p.auth_method)
        .bytes("data", p.auth_data)
}

/// What rmqtt-codec 0.3.1 refuses although the specification allows it.
pub(crate) fn known_refusal(any: &Any<'_>) -> Option<&'static str> {
    let expires_at_once = |properties: RawProperties<'_>| {
        properties.get(PropertyId::MessageExpiryInterval)
            == Some(Property::MessageExpiryInterval(0))
    };
    match any {
        // 5.0 §3.1.3.1 lets the server assign one; 3.1.1 §3.1.3.1 has the server answer with 0x02,
        // for which it has to be read.
        Any::Connect(p) if p.client_id.is_empty() && !p.clean_start => Some("empty client id"),
        // 5.0 §3.3.2.3.3 puts no bound on it: 0 is expired unless delivered at once.
        Any::Connect(p) if p.will.is_some_and(|will| expires_at_once(will.properties)) => {
            Some("a will's message expiry 0")
        }
        Any::Client(ClientPacket::Publish(p)) | Any::Server(ServerPacket::Publish(p))
            if expires_at_once(p.properties) =>
        {
            Some("message expiry 0")
        }
        _ => None,
    }
}

/// Decodes with both and compares. Whether this codec accepted, or how the two disagree.
pub(crate) fn compare(accept: Accept, wire: &[u8]) -> Result<bool, String> {
    let Ok(Some((any, len))) = take(accept, u32::MAX, wire) else {
        return Ok(false);
    };
    let version = match (accept, any) {
        (_, Any::Connect(connect)) => connect.version,
        (Accept::FromClient(v) | Accept::ConnAck(v) | Accept::FromServer(v), _) => v,
        _ => V5,
    };
    let mut buf = BytesMut::from(&wire[..len]);
    let theirs = match version {
        V311 => v3::Codec::new(0)
            .decode(&mut buf)
            .map(|p| p.map(|(p, _)| theirs_v3(p))),
        V5 => v5::Codec::new(0, 0)
            .decode(&mut buf)
            .map(|p| p.map(|(p, _)| theirs_v5(p))),
    };
    match (theirs, known_refusal(&any)) {
        (Err(_), Some(_)) => Ok(true),
        (Ok(Some(theirs)), None) => {
            let ours = ours(version, &any);
            if ours == theirs {
                Ok(true)
            } else {
                Err(format!("ours {ours:?}\ntheirs {theirs:?}\n{wire:02x?}"))
            }
        }
        (theirs, known) => Err(format!(
            "{any:?}\ntheirs {theirs:?}, known {known:?}\n{wire:02x?}"
        )),
    }
}
