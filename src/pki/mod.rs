//! The certificate authority: who may speak as a device, and who is the gateway.
//!
//! ```text
//!              root (its key can go offline)
//!             /                             \
//!      gateway-ca                        device-ca
//!   server authentication only    client authentication only, no host names
//!            |                          /           \
//!         server                    devices       operators
//! ```
//!
//! Three independent walls keep a device key from posing as the gateway, and the gateway's
//! from posing as a device: the leaf's extended key usage, its issuer's extended key usage
//! (with name constraints on the device side), and the gateway's list of client trust
//! anchors, which holds `device-ca` and what was imported, but never the root it made itself.
//!
//! `files` holds the state directory, `profile` what certificates look like, `issue`,
//! `renew`, `import` and `revocation` change the state; [`credentials`] turns it into what
//! rustls needs; [`watch`] notices changes. Time comes in as an argument everywhere; keys and
//! serial numbers come from the system's random source.

mod authority;
mod bundle;
mod certificate;
pub mod credentials;
mod error;
mod files;
mod hosts;
pub mod identity;
mod import;
mod init;
mod issue;
mod list;
mod profile;
mod renew;
mod request;
mod revocation;
mod revoke;
mod verifier;
pub mod watch;

pub use bundle::Bundle;
pub use certificate::Serial;
pub use credentials::{ClientAuth, Credentials, CredentialsError, Peer, PeerError, TlsOptions};
pub use error::PkiError;
pub use files::PkiDir;
pub use hosts::{Endpoint, Host};
pub use identity::{Identity, IdentityError};
pub use import::{Import, Imported, Role, import, trust};
pub use init::{Initialised, init};
pub use issue::{
    DeviceRequest, IssuedDevice, IssuedOperator, IssuedServer, OperatorRequest, issue_device,
    issue_operator, issue_server,
};
pub use list::{Entry, Expiry, State, expiring, list};
pub use profile::{Kind, Profiles};
pub use renew::{RenewOptions, Renewed, find_holder, renew, renew_server_if_due};
pub use request::{SecretSource, SigningRequest};
pub use revocation::{CrlUpdate, Reason, RevokedSet, refresh_crl, sign_crl};
pub use revoke::{RevokeTarget, Revoked, revoke};
pub use watch::{Fingerprint, fingerprint};
