//! The release folder: one file per image, named by its SHA-256, complete or not there at all.
//!
//! An image comes in pieces over the control socket into a hidden file beside the others, is checked
//! against the manifest, made durable and renamed: whoever looks never sees half of one, whatever
//! happens in between.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::UpdateError;
use crate::config::Config;

/// Images may be read by nginx, by way of the folder's group.
const IMAGE_MODE: u32 = 0o640;
/// The folder itself, if it is made here.
const FOLDER_MODE: u32 = 0o750;
/// Name of the upload that is under way.
const UPLOAD: &str = ".upload";
/// How much is read at once to check an image.
const CHUNK: usize = 64 * 1024;

/// What is on disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Shelved {
    /// Length in bytes, by SHA-256.
    pub images: BTreeMap<String, u64>,
    /// Files that are no images.
    pub strangers: Vec<String>,
}

impl Shelved {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.images.values().sum()
    }
}

/// What is wrong with an image on disk.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Missing,
    Size,
    Digest,
}

impl Fault {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "the image is missing",
            Self::Size => "the image has another length",
            Self::Digest => "the image was changed",
        }
    }

    /// Reads an image to its end and says what is wrong with it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn find(image: &mut impl Read, sha256: &str, size: u64) -> io::Result<Option<Self>> {
        let (mut digest, mut length) = (Sha256::new(), 0);
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = image.read(&mut buffer)?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
                break;
            };
            digest.update(piece);
            length += read as u64;
        }
        Ok(if length != size {
            Some(Self::Size)
        } else if hex(&digest.finalize()) != sha256 {
            Some(Self::Digest)
        } else {
            None
        })
    }
}

/// An image on its way in.
struct Upload {
    manifest: Vec<u8>,
    sha256: String,
    size: u64,
    taken: u64,
    digest: Sha256,
    file: File,
}

/// The release folder.
#[expect(missing_debug_implementations, reason = "holds half a digest")]
pub struct Shelf {
    dir: PathBuf,
    budget: u64,
    upload: Mutex<Option<Upload>>,
}

impl Shelf {
    #[must_use]
    pub fn new(dir: PathBuf, budget: ByteSize) -> Self {
        Self {
            dir,
            budget: budget.as_u64(),
            upload: Mutex::new(None),
        }
    }

    /// The folder that the configuration names.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let updates = &config.updates;
        let dir = updates.releases_dir.clone();
        let dir = dir.unwrap_or_else(|| config.state_dir.join("releases"));
        Self::new(dir, updates.disk_budget)
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What images may take, in bytes.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Where the image with this SHA-256 is, if it is.
    #[must_use]
    pub fn image(&self, sha256: &str) -> PathBuf {
        self.dir.join(sha256)
    }

    fn upload(&self) -> MutexGuard<'_, Option<Upload>> {
        self.upload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upload_path(&self) -> PathBuf {
        self.dir.join(UPLOAD)
    }

    /// What lies in the folder. Blocks, as everything here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look(&self) -> Result<Shelved, UpdateError> {
        let mut shelved = Shelved::default();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(shelved),
            entries => entries.map_err(UpdateError::io(&self.dir))?,
        };
        for entry in entries {
            let entry = entry.map_err(UpdateError::io(&self.dir))?;
            let metadata = entry.metadata().map_err(UpdateError::io(entry.path()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if metadata.is_file() && is_digest(&name) {
                shelved.images.insert(name, metadata.len());
            } else if name != UPLOAD {
                shelved.strangers.push(name);
            }
        }
        shelved.strangers.sort();
        Ok(shelved)
    }

    /// How many bytes more than there is room for `size` more would be; 0: it fits.
    ///
    /// # Errors
    /// See [`Shelf::look`].
    pub fn excess(&self, sha256: &str, size: u64) -> Result<u64, UpdateError> {
        let shelved = self.look()?;
        if shelved.images.contains_key(sha256) {
            return Ok(0);
        }
        Ok((shelved.bytes() + size).saturating_sub(self.budget))
    }

    /// The error for what does not fit.
    ///
    /// # Errors
    /// See [`Shelf::look`].
    pub fn over_budget(&self, size: u64) -> Result<UpdateError, UpdateError> {
        Ok(UpdateError::Budget {
            needed: ByteSize(size),
            used: ByteSize(self.look()?.bytes()),
            budget: ByteSize(self.budget),
        })
    }

    /// Begins to take in an image; one that was under way is given up.
    ///
    /// # Errors
    /// Files.
    pub fn begin(&self, manifest: Vec<u8>, sha256: String, size: u64) -> Result<(), UpdateError> {
        let mut upload = self.upload();
        *upload = None;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&self.dir)
            .map_err(UpdateError::io(&self.dir))?;
        let path = self.upload_path();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(IMAGE_MODE)
            .open(&path)
            .map_err(UpdateError::io(&path))?;
        // Said again: a service's umask takes the group's part away, and a file may be left from before.
        file.set_permissions(Permissions::from_mode(IMAGE_MODE))
            .map_err(UpdateError::io(&path))?;
        *upload = Some(Upload {
            manifest,
            sha256,
            size,
            taken: 0,
            digest: Sha256::new(),
            file,
        });
        Ok(())
    }

    /// Takes in the next piece.
    ///
    /// # Errors
    /// No image is under way, the piece is not the next or goes past the end, or files; then the image
    /// is given up.
    pub fn take(&self, offset: u64, piece: &[u8]) -> Result<(), UpdateError> {
        let mut slot = self.upload();
        let upload = slot.as_mut().ok_or(UpdateError::NoUpload)?;
        let result = upload.take(offset, piece);
        if let Err(error) = result {
            *slot = None;
            self.forget_upload();
            return Err(match error {
                TakeError::Upload(error) => error,
                TakeError::Io(source) => UpdateError::Io {
                    path: self.upload_path(),
                    source,
                },
            });
        }
        Ok(())
    }

    /// Puts the image in its place, if it is what the manifest says; the manifest.
    ///
    /// # Errors
    /// No image is under way, it is not what the manifest says, or files; nothing of it stays then.
    pub fn finish(&self) -> Result<Vec<u8>, UpdateError> {
        let upload = self.upload().take().ok_or(UpdateError::NoUpload)?;
        let result = self.settle(upload);
        if result.is_err() {
            self.forget_upload();
        }
        result
    }

    fn settle(&self, upload: Upload) -> Result<Vec<u8>, UpdateError> {
        if upload.taken != upload.size {
            return Err(UpdateError::Size {
                wanted: upload.size,
                found: upload.taken,
            });
        }
        let found = hex(&upload.digest.finalize());
        if found != upload.sha256 {
            return Err(UpdateError::Digest {
                wanted: upload.sha256,
                found,
            });
        }
        let (from, to) = (self.upload_path(), self.image(&upload.sha256));
        upload.file.sync_all().map_err(UpdateError::io(&from))?;
        fs::rename(&from, &to).map_err(UpdateError::io(&to))?;
        self.sync()?;
        Ok(upload.manifest)
    }

    /// Deletes an image; that it is not there is no error.
    ///
    /// # Errors
    /// Files.
    pub fn remove(&self, sha256: &str) -> Result<(), UpdateError> {
        let path = self.image(sha256);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(UpdateError::io(path)(error))
            }
            Err(_) => Ok(()),
            Ok(()) => self.sync(),
        }
    }

    /// Opens an image, if it is there.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    pub fn open(&self, sha256: &str) -> Result<Option<File>, UpdateError> {
        let path = self.image(sha256);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some).map_err(UpdateError::io(path)),
        }
    }

    /// Reads an image and says what is wrong with it.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn check(&self, sha256: &str, size: u64) -> Result<Option<Fault>, UpdateError> {
        let Some(mut file) = self.open(sha256)? else {
            return Ok(Some(Fault::Missing));
        };
        Fault::find(&mut file, sha256, size).map_err(UpdateError::io(self.image(sha256)))
    }

    /// Gives up the image that is under way, if one is.
    pub fn give_up(&self) {
        *self.upload() = None;
        self.forget_upload();
    }

    /// Makes what happened to the folder's entries durable.
    fn sync(&self) -> Result<(), UpdateError> {
        let folder = File::open(&self.dir).map_err(UpdateError::io(&self.dir))?;
        folder.sync_all().map_err(UpdateError::io(&self.dir))
    }

    fn forget_upload(&self) {
        // What is left is overwritten by the next.
        let _ = fs::remove_file(self.upload_path());
    }
}

enum TakeError {
    Upload(UpdateError),
    Io(io::Error),
}

impl Upload {
    fn take(&mut self, offset: u64, piece: &[u8]) -> Result<(), TakeError> {
        if offset != self.taken {
            return Err(TakeError::Upload(UpdateError::Offset {
                expected: self.taken,
                given: offset,
            }));
        }
        let taken = self.taken + piece.len() as u64;
        if taken > self.size {
            return Err(TakeError::Upload(UpdateError::Size {
                wanted: self.size,
                found: taken,
            }));
        }
        self.file.write_all(piece).map_err(TakeError::Io)?;
        self.digest.update(piece);
        self.taken = taken;
        Ok(())
    }
}

/// Whether a text is a SHA-256 as image files are named by it: 64 hex digits in lower case.
#[must_use]
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes as hex digits in lower case.
#[must_use]
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &[u8] = b"an image";

    fn shelf(budget: u64) -> (tempfile::TempDir, Shelf) {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().join("releases"), ByteSize(budget));
        (dir, shelf)
    }

    fn digest() -> String {
        hex(&Sha256::digest(IMAGE))
    }

    #[test]
    fn an_image_is_there_when_it_is_whole() {
        let (_dir, shelf) = shelf(100);
        shelf.begin(b"m".to_vec(), digest(), 8).unwrap();
        shelf.take(0, b"an ").unwrap();
        assert!(shelf.look().unwrap().images.is_empty());
        shelf.take(3, b"image").unwrap();
        assert_eq!(shelf.finish().unwrap(), b"m");
        assert_eq!(shelf.look().unwrap().images, [(digest(), 8)].into());
        assert_eq!(shelf.check(&digest(), 8).unwrap(), None);
        assert_eq!(shelf.check(&digest(), 9).unwrap(), Some(Fault::Size));
        fs::write(shelf.image(&digest()), b"an imagE").unwrap();
        assert_eq!(shelf.check(&digest(), 8).unwrap(), Some(Fault::Digest));
        shelf.remove(&digest()).unwrap();
        assert_eq!(shelf.check(&digest(), 8).unwrap(), Some(Fault::Missing));
    }

    #[test]
    fn what_is_not_as_the_manifest_says_leaves_nothing_behind() {
        let (_dir, shelf) = shelf(100);
        for pieces in [&[&b"an imagE"[..]][..], &[b"an ima"], &[b"an image", b"!"]] {
            shelf.begin(Vec::new(), digest(), 8).unwrap();
            let mut offset = 0;
            let taken = pieces.iter().try_for_each(|piece| {
                shelf.take(offset, piece)?;
                offset += piece.len() as u64;
                Ok::<_, UpdateError>(())
            });
            assert!(taken.and_then(|()| shelf.finish()).is_err(), "{pieces:?}");
            assert_eq!(fs::read_dir(shelf.dir()).unwrap().count(), 0);
            assert!(matches!(shelf.finish(), Err(UpdateError::NoUpload)));
        }
    }

    #[test]
    fn the_group_may_read_images_whatever_the_umask_says() {
        let (_dir, shelf) = shelf(100);
        fs::create_dir(shelf.dir()).unwrap();
        // As a umask of 0077 makes files.
        fs::write(shelf.upload_path(), b"from before").unwrap();
        fs::set_permissions(shelf.upload_path(), Permissions::from_mode(0o600)).unwrap();
        shelf.begin(Vec::new(), digest(), 8).unwrap();
        shelf.take(0, IMAGE).unwrap();
        shelf.finish().unwrap();
        let mode = fs::metadata(shelf.image(&digest())).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, IMAGE_MODE);
    }

    #[test]
    fn pieces_come_in_order() {
        let (_dir, shelf) = shelf(100);
        shelf.begin(Vec::new(), digest(), 8).unwrap();
        shelf.take(0, b"an ").unwrap();
        assert!(matches!(
            shelf.take(2, b" image"),
            Err(UpdateError::Offset {
                expected: 3,
                given: 2
            })
        ));
    }

    #[test]
    fn the_budget_counts_what_is_there() {
        let (_dir, shelf) = shelf(12);
        assert_eq!(shelf.excess(&digest(), 12).unwrap(), 0);
        assert_eq!(shelf.excess(&digest(), 13).unwrap(), 1);
        shelf.begin(Vec::new(), digest(), 8).unwrap();
        shelf.take(0, IMAGE).unwrap();
        shelf.finish().unwrap();
        assert_eq!(shelf.excess(&"0".repeat(64), 5).unwrap(), 1);
        assert_eq!(
            shelf.excess(&digest(), 8).unwrap(),
            0,
            "it is there already"
        );
        fs::write(shelf.dir().join("notes"), b"x").unwrap();
        assert_eq!(shelf.look().unwrap().strangers, ["notes"]);
    }
}
