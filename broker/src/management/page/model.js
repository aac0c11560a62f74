// What this page knows: sessions from presence and queues, messages from the tap and from peeking.
// No DOM.
//
// The broker passes bytes and knows no envelope; this file alone understands them. Whatever does
// not look as it should is ignored, never trusted.
//
// Whoever may publish can write what looks like a presence, a receipt or a message. So, as `cbroker
// list` and `send --wait` do, presences and receipts count only with the `user_id` of the signed-in
// user: publishing refuses every name but the publisher's own. Only the vhost in sight counts, an
// ack counts only in the queue that the message was sent to, and a message is known by its id, its
// queue, its bytes and its user. Every map has a bound; the oldest entry goes first.

/** The vhost that this page shows. */
export const VHOST = "/";
export const EXCHANGE = "claudeBroker";
export const PRESENCE = "claudeBroker.presence";
/** A member's queue is bound to it by the name of the group. */
export const GROUPS = "claudeBroker.groups";
/** Answers to our question go nowhere; the tap shows them on their way. */
export const LISTENING = "amq.gen-cbroker-page";
const KEEP = 10000;
/** Characters of all messages that are kept. */
const KEEP_TEXT = 1 << 24;
const SESSIONS = 2000;
/** Wraps of one name. */
const PRESENCES = 16;
/** Messages of other users that are found by one id. */
const SAME_ID = 16;
const LASTS = 2 * SESSIONS;
/** A name as the command line writes it. */
const NAME = /^[a-z][a-zA-Z0-9]{0,63}$/;
/** A session's own id. */
const WRAP = /^[0-9A-Za-z]{1,64}$/;
const ASKING = /^ask[0-9A-HJKMNP-TV-Z]{26}$/;
/** Held messages of one session that are shown. */
const HELD = 100;
/** What the history on disk says, as states of a message here. */
const TOLD = {
  sent: "sent",
  confirmed: "sent",
  unconfirmed: "sent",
  received: "sent",
  returned: "sent",
  held: "held",
  "handed-over": "held",
  delivered: "delivered",
  answered: "delivered",
  repeated: "delivered",
  "dead-lettered": "refused",
  purged: "gone",
  deleted: "gone",
  dropped: "gone",
  expired: "gone",
};
/** What became of it. Nothing changes it any more. */
const OVER = ["delivered", "refused", "gone"];
/** Words for what is between. */
const BETWEEN = {
  "handed-over": "the agent has it, and has not read it yet",
  unconfirmed: "not confirmed",
  received: "received",
  returned: "back in its queue",
};
/** What receipts say, as states of a message here. */
const RECEIPTS = {
  held: "held",
  "handed-over": "held",
  delivered: "delivered",
  "dead-lettered": "refused",
  purged: "gone",
  deleted: "gone",
  dropped: "gone",
  expired: "gone",
};

/**
 * How the one who took a message settled it. What must not go in, and what went, is rejected. No
 * session gets a message by asking for one: a command took it, such as a purge, and the history
 * says which.
 */
const SETTLED = { acked: "delivered", rejected: "gone", taken: "gone" };

/**
 * `my-backend`, `my_backend` and `My Backend` are `myBackend`, as on the command line. Fails where
 * it is no name.
 */
export function sessionName(text) {
  const parts = text.split(/[-_\s]+/u).filter(Boolean);
  const joined = parts
    .map((part) => part[0].toUpperCase() + part.slice(1))
    .join("")
    .replace(/[^a-zA-Z0-9]/g, "");
  const name = joined.slice(0, 1).toLowerCase() + joined.slice(1);
  if (!NAME.test(name))
    throw new Error(
      `“${text}” is not a session's name: letters and digits, a letter first, at most 64.`,
    );
  return name;
}

/** Whether a queue of this name is a session's, by the rule of the command line. */
export const isSession = (name) => NAME.test(name) && !ASKING.test(name);

/** Whether brokers or commands made a queue for themselves. */
export const isInternal = (name) => name.startsWith("amq.") || ASKING.test(name);

const isText = (value) => typeof value === "string" && value !== "";

/** An envelope, also from an excerpt that was cut off; undefined where it is none. */
export function envelope(text, properties = {}) {
  const whole = parse(text);
  if (whole)
    return isText(whole.id) && isText(whole.from) && isText(whole.to) && isText(whole.message)
      ? whole
      : undefined;
  const found = cutFields(text);
  if (!found) return undefined;
  const cut = { cut: true };
  for (const name of ["id", "from", "to", "ts", "message", "reply_to", "correlation_id"])
    cut[name] = found.get(name);
  cut.id ??= properties.message_id;
  return isText(cut.id) && isText(cut.from) && isText(cut.to) && isText(cut.message)
    ? cut
    : undefined;
}

function parse(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

const TOKEN = /\s*("(?:[^"\\]|\\.)*(?:"|\\?$)|[{}[\],:]|[^\s{}[\],:"]+)/sy;

/**
 * The texts of an object in JSON whose end is missing, by their names; not those of objects in it.
 * Undefined where a name is there twice: sessions refuse such a message.
 */
function cutFields(text) {
  const found = new Map();
  let depth = 0;
  let name;
  TOKEN.lastIndex = 0;
  for (let match; (match = TOKEN.exec(text));) {
    const token = match[1];
    if (depth === 0 && (token !== "{" || found.size)) return undefined;
    if (token === "{" || token === "[") depth++;
    else if (token === "}" || token === "]") depth--;
    else if (depth > 1 || token === ":") continue;
    else if (token === ",") name = undefined;
    else if (name === undefined) {
      name = parseText(token);
      if (name === undefined) break;
      if (found.has(name)) return undefined;
      found.set(name, undefined);
    } else if (token[0] === '"') found.set(name, parseText(token) ?? cutText(token));
  }
  return found;
}

function parseText(token) {
  try {
    return JSON.parse(token);
  } catch {
    return undefined;
  }
}

/** A text whose end is missing, perhaps in the middle of an escape. */
function cutText(token) {
  const text =
    parseText(`${token}"`) ?? parseText(`${token.replace(/\\(u[0-9a-fA-F]{0,3})?$/, "")}"`);
  return text === undefined ? undefined : `${text}…`;
}

/** A text of a session's own answer whose end is missing, wherever it stands. */
function field(text, name) {
  const found = new RegExp(`"${name}"\\s*:\\s*("(?:[^"\\\\]|\\\\.)*(?:"|\\\\?$))`, "s").exec(text);
  return found ? (parseText(found[1]) ?? cutText(found[1])) : undefined;
}

/**
 * What a session says that it holds. The tap shows the beginning of a long answer: its first whole
 * messages, or the beginning of the first.
 */
function inbox(text) {
  const whole = parse(text);
  if (whole) return { found: whole, isCut: false };
  for (
    let end = text.lastIndexOf("},{"), tries = 0;
    end > 0 && tries < HELD;
    end = text.lastIndexOf("},{", end - 1), tries++
  ) {
    const found = parse(`${text.slice(0, end)}}]}`);
    if (found) return { found, isCut: true };
  }
  const found = { messages: [{}] };
  for (const name of ["kind", "name", "session"]) found[name] = field(text, name);
  for (const name of ["id", "from", "reason", "line"]) found.messages[0][name] = field(text, name);
  return { found, isCut: true };
}

/** A number for some text, 53 bits of it. */
function digest(text) {
  let [one, two] = [0xdeadbeef, 0x41c6ce57];
  for (let place = 0; place < text.length; place++) {
    const unit = text.charCodeAt(place);
    one = Math.imul(one ^ unit, 2654435761);
    two = Math.imul(two ^ unit, 1597334677);
  }
  one = Math.imul(one ^ (one >>> 16), 2246822507) ^ Math.imul(two ^ (two >>> 13), 3266489909);
  two = Math.imul(two ^ (two >>> 16), 2246822507) ^ Math.imul(one ^ (one >>> 13), 3266489909);
  return 4294967296 * (2097151 & two) + (one >>> 0);
}

/** Adds to a map of at most `most` entries; the oldest go. */
function keep(map, key, value, most) {
  map.set(key, value);
  while (map.size > most) map.delete(map.keys().next().value);
}

/** A new ULID. */
export function ulid(now = Date.now()) {
  const letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  let time = "";
  for (let place = 0, rest = now; place < 10; place++, rest = Math.floor(rest / 32))
    time = letters[rest % 32] + time;
  return (
    time +
    Array.from(crypto.getRandomValues(new Uint8Array(16)), (octet) => letters[octet % 32]).join("")
  );
}

export class Model {
  constructor() {
    /** Who is signed in: presences and receipts of this user count. */
    this.user = undefined;
    /**
     * name → { queue, presences: Map(session → presence), held: Map(session → answer), oldest,
     * opening }
     */
    this.sessions = new Map();
    /** key → message, in the order in which they came. */
    this.messages = new Map();
    /** id → keys of messages. */
    this.ids = new Map();
    /** Characters in messages. */
    this.size = 0;
    /** name → what was said last to or by it. */
    this.lasts = new Map();
    this.missed = 0;
    /** Whether the signed-in user gets what is kept on disk; which state of it is known. */
    this.hasArchive = false;
    this.toldVersion = undefined;
    /** Messages on disk that are older than those here. */
    this.older = 0;
    /** name → names of the members. */
    this.groups = new Map();
    /** The dead letters, oldest first, and how many more there are. */
    this.dead = [];
    this.olderDead = 0;
    /** Wall-clock difference to the broker, ms. */
    this.skew = 0;
  }

  now() {
    return Date.now() + this.skew;
  }

  session(name) {
    let session = this.sessions.get(name);
    if (!session) {
      session = {
        name,
        queue: undefined,
        presences: new Map(),
        held: new Map(),
        oldest: undefined,
        // The command by which it was opened last; "" where that is not known.
        opening: undefined,
      };
      keep(this.sessions, name, session, SESSIONS);
    }
    return session;
  }

  /** The queues that are bound to the exchange of the sessions, as they are now. */
  queues(list) {
    const there = new Set();
    for (const queue of list) {
      if (!isSession(queue.name)) continue;
      if (there.size === SESSIONS) break;
      there.add(queue.name);
      const session = this.session(queue.name);
      session.queue = queue;
      // It may be opened in another way next time.
      if (queue.consumers) session.opening = undefined;
    }
    for (const [name, session] of this.sessions) {
      if (there.has(name)) continue;
      session.queue = undefined;
      if (![...session.presences.values()].some((presence) => presence.state !== "gone"))
        this.sessions.delete(name);
    }
  }

  /** The bindings of the groups' exchange; true when a group has come or gone. */
  grouped(bindings) {
    const before = [...this.groups.keys()].join();
    this.groups = new Map();
    for (const { routing_key: group, destination, destination_type: kind } of bindings) {
      if (kind !== "queue" || !NAME.test(group) || !isSession(destination)) continue;
      if (!this.groups.has(group)) this.groups.set(group, new Set());
      this.groups.get(group).add(destination);
    }
    return [...this.groups.keys()].join() !== before;
  }

  /** The first waiting messages of a session's queue. */
  peeked(name, messages) {
    const session = this.session(name);
    session.oldest = messages.length ? messages[0].published_ms : undefined;
    for (const {
      payload,
      payload_bytes: bytes,
      payload_encoding: encoding,
      properties,
      published_ms: at,
      exchange,
      routing_key: to,
    } of messages) {
      // Copies in a queue that somebody bound to another session's name are no messages to it.
      if (exchange !== EXCHANGE || to !== name) continue;
      const found = encoding === "string" ? envelope(payload, properties) : undefined;
      if (found)
        this.message(found, {
          state: "waiting",
          at,
          queue: name,
          text: payload,
          bytes,
          properties,
        });
    }
  }

  /** One line of the tap; true when something that is shown changed. */
  seen(line) {
    if (line.encoding !== "string" || line.vhost !== VHOST) return false;
    const { what, exchange, routing_key: to, excerpt: text, properties, at_ms: at } = line;
    const bytes = line.body_bytes;
    const isOwn = this.isOwn(properties);
    const isPresence = exchange === PRESENCE || (exchange === "" && to === LISTENING);
    if (what === "published" && isPresence)
      return isOwn && (this.presence(text, at) || this.answered(text));
    if (what === "published" && exchange === "") return isOwn && this.receipt(parse(text), at);
    const found = exchange === EXCHANGE ? envelope(text, properties) : undefined;
    // Whoever binds a queue of his own to the exchange gets copies, and may ack those.
    if (!found || (what !== "published" && line.queue !== to)) return false;
    const state = SETTLED[what] ?? "waiting";
    const end = state === "gone" ? what : undefined;
    return this.message(found, { state, end, at, queue: to, text, bytes, properties });
  }

  /**
   * Whether the signed-in user published it, in the broker's words. A dead-lettered message keeps
   * the name, but then whoever owns the queue chose when and where it went.
   */
  isOwn(properties) {
    const isNamed = isText(this.user) && properties?.user_id === this.user;
    return isNamed && !properties.headers?.["x-death"];
  }

  message(found, { state, end, at, queue, text, bytes, properties }) {
    // A dead-lettered copy keeps the name, but not every one of its stations is that user's.
    const isVouched = isText(properties?.user_id) && !properties.headers?.["x-death"];
    const user = isVouched ? properties.user_id : undefined;
    // Somebody else's copy, byte for byte, is another message.
    const key = `${found.id} ${queue} ${bytes} ${digest(text)} ${user ?? ""}`;
    const known = this.messages.get(key);
    if (known) {
      const isOver = known.state === "refused" || known.state === "gone";
      if (isOver || (known.state === "delivered" && state !== "delivered")) return false;
      // A peek says nothing new of a message that is known to be held.
      if (state !== "waiting" || known.state !== "held") known.state = state;
      if (state === "delivered" || state === "gone") {
        known.done = at;
        known.reason = undefined;
      }
      if (state === "gone") known.end = end;
      return true;
    }
    const done = state === "waiting" ? undefined : at;
    const isOwn = this.isOwn(properties);
    const facts = { key, user, isOwn, state, at, queue, done, end, reason: undefined };
    const message = { ...pick(found), ...facts };
    const told = this.toldAs(message);
    if (told) {
      this.forget(told);
      if (knowsMore(told, message)) become(message, told);
    }
    this.add(message);
    keep(this.lasts, queue, message, LASTS);
    // Others can write any name as the sender.
    if (message.isOwn) keep(this.lasts, message.from, message, LASTS);
    return true;
  }

  add(message) {
    this.messages.set(message.key, message);
    const keys = this.ids.get(message.id) ?? new Set();
    // Own ones are always found, however often others use the id again.
    if (message.isOwn || keys.size < SAME_ID) keys.add(message.key);
    this.ids.set(message.id, keys);
    this.size += message.haystack.length;
    for (const oldest of this.messages.values()) {
      if (oldest === message || (this.messages.size <= KEEP && this.size <= KEEP_TEXT)) break;
      this.forget(oldest);
    }
  }

  forget(message) {
    this.messages.delete(message.key);
    this.size -= message.haystack.length;
    const rest = this.ids.get(message.id);
    rest?.delete(message.key);
    if (!rest?.size) this.ids.delete(message.id);
  }

  /** The whole text of a message that was cut. */
  widen(message, text) {
    this.size -= message.haystack.length;
    message.text = text;
    message.cut = false;
    message.haystack = haystack(message);
    this.size += message.haystack.length;
  }

  /** What the history says of the same message. */
  toldAs(message) {
    return this.withId(message.id).find((told) => told.isTold && isSame(told, message));
  }

  /** What the history on the broker's machine says; what went by here is told in more detail. */
  told({ version, older, messages }) {
    this.toldVersion = version;
    this.older = older;
    for (const one of messages) {
      const state = Object.hasOwn(TOLD, one.state) ? TOLD[one.state] : undefined;
      const at = Date.parse(one.ts);
      if (!state || !Number.isFinite(at) || ![one.id, one.from, one.to].every(isText)) continue;
      const cut = one.cut_from !== undefined;
      const found = pick({ ...one, message: `${one.text}${cut ? "…" : ""}`, cut });
      const detail = isText(one.detail) ? one.detail : undefined;
      // The detail of what was handed over is the way that it went.
      const hasReason = ["held", "refused"].includes(state) && one.state !== "handed-over";
      const reason = hasReason ? detail : BETWEEN[one.state];
      const message = { ...found, state, at, reason, queue: one.to, isOwn: false, isTold: true };
      message.publisher = one.publisher;
      message.end = state === "gone" ? one.state : undefined;
      message.key = `${one.id} ${one.to} ${at} told`;
      const known = this.withId(one.id).find((other) => isSame(other, message));
      if (!known) {
        this.add(message);
        const last = this.lasts.get(one.to);
        if (!last || last.isTold) keep(this.lasts, one.to, message, LASTS);
      } else if (known.isTold || knowsMore(message, known)) become(known, message);
    }
    // The oldest go first when there are too many.
    const inTime = [...this.messages].sort(([, one], [, two]) => one.at - two.at);
    this.messages = new Map(inTime);
  }

  /** The messages of an id: others can use it again for another text. */
  withId(id) {
    return [...(this.ids.get(id) ?? [])].map((key) => this.messages.get(key));
  }

  /** Sessions send receipts only for messages of their own user. */
  receipt(found, at) {
    const state =
      isText(found?.state) && Object.hasOwn(RECEIPTS, found.state)
        ? RECEIPTS[found.state]
        : undefined;
    const isReceipt = isText(found?.id) && state;
    // Each member of a group has a message of this id. Older sessions do not say who they are.
    const isMeant = ({ isOwn, queue }) => isOwn && (!isText(found.to) || found.to === queue);
    const known = isReceipt ? this.withId(found.id).filter(isMeant) : [];
    let changed = false;
    for (const message of known) {
      const isOver = OVER.includes(message.state);
      if (state === "held" && isOver) continue;
      message.state = state;
      if (state === "gone") message.end = found.state;
      message.reason = isText(found.reason) ? found.reason : undefined;
      if (state !== "held") message.done = at;
      changed = true;
    }
    return changed;
  }

  presence(text, at) {
    const found = parse(text);
    if (found?.kind !== "state" || !isText(found.state)) return false;
    if (!isText(found.name) || !isSession(found.name)) return false;
    if (!isText(found.session) || !WRAP.test(found.session)) return false;
    const session = this.session(found.name);
    // The clock of its machine may be ahead, or what it says be no time.
    const since = Math.min(Date.parse(found.since) || at, at);
    if (found.state === "closed") session.presences.delete(found.session);
    else keep(session.presences, found.session, { ...found, since }, PRESENCES);
    return true;
  }

  /** A session answered what it holds. */
  answered(text) {
    const { found, isCut } = inbox(text);
    if (found.kind !== "inbox" || !isText(found.name) || !isText(found.session)) return false;
    const session = this.sessions.get(found.name);
    if (!session || !WRAP.test(found.session) || !Array.isArray(found.messages)) return false;
    const isHeld = (message) => ["id", "from", "line"].every((name) => isText(message?.[name]));
    const messages = found.messages.filter(isHeld);
    const answer = { messages: messages.slice(0, HELD), isCut: isCut || messages.length > HELD };
    keep(session.held, found.session, answer, PRESENCES);
    return true;
  }

  /** The messages that a session holds, as far as they are known, and whether that is all. */
  held(session) {
    const answers = [...session.presences]
      .filter(([wrap, presence]) => presence.held > 0 && session.held.has(wrap))
      .map(([wrap]) => session.held.get(wrap));
    const messages = answers.flatMap((answer) => answer.messages);
    return { messages, isAll: !answers.some((answer) => answer.isCut) };
  }

  /** An operator removed what waited in a queue: `purged`, or `deleted` with it. */
  removed(name, end) {
    for (const message of this.messages.values()) {
      if (message.queue !== name || message.state !== "waiting") continue;
      message.state = "gone";
      message.end = end;
    }
  }

  /** The ids of a conversation: what answers what, in both directions. */
  thread(id) {
    const ids = new Set([id]);
    const messages = [...this.messages.values()].filter((message) => message.answers);
    // Whoever may publish can make a chain as long as he likes.
    for (let size = 0, rounds = 0; size < ids.size && rounds < 64; rounds++) {
      size = ids.size;
      for (const message of messages) {
        if (!ids.has(message.id) && !ids.has(message.answers)) continue;
        ids.add(message.id).add(message.answers);
      }
    }
    return ids;
  }

  /** What a session does, in one word, and why. */
  standing(session) {
    const order = ["stuck", "needs-you", "draft", "starting", "busy", "paused", "notify", "idle"];
    const rank = (presence) =>
      order.includes(presence.state) ? order.indexOf(presence.state) : order.length;
    const presences = [...session.presences.values()].sort((one, two) => rank(one) - rank(two));
    const consumers = session.queue?.consumers ?? 0;
    if (session.queue && consumers === 0)
      return { state: "closed", label: "Closed", presences: [] };
    const shown = {
      idle: ["idle", "Idle"],
      busy: ["busy", "Busy"],
      "needs-you": ["held", "Needs you"],
      draft: ["held", "Draft"],
      stuck: ["held", "Stuck"],
      starting: ["starting", "Starting"],
      paused: ["paused", "Paused"],
      notify: ["notify", "Notify"],
    };
    const first = presences[0];
    if (!first) return { state: "attached", label: "Attached", presences };
    const [state, label] = shown[first.state] ?? ["attached", first.state];
    const held = presences.reduce((sum, presence) => sum + (Number(presence.held) || 0), 0);
    return {
      state,
      label,
      reason: isText(first.detail) ? first.detail : isText(first.reason) ? first.reason : undefined,
      since: first.since,
      held,
      presences,
    };
  }

  /** Messages in the queue that the session has not taken. */
  waiting(session) {
    const held = this.standing(session).held ?? 0;
    return Math.max(0, (session.queue?.messages ?? 0) - held);
  }

  /** Whether messages wait for a session that is closed. */
  waitsToBeOpened(session) {
    return this.standing(session).state === "closed" && this.waiting(session) > 0;
  }

  /** The closed sessions for which messages wait. */
  waitToBeOpened() {
    return [...this.sessions.values()].filter((session) => this.waitsToBeOpened(session));
  }

  /**
   * What became of a message: one that waits for a session which takes nothing in is held, for that
   * session's reason.
   */
  fate(message) {
    const { end } = message;
    if (message.state !== "waiting") return { state: message.state, reason: message.reason, end };
    const session = this.sessions.get(message.queue ?? message.to);
    const standing = session && this.standing(session);
    const keepsBack =
      ["held", "paused"].includes(standing?.state) ||
      (standing?.state === "notify" && standing.held > 0);
    if (!keepsBack) return { state: "waiting" };
    return { state: "held", reason: standing.reason ?? standing.label.toLowerCase() };
  }

  /** Those who need a person first, then by name. */
  ordered() {
    const weight = {
      held: 0,
      starting: 2,
      busy: 2,
      idle: 2,
      attached: 2,
      notify: 2,
      paused: 1,
      closed: 3,
    };
    const rank = (session) => {
      const { state } = this.standing(session);
      return this.waitsToBeOpened(session) ? 1 : (weight[state] ?? 2);
    };
    return [...this.sessions.values()].sort(
      (one, two) => rank(one) - rank(two) || one.name.localeCompare(two.name),
    );
  }

  /** Messages that match, oldest first. */
  search({ text = "", peer = "", group = undefined, state = "", thread = undefined }) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (message) =>
      (!state || this.fate(message).state === state) &&
      (!peer || message.from === peer || message.to === peer) &&
      (!group || group.has(message.from) || group.has(message.to)) &&
      (!thread || thread.has(message.id)) &&
      words.every((word) => message.haystack.includes(word));
    return [...this.messages.values()].filter(matches).sort((one, two) => one.at - two.at);
  }
}

/**
 * Whether the history says more of a message's end than what went by: an ack there may be a
 * session's refusal, and what a command took may be purged.
 */
const knowsMore = (told, seen) =>
  OVER.includes(told.state) &&
  (!OVER.includes(seen.state) ||
    (seen.state === "delivered" && told.state !== "delivered") ||
    (seen.state === "gone" && seen.end === "taken"));

/** Takes over what became of the same message. */
function become(message, { state, reason, end }) {
  Object.assign(message, { state, reason, end });
}

/** Whose a message is as far as the history says it too. */
function publisherOf({ isTold, isOwn, publisher }) {
  return (isTold ? publisher === undefined : isOwn) ? "own" : "other";
}

/** Whether both are one message: others can use its id again, also for the same text. */
function isSame(one, two) {
  if (publisherOf(one) !== publisherOf(two)) return false;
  if (one.isTold && two.isTold && one.publisher !== two.publisher) return false;
  if (one.queue !== two.queue || one.from !== two.from) return false;
  const [short, long] = one.text.length < two.text.length ? [one, two] : [two, one];
  return short.cut ? long.text.startsWith(short.text.slice(0, -1)) : short.text === long.text;
}

const haystack = ({ id, from, to, text, files }) =>
  [id, from, to, text, ...files].join("\n").toLowerCase();

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
  message.haystack = haystack(message);
  return message;
}
