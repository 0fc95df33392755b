// The page of all partitions. Each row is created once; later only the cells that changed are updated.
(function () {
  "use strict";

  const {page, span, size, count, rate, charts, live} = window.partitions;
  const root = document.getElementById("overview");
  const body = document.querySelector("#partitions-table tbody");
  const rows = new Map(), series = new Map();
  let last = null;

  function put(node, text) {
    if (node.textContent !== text) { node.textContent = text; }
  }

  function cell(row, field, className) {
    const made = document.createElement("td");
    made.dataset.field = field;
    if (className) { made.className = className; }
    row.append(made);
    return made;
  }

  function add(parent, name, className) {
    const made = document.createElement(name);
    if (className) { made.className = className; }
    parent.append(made);
    return made;
  }

  function makeRow(data) {
    const row = document.createElement("tr");
    row.id = "partition-" + data.partition;
    row.dataset.partition = data.partition;
    const parts = {row};
    const queue = document.createElement("th");
    queue.scope = "row";
    const link = add(queue, "a");
    link.href = page.dataset.partitionPage + encodeURIComponent(data.partition);
    link.textContent = data.queue;
    if (data.partition === "ingress") { add(queue, "small", "partitions-muted d-block").textContent = "ingress"; }
    row.append(queue);
    const owner = cell(row, "owner", "owner");
    parts.owner = add(owner, "a");
    parts.lease = add(owner, "small", "partitions-muted d-block");
    const waiting = cell(row, "waiting", "number");
    parts.waiting = add(waiting, "span");
    parts.oldest = add(waiting, "small", "partitions-muted d-block");
    parts.in = cell(row, "in_per_second", "number");
    parts.done = cell(row, "done_per_second", "number");
    parts.spark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    parts.spark.setAttribute("class", "sparkline");
    parts.spark.setAttribute("role", "img");
    cell(row, "history").append(parts.spark);
    parts.latency = cell(row, "latency", "number");
    const keys = cell(row, "keys", "number");
    parts.keys = add(keys, "span");
    parts.bytes = add(keys, "small", "partitions-muted d-block");
    parts.parked = cell(row, "parked", "number");
    parts.dead = cell(row, "dead_letters", "number");
    parts.error = cell(row, "last_error", "last-error");
    const state = cell(row, "paused");
    parts.state = add(state, "span", "badge");
    if (page.dataset.canAct) {
      parts.button = add(state, "button", "btn btn-sm btn-outline-secondary");
      parts.button.type = "button";
    }
    body.append(row);
    return parts;
  }

  function latency(data) {
    if (data.latency_p50_seconds === null) { return "–"; }
    return span(data.latency_p50_seconds) + " · " + span(data.latency_p99_seconds);
  }

  function fill(parts, data, at) {
    put(parts.owner, data.owner || "none");
    if (data.owner) {
      parts.owner.href = page.dataset.workerPage + encodeURIComponent(data.owner);
    } else {
      parts.owner.removeAttribute("href");
    }
    put(parts.lease, data.lease_age_seconds === null ? "" : "for " + span(data.lease_age_seconds));
    put(parts.waiting, count(data.waiting) + (data.delayed ? " + " + count(data.delayed) + " delayed" : ""));
    put(parts.oldest, data.oldest_age_seconds === null ? "" : span(data.oldest_age_seconds) + " old");
    put(parts.in, rate(data.in_per_second));
    put(parts.done, rate(data.done_per_second));
    charts.sparkline(parts.spark, series.get(data.partition), at);
    parts.spark.setAttribute("aria-label", "in " + rate(data.in_per_second) + "/s, done " + rate(data.done_per_second) + "/s");
    put(parts.latency, latency(data));
    put(parts.keys, count(data.keys));
    put(parts.bytes, data.state_bytes ? size(data.state_bytes) : "");
    put(parts.parked, count(data.parked));
    parts.parked.classList.toggle("partitions-bad", data.parked > 0);
    put(parts.dead, count(data.dead_letters));
    parts.dead.classList.toggle("partitions-bad", data.dead_letters > 0);
    const error = data.last_error ? data.last_error.text : "";
    put(parts.error, error || "–");
    parts.error.title = error;
    put(parts.state, data.paused ? "paused" : data.owner ? "running" : "unowned");
    parts.state.className = "badge " + (data.paused ? "text-bg-warning" : data.owner ? "text-bg-success" : "text-bg-danger");
    if (parts.button) {
      const what = data.paused ? "resume" : "pause";
      put(parts.button, data.paused ? "Resume" : "Pause");
      parts.button.setAttribute("aria-label", (data.paused ? "Resume " : "Pause ") + data.queue);
      parts.button.dataset.post = data.partition + "/" + what;
    }
  }

  function totals(all) {
    const values = {
      in_per_second: rate(all.in_per_second), done_per_second: rate(all.done_per_second), waiting: count(all.waiting),
      oldest_age_seconds: span(all.oldest_age_seconds), latency: latency(all), keys: count(all.keys),
      parked: count(all.parked), dead_letters: count(all.dead_letters),
    };
    for (const node of document.querySelectorAll("[data-total]")) { put(node, values[node.dataset.total]); }
    const states = all.state_bytes ? ", " + size(all.state_bytes) + " of states" : "";
    put(document.getElementById("overview-summary"),
      count(all.held) + " of " + count(all.partitions) + " queues owned by " + count(all.workers) +
      (all.workers === 1 ? " worker" : " workers") + (all.paused ? ", " + count(all.paused) + " paused" : "") + states);
  }

  function draw() {
    if (!last) { return; }
    const line = series.get("");
    charts.chart(document.getElementById("chart-flow"), line, last.at,
      [{column: 1, className: "line-in"}, {column: 2, className: "line-done"}]);
    charts.chart(document.getElementById("chart-waiting"), line, last.at,
      [{column: 3, className: "line-waiting", filled: true}]);
  }

  function show(overview) {
    last = overview;
    const note = document.getElementById("no-rows");
    if (note) { note.remove(); }
    series.set("", live.continued(series.get(""), overview.totals, overview.at));
    for (const data of overview.partitions) {
      series.set(data.partition, live.continued(series.get(data.partition), data, overview.at));
      if (!rows.has(data.partition)) { rows.set(data.partition, makeRow(data)); }
      fill(rows.get(data.partition), data, overview.at);
    }
    totals(overview.totals);
    draw();
  }

  function state(what, text) {
    const status = document.getElementById("live-status"), alert = document.getElementById("unreachable");
    if (status.dataset.state !== what) {
      status.dataset.state = what;
      put(status.querySelector("[data-text]"), {live: "Live", polling: "Live, by polling", away: "Not reachable"}[what]);
      status.querySelector(".status-dot").className =
        "status-dot " + (what === "away" ? "status-dot-error" : "status-dot-live");
    }
    alert.hidden = what !== "away";
    root.classList.toggle("stale", what === "away");
    put(alert, what === "away" ? "These numbers are out of date. " + text.replace(/\.$/, "") + ". Retrying automatically." : "");
  }

  new ResizeObserver(draw).observe(document.getElementById("chart-flow"));
  live.listen(root.dataset.events, root.dataset.poll, show, state);
}());
