// What the module tells the session, and that it passes every event on unchanged. Run by
// `claude plugin test`; not part of the plugin that agents are given.

import { expect, test } from "claude-code/testing";

const options = { program: "/bin/false", socket: "/tmp/absent.sock", token: "word" };

/** The events that are told, in order, without what names the process. */
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

/** Until so many events were told. */
async function told(events, count) {
  for (let round = 0; events.length < count && round < 200; round += 1) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return events;
}

test("Escape is told and passed on", { options }, async ($, on) => {
  const events = listen(on);
  on("session.stop", () => ({ isTurnRunning: true }));
  expect(await $.session.stop({})).toMatchObject({ isTurnRunning: true });
  expect(await told(events, 1)).toEqual([{ is: "stopped" }]);
});

test("a turn's beginning and end are told and passed on", { options }, async ($, on) => {
  const events = listen(on);
  on("turn.start", (_$, e) => ({ turnId: e.turnId }));
  on("turn.complete", (_$, e) => ({ text: e.answer }));
  expect(await $.turn.start({ turnId: "one" })).toMatchObject({ turnId: "one" });
  const end = { turnId: "one", reason: "done", answer: "yes" };
  expect(await $.turn.complete(end)).toMatchObject({ text: "yes" });
  const kinds = (await told(events, 2)).map(({ is }) => is);
  expect(kinds).toEqual(["turn", "rest"]);
});

test("what the person sends is told, and its text is not", { options }, async ($, on) => {
  const events = listen(on);
  on("prompt.submit", (_$, e) => ({ text: e.text }));
  const origin = { kind: "composer" };
  expect(await $.prompt.submit({ text: "hello", origin })).toMatchObject({ text: "hello" });
  expect(await told(events, 1)).toEqual([{ is: "person" }]);
});

test("a subagent's turn is not told", { options }, async ($, on) => {
  const events = listen(on);
  on("turn.start", (_$, e) => ({ turnId: e.turnId }));
  on("session.stop", () => ({ isTurnRunning: true }));
  await $.turn.start({ turnId: "two", agentId: "sub" });
  await $.session.stop({});
  expect(await told(events, 1)).toEqual([{ is: "stopped" }]);
});

test("without its options the module does nothing", async ($, on) => {
  const events = listen(on);
  on("session.stop", () => ({ isTurnRunning: true }));
  await $.session.stop({});
  expect(events).toEqual([]);
});
