//! The gateway's side of the control socket.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use zeroize::Zeroize as _;

use super::{
    Call, Caller, Code, MAX_REQUEST_BYTES, PROTOCOL, Perform, Problem, Reply, Request, socket_path,
};
use crate::app::Tasks;

/// Operators at one machine; more wait.
const MAX_CLIENTS: usize = 16;
/// A request is one write; nothing that takes longer to arrive is one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For a client that does not take its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause when a connection cannot be accepted (no file descriptors), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why the socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{0} is in use by another tidegate; stop it first, or choose another state_dir")]
    InUse(PathBuf),
    #[error("{0} is not a socket; move it away")]
    NotASocket(PathBuf),
    #[error(
        "{path} cannot be made a socket: {source}; state_dir must be a writable folder with a path of less than 95 characters"
    )]
    Io { path: PathBuf, source: io::Error },
}

/// The bound socket. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Who may call, beside root.
    user: u32,
}

impl Socket {
    /// Listens on `<state_dir>/control.sock`. Call it with the state's lock held and inside a tokio
    /// runtime: a socket file that nobody answers on is removed.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(state_dir: &Path) -> Result<Self, BindError> {
        let path = socket_path(state_dir);
        let failed = |source| BindError::Io {
            path: path.clone(),
            source,
        };
        match fs::symlink_metadata(&path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(BindError::NotASocket(path));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(&path).is_ok() => {
                return Err(BindError::InUse(path));
            }
            Ok(_) => fs::remove_file(&path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let user = fs::metadata("/proc/self").map_err(failed)?.uid();
        Ok(Self {
            listener,
            path,
            user,
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Whatever is left is found to be stale at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// The body of the control task: answers until the daemon stops.
pub async fn serve(socket: Socket, operations: Arc<dyn Perform>, tasks: Tasks) {
    let stopping = tasks.stopping();
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let accepted = async {
            let permit = Arc::clone(&clients).acquire_owned().await;
            (permit, socket.listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            () = stopping.cancelled() => return,
            (permit, accepted) = accepted => match (permit, accepted) {
                (Ok(permit), Ok((stream, _))) => (permit, stream),
                (_, Err(error)) => {
                    tracing::warn!(%error, "a control connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                // The semaphore is never closed.
                (Err(_), _) => return,
            },
        };
        let (operations, stopping, user) = (Arc::clone(&operations), stopping.clone(), socket.user);
        tasks.connection(async move {
            let _permit = permit;
            tokio::select! {
                // A client that waits for its next idea does not hold up the end.
                () = stopping.cancelled() => {}
                result = client(stream, user, &*operations) => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a control connection ended");
                    }
                }
            }
        });
    }
}

async fn client(stream: UnixStream, user: u32, operations: &dyn Perform) -> io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    if !may_call(caller, user) {
        tracing::warn!(uid = caller, "refused a control connection");
        let message = "only root and the gateway's own user may do this";
        return answer(
            &mut write,
            Err(Problem::new(Code::Denied, message, "use sudo")),
        )
        .await;
    }
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        let most = u64::try_from(MAX_REQUEST_BYTES)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let mut limited = (&mut read).take(most);
        match timeout(REQUEST_TIMEOUT, limited.read_until(b'\n', &mut line)).await {
            Ok(result) => result?,
            Err(_) => return Ok(()),
        };
        if line.is_empty() {
            return Ok(());
        }
        if line.len() > MAX_REQUEST_BYTES {
            let message = format!("the request is longer than {MAX_REQUEST_BYTES} bytes");
            let problem = Problem::new(Code::Invalid, message, "send less at once");
            return answer(&mut write, Err(problem)).await;
        }
        let request = parse(&line);
        // It may have carried a secret.
        line.zeroize();
        let result = match request {
            Ok(request) => operations.perform(request, Caller(caller)).await,
            Err(problem) => Err(problem),
        };
        answer(&mut write, result).await?;
    }
}

/// Only root and the gateway's own user.
fn may_call(caller: u32, user: u32) -> bool {
    caller == 0 || caller == user
}

fn parse(line: &[u8]) -> Result<Request, Problem> {
    #[derive(serde::Deserialize)]
    struct Preamble {
        protocol: u32,
    }
    let invalid = |error: serde_json::Error| {
        // Its text can quote the request, which may hold a secret.
        let message = format!("the request is not understood (column {})", error.column());
        Problem::new(Code::Invalid, message, "send one JSON object per line")
    };
    let Preamble { protocol } = serde_json::from_slice(line).map_err(invalid)?;
    if protocol != PROTOCOL {
        let version = env!("CARGO_PKG_VERSION");
        return Err(Problem::new(
            Code::Version,
            format!(
                "the gateway is {version} and speaks control protocol {PROTOCOL}, not {protocol}"
            ),
            "use the tidegate command of the version that runs, or restart the gateway",
        ));
    }
    serde_json::from_slice::<Call>(line)
        .map(|call| call.request)
        .map_err(invalid)
}

async fn answer(
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
    result: Result<serde_json::Value, Problem>,
) -> io::Result<()> {
    let (answer, problem) = match result {
        Ok(answer) => (Some(answer), None),
        Err(problem) => (None, Some(problem)),
    };
    let gateway = env!("CARGO_PKG_VERSION").to_owned();
    let mut line = serde_json::to_vec(&Reply {
        protocol: PROTOCOL,
        gateway,
        answer,
        problem,
    })?;
    line.push(b'\n');
    timeout(ANSWER_TIMEOUT, write.write_all(&line)).await?
}

#[cfg(test)]
mod tests {
    use super::{Code, PROTOCOL, may_call, parse};

    #[test]
    fn others_may_not_call() {
        for (caller, user, may) in [
            (0, 990, true),
            (990, 990, true),
            (1000, 990, false),
            (990, 0, false),
        ] {
            assert_eq!(may_call(caller, user), may, "{caller} to {user}");
        }
    }

    proptest::proptest! {
        /// What a request that is not understood said is not repeated: it may have held a secret.
        #[test]
        fn no_line_panics_or_comes_back(line in "[{}\\[\\]\":,a-z0-9 ]{0,60}|\\PC{0,60}") {
            let whole = format!(r#"{{"protocol":{PROTOCOL},"request":{{"hunter2":{line:?}}}}}"#);
            for line in [&line, &whole] {
                let Err(problem) = parse(line.as_bytes()) else {
                    continue;
                };
                proptest::prop_assert!(matches!(problem.code, Code::Invalid | Code::Version));
                proptest::prop_assert!(!problem.to_string().contains("hunter2"));
            }
            proptest::prop_assert!(parse(whole.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_line_of_nothing_but_brackets_is_refused() {
        for open in ["[", "{\"request\":"] {
            let line = open.repeat(100_000);
            assert!(parse(line.as_bytes()).is_err());
        }
    }
}
