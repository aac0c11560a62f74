//! A small HTTP server that answers as a test says: for an API of another broker, or an engine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

/// Answers requests, such as `GET /api/overview`, and their bodies, on a free port, and returns the
/// address. Each answer is a status and a body of JSON.
pub(crate) fn on_tcp(answer: impl Fn(&str, &[u8]) -> (u16, String) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap(), &answer);
        }
    });
    address
}

/// The same on a socket.
pub(crate) fn on_socket(
    path: &Path,
    answer: impl Fn(&str, &[u8]) -> (u16, String) + Send + 'static,
) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap(), &answer);
        }
    });
}

fn serve(stream: impl Read + Write, answer: impl Fn(&str, &[u8]) -> (u16, String)) {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        // A client that gave up sends no more.
        if stream.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line);
    }
    let Some((request, _version)) = lines.first().and_then(|line| line.rsplit_once(' ')) else {
        return;
    };
    let length = lines.iter().find_map(|line| {
        let line = line.to_lowercase();
        line.strip_prefix("content-length:")?.trim().parse().ok()
    });
    let mut sent = vec![0; length.unwrap_or(0)];
    if stream.read_exact(&mut sent).is_err() {
        return;
    }
    let (status, body) = answer(request, &sent);
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} so\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n"
    );
    let _gone = stream.get_mut().write_all((head + &body).as_bytes());
}
