// The drawer: one session or queue, what may be done with it, and all that waits in it, a page at a time.

import { $, ask, el, number, part, say, soon } from "./dom.js";
import * as views from "./views.js";

const PAGE = 100;

/** Opens and redraws the drawer; `page` is what leads out of it: jump, compose, sure, round. */
export function drawer(model, page) {
  let opened; // { vhost, name, isSession, path, trail, rest, text }

  function open(vhost, name, isSession) {
    const path = `/api/queues/${part(vhost)}/${part(name)}`;
    const rest = el("div", { className: "rest" }, el("p", { className: "muted" }, "Looking …"));
    // The pages to the one that is shown: what each comes after, and how many messages lie before it.
    opened = { vhost, name, isSession, path, rest, trail: [{ after: "", before: 0 }] };
    say($("look-title"), name);
    $("look-body").replaceChildren(acts(opened), rest);
    $("look").showModal();
    redraw();
  }

  $("look").addEventListener("close", () => (opened = undefined));

  /** Draws the contents anew where something in them has changed; the buttons above keep their focus. */
  const redraw = soon(async () => {
    const here = opened;
    if (!here) return;
    const at = here.trail.at(-1);
    const found = await Promise.all([ask("GET", `${here.path}?columns=messages_ready`), ask("GET", `${here.path}/peek?count=${PAGE}&truncate=4096${at.after && `&after=${at.after}`}`)]).catch(() => undefined);
    if (here !== opened || at !== here.trail.at(-1)) return;
    if (found?.[1].length === 0 && here.trail.length > 1) {
      here.trail.pop();
      return redraw();
    }
    const shown = found ? inside(here, found[1], found[0].messages_ready) : [el("p", { className: "muted" }, "It has no queue (any more).")];
    const text = shown.map((child) => child.textContent).join("\n");
    if (here.text === text) return;
    here.text = text;
    here.rest.replaceChildren(...shown);
  });

  function acts(here) {
    const act = (text, kind, onclick) => el("button", { className: kind, type: "button", onclick }, text);
    const gone = () => {
      $("look").close();
      page.round();
    };
    const made = [];
    if (here.isSession) made.push(act("Send", "primary", () => page.compose(here.name)));
    made.push(act("Purge …", "", () => page.sure({ title: `Purge ${here.name}?`, text: "Every waiting message is dropped. This cannot be undone.", go: "Purge", act: () => ask("DELETE", `${here.path}/contents`).then(() => redraw()) })));
    made.push(act("Delete …", "", () => page.sure({ title: `Delete ${here.name}?`, text: "The queue goes with every message that waits in it. A session that is attached loses its queue.", go: "Delete", act: () => ask("DELETE", here.path).then(gone) })));
    return el("p", { className: "acts" }, ...made);
  }

  function inside(here, waiting, ready) {
    const shown = [];
    const isFirst = here.trail.length === 1;
    if (here.isSession && isFirst) model.peeked(here.name, waiting);
    const session = here.isSession ? model.sessions.get(here.name) : undefined;
    const standing = session && model.standing(session);
    for (const presence of standing?.presences ?? []) {
      const reason = presence.reason ? `: ${presence.reason}` : "";
      const line = `${presence.agent ?? "agent"} on ${presence.host ?? "?"}, process ${presence.pid ?? "?"}, ${presence.state}${reason}`;
      shown.push(el("p", { className: "muted" }, line));
    }
    const title = waiting.length ? `Waiting, oldest first (${number(Math.max(ready, waiting.length))})` : "Nothing waits";
    const turns = isFirst && waiting.length >= ready ? [[], []] : [[pager(here, waiting, ready)], [pager(here, waiting, ready)]];
    shown.push(el("section", {}, el("h3", {}, title), ...turns[0], views.contents(waiting.map(plain)), ...turns[1]));
    if (session && isFirst) {
      const said = model.search({ peer: here.name }).slice(-50).reverse();
      const list = el("ol", { className: "talk" }, ...said.map((item) => withState(views.message(model, item, page.jump), item)));
      shown.push(el("section", {}, el("h3", {}, said.length ? "Lately" : "Nothing said yet"), list));
    }
    return shown;
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
    const next = turn("Later messages", "→", end >= ready, () => here.trail.push({ after: waiting.at(-1).cursor, before: end }));
    return el("p", { className: "pager" }, back, el("span", {}, `${number(before + 1)}–${number(end)} of ${number(Math.max(ready, end))}`), next);
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

/** An envelope is shown by its text, anything else as it is. */
function plain(message) {
  try {
    const { from, message: text } = JSON.parse(message.payload);
    if (typeof from === "string" && typeof text === "string") return { ...message, routing_key: `from ${from}`, payload: text };
  } catch {
    // Not an envelope.
  }
  return message;
}
