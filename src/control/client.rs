//! The command line's side of the control socket. Blocking: it does one thing.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    Call, Code, MAX_REPLY_BYTES, MAX_REQUEST_BYTES, PROTOCOL, Problem, Reply, Request, socket_path,
};

/// A verification of the ledger or a snapshot of a large database takes its time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// What to do when the two sides do not understand each other.
const SAME_VERSION: &str =
    "use the tidegate command of the version that runs, or restart the gateway";

/// A connection to a running gateway.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("the gateway does not run")]
    NotRunning,
    #[error("{path} is not for this user; use sudo, or become the gateway's user")]
    Denied { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl Client {
    /// Connects to the gateway with this state folder.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn connect(state_dir: &Path) -> Result<Self, CallError> {
        let path = socket_path(state_dir);
        let stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
            // No file, or one that a killed gateway left behind.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CallError::NotRunning,
            io::ErrorKind::PermissionDenied => CallError::Denied { path: path.clone() },
            _ => CallError::Io {
                path: path.clone(),
                source,
            },
        })?;
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIMEOUT)))
            .map_err(|source| CallError::Io { path, source })?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The gateway's problem, or what went wrong on the way.
    pub fn call(&mut self, request: Request) -> Result<serde_json::Value, Problem> {
        let reply = self.exchange(request)?;
        if reply.protocol != PROTOCOL {
            let message = format!(
                "the running gateway is {} (control protocol {}), this command is {} (protocol {PROTOCOL})",
                reply.gateway,
                reply.protocol,
                env!("CARGO_PKG_VERSION")
            );
            return Err(Problem::new(Code::Version, message, SAME_VERSION));
        }
        match (reply.answer, reply.problem) {
            (_, Some(problem)) => Err(problem),
            (answer, None) => Ok(answer.unwrap_or_default()),
        }
    }

    fn exchange(&mut self, request: Request) -> Result<Reply, Problem> {
        let broken = |error: io::Error| {
            let message = format!("the connection to the gateway broke: {error}");
            Problem::new(Code::Io, message, "see its log; then try again")
        };
        let call = Call {
            protocol: PROTOCOL,
            request,
        };
        let mut line =
            Zeroizing::new(serde_json::to_vec(&call).map_err(|error| broken(error.into()))?);
        if line.len() >= MAX_REQUEST_BYTES {
            let message = format!("the request is longer than {MAX_REQUEST_BYTES} bytes");
            return Err(Problem::new(Code::Invalid, message, "send less at once"));
        }
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(broken)?;
        let mut reply = Vec::new();
        let most = u64::try_from(MAX_REPLY_BYTES).unwrap_or(u64::MAX);
        self.stream
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut reply)
            .map_err(broken)?;
        if !reply.ends_with(b"\n") {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&reply).map_err(|error| {
            let message = format!("the gateway's answer is not understood: {error}");
            Problem::new(Code::Version, message, SAME_VERSION)
        })
    }
}
