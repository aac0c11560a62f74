// One message of the conversation: what the history, receipts and the tap say became of it, and
// when two accounts are of the same message. No DOM.

import { isText } from "./envelope.js";

/** What the history on disk says, as states of a message here. */
export const TOLD = {
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
export const OVER = ["delivered", "refused", "gone"];
/** Words for what is between. */
export const BETWEEN = {
  "handed-over": "the agent has it, and has not read it yet",
  unconfirmed: "not confirmed",
  received: "received",
  returned: "back in its queue",
};
/** What receipts say, as states of a message here. */
export const RECEIPTS = {
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
export const SETTLED = { acked: "delivered", rejected: "gone", taken: "gone" };

/** A number for some text, 53 bits of it. */
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
 * Whether the history says more of a message's end than what went by: an ack there may be a
 * session's refusal, and what a command took may be purged.
 */
export const knowsMore = (told, seen) =>
  OVER.includes(told.state) &&
  (!OVER.includes(seen.state) ||
    (seen.state === "delivered" && told.state !== "delivered") ||
    (seen.state === "gone" && seen.end === "taken"));

/** Takes over what became of the same message. */
export function become(message, { state, reason, end }) {
  Object.assign(message, { state, reason, end });
}

/** Whose a message is as far as the history says it too. */
export function publisherOf({ isTold, isOwn, publisher }) {
  return (isTold ? publisher === undefined : isOwn) ? "own" : "other";
}

/** Whether both are one message: others can use its id again, also for the same text. */
export function isSame(one, two) {
  if (publisherOf(one) !== publisherOf(two)) return false;
  if (one.isTold && two.isTold && one.publisher !== two.publisher) return false;
  if (one.queue !== two.queue || one.from !== two.from) return false;
  const [short, long] = one.text.length < two.text.length ? [one, two] : [two, one];
  return short.cut ? long.text.startsWith(short.text.slice(0, -1)) : short.text === long.text;
}

/** Messages that are kept, and their characters. */
const KEEP = { count: 10000, size: 1 << 24 };

/** What messages take. Those of other users take half of it at most, once there is no more. */
export class MessageRoom {
  constructor() {
    this.all = { count: 0, size: 0 };
    this.others = { count: 0, size: 0 };
  }

  /** Counts messages and characters that came or went, like this one. */
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

  /** Which message goes, but for the one that was added; `messages` begin with the oldest. */
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

/** What a search looks at. */
export const haystack = ({ id, from, to, text, files }) =>
  [id, from, to, text, ...files].join("\n").toLowerCase();

/** What the page keeps of an envelope. */
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
