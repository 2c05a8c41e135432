"use strict";
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const body = document.body, steps = JSON.parse(body.dataset.steps), learned = JSON.parse(body.dataset.learned);
  const tip = document.getElementById("tip");

  function element(name, text, style) {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (style) made.className = style;
    return made;
  }

  function showTip(x, y, ...parts) {
    tip.replaceChildren(...parts);
    tip.classList.add("on");
    const box = tip.getBoundingClientRect();
    const left = Math.max(6, Math.min(x + 14, document.documentElement.clientWidth - box.width - 6));
    const top = y - box.height - 12 < 6 ? y + 18 : y - box.height - 12;
    tip.style.transform = `translate(${Math.round(left)}px,${Math.round(top)}px)`;
  }
  const hideTip = () => tip.classList.remove("on");

  // charts: the nearest point of every line
  for (const chart of all(".chart")) {
    const svg = chart.querySelector(":scope > svg"), cursor = chart.querySelector(".cursor");
    const lines = JSON.parse(chart.dataset.hover), places = [...new Set(lines.flatMap(l => l.x))].sort((a, b) => a - b);
    let at = -1;
    const nearest = (list, x) => list.reduce((best, v, i) => Math.abs(v - x) < Math.abs(list[best] - x) ? i : best, 0);
    function tell(place) {
      at = place;
      const x = places[place], matrix = svg.getScreenCTM(), parts = [];
      cursor.setAttribute("transform", `translate(${x} 0)`);
      cursor.setAttribute("visibility", "visible");
      lines.forEach((line, n) => {
        const i = nearest(line.x, x);
        if (Math.abs(line.x[i] - x) > 12) return;
        if (!parts.length) parts.push(element("div", line.told[i]));
        const row = element("div");
        row.append(element("span", "", "dot s" + line.slot), line.name + " ", element("b", line.values[i]), line.more ? ` · ${line.more[i]}` : "");
        parts.push(row);
      });
      showTip(matrix.a * x + matrix.e, svg.getBoundingClientRect().top + 40, ...parts);
    }
    function leave() { hideTip(); cursor.setAttribute("visibility", "hidden"); }
    svg.addEventListener("pointermove", e => {
      const matrix = svg.getScreenCTM();
      tell(nearest(places, (e.clientX - matrix.e) / matrix.a));
    });
    svg.addEventListener("pointerdown", e => svg.dispatchEvent(new PointerEvent("pointermove", e)));
    svg.addEventListener("pointerleave", leave);
    chart.addEventListener("blur", leave);
    chart.addEventListener("keydown", e => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
      if (e.key === "Escape") leave();
      if (!move) return;
      e.preventDefault();
      tell(Math.max(0, Math.min(places.length - 1, at < 0 ? (move > 0 ? 0 : places.length - 1) : at + move)));
    });
  }

  // cells: what they say
  const confusions = JSON.parse(document.getElementById("confusions")?.textContent || "[]");
  function cellText(cell) {
    const matrix = cell.closest(".matrix");
    if (!matrix || cell.tagName !== "TD") return cell.dataset.told;
    const row = cell.parentNode, column = cell.cellIndex - 1, data = confusions[matrix.dataset.matrix];
    const value = data.steps[matrix.dataset.step ?? data.last][row.sectionRowIndex][column];
    if (value < 0) return "not known yet";
    const names = all("thead .upright", matrix).map(th => th.textContent);
    return `${value / 10} % of ${row.cells[0].textContent} is labelled ${names[column]}`;
  }
  for (const table of all(".cells")) {
    const tell = e => {
      const cell = e.target.closest("td,th"), text = cell && cellText(cell);
      text ? showTip(e.clientX, e.clientY, element("div", text)) : hideTip();
    };
    table.addEventListener("pointermove", tell);
    table.addEventListener("pointerdown", tell);
    table.addEventListener("pointerleave", hideTip);
  }

  // heat maps of logits: the value under the pointer, read back from its colour
  const ends = [[213, 94, 0], [247, 247, 247], [0, 114, 178]];
  for (const image of all(".heatmap")) {
    let pixels;
    const tell = e => {
      if (!pixels) {
        const canvas = element("canvas"), pen = canvas.getContext("2d");
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        pen.drawImage(image, 0, 0);
        pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
      }
      const box = image.getBoundingClientRect();
      const x = Math.min(pixels.width - 1, Math.max(0, Math.floor((e.clientX - box.left) / box.width * pixels.width)));
      const y = Math.min(pixels.height - 1, Math.max(0, Math.floor((e.clientY - box.top) / box.height * pixels.height)));
      const [r, , b] = pixels.data.slice(4 * (y * pixels.width + x), 4 * (y * pixels.width + x) + 3);
      const share = b < r ? (b - 247) / 247 : (247 - r) / 247;
      showTip(e.clientX, e.clientY, element("div", "logit " + (share * image.dataset.limit).toFixed(1)));
    };
    image.addEventListener("pointermove", tell);
    image.addEventListener("pointerdown", tell);
    image.addEventListener("pointerleave", hideTip);
  }

  // the step that images and confusion show
  function paint(matrix, step) {
    const data = confusions[matrix.dataset.matrix];
    const shown = Object.keys(data.steps).map(Number).filter(s => s <= step).pop() ?? Math.min(...Object.keys(data.steps));
    matrix.dataset.step = shown;
    matrix.querySelector("output").textContent = shown;
    all("tbody tr", matrix).forEach((row, i) => data.steps[shown][i].forEach((value, j) => {
      const cell = row.cells[j + 1];
      cell.className = value < 0 ? "none" : "k" + Math.round(value / 20);
      cell.textContent = value < 5 ? "" : Math.round(value / 10);
    }));
  }
  function show(position) {
    const step = steps[position];
    for (const stepper of all(".stepper")) {
      const slider = stepper.querySelector("input"), output = stepper.querySelector("output");
      slider.value = position;
      slider.setAttribute("aria-valuetext", `after step ${step}`);
      const what = learned[step] ? element("span", ` learned ${learned[step]}`) : "";
      output.replaceChildren("after step ", element("b", String(step)), what);
    }
    for (const frames of all(".frames")) {
      const there = all(".frame", frames), found = there.find(f => f.dataset.step === String(step)) ?? there.at(-1);
      there.forEach(f => f.classList.toggle("on", f === found));
    }
    all(".matrix").forEach(m => paint(m, step));
  }
  let timer;
  const position = () => Number(document.querySelector(".stepper input").value);
  function stop() {
    clearInterval(timer);
    timer = undefined;
    all(".play").forEach(b => b.setAttribute("aria-pressed", "false"));
  }
  for (const stepper of all(".stepper")) {
    stepper.querySelector("input").addEventListener("input", e => { stop(); show(Number(e.target.value)); });
    stepper.querySelector(".play").addEventListener("click", () => {
      if (timer) return stop();
      all(".play").forEach(b => b.setAttribute("aria-pressed", "true"));
      show(position() === steps.length - 1 ? 0 : position() + 1);
      timer = setInterval(() => position() === steps.length - 1 ? stop() : show(position() + 1), 1100);
    });
  }
  if (document.querySelector(".stepper")) show(steps.length - 1);

  for (const button of all(".segments button")) button.addEventListener("click", () => {
    document.querySelector(".scenes").classList.toggle("alone", button.dataset.mode === "alone");
    all(".segments button").forEach(b => b.setAttribute("aria-pressed", String(b === button)));
  });

  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // on paper everything is unfolded
  const printing = matchMedia("print");
  function unfold(on) {
    for (const d of all("details")) {
      if (on && !d.open) { d.open = true; d.dataset.folded = ""; }
      else if (!on && "folded" in d.dataset) { d.open = false; delete d.dataset.folded; }
    }
  }
  printing.addEventListener("change", e => unfold(e.matches));
  addEventListener("beforeprint", () => unfold(true));
  addEventListener("afterprint", () => unfold(false));
})();
