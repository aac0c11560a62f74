// Tests what the module reports, and that it forwards every event unchanged. Run by
// `claude plugin test`; not part of the plugin that agents are given.

import { expect, test } from "claude-code/testing";

const options = { program: "/bin/false", socket: "/tmp/absent.sock", token: "word" };

/** Records the events that are reported, in order. */
function listen(on) {
  const events = [];
  on("http.fetch", (_$, { url, init }) => {
    const body = JSON.parse(init.body);
    expect([url, init.method, init.socketPath]).toEqual([
      "http://cbroker/events",
      "POST",
      options.socket,
    ]);
    expect(body.token).toBe(options.token);
    events.push(...body.events);
    return { value: { status: 200, ok: true, headers: {}, text: "" } };
  });
  return events;
}

/** Waits until this many events were reported. */
async function reported(events, count) {
  for (let round = 0; events.length < count && round < 200; round += 1) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return events;
}

test("Escape is reported and forwarded", { options }, async ($, on) => {
  const events = listen(on);
  on("session.stop", () => ({ isTurnRunning: true }));
  expect(await $.session.stop({})).toMatchObject({ isTurnRunning: true });
  expect(await reported(events, 1)).toEqual([{ is: "stopped" }]);
});

test("a turn's beginning and end are reported and forwarded", { options }, async ($, on) => {
  const events = listen(on);
  on("turn.start", (_$, e) => ({ turnId: e.turnId }));
  on("turn.complete", (_$, e) => ({ text: e.answer }));
  expect(await $.turn.start({ turnId: "one" })).toMatchObject({ turnId: "one" });
  const end = { turnId: "one", reason: "done", answer: "yes" };
  expect(await $.turn.complete(end)).toMatchObject({ text: "yes" });
  const kinds = (await reported(events, 2)).map(({ is }) => is);
  expect(kinds).toEqual(["turn", "rest"]);
});

test("what the person sends is reported without its text", { options }, async ($, on) => {
  const events = listen(on);
  on("prompt.submit", (_$, e) => ({ text: e.text }));
  const origin = { kind: "composer" };
  expect(await $.prompt.submit({ text: "hello", origin })).toMatchObject({ text: "hello" });
  expect(await reported(events, 1)).toEqual([{ is: "person" }]);
});

test("events are posted again after a failure", { options }, async ($, on) => {
  const events = [];
  const answers = [500, 204];
  on("http.fetch", (_$, { init }) => {
    const status = answers.shift();
    const ok = status < 300;
    if (ok) events.push(...JSON.parse(init.body).events);
    return { value: { status, ok, headers: {}, text: "" } };
  });
  on("clock.sleep", () => ({ value: undefined }));
  on("session.stop", () => ({ isTurnRunning: true }));
  await $.session.stop({});
  expect(await reported(events, 1)).toEqual([{ is: "stopped" }]);
});

test("a subagent's turn is not reported", { options }, async ($, on) => {
  const events = listen(on);
  on("turn.start", (_$, e) => ({ turnId: e.turnId }));
  on("session.stop", () => ({ isTurnRunning: true }));
  await $.turn.start({ turnId: "two", agentId: "sub" });
  await $.session.stop({});
  expect(await reported(events, 1)).toEqual([{ is: "stopped" }]);
});

test("without its options the module does nothing", async ($, on) => {
  const events = listen(on);
  on("session.stop", () => ({ isTurnRunning: true }));
  await $.session.stop({});
  expect(events).toEqual([]);
});
