//! What there is, and what ends soon.

use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::certificate::{Certificate, date};
use super::error::PkiError;
use super::files::PkiDir;
use super::issue;
use super::profile::Kind;
use super::revocation::{self, Reason, Record};

/// From this long before its end a certificate is shown as expiring.
const SOON: Duration = Duration::days(30);

/// Lists are signed again in the middle of their month; one this near its end is overdue.
const CRL_SOON: Duration = Duration::days(7);

/// Whether a certificate can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Valid,
    ExpiresSoon,
    Expired,
    Revoked,
    NotYetValid,
}

impl State {
    /// For tables.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::ExpiresSoon => "expires soon",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NotYetValid => "not yet valid",
        }
    }
}

/// One certificate of the authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `root`, `gateway-ca`, `device-ca`, `server`, `device`, `operator`, `trusted` (imported
    /// for clients) or `retired` (a former device CA).
    pub kind: &'static str,
    /// The device id, operator name, or subject.
    pub name: String,
    /// Hex.
    pub serial: String,
    /// RFC 3339.
    pub not_after: String,
    /// Whole days; negative once it has ended.
    pub days_left: i64,
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Whether the private key is on this machine; only for authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_here: Option<bool>,
}

/// Everything: authorities, the server, then devices and operators by name and date.
///
/// # Errors
/// No authority, or unreadable files.
pub fn list(dir: &PkiDir, now: OffsetDateTime) -> Result<Vec<Entry>, PkiError> {
    dir.require()?;
    let record = Record::load(dir)?;
    let mut entries = Vec::new();
    let mut authority = |stem: &str, kind: &'static str| -> Result<(), PkiError> {
        let certificate = Certificate::read(&dir.certificate(stem))?;
        let mut entry = entry(
            kind,
            certificate.subject_text.clone(),
            &certificate,
            &record,
            now,
        );
        entry.key_here = Some(dir.key_candidates(stem).iter().any(|key| key.exists()));
        entries.push(entry);
        Ok(())
    };
    for kind in [Kind::Root, Kind::GatewayCa, Kind::DeviceCa] {
        authority(kind.name(), kind.name())?;
    }
    for stem in dir.stems_in("retired")? {
        authority(&stem, "retired")?;
    }
    for stem in dir.stems_in("imported")? {
        authority(&stem, "trusted")?;
    }
    let server = Certificate::read(&dir.certificate("server"))?;
    let hosts: Vec<_> = server.hosts.iter().map(ToString::to_string).collect();
    entries.push(entry(
        Kind::Server.name(),
        hosts.join(", "),
        &server,
        &record,
        now,
    ));

    let mut holders: Vec<Entry> = issue::issued(dir)?
        .iter()
        .filter(|certificate| certificate.kind() != Kind::Server)
        .map(|certificate| {
            let name = match &certificate.identity {
                Some(identity) => identity.name().to_owned(),
                None => certificate.subject_text.clone(),
            };
            entry(certificate.kind().name(), name, certificate, &record, now)
        })
        .collect();
    holders.sort_by(|a, b| (a.kind, &a.name, &a.not_after).cmp(&(b.kind, &b.name, &b.not_after)));
    entries.extend(holders);
    Ok(entries)
}

fn entry(
    kind: &'static str,
    name: String,
    certificate: &Certificate,
    record: &Record,
    now: OffsetDateTime,
) -> Entry {
    let revocation = record.find(certificate);
    let state = if revocation.is_some() {
        State::Revoked
    } else if certificate.not_after < now {
        State::Expired
    } else if certificate.not_before > now {
        State::NotYetValid
    } else if certificate.not_after - now < SOON {
        State::ExpiresSoon
    } else {
        State::Valid
    };
    Entry {
        kind,
        name,
        serial: certificate.serial.to_string(),
        not_after: rfc3339(certificate.not_after),
        days_left: days_left(certificate.not_after, now),
        state,
        revoked_at: revocation.map(|revocation| rfc3339(revocation.at)),
        reason: revocation.map(|revocation| revocation.reason),
        key_here: None,
    }
}

/// Rounded down, so that a certificate which ended an hour ago has -1 day left, not 0.
fn days_left(not_after: OffsetDateTime, now: OffsetDateTime) -> i64 {
    (not_after - now).whole_seconds().div_euclid(24 * 60 * 60)
}

fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| date(time))
}

/// Something that ends within the time asked for, or has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// As [`Entry::kind`], or `crl`.
    pub kind: &'static str,
    pub name: String,
    pub not_after: OffsetDateTime,
    /// Negative once it has ended.
    pub days_left: i64,
    /// What to do, as a command line where there is one.
    pub advice: String,
}

/// What ends before `now + within`, soonest first: authorities, the server certificate, the
/// newest certificate of each device and operator that is not revoked, and signed
/// revocation lists that are overdue (less than a week left).
///
/// # Errors
/// No authority, or unreadable files.
pub fn expiring(
    dir: &PkiDir,
    now: OffsetDateTime,
    within: Duration,
) -> Result<Vec<Expiry>, PkiError> {
    dir.require()?;
    let entries = list(dir, now)?;
    let mut expiring: Vec<Expiry> = entries
        .iter()
        .filter(|entry| entry.state != State::Revoked)
        // Entries of one holder are sorted by date; only the last one matters.
        .filter(|entry| {
            !matches!(entry.kind, "device" | "operator")
                || !entries.iter().any(|other| {
                    other.state != State::Revoked
                        && (other.kind, &other.name) == (entry.kind, &entry.name)
                        && (&other.not_after, &other.serial) > (&entry.not_after, &entry.serial)
                })
        })
        .filter_map(|entry| {
            let not_after = OffsetDateTime::parse(&entry.not_after, &Rfc3339).ok()?;
            (not_after - now < within).then(|| Expiry {
                kind: entry.kind,
                name: entry.name.clone(),
                not_after,
                days_left: entry.days_left,
                advice: advice(entry),
            })
        })
        .collect();
    if let Some(next_update) = revocation::next_update(dir)?
        && next_update - now < within.min(CRL_SOON)
    {
        expiring.push(Expiry {
            kind: "crl",
            name: "the revocation list in crl.pem".into(),
            not_after: next_update,
            days_left: days_left(next_update, now),
            advice: "run `tidegate pki crl` where the authorities' keys are; this gateway itself goes on refusing what is revoked".into(),
        });
    }
    expiring.sort_by_key(|expiry| expiry.not_after);
    Ok(expiring)
}

fn advice(entry: &Entry) -> String {
    match entry.kind {
        "device" | "operator" => {
            format!("run `tidegate pki renew {}:{}`", entry.kind, entry.name)
        }
        "server" | "gateway-ca" | "device-ca" => {
            format!("run `tidegate pki renew {}`", entry.kind)
        }
        "root" => "plan a new authority: every device needs its certificate".into(),
        _ => {
            "give its devices certificates of this gateway with `tidegate pki issue device`".into()
        }
    }
}
