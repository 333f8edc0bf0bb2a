//! Firmware images in a backup: the files of the release folder, with the database that names them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read, Seek as _},
    path::Path,
};

use serde::Serialize;

use super::backup::{Manifest, io_problem, store_problem};
use crate::{
    control::Problem,
    ota::{Fault, Shelf, UpdateError},
    store::{
        backup::{self, Contents},
        updates::ReleaseRow,
    },
};

/// The folder in the archive; each file is named by its SHA-256.
pub(super) const RELEASES: &str = "releases";
/// How often the database is copied anew because a release was withdrawn in just that moment.
const ATTEMPTS: u32 = 5;
/// Read at once.
const CHUNK: usize = 64 * 1024;

/// A published release without its image.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Lacking {
    pub(super) release: String,
    pub(super) problem: &'static str,
}

impl Lacking {
    fn new(release: &ReleaseRow, fault: Fault) -> Self {
        Self {
            release: release.name(),
            problem: fault.as_str(),
        }
    }
}

/// An image to be written into an archive, read once already to see that it is what its name says.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) sha256: String,
    pub(super) size: u64,
    pub(super) file: File,
}

/// What of the images goes into a backup.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) images: Vec<Image>,
    /// What is lost already; a backup of the rest is better than none.
    pub(super) left_out: Vec<Lacking>,
}

impl Chosen {
    pub(super) fn names_left_out(&self) -> impl Iterator<Item = String> {
        self.left_out.iter().map(|lacking| lacking.release.clone())
    }
}

/// Images that lie in the release folder, open: they can be read to the end whatever becomes of their
/// names.
struct Held(BTreeMap<String, File>);

impl Held {
    fn of(shelf: &Shelf) -> Result<Self, UpdateError> {
        let mut held = BTreeMap::new();
        for sha256 in shelf.look()?.images.into_keys() {
            if let Some(file) = shelf.open(&sha256)? {
                held.insert(sha256, file);
            }
        }
        Ok(Self(held))
    }

    /// The images of `releases`; those published since they were taken hold of are looked up now.
    fn choose(mut self, shelf: &Shelf, releases: &[ReleaseRow]) -> Result<Chosen, UpdateError> {
        let mut chosen = Chosen::default();
        let mut seen = BTreeMap::new();
        for release in releases {
            let sha256 = release.sha256.clone();
            // Two releases may have one image.
            let fault = match seen.get(&sha256) {
                Some(fault) => *fault,
                None => {
                    let held = self.0.remove(&sha256);
                    let file = held.map_or_else(|| shelf.open(&sha256), |file| Ok(Some(file)))?;
                    let (size, path) = (u64::from(release.size), shelf.image(&sha256));
                    let fault = match file {
                        None => Some(Fault::Missing),
                        Some(mut file) => {
                            let fault = Fault::find(&mut file, &sha256, size)
                                .and_then(|fault| file.rewind().map(|()| fault))
                                .map_err(UpdateError::io(path))?;
                            if fault.is_none() {
                                let sha256 = sha256.clone();
                                chosen.images.push(Image { sha256, size, file });
                            }
                            fault
                        }
                    };
                    seen.insert(sha256, fault);
                    fault
                }
            };
            if let Some(fault) = fault {
                chosen.left_out.push(Lacking::new(release, fault));
            }
        }
        Ok(chosen)
    }
}

/// Copies the database at `database` to the new file `copy`, and takes hold of the images of the releases
/// that are published in that copy. Releases may be published and withdrawn meanwhile.
///
/// # Errors
/// The database or the release folder cannot be read, or the copy not be written.
pub(super) fn snapshot(
    database: &Path,
    copy: &Path,
    shelf: &Shelf,
) -> Result<(Contents, Chosen), Problem> {
    let mut attempt = 1;
    loop {
        // Before the copy is made: what is withdrawn from now on can still be read.
        let held = Held::of(shelf)?;
        let copied = backup::backup(database, copy, |_, _| {});
        let contents = copied.map_err(|error| store_problem(&error))?;
        let chosen = held.choose(shelf, &published(copy)?)?;
        if attempt == ATTEMPTS || chosen.left_out.is_empty() {
            return Ok((contents, chosen));
        }
        // Lost, or published and withdrawn again while the copy was made?
        let still: BTreeSet<String> = published(database)?.iter().map(ReleaseRow::name).collect();
        let mut left_out = chosen.left_out.iter();
        if left_out.all(|lacking| still.contains(&lacking.release)) {
            return Ok((contents, chosen));
        }
        fs::remove_file(copy).map_err(|error| io_problem(copy, &error))?;
        attempt += 1;
    }
}

fn published(database: &Path) -> Result<Vec<ReleaseRow>, Problem> {
    backup::published(database).map_err(|error| store_problem(&error))
}

/// What of the images is in an archive: length and what is wrong, by SHA-256.
pub(super) type Found = BTreeMap<String, (u64, Option<Fault>)>;

/// The releases that are published in the unpacked database, once it is seen that the archive's images
/// are theirs, sound, and all that it should have.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn judge(
    releases: &[ReleaseRow],
    found: &Found,
    manifest: &Manifest,
) -> Result<(), String> {
    for release in releases {
        let fault = match found.get(&release.sha256) {
            Some((size, _)) if *size != u64::from(release.size) => Some(Fault::Size),
            Some((_, fault)) => *fault,
            None if !manifest.images || manifest.left_out.contains(&release.name()) => None,
            None => Some(Fault::Missing),
        };
        if let Some(fault) = fault {
            return Err(format!("release {}: {}", release.name(), fault.as_str()));
        }
    }
    let stranger = found
        .keys()
        .find(|sha256| releases.iter().all(|release| release.sha256 != **sha256));
    match stranger {
        Some(sha256) => Err(format!("{RELEASES}/{sha256} belongs to no release")),
        None => Ok(()),
    }
}

/// Images put into the release folder, which are taken out again unless they are to stay.
pub(super) struct Placed<'s> {
    shelf: &'s Shelf,
    /// Whether the folder was there before.
    folder: bool,
    images: Vec<String>,
}

impl<'s> Placed<'s> {
    pub(super) fn new(shelf: &'s Shelf) -> Self {
        Self {
            shelf,
            folder: shelf.dir().exists(),
            images: Vec::new(),
        }
    }

    /// Puts an image in its place, unless it is there as it should be.
    ///
    /// # Errors
    /// It is not what its name says; files.
    pub(super) fn put(
        &mut self,
        sha256: &str,
        size: u64,
        image: &mut impl Read,
    ) -> Result<(), UpdateError> {
        if self.shelf.check(sha256, size)?.is_none() {
            return Ok(());
        }
        self.shelf.begin(Vec::new(), sha256.to_owned(), size)?;
        let (mut offset, mut buffer) = (0, vec![0; CHUNK]);
        loop {
            let read = image
                .read(&mut buffer)
                .inspect_err(|_| self.shelf.give_up())
                .map_err(UpdateError::io(self.shelf.image(sha256)))?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
                break;
            };
            self.shelf.take(offset, piece)?;
            offset += read as u64;
        }
        self.shelf.finish()?;
        self.images.push(sha256.to_owned());
        Ok(())
    }

    /// They stay; what is lacking of `releases` all the same.
    ///
    /// # Errors
    /// An image that was there before cannot be read.
    pub(super) fn keep(mut self, releases: &[ReleaseRow]) -> Result<Vec<Lacking>, UpdateError> {
        let placed = std::mem::take(&mut self.images);
        self.folder = true;
        let mut lacking = Vec::new();
        for release in releases {
            if placed.contains(&release.sha256) {
                continue;
            }
            let fault = self.shelf.check(&release.sha256, release.size.into())?;
            lacking.extend(fault.map(|fault| Lacking::new(release, fault)));
        }
        Ok(lacking)
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        // What stays behind belongs to no release, and is named by `tidegate firmware verify`.
        for sha256 in &self.images {
            let _ = self.shelf.remove(sha256);
        }
        if !self.folder {
            let _ = fs::remove_dir(self.shelf.dir());
        }
    }
}

/// What is lacking, for people.
pub(super) fn told(lacking: &[Lacking], heading: &str) -> String {
    let mut text = String::new();
    if !lacking.is_empty() {
        text.push_str(heading);
        text.push('\n');
    }
    for Lacking { release, problem } in lacking {
        text.push_str(&format!("  {release}: {problem}\n"));
    }
    text
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
