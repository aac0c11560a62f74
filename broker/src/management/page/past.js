// What the broker's machine keeps on disk: the conversation before this page was opened, long texts
// whole, and the dead letters. Only the broker's own user gets it.

import { ask, el, part, say, toast, when } from "./dom.js";
import { VHOST } from "./names.js";

/** Messages of one queue that are looked through for a whole text. */
const LOOKED_AT = 1000;

/** Asks for what is new in the history; true when something was. */
export async function askConversation(model) {
  if (!model.hasArchive) return false;
  const known = model.toldVersion ? `?known=${part(model.toldVersion)}` : "";
  const answer = await ask("GET", `/api/messages${known}`);
  if (!answer.messages) return false;
  model.told(answer);
  return true;
}

/** The whole text of a message that was shown cut; undefined where nobody has it any more. */
export async function wholeText(model, item) {
  const begins = (text) => text.startsWith(item.text.slice(0, -1));
  // Others can use its id, sender and beginning again.
  const isItsPublishers = ({ user_id: user, headers }) => {
    const vouched = headers?.["x-death"] ? undefined : user;
    const isOwn = vouched === model.user;
    return item.isTold ? (item.publisher === undefined) === isOwn : vouched === item.user;
  };
  if (model.hasArchive) {
    const kept = await ask("GET", `/api/messages/${part(item.to)}/${part(item.id)}`).catch(
      () => {},
    );
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

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/**
 * Asks how closed sessions with messages were opened last; true when one is known now. Each is
 * asked for once while it is closed.
 */
export async function askOpenings(model) {
  const closed = model.waitToBeOpened().filter(({ opening }) => opening === undefined);
  if (!model.hasArchive || !closed.length) return false;
  const openings = await ask("GET", "/api/openings");
  for (const session of closed) {
    session.opening = Object.hasOwn(openings, session.name) ? openings[session.name] : "";
  }
  return true;
}

/** Asks for the dead letters; true when there are others than before. */
export async function askDead(model) {
  if (!model.hasArchive) return false;
  const { letters, older } = await ask("GET", "/api/dead-letters");
  const ids = (list) => list.map(({ id }) => id).join();
  if (ids(letters) === ids(model.dead)) return false;
  Object.assign(model, { dead: letters, olderDead: older });
  return true;
}

/** Dead letters, the latest first; `page` is what leads out of them: sure, changed. */
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
  const again =
    "It goes as a message of its own, with a new id and with the fields that it lacked.";
  const sendAgain = {
    title: `Send ${one.is_own ? "it" : "what another user may have written"} to ${one.queue}?`,
    text: one.is_own
      ? again
      : `The broker does not confirm who wrote it${claimed(one)}. ${again} It counts as yours.`,
    go: one.is_own ? "Send again" : "Send it as mine",
    act: async () => {
      const { id } = await ask("POST", `${path}/resend${one.is_own ? "" : "?yes=true"}`);
      toast(`Sent as …${id.slice(-6)}.`);
    },
  };
  const drop = {
    title: "Drop this dead letter?",
    text: `What ${one.queue} refused is gone for good then.`,
    go: "Drop",
    act: () => ask("DELETE", path),
  };
  const after = (question) => async () => {
    if (await page.sure(question)) page.changed();
  };
  const size = one.cut_from ? `the beginning of ${one.cut_from} bytes` : "";
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

/** Whom a dead letter names as its sender, in words. */
function claimed({ raw, encoding, is_excerpt: isExcerpt }) {
  const { from } = encoding || isExcerpt ? {} : parse(raw);
  return typeof from === "string" ? `, though it says “${from.slice(0, 64)}”` : "";
}

/** An envelope's text where there is one, else the body as it came. */
function shown({ raw, encoding, is_excerpt: isExcerpt }) {
  const found = encoding || isExcerpt ? {} : parse(raw);
  const text = typeof found.message === "string" ? found.message : raw;
  return isExcerpt ? `${text}…` : text;
}
