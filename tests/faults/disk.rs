//! Disks of a test's own: mounted over the state folder, full, slow or failing on demand. This takes
//! root and a kernel that mounts; where that is missing, the test fails and says so.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Runs a program of the system, which must succeed.
fn system(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed: {}These tests mount disks of their own: run them as root, where mount and loop devices are allowed.",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Something mounted; let go when dropped, also while it is still in use.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A disk mounted somewhere.
pub struct Disk {
    // In the order in which they must be let go.
    at: Mount,
    below: Option<Mount>,
    frozen: bool,
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Disk {
    /// Memory of `mib` MiB, as /run or a small appliance has it.
    pub fn tmpfs(at: &Path, mib: u32) -> Self {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}M,mode=0700");
        system("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(at)]);
        Self {
            at: Mount(at.to_owned()),
            below: None,
            frozen: false,
        }
    }

    /// An ext4 file system of `mib` MiB in a file in `folder`.
    pub fn ext4(at: &Path, folder: &Path, mib: u32) -> Self {
        fs::create_dir_all(at).unwrap();
        let image = folder.join("disk.img");
        format(&image, mib, &[]);
        system("mount", &["-o", "loop", text(&image), text(at)]);
        Self {
            at: Mount(at.to_owned()),
            below: None,
            frozen: false,
        }
    }

    /// An ext4 file system that believes to have 256 MiB, on `mib` MiB of memory: when those are
    /// used up, its writes and syncs fail with EIO, as on a card that wears out. It has no journal,
    /// which would make it read-only for good at the first error.
    pub fn failing(at: &Path, folder: &Path, mib: u32) -> Self {
        let below = folder.join("below");
        fs::create_dir_all(&below).unwrap();
        let size = format!("size={mib}M");
        system(
            "mount",
            &["-t", "tmpfs", "-o", &size, "tmpfs", text(&below)],
        );
        let below = Mount(below);
        fs::create_dir_all(at).unwrap();
        let image = below.0.join("disk.img");
        format(&image, 256, &["-O", "^has_journal"]);
        system(
            "mount",
            &["-o", "loop,errors=continue", text(&image), text(at)],
        );
        Self {
            at: Mount(at.to_owned()),
            below: Some(below),
            frozen: false,
        }
    }

    /// Uses up the space there is: of the disk, or of what is below it, so that writes fail.
    pub fn fill(&self) {
        let on = self.below.as_ref().unwrap_or(&self.at);
        let mut file = File::create(on.0.join("ballast")).unwrap();
        let mut piece = vec![0x55; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() || file.sync_data().is_err() {
                // The last crumbs as well.
                let half = piece.len() / 2;
                piece.truncate(half);
            }
        }
    }

    /// Gives the space back.
    pub fn make_room(&self) {
        let on = self.below.as_ref().unwrap_or(&self.at);
        fs::remove_file(on.0.join("ballast")).unwrap();
    }

    /// Holds up every write until [`Disk::thaw`].
    pub fn freeze(&mut self) {
        system("fsfreeze", &["--freeze", text(&self.at.0)]);
        self.frozen = true;
    }

    pub fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            system("fsfreeze", &["--unfreeze", text(&self.at.0)]);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen {
            let _ = Command::new("fsfreeze")
                .args(["--unfreeze", text(&self.at.0)])
                .status();
        }
    }
}

fn format(image: &Path, mib: u32, more: &[&str]) {
    let file = File::create(image).unwrap();
    file.set_len(u64::from(mib) << 20).unwrap();
    drop(file);
    let mut arguments = vec!["-q", "-F", "-E", "lazy_itable_init=0,root_owner=0:0"];
    arguments.extend(more);
    arguments.push(text(image));
    system("mkfs.ext4", &arguments);
}
