//! What stands around the box: a backend that writes down what it gets, a time server, a DHCP server.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::network::{OUTSIDE, inside};
use crate::{Outcome, shell::read};

/// Where the backend writes down each request, one file each.
pub(crate) const RECEIVED: &str = "/var/lib/testbed/received";
/// While this file is there, the backend answers 503.
pub(crate) const DOWN: &str = "/run/testbed-backend-down";

/// Starts all three and stays.
pub(crate) fn run() -> Outcome {
    fs::create_dir_all(RECEIVED).map_err(|error| format!("{RECEIVED}: {error}"))?;
    fs::write(
        "/run/testbed-chrony.conf",
        "local stratum 2\nallow\ncmdport 0\npidfile /run/testbed-chrony.pid\nbindcmdaddress /\n",
    )
    .map_err(|error| error.to_string())?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let spawn = |command: &mut Command| command.spawn().map_err(|error| error.to_string());
    let mut clock = spawn(inside("outside", "chronyd").args([
        "-n",
        "-x",
        "-u",
        "root",
        "-f",
        "/run/testbed-chrony.conf",
    ]))?;
    let mut dhcp = spawn(inside("outside", "dnsmasq").args([
        "--keep-in-foreground",
        "--port=0",
        "--interface=outside0",
        "--bind-interfaces",
        "--dhcp-range=192.168.77.10,192.168.77.50,1h",
        "--dhcp-option=option:router,192.168.77.2",
        "--user=root",
        "--dhcp-leasefile=/run/testbed-leases",
        "--conf-file=/dev/null",
    ]))?;
    let mut backend = spawn(inside("outside", &own.to_string_lossy()).args(["guest", "backend"]))?;
    read(Command::new("systemd-notify").arg("--ready"))?;
    let ended = backend.wait();
    let _ = (clock.kill(), dhcp.kill());
    Err(format!("the backend ended: {ended:?}"))
}

/// The backend: 200 with a reply for every POST it could write down.
pub(crate) fn backend() -> Outcome {
    let listener =
        TcpListener::bind((OUTSIDE, 8080)).map_err(|error| format!("{OUTSIDE}:8080: {error}"))?;
    for stream in listener.incoming().flatten() {
        thread::spawn(move || serve(&stream));
    }
    Ok(())
}

fn serve(mut stream: &TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let Ok(clone) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(clone);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut headers = serde_json::Map::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), Value::from(value.trim()));
        }
        let length = headers
            .get("content-length")
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let (status, reply) = if Path::new(DOWN).exists() {
            ("503 Service Unavailable", String::new())
        } else {
            let record = json!({
                "request": request.trim_end(), "headers": headers, "body": String::from_utf8_lossy(&body),
            });
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let path = PathBuf::from(RECEIVED).join(format!("{:020}", now.as_nanos()));
            match fs::write(path, record.to_string()) {
                Ok(()) => ("200 OK", r#"{"thanks":true}"#.to_owned()),
                Err(_) => ("500 Internal Server Error", String::new()),
            }
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{reply}",
            reply.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// What the backend received, oldest first.
pub(crate) fn received() -> Vec<Value> {
    let mut paths: Vec<PathBuf> = fs::read_dir(RECEIVED)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| serde_json::from_str(&fs::read_to_string(path).ok()?).ok())
        .collect()
}
