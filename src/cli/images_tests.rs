use bytesize::ByteSize;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{clock::UnixMillis, ota::Standing};

fn release(version: &str, image: &[u8]) -> ReleaseRow {
    let digest = Sha256::digest(image);
    ReleaseRow {
        key: 1,
        product: "dashboard".to_owned(),
        chip: "esp32c3".to_owned(),
        version: version.to_owned(),
        sequence: 1,
        security_version: 0,
        size: u32::try_from(image.len()).unwrap(),
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        expires: 0,
        manifest: Vec::new(),
        standing: Standing::Published,
        reason: None,
        published_at: UnixMillis(0),
        published_by: String::new(),
    }
}

fn shelf() -> (tempfile::TempDir, Shelf) {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(dir.path().join("releases"), ByteSize(1000));
    (dir, shelf)
}

fn put(shelf: &Shelf, release: &ReleaseRow, image: &[u8]) {
    let mut placed = Placed::new(shelf);
    let size = release.size.into();
    placed.put(&release.sha256, size, &mut &*image).unwrap();
    placed.keep(&[]).unwrap();
}

fn content(image: &mut Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_withdrawn_or_published_meanwhile_is_read_all_the_same() {
    let (_dir, shelf) = shelf();
    let (old, new) = (release("1.0.0", b"old"), release("1.1.0", b"newer"));
    put(&shelf, &old, b"old");
    let held = Held::of(&shelf).unwrap();
    shelf.remove(&old.sha256).unwrap();
    put(&shelf, &new, b"newer");
    let same = release("1.0.1", b"old");
    let releases = [old, new, same];
    let mut chosen = held.choose(&shelf, &releases).unwrap();
    assert_eq!(chosen.left_out, []);
    let contents: Vec<_> = chosen.images.iter_mut().map(content).collect();
    assert_eq!(contents, [&b"old"[..], b"newer"], "each image once");
}

#[test]
fn what_is_lost_is_left_out_by_name() {
    let (_dir, shelf) = shelf();
    let names = ["1.0.0", "1.1.0", "1.2.0", "1.3.0"];
    let releases = names.map(|name| release(name, name.as_bytes()));
    for (release, name) in releases.iter().zip(names) {
        put(&shelf, release, name.as_bytes());
    }
    let path = |at: usize| shelf.image(&releases[at].sha256);
    fs::remove_file(path(0)).unwrap();
    fs::write(path(1), "1.1.X").unwrap();
    fs::write(path(2), "1").unwrap();
    let chosen = Held::of(&shelf).unwrap().choose(&shelf, &releases).unwrap();
    let lacking: Vec<_> = chosen
        .left_out
        .iter()
        .map(|lacking| (&*lacking.release, lacking.problem))
        .collect();
    assert_eq!(
        lacking,
        [
            ("dashboard/esp32c3/1.0.0", "the image is missing"),
            ("dashboard/esp32c3/1.1.0", "the image was changed"),
            ("dashboard/esp32c3/1.2.0", "the image has another length"),
        ]
    );
    assert_eq!(chosen.images.len(), 1);
}

#[test]
fn an_archive_has_the_images_of_its_releases_and_no_others() {
    let ours = release("1.0.0", b"ours");
    let manifest = |images, left_out: &[&str]| Manifest {
        format: 2,
        version: String::new(),
        created_at: 0,
        images,
        left_out: left_out.iter().map(|&name| name.to_owned()).collect(),
    };
    let judged = |found: &[(&str, u64, Option<Fault>)], manifest: &Manifest| {
        let found = found
            .iter()
            .map(|(sha256, size, fault)| ((*sha256).to_owned(), (*size, *fault)))
            .collect();
        judge(std::slice::from_ref(&ours), &found, manifest)
    };
    let sha256 = &*ours.sha256;
    let all = manifest(true, &[]);
    assert_eq!(judged(&[(sha256, 4, None)], &all), Ok(()));
    let said = |result: Result<(), String>| result.unwrap_err();
    assert_eq!(
        said(judged(&[], &all)),
        "release dashboard/esp32c3/1.0.0: the image is missing"
    );
    assert_eq!(
        said(judged(&[(sha256, 4, Some(Fault::Digest))], &all)),
        "release dashboard/esp32c3/1.0.0: the image was changed"
    );
    assert_eq!(
        said(judged(&[(sha256, 5, None)], &all)),
        "release dashboard/esp32c3/1.0.0: the image has another length"
    );
    let stranger = "0".repeat(64);
    let two = [(sha256, 4, None), (&stranger, 1, None)];
    assert!(said(judged(&two, &all)).contains("belongs to no release"));
    assert_eq!(judged(&[], &manifest(false, &[])), Ok(()));
    let known = manifest(true, &["dashboard/esp32c3/1.0.0"]);
    assert_eq!(judged(&[], &known), Ok(()));
}

#[test]
fn images_that_are_not_to_stay_go_again_and_others_stay() {
    let (_dir, shelf) = shelf();
    let (was, comes) = (release("1.0.0", b"was"), release("1.1.0", b"comes"));
    let mut placed = Placed::new(&shelf);
    placed.put(&was.sha256, 3, &mut &b"was"[..]).unwrap();
    let wrong = placed.put(&comes.sha256, 5, &mut &b"COMES"[..]);
    assert!(matches!(wrong, Err(UpdateError::Digest { .. })));
    drop(placed);
    assert!(!shelf.dir().exists());

    put(&shelf, &was, b"was");
    let mut placed = Placed::new(&shelf);
    placed.put(&was.sha256, 3, &mut &b"was"[..]).unwrap();
    placed.put(&comes.sha256, 5, &mut &b"comes"[..]).unwrap();
    drop(placed);
    let left: Vec<_> = shelf.look().unwrap().images.into_keys().collect();
    assert_eq!(left, [was.sha256]);
}
