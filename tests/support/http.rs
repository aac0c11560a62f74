//! An HTTP client that sends exactly what it is given, including wrong headers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(crate) struct Request {
    to: SocketAddr,
    line: String,
    headers: Vec<(String, String)>,
    has_host: bool,
}

/// What a browser has of a sign-in at the page.
#[derive(Debug, Clone)]
pub(crate) struct PageLogin {
    /// The cookie with its name.
    pub(crate) cookie: String,
    /// What the page sends beside it.
    pub(crate) key: String,
    /// What the page keeps for itself.
    #[allow(dead_code, reason = "one of the test programs does not use it")]
    pub(crate) proof_key: String,
}

impl PageLogin {
    /// Of the answer to a sign-in.
    pub(crate) fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookie = answer.header("set-cookie").unwrap();
        Self {
            cookie: cookie.split(';').next().unwrap().to_owned(),
            key: answer.json()["key"].as_str().unwrap().to_owned(),
            proof_key: answer.json()["proof_key"].as_str().unwrap().to_owned(),
        }
    }

    /// The same key beside other cookies.
    #[allow(dead_code, reason = "one of the test programs does not use it")]
    pub(crate) fn with_cookies(&self, cookies: &str) -> Self {
        Self {
            cookie: cookies.to_owned(),
            ..self.clone()
        }
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn new(to: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            to,
            line: format!("{method} {path} HTTP/1.1"),
            headers: Vec::new(),
            has_host: false,
        }
    }

    /// A request to the server at `url`, such as `http://localhost:15672`.
    #[allow(dead_code, reason = "one of the test programs does not use it")]
    pub(crate) fn to_url(url: &str, method: &str, path: &str) -> Self {
        let authority = url.trim_start_matches("http://").trim_end_matches('/');
        let to = authority
            .to_socket_addrs()
            .unwrap()
            .find(SocketAddr::is_ipv4)
            .unwrap();
        Self::new(to, method, path)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.has_host |= name == "host";
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn password(self, user: &str, password: &str) -> Self {
        let pair = STANDARD.encode(format!("{user}:{password}"));
        self.header("authorization", &format!("Basic {pair}"))
    }

    /// As the page sends it to whoever is signed in.
    pub(crate) fn signed_in(self, login: &PageLogin) -> Self {
        let request = self.header("cookie", &login.cookie);
        request.header("x-cbroker-key", &login.key)
    }

    /// Sends the request and reads the whole response.
    pub(crate) fn send(self, body: &str) -> Answer {
        let mut stream = self.open(body);
        let (mut bytes, mut part) = (Vec::new(), [0; 16 * 1024]);
        // Some servers ignore `connection: close`.
        while !is_whole(&bytes) {
            match stream.read(&mut part).unwrap() {
                0 => break,
                count => bytes.extend_from_slice(&part[..count]),
            }
        }
        Answer::parse(&bytes)
    }

    /// Sends the request and returns the stream, to read the response as it arrives.
    pub(crate) fn open(self, body: &str) -> TcpStream {
        let length = body.len();
        self.open_part(body, length)
    }

    /// Sends the head and the beginning of a body of `length` bytes.
    pub(crate) fn open_part(mut self, body: &str, length: usize) -> TcpStream {
        if !self.has_host {
            let host = self.to.to_string();
            self = self.header("host", &host);
        }
        let mut text = format!(
            "{}\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.line, length
        );
        for (name, value) in &self.headers {
            for part in [name.as_str(), ": ", value, "\r\n"] {
                text.push_str(part);
            }
        }
        text.push_str("\r\n");
        text.push_str(body);
        let mut stream = TcpStream::connect(self.to).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_mins(5)))
            .unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }
}

/// Whether a response with `content-length` is complete.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    length.is_some_and(|length| bytes.len() >= end + 4 + length.trim().parse::<usize>().unwrap())
}

impl Answer {
    /// Reads the head of a response and no more.
    pub(crate) fn head(mut stream: TcpStream) -> Self {
        let (mut bytes, mut byte) = (Vec::new(), [0; 1]);
        while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
            bytes.push(byte[0]);
        }
        let mut answer = Self::parse(&bytes);
        answer.body.clear();
        answer
    }

    fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let body = &bytes[end + 4..];
        let is_chunked = headers
            .iter()
            .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if is_chunked && !body.is_empty() {
            joined(body)
        } else {
            body.to_vec()
        };
        Self {
            status: status.parse().unwrap(),
            headers,
            body: String::from_utf8(body).unwrap(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
    body
}
