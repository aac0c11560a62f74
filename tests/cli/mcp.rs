//! `mcp`: the real program speaks MCP over its standard streams, and an agent answers a peer.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::support::{Place, Ran, Server, Wrapped, wait_until};

/// A client of the server, as an agent is one.
struct Client {
    server: Child,
    input: Option<ChildStdin>,
    output: Option<Lines<BufReader<ChildStdout>>>,
    last: u64,
}

impl Client {
    /// Starts the server for the session of this name, and says hello.
    fn start(place: &Place, name: &str) -> Self {
        let mut server = place
            .command()
            .arg("mcp")
            .env("CBROKER_NAME", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (server.stdin.take(), server.stdout.take().unwrap());
        let mut client = Self {
            server,
            input,
            output: Some(BufReader::new(output).lines()),
            last: 0,
        };
        let hello = client.ask(
            "initialize",
            &json!({
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": { "name": "test", "version": "1" },
            }),
        );
        assert_eq!(hello["serverInfo"]["name"], "cbroker");
        assert!(hello["instructions"].as_str().unwrap().contains("reply_to"));
        client.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        client
    }

    fn say(&mut self, message: &Value) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{message}").unwrap();
    }

    /// Sends a request and returns its response.
    fn exchange(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let id = self.last;
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let line = self.output.as_mut().unwrap().next().unwrap().unwrap();
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["id"] == id {
                return message;
            }
        }
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        let response = self.exchange(method, params);
        assert!(response["error"].is_null(), "{response}");
        response["result"].clone()
    }

    /// Calls a tool; its text, and whether it failed.
    fn call(&mut self, tool: &str, arguments: &Value) -> (String, bool) {
        let result = self.ask(
            "tools/call",
            &json!({ "name": tool, "arguments": arguments }),
        );
        let text = result["content"][0]["text"].as_str().unwrap().to_owned();
        (text, result["isError"] == true)
    }

    /// Closes the input, which ends the server.
    fn leave(mut self) {
        self.input.take();
        assert_eq!(self.server.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn an_agent_answers_a_peer_with_a_tool() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    let asking = place
        .command()
        .args(["ask", "backend", "Which port?"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // What the agent reads is a line in its prompt.
    let line = session.wait_for_submission("Which port?");
    let field = |name: &str| {
        let (_, value) = line.split_once(&format!(" {name}=")).unwrap();
        value.split([' ', ']']).next().unwrap().to_owned()
    };
    let mut agent = Client::start(&place, "backend");
    let (text, has_failed) = agent.call(
        "send_message",
        &json!({
            "to": field("reply_to"),
            "correlation_id": field("correlation_id"),
            "message": "5672\n--to nobody",
        }),
    );
    assert!(!has_failed && text.starts_with("sent 01"), "{text}");
    let output = asking.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"5672\n--to nobody\n");
    agent.leave();
}

#[test]
fn the_tools_follow_the_rules_of_their_commands() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    let mut agent = Client::start(&place, "frontend");
    let tools = agent.ask("tools/list", &json!({}));
    let names: Vec<&str> = tools["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["send_message", "ask", "list_sessions", "read_inbox"]
    );
    let (text, has_failed) = agent.call("list_sessions", &json!({}));
    assert!(!has_failed && text.contains("backend"), "{text}");
    let message = json!({ "to": "backend", "message": "live", "wait": "delivered" });
    let (text, has_failed) = agent.call("send_message", &message);
    assert!(
        !has_failed && text.contains("delivered (keyboard)"),
        "{text}"
    );
    let line = session.wait_for_submission("live");
    assert!(line.contains(" from=frontend "), "{line}");
    place.ok(["pause", "backend"]);
    agent.call(
        "send_message",
        &json!({ "to": "backend", "message": "read me" }),
    );
    let mut inbox = || agent.call("read_inbox", &json!({ "name": "backend" })).0;
    wait_until(|| inbox().contains("read me"), || "it is held".to_owned());
    let taken = json!({ "name": "backend", "take": true });
    assert!(agent.call("read_inbox", &taken).0.contains("read me"));
    // What the command refuses, the tool refuses in the same words.
    let empty = agent.call("send_message", &json!({ "to": "backend", "message": "" }));
    assert_eq!(empty, ("cbroker: the message is empty\n".to_owned(), true));
    let (text, has_failed) = agent.call("ask", &json!({ "to": "@nobody", "message": "?" }));
    assert!(
        has_failed && text.contains("no session is in the group"),
        "{text}"
    );
    let unknown = json!({ "name": "send_message", "arguments": { "to": "a", "texts": "b" } });
    let refused = agent.exchange("tools/call", &unknown);
    assert!(refused["error"]["message"].is_string(), "{refused}");
    agent.leave();
}

/// The messages were acked although the client never got the text.
#[test]
fn what_is_taken_while_the_client_goes_away_is_delivered_later() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    place.ok(["pause", "backend"]);
    place.ok(["send", "backend", "read me"]);
    let held = || place.ok(["inbox", "backend"]);
    wait_until(|| held().starts_with("held"), held);
    let mut agent = Client::start(&place, "frontend");
    agent.output.take();
    agent.say(&json!({
        "jsonrpc": "2.0",
        "id": 77,
        "method": "tools/call",
        "params": { "name": "read_inbox", "arguments": { "name": "backend", "take": true } },
    }));
    wait_until(|| !held().starts_with("held"), held);
    place.ok(["resume", "backend"]);
    let line = session.wait_for_submission("read me");
    assert!(line.contains("(possible repeat)"), "{line}");
}

#[test]
fn a_server_ends_at_a_signal_though_its_client_stays() {
    let place = Place::new();
    let mut agent = Client::start(&place, "frontend");
    let pid = rustix::process::Pid::from_raw(agent.server.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(agent.server.wait().unwrap().code(), Some(0));
}

#[test]
fn every_agent_s_configuration_is_printed_or_written_once_and_nothing_else_changes() {
    let place = Place::new();
    for (agent, file, before) in [
        (
            "claude",
            ".mcp.json",
            "{\"mcpServers\":{\"x\":{\"command\":\"y\"}}}",
        ),
        ("codex", ".codex/config.toml", "# mine\nmodel = \"m\""),
        ("gemini", ".gemini/settings.json", "{\"theme\":\"dark\"}"),
        (
            "opencode",
            ".config/opencode/opencode.json",
            "{\"model\":\"m\"}",
        ),
    ] {
        let piece = place.ok(["mcp", "install", agent]);
        assert!(
            piece.contains("cbroker") && piece.contains("\"mcp\""),
            "{piece}"
        );
        let file = place.path().join(file);
        assert!(!file.exists(), "without --write it is only printed");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, before).unwrap();
        assert!(
            place
                .ok(["mcp", "install", agent, "--write"])
                .starts_with("wrote ")
        );
        let after = fs::read_to_string(&file).unwrap();
        if agent == "codex" {
            assert_eq!(after, format!("{before}\n\n{piece}"));
        } else {
            let after: Value = serde_json::from_str(&after).unwrap();
            let before: Value = serde_json::from_str(before).unwrap();
            let piece: Value = serde_json::from_str(&piece).unwrap();
            let key = piece.as_object().unwrap().keys().next().unwrap();
            assert_eq!(after[key]["cbroker"], piece[key]["cbroker"]);
            assert_eq!(after[key]["x"], before[key]["x"]);
            assert_eq!(after["theme"], before["theme"]);
            assert_eq!(after["model"], before["model"]);
        }
        assert!(
            place
                .ok(["mcp", "install", agent, "--write"])
                .contains("already")
        );
        // What is not understood is left alone.
        fs::write(&file, "{ // a remark\n}").unwrap();
        place
            .run(["mcp", "install", agent, "--write"])
            .fails(1, &format!("{} is not changed", file.display()));
        assert_eq!(fs::read_to_string(&file).unwrap(), "{ // a remark\n}");
    }
}

#[test]
fn a_configuration_is_written_without_following_links_that_others_may_have_planted() {
    for planted in [".mcp.json.cbroker-draft", ".mcp.json.before-cbroker"] {
        let place = Place::new();
        let at = |name: &str| place.path().join(name);
        fs::write(at("precious"), "mine").unwrap();
        symlink(at("precious"), at(planted)).unwrap();
        fs::write(at(".mcp.json"), "{\"token\":\"t\"}").unwrap();
        fs::set_permissions(at(".mcp.json"), PermissionsExt::from_mode(0o640)).unwrap();
        place.ok(["mcp", "install", "claude", "--write"]);
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "mine");
        let mode = |name: &str| fs::symlink_metadata(at(name)).unwrap().mode() & 0o777;
        assert!(
            fs::read_to_string(at(".mcp.json"))
                .unwrap()
                .contains("cbroker")
        );
        assert_eq!(mode(".mcp.json"), 0o640, "as before");
        let backup = ".mcp.json.before-cbroker";
        assert_eq!(fs::read_to_string(at(backup)).unwrap(), "{\"token\":\"t\"}");
        assert_eq!(mode(backup), 0o640, "as the file that it keeps");
    }
}

#[test]
fn a_configuration_that_is_another_user_s_link_is_not_changed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make a link of another user");
        return;
    }
    let place = Place::new();
    let (link, precious) = (
        place.path().join(".mcp.json"),
        place.path().join("precious"),
    );
    fs::write(&precious, "{}").unwrap();
    symlink(&precious, &link).unwrap();
    place.ok(["mcp", "install", "claude", "--write"]);
    assert_ne!(
        fs::read_to_string(&precious).unwrap(),
        "{}",
        "the user's own link is followed"
    );
    fs::write(&precious, "{}").unwrap();
    lchown(&link, Some(65534), None).unwrap();
    place.run(["mcp", "install", "claude", "--write"]).fails(
        1,
        &format!("{} is not changed: it is a link", link.display()),
    );
    assert_eq!(fs::read_to_string(&precious).unwrap(), "{}");
}

#[test]
fn a_link_that_others_may_replace_is_not_followed() {
    let place = Place::new();
    let folder = place.path().join("shared");
    let (link, precious) = (folder.join(".mcp.json"), place.path().join("precious"));
    fs::create_dir(&folder).unwrap();
    fs::write(&precious, "{}").unwrap();
    symlink(&precious, &link).unwrap();
    let write = || {
        let mut command = place.command();
        command
            .current_dir(&folder)
            .args(["mcp", "install", "claude", "--write"]);
        Ran::of(&command.output().unwrap())
    };
    for (mode, code) in [(0o777, 1), (0o775, 1), (0o1777, 0)] {
        fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
        let ran = write();
        assert_eq!(ran.code, code, "{mode:o} {ran:?}");
        let is_as_before = fs::read_to_string(&precious).unwrap() == "{}";
        assert_eq!(is_as_before, code == 1, "{mode:o} {ran:?}");
    }
}

#[test]
fn the_rights_of_another_user_s_file_are_not_taken_over() {
    let place = Place::new();
    let at = |name: &str| place.path().join(name);
    fs::write(at(".mcp.json"), "{}").unwrap();
    // Only root can give a file away.
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        chown(at(".mcp.json"), Some(65534), None).unwrap();
    }
    fs::set_permissions(at(".mcp.json"), PermissionsExt::from_mode(0o6777)).unwrap();
    place.ok(["mcp", "install", "claude", "--write"]);
    let expected = if is_root { 0o755 } else { 0o777 };
    for name in [".mcp.json", ".mcp.json.before-cbroker"] {
        let mode = fs::metadata(at(name)).unwrap().mode() & 0o7777;
        assert_eq!(mode, expected, "{name}");
    }
}
