// The page's data: sessions from presence and queues, messages from the tap and from peeking. Uses
// no DOM.
//
// Any user who may publish can forge a presence, a receipt or a message. So, as in `cbroker list`
// and `send --wait`, presences and receipts count only with the `user_id` of the signed-in user:
// the broker refuses every name but the publisher's own. Only the vhost of the page counts, an ack
// counts only in the queue that the message was sent to, and a message is identified by its id, its
// queue, its bytes and its user. Every map has a bound; the oldest entry is removed first.

import { envelope, HELD, inbox, isText, parse } from "./envelope.js";
import {
  become,
  BY_A_WAY,
  digest,
  haystack,
  IN_SESSION,
  isProbe,
  isSame,
  knowsMore,
  MessageRoom,
  OVER,
  pick,
  publisherOf,
  RECEIPTS,
  SETTLED,
  TOLD,
} from "./message.js";
import { EXCHANGE, isSession, LISTENING, NAME, PRESENCE, VHOST, WRAP } from "./names.js";
import { statusOf, waitsToBeOpened } from "./session_status.js";

const SESSIONS = 2000;
/** Wraps of one name. */
const PRESENCES = 16;
/** The number of other users' messages that are kept for one id. */
const SAME_ID = 16;
const LASTS = 2 * SESSIONS;
/** The number of waiting messages that the card of a session may show. */
const FIRST = 2;

/** Adds an entry to a map of at most `most` entries; the oldest are removed. */
function keep(map, key, value, most) {
  map.delete(key);
  map.set(key, value);
  while (map.size > most) map.delete(map.keys().next().value);
}

export class Model {
  constructor() {
    /** The signed-in user, whose presences and receipts count. */
    this.user = undefined;
    /** Whether the signed-in user gets the history on disk. */
    this.hasArchive = false;
    this.clear();
  }

  /** Forgets everything but who is signed in. */
  clear() {
    /**
     * name → { queue, presences: Map(session → presence), held: Map(session → answer),
     * oldest, first, opening, peeked: how many messages its queue had when it was looked into, and
     * when }
     */
    this.sessions = new Map();
    /** key → message, in the order in which they came. */
    this.messages = new Map();
    /** id → keys of messages. */
    this.ids = new Map();
    this.room = new MessageRoom();
    /** name → its latest message. `strays`: names without a session, which any user can use. */
    this.lasts = new Map();
    this.strays = new Map();
    this.missed = 0;
    /** The version of the history on disk that is known. */
    this.toldVersion = undefined;
    /** Messages on disk that are older than those here. */
    this.older = 0;
    /** name → names of the members. */
    this.groups = new Map();
    /** The dead letters, oldest first, and how many more there are. */
    this.dead = [];
    this.olderDead = 0;
    /** The wraps that this page takes messages from, and how many they did not give away. */
    this.takes = new Set();
    this.left = 0;
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
        peeked: undefined,
        // The first messages that wait in its queue.
        first: [],
        // The command by which it was opened last; "" where that is not known.
        opening: undefined,
      };
      this.sessions.set(name, session);
      if (this.sessions.size > SESSIONS) this.sessions.delete(this.leastWanted(session).name);
    }
    return session;
  }

  /** The oldest other session without a presence, or else the oldest one. */
  leastWanted(added) {
    const others = [...this.sessions.values()].filter((session) => session !== added);
    return others.find(({ presences }) => presences.size === 0) ?? others[0];
  }

  /** Takes over the queues that are bound to the exchange of the sessions. */
  queues(list) {
    const there = new Set();
    // Other users can bind any number of queues, so those of open sessions come first.
    const isOpen = ({ name }) => this.sessions.get(name)?.presences.size > 0;
    for (const queue of [...list.filter(isOpen), ...list.filter((queue) => !isOpen(queue))]) {
      if (!isSession(queue.name)) continue;
      if (there.size === SESSIONS) break;
      there.add(queue.name);
      const session = this.session(queue.name);
      session.queue = queue;
      // The next command that opens it may be another one.
      if (queue.consumers) session.opening = undefined;
    }
    for (const [name, session] of this.sessions) {
      if (there.has(name)) continue;
      session.queue = undefined;
      if (![...session.presences.values()].some((presence) => presence.state !== "gone"))
        this.sessions.delete(name);
    }
  }

  /** Takes over the bindings of the groups' exchange. Returns true if the set of groups changed. */
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

  /** Takes over the first waiting messages of a session's queue. */
  peeked(name, messages) {
    const session = this.session(name);
    session.oldest = messages.length ? messages[0].published_ms : undefined;
    session.first = [];
    for (const {
      payload,
      payload_bytes: bytes,
      payload_encoding: encoding,
      properties,
      published_ms: at,
      exchange,
      routing_key: to,
    } of messages) {
      // A copy in a queue that was bound to another session's name is not a message to it.
      if (exchange !== EXCHANGE || to !== name) continue;
      const found = encoding === "string" ? envelope(payload, properties) : undefined;
      if (found && session.first.length < FIRST)
        session.first.push({ id: found.id, from: found.from, text: found.message });
      if (found)
        this.message(found, {
          state: "queued",
          at,
          queue: name,
          text: payload,
          bytes,
          properties,
        });
    }
  }

  /** Takes over one line of the tap. Returns true if something that is shown changed. */
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
    // A user who binds another queue to the exchange gets copies, and may ack those.
    if (!found || (what !== "published" && line.queue !== to)) return false;
    if (isProbe(found, to) && this.isOwn(properties)) return false;
    const state = SETTLED[what] ?? "queued";
    const end = state === "gone" ? what : undefined;
    return this.message(found, { state, end, at, queue: to, text, bytes, properties });
  }

  /**
   * Whether the broker confirms that the signed-in user published it. A dead-lettered message keeps
   * the name, but the owner of the queue decided when and where it went.
   */
  isOwn(properties) {
    const isNamed = isText(this.user) && properties?.user_id === this.user;
    return isNamed && !properties.headers?.["x-death"];
  }

  message(found, { state, end, at, queue, text, bytes, properties }) {
    // A dead-lettered copy keeps the name, but other users may have forwarded it.
    const isVouched = isText(properties?.user_id) && !properties.headers?.["x-death"];
    const user = isVouched ? properties.user_id : undefined;
    // The same bytes from another user are another message.
    const key = `${found.id} ${queue} ${bytes} ${digest(text)} ${user ?? ""}`;
    const known = this.messages.get(key);
    if (known) {
      const isOver = OVER.includes(known.state) && known.state !== "delivered";
      if (isOver || (known.state === "delivered" && state !== "delivered")) return false;
      const before = known.state;
      // A peek adds nothing to a message that its session is known to have.
      if (state !== "queued" || !IN_SESSION.includes(known.state)) known.state = state;
      if (state === "delivered" || state === "gone") {
        known.done = at;
        known.reason = undefined;
        // It was handed over by this way, but may have been delivered by another one.
        if (IN_SESSION.includes(before)) known.way = undefined;
      }
      if (state === "gone") known.end = end;
      return true;
    }
    const done = state === "queued" ? undefined : at;
    const isOwn = this.isOwn(properties);
    const facts = { key, user, isOwn, state, at, queue, done, end, reason: undefined };
    // A sender can name any recipient; the queue is the one that counts.
    const message = { ...pick({ ...found, to: queue }), ...facts };
    const told = this.toldAs(message);
    if (told) {
      this.forget(told);
      if (knowsMore(told, message)) become(message, told);
    }
    this.add(message);
    const lasts = message.isOwn || this.sessions.has(queue) ? this.lasts : this.strays;
    keep(lasts, queue, message, LASTS);
    // Others can write any name as the sender.
    if (message.isOwn) keep(this.lasts, message.from, message, LASTS);
    return true;
  }

  add(message) {
    const replaced = this.messages.get(message.key);
    if (replaced) this.forget(replaced);
    this.messages.set(message.key, message);
    const keys = this.ids.get(message.id) ?? new Set();
    // Own messages are always kept, however often other users reuse the id.
    if (publisherOf(message) === "own" || keys.size < SAME_ID) keys.add(message.key);
    this.ids.set(message.id, keys);
    this.room.count(message, 1, message.haystack.length);
    while (this.room.isFull()) {
      const oldest = this.room.oldest(this.messages.values(), message);
      if (!oldest) break;
      this.forget(oldest);
    }
  }

  forget(message) {
    this.messages.delete(message.key);
    this.room.count(message, -1, -message.haystack.length);
    const rest = this.ids.get(message.id);
    rest?.delete(message.key);
    if (!rest?.size) this.ids.delete(message.id);
  }

  /** Sets the whole text of a message that was cut, which another entry may have replaced. */
  widen(asked, text) {
    const isHere = this.messages.get(asked.key) === asked;
    const message = isHere ? asked : this.withId(asked.id).find((one) => isSame(one, asked));
    if (!message) return;
    this.room.count(message, 0, -message.haystack.length);
    message.text = text;
    message.cut = false;
    message.haystack = haystack(message);
    this.room.count(message, 0, message.haystack.length);
  }

  /** The entry from the history for the same message. */
  toldAs(message) {
    return this.withId(message.id).find((told) => told.isTold && isSame(told, message));
  }

  /** Takes over the history on the broker's machine. The tap's own entries have more detail. */
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
      const hasWay = BY_A_WAY.includes(one.state);
      const hasReason = ["held", "unconfirmed", "refused", "gone"].includes(state);
      const [way, reason] = [hasWay ? detail : undefined, hasReason ? detail : undefined];
      const facts = { state, at, way, reason, queue: one.to, isOwn: false, isTold: true };
      const message = { ...found, ...facts, isBack: one.state === "requeued" };
      message.publisher = one.publisher;
      message.end = state === "gone" ? one.state : undefined;
      message.key = `${one.id} ${one.to} ${at} told ${one.publisher ?? ""}`;
      const known = this.withId(one.id).find((other) => isSame(other, message));
      if (!known) {
        this.add(message);
        const last = this.lasts.get(one.to);
        if (!last || last.isTold) keep(this.lasts, one.to, message, LASTS);
      } else if (known.isTold || knowsMore(message, known)) become(known, message);
    }
    // In order of time, because the oldest are removed if there are too many.
    const inTime = [...this.messages].sort(([, one], [, two]) => one.at - two.at);
    this.messages = new Map(inTime);
  }

  /** The messages with an id, which other users can reuse for another text. */
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
    // Each member of a group has a message with this id. Receipts of older sessions have no name.
    const isMeant = ({ isOwn, queue }) => isOwn && (!isText(found.to) || found.to === queue);
    const known = isReceipt ? this.withId(found.id).filter(isMeant) : [];
    let changed = false;
    for (const message of known) {
      const isOver = OVER.includes(message.state);
      const isInSession = IN_SESSION.includes(state);
      if (isInSession && isOver) continue;
      message.state = state;
      if (state === "gone") message.end = found.state;
      message.way = BY_A_WAY.includes(state) && isText(found.way) ? found.way : undefined;
      message.reason = isText(found.reason) ? found.reason : undefined;
      if (!isInSession) message.done = at;
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
    // The clock of its machine may be ahead, or the value may not be a time.
    const since = Math.min(Date.parse(found.since) || at, at);
    if (found.state === "closed") session.presences.delete(found.session);
    else keep(session.presences, found.session, { ...found, since }, PRESENCES);
    return true;
  }

  /** Takes over a session's answer about the messages that it holds, or about a take. */
  answered(text) {
    const { found, isCut } = inbox(text);
    if (found.kind === "taken") return this.tookFrom(found);
    if (found.kind !== "inbox" || !isText(found.name) || !isText(found.session)) return false;
    const session = this.sessions.get(found.name);
    if (!session || !WRAP.test(found.session) || !Array.isArray(found.messages)) return false;
    const isHeld = (message) => ["id", "from", "line"].every((name) => isText(message?.[name]));
    const messages = found.messages.filter(isHeld);
    const keys = Array.isArray(found.keys) ? found.keys.filter(Number.isSafeInteger) : [];
    // What is not shown must not be taken.
    const isShown = !keys.length || keys.length === messages.length;
    const answer = {
      session: found.session,
      keys,
      messages: messages.slice(0, HELD),
      isCut: isCut || messages.length > HELD || !isShown,
    };
    keep(session.held, found.session, answer, PRESENCES);
    return true;
  }

  /** Takes over how many messages a session did not give to this page. */
  tookFrom({ session, left }) {
    // The page hears its own request too, which has no number.
    if (!Number.isSafeInteger(left) || !this.takes.delete(session)) return false;
    this.left += Math.max(0, left);
    return true;
  }

  /**
   * The known messages that these wraps of a session hold, whether those are all, and the wraps'
   * answers.
   */
  held(session, presences) {
    const answers = presences
      .filter((presence) => presence.held > 0 && session.held.has(presence.session))
      .map((presence) => session.held.get(presence.session));
    const messages = answers.flatMap((answer) => answer.messages);
    return { messages, isAll: !answers.some((answer) => answer.isCut), answers };
  }

  /** Marks the waiting messages of a queue as removed: `purged`, or `deleted` with the queue. */
  removed(name, end) {
    for (const message of this.messages.values()) {
      if (message.queue !== name || message.state !== "queued") continue;
      message.state = "gone";
      message.end = end;
    }
  }

  /** The ids of a conversation: what answers what, in both directions. */
  thread(id) {
    const ids = new Set([id]);
    const messages = [...this.messages.values()].filter((message) => message.answers);
    // Any user who may publish can make a chain of any length.
    for (let size = 0, rounds = 0; size < ids.size && rounds < 64; rounds++) {
      size = ids.size;
      for (const message of messages) {
        if (!ids.has(message.id) && !ids.has(message.answers)) continue;
        ids.add(message.id).add(message.answers);
      }
    }
    return ids;
  }

  /** Notes that no message waits in a session's queue. */
  emptied(session) {
    session.oldest = undefined;
    session.first = [];
  }

  /** The closed sessions for which messages wait. */
  waitToBeOpened() {
    return [...this.sessions.values()].filter(waitsToBeOpened);
  }

  /**
   * The state of a message. One that waits for a session which holds its messages counts as held,
   * for that session's reason.
   */
  fate(message) {
    const { state, way, end } = message;
    // The history says itself what is held.
    if (state !== "queued" || message.isTold) return { state, way, reason: message.reason, end };
    const session = this.sessions.get(message.queue ?? message.to);
    const status = session && statusOf(session);
    const keepsBack =
      ["held", "draft", "paused"].includes(status?.state) ||
      (status?.state === "notify" && status.held > 0);
    if (!keepsBack) return { state: "queued" };
    return { state: "held", reason: status.reason ?? status.label.toLowerCase() };
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
