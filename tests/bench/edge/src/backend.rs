//! The backend of both systems: takes every POST and answers with the number of its message.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

use crate::Fallible;

#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    posts: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Backend {
    /// Listens on `address`.
    pub(crate) fn start(address: SocketAddr) -> Fallible<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        let posts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&posts);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, counted) => {}
                }
            });
        });
        Ok(Self {
            address,
            posts,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(crate) fn posts(&self) -> u64 {
        self.posts.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, posts: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let posts = Arc::clone(&posts);
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            // The peer went away: it may come again.
            let _ = serve(stream, &posts).await;
        });
    }
}

async fn serve(mut stream: TcpStream, posts: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::with_capacity(16 * 1024);
    loop {
        while let Some((total, number)) = request(&input) {
            posts.fetch_add(1, Ordering::Relaxed);
            let body = format!("{{\"status\":\"received\",\"n\":\"{number}\"}}");
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await?;
            input.drain(..total);
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// The length of the request that `input` begins with, if all of it is there, and the text of its
/// body's `n`.
fn request(input: &[u8]) -> Option<(usize, String)> {
    let head = input.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = std::str::from_utf8(input.get(..head)?).ok()?;
    let length: usize = text
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        })
        .unwrap_or(0);
    let total = head + 4 + length;
    let body = input.get(head + 4..total)?;
    let begin = body
        .windows(5)
        .position(|five| five == b"\"n\":\"")
        .map_or(body.len(), |at| at + 5);
    let digits = body
        .get(begin..)?
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .map(|byte| char::from(*byte))
        .collect();
    Some((total, digits))
}

#[cfg(test)]
mod tests {
    use super::request;

    #[test]
    fn a_request_is_taken_when_all_of_it_is_there() {
        let whole = b"POST /device/a/data HTTP/1.1\r\ncontent-length: 20\r\n\r\n{\"n\":\"0000000042\",1}POST";
        assert_eq!(
            request(whole),
            Some((whole.len() - 4, "0000000042".to_owned()))
        );
        assert_eq!(request(&whole[..whole.len() - 5]), None);
    }
}
