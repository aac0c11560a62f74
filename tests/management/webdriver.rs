//! Headless Chromium, controlled through chromedriver's HTTP interface.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::eventually;
use crate::http::Request;
use crate::support::PATIENCE;

/// The screen size of the browser.
pub(crate) struct Screen {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// Ends the process group of the driver and its browser when the pipe from the test breaks, however
/// the test ends, and removes their folder.
const KEEPER: &str = r#"
set -m
TMPDIR=$1 chromedriver --port=0 </dev/null 2>/dev/null &
set +m
read -r _
kill -KILL -- "-$!" 2>/dev/null
wait
rm -rf "$1"
"#;

/// A browser and its driver, both ended on drop.
pub(crate) struct Browser {
    keeper: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    pub(crate) fn open(screen: &Screen) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = Command::new("bash")
            .args(["-c", KEEPER, "keeper"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        // The keeper removes it.
        let _ = folder.keep();
        let mut output = BufReader::new(keeper.stdout.take().unwrap());
        let port = loop {
            let mut line = String::new();
            assert!(
                output.read_line(&mut line).unwrap() > 0,
                "chromedriver ended"
            );
            let told = line.trim().trim_end_matches('.').rsplit_once("on port ");
            if let Some(port) = told
                .and_then(|(_, port)| port.parse::<u16>().ok())
                .filter(|port| *port > 0)
            {
                break port;
            }
        };
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let mut browser = Self {
            keeper,
            address: ([127, 0, 0, 1], port).into(),
            session: String::new(),
        };
        let window = format!("--window-size={},{}", screen.width, screen.height);
        let options = json!({ "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", window,
        ] });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let made = browser.call("POST", "/session", &wanted);
        made["sessionId"]
            .as_str()
            .unwrap()
            .clone_into(&mut browser.session);
        browser
    }

    /// Returns the process group of the driver and the browser.
    pub(crate) fn process_group(&self) -> String {
        let keeper = self.keeper.id().to_string();
        let of_keeper = processes("ppid=,pgid=").into_iter();
        let mut groups = of_keeper.filter(|process| process[0] == keeper);
        groups.next().unwrap().remove(1)
    }

    /// Sends a command to the driver, and returns its value, or what the driver says instead.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "GET" {
            String::new()
        } else {
            body.to_string()
        };
        let answer = Request::new(self.address, method, path)
            .header("content-type", "application/json")
            .send(&body);
        if answer.status == 200 {
            Ok(answer.json()["value"].clone())
        } else {
            Err(format!("{path}: {}: {}", answer.status, answer.body))
        }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, path, body);
        answer.unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    fn path(&self, what: &str) -> String {
        let path = format!("/session/{}/{what}", self.session);
        path.trim_end_matches('/').to_owned()
    }

    fn command(&self, method: &str, what: &str, body: &Value) -> Value {
        self.call(method, &self.path(what), body)
    }

    pub(crate) fn go(&self, url: &str) {
        self.command("POST", "url", &json!({ "url": url }));
    }

    /// Returns the value of an expression in the page.
    pub(crate) fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression})");
        self.command(
            "POST",
            "execute/sync",
            &json!({ "script": script, "args": [] }),
        )
    }

    /// Runs statements in the page that call `done` with a value at last, and returns it.
    pub(crate) fn run(&self, statements: &str) -> Value {
        self.command("POST", "timeouts", &json!({ "script": 240_000 }));
        let script = format!("const done = arguments[arguments.length - 1]; {statements}");
        let body = json!({ "script": script, "args": [] });
        self.command("POST", "execute/async", &body)
    }

    /// Makes the page as wide as the screen of another device.
    pub(crate) fn resize(&self, screen: &Screen) {
        let params = json!({
            "width": screen.width, "height": screen.height, "deviceScaleFactor": 1,
            "mobile": false,
        });
        let body = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": params });
        self.command("POST", "goog/cdp/execute", &body);
        self.until(&format!("innerWidth === {}", screen.width));
    }

    /// Runs a script in every page that is opened from now on, before the page's own.
    pub(crate) fn run_first(&self, script: &str) {
        let params = json!({ "source": script });
        let body = json!({ "cmd": "Page.addScriptToEvaluateOnNewDocument", "params": params });
        self.command("POST", "goog/cdp/execute", &body);
    }

    /// Answers the browser's question whether the page may show notifications, as a person does.
    pub(crate) fn allow_notifications(&self) {
        let body = json!({ "descriptor": { "name": "notifications" }, "state": "granted" });
        self.command("POST", "permissions", &body);
    }

    /// Waits until an expression in the page is true. While the page loads, the driver may refuse
    /// to look.
    pub(crate) fn until(&self, expression: &str) {
        let body = json!({ "script": format!("return ({expression})"), "args": [] });
        let path = self.path("execute/sync");
        eventually(expression, || {
            let value = self.ask("POST", &path, &body).ok()?;
            (value == true).then_some(())
        });
    }

    /// What a script of the page's modules leaves in `window.found`: it is a promise.
    pub(crate) fn found(&self, script: &str) -> Value {
        self.value(&format!("({script}) && true"));
        self.until("window.found !== undefined");
        self.value("window.found")
    }

    /// Presses keys on the focused element, as a person would.
    pub(crate) fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] });
        self.command("POST", "actions", &actions);
    }

    /// Clicks the first element that matches a selector, once there is one that can be clicked.
    ///
    /// The page draws when an answer of the broker arrives, so an element may not be there yet, or
    /// be replaced between the look and the click.
    pub(crate) fn click(&self, selector: &str) {
        let limit = Instant::now() + PATIENCE;
        while let Err(refusal) = self.try_click(selector) {
            assert!(Instant::now() < limit, "no click {selector}: {refusal}");
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    fn try_click(&self, selector: &str) -> Result<(), String> {
        let wanted = json!({ "using": "css selector", "value": selector });
        let found = self.ask("POST", &self.path("element"), &wanted)?;
        let id = found
            .as_object()
            .and_then(|element| element.values().next()?.as_str())
            .ok_or_else(|| format!("not an element: {found}"))?;
        let click = self.path(&format!("element/{id}/click"));
        self.ask("POST", &click, &json!({})).map(drop)
    }

    /// Returns the lines that the page or the browser logged as errors, except for refused requests
    /// that the test provokes.
    pub(crate) fn errors(&self) -> Vec<String> {
        let log = self.command("POST", "se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().unwrap().iter();
        lines
            .filter(|line| line["level"] == "SEVERE")
            .map(|line| line["message"].as_str().unwrap_or_default().to_owned())
            .filter(|line| !line.contains("status of 40"))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.command("DELETE", "", &json!({}));
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Returns these columns of every process.
pub(crate) fn processes(columns: &str) -> Vec<Vec<String>> {
    let listed = Command::new("ps").args(["-eo", columns]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    listed.lines().map(words).collect()
}
