//! The keys that exist, taken from the configuration structs themselves.
//!
//! A configuration in which everything is set is serialized once; its shape is the schema. So a key
//! exists here exactly when it exists in the structs, and the compiler asks for it when a field is
//! added.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::LazyLock, time::Duration};

use serde_json::Value as Json;

use super::{
    Config, Device, HttpUpstream, Listener, ListenerMode, Pki, Signing, Storage, Updates, Upstream,
};

/// In the sample: stands for any name.
const ANY: &str = "*";

/// The shape of a value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    Text,
    Number,
    Bool,
    List,
    /// Fixed keys.
    Table(BTreeMap<String, Shape>),
    /// Entries by a name of the operator's choice.
    Named(Box<Shape>),
    /// Fixed keys that depend on the value of `type`.
    Tagged(BTreeMap<String, Shape>),
}

/// The whole surface.
pub(super) static SCHEMA: LazyLock<Shape> = LazyLock::new(schema);
/// All keys of [`SCHEMA`].
pub(super) static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| SCHEMA.keys());

impl Shape {
    /// The shape at `path`; in tagged tables the keys of every type count.
    pub(super) fn at(&self, path: &[String]) -> Option<&Shape> {
        let Some((first, rest)) = path.split_first() else {
            return Some(self);
        };
        match self {
            Self::Table(keys) => keys.get(first)?.at(rest),
            Self::Named(inner) => inner.at(rest),
            Self::Tagged(kinds) => kinds.values().find_map(|keys| keys.at(path)),
            Self::Text | Self::Number | Self::Bool | Self::List => None,
        }
    }

    pub(super) fn is_section(&self) -> bool {
        matches!(self, Self::Table(_) | Self::Named(_) | Self::Tagged(_))
    }

    /// All keys with dots; `*` where a name is to be chosen.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        self.collect("", &mut keys);
        keys.sort();
        keys.dedup();
        keys
    }

    fn collect(&self, prefix: &str, into: &mut Vec<String>) {
        let join = |key: &str| {
            if prefix.is_empty() {
                key.to_owned()
            } else {
                format!("{prefix}.{key}")
            }
        };
        match self {
            Self::Table(keys) => {
                for (key, shape) in keys {
                    shape.collect(&join(key), into);
                }
            }
            Self::Named(inner) => inner.collect(&join(ANY), into),
            Self::Tagged(kinds) => kinds.values().for_each(|keys| keys.collect(prefix, into)),
            Self::Text | Self::Number | Self::Bool | Self::List => into.push(prefix.to_owned()),
        }
    }
}

fn schema() -> Shape {
    // A sample that does not serialize is a programming error that every test would hit; an empty
    // schema refuses every key.
    let mut shape = shape_of(&serde_json::to_value(sample()).unwrap_or_default());
    if let Shape::Table(keys) = &mut shape {
        let kinds = upstream_samples().into_iter().filter_map(|upstream| {
            let json = serde_json::to_value(upstream).ok()?;
            let kind = json.get("type")?.as_str()?.to_owned();
            Some((kind, shape_of(&json)))
        });
        let tagged = Shape::Tagged(kinds.collect());
        keys.insert("upstreams".to_owned(), Shape::Named(Box::new(tagged)));
    }
    shape
}

fn shape_of(json: &Json) -> Shape {
    match json {
        Json::Object(entries) => match entries.get(ANY) {
            Some(entry) => Shape::Named(Box::new(shape_of(entry))),
            None => Shape::Table(
                entries
                    .iter()
                    .map(|(key, json)| (key.clone(), shape_of(json)))
                    .collect(),
            ),
        },
        Json::Array(_) => Shape::List,
        Json::Bool(_) => Shape::Bool,
        Json::Number(_) => Shape::Number,
        Json::String(_) | Json::Null => Shape::Text,
    }
}

/// Everything set. Structs whose fields can be unset are written out in full, so that the compiler
/// asks for new ones.
fn sample() -> Config {
    let path = || Some(PathBuf::from("/x"));
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let any = || ANY.to_owned();
    let default = Config::default();
    Config {
        master_key_file: path(),
        pki: Pki {
            dir: path(),
            profiles_dir: path(),
            hosts: Vec::new(),
        },
        listeners: BTreeMap::from([(
            any(),
            Listener {
                address,
                mode: ListenerMode::MutualTls,
                max_fragment_bytes: Some(512),
            },
        )]),
        storage: Storage {
            max_age: Some(Duration::from_secs(1)),
            ..default.storage
        },
        updates: Updates {
            socket: path(),
            releases_dir: path(),
            ..default.updates
        },
        upstreams: BTreeMap::new(),
        devices: BTreeMap::from([(
            any(),
            Device {
                enabled: true,
                signing: Signing::Any,
                secret_file: path(),
                password_file: path(),
                messages_per_second: Some(1),
                publish: Vec::new(),
                subscribe: Vec::new(),
                telemetry: Vec::new(),
                command_topic: Some(String::new()),
                groups: Vec::new(),
            },
        )]),
        ..default
    }
}

/// One of each kind, everything set.
pub(super) fn upstream_samples() -> Vec<Upstream> {
    let path = || Some(PathBuf::from("/x"));
    let second = Duration::from_secs(1);
    vec![Upstream::Http(HttpUpstream {
        url: "http://localhost".to_owned(),
        ca_file: path(),
        client_certificate_file: path(),
        client_key_file: path(),
        bearer_token_file: path(),
        timeout: second,
        workers: 1,
        retry_min: second,
        retry_max: second,
        events: false,
    })]
}
