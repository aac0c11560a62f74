// What is shown: sessions, conversation, queues, broker. Elements are kept by key and changed in
// place, so that focus, selection and scrolling survive an update.

import { $, bytes, el, hue, number, plain, say, span, toast, when } from "./dom.js";
import { isInternal } from "./model.js";

/** Children of `parent` in the order of `keys`, made or updated one by one. */
function keyed(parent, items, { key, make, update }) {
  const there = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = null;
  for (const item of items) {
    const name = String(key(item));
    let child = there.get(name);
    if (child) there.delete(name);
    else {
      child = make(item);
      child.dataset.key = name;
    }
    update(child, item);
    const wanted = place ? place.nextSibling : parent.firstChild;
    if (wanted !== child) parent.insertBefore(child, wanted);
    place = child;
  }
  for (const child of there.values()) child.remove();
}

const peer = (name) => {
  const shown = el("span", { className: "peer" }, name);
  shown.style.setProperty("--hue", hue(name));
  return shown;
};

// ---------------------------------------------------------------- sessions

/** Held messages on a card; the drawer shows all. */
const ON_CARD = 2;

/** Draws the cards; returns the sessions that need somebody, and why. */
export function sessions(model, acts) {
  const list = model.ordered();
  $("dead").hidden = model.dead.length === 0;
  say($("dead-count"), number(model.dead.length + model.olderDead));
  keyed($("session-list"), list, {
    key: (session) => session.name,
    make: (session) => card(session, acts),
    update: (child, session) => fill(child, model, session),
  });
  $("no-sessions").hidden = list.length > 0;
  const all = list.map((session) => ({ name: session.name, ...model.standing(session) }));
  const calling = all.filter(({ state }) => state === "held");
  say($("count-sessions"), list.length ? String(calling.length || list.length) : "");
  $("count-sessions").classList.toggle("alert", calling.length > 0);
  const words =
    calling.length === 1 ? "1 session needs you" : `${calling.length} sessions need you`;
  $("count-sessions").title = calling.length ? words : `${list.length} sessions`;
  return calling;
}

function card(session, acts) {
  const { name } = session;
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
    el("p", { className: "how" }, "Open it: ", el("code")),
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
export function offer(parent, standing) {
  const isAttached = standing.presences.length > 0;
  parent.querySelector(".pause").hidden = !isAttached || standing.state === "paused";
  parent.querySelector(".resume").hidden = !isAttached || standing.state !== "paused";
}

/** What stands around a text that is typed. Names and ids in the head have no brackets. */
const FRAME = /^\[cbroker peer message [^\]]*\] | \[end\]$/g;

/**
 * The text of a held message: as it was sent where that went by here, else as it would be typed.
 */
export function heldText(model, message) {
  const whole = sent(model, message).find((item) => !item.cut);
  return whole?.text ?? message.line.replace(FRAME, "");
}

/** A held message as it was sent, where that went by here. */
export const sent = (model, { id, from }) =>
  model.withId(id).filter((item) => item.isOwn && item.from === from);

function fill(child, model, session) {
  const standing = model.standing(session);
  const [head, why, how, kept, last, feet, acts] = child.children;
  child.className = `card session is-${standing.state}`;
  say(head.lastChild, standing.label);
  const age = standing.since ? span(model.now() - standing.since) : "";
  head.lastChild.title = age ? `${standing.label} for ${age}` : standing.label;
  const reason = standing.reason === standing.label.toLowerCase() ? "" : (standing.reason ?? "");
  say(why, reason && standing.state === "held" ? [reason, age].filter(Boolean).join(" · ") : reason);
  why.hidden = !reason;
  how.hidden = !model.waitsToBeOpened(session);
  say(how.lastChild, session.opening || `cbroker --name ${session.name} <agent>`);
  const held = model.held(session).messages;
  keyed(kept, held.slice(0, ON_CARD), {
    key: (message) => message.id,
    make: (message) =>
      el("li", {}, el("b", {}, message.from), ": ", heldText(model, message).slice(0, 300)),
    update: () => {},
  });
  kept.hidden = held.length === 0;
  offer(acts, standing);
  last.hidden = held.length > 0;
  const message = model.lasts.get(session.name);
  say(
    last,
    message
      ? `${message.from === session.name ? `to ${message.to}` : message.from}: ${message.text.slice(0, 300)}`
      : "nothing said yet",
  );
  const waiting = model.waiting(session);
  const first = standing.presences[0];
  const facts = [];
  if (waiting) {
    const age = session.oldest ? `, oldest ${span(model.now() - session.oldest)}` : "";
    facts.push(["waits", String(waiting), ` waiting${age}`]);
  }
  if (standing.held) facts.push(["waits", String(standing.held), " held"]);
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
  if (standing.presences.length > 1)
    facts.push(["", String(standing.presences.length), " wraps share it"]);
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
/** Names to choose from, those of the latest messages. */
const CHOICES = 500;
const LABELS = {
  waiting: "waiting",
  held: "held",
  delivered: "delivered",
  refused: "dead-lettered",
  sent: "sent",
};
/** How a message ends that nobody gets. */
const ENDS = {
  purged: "purged",
  deleted: "deleted with its queue",
  dropped: "dropped: the queue was full",
  expired: "expired",
  rejected: "rejected by its session",
  taken: "taken by a command",
};

/** One message; `acts` are what leads out of it: jump, thread, whole, reply. */
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

/** A text that may have to be scrolled can be reached by keys. */
const reachable = (text) =>
  text.length > 500 || text.split("\n", 9).length > 8 ? { tabIndex: 0 } : {};

/** Shows a text that has become whole. */
function widen(child, item, acts) {
  if (item.cut || child.dataset.cut !== "yes") return;
  delete child.dataset.cut;
  say(child.querySelector(".text"), item.text);
  child.lastChild.replaceWith(more(item, acts));
}

/** Who published a message that is not the signed-in user's. */
const publisher = (item) =>
  item.user ? `published by the user ${item.user}` : "sent by nobody that the broker vouches for";

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
  else if (!item.isOwn) parts.push(el("span", {}, publisher(item)));
  if (item.replyTo) parts.push(el("span", {}, `reply to ${item.replyTo}`));
  if (item.priority && item.priority !== "normal")
    parts.push(el("span", {}, `${item.priority} priority`));
  for (const file of item.files) parts.push(el("code", {}, file));
  return el("p", { className: "more" }, ...parts);
}

export function restate(child, item, model) {
  const { state, reason, end } = model.fate(item);
  child.classList.remove(...Object.keys(LABELS).map((name) => `is-${name}`), "is-gone");
  child.classList.add(`is-${state}`);
  const took =
    state === "delivered" && item.done > item.at + 1000
      ? ` after ${span(item.done - item.at)}`
      : "";
  const why = reason ? `: ${reason}` : "";
  say(child.querySelector(".pill"), `${state === "gone" ? ENDS[end] : LABELS[state]}${took}${why}`);
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
  const missed = model.missed ? `, ${number(model.missed)} went by unseen` : "";
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

/** Fills a list to choose from. */
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
  say($("queue-internal").nextElementSibling, `${internal} internal here`);
  keyed(
    $("queue-rows"),
    areShown ? page.items : page.items.filter((queue) => !isInternal(queue.name)),
    {
      key: (queue) => `${queue.vhost} ${queue.name}`,
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

/** A queue's waiting messages, whatever they are; `open` shows all of one that is cut. */
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

// ---------------------------------------------------------------- broker

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 64;

function path(values, top, kind) {
  const step = WIDTH / Math.max(1, values.length - 1);
  const at = (value, place) =>
    `${(place * step).toFixed(1)},${(HEIGHT - (value / top) * HEIGHT).toFixed(1)}`;
  const line = values.map(at).join("L");
  const drawn = document.createElementNS(SVG, "path");
  drawn.setAttribute(
    "d",
    kind === "area"
      ? `M0,${HEIGHT}L${line}L${((values.length - 1) * step).toFixed(1)},${HEIGHT}Z`
      : `M${line}`,
  );
  drawn.setAttribute("class", kind);
  return drawn;
}

function plot({ title, series, shown, brief = shown }) {
  const top = Math.max(1, ...series.flatMap(([, values]) => values)) * 1.08;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}, the last five minutes`);
  series.forEach(([, values], place) => {
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", `s${place}`);
    if (series.length === 1) group.append(path(values, top, "area"));
    group.append(path(values, top, "lines"));
    svg.append(group);
  });
  const last = (values, words = shown) => words(values.at(-1) ?? 0);
  const legend = series.map(([name, values], place) =>
    el(
      "span",
      { className: `s${place}` },
      series.length > 1 ? `${name} ${last(values, brief)}` : name,
    ),
  );
  return el(
    "section",
    { className: "card plot" },
    el("h2", {}, title),
    el("p", { className: "now" }, last(series[0][1])),
    svg,
    el("p", { className: "legend" }, ...legend),
  );
}

export function plots(past) {
  const rate = (value) => `${number(value)} /s`;
  const five = `last ${span((past.at_ms.at(-1) ?? 0) - (past.at_ms[0] ?? 0))}`;
  $("plots").replaceChildren(
    plot({
      title: "Messages",
      series: [
        ["in", past.publish],
        ["out", past.deliver],
        ["acked", past.ack],
      ],
      shown: rate,
      brief: number,
    }),
    plot({
      title: "Waiting",
      series: [
        ["ready", past.ready],
        ["unacked", past.unsettled],
      ],
      shown: number,
    }),
    plot({ title: "Connections", series: [[five, past.connections]], shown: number }),
    plot({ title: "Memory", series: [[five, past.memory_bytes]], shown: bytes }),
    plot({ title: "Store on disk", series: [[five, past.disk_bytes]], shown: bytes }),
  );
}

export function facts(overview, node) {
  const listeners = overview.listeners.map(
    (listener) => `${listener.protocol} on ${listener.ip_address}:${listener.port}`,
  );
  const lines = [
    ["Version", `cbroker ${overview.cbroker_version}`],
    ["Up", span(node.uptime)],
    ["Listens", listeners.join("\n")],
    ["Queues", number(overview.object_totals.queues)],
    ["Consumers", number(overview.object_totals.consumers)],
    ["Memory", `${bytes(node.mem_used)} of ${bytes(node.mem_limit)}`],
    ["Disk free", bytes(node.disk_free)],
    ["Store", `${bytes(node.store_bytes)}, ${bytes(node.store_pending_bytes)} not yet on disk`],
    ["Data in", node.db_dir],
  ];
  $("facts").replaceChildren(
    ...lines.flatMap(([name, value]) => [
      el("dt", {}, name),
      el(
        "dd",
        {},
        ...value.split("\n").flatMap((line, place) => (place ? [el("br"), line] : [line])),
      ),
    ]),
  );
  const ringing = [];
  if (node.store_stopped)
    ringing.push(
      "The store has failed: nothing is kept any more. Look at the broker's log, then restart it.",
    );
  if (node.mem_alarm) ringing.push("Memory is above its limit: publishers wait.");
  if (node.disk_free_alarm) ringing.push("The disk is full: publishers wait.");
  say($("alarm"), ringing.join(" "));
  $("alarm").hidden = ringing.length === 0;
}

export function links(list, close) {
  keyed($("links"), list, {
    key: (link) => link.name,
    make: (link) => {
      const cells = Array.from({ length: 5 }, (_, place) =>
        el("td", { className: place > 1 ? "num" : "" }),
      );
      return el(
        "tr",
        {},
        ...cells,
        el(
          "td",
          { className: "num" },
          el(
            "button",
            {
              className: "quiet",
              title: "Close this connection",
              "aria-label": `Close ${link.name}`,
              onclick: () => close(link),
            },
            "✕",
          ),
        ),
      );
    },
    update: (child, link) => {
      const cells = [
        link.user_provided_name ?? link.client_properties?.product ?? link.name,
        link.user ?? "…",
        number(link.channels),
        `${bytes(link.recv_oct)}`,
        `${bytes(link.send_oct)}`,
      ];
      cells.forEach((text, place) => say(child.children[place], text));
      child.children[0].title = `${link.name}, ${link.state}`;
    },
  });
}
