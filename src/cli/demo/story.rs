//! What happens in a demo, and how it ends.

use std::{net::SocketAddr, time::Duration};

use tidegate_host::Bundle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    DemoArgs, DemoError, attack, backend::Backend, reachable, status, tally::Tally, update::Update,
};
use crate::{
    app::Handle,
    store::{LedgerCheck, StoreError},
};

/// Longest wait for the last deliveries at the end.
const SETTLE: Duration = Duration::from_secs(20);

/// Without an end, the outage begins when there is something to see.
const LEAD: Duration = Duration::from_secs(10);

/// What an attack is made with.
#[derive(Debug)]
pub(super) struct Attack {
    /// A device that the attacker has got hold of.
    pub(super) stolen: Bundle,
    /// Another one, in whose name it speaks.
    pub(super) victim: Bundle,
    pub(super) gateway: SocketAddr,
}

/// A running demo.
pub(super) struct Story<'a> {
    pub(super) args: &'a DemoArgs,
    pub(super) handle: &'a Handle,
    pub(super) backend: &'a Backend,
    /// The devices'.
    pub(super) names: &'a [String],
    pub(super) tally: &'a Tally,
    pub(super) update: Option<&'a Update>,
    /// Ctrl-C: it ends early.
    pub(super) interrupted: &'a CancellationToken,
}

impl Story<'_> {
    /// The outage, the attacks, the update, the live line, until the end.
    ///
    /// # Errors
    /// When an attack succeeded, or could not be tried; when the update did not go as it should.
    pub(super) async fn tell(&self, attack: Option<Attack>) -> Result<(), DemoError> {
        let started = Instant::now();
        let length = self.args.lasting;
        let end = length.map(|length| started + length);
        // With an end, the outage lies in the middle.
        let outage = self.args.offline.map(|offline| {
            let lead = length.map_or(LEAD, |all| all.saturating_sub(offline) / 2);
            (started + lead, started + lead + offline)
        });
        let attacks = async {
            if let Some(attack) = attack {
                sleep_until(started + Duration::from_secs(2)).await;
                attack.make().await?;
            }
            Ok(())
        };
        let absence = async {
            if let Some((from, to)) = outage {
                sleep_until(from).await;
                self.backend.set_up(false);
                status::note("the backend is away; what is accepted waits on disk");
                sleep_until(to).await;
                self.backend.set_up(true);
                status::note("the backend is back");
            }
            Ok(())
        };
        let update = async {
            match self.update {
                Some(update) => update.run(self.handle, self.names, end).await,
                None => Ok(()),
            }
        };
        let events = async {
            tokio::try_join!(attacks, absence, update)?;
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
            Ok(())
        };
        tokio::select! {
            () = status::lines(self.handle, self.names, self.tally, self.update) => Ok(()),
            told = events => told,
            () = self.interrupted.cancelled() => {
                if let Some(version) = self.update.and_then(Update::under_way) {
                    status::note(&format!(
                        "update: {version} is left as it is; the next start with --update releases another version"
                    ));
                }
                Ok(())
            }
        }
    }

    /// Waits for the last deliveries, prints the ledger and judges it.
    ///
    /// # Errors
    /// [`DemoError::Failed`] when it does not balance, or something is still owed.
    pub(super) async fn settle(&self) -> Result<(), DemoError> {
        let (handle, backend) = (self.handle, self.backend);
        backend.set_up(true);
        let deadline = Instant::now() + SETTLE;
        while handle.ledger("backend").owed > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let of = handle.clone();
        let verifying = tokio::task::spawn_blocking(move || of.verify_ledger("backend"));
        let checked: Option<LedgerCheck> = verifying.await.map_err(|_| StoreError::Stopping)??;
        let Some(checked) = checked else {
            return Err(DemoError::Failed("there is no ledger".to_owned()));
        };
        let ledger = checked.ledger;
        let seen = backend.seen();
        status::note(&format!(
            "ledger: accepted {} = delivered {} + owed {} + dead {} + expired {}",
            ledger.accepted, ledger.delivered, ledger.owed, ledger.dead, ledger.expired
        ));
        status::note(&format!(
            "backend: {} messages took effect this time, {} deliveries repeated",
            seen.effects, seen.repeats
        ));
        if !checked.holds() {
            return Err(DemoError::Failed(format!(
                "the ledger does not balance: {checked:?}"
            )));
        }
        if ledger.owed != 0 {
            return Err(DemoError::Failed(format!(
                "{} messages were not delivered in time",
                ledger.owed
            )));
        }
        Ok(())
    }
}

impl Attack {
    /// Tries all of them and says how each went.
    async fn make(&self) -> Result<(), DemoError> {
        let reports = attack::run(&self.stolen, &self.victim, reachable(self.gateway)).await?;
        let mut succeeded = 0;
        for report in &reports {
            match &report.outcome {
                Ok(answer) => {
                    status::note(&format!("attack refused  {} ({answer})", report.attack));
                }
                Err(what) => {
                    succeeded += 1;
                    status::note(&format!("ATTACK NOT REFUSED  {}: {what}", report.attack));
                }
            }
        }
        if succeeded == 0 {
            return Ok(());
        }
        Err(DemoError::Failed(format!(
            "{succeeded} of {} attacks were not refused",
            reports.len()
        )))
    }
}
