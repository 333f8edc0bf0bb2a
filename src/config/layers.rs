//! Layers of values laid over each other, held against the schema and turned into a [`Config`].

use std::collections::BTreeMap;

use figment::{
    error::{Error, Kind},
    value::{Dict, Tag, Value},
};

use super::{
    Config, HttpUpstream,
    load::PREFIX,
    place::{Place, Places},
    problem::{ConfigError, Problem, dotted},
    schema::{SCHEMA, Shape, nearest},
    text,
    words::{described, one_of, shortened, shown, singular, unknown_key_remedy, wanted},
};

/// Variables that are no keys: the file's name, and the log filter ([`crate::trace`]).
const RESERVED: [&str; 2] = ["TIDEGATE_CONFIG", "TIDEGATE_LOG"];
/// Enough to mend in one go; the rest shows up at the next try.
const MAX_PROBLEMS: usize = 50;

/// No key has more parts, and one that does is not laid out as that many tables in each other.
const DEEPEST: usize = 8;

/// Layers laid over each other, and what was wrong with them.
pub(super) struct Reading {
    values: Dict,
    places: Places,
    problems: Vec<Problem>,
}

impl Reading {
    pub(super) fn new(file: Dict, places: Places) -> Self {
        Self {
            values: file,
            places,
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, key: &[String], place: Place, message: String, remedy: String) {
        self.problems.push(Problem {
            key: dotted(key),
            place,
            message,
            remedy,
        });
    }

    pub(super) fn add(&mut self, path: &[String], value: Value, place: Place) {
        self.places.set(path, place);
        lay_over(&mut self.values, text::nested(path, value));
    }

    pub(super) fn variable(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            return;
        };
        if RESERVED.contains(&name) {
            return;
        }
        let parts: Vec<&str> = rest.split("__").collect();
        let path = spelled(&parts, &SCHEMA, &self.values);
        let place = Place::Variable {
            name: name.to_owned(),
        };
        match SCHEMA.at(&path) {
            None => {
                let known: Vec<String> = SCHEMA
                    .keys()
                    .iter()
                    .map(|key| variable_name(key, &path))
                    .collect();
                let remedy = match nearest(name, known.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean {near}?"),
                    None => "unset it, or see tidegate config show for the keys; \
                             parts are joined by two underscores"
                        .to_owned(),
                };
                self.problem(&path, place, "there is no such setting".to_owned(), remedy);
            }
            Some(shape) if shape.is_section() && !value.trim_start().starts_with('{') => {
                let remedy = format!("name a key in it: {name}__KEY");
                self.problem(&path, place, "is a section, not a value".to_owned(), remedy);
            }
            Some(shape) => self.add(&path, text::value(value, shape), place),
        }
    }

    pub(super) fn flag(&mut self, assignment: &str) {
        let place = Place::Flag {
            flag: format!("--set {}", shortened(assignment)),
        };
        let Some((key, value)) = assignment.split_once('=') else {
            let remedy = "write --set key.path=value".to_owned();
            return self.problem(&[], place, "has no value".to_owned(), remedy);
        };
        let path: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        let place = Place::Flag {
            flag: format!("--set {}", shortened(key.trim())),
        };
        match SCHEMA.at(&path) {
            None if path.len() > DEEPEST => {
                let message = "there is no such setting".to_owned();
                let remedy = format!("no key has more than {DEEPEST} parts");
                self.problem(&path, place, message, remedy);
            }
            // Added as it is: the walk over the merged tree says what is unknown in it.
            None => self.add(&path, Value::String(Tag::Default, value.to_owned()), place),
            Some(shape) if shape.is_section() && !value.trim_start().starts_with('{') => {
                let remedy = format!("name a key in it: --set {}.KEY=value", dotted(&path));
                self.problem(&path, place, "is a section, not a value".to_owned(), remedy);
            }
            Some(shape) => self.add(&path, text::value(value, shape), place),
        }
    }

    pub(super) fn finish(mut self) -> Result<(Config, Places), ConfigError> {
        let mut root = std::mem::take(&mut self.values);
        self.walk(&mut root, &SCHEMA, &mut Vec::new());
        default_listener(&mut root);
        let mut root = Value::Dict(Tag::Default, root);
        while self.problems.len() < MAX_PROBLEMS {
            match root.deserialize::<Config>() {
                Ok(config) if self.problems.is_empty() => return Ok((config, self.places)),
                Ok(_) => break,
                // Complain, take the value out, and look for more.
                Err(error) => {
                    let path = self.refused(&root, error);
                    if !remove(&mut root, &path) {
                        break;
                    }
                }
            }
        }
        Err(ConfigError {
            problems: self.problems,
        })
    }

    /// Takes out, and complains about, what has no place in `shape`.
    fn walk(&mut self, dict: &mut Dict, shape: &Shape, path: &mut Vec<String>) {
        let tagged;
        let keys = match shape {
            Shape::Named(inner) => {
                dict.retain(|name, value| {
                    path.push(name.clone());
                    let keep = self.fits(value, inner, path);
                    path.pop();
                    keep
                });
                return;
            }
            Shape::Table(keys) => keys,
            Shape::Tagged(kinds) => {
                let Some(found) = self.kind(dict, kinds, path) else {
                    dict.clear();
                    return;
                };
                tagged = found;
                match &tagged {
                    Shape::Table(keys) => keys,
                    _ => return,
                }
            }
            Shape::Text | Shape::Number | Shape::Bool | Shape::List => return,
        };
        dict.retain(|key, value| {
            path.push(key.clone());
            let keep = match keys.get(key) {
                Some(shape) => self.fits(value, shape, path),
                None => {
                    let remedy = unknown_key_remedy(path, keys);
                    self.problem(
                        path,
                        self.places.of_name(path),
                        "unknown key".to_owned(),
                        remedy,
                    );
                    false
                }
            };
            path.pop();
            keep
        });
    }

    fn fits(&mut self, value: &mut Value, shape: &Shape, path: &mut Vec<String>) -> bool {
        match value {
            Value::Dict(_, dict) if shape.is_section() => {
                self.walk(dict, shape, path);
                // A tagged entry that was emptied has been complained about.
                !(matches!(shape, Shape::Tagged(_)) && dict.is_empty())
            }
            Value::Dict(..) => {
                let message = "is a value, not a section".to_owned();
                let remedy = format!("write {} = … in its section", dotted(path));
                self.problem(path, self.places.of(path), message, remedy);
                false
            }
            _ if shape.is_section() => {
                let message = format!("is a section, not {}", described(value));
                let remedy = format!("write [{}] and its keys below it", dotted(path));
                self.problem(path, self.places.of(path), message, remedy);
                false
            }
            _ => true,
        }
    }

    /// The keys of a tagged table, by its `type`.
    fn kind(
        &mut self,
        dict: &Dict,
        kinds: &BTreeMap<String, Shape>,
        path: &mut Vec<String>,
    ) -> Option<Shape> {
        let names: Vec<&str> = kinds.keys().map(String::as_str).collect();
        let place = self.places.of(path);
        let choice = format!("write type = {}", one_of(&names));
        match dict.get("type") {
            Some(Value::String(_, kind)) if kinds.contains_key(kind) => kinds.get(kind).cloned(),
            Some(other) => {
                path.push("type".to_owned());
                let message = format!("{} is no type of {}", shown(other), singular(path));
                let near = other
                    .as_str()
                    .and_then(|kind| nearest(kind, names.iter().copied()));
                let remedy = near.map_or(choice, |near| format!("did you mean \"{near}\"?"));
                self.problem(path, self.places.of(path), message, remedy);
                path.pop();
                None
            }
            None => {
                self.problem(path, place, "has no type".to_owned(), choice);
                None
            }
        }
    }

    /// Turns one refusal of the deserializer into a problem; answers what to take out.
    fn refused(&mut self, root: &Value, error: Error) -> Vec<String> {
        let error = deeper(root, &error).unwrap_or(error);
        let mut path = error.path.clone();
        let value = find(root, &path);
        let actual = value.map_or_else(|| "nothing".to_owned(), shown);
        if let Kind::MissingField(field) = &error.kind {
            let mut missing = path.clone();
            missing.push(field.to_string());
            let missing = dotted(&missing);
            if self.problems.iter().any(|problem| problem.key == missing) {
                // It is only missing because it was wrong and has been taken out.
                return path;
            }
        }
        let (message, remedy) = match &error.kind {
            Kind::MissingField(field) => (
                format!("{field} is missing"),
                format!("add {field} = … to [{}]", dotted(&path)),
            ),
            Kind::UnknownVariant(word, choices) => {
                let near = nearest(word, choices.iter().copied());
                let near = near.map_or(String::new(), |near| format!("did you mean \"{near}\"? "));
                (
                    format!("{actual} is none of the choices"),
                    format!("{near}write {}", one_of(choices)),
                )
            }
            Kind::UnknownField(field, _) => {
                path.push(field.clone());
                ("unknown key".to_owned(), "take it out".to_owned())
            }
            Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
                let (what, remedy) = wanted(expected);
                (format!("{actual} is not {what}"), remedy)
            }
            Kind::Message(message) if message.contains("address") => {
                let (what, remedy) = wanted("socket address");
                (format!("{actual} is not {what}"), remedy)
            }
            other => (format!("{actual} is refused: {other}"), String::new()),
        };
        self.problem(&path, self.places.of(&path), message, remedy);
        path
    }
}

/// Sections become one, key by key; any other value takes the place of what was there.
fn lay_over(below: &mut Dict, above: Dict) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Dict(_, below)), Value::Dict(_, above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// The path that a variable's parts name: keys in lower case, chosen names as they are spelled
/// where they are defined.
fn spelled(parts: &[&str], shape: &Shape, dict: &Dict) -> Vec<String> {
    let Some((first, rest)) = parts.split_first() else {
        return Vec::new();
    };
    let named = matches!(shape, Shape::Named(_));
    let existing = dict
        .keys()
        .find(|name| named && name.eq_ignore_ascii_case(first));
    let name = existing
        .cloned()
        .unwrap_or_else(|| first.to_ascii_lowercase());
    let inner = match shape {
        Shape::Named(inner) => Some(&**inner),
        Shape::Table(keys) => keys.get(&name),
        Shape::Tagged(kinds) => kinds.values().find_map(|keys| match keys {
            Shape::Table(keys) => keys.get(&name),
            _ => None,
        }),
        _ => None,
    };
    let nothing = Dict::new();
    let below = match dict.get(&name) {
        Some(Value::Dict(_, below)) => below,
        _ => &nothing,
    };
    let mut path = vec![name];
    path.extend(match inner {
        Some(inner) => spelled(rest, inner, below),
        None => rest.iter().map(|part| part.to_ascii_lowercase()).collect(),
    });
    path
}

/// The variable of a key, with the names that `path` chose.
fn variable_name(key: &str, path: &[String]) -> String {
    let parts = key
        .split('.')
        .enumerate()
        .map(|(at, part)| match (part, path.get(at)) {
            ("*", Some(name)) => name.to_ascii_uppercase(),
            _ => part.to_ascii_uppercase(),
        });
    format!("{PREFIX}{}", parts.collect::<Vec<_>>().join("__"))
}

/// Whatever is not said about the listener `devices` is as by default; without any listener there
/// is that one.
fn default_listener(root: &mut Dict) {
    let listeners = root
        .entry("listeners".to_owned())
        .or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
    let Value::Dict(_, listeners) = listeners else {
        return;
    };
    if listeners.is_empty() {
        listeners.insert("devices".to_owned(), Value::Dict(Tag::Default, Dict::new()));
    }
    if let Some(Value::Dict(_, devices)) = listeners.get_mut("devices") {
        let address = || Value::String(Tag::Default, "0.0.0.0:8883".to_owned());
        devices.entry("address".to_owned()).or_insert_with(address);
    }
}

/// An internally tagged table hides where in it the refusal was; its fields tell when read alone.
fn deeper(root: &Value, error: &Error) -> Option<Error> {
    let [section, name] = error.path.as_slice() else {
        return None;
    };
    let Value::Dict(_, fields) = find(root, &error.path).filter(|_| section == "upstreams")? else {
        return None;
    };
    let mut fields = fields.clone();
    let kind = fields.remove("type")?;
    let fields = Value::Dict(Tag::Default, fields);
    let mut inner = match kind.as_str()? {
        "http" => fields.deserialize::<HttpUpstream>().err()?,
        _ => return None,
    };
    inner.path.splice(0..0, [section.clone(), name.clone()]);
    Some(inner)
}

fn find<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((first, rest)) = path.split_first() else {
        return Some(value);
    };
    match value {
        Value::Dict(_, dict) => find(dict.get(first)?, rest),
        Value::Array(_, items) => find(items.get(first.parse::<usize>().ok()?)?, rest),
        _ => None,
    }
}

/// Takes the value at `path` out of the tree; false when there is none.
fn remove(value: &mut Value, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    match value {
        Value::Dict(_, dict) if rest.is_empty() => dict.remove(first).is_some(),
        Value::Dict(_, dict) => dict.get_mut(first).is_some_and(|inner| remove(inner, rest)),
        Value::Array(_, items) => {
            let Some(at) = first.parse::<usize>().ok().filter(|&at| at < items.len()) else {
                return false;
            };
            if rest.is_empty() {
                items.remove(at);
                return true;
            }
            items.get_mut(at).is_some_and(|inner| remove(inner, rest))
        }
        _ => false,
    }
}
