// The page: the live stream, the periodic requests, and what keys and buttons do.

import { noteAnswer, showLive, showStale } from "./live.js";
import * as broker from "./broker.js";
import { showAttention } from "./attention.js";
import { composer } from "./compose.js";
import * as control from "./control.js";
import { $, ask, dropAnswers, part, Refused, say, soon, toast } from "./dom.js";
import { drawer } from "./drawer.js";
import { Model } from "./model.js";
import { EXCHANGE, GROUPS, isOfSession, PRESENCE } from "./names.js";
import { askConversation, askDead, askOpenings, letters, wholeText } from "./archive.js";
import { IS_OUT, showEnd, signInOrShowForm } from "./sign_in.js";
import { listen } from "./stream.js";
import { askToConfirm } from "./confirm.js";
import * as views from "./views.js";

const model = new Model();
const VIEWS = ["sessions", "talk", "queues", "broker"];
let view = "sessions";
let most = 200;
let queuePage = 1;
const { compose, reply } = composer(model, { groupBindings, sent: round });
const { openSession, openQueue, redraw } = drawer(model, {
  jump,
  thread,
  whole,
  compose,
  reply,
  askToConfirm,
  round,
  tell,
  changed: () => askArchive(),
});

// ---------------------------------------------------------------- once signed in

/** Aborts what goes on by itself, once the sign-in has ended. */
const ended = new AbortController();
let rounds = [];

function begin(user) {
  $("sign-in").hidden = true;
  $("app").hidden = false;
  model.user = user.name;
  model.hasArchive = user.archive === true;
  say($("who"), `Signed in as ${user.name}`);
  show(VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "sessions");
  listen("/api/tap", ended.signal, { open, lost, hear });
  round();
  askArchive();
  rounds = [
    setInterval(round, 3000),
    setInterval(askArchive, 5000),
    setInterval(drawSessions, 5000),
  ];
}

/** Stops everything once the sign-in has ended, and says why. */
function end(why) {
  ended.abort();
  for (const each of rounds) clearInterval(each);
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  showEnd(why);
}

// ---------------------------------------------------------------- the live stream

const acts = {
  open: (name) => openSession(name),
  compose,
  pause: (name) => tell(control.pause, name),
  resume: (name) => tell(control.resume, name),
};
const drawSessions = soon(() => showAttention(views.sessions(model, acts)));
const drawTalk = soon(() => {
  const before = nearEnd();
  views.talk(model, query(), most, { jump, thread, whole, reply });
  if (view !== "talk") return;
  if (before) toTheEnd();
  else $("newest").hidden = false;
});

function nearEnd() {
  return view !== "talk" || innerHeight + scrollY > document.body.scrollHeight - 160;
}

/** The live stream: `opening`, `open` or `lost`. */
let stream = "opening";

function open() {
  if (stream === "lost") startAnew();
  stream = "open";
  showLive();
  who();
}

function lost() {
  stream = "lost";
  // A failed request has already shown a more precise reason.
  if ($("gone").hidden) showStale("reconnecting");
}

/**
 * Forgets what was learned and asks for all of it: another program may have answered while the
 * broker was down.
 */
function startAnew() {
  dropAnswers();
  model.clear();
  for (const each of [known, found]) each.clear();
  $("dead-list").replaceChildren();
  asking = askingArchive = undefined;
  round();
  askArchive();
  drawSessions();
  drawTalk();
  redraw();
}

function hear(kind, data) {
  noteAnswer();
  if (kind === "missed") {
    model.missed += Number(data) || 0;
    return drawTalk();
  }
  let changed = false;
  const lines = JSON.parse(data);
  for (const line of lines) changed = model.seen(line) || changed;
  control.tellLeft(model);
  // The history has the reason.
  if (lines.some(({ what }) => what === "taken")) setTimeout(askArchive, 300);
  if (lines.length)
    model.skew =
      Math.abs(lines.at(-1).at_ms - Date.now()) > 5000 && lines.length === 1
        ? lines.at(-1).at_ms - Date.now()
        : model.skew;
  if (!changed) return;
  askHeldSoon();
  drawSessions();
  drawTalk();
  redraw();
}

/** Asks every session for its state. */
async function who() {
  if (await isThere(PRESENCE).catch(() => false)) await control.who(model).catch(() => {});
}

/** Sends a request to the sessions of a name. */
function tell(order, name) {
  order(model, name).catch((error) => toast(error.message));
}

const askHeldSoon = soon(askHeld, 300);
/** What each session held when it was last asked, by its name. */
const known = new Map();

/** Asks the sessions that hold new messages for their texts. */
function askHeld() {
  for (const session of model.sessions.values()) {
    const holding = [...session.presences.values()].filter((presence) => presence.held > 0);
    const text = JSON.stringify(
      holding.map((presence) => [presence.session, presence.held, presence.reason]),
    );
    if (known.get(session.name) === text) continue;
    known.set(session.name, text);
    if (holding.length)
      control.lookInto(model, session.name).catch(() => known.delete(session.name));
  }
  for (const name of known.keys()) if (!model.sessions.has(name)) known.delete(name);
}

/** Asks how closed sessions are opened as soon as there are some. */
async function askHowToOpen() {
  // After a failure the next round asks again.
  if (!(await askOpenings(model).catch(() => false))) return;
  drawSessions();
  redraw();
}

// ---------------------------------------------------------------- rounds

/** The round that is under way. */
let asking;

async function round() {
  if (asking || document.hidden || ended.signal.aborted) return;
  const own = (asking = Symbol("round"));
  try {
    await Promise.all([
      askSessions(),
      view === "talk" && askGroups(),
      view === "queues" && askQueues(),
      askBroker(),
    ]);
    askHeld();
    askHowToOpen();
    noteAnswer();
    if (stream === "open") showLive();
    else if (stream === "lost") showStale("reconnecting");
  } catch (error) {
    if (asking !== own) return;
    // A user without rights in the vhost is refused with the same status as one who is signed out.
    if (error.status === 401 && (await isSignedOut())) return end(IS_OUT);
    found.clear();
    showStale(error.status ? "refused" : "no answer");
  } finally {
    if (asking === own) asking = undefined;
  }
}

const isSignedOut = () =>
  ask("GET", "/api/session").then(
    () => false,
    (error) => error.status === 401,
  );

const COLUMNS = "name,vhost,messages,messages_ready,messages_unacknowledged,consumers";

/**
 * Whether an exchange exists. It is looked up in the list, because a request for one that does not
 * exist would be an error in the browser's console.
 */
const found = new Set();
async function isThere(exchange) {
  if (found.has(exchange)) return true;
  for (const { name } of await ask("GET", "/api/exchanges/%2F?columns=name")) found.add(name);
  return found.has(exchange);
}

async function askSessions() {
  const bound = (await isThere(EXCHANGE))
    ? await ask("GET", `/api/exchanges/%2F/${EXCHANGE}/bindings/source`)
    : [];
  const names = new Set(bound.filter(isOfSession).map(({ destination }) => destination));
  const all = names.size ? await ask("GET", `/api/queues/%2F?columns=${COLUMNS}`) : [];
  const mine = all.filter((queue) => names.has(queue.name));
  model.queues(mine);
  const peeked = ({ name }) => model.sessions.get(name)?.peeked;
  const changed = mine.filter(
    (queue) => queue.messages_ready > 0 && queue.messages !== peeked(queue)?.messages,
  );
  // A few at a time, those first that were peeked at longest ago.
  changed.sort((one, two) => (peeked(one)?.at ?? 0) - (peeked(two)?.at ?? 0));
  for (const queue of changed.slice(0, 20)) {
    model.session(queue.name).peeked = { messages: queue.messages, at: Date.now() };
    const waiting = await ask(
      "GET",
      `/api/queues/%2F/${part(queue.name)}/peek?count=50&truncate=4096`,
    ).catch((error) => {
      if (error instanceof Refused) return [];
      throw error;
    });
    model.peeked(queue.name, waiting);
  }
  for (const queue of mine) if (!queue.messages_ready) model.emptied(model.session(queue.name));
  drawSessions();
  if (changed.length) drawTalk();
}

async function groupBindings() {
  return (await isThere(GROUPS)) ? ask("GET", `/api/exchanges/%2F/${GROUPS}/bindings/source`) : [];
}

async function askGroups() {
  if (model.grouped(await groupBindings())) drawTalk();
}

async function askQueues() {
  const form = {
    page: queuePage,
    page_size: 50,
    name: $("queue-search").value,
    sort: $("queue-sort").value,
    sort_reverse: $("queue-sort").value !== "name",
  };
  try {
    views.queues(await ask("GET", `/api/queues?${new URLSearchParams(form)}`), openQueue);
  } catch (error) {
    if (error.status !== 400 || queuePage === 1) throw error;
    queuePage = 1;
  }
}

async function askBroker() {
  if (view !== "broker") return;
  const [overview, nodes, past, links] = await Promise.all([
    ask("GET", "/api/overview"),
    ask("GET", "/api/nodes"),
    ask("GET", "/api/history"),
    ask("GET", "/api/connections"),
  ]);
  broker.facts(overview, nodes[0]);
  broker.plots(past);
  broker.links(links, (link) =>
    askToConfirm({
      title: "Close this connection?",
      text: `${link.name} (${link.user}). Most clients connect again at once.`,
      go: "Close it",
      act: () => ask("DELETE", `/api/connections/${part(link.name)}`),
    }),
  );
}

// ---------------------------------------------------------------- what is kept on disk

/** The look that is under way. */
let askingArchive;

/** Asks for what is new in the files on disk. */
async function askArchive() {
  if (askingArchive || document.hidden) return;
  const own = (askingArchive = Symbol("look"));
  try {
    const [hasTold, hasDead] = await Promise.all([askConversation(model), askDead(model)]);
    const acts = { askToConfirm, changed: askArchive };
    if (hasDead) $("dead-list").replaceChildren(letters(model.dead, acts));
    if (!hasTold && !hasDead) return;
    drawSessions();
    drawTalk();
    redraw();
  } catch {
    // The next round says whether the broker answers.
  } finally {
    if (askingArchive === own) askingArchive = undefined;
  }
}

/** Shows the whole text of a long message, also of an old one. */
async function whole(item) {
  const text = await wholeText(model, item).catch(() => undefined);
  if (text === undefined) return toast("The whole text is not available any more.");
  model.widen(item, text);
  drawTalk();
  redraw();
}

// ---------------------------------------------------------------- views

const toTheEnd = () => scrollTo(0, document.body.scrollHeight);

function show(name) {
  view = name;
  for (const other of VIEWS) {
    $(other).hidden = other !== name;
    $(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    $(`tab-${other}`).tabIndex = other === name ? 0 : -1;
  }
  $("newest").hidden = true;
  history.replaceState(null, "", `#${name}`);
  drawTalk();
  round();
  if (name === "talk") setTimeout(() => view === name && toTheEnd(), 200);
  else scrollTo(0, 0);
}

for (const name of VIEWS) $(`tab-${name}`).addEventListener("click", () => show(name));
$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = VIEWS[(VIEWS.indexOf(view) + step + VIEWS.length) % VIEWS.length];
  show(next);
  $(`tab-${next}`).focus();
});

/** The id of the message whose thread alone is shown. */
let threadOf;
const query = () => ({
  text: $("talk-search").value,
  peer: $("talk-peer").value,
  group: model.groups.get($("talk-group").value),
  state: $("talk-state").value,
  thread: threadOf && model.thread(threadOf),
});

/** Shows what a message answers and what answers it; without an id, everything again. */
function thread(id) {
  threadOf = id;
  $("talk-thread").hidden = !id;
  say($("talk-thread"), id ? `Thread of …${id.slice(-6)} ✕` : "");
  if (id) show("talk");
  drawTalk();
}

$("talk-thread").addEventListener("click", () => thread());
for (const form of ["talk-tools", "queue-tools"])
  $(form).addEventListener("submit", (event) => event.preventDefault());
for (const field of ["talk-search", "talk-peer", "talk-group", "talk-state"]) {
  $(field).addEventListener("input", () => {
    most = 200;
    drawTalk();
  });
}
$("older").addEventListener("click", () => {
  most += 400;
  drawTalk();
});
$("newest").addEventListener("click", () =>
  scrollTo({ top: document.body.scrollHeight, behavior: "smooth" }),
);
addEventListener("scroll", () => {
  if (nearEnd()) $("newest").hidden = true;
});

const askQueuesSoon = soon(() => askQueues().catch((error) => toast(error.message)), 200);
for (const field of ["queue-search", "queue-sort", "queue-internal"]) {
  $(field).addEventListener("input", () => {
    queuePage = 1;
    askQueuesSoon();
  });
}
for (const [button, step] of [
  ["queue-back", -1],
  ["queue-next", 1],
]) {
  $(button).addEventListener("click", () => {
    queuePage = Math.max(1, queuePage + step);
    askQueuesSoon();
  });
}

/** Shows the message that another one answers. */
function jump(id) {
  const found = model.withId(id)[0];
  if (!found) return toast("That message is not here any more.");
  $("talk-search").value = "";
  $("talk-peer").value = "";
  $("talk-group").value = "";
  $("talk-state").value = "";
  thread();
  most = model.messages.size;
  $("look").close();
  show("talk");
  views.talk(model, query(), most, { jump, thread, whole, reply });
  const child = [...$("talk-list").children].find((item) => item.dataset.key === found.key);
  setTimeout(() => {
    child?.scrollIntoView({ block: "center" });
    child?.classList.add("flash");
  }, 250);
}

for (const button of document.querySelectorAll("[data-close]"))
  button.addEventListener("click", () => button.closest("dialog").close());

// ---------------------------------------------------------------- looks and keys

const looks = (theme) => {
  if (theme) document.documentElement.dataset.theme = theme;
};
looks(localStorage.getItem("theme"));
$("theme").addEventListener("click", () => {
  const isDark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = isDark ? "light" : "dark";
  localStorage.setItem("theme", theme);
  looks(theme);
});
$("keys").addEventListener("click", () => $("help").showModal());
addEventListener("click", (event) => {
  if (!$("menu").contains(event.target) || event.target.closest("#menu div button"))
    $("menu").open = false;
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("app").hidden) return;
  if (event.target.matches("input, textarea, select") || document.querySelector("dialog[open]"))
    return;
  const keys = {
    "?": () => $("help").showModal(),
    c: () => compose(),
    "/": () => $({ talk: "talk-search", queues: "queue-search" }[view] ?? "")?.focus(),
    j: () => step(1),
    k: () => step(-1),
  };
  const act = VIEWS[Number(event.key) - 1]
    ? () => show(VIEWS[Number(event.key) - 1])
    : keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

function step(by) {
  const list = [
    ...document.querySelectorAll(view === "queues" ? "#queue-rows tr" : "#session-list .open"),
  ];
  const here = list.indexOf(document.activeElement);
  list[Math.min(list.length - 1, Math.max(0, here + by))]?.focus();
}

addEventListener("visibilitychange", () => round());
// A link that is opened where this page is already changes the fragment alone.
addEventListener("hashchange", () => {
  if (new URLSearchParams(location.hash.slice(1)).has("token")) location.reload();
});
signInOrShowForm(begin, end);
