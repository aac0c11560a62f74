// cbroker inside Claude Code: submits peer messages as the person's own words, and reports to the
// session that started Claude Code what happens in this process.
//
// Every hook only observes: it forwards its event unchanged and never waits for cbroker.
// In:  a child process (`cbroker hook stream`) prints one JSON object a line.
// Out: HTTP requests to the session's Unix socket, one at a time, so that their order is kept.

const ROUNDS = 5;
const PAUSE_MS = 1000;
const ATTEMPTS = 3;

/** Posts a body, again after a failure. It may arrive twice, which changes nothing. */
async function post($, link, body) {
  const init = { method: "POST", socketPath: link.socket, body };
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    try {
      const { ok } = await $.http.fetch("http://cbroker/events", init);
      if (ok) return;
    } catch {
      // The session has ended, or is busy, or plugins may not use the network here.
    }
    if (attempt < ATTEMPTS) await $.clock.sleep(PAUSE_MS);
  }
}

/** Sends an event (or a promise of one) after all events before it. */
async function report($, link, event) {
  link.outbox.push(event);
  if (link.isPosting) return;
  link.isPosting = true;
  while (link.outbox.length > 0) {
    const { token, instance } = link;
    const events = await Promise.all(link.outbox.splice(0));
    await post($, link, JSON.stringify({ token, instance, events }));
  }
  link.isPosting = false;
}

/** Adds the path of the current transcript, which /clear and /resume change. */
async function withTranscript($, event) {
  try {
    const { transcriptPath: transcript } = await $.session.info();
    return { ...event, transcript };
  } catch {
    return event;
  }
}

async function submit($, link, { key, text }) {
  try {
    const { drop } = await $.prompt.submit({ text, asUser: true });
    if (drop === undefined) await report($, link, withTranscript($, { is: "submitted", key }));
    else await report($, link, { is: "dropped", key, why: drop });
  } catch (error) {
    await report($, link, { is: "failed", key, why: String(error?.message ?? error) });
  }
}

async function readDraft($, link) {
  const { text } = await $.prompt.read();
  await report($, link, { is: "draft", length: text.length });
}

function handleOrder($, link, line) {
  let order;
  try {
    order = JSON.parse(line);
  } catch {
    return;
  }
  if (order.do === "submit") void submit($, link, order);
  if (order.do === "read") void readDraft($, link);
}

/** Carries out the orders of one child process until it ends. */
async function listen($, link) {
  const child = $.process.spawn({
    argv: [link.program, "hook", "stream", "--socket", link.socket],
    input: JSON.stringify({ token: link.token, instance: link.instance }),
  });
  let rest = "";
  for await (const { stream, text } of child) {
    if (stream !== "stdout") continue;
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) handleOrder($, link, line);
  }
}

async function serve($, link) {
  const { version } = await $.session.version();
  await report($, link, withTranscript($, { is: "hello", version }));
  for (let round = 0; round < ROUNDS; round += 1) {
    try {
      await listen($, link);
    } catch {
      // The child could not be started.
    }
    await $.clock.sleep(PAUSE_MS);
  }
}

/** @type {import('claude-code').Register} */
export function register(on, options) {
  const { program, socket, token } = options;
  if (!program || !socket || !token) return;
  const instance = crypto.randomUUID();
  const link = { program, socket, token, instance, outbox: [], isPosting: false };

  on("session.start", async ($, e, next) => {
    const started = await next(e);
    if (e.isInteractive) void serve($, link);
    return started;
  });

  on("turn.start", ($, e, next) => {
    if (e.agentId === undefined) void report($, link, withTranscript($, { is: "turn" }));
    return next(e);
  });

  on("turn.complete", ($, e, next) => {
    if (e.agentId === undefined) void report($, link, { is: "rest", why: e.reason });
    return next(e);
  });

  on("prompt.submit", ($, e, next) => {
    const who = e.origin.kind;
    if (who === "composer" || who === "bridge") void report($, link, { is: "person" });
    return next(e);
  });

  on("session.stop", ($, e, next) => {
    void report($, link, { is: "stopped" });
    return next(e);
  });

  on("session.end", ($, e, next) => {
    void report($, link, { is: "end", why: e.reason });
    return next(e);
  });

  on("tool.check", async ($, e, next) => {
    const verdict = await next(e);
    if (verdict.decision === "ask" && e.tool_use_id !== undefined) {
      void report($, link, { is: "ask", call: e.tool_use_id, tool: e.tool });
    }
    return verdict;
  });

  on("tool.call", async ($, e, next) => {
    try {
      return await next(e);
    } finally {
      void report($, link, { is: "called", call: e.tool_use_id });
    }
  });

  on("command.run", async ($, e, next) => {
    void report($, link, { is: "menu", name: e.command });
    try {
      return await next(e);
    } finally {
      void report($, link, withTranscript($, { is: "menu" }));
    }
  });
}
