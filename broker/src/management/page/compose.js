// The form that sends a message, or answers one.

import { $, ask, el, part, say, toast } from "./dom.js";
import { EXCHANGE, sessionName, ulid } from "./names.js";
import { askToConfirm } from "./confirm.js";

/**
 * Sets up the form. `groupBindings` asks for the members of groups; `sent` is called after a
 * message was sent.
 */
export function composer(model, { groupBindings, sent }) {
  /** The id of the message that the form answers. */
  let answered;

  /** Opens the form for an answer in the name of the session that was asked. */
  function reply({ id, from, to, replyTo }) {
    const whom = replyTo ?? from;
    // The message must not choose several recipients or a group.
    compose(/^[\w -]+$/.test(whom) ? whom : "");
    answered = id;
    $("send-form").elements.from.value = to;
    say($("send-title"), `Reply to …${id.slice(-6)}`);
  }

  function compose(to = "") {
    const form = $("send-form");
    if (answered !== undefined) form.elements.from.value = "operator";
    answered = undefined;
    say($("send-title"), "Send a message");
    form.elements.to.value = to;
    say($("send-error"), "");
    $("names").replaceChildren(
      ...[...model.sessions.keys()].sort().map((name) => el("option", { value: name })),
    );
    $("send-box").showModal();
    form.elements[to ? "message" : "to"].focus();
  }

  $("send").addEventListener("click", () => compose());
  $("send-form").elements.message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey))
      $("send-form").requestSubmit($("send-go"));
  });
  $("send-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const { to, from, message } = event.target.elements;
    try {
      const names = await recipients(to.value, from.value, groupBindings);
      const envelope = { id: ulid(), from: sessionName(from.value), message: message.value };
      for (const name of names) await send(model, { ...envelope, to: name }, answered);
      message.value = "";
      $("send-box").close();
      toast(`Sent to ${names.join(", ")}.`);
      sent();
    } catch (error) {
      say($("send-error"), error.message);
    }
  });

  return { compose, reply };
}

/** The properties of a session's queue, exactly as the command line declares it. */
const QUEUE = {
  durable: true,
  auto_delete: false,
  arguments: { "x-message-ttl": 86400000, "x-max-length": 1000, "x-overflow": "drop-head" },
};

/**
 * The sessions that `backend, my-tester, @reviewers` means. The sender is left out of groups.
 */
async function recipients(text, from, groupBindings) {
  const names = new Set();
  for (const one of text
    .split(",")
    .map((part) => part.trim())
    .filter(Boolean)) {
    if (!one.startsWith("@")) {
      names.add(sessionName(one));
      continue;
    }
    const group = sessionName(one.slice(1));
    const members = (await groupBindings()).filter(
      (binding) => binding.routing_key === group && binding.destination !== sessionName(from),
    );
    if (!members.length) throw new Error(`Nobody else is in the group @${group}.`);
    for (const { destination } of members) names.add(destination);
  }
  if (!names.size) throw new Error("Enter a recipient.");
  return [...names];
}

/** Sends to one session; `answered` is the id of the message that it answers, if any. */
async function send(model, { id, from, to, message }, answered) {
  const waiting = model.sessions.get(to)?.queue?.messages ?? 0;
  if (waiting >= 1000)
    throw new Error(`${to} has 1000 messages waiting; one more would drop the oldest.`);
  const now = new Date();
  const answers = answered === undefined ? {} : { correlation_id: answered };
  const envelope = { id, from, to, ts: now.toISOString(), message, ...answers };
  const properties = {
    content_type: "application/json",
    message_id: id,
    timestamp: Math.floor(now / 1000),
    priority: 5,
    delivery_mode: 2,
    user_id: model.user,
    ...answers,
  };
  const order = {
    properties,
    routing_key: to,
    payload: JSON.stringify(envelope),
    payload_encoding: "string",
  };
  const publish = () => ask("POST", `/api/exchanges/%2F/${EXCHANGE}/publish`, order);
  const sent = await publish().catch((error) => {
    if (error.message.includes("NOT_FOUND")) return { routed: false };
    throw error;
  });
  if (sent.routed) return;
  const agreed = await askToConfirm({
    title: `${to} is a new name`,
    text: "No session has used it yet. The message waits until one opens with this name.",
    go: "Send anyway",
    act: () => make(to),
  });
  if (!agreed) throw new Error("Not sent.");
  if (!(await publish()).routed) throw new Error("No queue took the message.");
}

/** Declares what the command line would for a session of this name. */
async function make(name) {
  await ask("PUT", `/api/exchanges/%2F/${EXCHANGE}`, { type: "direct", durable: true });
  await ask("PUT", `/api/queues/%2F/${part(name)}`, QUEUE);
  await ask("POST", `/api/bindings/%2F/e/${EXCHANGE}/q/${part(name)}`, { routing_key: name });
}
