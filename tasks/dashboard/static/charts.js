// Lines in SVG: a row's sparkline, and the charts of the whole group. Series are [time, in, done, waiting], oldest first.
(function () {
  "use strict";

  const SECONDS = 300;
  const NAMESPACE = "http://www.w3.org/2000/svg";

  function element(name, attributes, parent) {
    const made = document.createElementNS(NAMESPACE, name);
    for (const [key, value] of Object.entries(attributes)) { made.setAttribute(key, value); }
    if (parent) { parent.append(made); }
    return made;
  }

  function points(series, column, now, top, box, seconds) {
    return series.filter((one) => one[column] !== null).map((one) => {
      const x = box.left + box.width * (1 - (now - one[0]) / (seconds || SECONDS));
      const y = box.top + box.height * (1 - one[column] / top);
      return Math.max(box.left, x).toFixed(1) + "," + y.toFixed(1);
    });
  }

  function highest(series, columns) {
    return series.reduce((most, one) => columns.reduce((so, column) => Math.max(so, one[column] || 0), most), 0);
  }

  // The smallest round number (1, 2, 5, 10, 20 …) that is not below the highest value.
  function ceiling(value) {
    if (value <= 0) { return 1; }
    const power = Math.pow(10, Math.floor(Math.log10(value)));
    return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
  }

  // A row's line is created once; later only its points change.
  function sparkline(svg, series, now) {
    if (!svg.firstChild) {
      svg.setAttribute("viewBox", "0 0 100 24");
      svg.setAttribute("preserveAspectRatio", "none");
      element("polyline", {class: "line-in"}, svg);
      element("polyline", {class: "line-done"}, svg);
    }
    const top = Math.max(1, highest(series, [1, 2]));
    const box = {left: 0, top: 2, width: 100, height: 20};
    svg.children[0].setAttribute("points", points(series, 1, now, top, box).join(" "));
    svg.children[1].setAttribute("points", points(series, 2, now, top, box).join(" "));
  }

  // The ticks of a time axis, in seconds before now, and how they are written.
  const TICKS = {
    300: [[300, "−5 min"], [240, "−4 min"], [180, "−3 min"], [120, "−2 min"], [60, "−1 min"], [0, "now"]],
    3600: [[3600, "−1 h"], [2700, "−45 min"], [1800, "−30 min"], [900, "−15 min"], [0, "now"]],
    21600: [[21600, "−6 h"], [14400, "−4 h"], [7200, "−2 h"], [0, "now"]],
    172800: [[172800, "−2 d"], [129600, "−36 h"], [86400, "−1 d"], [43200, "−12 h"], [0, "now"]],
  };

  // lines: [{column, className, filled}]; marks: [{at, what}]
  function chart(svg, series, now, lines, seconds = SECONDS, marks = []) {
    const width = Math.max(200, svg.clientWidth), height = Math.max(100, svg.clientHeight);
    const box = {left: 48, top: 8, width: width - 56, height: height - 30};
    const top = ceiling(highest(series, lines.map((line) => line.column)));
    svg.replaceChildren();
    svg.setAttribute("viewBox", "0 0 " + width + " " + height);
    for (const part of [0, 0.5, 1]) {
      const y = box.top + box.height * (1 - part);
      element("line", {class: "grid", x1: box.left, x2: box.left + box.width, y1: y, y2: y}, svg);
      const label = element("text", {class: "axis", x: box.left - 6, y: y + 4, "text-anchor": "end"}, svg);
      label.textContent = short(top * part);
    }
    const ticks = TICKS[seconds].filter((_, place) => width >= 420 || place % 2 === 0 || place === TICKS[seconds].length - 1);
    for (const [before, words] of ticks) {
      const x = box.left + box.width * (1 - before / seconds);
      const anchor = before === seconds ? "start" : before === 0 ? "end" : "middle";
      element("text", {class: "axis", x, y: height - 6, "text-anchor": anchor}, svg).textContent = words;
    }
    for (const mark of marks) {
      const x = box.left + box.width * (1 - (now - mark.at) / seconds);
      const line = element("line", {class: "mark", x1: x, x2: x, y1: box.top, y2: box.top + box.height}, svg);
      element("title", {}, line).textContent = mark.what;
    }
    if (!series.length) { return; }
    for (const line of lines) {
      const made = points(series, line.column, now, top, box, seconds);
      if (!made.length) { continue; }
      if (line.filled) {
        const floor = box.top + box.height;
        const ends = [made[0], made[made.length - 1]].map((one) => one.split(",")[0] + "," + floor);
        element("polygon", {class: "area " + line.className, points: [ends[0], ...made, ends[1]].join(" ")}, svg);
      }
      element("polyline", {class: line.className, points: made.join(" ")}, svg);
    }
  }

  function short(value) {
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (value >= size) { return Number((value / size).toPrecision(3)) + unit; }
    }
    return String(Number(value.toPrecision(3)));
  }

  // The samples of a longer time; null if they can't be read now.
  async function fetchHistory(address, query) {
    try {
      const reply = await fetch(address + "?" + new URLSearchParams(query), {credentials: "same-origin"});
      return reply.ok ? await reply.json() : null;
    } catch (error) {
      return null;
    }
  }

  // Call `chosen` with the seconds of a range's button.
  function onRange(chosen) {
    const buttons = Array.from(document.querySelectorAll("button[data-range]"));
    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const one of buttons) { one.setAttribute("aria-pressed", String(one === button)); }
        chosen(Number(button.dataset.range));
      });
    }
  }

  window.partitions.charts = {sparkline, chart, fetchHistory, onRange, SECONDS};
}());
