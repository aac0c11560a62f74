//! Attacks by another user of the machine who holds the page's port while the broker is down: an
//! open page sends him what it sends the broker.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::browser::DESK;
use crate::fixture::{PASSWORD, Server, USER, eventually};
use crate::http::{PageLogin, Request};
use crate::tools::is_there;
use crate::webdriver::Browser;

/// Neither root, nor the user of the tests, nor one that the system gives to nobody.
const STRANGER: &str = "12345";

/// Sends standard input to a port, and prints the answer.
const SENDER: &str = "exec 3<>\"/dev/tcp/127.0.0.1/$0\"; cat >&3; cat <&3";

/// The port, held by another program: the requests that came, as they were sent.
struct HeldPort {
    heads: Arc<Mutex<Vec<String>>>,
    address: SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HeldPort {
    /// Answers every request with this status and body.
    fn hold(address: SocketAddr, answer: &'static str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&heads);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let head = hear(stream.unwrap(), answer);
                if head == "end" {
                    return;
                }
                heard.lock().unwrap().push(head);
            }
        });
        Self {
            heads,
            address,
            thread: Some(thread),
        }
    }

    /// A head with this beginning, once it came.
    fn head(&self, begin: &str) -> String {
        eventually(begin, || {
            let heads = self.heads.lock().unwrap();
            heads.iter().find(|head| head.starts_with(begin)).cloned()
        })
    }

    fn all(&self) -> String {
        self.heads.lock().unwrap().concat()
    }
}

impl Drop for HeldPort {
    fn drop(&mut self) {
        TcpStream::connect(self.address)
            .unwrap()
            .write_all(b"end")
            .unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Reads the head of one request and answers it.
fn hear(mut stream: TcpStream, answer: &str) -> String {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head != b"end" {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    let _gone = stream.write_all(answer.as_bytes());
    String::from_utf8(head).unwrap()
}

const REFUSAL: &str = "HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// The response to a page whose sign-in has ended.
const SIGNED_OUT: &str = "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\
                          content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

fn signed_in(server: &Server) -> PageLogin {
    let body = serde_json::json!({ "username": USER, "password": PASSWORD }).to_string();
    let request = server.request("POST", "/api/session");
    PageLogin::of(&request.header("origin", &server.origin()).send(&body))
}

/// What a program of another user is answered; `None` where none can be started.
fn sent_by_stranger(server: &Server, request: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a program of another user can only be started by root");
        return None;
    }
    let mut child = Command::new("setpriv")
        .args(["--reuid", STRANGER, "--clear-groups", "bash", "-c", SENDER])
        .arg(server.page().port().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(request.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("HTTP/1.1 "), "{text}");
    Some(text)
}

#[test]
fn a_sign_in_that_was_overheard_while_the_broker_was_down_is_of_no_use_to_another_user() {
    let server = Server::start();
    let login = signed_in(&server);
    let page = server.page();
    let mut heard = String::new();
    let server = server.restart_after(|| {
        let port = HeldPort::hold(page, REFUSAL);
        // As the open page asks.
        let asked = Request::new(page, "GET", "/api/whoami").signed_in(&login);
        assert_eq!(asked.send("").status, 503);
        heard = port.head("GET /api/whoami");
    });
    assert!(heard.contains(&login.key), "{heard}");
    let Some(answer) = sent_by_stranger(&server, &heard) else {
        return;
    };
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let change = heard.replacen("GET /api/whoami", "DELETE /api/session", 1);
    let origin = format!("\r\norigin: {}\r\nhost", server.origin());
    let change = change.replacen("\r\nhost", &origin, 1);
    let answer = sent_by_stranger(&server, &change).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let own = server.request("GET", "/api/whoami").signed_in(&login);
    assert_eq!(own.send("").json()["name"], USER, "the page goes on");
}

/// A page that is signed in.
fn opened(server: &Server) -> Browser {
    let browser = Browser::open(&DESK);
    let token = server.own_token();
    browser.go(&format!("http://{}/#token={token}", server.page()));
    browser.until("document.getElementById('live').textContent === 'live'");
    browser
}

#[test]
fn an_open_page_puts_its_key_into_no_url() {
    if !is_there("chromedriver") {
        return;
    }
    let server = Server::start();
    let browser = opened(&server);
    let key = browser.value("localStorage.getItem('key')");
    let page = server.page();
    let mut heard = String::new();
    let server = server.restart_after(|| {
        let port = HeldPort::hold(page, REFUSAL);
        port.head("GET /api/tap");
        heard = port.all();
    });
    let key = key.as_str().unwrap();
    let lines = heard.lines().filter(|line| line.contains(key));
    let others: Vec<_> = lines
        .filter(|line| !line.starts_with("x-cbroker-key: "))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    // By itself, and without signing in again.
    browser.until("document.getElementById('live').textContent === 'live'");
    browser.until("!document.getElementById('app').hidden");
    drop(server);
}

#[test]
fn another_user_who_holds_the_port_gets_no_open_page_to_load_his_script() {
    if !is_there("chromedriver") {
        return;
    }
    let server = Server::start();
    let browser = opened(&server);
    let page = server.page();
    let server = server.restart_after(|| {
        let port = HeldPort::hold(page, SIGNED_OUT);
        browser.until("!document.getElementById('sign-in').hidden");
        let heard = port.all();
        assert!(!heard.contains("GET / "), "{heard}");
    });
    let form = "document.getElementById('sign-in-form')";
    browser.until(&format!(
        "({form}.elements.username.value = '{USER}', {form}.elements.password.value = \
         '{PASSWORD}', {form}.requestSubmit(), true)"
    ));
    browser.until("document.getElementById('live').textContent === 'live'");
    browser.until("!document.getElementById('app').hidden");
    drop(server);
}
