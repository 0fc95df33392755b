// Finds text that is hard to read: its contrast with the background is below 3 : 1.
() => {
  const numbers = (color) => (color.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((one) => (one /= 255) <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = numbers(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] > 0.5) { return color; }
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const one of document.querySelectorAll("main *")) {
    const text = Array.from(one.childNodes).filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    if (!text || !one.checkVisibility({visibilityProperty: true}) || one.closest("svg, .visually-hidden")) { continue; }
    const [a, b] = [light(numbers(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 3) { found.push(`${ratio.toFixed(1)}: ${one.outerHTML.slice(0, 120)}`); }
  }
  return found;
}
