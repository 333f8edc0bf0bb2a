//! Whether the upstream as a whole is worth a request right now.

use std::time::{Duration, Instant};

use super::{Cause, backoff::Backoff};
use crate::store::DeviceKey;

/// Devices that must fail in a row, with no answer for anyone in between, before a timeout or an
/// overload counts as the upstream's own trouble. One device may have a message that is slow to
/// take; three at once are no coincidence.
const WITNESSES: usize = 3;

/// What may be begun now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Permission {
    Go,
    /// Not before this.
    NotBefore(Instant),
    /// Not before something under way has come back.
    Busy,
}

/// What the circuit is doing, for status and metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Deliveries go as fast as the workers are.
    Closed,
    /// The upstream is in trouble: one probe at a time.
    Open,
    /// It answers again: more at a time with every answer.
    Ramping,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open {
        until: Instant,
        probe: Option<DeviceKey>,
    },
    Ramping {
        limit: usize,
    },
}

#[derive(Debug)]
pub(super) struct Circuit {
    state: State,
    workers: usize,
    backoff: Backoff,
    /// Times it opened or a probe failed since it was last closed.
    failures: u32,
    /// Distinct devices that failed since anything was last answered.
    witnesses: Vec<DeviceKey>,
}

impl Circuit {
    pub(super) fn new(workers: usize, backoff: Backoff) -> Self {
        Self {
            state: State::Closed,
            workers,
            backoff,
            failures: 0,
            witnesses: Vec::with_capacity(WITNESSES),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Open { .. } => Phase::Open,
            State::Ramping { .. } => Phase::Ramping,
        }
    }

    /// Whether one more delivery may begin while `in_flight` are under way.
    pub(super) fn permits(&self, now: Instant, in_flight: usize) -> Permission {
        match self.state {
            State::Closed if in_flight < self.workers => Permission::Go,
            State::Ramping { limit } if in_flight < limit => Permission::Go,
            State::Open { until, .. } if now < until => Permission::NotBefore(until),
            State::Open { probe: None, .. } => Permission::Go,
            _ => Permission::Busy,
        }
    }

    /// A delivery for this device begins.
    pub(super) fn begun(&mut self, device: DeviceKey) {
        if let State::Open { probe, .. } = &mut self.state {
            *probe = Some(device);
        }
    }

    /// The upstream answered: it is there, whatever it said about this one message.
    pub(super) fn answered(&mut self) {
        self.witnesses.clear();
        let limit = match self.state {
            State::Closed => return,
            State::Open { .. } => 2,
            State::Ramping { limit } => limit + 1,
        };
        if limit >= self.workers {
            self.state = State::Closed;
            self.failures = 0;
        } else {
            self.state = State::Ramping { limit };
        }
    }

    /// A delivery failed in a way that blames the upstream. True when it has just been opened: what
    /// failed before for the same reason was not the devices' fault.
    pub(super) fn failed(
        &mut self,
        cause: Cause,
        device: DeviceKey,
        after: Option<Duration>,
        now: Instant,
        random: u64,
    ) -> bool {
        match self.state {
            State::Open { probe, .. } => {
                if probe == Some(device) {
                    self.open(after, now, random);
                }
                false
            }
            State::Closed | State::Ramping { .. } => {
                if self.witnesses.len() < WITNESSES && !self.witnesses.contains(&device) {
                    self.witnesses.push(device);
                }
                if cause == Cause::Unreachable || self.witnesses.len() >= WITNESSES {
                    self.open(after, now, random);
                    return true;
                }
                false
            }
        }
    }

    /// Lets the next probe go at once: someone asked for a retry.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let State::Open { until, .. } = &mut self.state {
            *until = (*until).min(now);
        }
    }

    fn open(&mut self, after: Option<Duration>, now: Instant, random: u64) {
        self.failures = self.failures.saturating_add(1);
        self.witnesses.clear();
        let until = now + self.backoff.wait(self.failures, after, random);
        self.state = State::Open { until, probe: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit() -> Circuit {
        Circuit::new(
            8,
            Backoff {
                min: Duration::from_millis(500),
                max: Duration::from_secs(60),
            },
        )
    }

    const A: DeviceKey = DeviceKey(1);
    const B: DeviceKey = DeviceKey(2);
    const C: DeviceKey = DeviceKey(3);
    const HALF: u64 = 1 << 63;

    #[test]
    fn no_connection_opens_at_once_and_one_probe_goes_at_a_time() {
        let (mut circuit, now) = (circuit(), Instant::now());
        assert!(circuit.failed(Cause::Unreachable, A, None, now, HALF));
        let until = now + Duration::from_millis(250);
        assert_eq!(circuit.permits(now, 0), Permission::NotBefore(until));
        assert_eq!(circuit.permits(until, 0), Permission::Go);
        circuit.begun(B);
        assert_eq!(circuit.permits(until, 1), Permission::Busy);
        assert!(
            !circuit.failed(Cause::Unreachable, A, None, until, HALF),
            "a straggler"
        );
        assert_eq!(
            circuit.permits(until, 1),
            Permission::Busy,
            "it does not end the probe"
        );
        circuit.failed(Cause::NoAnswer, B, None, until, HALF);
        let next = until + Duration::from_millis(500);
        assert_eq!(
            circuit.permits(until, 0),
            Permission::NotBefore(next),
            "twice as long"
        );
    }

    #[test]
    fn timeouts_open_only_when_several_devices_see_them_in_a_row() {
        let (mut circuit, now) = (circuit(), Instant::now());
        for _ in 0..100 {
            assert!(
                !circuit.failed(Cause::NoAnswer, A, None, now, HALF),
                "one slow device"
            );
        }
        assert!(!circuit.failed(Cause::NoAnswer, B, None, now, HALF));
        circuit.answered();
        assert!(!circuit.failed(Cause::Overloaded, C, None, now, HALF));
        assert!(!circuit.failed(Cause::Overloaded, A, None, now, HALF));
        let asked = Some(Duration::from_secs(9));
        assert!(circuit.failed(Cause::Overloaded, B, asked, now, HALF));
        assert_eq!(
            circuit.permits(now, 0),
            Permission::NotBefore(now + Duration::from_secs(9))
        );
    }

    #[test]
    fn it_ramps_up_from_one() {
        let (mut circuit, now) = (circuit(), Instant::now());
        circuit.failed(Cause::Unreachable, A, None, now, 0);
        circuit.begun(A);
        for limit in 2..8 {
            circuit.answered();
            assert_eq!(circuit.phase(), Phase::Ramping);
            assert_eq!(circuit.permits(now, limit - 1), Permission::Go);
            assert_eq!(circuit.permits(now, limit), Permission::Busy);
        }
        circuit.answered();
        assert_eq!(circuit.phase(), Phase::Closed);
        assert_eq!(circuit.permits(now, 7), Permission::Go);
        assert_eq!(circuit.permits(now, 8), Permission::Busy);
    }

    #[test]
    fn a_single_worker_needs_no_ramp() {
        let now = Instant::now();
        let backoff = Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(1),
        };
        let mut circuit = Circuit::new(1, backoff);
        circuit.failed(Cause::Unreachable, A, None, now, 0);
        circuit.answered();
        assert_eq!(circuit.phase(), Phase::Closed);
    }
}
