//! `tidegate firmware keygen` and `sign`: they need no gateway and no configuration.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tidegate_wire::{
    DeviceId,
    manifest::{MAX_SIGNED, Manifest, Refusal, Signed, Version},
};

use super::problem;
use crate::{
    cli::{Context, Ended},
    control::{Code, Problem},
    ota::signing::{self, ReleaseKey},
};

/// How long a release may be installed unless its manifest says otherwise: long enough for a device
/// that is switched on once a year.
const VALID: &str = "400d";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SignArgs {
    /// The image as the device is to write it
    image: PathBuf,
    /// A private release key (repeatable: two while one key replaces the other)
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// What it is for, such as dashboard
    #[arg(long, value_name = "NAME", required_unless_present = "add")]
    product: Option<String>,
    /// What it runs on, such as esp32c3
    #[arg(long, value_name = "NAME", required_unless_present = "add")]
    chip: Option<String>,
    /// Its version, such as 1.2.0
    #[arg(
        long = "release",
        value_name = "VERSION",
        required_unless_present = "add"
    )]
    version: Option<String>,
    /// Raise it when what came before must never run again
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    security_version: u32,
    /// The oldest version that can be updated from [default: any]
    #[arg(long, value_name = "VERSION")]
    min_version: Option<String>,
    /// Rises with every release [default: the seconds since 1970]
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<u64>,
    /// For how long it may be installed
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = VALID)]
    valid: Duration,
    /// Add a signature to the manifest that is there, which stays as it is
    #[arg(long, conflicts_with_all = ["product", "chip", "version", "min_version", "sequence"])]
    add: bool,
    /// File for the signed manifest [default: IMAGE with .manifest appended]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The manifest's place unless it is named.
pub(super) fn beside(image: &Path) -> PathBuf {
    let mut path = image.as_os_str().to_owned();
    path.push(".manifest");
    path.into()
}

pub(super) fn keygen(context: &Context, path: &Path) -> Ended {
    let (public, beside) = ReleaseKey::generate(path).map_err(|error| problem(&error))?;
    let answer = serde_json::json!({
        "id": public.id().to_string(),
        "public": public.to_string(),
        "private_file": path,
        "public_file": beside,
    });
    context.output.answer(&answer, |_| {
        format!(
            "Release key {} in {}: keep it secret, and keep a copy.\n\
             For the gateway: updates.release_keys = [\"{public}\"]",
            public.id(),
            path.display(),
        )
    })?;
    Ok(())
}

pub(super) fn run(context: &Context, args: &SignArgs) -> Ended {
    let out = args.out.clone().unwrap_or_else(|| beside(&args.image));
    let keys = args.keys.iter().map(|path| ReleaseKey::read(path));
    let keys: Vec<ReleaseKey> = keys
        .collect::<Result<_, _>>()
        .map_err(|error| problem(&error))?;
    let text = if args.add {
        add(args, &out, &keys)?
    } else {
        let text = new(args, &keys)?;
        signing::create(&out, &text, 0o644).map_err(|error| problem(&error))?;
        text
    };
    // What was written is read again as everybody else will.
    let signed = Signed::parse(&text).map_err(|error| refused(&error.into()))?;
    let manifest = signed.claims().map_err(|error| refused(&error.into()))?;
    let ids: Vec<String> = signed
        .signatures()
        .map(|signature| signature.key.to_string())
        .collect();
    let release = format!(
        "{}/{}/{}",
        manifest.product, manifest.chip, manifest.version
    );
    let answer = serde_json::json!({
        "release": release,
        "sequence": manifest.sequence,
        "size": manifest.size,
        "expires_at": manifest.expires.saturating_mul(1000),
        "signed_by": ids,
        "manifest_file": out,
    });
    context.output.answer(&answer, |_| {
        format!(
            "Release {release} signed by {}: {}\nNext: tidegate firmware publish {}",
            ids.join(" and "),
            out.display(),
            args.image.display(),
        )
    })?;
    Ok(())
}

fn refused(refusal: &Refusal) -> Problem {
    Problem::of(Code::Invalid, refusal)
}

fn new(args: &SignArgs, keys: &[ReleaseKey]) -> Result<Vec<u8>, Problem> {
    let now = crate::clock::system_now().seconds();
    let (size, sha256) = signing::measure(&args.image).map_err(|error| problem(&error))?;
    let invalid = |what: &str, error: &dyn std::fmt::Display| {
        Problem::new(Code::Invalid, format!("{what}: {error}"), "")
    };
    let named = |what: &str, name: &Option<String>| -> Result<String, Problem> {
        let name = name.clone().unwrap_or_default();
        DeviceId::check(name.as_bytes()).map_err(|_| {
            let remedy = "use 1 to 64 characters of A-Z a-z 0-9 _ -";
            Problem::new(
                Code::Invalid,
                format!("{what}: {name:?} is no name"),
                remedy,
            )
        })?;
        Ok(name)
    };
    let (product, chip) = (
        named("--product", &args.product)?,
        named("--chip", &args.chip)?,
    );
    let version = args.version.clone().unwrap_or_default();
    let manifest = Manifest {
        sequence: args.sequence.unwrap_or(now).max(1),
        product: &product,
        chip: &chip,
        version: Version::parse(&version).map_err(|error| invalid("--release", &error))?,
        security_version: args.security_version,
        min_version: args
            .min_version
            .as_deref()
            .map(Version::parse)
            .transpose()
            .map_err(|error| invalid("--min-version", &error))?,
        size,
        sha256,
        expires: now.saturating_add(args.valid.as_secs()),
    };
    signing::sign(&manifest, keys).map_err(|error| problem(&error))
}

/// Replaces the manifest at `out` by one with more signatures.
fn add(args: &SignArgs, out: &Path, keys: &[ReleaseKey]) -> Result<Vec<u8>, Problem> {
    let io =
        |error: std::io::Error| Problem::new(Code::Io, format!("{}: {error}", out.display()), "");
    let there = std::fs::read(out).map_err(io)?;
    let there = there
        .get(..there.len().min(MAX_SIGNED + 1))
        .unwrap_or_default();
    let signed = Signed::parse(there).map_err(|error| refused(&error.into()))?;
    let claims = signed.claims().map_err(|error| refused(&error.into()))?;
    let (size, sha256) = signing::measure(&args.image).map_err(|error| problem(&error))?;
    if (claims.size, claims.sha256) != (size, sha256) {
        let message = format!("{} is not of this image", out.display());
        return Err(Problem::new(
            Code::Invalid,
            message,
            "name the image it was made for",
        ));
    }
    let text = signing::add(there, keys).map_err(|error| problem(&error))?;
    let new = PathBuf::from(format!("{}.new", out.display()));
    signing::create(&new, &text, 0o644).map_err(|error| problem(&error))?;
    std::fs::rename(&new, out).map_err(io)?;
    Ok(text)
}
