// The page of all partitions: what needs a person, totals, charts. The table is in rows.js.
(function () {
  "use strict";

  const {page, span, size, count, rate, put, charts, live, rows, visible} = window.partitions;
  const root = document.getElementById("overview");
  const current = new Map(), series = new Map();
  const longer = {seconds: 300, found: null};
  let last = null;

  function latency(data) {
    if (data.latency_p50_seconds === null) { return "–"; }
    return span(data.latency_p50_seconds) + " · " + span(data.latency_p99_seconds);
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

  function item(one) {
    const line = document.createElement("li");
    line.className = "attention-" + one.severity;
    line.dataset.rule = one.rule;
    // What is on this page needs no link to it.
    const badge = document.createElement("span"), link = document.createElement(one.page === "partitions" ? "strong" : "a"), why = document.createElement("span"), action = document.createElement("span");
    badge.className = "badge text-bg-" + (one.severity === "critical" ? "danger" : "warning");
    badge.textContent = one.severity;
    if (link.nodeName === "A") { link.href = page.dataset.page.replace(/partitions$/, "") + one.page; }
    link.textContent = visible(one.what);
    why.className = "attention-why";
    why.textContent = visible(one.why) + (one.since === null ? "" : " · for " + span((last ? last.at : Date.now() / 1000) - one.since));
    action.className = "attention-action";
    action.textContent = visible(one.action);
    line.append(badge, " ", link, why, action);
    return line;
  }

  // The list is replaced only if it has changed, so that a link that has the focus keeps it.
  function attention(found) {
    const list = document.getElementById("attention-list"), text = JSON.stringify(found);
    if (list.dataset.text === text) { return; }
    list.dataset.text = text;
    if (found.length) {
      list.replaceChildren(...found.map(item));
    } else {
      const line = document.createElement("li");
      line.className = "attention-none";
      line.textContent = "Nothing needs you.";
      list.replaceChildren(line);
    }
    document.title = (found.length ? "(" + found.length + ") " : "") + "Partitions · Flower";
  }

  function draw() {
    if (!last) { return; }
    const recent = longer.seconds === 300;
    const line = recent ? series.get("") : longer.found ? longer.found.samples : [];
    const now = recent ? last.at : longer.found ? longer.found.at : last.at, marks = recent || !longer.found ? [] : longer.found.marks;
    charts.chart(document.getElementById("chart-flow"), line, now,
      [{column: 1, className: "line-in"}, {column: 2, className: "line-done"}], longer.seconds, marks);
    charts.chart(document.getElementById("chart-waiting"), line, now,
      [{column: 3, className: "line-waiting", filled: true}], longer.seconds, marks);
  }

  async function look() {
    if (longer.seconds === 300 || document.hidden) { return; }
    const found = await charts.fetchHistory(root.dataset.history, {seconds: longer.seconds});
    if (found && found.seconds === longer.seconds) { longer.found = found; draw(); }
  }

  function show(overview) {
    last = overview;
    series.set("", live.continued(series.get(""), overview.totals, overview.at));
    for (const data of overview.partitions) { current.set(data.partition, {...current.get(data.partition), history: [], ...data, at: overview.at}); }
    for (const data of current.values()) {
      const row = data.at === overview.at ? data : {...data, history: []};
      series.set(data.partition, live.continued(series.get(data.partition), row, overview.at));
    }
    rows.show(Array.from(current.values()), series, overview.at);
    totals(overview.totals);
    if (overview.attention) { attention(overview.attention); }
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
    const since = last ? "These numbers are " + span(Math.max(1, Date.now() / 1000 - last.at)) + " old. " : "";
    put(alert, what === "away" ? since + text.replace(/\.$/, "") + ". Retrying automatically." : "");
  }

  charts.onRange((seconds) => { longer.seconds = seconds; longer.found = null; draw(); look(); });
  setInterval(look, 10000);
  new ResizeObserver(draw).observe(document.getElementById("chart-flow"));
  live.listen(root.dataset.events, root.dataset.poll, show, attention, state);
}());
