// One message of the conversation: its state by the history, by receipts and by the tap, and when
// two entries are the same message. Uses no DOM.

import { isText } from "./envelope.js";
import { ASKING } from "./names.js";

/** The states of the history on disk, as states of a message on the page. */
export const TOLD = {
  sent: "unconfirmed",
  unconfirmed: "unconfirmed",
  confirmed: "queued",
  received: "queued",
  requeued: "queued",
  held: "held",
  "handed-over": "handed-over",
  delivered: "delivered",
  answered: "answered",
  repeated: "delivered",
  "dead-lettered": "refused",
  purged: "gone",
  deleted: "gone",
  dropped: "gone",
  expired: "gone",
  returned: "gone",
};
/** The final states. */
export const OVER = ["delivered", "answered", "refused", "gone"];
/** The states of a message that a session has and the model has not. */
export const IN_SESSION = ["held", "handed-over"];
/** The states in which the history's detail, or a receipt, names the way in. */
export const BY_A_WAY = ["handed-over", "delivered"];

/** A state in words: the way in is in parentheses, a reason behind a colon, as in the commands. */
export const stateWords = (label, way, reason) =>
  `${label}${isText(way) ? ` (${way})` : ""}${isText(reason) ? `: ${reason}` : ""}`;

/** Whether it is the message by which `cbroker doctor --probe` tries whether sending works. */
export const isProbe = ({ from, message }, to) =>
  from === "doctor" && message === "a probe" && ASKING.test(to);

/** The states of receipts, as states of a message on the page. */
export const RECEIPTS = {
  held: "held",
  "handed-over": "handed-over",
  delivered: "delivered",
  "dead-lettered": "refused",
  purged: "gone",
  deleted: "gone",
  dropped: "gone",
  expired: "gone",
};

/**
 * How a consumer settled a message. A session rejects a message that must not or could not be
 * delivered. A session never uses `basic.get`: then a command took the message, such as a purge,
 * and the history has the reason.
 */
export const SETTLED = { acked: "delivered", rejected: "gone", taken: "gone" };

/** A hash of a text, 53 bits. */
export function digest(text) {
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

/**
 * Whether the history knows more about a message than the tap: an ack may be a session's refusal,
 * and a message that a command took may be purged. The tap does not see that a session hands a
 * message over, or takes it back.
 */
export function knowsMore(told, seen) {
  if (told.state === "handed-over") return ["queued", "held"].includes(seen.state);
  if (told.isBack) return seen.state === "handed-over";
  const areDelivered = told.state === "delivered" && seen.state === "delivered";
  if (areDelivered) return isText(told.way) && !isText(seen.way);
  return (
    OVER.includes(told.state) &&
    (!OVER.includes(seen.state) ||
      (seen.state === "delivered" && told.state !== "delivered") ||
      (seen.state === "gone" && seen.end === "taken"))
  );
}

/** Takes over the state of another entry for the same message. */
export function become(message, { state, way, reason, end }) {
  Object.assign(message, { state, way, reason, end });
}

/** Whether a message is the user's own, as far as the history tells that too. */
export function publisherOf({ isTold, isOwn, publisher }) {
  return (isTold ? publisher === undefined : isOwn) ? "own" : "other";
}

/** Whether both entries are one message. Other users can reuse its id, even for the same text. */
export function isSame(one, two) {
  if (publisherOf(one) !== publisherOf(two)) return false;
  if (one.isTold && two.isTold && one.publisher !== two.publisher) return false;
  if (one.queue !== two.queue || one.from !== two.from) return false;
  const [short, long] = one.text.length < two.text.length ? [one, two] : [two, one];
  return short.cut ? long.text.startsWith(short.text.slice(0, -1)) : short.text === long.text;
}

/** The limits of the kept messages and of their characters. */
const KEEP = { count: 10000, size: 1 << 24 };

/** Counts the kept messages. When the limit is reached, other users may take at most half of it. */
export class MessageRoom {
  constructor() {
    this.all = { count: 0, size: 0 };
    this.others = { count: 0, size: 0 };
  }

  /** Counts added or removed messages and characters of the same publisher as this one. */
  count(message, messages, characters) {
    const taken = publisherOf(message) === "own" ? [this.all] : [this.all, this.others];
    for (const one of taken) {
      one.count += messages;
      one.size += characters;
    }
  }

  isFull() {
    return this.all.count > KEEP.count || this.all.size > KEEP.size;
  }

  /** The message to remove, other than the added one; `messages` begin with the oldest. */
  oldest(messages, added) {
    const { count, size } = this.others;
    const areMany = count > KEEP.count / 2 || size > KEEP.size / 2;
    for (const message of messages) {
      if (message === added) continue;
      if (!areMany || publisherOf(message) === "other") return message;
    }
    return undefined;
  }
}

/** The text that a search looks at. */
export const haystack = ({ id, from, to, text, files }) =>
  [id, from, to, text, ...files].join("\n").toLowerCase();

/** The fields of an envelope that the page keeps. */
export function pick(found) {
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
