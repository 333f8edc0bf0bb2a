//! Secrets on the command line: never as an argument, where every user can see them.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use zeroize::Zeroizing;

use crate::control::{Code, Problem, Secret};

/// No secret or password is longer.
const MAX_BYTES: u64 = 4096;
/// As many as a signature has; in hex it is 64 characters.
const GENERATED_BYTES: usize = 32;

/// Reads the text in `path`, or standard input for `-`, without the line end.
pub(super) fn read(path: &Path) -> Result<Secret, Problem> {
    let mut text = Zeroizing::new(String::new());
    let shown = if path == Path::new("-") {
        "standard input".into()
    } else {
        path.to_string_lossy()
    };
    let read = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
    };
    read.map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => Code::NotFound,
            io::ErrorKind::PermissionDenied => Code::Denied,
            _ => Code::Io,
        };
        Problem::new(
            code,
            format!("{shown}: {error}"),
            "name a readable text file, or - for standard input",
        )
    })?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        return Err(Problem::new(Code::Invalid, format!("{shown} is empty"), ""));
    }
    if u64::try_from(secret.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        let message = format!("{shown} has more than {MAX_BYTES} bytes");
        return Err(Problem::new(
            Code::Invalid,
            message,
            "is it the right file?",
        ));
    }
    Ok(Secret::new(secret.to_owned()))
}

/// A new secret: 32 random bytes in hex.
pub(super) fn generate() -> Result<Secret, Problem> {
    let mut bytes = Zeroizing::new([0; GENERATED_BYTES]);
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| {
        Problem::new(
            Code::Internal,
            "the system gave no random numbers",
            "try again",
        )
    })?;
    Ok(Secret::new(
        bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_without_its_line_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("secret");
        fs::write(&path, " s3cret \r\n").expect("written");
        assert_eq!(read(&path).expect("read").expose(), " s3cret ");
        for (content, wanted) in [
            ("\n".to_owned(), "is empty"),
            ("x".repeat(5000), "more than"),
        ] {
            fs::write(&path, content).expect("written");
            let problem = read(&path).expect_err("refused");
            assert!(problem.message.contains(wanted), "{problem:?}");
        }
        assert_eq!(
            read(&dir.path().join("none")).expect_err("missing").code,
            Code::NotFound
        );
    }

    #[test]
    fn generated_secrets_are_long_and_differ() {
        let (one, other) = (generate().expect("made"), generate().expect("made"));
        assert_eq!(one.expose().len(), 64);
        assert_ne!(one.expose(), other.expose());
        assert!(one.expose().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
