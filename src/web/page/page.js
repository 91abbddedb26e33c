// Draws /status.json, again each second. Everything from the node goes in as text, never as markup.
"use strict";

const POLL_MS = 1000;
const METHODS = ["ping", "find_node", "get_peers", "announce_peer", "get", "put", "sample_infohashes", "other"];
const REASONS = {
  rate_limit: "over a rate limit", bad_token: "announce with a wrong token", bad_query: "query with bad arguments", bad_item: "item against the rules",
  unknown_method: "unknown method", malformed: "no message at all", unmatched: "answer to nothing asked",
  read_only: "query while read-only", own_id: "under our own id", unsendable: "from an unusable address",
};

const $ = (id) => document.getElementById(id);

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node[name] = value;
  node.append(...children);
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// ---- words

const THIN = "\u202f";
const whole = (n) => Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, THIN);
const plural = (n, noun) => `${whole(n)} ${noun}${n === 1 ? "" : "s"}`;

function short(n) {
  if (n < 10000) return whole(n);
  if (n < 999500) return `${(n / 1e3).toFixed(n < 99950 ? 1 : 0)}${THIN}k`;
  return `${(n / 1e6).toFixed(n < 9.995e6 ? 2 : 1)}${THIN}M`;
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1023.5 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${at === 0 || n >= 99.95 ? n.toFixed(0) : n.toFixed(1)}${THIN}${units[at]}`;
}

function time(s) {
  if (s < 1) return `${Math.round(s * 1000)}${THIN}ms`;
  if (s < 10) return `${s.toFixed(1)}${THIN}s`;
  if (s < 60) return `${Math.floor(s)}${THIN}s`;
  const two = (n) => String(Math.floor(n)).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)}${THIN}min ${two(s % 60)}${THIN}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}${THIN}h ${two((s % 3600) / 60)}${THIN}min`;
  return `${Math.floor(s / 86400)}${THIN}d ${two((s % 86400) / 3600)}${THIN}h`;
}

// One unit is enough for what is over.
const ago = (s) => `${time(s).split(" ")[0]} ago`;
const rate = (n) => (n === 0 ? "0" : n < 10 ? n.toFixed(1) : short(n));
// The last ten seconds, a second.
function recent(line, step) {
  const last = (line || []).slice(-5);
  return last.length ? last.reduce((a, b) => a + b, 0) / (last.length * step) : 0;
}

// ---- parts

function figure(label, value, unit, note) {
  const strong = el("strong", {}, value);
  if (unit) strong.append(el("small", {}, unit));
  return el("div", { className: "figure" }, el("span", { className: "label" }, label), strong,
    el("span", { className: "note" }, note));
}

function figures(s) {
  const sized = s.families.filter((f) => f.network_size);
  const size = Math.max(0, ...sized.map((f) => f.network_size));
  const error = sized.find((f) => f.network_size === size);
  const sum = (key) => s.families.reduce((n, f) => n + f[key], 0);
  const [h, step] = [s.history, s.history.step_s];
  const bin = recent(h.bytes_in, step), bout = recent(h.bytes_out, step);
  const qin = METHODS.reduce((n, m) => n + recent(h.queries_in[m], step), 0);
  $("figures").replaceChildren(
    figure("Network, estimated", size ? short(size) : "–", size ? "nodes" : "",
      error ? `± ${Math.round(error.network_size_error * 100)} %, from the density of ids` : "too little seen yet"),
    figure("Routing table", whole(sum("nodes")), sum("nodes") === 1 ? "node" : "nodes",
      `${whole(sum("good"))} good, ${whole(sum("questionable"))} questionable, ${whole(sum("bad"))} bad`),
    figure("Served", rate(qin), "queries/s", `${bytes(bin)}/s in, ${bytes(bout)}/s out`),
    figure("Stored", whole(s.stored.peers), s.stored.peers === 1 ? "peer" : "peers",
      `of ${s.stored.hashes === 1 ? "1 info-hash" : `${whole(s.stored.hashes)} info-hashes`}, ${plural(s.stored.items, "item")}`));
}

// The part of the key space whose ids share exactly `index` bits with ours.
function region(own, index) {
  const width = 2 ** -(index + 1);
  const start = (Math.floor(own / width) ^ 1) * width;
  return [start, width];
}

function strip(s, family) {
  const W = 1100, H = 92, top = 18, bottom = 66;
  const root = svg("svg", { class: "strip", viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${family.name}: ${family.nodes} nodes over the key space` });
  const filled = new Map(family.buckets.map((b) => [b.index, b]));
  for (let index = 0; index < 9; index += 1) {
    const [start, width] = region(s.position, index);
    const bucket = filled.get(index);
    const share = bucket ? (bucket.good + bucket.questionable + bucket.bad) / bucket.capacity : 0;
    const gap = width * W > 8 ? 1.5 : 0;
    const rect = { x: start * W + gap, y: top, width: width * W - 2 * gap, height: bottom - top, rx: gap && 3 };
    root.append(svg("rect", { ...rect, class: "void" }));
    if (share > 0) root.append(svg("rect", { ...rect, class: "region", "fill-opacity": 0.1 + 0.22 * share }));
  }
  for (const bucket of family.buckets) {
    for (const c of bucket.contacts) {
      // Near nodes stand tall: the round trip on a logarithmic scale from 0.1 ms to 1 s.
      const far = Math.min(1, (Math.log10(Math.max(c.rtt_ms, 0.1)) + 1) / 4);
      root.append(svg("line", { class: `mark ${c.state}`, x1: c.position * W, x2: c.position * W,
        y1: top + 4 + far * (bottom - top - 14), y2: bottom - 3 }));
    }
  }
  const x = s.position * W;
  root.append(svg("line", { class: "own", x1: x, x2: x, y1: top - 3, y2: bottom + 3 }),
    svg("path", { class: "own", d: `M${x - 5} ${top - 10}h10l-5 7z` }));
  return root;
}

// Text does not stretch with the strip, so it stands in a drawing of its own.
function captions(s) {
  const end = (x, text, anchor, own) =>
    svg("text", { x: `${x * 100}%`, y: 12, "text-anchor": anchor, class: own ? "own" : "" }, text);
  const anchor = s.position < 0.08 ? "start" : s.position > 0.92 ? "end" : "middle";
  const root = svg("svg", { class: "strip captions", height: 16 });
  root.append(end(s.position, "own id", anchor, true));
  if (s.position > 0.1) root.append(end(0, "0", "start"));
  if (s.position < 0.9) root.append(end(1, "2\u00b9\u2076\u2070", "end"));
  for (let index = 0; index < 4; index += 1) {
    const [start, width] = region(s.position, index);
    const at = start + width / 2;
    if (Math.abs(at - s.position) > 0.06) root.append(end(at, index ? String(index) : "bucket 0", "middle"));
  }
  return root;
}

function bucketRow(b) {
  const cells = el("div", { className: "row-cells" });
  const kinds = [["good", b.good], ["questionable", b.questionable], ["bad", b.bad]];
  for (const [kind, n] of kinds) for (let i = 0; i < n; i += 1) cells.append(el("i", { className: `cell ${kind}` }));
  for (let i = b.good + b.questionable + b.bad; i < b.capacity; i += 1) cells.append(el("i", { className: "cell" }));
  const share = b.index < 13 ? `1/${whole(2 ** (b.index + 1))}` : `2^\u2212${b.index + 1}`;
  const n = b.good + b.questionable + b.bad;
  const number = (v, wide) => el("td", { className: `${v ? "" : "zero"}${wide ? " wide" : ""}` }, whole(v));
  return el("tr", {},
    el("td", {}, String(b.index)), el("td", { className: "share wide" }, share), el("td", { className: "cells" }, cells),
    el("td", {}, whole(n), el("span", { className: "unit" }, ` / ${b.capacity}`)), number(b.spares, true),
    el("td", {}, b.median_rtt_ms.toFixed(1), el("span", { className: "unit" }, `${THIN}ms`)),
    el("td", { className: "wide" }, time(b.oldest_s)));
}

function tables(s) {
  const head = () => el("tr", {}, el("th", {}, "bucket"), el("th", { className: "wide" }, "of the space"),
    el("th", { className: "cells" }, "entries"), el("th", {}, "used"), el("th", { className: "wide" }, "spare"),
    el("th", {}, "median rtt"), el("th", { className: "wide" }, "oldest"));
  $("tables").replaceChildren(...s.families.map((f) => {
    const part = el("div", { className: "family" });
    part.append(el("h3", {}, el("b", {}, f.name), f.nodes
      ? "each line a node, taller the nearer; shaded by how full its bucket is" : "nobody known yet"));
    if (f.external_address) {
      part.append(el("p", { className: "note" }, `seen from outside as ${f.external_address}, ${plural(f.external_votes, "vote")}`));
    }
    if (f.nodes) {
      part.append(strip(s, f), captions(s),
        el("div", { className: "scroll" }, el("table", { className: "buckets" }, el("thead", {}, head()),
          el("tbody", {}, ...f.buckets.map(bucketRow)))));
    }
    return part;
  }));
}

function spark(line, samples) {
  const cell = el("td", { className: "spark" });
  const top = Math.max(...(line || [0]));
  if (!line || line.length < 2 || top === 0) return cell;
  const W = 150, H = 22, step = W / (samples - 1), from = W - (line.length - 1) * step;
  const points = line.map((v, i) => `${(from + i * step).toFixed(1)} ${(H - 1.5 - (v / top) * (H - 4)).toFixed(1)}`);
  cell.append(svg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { class: "area", d: `M${from.toFixed(1)} ${H}L${points.join("L")}L${W} ${H}z` }),
    svg("path", { class: "edge", d: `M${points.join("L")}` })));
  return cell;
}

function queries(s) {
  const { queries_in: lin, queries_out: lout, step_s: step, samples } = s.history;
  const side = (line, total, words) => [spark(line, samples),
    el("td", { className: recent(line, step) ? "" : "zero" }, `${words(recent(line, step))}/s`),
    el("td", { className: `wide${total ? "" : " zero"}` }, words === rate ? short(total) : bytes(total))];
  const rows = METHODS.filter((m) => (s.traffic.queries_in[m] || 0) + (s.traffic.queries_out[m] || 0) > 0).map((m) =>
    el("tr", {}, el("td", {}, m), ...side(lin[m], s.traffic.queries_in[m] || 0, rate),
      ...side(lout[m], s.traffic.queries_out[m] || 0, rate)));
  const sum = el("tr", { className: "sum" }, el("td", {}, "payload"),
    ...side(s.history.bytes_in, s.traffic.bytes_in, bytes), ...side(s.history.bytes_out, s.traffic.bytes_out, bytes));
  $("queries").replaceChildren(el("thead", {}, el("tr", {}, el("th", {}, ""), el("th", { colSpan: 3 }, "received"),
    el("th", { colSpan: 3 }, "sent"))), el("tbody", {}, ...rows, sum));
  $("span").textContent = `lines: the last ${Math.round((samples * step) / 60)} minutes`;
}

function lookup(x, bitsOfSpace) {
  const ended = x.ended_s !== null && x.ended_s !== undefined;
  const bits = x.best_bits === null || x.best_bits === undefined ? 0 : x.best_bits;
  const fill = el("i", {});
  fill.style.width = `${Math.min(100, (bits / bitsOfSpace) * 100)}%`;
  const close = el("div", {}, el("div", { className: "bar" }, fill), el("span", {}, String(bits)));
  return el("tr", { className: ended ? "" : "live" },
    el("td", {}, x.kind.replace("_", " "), el("code", {}, `${x.target.slice(0, 8)}\u2026`)),
    el("td", {}, `${x.answered}/${x.asked}`), el("td", { className: "close" }, close),
    el("td", { className: x.peers ? "" : "zero" }, whole(x.peers)), el("td", {}, time(x.elapsed_s)),
    el("td", {}, ended ? ago(x.ended_s) : "running"));
}

function lookups(s) {
  const size = Math.max(2, ...s.families.map((f) => f.network_size || 0));
  // The closest of N nodes shares about log2 N bits with a target.
  const bits = Math.log2(size) + 2;
  const all = [...s.searches, ...s.recent_searches].slice(0, 12);
  const head = el("tr", {}, ...["target", "answered", "bits close", "peers", "took", "ended"].map((h) => el("th", {}, h)));
  const none = el("tr", {}, el("td", { className: "empty", colSpan: 6 }, "none so far"));
  $("lookups").replaceChildren(el("thead", {}, head),
    el("tbody", {}, ...(all.length ? all.map((x) => lookup(x, bits)) : [none])));
  $("running").textContent = `${s.searches.length} running, ${s.in_flight} queries in flight`;
}

function pairs(target, rows) {
  target.replaceChildren(...rows.map(([name, value, zero]) =>
    el("div", { className: zero ? "zero" : "" }, el("dt", {}, name), el("dd", {}, value))));
}

function rest(s) {
  const reasons = Object.entries(s.refused).sort((a, b) => b[1] - a[1]);
  $("refused-sum").textContent = `${whole(reasons.reduce((n, [, m]) => n + m, 0))} in all`;
  pairs($("refused"), reasons.map(([name, n]) => [REASONS[name] || name, whole(n), n === 0]));
  $("stored-bar").style.width = `${Math.min(100, (s.stored.bytes / Math.max(1, s.stored.limit_bytes)) * 100)}%`;
  $("stored-words").textContent = `${bytes(s.stored.bytes)} of ${bytes(s.stored.limit_bytes)}`;
  const l = s.limits;
  const none = (value, words) => (value === null || value === undefined ? "none" : words(value));
  pairs($("limits"), [
    ["queries, one address", `${whole(l.queries_per_address)}/s`], ["queries, one network", `${whole(l.queries_per_network)}/s`],
    ["queries, everyone", none(l.queries, (n) => `${whole(n)}/s`), l.queries === null],
    ["answers", none(l.answer_bytes, (n) => `${bytes(n)}/s`), l.answer_bytes === null],
  ]);
  $("starts").replaceChildren(...s.bootstrap.map((b) => el("li", {}, el("span", {}, b.address),
    el("span", { className: `state ${b.state.replace(" ", "-")}` }, b.router ? `${b.state}, router` : b.state))));
  if (!s.bootstrap.length) $("starts").append(el("li", { className: "empty" }, "no address to start from"));
}

function head(s) {
  $("id").textContent = s.id;
  $("health").textContent = s.read_only ? `${s.health.words}, read-only` : s.health.words;
  $("health").className = `health ${s.health.ok ? "ok" : "ill"}`;
  const facts = [["up", time(s.uptime_s)], ["port", String(s.port)], ["version", s.version]];
  if (s.resident_bytes) facts.push(["memory", bytes(s.resident_bytes)]);
  if (s.cpu_s && s.uptime_s > 10) facts.push(["CPU", `${((s.cpu_s / s.uptime_s) * 100).toFixed(1)}${THIN}%`]);
  $("facts").replaceChildren(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

// ---- life

let last = null;

async function poll() {
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`the node answers ${answer.status}`);
    const s = await answer.json();
    for (const draw of [head, figures, tables, queries, lookups, rest]) draw(s);
    last = new Date();
    $("lost").hidden = true;
    $("main").classList.remove("stale");
  } catch (error) {
    $("lost").textContent = last ? `No answer from the node since ${last.toLocaleTimeString()}; figures are of then.`
      : `No answer from the node: ${error.message}`;
    $("lost").hidden = false;
    $("health").className = "health ill";
    $("main").classList.toggle("stale", last !== null);
  }
}

async function run() {
  if (!document.hidden) await poll();
  setTimeout(run, POLL_MS);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
run();
