//! `cbroker serve` in a separate process that can be killed and restarted on the same ports and
//! store.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Answer, PATIENCE, Place, Request, free_port};

/// A broker in a home, killed on drop.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    pub(crate) management_port: Option<u16>,
}

impl Server {
    /// Starts it on free ports and waits until it listens. The commands of its home find it.
    pub(crate) fn start(place: &Place) -> Self {
        Self::start_with(place, free_port(), free_port(), &[])
    }

    pub(crate) fn start_with(
        place: &Place,
        port: u16,
        management_port: u16,
        more: &[&str],
    ) -> Self {
        Self::start_by(place.command(), port, management_port, more)
    }

    /// Starts it through `command`, which must run the binary with the arguments that follow its
    /// own, finally in its own process.
    pub(crate) fn start_by(
        mut command: Command,
        port: u16,
        management_port: u16,
        more: &[&str],
    ) -> Self {
        let mut child = command
            .args(["serve", "--json", "--quiet", "--port", &port.to_string()])
            .args(["--mgmt-port", &management_port.to_string()])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (tell, told) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        let line = told.recv_timeout(PATIENCE).unwrap();
        let said: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("the broker did not start: {line:?}"));
        let port_of = |url: &Value| url.as_str()?.rsplit_once(':')?.1.parse().ok();
        Self {
            child,
            port: port_of(&said["url"]).unwrap(),
            management_port: port_of(&said["mgmt_url"]),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    /// Returns the response of the management API as JSON.
    pub(crate) fn api(&self, place: &Place, path: &str) -> Value {
        self.request(place, "GET", path).json()
    }

    /// Deletes an object with the management API.
    #[allow(dead_code, reason = "one of the test programs uses it")]
    pub(crate) fn delete(&self, place: &Place, path: &str) {
        self.request(place, "DELETE", path);
    }

    fn request(&self, place: &Place, method: &str, path: &str) -> Answer {
        let answer = self.ask(place, method, path, "");
        assert!(answer.status < 300, "{answer:?}");
        answer
    }

    /// Asks the management API as the broker's own user.
    pub(crate) fn ask(&self, place: &Place, method: &str, path: &str, body: &str) -> Answer {
        self.own_request(place, method, path).send(body)
    }

    /// A request to the management API by the broker's own user.
    pub(crate) fn own_request(&self, place: &Place, method: &str, path: &str) -> Request {
        let url = place.ok(["status", "--show-url"]);
        let login = url.trim().trim_start_matches("amqp://");
        let (user, password) = login.rsplit_once('@').unwrap().0.split_once(':').unwrap();
        self.request_as((user, password), method, path)
    }

    /// Asks the management API as another user.
    pub(crate) fn ask_as(
        &self,
        (user, password): (&str, &str),
        method: &str,
        path: &str,
        body: &str,
    ) -> Answer {
        self.request_as((user, password), method, path).send(body)
    }

    fn request_as(&self, (user, password): (&str, &str), method: &str, path: &str) -> Request {
        let to = (Ipv4Addr::LOCALHOST, self.management_port.unwrap()).into();
        Request::new(to, method, path).password(user, password)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Kills it with SIGKILL and waits for its end.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills it and starts it again on the same ports and store.
    pub(crate) fn kill_and_restart(&mut self, place: &Place) {
        self.kill();
        *self = Self::start_with(place, self.port, self.management_port.unwrap_or(0), &[]);
    }

    /// Returns its exit status, if it has ended.
    pub(crate) fn try_wait(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
