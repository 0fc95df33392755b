// The table of partitions: one row each, sorted, filtered, in pages. Only rows in view are in the page; only cells that changed are updated.
(function () {
  "use strict";

  const {page, span, size, count, rate, put, charts, visible, post, toast} = window.partitions;
  const root = document.getElementById("overview");
  const body = document.querySelector("#partitions-table tbody");
  const find = (id) => document.getElementById(id);
  const PAGE = 50;
  const TROUBLE = ["stalled", "falling behind", "unowned", "away", "paused"];
  const COLORS = {stalled: "danger", unowned: "danger", away: "danger", "falling behind": "warning", paused: "warning", running: "success", idle: "secondary"};
  const made = new Map();
  const view = {};
  const headings = new Map();
  let data = [], at = 0, series = new Map();

  function cell(row, field, className) {
    const one = document.createElement("td");
    one.dataset.field = field;
    if (className) { one.className = className; }
    row.append(one);
    return one;
  }

  function add(parent, name, className) {
    const one = document.createElement(name);
    if (className) { one.className = className; }
    parent.append(one);
    return one;
  }

  function make(one) {
    const row = document.createElement("tr");
    row.id = "partition-" + one.partition;
    row.dataset.partition = one.partition;
    const parts = {row}, queue = document.createElement("th");
    queue.scope = "row";
    const link = add(queue, "a");
    link.href = page.dataset.partitionPage + encodeURIComponent(one.partition);
    link.textContent = one.queue;
    if (one.partition === "ingress") { add(queue, "span", "partitions-muted phone-hidden").textContent = " ingress"; }
    row.append(queue);
    parts.state = add(cell(row, "state"), "span");
    parts.owner = add(cell(row, "owner", "owner medium-hidden"), "a");
    parts.waiting = cell(row, "waiting", "number");
    parts.oldest = cell(row, "oldest", "number small-hidden");
    parts.in = cell(row, "in_per_second", "number small-hidden");
    parts.done = cell(row, "done_per_second", "number");
    parts.spark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    parts.spark.setAttribute("class", "sparkline");
    parts.spark.setAttribute("role", "img");
    cell(row, "history", "large-hidden").append(parts.spark);
    parts.latency = cell(row, "latency", "number small-hidden");
    parts.keys = cell(row, "keys", "number large-hidden");
    parts.parked = add(cell(row, "parked", "number phone-hidden"), "a");
    parts.parked.href = root.dataset.parked + "?partition=" + encodeURIComponent(one.partition);
    parts.dead = add(cell(row, "dead_letters", "number phone-hidden"), "a");
    parts.dead.href = root.dataset.deadLetters + "?partition=" + encodeURIComponent(one.partition);
    parts.error = cell(row, "last_error", "last-error medium-hidden");
    const menu = add(cell(row, "menu"), "button", "btn btn-sm row-menu");
    menu.type = "button";
    menu.textContent = "⋯";
    menu.setAttribute("aria-label", "Actions for " + one.queue);
    menu.addEventListener("click", () => open(one.partition));
    return parts;
  }

  function fill(parts, one) {
    const passed = Math.max(0, at - one.at);
    put(parts.state, one.state);
    parts.state.className = "badge text-bg-" + (COLORS[one.state] || "secondary");
    put(parts.owner, one.owner || "none");
    if (one.owner) { parts.owner.href = page.dataset.workerPage + encodeURIComponent(one.owner); } else { parts.owner.removeAttribute("href"); }
    parts.owner.title = one.lease_age_seconds === null ? "" : "owner for " + span(one.lease_age_seconds + passed);
    put(parts.waiting, count(one.waiting) + (one.delayed ? " +" + count(one.delayed) : ""));
    parts.waiting.title = one.delayed ? count(one.delayed) + " delayed" : "";
    put(parts.oldest, one.oldest_age_seconds === null ? "–" : span(one.oldest_age_seconds + passed));
    put(parts.in, rate(one.in_per_second));
    put(parts.done, rate(one.done_per_second));
    charts.sparkline(parts.spark, series.get(one.partition) || [], at);
    parts.spark.setAttribute("aria-label", "in " + rate(one.in_per_second) + "/s, done " + rate(one.done_per_second) + "/s");
    put(parts.latency, one.latency_p99_seconds === null ? "–" : span(one.latency_p99_seconds));
    parts.latency.title = one.latency_p50_seconds === null ? "" : "p50 " + span(one.latency_p50_seconds);
    put(parts.keys, count(one.keys));
    parts.keys.title = one.state_bytes ? size(one.state_bytes) + " of states" : "";
    put(parts.parked, count(one.parked));
    parts.parked.classList.toggle("plain", !one.parked);
    parts.parked.parentNode.classList.toggle("partitions-bad", one.parked > 0);
    put(parts.dead, count(one.dead_letters));
    parts.dead.classList.toggle("plain", !one.dead_letters);
    parts.dead.parentNode.classList.toggle("partitions-bad", one.dead_letters > 0);
    const error = one.last_error;
    put(parts.error, error ? span(at - error.at) + " ago: " + visible(error.text) : "–");
    parts.error.title = error ? visible(error.text) : "";
  }

  function key(one) {
    if (view.sort === "partition") { return one.partition === "ingress" ? Infinity : Number(one.partition); }
    if (view.sort === "state") { return (Object.keys(COLORS).indexOf(one.state) + 6) % 6; }
    if (view.sort === "last_error") { return one.last_error ? -one.last_error.at : Infinity; }
    const value = one[view.sort];
    return value === null ? -1 : value;
  }

  function fits(one) {
    if (view.state === "trouble" ? !TROUBLE.includes(one.state) && !one.parked && !one.dead_letters : view.state && one.state !== view.state) { return false; }
    const text = view.text.toLowerCase();
    return !text || [one.queue, one.owner || "", one.last_error ? one.last_error.text : ""].some((word) => word.toLowerCase().includes(text));
  }

  function compare(one, other) {
    const [a, b] = [key(one), key(other)];
    const order = a < b ? -1 : a > b ? 1 : 0;
    return view.down ? -order : order;
  }

  // Rows are grouped by server where there are several, unless the reader has chosen.
  function grouping() { return view.by || (new Set(data.map((one) => one.server)).size > 1 ? "server" : "nothing"); }

  function groupOf(one, by) {
    if (by === "server") { return one.server || "control server"; }
    return by === "worker" ? one.owner || "without an owner" : "";
  }

  function heading(group, members, by) {
    if (!headings.has(group)) {
      const row = document.createElement("tr"), name = add(row, "th");
      row.className = "partitions-group";
      row.dataset.group = group;
      name.scope = "rowgroup";
      name.colSpan = 14;
      headings.set(group, {row, name: add(name, "span"), badge: add(name, "span", "badge"), facts: add(name, "span", "partitions-muted")});
    }
    const parts = headings.get(group), sum = (field) => members.reduce((total, one) => total + (one[field] || 0), 0);
    const bad = members.filter((one) => one.state === (by === "server" ? "away" : "unowned")).length;
    const stalled = members.filter((one) => TROUBLE.includes(one.state)).length;
    put(parts.name, group);
    put(parts.badge, by === "server" ? (bad ? "does not answer" : "answers") : bad ? "unowned" : stalled ? count(stalled) + " in trouble" : "ok");
    parts.badge.className = "badge text-bg-" + (bad ? "danger" : by === "worker" && stalled ? "warning" : "success");
    put(parts.facts, count(members.length) + (members.length === 1 ? " queue, " : " queues, ") + count(sum("waiting")) + " waiting, " + rate(sum("done_per_second")) + "/s done");
    return parts.row;
  }

  function draw() {
    const by = grouping();
    const found = data.filter(fits).sort((one, other) => {
      const [a, b] = [groupOf(one, by), groupOf(other, by)];
      return a < b ? -1 : a > b ? 1 : compare(one, other);
    });
    const members = new Map();
    for (const one of found) { members.set(groupOf(one, by), [...(members.get(groupOf(one, by)) || []), one]); }
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    view.page = Math.min(view.page, pages - 1);
    const shown = found.slice(view.page * PAGE, (view.page + 1) * PAGE);
    const lines = [];
    shown.forEach((one, place) => {
      const group = groupOf(one, by);
      if (by !== "nothing" && (place === 0 || group !== groupOf(shown[place - 1], by))) { lines.push(heading(group, members.get(group), by)); }
      if (!made.has(one.partition)) { made.set(one.partition, make(one)); }
      const parts = made.get(one.partition);
      fill(parts, one);
      lines.push(parts.row);
    });
    lines.forEach((line, place) => {
      if (body.children[place] !== line) { body.insertBefore(line, body.children[place] || null); }
    });
    while (body.children.length > lines.length) { body.lastChild.remove(); }
    find("group-by").value = by;
    put(find("rows-count"), found.length === data.length ? "" : count(found.length) + " of " + count(data.length));
    find("rows-previous").hidden = view.page === 0;
    find("rows-next").hidden = view.page + 1 >= pages;
    for (const button of document.querySelectorAll("#partitions-table [data-sort]")) {
      const own = button.dataset.sort === view.sort;
      button.parentNode.setAttribute("aria-sort", own ? (view.down ? "descending" : "ascending") : "none");
    }
  }

  function remember() {
    const words = new URLSearchParams();
    if (view.sort !== "partition" || view.down) { words.set("sort", view.sort); words.set("down", view.down ? "1" : "0"); }
    if (view.text) { words.set("q", view.text); }
    if (view.state) { words.set("state", view.state); }
    if (view.by) { words.set("by", view.by); }
    history.replaceState(null, "", words.size ? "#" + words : location.pathname + location.search);
    draw();
  }

  // A row's menu: where to look, and the action with what it will do.
  function open(partition) {
    const one = data.find((row) => row.partition === partition), dialog = find("row-dialog"), act = find("row-act");
    put(find("row-title"), one.queue);
    put(find("row-facts"), one.state + "; " + (one.owner ? "owned by " + one.owner : "without an owner") + "; " + count(one.waiting) + " waiting" + (one.last_error ? "; last error: " + visible(one.last_error.text) : ""));
    find("row-open").href = page.dataset.partitionPage + encodeURIComponent(partition);
    find("row-parked").href = root.dataset.parked + "?partition=" + encodeURIComponent(partition);
    find("row-dead").href = root.dataset.deadLetters + "?partition=" + encodeURIComponent(partition);
    const what = one.paused ? "resume" : "pause";
    if (act) {
      put(act, one.paused ? "Resume" : "Pause");
      put(find("row-what"), one.paused ?
        "Resume: its owner goes on at once with the " + count(one.waiting) + " messages that wait." :
        "Pause: its owner finishes the batch, then its messages wait until you resume. Other partitions go on.");
      act.disabled = root.classList.contains("stale");
    }
    dialog.returnValue = "no";
    dialog.addEventListener("close", async () => {
      if (dialog.returnValue !== "yes") { return; }
      try {
        toast((await post(encodeURIComponent(partition) + "/" + what, {})).message, "success");
      } catch (error) {
        toast(error.message, "danger");
      }
    }, {once: true});
    dialog.showModal();
  }

  // The address remembers the view; a link to another view of this page changes it.
  function recall() {
    const known = new URLSearchParams(location.hash.slice(1));
    Object.assign(view, {sort: known.get("sort") || "partition", down: known.get("down") === "1", text: known.get("q") || "", state: known.get("state") || "", by: known.get("by") || "", page: 0});
    find("filter-text").value = view.text;
    find("filter-state").value = view.state;
  }

  recall();
  window.addEventListener("hashchange", () => { recall(); draw(); find("rows-filter").scrollIntoView(); });
  find("rows-filter").addEventListener("submit", (event) => event.preventDefault());
  find("filter-text").addEventListener("input", (event) => { view.text = event.target.value.trim(); view.page = 0; remember(); });
  find("filter-state").addEventListener("change", (event) => { view.state = event.target.value; view.page = 0; remember(); });
  find("group-by").addEventListener("change", (event) => { view.by = event.target.value; view.page = 0; remember(); });
  find("rows-previous").addEventListener("click", () => { view.page -= 1; draw(); });
  find("rows-next").addEventListener("click", () => { view.page += 1; draw(); });
  document.querySelector("#partitions-table thead").addEventListener("click", (event) => {
    const button = event.target.closest("[data-sort]");
    if (!button) { return; }
    const text = ["partition", "state", "owner", "last_error"].includes(button.dataset.sort);
    view.down = view.sort === button.dataset.sort ? !view.down : !text;
    view.sort = button.dataset.sort;
    view.page = 0;
    remember();
  });

  window.partitions.rows = {show(rows, lines, now) { data = rows; series = lines; at = now; draw(); }};
}());
