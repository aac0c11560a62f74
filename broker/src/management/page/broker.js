// The view of the broker: recent rates, properties and connections.

import { $, bytes, el, keyed, number, say, span } from "./dom.js";

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
      "The store has failed: nothing is saved any more. Read the broker's log, then restart it.",
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
