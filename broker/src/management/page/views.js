// What is shown: sessions, conversation, queues. Elements are kept by key and changed in
// place, so that focus, selection and scrolling survive an update.

import { $, bytes, el, hue, keyed, number, plain, say, span, toast, when } from "./dom.js";
import { publisherOf, stateWords } from "./message.js";
import { isInternal } from "./names.js";
import { rows, waiting } from "./session_status.js";

const peer = (name) => {
  const shown = el("span", { className: "peer" }, name);
  shown.style.setProperty("--hue", hue(name));
  return shown;
};

// ---------------------------------------------------------------- sessions

/** Held messages on a card; the drawer shows all. */
const ON_CARD = 2;
/** The number of sessions of a kind that are named at the top. */
const NAMED = 3;
/** The words for sessions that need something: for one, for several, and their colour. */
const NEEDS = {
  asks: ["needs you", "need you", "held"],
  stuck: ["is stuck", "are stuck", "held"],
  open: ["is closed, messages wait", "are closed, messages wait", "waiting"],
  keeps: ["holds messages", "hold messages", "waiting"],
};

/**
 * Draws the cards. Returns the sessions that need a person, and why. Sessions of one name have a
 * card each; they share the queue, and are paused and asked together.
 */
export function sessions(model, acts) {
  const list = rows(model.sessions.values());
  $("dead").hidden = model.dead.length === 0;
  say($("dead-count"), number(model.dead.length + model.olderDead));
  keyed($("session-list"), list, {
    key: (row) => row.key,
    make: (row) => card(row, acts),
    update: (child, row) => fill(child, model, row),
  });
  $("no-sessions").hidden = list.length > 0;
  todo(list);
  const all = list.map(({ key, name, status }) => ({ key, name, ...status }));
  const calling = all.filter(({ state }) => state === "held");
  say($("count-sessions"), list.length ? String(calling.length || list.length) : "");
  $("count-sessions").classList.toggle("alert", calling.length > 0);
  const words =
    calling.length === 1 ? "1 session needs you" : `${calling.length} sessions need you`;
  $("count-sessions").title = calling.length ? words : `${list.length} sessions`;
  return calling;
}

/** Shows at the top, in one line, which sessions need something from a person. */
function todo(list) {
  const names = { asks: new Set(), stuck: new Set(), open: new Set(), keeps: new Set() };
  for (const { name, need } of list) names[need]?.add(name);
  const kinds = Object.entries(names)
    .map(([kind, those]) => [kind, [...those]])
    .filter(([, those]) => those.length);
  const line = $("todo");
  line.hidden = list.length === 0;
  const text = JSON.stringify(kinds);
  if (line.dataset.text === text) return;
  line.dataset.text = text;
  const parts = kinds.map(([kind, those]) => {
    const [one, several, colour] = NEEDS[kind];
    const named = those.slice(0, NAMED).flatMap((name, place) => [
      place ? ", " : "",
      el("b", {}, name),
    ]);
    const rest = those.length > NAMED ? ` and ${number(those.length - NAMED)} more` : "";
    const words = `${rest} ${those.length === 1 ? one : several}`;
    return el("span", { className: `is-${colour}` }, ...named, words);
  });
  const said = parts.flatMap((part, place) => (place ? ["\u00a0· ", part] : [part]));
  line.replaceChildren(...(parts.length ? said : ["No session needs you."]));
}

/** What the person can do, and the command for it if there is one. */
function advice({ name, session, need, status }) {
  // Nothing before the command is known: another one would be copied.
  if (need === "open" && session.opening === undefined) return ["", ""];
  if (need === "open") return ["Open it: ", session.opening || `cbroker --name ${name} <agent>`];
  if (need === "asks")
    return ["Answer in its terminal; to see it from here: ", `cbroker screen ${name}`];
  if (need === "keeps" && status.state === "draft")
    return ["Send or clear the draft in its terminal.", ""];
  return ["", ""];
}

function card({ name }, acts) {
  const act = (kind, text, onclick) =>
    el(
      "button",
      { type: "button", className: kind, "aria-label": `${text} ${name}`, onclick },
      text,
    );
  const child = el(
    "article",
    { className: "card session" },
    el(
      "h2",
      {},
      el("button", { type: "button", className: "open", onclick: () => acts.open(name) }, name),
      el("span", { className: "pill" }),
    ),
    el("p", { className: "why" }),
    el("p", { className: "how" }, el("span"), el("code")),
    el("ul", { className: "kept" }),
    el("p", { className: "last" }),
    el("p", { className: "feet" }),
    el(
      "p",
      { className: "acts" },
      act("send", "Send", () => acts.compose(name)),
      act("pause", "Pause", () => acts.pause(name)),
      act("resume", "Resume", () => acts.resume(name)),
    ),
  );
  return child;
}

/** Shows Pause or Resume, whichever the session can do. */
export function offer(parent, status) {
  parent.querySelector(".pause").hidden = !status.canPause;
  parent.querySelector(".resume").hidden = !status.canResume;
}

/** The frame around a text that is typed. Names and ids in its head have no brackets. */
const FRAME = /^\[cbroker peer message [^\]]*\] | \[end\]$/g;

/**
 * The text of a held message: as it was sent if this page saw it, else as it would be typed.
 */
export function heldText(model, session, message) {
  const whole = sent(model, session, message).find((item) => !item.cut);
  return whole?.text ?? message.line.replace(FRAME, "");
}

/**
 * A message that a session holds, as it was sent, if this page saw it. Other publishers can use its
 * id for another session.
 */
export const sent = (model, { name }, { id, from }) =>
  model.withId(id).filter((item) => item.isOwn && item.queue === name && item.from === from);

/** Whether a session sent the message: in its own queue others can write its name as the sender. */
const isSaidBy = ({ name }, { from, to }) => from === name && to !== name;

function fill(child, model, row) {
  const { session, status, need, wraps } = row;
  const [head, why, how, kept, last, feet, acts] = child.children;
  const wants = need === "open" ? " is-waiting" : "";
  child.className = `card session is-${status.state}${wants}`;
  say(head.lastChild, status.label);
  const age = status.since ? span(model.now() - status.since) : "";
  head.lastChild.title = age ? `${status.label} for ${age}` : status.label;
  const reason = status.reason === status.label.toLowerCase() ? "" : (status.reason ?? "");
  const isHeld = reason && status.state === "held";
  say(why, isHeld ? [reason, age].filter(Boolean).join(" · ") : reason);
  why.hidden = !reason;
  const [words, command] = advice(row);
  how.hidden = !words;
  say(how.firstChild, words);
  say(how.lastChild, command);
  how.lastChild.hidden = !command;
  const held = model.held(session, status.presences).messages.slice(0, ON_CARD);
  const texts = wants
    ? session.first
    : held.map((message) => ({ ...message, text: heldText(model, session, message) }));
  keyed(kept, texts, {
    key: ({ id, from, text }) => JSON.stringify([id, from, text]),
    make: ({ from, text }) => el("li", {}, el("b", {}, from), ": ", text.slice(0, 300)),
    update: () => {},
  });
  kept.hidden = texts.length === 0;
  offer(acts, status);
  last.hidden = texts.length > 0;
  const message = model.lasts.get(session.name) ?? model.strays.get(session.name);
  const spoke = message && (isSaidBy(session, message) ? `to ${message.to}` : message.from);
  say(last, message ? `${spoke}: ${message.text.slice(0, 300)}` : "no messages yet");
  const first = status.presences[0];
  const facts = [];
  const count = waiting(session);
  if (count) {
    const age = session.oldest ? `, oldest ${span(model.now() - session.oldest)}` : "";
    facts.push(["waits", String(count), ` waiting${age}`]);
  }
  if (status.held) facts.push(["waits", String(status.held), " held"]);
  const dead = model.dead.filter(({ queue }) => queue === session.name).length;
  if (dead) facts.push(["refused", String(dead), dead === 1 ? " dead letter" : " dead letters"]);
  if (first?.agent) facts.push(["", "", first.agent]);
  if (first?.host) facts.push(["", "", first.host]);
  if (!first && session.queue?.consumers)
    facts.push([
      "",
      String(session.queue.consumers),
      session.queue.consumers === 1 ? " consumer" : " consumers",
    ]);
  // Sessions of one name differ by their process; they share the waiting messages.
  if (wraps > 1) facts.push(["", "", `process ${first?.pid ?? "?"}, one of ${wraps} of this name`]);
  const text = JSON.stringify(facts);
  if (feet.dataset.text === text) return;
  feet.dataset.text = text;
  feet.replaceChildren(
    ...facts.map(([kind, count, words]) =>
      el("span", { className: kind }, count ? el("b", {}, count) : "", words),
    ),
  );
}

// ---------------------------------------------------------------- conversation

const ALL = "show all of it";
/** The number of names to choose from, those of the latest messages. */
const CHOICES = 500;
const LABELS = {
  queued: "queued",
  held: "held",
  "handed-over": "handed over",
  delivered: "delivered",
  answered: "answered",
  refused: "dead-lettered",
  unconfirmed: "not confirmed",
};
/** The ends of a message that is not delivered. */
const ENDS = {
  purged: "purged",
  deleted: "deleted with its queue",
  dropped: "dropped: the queue was full",
  expired: "expired",
  returned: "returned",
  rejected: "rejected by its session",
  taken: "taken by a command",
};

/** One message. `acts` has its actions: jump, thread, whole, reply. */
export function message(model, item, acts) {
  const id = el("span", { className: "id mono", title: item.id }, item.id.slice(-6));
  return el(
    "li",
    { className: "message", data: { key: item.key, id: item.id, ...(item.cut && { cut: "yes" }) } },
    el(
      "header",
      {},
      peer(item.from),
      "→",
      peer(item.to),
      el("time", { title: new Date(item.at).toISOString() }, when(item.at)),
      id,
      el("span", { className: "pill" }),
    ),
    el("p", { className: "text", ...reachable(item.text) }, item.text),
    more(item, acts),
  );
}

/** Makes a text that may have to be scrolled reachable by keys. */
const reachable = (text) =>
  text.length > 500 || text.split("\n", 9).length > 8 ? { tabIndex: 0 } : {};

/** Shows the whole text once it is known. */
function widen(child, item, acts) {
  if (item.cut || child.dataset.cut !== "yes") return;
  delete child.dataset.cut;
  say(child.querySelector(".text"), item.text);
  child.lastChild.replaceWith(more(item, acts));
}

/** The publisher of a message that is not the signed-in user's. The history has no names. */
function publisher({ isTold, publisher: mark, user }) {
  if (isTold ? mark === "-" : !user) return "sent by a publisher that the broker does not name";
  return isTold ? "published by another user" : `published by the user ${user}`;
}

const copy = (text) =>
  navigator.clipboard.writeText(plain(text)).then(
    () => toast("Copied."),
    () => toast("The browser does not let this page copy."),
  );

function more(item, { jump, thread, whole, reply }) {
  const parts = [];
  const act = (text, onclick, kind = "") =>
    el("button", { className: `quiet ${kind}`, type: "button", onclick }, text);
  if (item.answers)
    parts.push(
      act(`↩ answers …${item.answers.slice(-6)}`, () => jump(item.answers)),
      act("thread", () => thread(item.id)),
    );
  parts.push(
    act("reply", () => reply(item), "reply"),
    act("copy", () => copy(item.text), "copy"),
  );
  if (item.cut) parts.push(act(ALL, () => whole(item)));
  if (item.isTold) parts.push(el("span", {}, "from this machine's history"));
  if (publisherOf(item) !== "own") parts.push(el("span", {}, publisher(item)));
  if (item.replyTo) parts.push(el("span", {}, `reply to ${item.replyTo}`));
  if (item.priority && item.priority !== "normal")
    parts.push(el("span", {}, `${item.priority} priority`));
  for (const file of item.files) parts.push(el("code", {}, file));
  return el("p", { className: "more" }, ...parts);
}

export function restate(child, item, model) {
  const { state, way, reason, end } = model.fate(item);
  child.classList.remove(...Object.keys(LABELS).map((name) => `is-${name}`), "is-gone");
  child.classList.add(`is-${state}`);
  const took =
    ["delivered", "answered"].includes(state) && item.done > item.at + 1000
      ? ` after ${span(item.done - item.at)}`
      : "";
  const label = state === "gone" ? ENDS[end] : LABELS[state];
  say(child.querySelector(".pill"), `${stateWords(label, way, reason)}${took}`);
}

/** Brings the list up to date; only its last `most` are in the page. */
export function talk(model, query, most, acts) {
  const list = $("talk-list");
  const found = model.search(query);
  const shown = found.slice(-most);
  keyed(list, shown, {
    key: (item) => item.key,
    make: (item) => message(model, item, acts),
    update: (child, item) => {
      restate(child, item, model);
      widen(child, item, acts);
    },
  });
  $("older").hidden = found.length <= shown.length;
  $("no-talk").hidden = found.length > 0;
  const missed = model.missed ? `, ${number(model.missed)} missed` : "";
  const older = model.older ? `, ${number(model.older)} older on disk` : "";
  const count = `${number(found.length)} of ${number(model.messages.size)}`;
  say($("talk-count"), count + older + missed);
  say($("count-talk"), model.messages.size ? number(model.messages.size) : "");
  const latest = [...model.messages.values()].reverse();
  const names = new Set(latest.flatMap((item) => [item.from, item.to]));
  choose("talk-peer", "Every session", names, (name) => name);
  choose("talk-group", "Every group", model.groups.keys(), (name) => `@${name}`);
  $("talk-group").hidden = model.groups.size === 0;
}

/** Fills a selection list. */
function choose(id, all, names, words) {
  const choices = ["", ...[...names].slice(0, CHOICES).sort()];
  keyed($(id), choices, {
    key: (name) => name,
    make: (name) => el("option", { value: name }, name ? words(name) : all),
    update: () => {},
  });
}

// ---------------------------------------------------------------- queues

export function queues(page, open) {
  const internal = page.items.filter((queue) => isInternal(queue.name)).length;
  const areShown = $("queue-internal").checked;
  $("queue-internal").parentElement.hidden = internal === 0;
  say($("queue-internal").nextElementSibling, `${internal} internal on this page`);
  keyed(
    $("queue-rows"),
    areShown ? page.items : page.items.filter((queue) => !isInternal(queue.name)),
    {
      key: (queue) => JSON.stringify([queue.vhost, queue.name]),
      make: (queue) => row(queue, open),
      update: (child, queue) => {
        const stats = queue.message_stats ?? {};
        const cells = [
          queue.name,
          queue.vhost,
          number(queue.messages_ready),
          number(queue.messages_unacknowledged),
          number(queue.consumers),
          number(stats.publish_details?.rate),
          number(stats.deliver_get_details?.rate),
        ];
        cells.forEach((text, place) => say(child.children[place], text));
      },
    },
  );
  say($("queue-count"), `${number(page.filtered_count)} of ${number(page.total_count)}`);
  say($("queue-page"), `${page.page} / ${page.page_count}`);
  $("queue-back").disabled = page.page <= 1;
  $("queue-next").disabled = page.page >= page.page_count;
}

function row(queue, open) {
  const go = () => open(queue.vhost, queue.name);
  const made = el(
    "tr",
    { tabIndex: 0, onclick: go },
    ...Array.from({ length: 7 }, (_, place) => el("td", { className: place > 1 ? "num" : "" })),
  );
  made.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    // Else the same key presses the button that has the focus then, which closes the drawer.
    event.preventDefault();
    go();
  });
  return made;
}

/** The waiting messages of any queue; `open` shows the whole of one that is cut. */
export function contents(messages, open) {
  const shown = messages.map((item, place) =>
    el(
      "li",
      { className: "message" },
      el(
        "header",
        {},
        el("span", { className: "mono" }, item.routing_key || "(no key)"),
        el("time", {}, when(item.published_ms)),
        el("span", { className: "id" }, bytes(item.payload_bytes)),
        item.redelivered ? el("span", { className: "id" }, "redelivered") : "",
      ),
      el("p", { className: "text mono", ...reachable(item.payload) }, item.payload),
      item.isCut
        ? el(
            "p",
            { className: "more" },
            el("button", { className: "quiet", type: "button", onclick: () => open(place) }, ALL),
          )
        : "",
    ),
  );
  return el("ol", { className: "talk" }, ...shown);
}
