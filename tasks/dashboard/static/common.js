// Shared by all our pages: formatting of numbers (as in admin/numbers.py; a test compares them), actions, confirmations, refreshing.
// Text is put into the page only by textContent and attributes, because keys and messages are untrusted.
(function () {
  "use strict";

  const page = document.getElementById("partitions-page");

  function span(seconds) {
    if (seconds === null || seconds === undefined) { return "–"; }
    if (seconds <= 0) { return "0 s"; }
    for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= 2 * length) { return Math.round(seconds / length) + " " + unit; }
    }
    if (seconds >= 0.9995) { return short(seconds) + " s"; }
    if (seconds >= 0.0009995) { return short(1000 * seconds) + " ms"; }
    return Math.max(1, Math.round(1e6 * seconds)) + " µs";
  }

  function short(value) {
    return String(value < 9.95 ? Number(value.toFixed(1)) : Math.round(value));
  }

  function size(bytes) {
    if (bytes === null || bytes === undefined) { return "–"; }
    let value = bytes;
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (value < 999.5) { return Number(value.toPrecision(3)) + " " + unit; }
      value /= 1000;
    }
    return (value < 999.5 ? Number(value.toPrecision(3)) : Math.round(value)) + " TB";
  }

  function count(value) {
    return value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en-US");
  }

  function rate(value) {
    if (value === null || value === undefined) { return "–"; }
    return value > 0 && value < 9.95 ? value.toFixed(1) : count(value);
  }

  function put(node, text) {
    if (node.textContent !== text) { node.textContent = text; }
  }

  // Escape the marks that change the direction of text: a key in a question must not change how the question reads.
  function visible(text) {
    return text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (mark) => "\\u" + mark.charCodeAt(0).toString(16).padStart(4, "0"));
  }

  function toast(text, kind) {
    const box = document.createElement("div");
    const body = document.createElement("div");
    const close = document.createElement("button");
    box.className = "toast align-items-center border-0 text-bg-" + kind;
    box.setAttribute("role", kind === "danger" ? "alert" : "status");
    body.className = "toast-body d-flex";
    const words = document.createElement("span");
    words.textContent = visible(text);
    close.type = "button";
    close.className = "btn-close btn-close-white ms-auto";
    close.setAttribute("data-bs-dismiss", "toast");
    close.setAttribute("aria-label", "Close");
    body.append(words, close);
    box.append(body);
    document.getElementById("toast-container").append(box);
    box.addEventListener("hidden.bs.toast", () => box.remove());
    bootstrap.Toast.getOrCreateInstance(box, {delay: kind === "danger" ? 10000 : 5000}).show();
  }

  function cookie(name) {
    const found = document.cookie.split("; ").find((one) => one.startsWith(name + "="));
    return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
  }

  // The query of addresses about a sink's own group.
  function ofSink() {
    return page.dataset.sink ? "?" + new URLSearchParams({sink: page.dataset.sink}) : "";
  }

  // POST to the API. Returns the server's answer, or throws an Error with the server's text.
  async function post(path, body) {
    let reply;
    try {
      reply = await fetch(page.dataset.api + "/" + path + ofSink(), {
        method: "POST", credentials: "same-origin", body: JSON.stringify(body),
        headers: {"Content-Type": "application/json", "X-XSRFToken": cookie("_xsrf")},
      });
    } catch (error) {
      throw new Error("Flower is not reachable.");
    }
    const answer = await reply.json().catch(() => ({}));
    if (!reply.ok) { throw new Error(answer.error || reply.status + " " + reply.statusText); }
    return answer;
  }

  // Ask in a dialog. Resolves to true only for Yes.
  function confirmed(text, yes) {
    const dialog = document.getElementById("confirm-dialog");
    document.getElementById("confirm-text").textContent = visible(text);
    document.getElementById("confirm-yes").textContent = yes || "Yes";
    dialog.returnValue = "no";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), {once: true});
    });
  }

  // Remember which control has the focus in a region that is replaced, so that keyboard users stay there.
  const CONTROLS = "a[href], button, summary";
  const nameOf = (one) => one.id || one.getAttribute("aria-label") || one.textContent;
  function placeOf(one) {
    const region = one && one.closest("[data-refresh]");
    return region && {region: region.id, name: nameOf(one)};
  }

  // Say that what is shown is old, and allow no actions on it. An empty text: it is fresh.
  let freshAt = Date.now();
  function outOfDate(why) {
    const notice = document.getElementById("looked-in-vain");
    if (!why) { freshAt = Date.now(); }
    if (!notice || (notice.hidden && !why)) { return; }
    notice.hidden = !why;
    put(notice, why && "What this page shows is " + span(Math.max(1, Math.round((Date.now() - freshAt) / 1000))) + " old. " + why);
    page.classList.toggle("stale", Boolean(why));
    for (const one of document.querySelectorAll("[data-refresh] button:not([data-copy])")) { one.disabled = Boolean(why); }
  }

  // Load the page again and replace only its regions with data-refresh.
  async function refresh() {
    let text, reply;
    try {
      reply = await fetch(location.href, {credentials: "same-origin", headers: {Accept: "text/html"}});
      text = await reply.text();
    } catch (error) {
      outOfDate("Flower is not reachable.");
      return false;
    }
    if (reply.redirected) { location.reload(); return true; }
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const away = fresh.getElementById("away");
    outOfDate(reply.ok ? "" : away ? away.textContent : "It cannot be read now.");
    if (!reply.ok) { return false; }
    const folds = new Map(Array.from(document.querySelectorAll("details[id]"), (one) => [one.id, one.open]));
    const focused = placeOf(document.activeElement);
    for (const old of document.querySelectorAll("[data-refresh]")) {
      const now = fresh.getElementById(old.id);
      if (now) { old.replaceWith(document.adoptNode(now)); }
    }
    absolute();
    for (const one of document.querySelectorAll("[data-refresh] details[id]")) { one.open = folds.get(one.id) ?? one.open; }
    if (focused && document.activeElement === document.body) {
      const there = document.getElementById(focused.region).querySelectorAll(CONTROLS);
      (Array.from(there).find((one) => nameOf(one) === focused.name) || document.body).focus({preventScroll: true});
    }
    return true;
  }

  // A button for an action: data-post (path), data-body (JSON), data-confirm (a question; without it nothing is asked), data-yes.
  async function act(button) {
    if (button.dataset.confirm && !await confirmed(button.dataset.confirm, button.dataset.yes)) { return; }
    button.disabled = true;
    const progress = setInterval(refresh, 2000); // what takes long, as a retry of many dead letters, is shown meanwhile
    try {
      toast((await post(button.dataset.post, JSON.parse(button.dataset.body || "{}"))).message, "success");
    } catch (error) {
      toast(error.message, "danger");
    }
    clearInterval(progress);
    button.disabled = false;
    if (document.querySelector("[data-refresh]")) { await refresh(); }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-post]");
    if (button) { act(button); }
    const id = event.target.closest("button[data-copy]");
    if (id) { copy(id); }
  });

  // The clipboard needs https or a loopback address. Elsewhere the text is selected, for Ctrl-C.
  async function copy(button) {
    const text = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      toast("copied: " + text, "success");
    } catch (error) {
      getSelection().selectAllChildren(button);
    }
  }

  // Redis was not reachable when the page was loaded: reload the whole page when it is back.
  if (document.getElementById("away")) {
    setInterval(async () => {
      const reply = await fetch(location.href, {credentials: "same-origin"}).catch(() => null);
      if (reply && reply.ok) { location.reload(); }
    }, 3000);
  }

  // Relative times show the absolute one, in the viewer's zone, when pointed at.
  function absolute() {
    for (const one of document.querySelectorAll("time[datetime]:not([title])")) { one.title = new Date(one.dateTime).toLocaleString(); }
  }
  absolute();

  // A page of tables refreshes itself, unless the user has a dialog open, selects text, or looks at another tab.
  const every = document.querySelector("[data-refresh-seconds]");
  if (every) {
    setInterval(() => {
      const busy = document.hidden || document.querySelector("dialog[open]") || String(window.getSelection());
      if (!busy) { refresh(); }
    }, 1000 * Number(every.dataset.refreshSeconds));
  }

  window.partitions = {page, put, visible, span, size, count, rate, toast, post, confirmed, refresh};
}());
