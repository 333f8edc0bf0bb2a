use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::Arc,
};

use serde_json::{Value, json};

use super::*;
use crate::app::Tasks;

/// Answers with what it was asked, as far as that may be shown.
struct Echo;

impl Perform for Echo {
    fn perform(&self, request: Request, _: Caller) -> Performed<'_> {
        Box::pin(async move {
            match request {
                Request::KeyRevoke { id } => Err(Problem::new(
                    Code::NotFound,
                    format!("no key {id}"),
                    "see key list",
                )),
                other => Ok(json!({ "asked": format!("{other:?}") })),
            }
        })
    }
}

struct Running {
    dir: tempfile::TempDir,
    tasks: Tasks,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (tasks, _) = Tasks::new();
        let guard = runtime.enter();
        let socket = Socket::bind(dir.path()).expect("bound");
        tasks.spawn("control", serve(socket, Arc::new(Echo), tasks.clone()));
        drop(guard);
        Self {
            dir,
            tasks,
            runtime,
        }
    }

    fn path(&self) -> PathBuf {
        socket_path(self.dir.path())
    }

    fn client(&self) -> Client {
        Client::connect(self.dir.path()).expect("connected")
    }

    /// The answer to a line as it is.
    fn raw(&self, line: &str) -> Value {
        let mut stream = UnixStream::connect(self.path()).expect("connected");
        // A request that is refused before it was read to its end breaks the pipe.
        let _ = stream.write_all(line.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        serde_json::from_slice(&text).expect("one line of JSON")
    }
}

#[test]
fn requests_are_answered_in_turn_on_one_connection() {
    let gateway = Running::start();
    let mut client = gateway.client();
    for id in ["a", "b"] {
        let answer = client
            .call(Request::DeviceShow { id: id.to_owned() })
            .expect("answered");
        assert_eq!(answer["asked"], format!("DeviceShow {{ id: {id:?} }}"));
    }
    let problem = client
        .call(Request::KeyRevoke { id: "k".to_owned() })
        .expect_err("no such key");
    assert_eq!(
        problem,
        Problem::new(Code::NotFound, "no key k", "see key list")
    );
}

#[test]
fn only_its_owner_can_open_the_socket_and_secrets_do_not_show() {
    let gateway = Running::start();
    let mode = fs::metadata(gateway.path())
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let secret = Secret::new("hunter2".to_owned());
    let request = Request::DeviceEnrol {
        id: "a".to_owned(),
        secret,
    };
    let answer = gateway.client().call(request).expect("answered");
    assert!(!answer.to_string().contains("hunter2"), "{answer}");
}

#[test]
fn nonsense_is_answered_with_a_problem_that_does_not_quote_it() {
    let gateway = Running::start();
    for (line, code) in [
        ("hello\n", "invalid"),
        ("{}\n", "invalid"),
        ("{\"protocol\":1}\n", "invalid"),
        (
            "{\"protocol\":1,\"request\":{\"operation\":\"hunter2\"}}\n",
            "invalid",
        ),
        (
            "{\"protocol\":1,\"request\":{\"operation\":\"device_enrol\",\"id\":[\"hunter2\"]}}\n",
            "invalid",
        ),
        (
            "{\"protocol\":7,\"request\":{\"operation\":\"of the future\"}}\n",
            "version",
        ),
        ("\n", "invalid"),
        ("{\"protocol\":1", "invalid"),
    ] {
        let reply = gateway.raw(line);
        assert_eq!(reply["problem"]["code"], code, "{line}: {reply}");
        assert!(!reply.to_string().contains("hunter2"), "{reply}");
        assert_eq!(reply["gateway"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn a_request_that_never_ends_is_cut_off() {
    let gateway = Running::start();
    let reply = gateway.raw(&"x".repeat(MAX_REQUEST_BYTES + 1));
    assert_eq!(reply["problem"]["code"], "invalid", "{reply}");
    let mut client = gateway.client();
    let large = Request::CommandSend {
        device: "a".to_owned(),
        body: "x".repeat(MAX_REQUEST_BYTES),
        ttl_seconds: None,
        idempotency_key: None,
    };
    assert_eq!(
        client.call(large).expect_err("too large").code,
        Code::Invalid
    );
    client
        .call(Request::DeviceList)
        .expect("the connection is still good");
}

#[test]
fn a_gateway_of_another_version_is_recognised() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(socket_path(dir.path())).expect("bound");
    let other = std::thread::spawn(move || {
        for reply in [
            "{\"protocol\":2,\"gateway\":\"9.9.9\",\"news\":1}\n",
            "what?\n",
        ] {
            let (mut stream, _) = listener.accept().expect("accepted");
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).expect("read") > 0);
            stream.write_all(reply.as_bytes()).expect("written");
        }
    });
    for wanted in ["9.9.9", "not understood"] {
        let mut client = Client::connect(dir.path()).expect("connected");
        let problem = client
            .call(Request::DeviceList)
            .expect_err("another version");
        assert_eq!(problem.code, Code::Version);
        assert!(problem.message.contains(wanted), "{problem:?}");
        assert!(problem.remedy.contains("restart"), "{problem:?}");
    }
    other.join().expect("ended");
}

#[test]
fn without_a_gateway_the_client_says_so_also_when_a_socket_was_left_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(matches!(
        Client::connect(dir.path()),
        Err(CallError::NotRunning)
    ));
    drop(UnixListener::bind(socket_path(dir.path())).expect("bound"));
    assert!(socket_path(dir.path()).exists(), "left behind");
    assert!(matches!(
        Client::connect(dir.path()),
        Err(CallError::NotRunning)
    ));
}

#[test]
fn a_socket_left_behind_is_replaced_a_live_one_or_a_file_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let _guard = runtime.enter();
    drop(UnixListener::bind(socket_path(dir.path())).expect("bound"));
    let socket = Socket::bind(dir.path()).expect("replaced");
    assert!(matches!(Socket::bind(dir.path()), Err(BindError::InUse(_))));
    drop(socket);
    assert!(!socket_path(dir.path()).exists(), "removed at the end");
    fs::write(socket_path(dir.path()), "precious").expect("written");
    assert!(matches!(
        Socket::bind(dir.path()),
        Err(BindError::NotASocket(_))
    ));
    assert_eq!(
        fs::read(socket_path(dir.path())).expect("kept"),
        b"precious"
    );
    let error = Socket::bind(&dir.path().join("x".repeat(120))).expect_err("too long");
    assert!(
        error.to_string().contains("less than 95 characters"),
        "{error}"
    );
}

#[test]
fn stopping_does_not_wait_for_idle_clients() {
    let gateway = Running::start();
    let idle = UnixStream::connect(gateway.path()).expect("connected");
    gateway
        .client()
        .call(Request::DeviceList)
        .expect("both are accepted");
    gateway.tasks.stop();
    let drained = gateway.runtime.block_on(async {
        tokio::time::timeout(std::time::Duration::from_secs(5), gateway.tasks.drained()).await
    });
    drained.expect("at once");
    drop(idle);
}
