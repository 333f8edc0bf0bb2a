//! Names, lifetimes and key usages of what is issued: `certs/profiles/*.toml`.
//!
//! The profiles are part of the binary; a folder given in the configuration overrides them
//! file by file. What keeps devices and gateway apart is not negotiable: a profile that would
//! give a device certificate server rights, say, is refused when it is read.

use std::fmt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType,
};
use serde::Deserialize;

use super::error::PkiError;
use super::files;
use super::identity;

/// What a certificate is for; each kind has one profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Root,
    GatewayCa,
    DeviceCa,
    Server,
    Device,
    Operator,
}

impl Kind {
    /// Every kind, in the order they are shown.
    pub const ALL: [Self; 6] = [
        Self::Root,
        Self::GatewayCa,
        Self::DeviceCa,
        Self::Server,
        Self::Device,
        Self::Operator,
    ];

    /// The name in file names and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::GatewayCa => "gateway-ca",
            Self::DeviceCa => "device-ca",
            Self::Server => "server",
            Self::Device => "device",
            Self::Operator => "operator",
        }
    }

    fn embedded(self) -> &'static str {
        match self {
            Self::Root => include_str!("../../certs/profiles/root.toml"),
            Self::GatewayCa => include_str!("../../certs/profiles/gateway-ca.toml"),
            Self::DeviceCa => include_str!("../../certs/profiles/device-ca.toml"),
            Self::Server => include_str!("../../certs/profiles/server.toml"),
            Self::Device => include_str!("../../certs/profiles/device.toml"),
            Self::Operator => include_str!("../../certs/profiles/operator.toml"),
        }
    }

    /// The extended key usage every profile of this kind must state, alone.
    fn extended(self) -> &'static [Extended] {
        match self {
            Self::Root => &[],
            Self::GatewayCa | Self::Server => &[Extended::ServerAuth],
            Self::DeviceCa | Self::Device | Self::Operator => &[Extended::ClientAuth],
        }
    }

    fn uri(self) -> Option<&'static str> {
        match self {
            Self::Device => Some(identity::DEVICE),
            Self::Operator => Some(identity::OPERATOR),
            _ => None,
        }
    }

    fn placeholders(self) -> &'static [&'static str] {
        match self {
            Self::Root | Self::GatewayCa | Self::DeviceCa => &["name", "tag"],
            Self::Server => &["host"],
            Self::Device | Self::Operator => &["id"],
        }
    }

    fn is_ca(self) -> bool {
        matches!(self, Self::Root | Self::GatewayCa | Self::DeviceCa)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Usage {
    DigitalSignature,
    KeyCertSign,
    CrlSign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Extended {
    ServerAuth,
    ClientAuth,
}

/// One kind's profile, as written in its file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    subject: Subject,
    validity: Validity,
    usage: UsageTable,
    #[serde(default)]
    ca: Option<CaTable>,
    #[serde(default)]
    names: Option<NamesTable>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    common_name: String,
    #[serde(default)]
    organization: Option<String>,
    #[serde(default)]
    organizational_unit: Option<String>,
    #[serde(default)]
    country: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Validity {
    days: u32,
    /// How far before the moment of issue the validity starts, for clocks that run behind.
    #[serde(default)]
    backdate_minutes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageTable {
    key: Vec<Usage>,
    #[serde(default)]
    extended: Vec<Extended>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaTable {
    path_length: u8,
    /// Excludes every DNS name and address below this authority (RFC 5280, section 4.2.1.10).
    #[serde(default)]
    forbid_hosts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamesTable {
    uri: String,
}

/// The profiles in force, one per kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profiles {
    profiles: [Profile; 6],
}

/// A certificate cannot outlive this many days: 50 years, within what every date encoding
/// and every 32-bit clock arithmetic in the field is known to survive.
const MAX_DAYS: u32 = 18_250;

impl Profiles {
    /// The profiles shipped with the gateway.
    ///
    /// # Errors
    /// None in a released binary: a test reads every shipped profile.
    pub fn embedded() -> Result<Self, PkiError> {
        Self::from_texts(|_| Ok(None))
    }

    /// The shipped profiles, each overridden by `<folder>/<kind>.toml` where there is one.
    ///
    /// # Errors
    /// Unreadable folder, a `.toml` file of another name (a misspelt one would silently do
    /// nothing), or a profile that is not valid; the message names file and key.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        if !folder.is_dir() {
            return Err(PkiError::Profile {
                file: folder.display().to_string(),
                problem: "there is no such folder".into(),
            });
        }
        for path in files::list(folder)? {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
                && !Kind::ALL.iter().any(|kind| Some(kind.name()) == stem)
            {
                return Err(PkiError::Profile {
                    file: path.display().to_string(),
                    problem: "no such profile; the names are root, gateway-ca, device-ca, server, device and operator".into(),
                });
            }
        }
        Self::from_texts(|kind| {
            let path = folder.join(format!("{kind}.toml"));
            let Some(bytes) = files::read_if_exists(&path)? else {
                return Ok(None);
            };
            let text = String::from_utf8(bytes).map_err(|_| PkiError::Profile {
                file: path.display().to_string(),
                problem: "it is not UTF-8 text".into(),
            })?;
            Ok(Some((path.display().to_string(), text)))
        })
    }

    fn from_texts(
        text: impl Fn(Kind) -> Result<Option<(String, String)>, PkiError>,
    ) -> Result<Self, PkiError> {
        let read = |kind: Kind| {
            let (file, text) = text(kind)?
                .unwrap_or_else(|| (format!("{kind}.toml (shipped)"), kind.embedded().into()));
            Profile::parse(kind, &text).map_err(|problem| PkiError::Profile { file, problem })
        };
        Ok(Self {
            profiles: [
                read(Kind::Root)?,
                read(Kind::GatewayCa)?,
                read(Kind::DeviceCa)?,
                read(Kind::Server)?,
                read(Kind::Device)?,
                read(Kind::Operator)?,
            ],
        })
    }

    fn of(&self, kind: Kind) -> &Profile {
        let [root, gateway_ca, device_ca, server, device, operator] = &self.profiles;
        match kind {
            Kind::Root => root,
            Kind::GatewayCa => gateway_ca,
            Kind::DeviceCa => device_ca,
            Kind::Server => server,
            Kind::Device => device,
            Kind::Operator => operator,
        }
    }

    /// How long a new certificate of this kind lives.
    pub(super) fn lifetime(&self, kind: Kind) -> time::Duration {
        time::Duration::days(self.of(kind).validity.days.into())
    }

    pub(super) fn backdate(&self, kind: Kind) -> time::Duration {
        time::Duration::minutes(self.of(kind).validity.backdate_minutes.into())
    }

    /// Everything but dates, serial and host names, which the caller knows.
    pub(super) fn params(
        &self,
        kind: Kind,
        values: &[(&str, &str)],
    ) -> Result<CertificateParams, PkiError> {
        self.of(kind)
            .params(kind, values)
            .map_err(|problem| PkiError::Profile {
                file: format!("{kind}.toml"),
                problem,
            })
    }
}

impl Profile {
    fn parse(kind: Kind, text: &str) -> Result<Self, String> {
        let profile: Self =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        profile.check(kind)?;
        Ok(profile)
    }

    /// The rules that keep the kinds apart; each message starts with the key it is about.
    fn check(&self, kind: Kind) -> Result<(), String> {
        if !(1..=MAX_DAYS).contains(&self.validity.days) {
            return Err(format!("validity.days: use 1 to {MAX_DAYS}"));
        }
        if self.validity.backdate_minutes > 7 * 24 * 60 {
            return Err("validity.backdate_minutes: at most a week (10080)".into());
        }
        if self.usage.extended != kind.extended() {
            let required: Vec<_> = kind.extended().iter().map(|e| e.name()).collect();
            return Err(format!(
                "usage.extended: a {kind} certificate must have exactly {required:?}, or a device could pose as the gateway"
            ));
        }
        let required: &[Usage] = if kind.is_ca() {
            &[Usage::KeyCertSign, Usage::CrlSign]
        } else {
            &[Usage::DigitalSignature]
        };
        if self.usage.key.len() != required.len()
            || !required.iter().all(|usage| self.usage.key.contains(usage))
        {
            let names: Vec<_> = required.iter().map(|usage| usage.name()).collect();
            return Err(format!(
                "usage.key: a {kind} certificate must have exactly {names:?}"
            ));
        }
        match (&self.ca, kind) {
            (None, kind) if kind.is_ca() => return Err(format!("ca: missing for {kind}")),
            (Some(_), kind) if !kind.is_ca() => {
                return Err(format!("ca: a {kind} certificate is not an authority"));
            }
            (Some(ca), Kind::Root) if ca.path_length < 1 => {
                return Err("ca.path_length: the root needs 1 for its intermediates".into());
            }
            (Some(ca), Kind::GatewayCa | Kind::DeviceCa) if ca.path_length != 0 => {
                return Err(format!("ca.path_length: must be 0 for {kind}"));
            }
            (Some(ca), Kind::DeviceCa) if !ca.forbid_hosts => {
                return Err("ca.forbid_hosts: must be true for device-ca, or what it signs could pose as the gateway".into());
            }
            (Some(ca), kind) if ca.forbid_hosts && kind != Kind::DeviceCa => {
                return Err(format!(
                    "ca.forbid_hosts: {kind} signs the gateway's host names"
                ));
            }
            _ => {}
        }
        let uri = self.names.as_ref().map(|names| names.uri.as_str());
        let required = kind.uri().map(|prefix| format!("{prefix}{{id}}"));
        if uri != required.as_deref() {
            return Err(match required {
                Some(required) => format!("names.uri: must be \"{required}\", the identity"),
                None => format!("names: a {kind} certificate has no URI name"),
            });
        }
        if let Some(country) = &self.subject.country
            && !(country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase()))
        {
            return Err("subject.country: two capital letters, such as NL".into());
        }
        // Filled in with samples, so that a mistake shows now and not at the first device.
        let samples: Vec<(&str, &str)> = kind
            .placeholders()
            .iter()
            .map(|name| (*name, "x"))
            .collect();
        self.params(kind, &samples).map(|_| ())
    }

    fn params(&self, kind: Kind, values: &[(&str, &str)]) -> Result<CertificateParams, String> {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        let optional = [
            (DnType::CountryName, "country", &self.subject.country),
            (
                DnType::OrganizationName,
                "organization",
                &self.subject.organization,
            ),
            (
                DnType::OrganizationalUnitName,
                "organizational_unit",
                &self.subject.organizational_unit,
            ),
        ];
        for (attribute, key, template) in optional {
            if let Some(template) = template {
                let value = fill(template, values).map_err(|e| format!("subject.{key}: {e}"))?;
                subject.push(attribute, value);
            }
        }
        let common_name = fill(&self.subject.common_name, values)
            .map_err(|error| format!("subject.common_name: {error}"))?;
        subject.push(DnType::CommonName, common_name);
        params.distinguished_name = subject;
        params.key_usages = self
            .usage
            .key
            .iter()
            .map(|usage| usage.to_rcgen())
            .collect();
        params.extended_key_usages = self.usage.extended.iter().map(|e| e.to_rcgen()).collect();
        params.use_authority_key_identifier_extension = kind != Kind::Root;
        params.is_ca = match &self.ca {
            Some(ca) => IsCa::Ca(BasicConstraints::Constrained(ca.path_length)),
            None => IsCa::ExplicitNoCa,
        };
        if self.ca.as_ref().is_some_and(|ca| ca.forbid_hosts) {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: Vec::new(),
                excluded_subtrees: vec![
                    GeneralSubtree::DnsName(String::new()),
                    GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                    GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
                ],
            });
        }
        if let Some(names) = &self.names {
            let uri = fill(&names.uri, values).map_err(|error| format!("names.uri: {error}"))?;
            let uri = uri
                .try_into()
                .map_err(|error| format!("names.uri: {error}"))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        Ok(params)
    }
}

impl Usage {
    fn name(self) -> &'static str {
        match self {
            Self::DigitalSignature => "digital_signature",
            Self::KeyCertSign => "key_cert_sign",
            Self::CrlSign => "crl_sign",
        }
    }

    fn to_rcgen(self) -> KeyUsagePurpose {
        match self {
            Self::DigitalSignature => KeyUsagePurpose::DigitalSignature,
            Self::KeyCertSign => KeyUsagePurpose::KeyCertSign,
            Self::CrlSign => KeyUsagePurpose::CrlSign,
        }
    }
}

impl Extended {
    fn name(self) -> &'static str {
        match self {
            Self::ServerAuth => "server_auth",
            Self::ClientAuth => "client_auth",
        }
    }

    fn to_rcgen(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
            Self::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

/// The upper bound of a common name, organization and unit (RFC 5280, appendix A.1,
/// ub-common-name and its kin).
const MAX_ATTRIBUTE: usize = 64;

/// Replaces `{placeholder}`s by their values.
fn fill(template: &str, values: &[(&str, &str)]) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            return Err("a { without its }".into());
        };
        let Some((_, value)) = values.iter().find(|(key, _)| *key == name) else {
            let known: Vec<_> = values.iter().map(|(key, _)| format!("{{{key}}}")).collect();
            return Err(format!(
                "unknown placeholder {{{name}}}; known here: {}",
                known.join(" ")
            ));
        };
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    if filled.trim().is_empty() {
        return Err("must not be empty".into());
    }
    if filled.chars().any(char::is_control) {
        return Err("must not contain control characters".into());
    }
    if !template.starts_with("urn:") && filled.chars().count() > MAX_ATTRIBUTE {
        return Err(format!(
            "`{filled}` is longer than {MAX_ATTRIBUTE} characters"
        ));
    }
    Ok(filled)
}
