//! Every input of the committed corpora, on any toolchain: what was found interesting once is
//! looked at again with every change.

use std::fs;
use std::path::Path;

use fuzz::TARGETS;

/// More than this in one corpus belongs into a longer run's own folder.
const MAX_CORPUS: u64 = 100 * 1024;

#[allow(clippy::expect_used, reason = "a test that cannot go on fails")]
fn replay(name: &str) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .expect("a target");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpora")
        .join(name);
    let (mut inputs, mut bytes) = (0, 0);
    for entry in fs::read_dir(&folder).expect("its corpus") {
        let path = entry.expect("an entry").path();
        let input = fs::read(&path).expect("an input");
        // So that a failure says which input it was.
        println!("{}", path.display());
        assert!(
            input.len() <= target.max_len,
            "{} is too long",
            path.display()
        );
        (target.run)(&input);
        inputs += 1;
        bytes += input.len() as u64;
    }
    assert!(inputs >= 20, "{name} has hardly any corpus: {inputs}");
    assert!(
        bytes <= MAX_CORPUS,
        "{name}'s corpus has grown to {bytes} bytes: minimise it"
    );
    // And what is shorter than anything.
    (target.run)(&[]);
}

macro_rules! replay {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replay! {
    canonical
    certificate_identity
    command_body
    config
    envelope
    manifest
    mqtt_client_decode
    mqtt_differential
    mqtt_server_decode
}
