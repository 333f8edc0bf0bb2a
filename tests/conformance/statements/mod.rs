//! Every normative statement of both specifications, and what becomes of it here.
//!
//! The lists hold the statements by number, in brief and in our own words; the specifications have
//! the binding ones (OASIS, MQTT 3.1.1 plus errata 01, and MQTT 5.0, appendix B of each).

mod v3;
mod v5;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// What shows that a statement is kept.
#[derive(Clone, Copy, Debug)]
pub enum Proof {
    /// The test with this name.
    Shown(&'static str),
    /// It binds clients alone.
    NotServer,
    /// Why nothing can be shown.
    NotApplicable(&'static str),
}

/// Number without `MQTT-`, the statement in brief, its proof.
pub type Statement = (&'static str, &'static str, Proof);

/// How many statements each section has, and the first number where that is not 1.
type Numbers = &'static [(&'static str, u32, u32)];

/// Appendix B of 3.1.1.
const NUMBERS_3: Numbers = &[
    ("1.5.3", 1, 3),
    ("2.2.2", 1, 2),
    ("2.3.1", 1, 7),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 24),
    ("3.1.3", 1, 11),
    ("3.1.4", 1, 5),
    ("3.2.0", 1, 1),
    ("3.2.2", 1, 6),
    ("3.3.1", 1, 12),
    ("3.3.2", 1, 3),
    ("3.3.4", 1, 1),
    ("3.3.5", 1, 2),
    ("3.6.1", 1, 1),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 4),
    ("3.8.4", 1, 6),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.12.4", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.4", 1, 3),
    ("4.1.0", 1, 2),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 2),
    ("4.3.3", 1, 2),
    ("4.4.0", 1, 1),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.1", 1, 3),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.0", 1, 2),
    ("6.0.0", 1, 4),
    ("7.0.0", 1, 2),
    ("7.1.1", 1, 1),
    ("7.1.2", 1, 1),
];

/// Appendix B of 5.0.
const NUMBERS_5: Numbers = &[
    ("1.5.4", 1, 3),
    ("1.5.5", 1, 1),
    ("1.5.7", 1, 1),
    ("2.1.3", 1, 1),
    ("2.2.1", 2, 6),
    ("2.2.2", 1, 1),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 30),
    ("3.1.3", 1, 12),
    ("3.1.4", 1, 6),
    ("3.2.0", 1, 2),
    ("3.2.2", 1, 22),
    ("3.3.1", 1, 13),
    ("3.3.2", 1, 20),
    ("3.3.4", 1, 10),
    ("3.4.2", 1, 3),
    ("3.5.2", 1, 3),
    ("3.6.1", 1, 1),
    ("3.6.2", 1, 3),
    ("3.7.2", 1, 3),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 5),
    ("3.8.4", 1, 8),
    ("3.9.2", 1, 2),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.11.2", 1, 2),
    ("3.11.3", 1, 2),
    ("3.12.4", 1, 1),
    ("3.14.0", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.2", 1, 4),
    ("3.14.4", 1, 3),
    ("3.15.1", 1, 1),
    ("3.15.2", 1, 3),
    ("4.1.0", 1, 2),
    ("4.2", 1, 1),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 5),
    ("4.3.3", 1, 13),
    ("4.4.0", 1, 2),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.0", 1, 1),
    ("4.7.1", 1, 2),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.2", 1, 6),
    ("4.9.0", 1, 3),
    ("4.12.0", 1, 7),
    ("4.12.1", 1, 2),
    ("4.13.1", 1, 1),
    ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
];

const BOTH: [(&str, &[Statement], Numbers); 2] = [
    ("3.1.1", v3::STATEMENTS, NUMBERS_3),
    ("5.0", v5::STATEMENTS, NUMBERS_5),
];

#[test]
fn every_statement_is_listed_once() {
    for (version, statements, numbers) in BOTH {
        let known: BTreeSet<String> = numbers
            .iter()
            .flat_map(|(section, first, last)| {
                (*first..=*last).map(move |number| format!("{section}-{number}"))
            })
            .collect();
        let mut listed = BTreeSet::new();
        for (id, ..) in statements {
            assert!(listed.insert((*id).to_owned()), "{version}: {id} twice");
        }
        let missing: Vec<_> = known.difference(&listed).collect();
        let unknown: Vec<_> = listed.difference(&known).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "{version}: {missing:?} {unknown:?}"
        );
    }
}

#[test]
fn every_test_that_is_named_exists() {
    // This very program knows its tests.
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--list", "--format", "terse"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let tests: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect();
    assert!(tests.len() > 50, "{text}");
    let mut counts = BTreeMap::<_, [usize; 3]>::new();
    for (version, statements, _) in BOTH {
        for (id, brief, proof) in statements {
            let counts = counts.entry(version).or_default();
            assert!(!brief.is_empty(), "{version}: {id}");
            match proof {
                Proof::Shown(test) => {
                    assert!(
                        tests.contains(test),
                        "{version}: {id}: there is no test {test}"
                    );
                    counts[0] += 1;
                }
                Proof::NotServer => counts[1] += 1,
                Proof::NotApplicable(why) => {
                    assert!(!why.is_empty(), "{version}: {id}");
                    counts[2] += 1;
                }
            }
        }
    }
    for (version, [shown, clients, other]) in counts {
        println!(
            "MQTT {version}: {shown} shown, {clients} bind clients alone, {other} do not apply"
        );
    }
}
