// The charts of one partition or one computation, from what workers wrote.
(function () {
  "use strict";

  const {charts, span} = window.partitions;
  const root = document.querySelector("[data-history]");
  if (!root) { return; }
  const query = Object.fromEntries(new URLSearchParams(root.dataset.query));
  let seconds = 3600, found = null;

  function draw() {
    if (!found) { return; }
    charts.chart(root.querySelector("[data-chart=flow]"), found.samples, found.at, [
      ...(query.computation ? [] : [{column: 1, className: "line-in"}]), {column: 2, className: "line-done"}, {column: 5, className: "line-failed"}], seconds, found.marks);
    const line = query.computation ? {column: 4, className: "line-waiting"} : {column: 3, className: "line-waiting", filled: true};
    charts.chart(root.querySelector("[data-chart=second]"), found.samples, found.at, [line], seconds, found.marks);
    root.querySelector("[data-marks]").replaceChildren(...found.marks.slice(-5).map((mark) => {
      const line = document.createElement("li");
      line.textContent = span(found.at - mark.at) + " ago: " + mark.what;
      return line;
    }));
  }

  async function look() {
    if (document.hidden) { return; }
    const asked = seconds;
    const answer = await charts.fetchHistory(root.dataset.history, {...query, seconds});
    if (answer && asked === seconds) { found = answer; draw(); }
  }

  charts.onRange((value) => { seconds = value; found = null; look(); });
  new ResizeObserver(draw).observe(root);
  setInterval(look, 10000);
  look();
}());
