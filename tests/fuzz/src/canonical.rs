//! Any JSON value: what is one, and its two canonical forms.
//!
//! Input: the text. Allocation: none.

use tidegate_wire::Payload;
use tidegate_wire::json::measured_at;
use tidegate_wire::limits::{MAX_DEPTH, slots_for};

use crate::allocation;
use crate::json::{self, Node};

/// # Panics
///
/// If something does not hold.
pub fn run(text: &[u8]) {
    let mut slots = vec![0; slots_for(text.len())];
    let payload = allocation::at_most(0, || Payload::parse(text, &mut slots));
    let model = json::read(text, MAX_DEPTH);
    let (payload, (written, node)) = match (payload, model) {
        (Ok(payload), Some(model)) => (payload, model),
        (Err(error), None) => {
            assert!(error.at <= text.len(), "{error}");
            return;
        }
        (Ok(payload), None) => panic!("accepted {payload}"),
        (Err(error), Some(_)) => panic!("refused: {error}"),
    };
    assert_eq!(payload.as_str(), written);
    forms(&payload, &node, &mut slots);
    members(&payload, &node);
    few_slots(text, &payload, &node);
    let moment = allocation::at_most(0, || payload.measured_at());
    assert_eq!(moment, measured_at(written));
    assert!(moment.is_none_or(|moment| moment.nanos < 1_000_000_000));
}

/// The forms are the model's, and canonical forms of themselves.
fn forms(payload: &Payload<'_>, node: &Node<'_>, slots: &mut [u64]) {
    let len = payload.as_str().len();
    let mut compact = Vec::with_capacity(len);
    let mut sorted = Vec::with_capacity(len);
    allocation::at_most(0, || {
        payload.canonical(|piece| compact.extend_from_slice(piece));
        let enough = payload.sorted(slots, |piece| sorted.extend_from_slice(piece));
        assert_eq!(enough, Ok(()));
    });
    assert_eq!(str::from_utf8(&compact), Ok(node.canonical(false).as_str()));
    assert_eq!(str::from_utf8(&sorted), Ok(node.canonical(true).as_str()));

    let mut out = vec![0; compact.len()];
    assert_eq!(payload.write(&mut out), Ok(compact.len()));
    assert_eq!(out, compact);
    if let Some((_, shorter)) = out.split_last_mut() {
        assert!(payload.write(shorter).is_err(), "written into too little");
    }

    for form in [&compact, &sorted] {
        let again = Payload::parse(form, slots).map(|form| form.as_bytes().to_vec());
        assert_eq!(again.as_ref(), Ok(form));
    }
    if let Ok(form) = Payload::parse(&sorted, slots) {
        let mut again = Vec::new();
        let enough = form.sorted(slots, |piece| again.extend_from_slice(piece));
        assert_eq!(enough, Ok(()));
        assert_eq!(again, sorted);
    }
}

/// Every member is found under its name, and nothing under another.
fn members(payload: &Payload<'_>, node: &Node<'_>) {
    let none: &[json::Member<'_>] = &[];
    let members = if let Node::Object(members) = node {
        members
    } else {
        none
    };
    for member in members.iter().take(8).chain(members.last()) {
        let found = payload.member(&member.name).map(|value| value.as_str());
        assert_eq!(found, Some(member.text));
    }
    let unlikely = "\u{10ffff}no such name";
    if members.iter().all(|member| member.name != unlikely) {
        assert_eq!(payload.member(unlikely), None);
    }
    if let Node::Scalar(text) = node {
        if let Ok(said) = serde_json::from_str::<String>(text) {
            assert!(payload.is_string(&said));
            let plain = (!text.contains('\\')).then_some(said.as_str());
            assert_eq!(payload.plain_string(), plain);
        }
        let number = text
            .parse()
            .ok()
            .filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        assert_eq!(payload.unsigned(), number);
        assert_eq!(payload.boolean(), text.parse().ok());
    }
}

/// A receiver with too little scratch space refuses, or comes to the same result.
fn few_slots(text: &[u8], payload: &Payload<'_>, node: &Node<'_>) {
    let members = node.members();
    for few in [0, 1, members, (2 * members).saturating_sub(1)] {
        let mut slots = vec![0; few];
        if let Ok(same) = Payload::parse(text, &mut slots) {
            assert_eq!(&same, payload);
        } else {
            assert!(few < members, "{few} slots for {members} members");
        }
        let mut sorted = Vec::new();
        match payload.sorted(&mut slots, |piece| sorted.extend_from_slice(piece)) {
            Ok(()) => assert_eq!(sorted, node.canonical(true).as_bytes()),
            Err(_) => assert!(sorted.is_empty(), "fed and then failed"),
        }
    }
}
