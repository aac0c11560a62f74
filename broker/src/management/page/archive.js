// What is kept on the disk of the broker's machine: messages from before this page was opened, long
// texts in full, and dead letters. Only the broker's own user gets it.

import { ask, el, isAddressable, part, say, toast, when } from "./dom.js";
import { VHOST } from "./names.js";

/** The number of messages of one queue that are searched for a whole text. */
const LOOKED_AT = 1000;

/** Asks for new entries of the history. Resolves to true if there were any. */
export async function askConversation(model) {
  if (!model.hasArchive) return false;
  const known = model.toldVersion ? `?known=${part(model.toldVersion)}` : "";
  const answer = await ask("GET", `/api/messages${known}`);
  if (!answer.messages) return false;
  model.told(answer);
  return true;
}

/** The whole text of a message that is shown cut; undefined if it is not available any more. */
export async function wholeText(model, item) {
  const begins = (text) => text.startsWith(item.text.slice(0, -1));
  // Another publisher can reuse its id, its sender and its first characters.
  const mark = markOf(item);
  const isItsPublishers = ({ user_id: user, headers }) => {
    const vouched = headers?.["x-death"] ? undefined : user;
    if (mark === "") return vouched === model.user;
    // A mark does not say which user it is of.
    return mark === "-" ? vouched === undefined : !item.isTold && vouched === item.user;
  };
  if (model.hasArchive && mark !== undefined && isAddressable(item.id)) {
    const of = mark && `?publisher=${part(mark)}`;
    const path = `/api/messages/${part(item.to)}/${part(item.id)}${of}`;
    const kept = await ask("GET", path).catch(() => {});
    if (kept && !kept.cut_from && kept.from === item.from && begins(kept.text)) return kept.text;
  }
  const queue = `/api/queues/${part(VHOST)}/${part(item.queue)}/peek?count=50`;
  for (let after = "", seen = 0; seen < LOOKED_AT;) {
    const waiting = await ask("GET", queue + after).catch(() => []);
    for (const { payload, properties } of waiting) {
      if (properties.message_id !== item.id && !payload.includes(item.id)) continue;
      if (!isItsPublishers(properties)) continue;
      const found = parse(payload);
      if (found.id === item.id && found.from === item.from && begins(String(found.message)))
        return found.message;
    }
    if (waiting.length < 50) return undefined;
    seen += waiting.length;
    after = `&after=${waiting.at(-1).cursor}`;
  }
  return undefined;
}

/** The history's mark of a message's publisher: "" of the own user, undefined if not known. */
function markOf({ isTold, isOwn, publisher, user }) {
  if (isTold) return publisher ?? "";
  if (isOwn) return "";
  return user === undefined ? "-" : undefined;
}

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/**
 * Asks for the commands that open closed sessions with waiting messages, once for each session
 * while it is closed. Resolves to true if it asked.
 */
export async function askOpenings(model) {
  const closed = model.waitToBeOpened().filter(({ opening }) => opening === undefined);
  if (!closed.length) return false;
  const openings = model.hasArchive ? await ask("GET", "/api/openings") : {};
  for (const session of closed) {
    session.opening = Object.hasOwn(openings, session.name) ? openings[session.name] : "";
  }
  return true;
}

/** Asks for the dead letters. Resolves to true if they differ from those known before. */
export async function askDead(model) {
  if (!model.hasArchive) return false;
  const { letters, older } = await ask("GET", "/api/dead-letters");
  const ids = (list) => list.map(({ id }) => id).join();
  if (ids(letters) === ids(model.dead)) return false;
  Object.assign(model, { dead: letters, olderDead: older });
  return true;
}

/** The list of dead letters, the latest first. It calls `askToConfirm` and `changed` of `page`. */
export function letters(list, page) {
  return el("ol", { className: "talk" }, ...[...list].reverse().map((one) => letter(one, page)));
}

function letter(one, page) {
  const path = `/api/dead-letters/${part(one.id)}`;
  const text = el("p", { className: "text mono", tabIndex: 0 }, shown(one));
  const act = (words, onclick) => el("button", { type: "button", onclick }, words);
  const open = async (event) => {
    say(text, shown(await ask("GET", path)));
    event.target.remove();
  };
  const again = "It is sent as a new message with a new id. Missing fields are filled in.";
  const sendAgain = {
    title: one.is_own
      ? `Send it to ${one.queue} again?`
      : `Send to ${one.queue} what another user may have written?`,
    text: one.is_own
      ? again
      : `The broker does not confirm who wrote it${claimed(one)}. ${again} You become its sender.`,
    go: one.is_own ? "Send again" : "Send in my name",
    act: async () => {
      const { id } = await ask("POST", `${path}/resend${one.is_own ? "" : "?yes=true"}`);
      toast(`Sent as …${id.slice(-6)}.`);
    },
  };
  const drop = {
    title: "Drop this dead letter?",
    text: `This deletes the message that ${one.queue} refused.`,
    go: "Drop",
    act: () => ask("DELETE", path),
  };
  const after = (question) => async () => {
    if (await page.askToConfirm(question)) page.changed();
  };
  const size = one.cut_from ? `the first part of ${one.cut_from} bytes` : "";
  return el(
    "li",
    { className: "message is-refused", data: { dead: one.id } },
    el(
      "header",
      {},
      el("b", {}, one.queue),
      el("time", {}, when(Date.parse(one.ts))),
      el("span", { className: "id mono", title: one.id }, one.id.slice(0, 6)),
      el("span", { className: "pill" }, one.error),
      one.is_own ? "" : el("span", { className: "pill" }, "publisher not confirmed"),
    ),
    text,
    el(
      "p",
      { className: "acts" },
      one.is_excerpt
        ? act("Show all", (event) => open(event).catch((why) => toast(why.message)))
        : "",
      one.cut_from ? "" : act("Send again …", after(sendAgain)),
      act("Drop …", after(drop)),
      el("span", { className: "muted" }, size),
    ),
  );
}

/** The sender that a dead letter names, in words. */
function claimed({ raw, encoding, is_excerpt: isExcerpt }) {
  const { from } = encoding || isExcerpt ? {} : parse(raw);
  return typeof from === "string" ? `; it names “${from.slice(0, 64)}” as its sender` : "";
}

/** The text of an envelope; of any other body, the body itself. */
function shown({ raw, encoding, is_excerpt: isExcerpt }) {
  const found = encoding || isExcerpt ? {} : parse(raw);
  const text = typeof found.message === "string" ? found.message : raw;
  return isExcerpt ? `${text}…` : text;
}
