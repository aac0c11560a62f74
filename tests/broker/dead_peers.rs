//! A client whose machine is gone without a word: no more packets come from it, and none that ends
//! the connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::loaded::method;
use crate::raw::{long, short};
use crate::support::{Place, Server, skip, wait_until};

/// A network of their own for a broker and its client. `None`, said aloud, where this machine does
/// not let a test make one.
fn on_own_network(place: &Place) -> Option<Server> {
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "sh", "-c"]);
        unshare
    };
    let up = "ip link set lo up || exit 99";
    if !unshare().arg(up).status().is_ok_and(|up| up.success()) {
        skip("unshare --user --net, or ip, does not work here");
        return None;
    }
    let plain = place.command();
    let script = format!("{up}\nexec \"$CBROKER\" \"$@\"");
    let mut command = unshare();
    command.args([&script, "sh"]).env_clear();
    let known = plain.get_envs();
    command.envs(known.filter_map(|(name, value)| Some((name, value?))));
    command.env("CBROKER", plain.get_program());
    Some(Server::start_by(command, 0, 0, &[]))
}

/// A shell in the broker's network.
fn beside(server: &Server, script: &str) -> Command {
    let mut command = Command::new("nsenter");
    let pid = server.pid().to_string();
    command.args([
        "--target",
        &pid,
        "--user",
        "--net",
        "--preserve-credentials",
    ]);
    command.args(["bash", "-c", script]);
    command
}

/// All that a client sends to have a connection without heartbeats, and a queue of its own.
fn login(user: &str, password: &str) -> Vec<u8> {
    let answer = format!("\0{user}\0{password}");
    let parts = [
        long(b""),
        short("PLAIN"),
        long(answer.as_bytes()),
        short("en_US"),
    ];
    let tune = [2047_u16.to_be_bytes(), [0, 2], [0, 0], [0, 0]];
    let open = [&short("/")[..], b"\0\0"].concat();
    let queue = [&b"\0\0"[..], &short("own"), b"\x04\0\0\0\0"].concat();
    let frames = [
        method(0, (10, 11), &parts.concat()),
        method(0, (10, 31), &tune.concat()),
        method(0, (10, 40), &open),
        method(1, (20, 10), &short("")),
        method(1, (50, 10), &queue),
    ];
    [&b"AMQP\0\0\x09\x01"[..], &frames.concat()].concat()
}

/// How many connections there are, asked where no network is needed.
fn connections(place: &Place) -> u64 {
    let mut stream = UnixStream::connect(place.home().join("management.sock")).unwrap();
    let request = "GET /api/overview HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let overview: serde_json::Value = serde_json::from_str(body).unwrap();
    overview["object_totals"]["connections"].as_u64().unwrap()
}

/// `queue.declare-ok`.
const DECLARE_OK: [u8; 4] = [0, 50, 0, 11];

/// Whether every byte that was sent in the broker's network has been acknowledged.
fn is_all_taken(server: &Server) -> bool {
    let sockets = beside(server, "cat /proc/net/tcp").output().unwrap();
    let sockets = String::from_utf8(sockets.stdout).unwrap();
    let queues = sockets
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(4).unwrap());
    let mut queues = queues.peekable();
    queues.peek().is_some() && queues.all(|queue| queue.starts_with("00000000:"))
}

struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_client_that_is_gone_without_a_word_is_noticed_though_it_has_no_heartbeat() {
    let place = Place::new();
    let Some(server) = on_own_network(&place) else {
        return;
    };
    let url = place.ok(["status", "--show-url"]);
    let (_, user) = url.trim().split_once("//").unwrap();
    let (user, password) = user.split_once('@').unwrap().0.split_once(':').unwrap();
    let port = server.port;
    let answers = place.path().join("answers");
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; cat >&3; exec cat <&3 >'{}'",
        answers.display()
    );
    let mut client = beside(&server, &script);
    let mut client = Client(client.stdin(Stdio::piped()).spawn().unwrap());
    let mut stdin = client.0.stdin.take().unwrap();
    stdin.write_all(&login(user, password)).unwrap();
    drop(stdin);
    // While bytes are on their way to it, the system's retransmissions decide.
    let is_answered = || {
        let read = std::fs::read(&answers).unwrap_or_default();
        read.windows(4).any(|ids| ids == DECLARE_OK) && is_all_taken(&server)
    };
    wait_until(is_answered, || "the client has its answers".to_owned());
    assert_eq!(connections(&place), 1);
    let down = beside(&server, "ip link set lo down").status();
    assert!(down.unwrap().success());
    wait_until(
        || connections(&place) == 0,
        || "a client that is gone is noticed".to_owned(),
    );
}
