use std::io::Write as _;

use super::*;

/// An archive with these entries: path, kind, content.
fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    let mut builder = tar::Builder::new(&mut file);
    for (path, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o777);
        header.set_size(content.len() as u64);
        if *kind == tar::EntryType::Symlink {
            header.set_link_name("/etc").expect("a link");
        }
        // Written as they are: the library refuses to make such paths.
        let name = &mut header.as_gnu_mut().expect("gnu").name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).expect("written");
    }
    builder.finish().expect("written");
    drop(builder);
    io::Seek::rewind(&mut file).expect("rewound");
    file
}

const FILE: tar::EntryType = tar::EntryType::Regular;
const GOOD: &[u8] = br#"{"format":1,"version":"0.1.0","created_at":5}"#;

/// Where the image "x" would be.
const IMAGE: &str = "releases/2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

fn refused(file: &File) -> String {
    let outside = tempfile::tempdir().expect("a folder");
    let into = outside.path().join("in");
    fs::create_dir(&into).expect("made");
    match unpack(file, &into) {
        Ok(contents) => panic!("accepted: {contents:?}"),
        Err(Unusable::Io(error)) => panic!("not an archive's fault: {error}"),
        Err(Unusable::Not(why)) => {
            let beside = fs::read_dir(outside.path()).expect("listed").count();
            assert_eq!(beside, 1, "something was written outside");
            why
        }
    }
}

#[test]
fn only_what_a_backup_has_is_unpacked() {
    for (entry, wanted) in [
        (("../evil", FILE, &b"x"[..]), "has no place"),
        (("pki/../../evil", FILE, b"x"), "has no place"),
        (("/etc/evil", FILE, b"x"), "has no place"),
        (("control.sock", FILE, b"x"), "has no place"),
        (("releases/evil", FILE, b"x"), "has no place"),
        (("releases", tar::EntryType::Directory, b""), "has no place"),
        (
            (IMAGE, tar::EntryType::Symlink, b""),
            "neither file nor folder",
        ),
        (
            ("pki/link", tar::EntryType::Symlink, b""),
            "neither file nor folder",
        ),
        (
            ("pki/link", tar::EntryType::Link, b""),
            "neither file nor folder",
        ),
        (
            ("tidegate.db", tar::EntryType::Symlink, b""),
            "neither file nor folder",
        ),
        (
            ("pki/pipe", tar::EntryType::Fifo, b""),
            "neither file nor folder",
        ),
    ] {
        let why = refused(&archive(&[(MANIFEST, FILE, GOOD), entry]));
        assert!(why.contains(wanted), "{entry:?}: {why}");
    }
}

#[test]
fn what_is_no_backup_is_said_to_be_none() {
    let large = vec![0; 2 << 20];
    for (entries, wanted) in [
        (vec![], "it is empty"),
        (
            vec![("tidegate.db", FILE, &b"x"[..])],
            "does not begin as one",
        ),
        (vec![(MANIFEST, FILE, b"{}")], "missing field"),
        (
            vec![(
                MANIFEST,
                FILE,
                br#"{"format":3,"version":"9.9.9","created_at":5}"#,
            )],
            "format 3, written by tidegate 9.9.9",
        ),
        (vec![(MANIFEST, FILE, GOOD)], "it holds no database"),
        (
            vec![(MANIFEST, FILE, GOOD), (MASTER_KEY, FILE, &large)],
            "too large",
        ),
    ] {
        let why = refused(&archive(&entries));
        assert!(why.contains(wanted), "{wanted}: {why}");
    }
    let mut nonsense = tempfile::tempfile().expect("a file");
    nonsense.write_all(&[0x55; 5000]).expect("written");
    io::Seek::rewind(&mut nonsense).expect("rewound");
    refused(&nonsense);
}

#[test]
fn an_archive_that_was_cut_short_is_refused() {
    let content = vec![7; 5000];
    let file = archive(&[(MANIFEST, FILE, GOOD), (DATABASE, FILE, &content)]);
    file.set_len(512 * 3 + 2500).expect("cut");
    refused(&file);
}

#[test]
fn images_are_looked_at_and_not_unpacked() {
    for (content, fault) in [(&b"x"[..], None), (b"y", Some(Fault::Digest))] {
        let dir = tempfile::tempdir().expect("a folder");
        let entries = [
            (MANIFEST, FILE, GOOD),
            (DATABASE, FILE, &b"x"[..]),
            (IMAGE, FILE, content),
        ];
        let Ok(contents) = unpack(&archive(&entries), dir.path()) else {
            panic!("it is a backup")
        };
        let found: Vec<_> = contents.found.into_values().collect();
        assert_eq!(found, [(1, fault)]);
        assert!(!dir.path().join(RELEASES).exists());
    }
}

#[test]
fn modes_are_ours_not_the_archives() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a folder");
    let entries = [
        (MANIFEST, FILE, GOOD),
        (DATABASE, FILE, &b"x"[..]),
        ("pki", tar::EntryType::Directory, b""),
        ("pki/root.key", FILE, b"y"),
    ];
    let Ok(contents) = unpack(&archive(&entries), dir.path()) else {
        panic!("it is a backup")
    };
    assert_eq!(contents.manifest.created_at, 5);
    let mode = |name: &str| {
        fs::metadata(dir.path().join(name))
            .expect("there")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode(DATABASE), mode("pki"), mode("pki/root.key")),
        (0o600, 0o700, 0o600)
    );
}
