// The live overview: server-sent events, or polling if no events arrive (a proxy may buffer them).
(function () {
  "use strict";

  // Longer than three samples: if no event arrived for so long, poll.
  const PATIENCE = 7000;
  const POLL = 3000;
  const SPAN = 5; // seconds per point of a line, the same as on the server

  // Calls onOverview(overview), onAttention(list) and onState("live" | "polling" | "away", text).
  function listen(eventsUrl, pollUrl, onOverview, onAttention, onState) {
    let heard = Date.now(), polling = false;

    const source = new EventSource(eventsUrl);
    source.addEventListener("overview", (event) => {
      heard = Date.now();
      onState("live", "");
      onOverview(JSON.parse(event.data));
    });
    source.addEventListener("attention", (event) => onAttention(JSON.parse(event.data)));
    source.addEventListener("unreachable", (event) => {
      heard = Date.now();
      onState("away", JSON.parse(event.data).error);
    });
    window.addEventListener("pagehide", () => source.close());

    async function poll() {
      if (polling || document.hidden || Date.now() - heard < PATIENCE) { return; }
      polling = true;
      try {
        const reply = await fetch(pollUrl, {credentials: "same-origin"});
        if (reply.ok) {
          onState("polling", "");
          onOverview(await reply.json());
        } else {
          onState("away", await reply.text());
        }
      } catch (error) {
        onState("away", "Flower is not reachable.");
      }
      polling = false;
    }
    setInterval(poll, POLL);
  }

  // Extend a line with the current rates. A row that has its history replaces the line.
  function continued(series, row, at) {
    if (row.history && row.history.length) { return row.history.slice(); }
    const known = series || [];
    if (row.in_per_second === null) { return known; }
    const last = known[known.length - 1];
    if (last && last[0] > at + SPAN) { return [[at, row.in_per_second, row.done_per_second, row.waiting]]; }
    if (last && Math.floor(last[0] / SPAN) === Math.floor(at / SPAN)) { known.pop(); }
    known.push([at, row.in_per_second, row.done_per_second, row.waiting]);
    while (known.length && known[0][0] < at - window.partitions.charts.SECONDS) { known.shift(); }
    return known;
  }

  window.partitions.live = {listen, continued};
}());
