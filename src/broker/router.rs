//! rumqttd's router: the only file that names it.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use rumqttd::{
    Notification, Router, RouterConfig,
    local::{LinkBuilder, LinkError, LinkRx, LinkTx},
    protocol::{
        Disconnect, DisconnectReasonCode, Filter, Packet, PingReq, Publish, QoS, RetainForwardRule,
        Subscribe, SubscribeProperties, Unsubscribe,
    },
};

/// The router keeps, per filter, a log of two segments of this size. A batch of at most one segment
/// is whole in the log even when it starts in the middle of one.
const SEGMENT_BYTES: usize = 8 * 1024;

/// How much of its own accounting the router gets at a time.
pub(super) const BATCH_BYTES: usize = SEGMENT_BYTES;

/// The index of a message in its batch, as the payload of what is published.
const TOKEN_BYTES: usize = 4;

/// A filter that is there from the start and matches nothing that is published: the router compares a
/// topic with what filters it has, and [`Link::retire`] needs it to.
const PLACEHOLDER: &str = "\u{1}";

/// Whether a panic of the thread with this name is the router's, which is replaced. The number is one
/// that nothing else has: rumqttd names its thread after it.
#[must_use]
pub fn survives_panic_of(thread: &str) -> bool {
    thread == THREAD
}

const ROUTER: usize = 7_331;
const THREAD: &str = "router-7331";

/// The router could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the router for free topics did not start ({0}); restart the gateway")]
pub struct RouterError(Box<LinkError>);

impl From<LinkError> for RouterError {
    fn from(error: LinkError) -> Self {
        Self(Box::new(error))
    }
}

/// Gives the router its work. Nothing of it blocks: there are never more than a few events under way
/// in the router's channel of 1,000.
pub(super) struct Link {
    tx: LinkTx,
}

/// What came back.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Came {
    /// A message matched the filter of this number.
    Match {
        filter: usize,
        index: usize,
    },
    /// The answer to a ping.
    Pong,
    /// The router paused until [`Receiver::resume`].
    Paused,
    Nothing,
}

pub(super) struct Receiver {
    rx: LinkRx,
}

/// Starts a router on a thread of its own, with this gateway as its one client.
pub(super) fn start() -> Result<(Link, Receiver), RouterError> {
    let config = RouterConfig {
        max_connections: 2,
        // All that a filter has at once: a batch is smaller.
        max_outgoing_packet_count: 10_000,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: 2,
        initialized_filters: Some(vec![PLACEHOLDER.to_owned()]),
        ..RouterConfig::default()
    };
    let router = Router::new(ROUTER, config).spawn();
    let (tx, rx, _) = LinkBuilder::new("tidegate", router).build()?;
    Ok((Link { tx }, Receiver { rx }))
}

/// What a message on this topic counts in the router's log.
pub(super) fn size(topic: &str) -> usize {
    4 + topic.len() + TOKEN_BYTES
}

impl Link {
    fn push(&mut self, packet: Packet) {
        self.tx.buffer().push_back(packet);
    }

    /// Lets the router see what was pushed. False when it is gone.
    fn send(&mut self, packet: Packet) -> bool {
        // An async function that awaits nothing.
        let mut context = Context::from_waker(Waker::noop());
        matches!(
            pin!(self.tx.send(packet)).poll(&mut context),
            Poll::Ready(Ok(_))
        )
    }

    pub(super) fn subscribe(&mut self, filter: &str, number: usize) {
        let filter = Filter {
            path: filter.to_owned(),
            qos: QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        let subscribe = Subscribe {
            pkid: 0,
            filters: vec![filter],
        };
        let properties = SubscribeProperties {
            id: Some(number),
            user_properties: Vec::new(),
        };
        self.push(Packet::Subscribe(subscribe, Some(properties)));
    }

    pub(super) fn unsubscribe(&mut self, filter: &str) {
        let unsubscribe = Unsubscribe {
            pkid: 0,
            filters: vec![filter.to_owned()],
        };
        self.push(Packet::Unsubscribe(unsubscribe, None));
    }

    pub(super) fn publish(&mut self, topic: &str, index: usize) {
        let token = u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes();
        self.push(Packet::Publish(
            publish(topic.to_owned().into(), &token),
            None,
        ));
    }

    /// Asks for a [`Came::Pong`] after what was pushed before. False when the router is gone.
    pub(super) fn ping(&mut self) -> bool {
        self.send(Packet::PingReq(PingReq))
    }

    /// Says goodbye: a link that is only dropped stays in the router.
    pub(super) fn disconnect(&mut self) {
        let reason_code = DisconnectReasonCode::NormalDisconnection;
        self.send(Packet::Disconnect(Disconnect { reason_code }, None));
    }

    /// Ends the router's thread and frees its memory. There is no other way than to make it panic,
    /// with a topic whose first character is not ASCII: it holds its own channel open, so it never
    /// ends by itself.
    pub(super) fn retire(&mut self) {
        self.push(Packet::Publish(
            publish(Bytes::from_static("\u{e9}".as_bytes()), b"-"),
            None,
        ));
        self.ping();
    }
}

fn publish(topic: Bytes, payload: &[u8]) -> Publish {
    Publish::new(topic, Bytes::copy_from_slice(payload), false)
}

impl Receiver {
    /// Waits for the next thing to come; `None` when the router is gone.
    pub(super) async fn next(&mut self) -> Option<Came> {
        let notification = match self.rx.next().await {
            Ok(Some(notification)) => notification,
            Ok(None) => return Some(Came::Nothing),
            Err(_) => return None,
        };
        Some(match notification {
            Notification::Forward(forward) => {
                let token = forward
                    .publish
                    .payload
                    .first_chunk()
                    .map(|c| u32::from_be_bytes(*c));
                let filter = forward
                    .properties
                    .and_then(|properties| properties.subscription_identifiers.first().copied());
                match (token.map(usize::try_from), filter) {
                    (Some(Ok(index)), Some(filter)) => Came::Match { filter, index },
                    _ => Came::Nothing,
                }
            }
            Notification::DeviceAck(ack) => match Packet::from(ack) {
                Packet::PingResp(_) => Came::Pong,
                _ => Came::Nothing,
            },
            Notification::Unschedule => Came::Paused,
            _ => Came::Nothing,
        })
    }

    /// Lets a router go on that has [`Came::Paused`].
    pub(super) fn resume(&self) {
        // If it is gone, the next thing to come says so.
        let _ = self.rx.ready();
    }
}
