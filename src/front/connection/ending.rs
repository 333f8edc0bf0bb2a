//! How a connection ends: what is said, what is finished, what is left behind.

use std::time::Duration;

use tidegate_mqtt::{DecodeError, Disconnect, Property, PropertyBuf, ReasonCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{Connection, STOP_GRACE};
use crate::{
    front::{
        Why,
        metrics::{Dropped, Ended},
        session::Breach,
        will,
    },
    store::{
        StoreError,
        sessions::{self, DueWill},
    },
};

/// For the last words to a peer.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ends, and what the peer is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::front) struct End {
    pub(in crate::front) ended: Ended,
    /// For DISCONNECT, in MQTT 5.
    pub(in crate::front) reason: Option<ReasonCode>,
    pub(in crate::front) text: String,
    pub(in crate::front) publish_will: bool,
}

impl End {
    pub(in crate::front) fn new(ended: Ended, reason: ReasonCode, text: impl Into<String>) -> Self {
        Self {
            ended,
            reason: Some(reason),
            text: text.into(),
            publish_will: true,
        }
    }

    pub(super) fn silent(ended: Ended, text: impl Into<String>) -> Self {
        Self {
            ended,
            reason: None,
            text: text.into(),
            publish_will: true,
        }
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::new(Ended::Protocol, error.reason(), error.to_string())
    }
}

impl From<Breach> for End {
    fn from(breach: Breach) -> Self {
        Self::new(Ended::Protocol, breach.reason(), breach.to_string())
    }
}

impl From<Why> for End {
    fn from(why: Why) -> Self {
        let (ended, reason) = match why {
            Why::TakenOver => (Ended::TakenOver, ReasonCode::SessionTakenOver),
            Why::Revoked | Why::Removed => (Ended::Administrative, ReasonCode::NotAuthorized),
            Why::Disabled | Why::Administrative => {
                (Ended::Administrative, ReasonCode::AdministrativeAction)
            }
            Why::Stopping => (Ended::Stopping, ReasonCode::ServerShuttingDown),
        };
        Self::new(ended, reason, why.to_string())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    pub(super) async fn finish(mut self: Box<Self>, end: End) {
        let metrics = self.shared.metrics.clone();
        metrics.ended(end.ended).increment();
        tracing::debug!(
            identity = %self.live.principal, client_id = %self.live.client_id, why = %end.text,
            "connection ended"
        );
        if end.ended == Ended::Stopping {
            // What is on its way to disk is acknowledged before goodbye is said.
            let _ = tokio::time::timeout(STOP_GRACE, self.drain()).await;
        }
        if let Some(reason) = end.reason
            && self.session.version() == Version::V5
        {
            let mut properties = PropertyBuf::new();
            // Short and ours.
            let _ = properties.push(Property::ReasonString(&end.text));
            let disconnect = Disconnect {
                reason,
                properties: properties.as_raw(),
            };
            // What cannot be said is left out: the connection is closed all the same.
            let _ = disconnect.encode(self.session.peer(), &mut self.out);
        }
        if !matches!(end.ended, Ended::Lost | Ended::Slow | Ended::ByClient) {
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.say_goodbye()).await;
        }
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.io.shutdown()).await;
        // Everything begun is finished before the next connection may open the session.
        self.drain().await;
        self.close_session(end.publish_will).await;
        metrics.connections.decrement();
    }

    async fn say_goodbye(&mut self) -> std::io::Result<()> {
        let out = std::mem::take(&mut self.out);
        self.io.write_all(&out).await?;
        self.io.flush().await
    }

    /// Completes every stage and all side work.
    async fn drain(&mut self) {
        while !self.pipeline.is_empty() {
            match std::future::poll_fn(|cx| self.pipeline.poll(cx)).await {
                Ok(completed) => self.completed(completed),
                Err(_) => self.shared.metrics.storage_refusals.increment(),
            }
        }
        for side in std::mem::take(&mut self.side) {
            let _ = side.await;
        }
        self.route_rest();
        let left = self.unrouted.len() as u64;
        self.shared.metrics.dropped(Dropped::QueueFull).add(left);
        self.unrouted.clear();
    }

    async fn close_session(mut self: Box<Self>, publish_will: bool) {
        let shared = self.shared.clone();
        let mut due = None;
        let mut keep = false;
        if let Some(session) = self.live.session {
            keep = self.expiry > 0;
            let progress = std::mem::take(&mut self.session.progress);
            let expiry = self.expiry;
            let now = i64::try_from(shared.clock.unchecked_now().0).unwrap_or(i64::MAX);
            let closed = shared
                .store
                .write(move |conn| {
                    sessions::progress(conn, session, &progress)?;
                    sessions::close(conn, session, expiry, publish_will, now)
                })
                .await;
            match closed {
                Ok(will) => due = will,
                Err(StoreError::Stopping) => {}
                Err(error) => tracing::error!(
                    identity = %self.live.principal, %error,
                    "the end of a connection was not written; its session counts as connected until the next start"
                ),
            }
        } else if publish_will && let Some(will) = self.will.take() {
            // The session ends with the connection, and no delay outlasts it.
            due = Some(DueWill {
                identity: self.live.principal.to_string(),
                will,
            });
        }
        if self.attached {
            shared.broker.detach(self.live.number);
        }
        if let Some(device) = &self.device
            && let Err(error) = shared.commands.dropped(device.key).await
            && !matches!(error, StoreError::Stopping)
        {
            tracing::error!(device = %device.id, %error, "commands in flight were not put back");
        }
        if let Some(due) = due {
            will::publish(&shared, due).await;
        }
        shared.directory.unregister(&self.owner, &self.live, keep);
        if let Some(turn) = self.turn.take() {
            shared.directory.end_turn(&self.owner, turn);
        }
    }
}
