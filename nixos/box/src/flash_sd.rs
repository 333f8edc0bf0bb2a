//! Writing the gateway's image to a card, and to nothing else.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::program::{ProgramError, read};

/// Arguments of `flash-sd`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image, plain or compressed with zstd
    #[arg(long)]
    image: PathBuf,
    /// The card [default: the only card there is]
    device: Option<PathBuf>,
    /// Say what would be written where, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FlashError {
    #[error("{0} is not a disk of this machine; `lsblk` lists them")]
    NoDisk(String),
    #[error("{0} is a partition; write the whole disk, which is {1}")]
    Partition(String, String),
    #[error(
        "{0} cannot be taken out of this machine, so it is no card. If it is, write the image with `dd`, knowingly"
    )]
    NotRemovable(String),
    #[error("{0} is in use: {1} is mounted. Unmount it first")]
    Mounted(String, String),
    #[error("{0} can only be read; is the little switch on the card's side down?")]
    ReadOnly(String),
    #[error("no card was found: put one in, or name its device")]
    NoCard,
    #[error("there is more than one card: {0}. Name the one to write")]
    Several(String),
    #[error("nothing was written")]
    Declined,
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("lsblk said what it never says: {0}")]
    Lsblk(String),
    #[error("what was written to {0} is not what is read back from it: the card is broken")]
    Differs(String),
}

/// The part of `lsblk --json` that decides.
const COLUMNS: &str = "PATH,TYPE,SIZE,MODEL,RM,HOTPLUG,RO,MOUNTPOINTS,PKNAME,TRAN";

pub(crate) fn run(args: &Args) -> Result<(), FlashError> {
    let text = read(Command::new("lsblk").args(["--json", "--output", COLUMNS]))?;
    let disks: Value = serde_json::from_str(&text).map_err(|_| FlashError::Lsblk(text))?;
    let wanted = args
        .device
        .as_ref()
        .map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.clone()));
    let (path, what) = choose(&disks, wanted.as_deref())?;
    println!(
        "{} will be written to {path} ({what}). Everything on it is lost.",
        args.image.display()
    );
    if args.dry_run {
        return Ok(());
    }
    if !args.yes {
        print!("Write \"yes\" to go on: ");
        io::stdout().flush().map_err(at(Path::new("terminal")))?;
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(at(Path::new("terminal")))?;
        if answer.trim() != "yes" {
            return Err(FlashError::Declined);
        }
    }
    let written = write(&args.image, Path::new(&path))?;
    println!(
        "{} MiB written and read back. Put the card into the Pi.",
        written >> 20
    );
    Ok(())
}

/// The disk to write: the one named, or the only card; never one that is mounted or built in.
fn choose(lsblk: &Value, wanted: Option<&Path>) -> Result<(String, String), FlashError> {
    let disks = lsblk["blockdevices"]
        .as_array()
        .ok_or_else(|| FlashError::Lsblk(lsblk.to_string()))?;
    let path = |disk: &Value| disk["path"].as_str().unwrap_or_default().to_owned();
    let disk = match wanted {
        Some(wanted) => {
            let wanted = wanted.to_string_lossy().into_owned();
            if let Some(parent) = disks
                .iter()
                .find(|disk| children(disk).any(|part| path(part) == wanted))
            {
                return Err(FlashError::Partition(wanted, path(parent)));
            }
            let found = disks.iter().find(|disk| path(disk) == wanted);
            found.ok_or(FlashError::NoDisk(wanted))?
        }
        None => {
            let cards: Vec<&Value> = disks
                .iter()
                .filter(|disk| usable(disk).is_ok() && has_medium(disk))
                .collect();
            match cards.as_slice() {
                [] => return Err(FlashError::NoCard),
                [card] => *card,
                cards => {
                    let all: Vec<String> = cards.iter().map(|card| path(card)).collect();
                    return Err(FlashError::Several(all.join(", ")));
                }
            }
        }
    };
    usable(disk)?;
    let model = disk["model"].as_str().unwrap_or("card").trim();
    Ok((
        path(disk),
        format!("{model}, {}", disk["size"].as_str().unwrap_or("?")),
    ))
}

fn children(disk: &Value) -> impl Iterator<Item = &Value> {
    disk["children"].as_array().into_iter().flatten()
}

fn has_medium(disk: &Value) -> bool {
    !matches!(disk["size"].as_str(), None | Some("0B"))
}

fn usable(disk: &Value) -> Result<(), FlashError> {
    let path = disk["path"].as_str().unwrap_or_default().to_owned();
    if disk["type"] != "disk" {
        return Err(FlashError::NoDisk(path));
    }
    let removable = [&disk["rm"], &disk["hotplug"]]
        .iter()
        .any(|flag| **flag == true || **flag == "1");
    if !removable {
        return Err(FlashError::NotRemovable(path));
    }
    if disk["ro"] == true || disk["ro"] == "1" {
        return Err(FlashError::ReadOnly(path));
    }
    // Partitions, and what lies on them: encrypted or logical volumes.
    let mut below: Vec<&Value> = vec![disk];
    while let Some(part) = below.pop() {
        let mount = part["mountpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(Value::as_str);
        if let Some(mount) = mount {
            return Err(FlashError::Mounted(path, mount.to_owned()));
        }
        below.extend(children(part));
    }
    Ok(())
}

/// Writes the image and reads it back; the bytes written.
fn write(image: &Path, device: &Path) -> Result<u64, FlashError> {
    // Exclusive: fails if anything holds the disk, whatever lsblk said a moment ago.
    const O_EXCL: i32 = 0o200;
    let mut to = {
        use std::os::unix::fs::OpenOptionsExt as _;
        OpenOptions::new()
            .write(true)
            .custom_flags(O_EXCL)
            .open(device)
            .map_err(at(device))?
    };
    let written = with_image(image, |from| io::copy(from, &mut to).map_err(at(device)))?;
    to.sync_all().map_err(at(device))?;
    drop(to);
    let same = with_image(image, |from| {
        let mut back = File::open(device).map_err(at(device))?;
        equal(from, &mut back).map_err(at(device))
    })?;
    if same {
        Ok(written)
    } else {
        Err(FlashError::Differs(device.display().to_string()))
    }
}

fn with_image<T>(
    image: &Path,
    use_it: impl FnOnce(&mut dyn Read) -> Result<T, FlashError>,
) -> Result<T, FlashError> {
    if image.extension().is_none_or(|extension| extension != "zst") {
        return use_it(&mut File::open(image).map_err(at(image))?);
    }
    let mut command = Command::new("zstd");
    command
        .args(["--decompress", "--stdout"])
        .arg(image)
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|source| ProgramError::Start {
        line: "zstd".to_owned(),
        source,
    })?;
    let outcome = match child.stdout.take() {
        Some(mut stdout) => use_it(&mut stdout),
        None => Err(FlashError::Lsblk("zstd has no output".to_owned())),
    };
    let status = child.wait().map_err(at(image))?;
    if outcome.is_ok() && !status.success() {
        return Err(ProgramError::Failed {
            line: "zstd".to_owned(),
            status,
            said: String::new(),
        }
        .into());
    }
    outcome
}

/// Whether `back` begins with all that `from` has.
fn equal(from: &mut dyn Read, back: &mut dyn Read) -> io::Result<bool> {
    let (mut one, mut two) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let length = from.read(&mut one)?;
        if length == 0 {
            return Ok(true);
        }
        let (Some(one), Some(two)) = (one.get(..length), two.get_mut(..length)) else {
            return Ok(false);
        };
        if back.read_exact(two).is_err() || one != two {
            return Ok(false);
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FlashError + use<> {
    let path = path.to_owned();
    move |source| FlashError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine() -> Value {
        json!({ "blockdevices": [
            { "path": "/dev/nvme0n1", "type": "disk", "size": "1T", "rm": false, "hotplug": false, "ro": false,
              "mountpoints": [null], "children": [{ "path": "/dev/nvme0n1p1", "mountpoints": ["/"] }] },
            { "path": "/dev/sdb", "type": "disk", "size": "29G", "rm": true, "hotplug": true, "ro": false,
              "model": "Card Reader", "mountpoints": [null], "children": [{ "path": "/dev/sdb1", "mountpoints": [null] }] },
            { "path": "/dev/sdc", "type": "disk", "size": "0B", "rm": true, "hotplug": true, "ro": false, "mountpoints": [null] },
        ]})
    }

    #[test]
    fn the_only_card_is_found() {
        assert_eq!(
            choose(&machine(), None).unwrap(),
            ("/dev/sdb".into(), "Card Reader, 29G".into())
        );
    }

    #[test]
    fn built_in_disks_and_partitions_are_refused() {
        assert!(matches!(
            choose(&machine(), Some(Path::new("/dev/nvme0n1"))),
            Err(FlashError::NotRemovable(_))
        ));
        let refused = choose(&machine(), Some(Path::new("/dev/sdb1")));
        assert!(matches!(refused, Err(FlashError::Partition(_, whole)) if whole == "/dev/sdb"));
        assert!(matches!(
            choose(&machine(), Some(Path::new("/dev/sdz"))),
            Err(FlashError::NoDisk(_))
        ));
    }

    #[test]
    fn a_card_that_is_mounted_anywhere_below_is_refused() {
        let mut machine = machine();
        machine["blockdevices"][1]["children"][0]["children"] =
            json!([{ "path": "/dev/mapper/x", "mountpoints": ["/media/x"] }]);
        assert!(matches!(choose(&machine, None), Err(FlashError::NoCard)));
        let refused = choose(&machine, Some(Path::new("/dev/sdb")));
        assert!(matches!(refused, Err(FlashError::Mounted(_, mount)) if mount == "/media/x"));
    }

    #[test]
    fn two_cards_are_one_too_many_and_a_locked_one_is_said_to_be() {
        let mut machine = machine();
        machine["blockdevices"][2]["size"] = json!("8G");
        assert!(matches!(
            choose(&machine, None),
            Err(FlashError::Several(_))
        ));
        machine["blockdevices"][2]["ro"] = json!(true);
        assert!(matches!(
            choose(&machine, Some(Path::new("/dev/sdc"))),
            Err(FlashError::ReadOnly(_))
        ));
    }

    #[test]
    fn an_image_is_written_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (image, card) = (folder.path().join("a.img"), folder.path().join("card"));
        fs::write(&image, vec![7; 3 << 20]).unwrap();
        fs::write(&card, vec![0; 4 << 20]).unwrap();
        assert_eq!(write(&image, &card).unwrap(), 3 << 20);
        assert_eq!(fs::read(&card).unwrap().len(), 4 << 20);
    }
}
