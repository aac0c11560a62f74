// What this page knows: sessions from presence and queues, messages from the tap and from peeking. No DOM.
//
// The broker passes bytes and knows no envelope; this file alone understands them. Whatever does not look as it should
// is ignored, never trusted.

export const EXCHANGE = "claudeBroker";
export const PRESENCE = "claudeBroker.presence";
/** Answers to our question go nowhere; the tap shows them on their way. */
export const LISTENING = "amq.gen-cbroker-page";
const KEEP = 10000;
const ASKING = /^ask[0-9A-HJKMNP-TV-Z]{26}$/;

const isText = (value) => typeof value === "string" && value !== "";

/** An envelope, also from an excerpt that was cut off; undefined where it is none. */
export function envelope(text, properties = {}) {
  const whole = parse(text);
  if (whole) return isText(whole.id) && isText(whole.from) && isText(whole.to) && isText(whole.message) ? whole : undefined;
  const cut = { cut: true };
  for (const name of ["id", "from", "to", "ts", "reply_to", "correlation_id"]) cut[name] = field(text, name);
  cut.message = field(text, "message");
  cut.id ??= properties.message_id;
  return isText(cut.id) && isText(cut.from) && isText(cut.to) && isText(cut.message) ? cut : undefined;
}

function parse(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** A text field of JSON whose end is missing. */
function field(text, name) {
  const found = new RegExp(`"${name}"\\s*:\\s*"((?:[^"\\\\]|\\\\.)*)("?)`, "s").exec(text);
  if (!found) return undefined;
  try {
    return JSON.parse(`"${found[1]}"`) + (found[2] ? "" : "…");
  } catch {
    return undefined;
  }
}

/** A new ULID. */
export function ulid(now = Date.now()) {
  const letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  let time = "";
  for (let place = 0, rest = now; place < 10; place++, rest = Math.floor(rest / 32)) time = letters[rest % 32] + time;
  return time + Array.from(crypto.getRandomValues(new Uint8Array(16)), (octet) => letters[octet % 32]).join("");
}

export class Model {
  constructor() {
    /** name → { queue, presences: Map(session → presence), oldest } */
    this.sessions = new Map();
    /** id → message, in the order in which they came. */
    this.messages = new Map();
    /** name → what was said last to or by it. */
    this.lasts = new Map();
    this.missed = 0;
    /** Wall-clock difference to the broker, ms. */
    this.skew = 0;
  }

  now() {
    return Date.now() + this.skew;
  }

  session(name) {
    let session = this.sessions.get(name);
    if (!session) {
      session = { name, queue: undefined, presences: new Map(), oldest: undefined };
      this.sessions.set(name, session);
    }
    return session;
  }

  /** The queues that are bound to the exchange of the sessions, as they are now. */
  queues(list) {
    const there = new Set();
    for (const queue of list) {
      if (ASKING.test(queue.name)) continue;
      there.add(queue.name);
      this.session(queue.name).queue = queue;
    }
    for (const [name, session] of this.sessions) {
      if (there.has(name)) continue;
      session.queue = undefined;
      if (![...session.presences.values()].some((presence) => presence.state !== "gone")) this.sessions.delete(name);
    }
  }

  /** The first waiting messages of a session's queue. */
  peeked(name, messages) {
    const session = this.session(name);
    session.oldest = messages.length ? messages[0].published_ms : undefined;
    for (const message of messages) {
      const found = message.payload_encoding === "string" ? envelope(message.payload, message.properties) : undefined;
      if (found) this.message(found, { state: "waiting", at: message.published_ms, queue: name });
    }
  }

  /** One line of the tap; true when something that is shown changed. */
  seen(line) {
    if (line.encoding !== "string") return false;
    if (line.what === "published") {
      if (line.exchange === PRESENCE || line.routing_key === LISTENING) return this.presence(line.excerpt, line.at_ms);
      const found = envelope(line.excerpt, line.properties);
      if (found && line.exchange === EXCHANGE) return this.message(found, { state: "waiting", at: line.at_ms, queue: line.routing_key });
      return line.exchange === "" && this.receipt(parse(line.excerpt), line.at_ms);
    }
    const found = envelope(line.excerpt, line.properties);
    if (!found || line.exchange !== EXCHANGE) return false;
    const state = line.what === "acked" ? "delivered" : "waiting";
    return this.message(found, { state, at: line.at_ms, queue: line.queue ?? line.routing_key });
  }

  message(found, { state, at, queue }) {
    const known = this.messages.get(found.id);
    if (known) {
      if (known.state === "refused" || (known.state === "delivered" && state === "waiting")) return false;
      // A peek says nothing new of a message that is known to be held.
      if (state !== "waiting" || known.state !== "held") known.state = state;
      if (state === "delivered") {
        known.done = at;
        known.reason = undefined;
      }
      return true;
    }
    const message = { ...pick(found), state, at, queue, done: state === "delivered" ? at : undefined, reason: undefined };
    this.messages.set(found.id, message);
    if (this.messages.size > KEEP) this.messages.delete(this.messages.keys().next().value);
    if (this.lasts.size > KEEP) this.lasts.delete(this.lasts.keys().next().value);
    this.lasts.set(queue, message);
    this.lasts.set(message.from, message);
    return true;
  }

  receipt(found, at) {
    const known = isText(found?.id) ? this.messages.get(found.id) : undefined;
    const state = { held: "held", "handed-over": "held", delivered: "delivered", "dead-lettered": "refused" }[found?.state];
    if (!known || !state) return false;
    known.state = state;
    known.reason = isText(found.reason) ? found.reason : undefined;
    if (state !== "held") known.done = at;
    return true;
  }

  presence(text, at) {
    const found = parse(text);
    if (found?.kind !== "state" || !isText(found.name) || !isText(found.session) || !isText(found.state)) return false;
    const session = this.session(found.name);
    const before = session.presences.get(found.session);
    const since = before?.state === found.state ? before.changed : at;
    if (found.state === "closed") session.presences.delete(found.session);
    else session.presences.set(found.session, { ...found, changed: since });
    return true;
  }

  /** What a session does, in one word, and why. */
  standing(session) {
    const order = ["stuck", "needs-you", "draft", "starting", "busy", "paused", "notify", "idle"];
    const presences = [...session.presences.values()].sort((one, two) => order.indexOf(one.state) - order.indexOf(two.state));
    const consumers = session.queue?.consumers ?? 0;
    if (session.queue && consumers === 0) return { state: "away", label: "Away", presences: [] };
    const shown = { idle: ["idle", "Idle"], busy: ["busy", "Busy"], "needs-you": ["held", "Needs you"], draft: ["held", "Draft"], stuck: ["held", "Stuck"], starting: ["starting", "Starting"], paused: ["paused", "Paused"], notify: ["notify", "Notify"] };
    const first = presences[0];
    if (!first) return { state: "attached", label: "Attached", presences };
    const [state, label] = shown[first.state] ?? ["attached", first.state];
    const held = presences.reduce((sum, presence) => sum + (Number(presence.held) || 0), 0);
    return { state, label, reason: isText(first.detail) ? first.detail : isText(first.reason) ? first.reason : undefined, since: first.changed, held, presences };
  }

  /** Messages in the queue that the session has not taken. */
  waiting(session) {
    const held = this.standing(session).held ?? 0;
    return Math.max(0, (session.queue?.messages ?? 0) - held);
  }

  /** What became of a message: one that waits for a session which takes nothing in is held, for that session's reason. */
  fate(message) {
    if (message.state !== "waiting") return { state: message.state, reason: message.reason };
    const session = this.sessions.get(message.queue ?? message.to);
    const standing = session && this.standing(session);
    const keepsBack = ["held", "paused"].includes(standing?.state) || (standing?.state === "notify" && standing.held > 0);
    if (!keepsBack) return { state: "waiting" };
    return { state: "held", reason: standing.reason ?? standing.label.toLowerCase() };
  }

  /** Those who need a person first, then by name. */
  ordered() {
    const weight = { held: 0, starting: 2, busy: 2, idle: 2, attached: 2, notify: 2, paused: 1, away: 3 };
    const rank = (session) => {
      const { state } = this.standing(session);
      return state === "away" && this.waiting(session) > 0 ? 1 : (weight[state] ?? 2);
    };
    return [...this.sessions.values()].sort((one, two) => rank(one) - rank(two) || one.name.localeCompare(two.name));
  }

  /** Messages that match, oldest first. */
  search({ text = "", peer = "", state = "" }) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (message) =>
      (!state || this.fate(message).state === state) &&
      (!peer || message.from === peer || message.to === peer) &&
      words.every((word) => message.haystack.includes(word));
    return [...this.messages.values()].filter(matches);
  }
}

function pick(found) {
  const files = Array.isArray(found.files) ? found.files.filter(isText) : [];
  const optional = (name) => (isText(found[name]) ? found[name] : undefined);
  const message = {
    id: found.id,
    from: found.from,
    to: found.to,
    text: found.message,
    files,
    replyTo: optional("reply_to"),
    answers: optional("correlation_id"),
    priority: optional("priority"),
    cut: found.cut === true,
  };
  message.haystack = [message.id, message.from, message.to, message.text, ...files].join("\n").toLowerCase();
  return message;
}
