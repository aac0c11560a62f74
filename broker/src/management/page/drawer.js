// The drawer: one session or queue, its actions, and all messages that wait in it, a page at a
// time.

import * as control from "./control.js";
import { $, ask, el, isAddressable, messages, number, part, say, soon, toast } from "./dom.js";
import { envelope, isText } from "./envelope.js";
import { letters } from "./archive.js";
import { stateWords } from "./message.js";
import { statusOf, words } from "./session_status.js";
import * as views from "./views.js";

const PAGE = 100;
/** The number of bytes of each body that are asked for. */
const TRUNCATE = 4096;

/**
 * Opens and redraws the drawer. It calls these functions of `page`: jump, thread, whole, compose,
 * reply, askToConfirm, round, tell, changed.
 */
export function drawer(model, page) {
  let opened; // { vhost, name, isSession, path, trail, rest, text }

  function open(vhost, name, isSession) {
    if (![vhost, name].every(isAddressable)) return explain(vhost, name);
    const path = `/api/queues/${part(vhost)}/${part(name)}`;
    const rest = el("div", { className: "rest" }, el("p", { className: "muted" }, "Loading …"));
    // The pages up to the one that is shown: the cursor that each begins after, and the number of
    // messages before it.
    opened = { vhost, name, isSession, path, rest, trail: [{ after: "", before: 0 }] };
    // Payloads that were opened, by their cursors.
    opened.whole = new Map();
    say($("look-title"), name);
    $("look-body").replaceChildren(acts(opened), rest);
    $("look").showModal();
    redraw();
  }

  /** Says why there is nothing to see and to do. */
  function explain(vhost, name) {
    const text =
      `A browser cannot ask for the queue "${name}" in the vhost "${vhost}": it takes "." and ` +
      `".." out of every path. An AMQP client can.`;
    say($("look-title"), name);
    $("look-body").replaceChildren(el("p", { className: "muted" }, text));
    $("look").showModal();
  }

  $("look").addEventListener("close", () => (opened = undefined));

  /**
   * Draws the contents anew where something in them has changed; the buttons above keep their
   * focus.
   */
  const redraw = soon(async () => {
    const here = opened;
    if (!here) return;
    const at = here.trail.at(-1);
    const found = await Promise.all([
      ask("GET", `${here.path}?columns=messages_ready`),
      ask(
        "GET",
        `${here.path}/peek?count=${PAGE}&truncate=${TRUNCATE}${at.after && `&after=${at.after}`}`,
      ),
    ]).catch(() => undefined);
    if (here !== opened || at !== here.trail.at(-1)) return;
    if (found?.[1].length === 0 && here.trail.length > 1) {
      here.trail.pop();
      return redraw();
    }
    const shown = found
      ? inside(here, found[1], found[0].messages_ready)
      : [el("p", { className: "muted" }, "This queue does not exist (any more).")];
    const session = here.isSession && model.sessions.get(here.name);
    if (session) views.offer($("look-body"), statusOf(session));
    const text = shown.map((child) => child.textContent).join("\n");
    if (here.text === text) return;
    here.text = text;
    here.rest.replaceChildren(...shown);
  });

  function acts(here) {
    const act = (text, kind, onclick) =>
      el("button", { className: kind, type: "button", onclick }, text);
    const gone = () => {
      $("look").close();
      page.round();
    };
    const made = [];
    if (here.isSession) {
      const tell = (order) => () => page.tell(order, here.name);
      made.push(act("Send", "primary", () => page.compose(here.name)));
      made.push(
        act("Pause", "pause", tell(control.pause)),
        act("Resume", "resume", tell(control.resume)),
      );
    }
    const remove = (end, path) => ask("DELETE", path).then(() => model.removed(here.name, end));
    const warned = async (words, question) =>
      page.askToConfirm({ ...question, text: words(await counts(here)) });
    made.push(
      act("Purge …", "purge", () =>
        warned(purgeWarning, {
          title: `Purge ${here.name}?`,
          go: "Purge",
          act: () => remove("purged", `${here.path}/contents`).then(() => redraw()),
        }),
      ),
    );
    made.push(
      act("Delete …", "delete", () =>
        warned(deleteWarning, {
          title: `Delete ${here.name}?`,
          go: "Delete",
          act: () => remove("deleted", here.path).then(gone),
        }),
      ),
    );
    return el("p", { className: "acts" }, ...made);
  }

  /**
   * How many messages wait in the queue, how many consumers hold, and whether a session is
   * attached.
   */
  async function counts(here) {
    const found = await ask(
      "GET",
      `${here.path}?columns=messages_ready,messages_unacknowledged,consumers`,
    ).catch(() => ({}));
    const waiting =
      found.messages_ready === undefined ? "every waiting message" : messages(found.messages_ready);
    return {
      waiting,
      held: found.messages_unacknowledged ?? 0,
      isAttached: here.isSession && found.consumers > 0,
    };
  }

  const purgeWarning = ({ waiting, held }) =>
    `This deletes ${waiting} for good.` +
    (held ? ` ${messages(held)} that consumers hold will stay.` : "");

  function deleteWarning({ waiting, held, isAttached }) {
    const also = held ? `, and ${messages(held)} that consumers hold` : "";
    const open = isAttached
      ? " A session is attached: it gets nothing more under this name until it attaches again."
      : "";
    return `This deletes the queue with ${waiting}${also} for good.${open}`;
  }

  /** The messages that the session holds, and the button that takes them. */
  function heldSection(session, status) {
    const { messages: kept, isAll, answers } = model.held(session, status.presences);
    if (!status.held) return [];
    const items = kept.map((message) =>
      el(
        "li",
        { className: "message is-held" },
        el(
          "header",
          {},
          el("b", {}, message.from),
          el("span", { className: "id mono", title: message.id }, message.id.slice(-6)),
          el("span", { className: "pill" }, keptAs(message)),
        ),
        el("p", { className: "text" }, views.heldText(model, session, message)),
        el(
          "p",
          { className: "more" },
          el(
            "button",
            {
              className: "quiet",
              type: "button",
              onclick: () => {
                const asHeld = { ...message, to: session.name };
                page.reply(views.sent(model, session, message)[0] ?? asHeld);
              },
            },
            "reply",
          ),
        ),
      ),
    );
    const rest =
      isAll && kept.length >= status.held
        ? ""
        : el(
            "p",
            { className: "muted" },
            "It holds more than can be shown here: ",
            el("code", {}, `cbroker inbox ${session.name}`),
          );
    const text =
      "They count as read: their senders get a receipt, and the agent does not get them.";
    const take = rest
      ? ""
      : el(
          "button",
          {
            className: "take",
            type: "button",
            onclick: () =>
              page.askToConfirm({
                title: `Take ${messages(kept.length)} from ${session.name}?`,
                text,
                go: "Take",
                act: () => control.take(model, session.name, answers),
              }),
          },
          "Take …",
        );
    return [
      el(
        "section",
        {},
        el("h3", {}, `Held by the session (${number(status.held)})`),
        el("ol", { className: "talk" }, ...items),
        rest,
        take,
      ),
    ];
  }

  /** The dead letters of the session. */
  function deadSection({ name }) {
    const dead = model.dead.filter(({ queue }) => queue === name);
    if (!dead.length) return [];
    const title = el("h3", {}, `Dead letters (${number(dead.length)})`);
    return [el("section", { className: "dead" }, title, letters(dead, page))];
  }

  function inside(here, waiting, ready) {
    const shown = [];
    const isFirst = here.trail.length === 1;
    if (here.isSession && isFirst) model.peeked(here.name, waiting);
    const session = here.isSession ? model.sessions.get(here.name) : undefined;
    const status = session && statusOf(session);
    for (const presence of status?.presences ?? []) {
      const where = `on ${presence.host ?? "?"}, process ${presence.pid ?? "?"}`;
      const line = `${presence.agent ?? "agent"} ${where}, ${words(presence)}`;
      shown.push(el("p", { className: "muted" }, line));
    }
    if (session && isFirst) shown.push(...heldSection(session, status), ...deadSection(here));
    const title = waiting.length
      ? `Waiting, oldest first (${number(Math.max(ready, waiting.length))})`
      : "No messages wait";
    const turns =
      isFirst && waiting.length >= ready
        ? [[], []]
        : [[pager(here, waiting, ready)], [pager(here, waiting, ready)]];
    shown.push(
      el(
        "section",
        {},
        el("h3", {}, title),
        ...turns[0],
        views.contents(waiting.map(plain(here.whole)), (place) => openAt(here, waiting, place)),
        ...turns[1],
      ),
    );
    if (session && isFirst) {
      const said = model.search({ peer: here.name }).slice(-50).reverse();
      const list = el(
        "ol",
        { className: "talk" },
        ...said.map((item) => withState(views.message(model, item, page), item)),
      );
      shown.push(
        el("section", {}, el("h3", {}, said.length ? "Recent messages" : "No messages yet"), list),
      );
    }
    return shown;
  }

  /** Shows all of a waiting message. */
  async function openAt(here, waiting, place) {
    const { cursor } = waiting[place];
    const after = place ? waiting[place - 1].cursor : here.trail.at(-1).after;
    const path = `${here.path}/peek?count=1${after && `&after=${after}`}`;
    const [found] = await ask("GET", path).catch(() => []);
    if (found?.cursor !== cursor) return toast("This message is not in the queue any more.");
    here.whole.set(cursor, found.payload);
    redraw();
  }

  /** Earlier and later messages. A page stays where it is while messages before it go. */
  function pager(here, waiting, ready) {
    const { before } = here.trail.at(-1);
    const end = before + waiting.length;
    const turn = (label, text, disabled, go) => {
      const onclick = () => {
        go();
        $("look").scrollTop = 0;
        redraw();
      };
      return el("button", { type: "button", "aria-label": label, disabled, onclick }, text);
    };
    const back = turn("Earlier messages", "←", here.trail.length === 1, () => here.trail.pop());
    const next = turn("Later messages", "→", end >= ready, () =>
      here.trail.push({ after: waiting.at(-1).cursor, before: end }),
    );
    return el(
      "p",
      { className: "pager" },
      back,
      el("span", {}, `${number(before + 1)}–${number(end)} of ${number(Math.max(ready, end))}`),
      next,
    );
  }

  function withState(child, item) {
    views.restate(child, item, model);
    return child;
  }

  return {
    openSession: (name) => open("/", name, true),
    openQueue: (vhost, name) => open(vhost, name, vhost === "/" && model.sessions.has(name)),
    redraw,
  };
}

/** The state of a held message, and why or by which way. */
const keptAs = ({ state, reason }) =>
  state === "handed over"
    ? stateWords(state, reason)
    : stateWords(isText(state) ? state : "held", undefined, reason);

/**
 * Shows an envelope by its text, anything else as it is. `whole` has the payloads that were opened.
 */
const plain = (whole) => (message) => {
  const isText = message.payload_encoding === "string";
  const payload = whole.get(message.cursor) ?? message.payload;
  const isCut = !whole.has(message.cursor) && message.payload_bytes > TRUNCATE;
  const found = isText ? envelope(payload, message.properties) : undefined;
  const shown = { ...message, payload, isCut };
  return found ? { ...shown, routing_key: `from ${found.from}`, payload: found.message } : shown;
};
