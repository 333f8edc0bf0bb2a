//! Commands as they arrive: verified, fresh, not seen before; carried out; acknowledged.

use tidegate_wire::command::{Ack, Receiver, Status, receive};
use tidegate_wire::output::Output;
use tidegate_wire::{Channel, Limits, MessageId, Payload, SigningKey, Version};

use super::Device;
use crate::board::Board;
use crate::commands::{self, Request, SLOTS};
use crate::credentials::Credentials;
use crate::executed::{Admission, Progress};
use crate::mqtt::MAX_PACKET;
use crate::profile::{Actuators, Command};
use crate::telemetry::Item;

/// How far a command's timestamp may be from the device's clock, in seconds: the contract's.
pub(super) const TOLERANCE_S: u64 = tidegate_wire::limits::FRESHNESS_S;

/// Longest detail of an acknowledgement.
const DETAIL: usize = 160;

/// The command was not recorded, because the flash failed or there was no room for its
/// acknowledgement: MQTT does not acknowledge it either, and it comes again with the next connection.
pub(super) struct NotRecorded;

impl<B: Board, A: Actuators> Device<B, A> {
    /// Deals with a message on the command topic. `now` is seconds since 1970.
    pub(super) async fn command(
        &self,
        body: &[u8],
        credentials: &Credentials,
        key: &SigningKey,
        now: u64,
    ) -> Result<(), NotRecorded> {
        let mut slots = [0; SLOTS];
        let receiver = Receiver {
            own: &credentials.device_id,
            key,
            min_version: Version::V2,
            tolerance_s: TOLERANCE_S,
            limits: Limits {
                max_message: MAX_PACKET as usize,
                ..Limits::CONTRACT
            },
        };
        let command = match receive(body, &receiver, now, &mut slots) {
            Ok(command) => command,
            Err(reason) => {
                log::warn!("refused a command: {reason}");
                return Ok(());
            }
        };
        let id = command.message_id();
        if !self.outbox.borrow().has_room_for_ack() {
            log::warn!("command {id} has to wait: too many acknowledgements are not sent yet");
            return Err(NotRecorded);
        }
        let admission = self
            .executed
            .borrow_mut()
            .admit(id, command.timestamp(), now, TOLERANCE_S);
        let slot = match admission {
            Admission::Execute(slot) => slot,
            Admission::Again(Progress::Settled(status)) => {
                self.acknowledge(id, status, Some("delivered before"));
                return Ok(());
            }
            Admission::Again(Progress::Claimed) => {
                self.acknowledge(id, Status::Failed, Some("interrupted by a restart"));
                return Ok(());
            }
            Admission::Full => {
                self.acknowledge(id, Status::Failed, Some("too many commands at a time"));
                return Ok(());
            }
            Admission::Unknown => {
                let why = "device lost its record of commands, send it anew";
                self.acknowledge(id, Status::Failed, Some(why));
                return Ok(());
            }
        };
        self.record(slot).await?;
        let payload = Command {
            payload: command.payload(),
        };
        let (status, detail) = self.carry_out(&payload, credentials).await;
        self.executed.borrow_mut().settle(slot, status);
        log::info!("command {id}: {status}");
        let mut text = [0; DETAIL];
        let detail = detail.map(|why| crate::text(&mut text, format_args!("{why}")));
        self.acknowledge(id, status, detail);
        // Failing here costs no more than "interrupted" after a restart.
        let _ = self.record(slot).await;
        Ok(())
    }

    async fn record(&self, slot: crate::executed::Slot) -> Result<(), NotRecorded> {
        let executed = self.executed.borrow().clone();
        let mut state = self.state.lock().await;
        executed.write(slot, &mut state).await.map_err(|error| {
            log::error!("{error}");
            NotRecorded
        })
    }

    async fn carry_out(
        &self,
        command: &Command<'_>,
        present: &Credentials,
    ) -> (Status, Option<Why>) {
        let request = match commands::read(command, present) {
            Ok(request) => request,
            Err(error) => return (Status::Failed, Some(Why::Renewal(error))),
        };
        match request {
            Request::Reboot => {
                self.restart.set(true);
                (Status::Done, None)
            }
            Request::Report => {
                self.event("health", |m| self.health(m));
                self.sample.signal(());
                (Status::Done, None)
            }
            Request::Update => match self.look_now() {
                Ok(()) => (Status::Done, None),
                Err(why) => (Status::Failed, Some(Why::Update(why))),
            },
            Request::Credentials(set) => match self.store.lock().await.stage(*set).await {
                Ok(()) => {
                    self.refusals.set(0);
                    self.renewed.signal(());
                    (Status::Done, None)
                }
                Err(error) => (Status::Failed, Some(Why::Store(error))),
            },
            Request::ForProfile => {
                let applied = self.actuators.borrow_mut().apply(command);
                match applied {
                    Ok(true) => {
                        self.sample.signal(());
                        (Status::Done, None)
                    }
                    Ok(false) => (Status::Failed, Some(Why::Unknown)),
                    Err(refused) => (Status::Failed, Some(Why::Refused(refused))),
                }
            }
        }
    }

    fn acknowledge(&self, command_id: MessageId, status: Status, detail: Option<&str>) {
        let mut quoted = [0; 2 * DETAIL];
        let mut out = Output::new(&mut quoted);
        let written = detail.map(|detail| out.put_json_string(detail));
        let len = out.len();
        let mut slots = [0; 1];
        let detail = match written {
            Some(Ok(())) => Payload::parse(quoted.get(..len).unwrap_or(&[]), &mut slots).ok(),
            _ => None,
        };
        let ack = Ack {
            command_id,
            status,
            detail,
        };
        let mut payload = [0; crate::telemetry::MAX_PAYLOAD];
        let Ok(len) = ack.write(&mut payload) else {
            // 88 bytes and the detail always fit.
            return;
        };
        let item = Item {
            channel: Channel::Ack,
            id: self.message_id(),
            moment: self.moment(),
            payload: payload.get(..len).unwrap_or(&[]).into(),
        };
        if self.outbox.borrow_mut().push(item).is_some() {
            log::warn!(
                "acknowledgement of {command_id} found no room: it is given when the command comes again"
            );
        }
        self.told.signal(());
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error(transparent)]
    Renewal(commands::InvalidRenewal),
    #[error(transparent)]
    Store(crate::credentials::StoreError),
    #[error(transparent)]
    Refused(crate::profile::Refused),
    #[error(transparent)]
    Update(super::update::CannotUpdate),
    #[error("this device does not know the command")]
    Unknown,
}
