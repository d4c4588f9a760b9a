// The controls: what is chosen, looked at and listened to.
"use strict";

const LEGENDS = {
  ranks: "percentile rank of the bin in its map (%), the upper quarter coloured; grey: spectrogram",
  plain: "attribution, normalised to 0–1: larger = hiding it changes the prediction more; grey: spectrogram",
  mean: "mean attribution of the tokens: larger = hiding it changes their predictions more; grey: spectrogram",
  positive: "attribution, of the largest except outliers: larger = hiding it weakens the prediction more; grey: spectrogram",
  signed:
    "attribution, of the largest except outliers: positive = hiding it weakens the prediction, negative = strengthens it; grey: spectrogram",
};
const HEARD = { heard: "Heard", guessed: "Guessed", unsure: "Unsure whether heard or guessed" };
const NO_REGION = "Drag over the spectrogram to see which words or tokens depend on a region.";
const REGION_SHARE = 0.1; // of a map's bins: those that count as salient when a region is marked
const PAD = 0.05; // seconds before and after a span that is played
// in the frame of a notebook or of the app, which has this page's text, and may know what is chosen in it
const EMBEDDED = location.href === "about:srcdoc";

const byId = (id) => document.getElementById(id);
const number = (value, digits = 2) => value.toFixed(digits).replace(/^-(?=.*[1-9])/, "−").replace("-", "");
// what the file keeps of a score: see LEVELS
const scoreText = (score) => number(score, Math.abs(score) < 0.1 ? 3 : 2);
const percent = (part) => `${Math.round(100 * part)} %`;
const hertz = (frequency) => (frequency < 1000 ? `${Math.round(frequency)} Hz` : `${(frequency / 1000).toFixed(2)} kHz`);
const quoted = (text) => `“${text}”`;

function element(name, properties = {}, attributes = {}) {
  const made = Object.assign(document.createElement(name), properties);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Buttons of which one is chosen, as a group of radio buttons: a click or the arrow keys choose. */
class Choices {
  constructor(container, onChoose) {
    this.container = container;
    this.onChoose = onChoose;
    container.addEventListener("click", (event) => {
      const index = this.buttons.indexOf(event.target.closest("[role=radio]"));
      if (index >= 0) onChoose(index);
    });
    container.addEventListener("keydown", (event) => this.onKey(event));
  }

  get buttons() {
    return [...this.container.querySelectorAll("[role=radio]")];
  }

  get index() {
    return this.buttons.findIndex((button) => button.getAttribute("aria-checked") === "true");
  }

  /** Whether the key was one that chooses. */
  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.buttons.length - 1;
    const index = {
      ArrowLeft: Math.max(this.index - 1, 0),
      ArrowUp: Math.max(this.index - 1, 0),
      ArrowRight: Math.min(this.index + 1, last),
      ArrowDown: Math.min(this.index + 1, last),
      Home: 0,
      End: last,
    }[event.key];
    if (index === undefined) return;
    event.preventDefault();
    this.onChoose(index);
    this.buttons[index].focus();
  }

  fill(buttons) {
    this.container.replaceChildren(...buttons);
  }

  mark(index) {
    this.buttons.forEach((button, number) => {
      button.setAttribute("aria-checked", String(number === index));
      button.tabIndex = number === index ? 0 : -1; // one stop of the Tab key for the whole group
    });
  }
}

class Page {
  constructor(report) {
    this.report = report;
    this.view = report.views[0];
    this.row = 0;
    this.method = report.methods[0];
    this.region = null; // frames and channels
    this.bin = null; // that is looked at
    this.opacity = 1;
    this.views = new Choices(byId("views"), (index) => this.showView(report.views[index]));
    this.rows = new Choices(byId("rows"), (index) => this.choose(index, true));
    this.plots = report.methods.map((method) => this.#makePlot(method));
    this.sound = report.audio ? new Sound(this) : null;
    this.#listen();
    this.views.fill(report.views.map(({ name }) => element("button", { type: "button", textContent: name }, { role: "radio" })));
    this.views.container.hidden = report.views.length === 1;
    this.#listErrors();
    this.showView(this.view);
  }

  // What is shown

  get map() {
    return this.mapOf(this.method);
  }

  mapOf(method, row = this.row) {
    return this.report.map(method, this.view, row);
  }

  get title() {
    return this.view.rows[this.row].title;
  }

  get isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  /** How a map is coloured. */
  look(map) {
    const signed = map.signed && !this.report.compares;
    const table = this.report.colors[(this.isDark ? "dark" : "light") + (signed ? "Signed" : "")];
    return { dark: this.isDark, opacity: this.opacity, table };
  }

  showView(view) {
    // the row that begins where the one before began; errors begin elsewhere, and the first row is taken
    const { first } = this.view.rows[this.row];
    this.view = view;
    const { rows, previous, nPrevious } = view;
    this.views.mark(this.report.views.indexOf(view));
    // rows that are not the previous tokens, such as errors or words, have all of these before them
    const own = previous.slice(nPrevious[0]);
    const areRows = view.name !== "errors" && own.every((title, index) => title === rows[index]?.title);
    const shown = areRows ? nPrevious[0] : Math.max(...nPrevious);
    const prompt = previous.slice(0, shown).map((title) => element("span", { className: "chip", textContent: title, dir: "auto" }));
    byId("before").replaceChildren(...prompt);
    this.rows.fill(
      rows.map(({ title, attached }, index) => {
        const className = attached && index ? "chip attached" : "chip";
        const button = element("button", { type: "button", className, textContent: title, dir: "auto" }, { role: "radio" });
        button.classList.toggle("doubtful", Boolean(rows[index].doubtful));
        const meter = element("span", { className: "meter" }, { "aria-hidden": "true" });
        meter.append(element("span"));
        button.append(meter);
        return button;
      }),
    );
    this.choose(Math.max(rows.findIndex((row) => row.first <= first && first < row.stop), 0));
  }

  /** The strip of errors against the reference: each shows its map. */
  #listErrors() {
    const view = this.report.views.find(({ name }) => name === "errors");
    if (!view) return;
    byId("errors").replaceChildren(
      ...view.rows.map(({ title }, row) => {
        const button = element("button", { type: "button", className: "error", textContent: title, dir: "auto" });
        button.addEventListener("click", () => {
          this.showView(view);
          this.choose(row);
        });
        return button;
      }),
    );
  }

  #markError() {
    [...(byId("errors")?.children ?? [])].forEach((button, row) =>
      button.setAttribute("aria-pressed", String(this.view.name === "errors" && this.row === row)),
    );
  }

  choose(row, clicked = false) {
    this.row = row;
    this.rows.mark(row);
    this.#markError();
    this.sound?.stop();
    this.#shade();
    this.#summarize();
    this.#fillTable();
    this.#showRegion();
    this.draw();
    this.tell(clicked);
  }

  /** Tells the page that holds this one what is chosen and marked here, whether just now, and how high this page is. */
  tell(clicked = false) {
    if (!EMBEDDED) return;
    const { region, report, view } = this;
    const seconds = (frame) => frame / report.framesPerSecond;
    const edge = (channel) => Math.round(report.frequencyAt(channel - 0.5));
    const marked = region && {
      start: seconds(region.firstFrame),
      stop: seconds(region.stopFrame),
      low: edge(region.firstChannel),
      high: edge(region.stopChannel),
    };
    const height = Math.ceil(document.body.getBoundingClientRect().height);
    parent.postMessage({ captumSpes: { height, view: view.name, word: this.#word(), region: marked, clicked } }, "*");
  }

  /** The word that the chosen row is or belongs to, with its number; null for the text as a whole. */
  #word() {
    if (this.view.name === "sentence") return null;
    const { first } = this.view.rows[this.row];
    const index = this.words.findIndex((row) => row.first <= first && first < row.stop);
    return index < 0 ? null : { index, text: this.words[index].title }; // the contrast of an error is no word's
  }

  get words() {
    return (this.report.views.find(({ name }) => name === "words") ?? this.view).rows;
  }

  /** Chooses the row of a word, or the first of its rows. */
  chooseWord(index) {
    const word = this.words[index];
    if (!word) return;
    if (this.view.name === "sentence") this.showView(this.report.views[0]);
    const row = this.view.rows.findIndex((row) => row.first <= word.first && word.first < row.stop);
    if (row >= 0) this.choose(row);
  }

  setMethod(method) {
    this.method = method;
    this.choose(this.row);
  }

  draw() {
    this.report.methods.forEach((method, index) => {
      const map = this.mapOf(method);
      this.plots[index].draw(map, this.report.range(method, this.view, map), this.look(map));
      const shown = this.report.compares ? `, ${method.name}` : "";
      this.plots[index].place.setAttribute(
        "aria-label",
        `Spectrogram with the map of ${quoted(this.title)}${shown}. Arrow keys look at it, Shift and arrow keys mark a region.`,
      );
    });
    this.#drawLegend();
    this.drawOverlays();
  }

  drawOverlays() {
    const seconds = this.sound?.position ?? null;
    this.report.methods.forEach((method, index) => {
      const span = this.report.salientSpan(this.mapOf(method));
      this.plots[index].drawOverlay({ span, region: this.region, bin: this.bin, seconds });
    });
  }

  #drawLegend() {
    const [low, high] = this.report.range(this.method, this.view, this.map);
    const digits = this.report.compares ? 0 : 2;
    byId("legend-low").textContent = number(low, digits);
    byId("legend-high").textContent = number(high, digits);
    const kind = this.map.signed ? "signed" : this.view.name === "sentence" ? "mean" : this.method.positive ? "positive" : "plain";
    byId("legend-text").textContent = LEGENDS[this.report.compares ? "ranks" : kind];
    drawLegend(byId("legend"), this.look(this.map).table, { dark: this.isDark, opacity: this.opacity });
  }

  // Previous tokens

  /** What the row owes to the tokens before it: their number among the previous ones, text and score. */
  before(row = this.row) {
    const scores = this.method.previous[this.report.views.indexOf(this.view)][row];
    return this.view.previous.slice(0, this.view.nPrevious[row]).map((title, index) => ({ index, title, score: scores[index] }));
  }

  #shade() {
    const chips = [...byId("before").children, ...this.rows.buttons];
    chips.forEach((chip) => {
      chip.style.setProperty("--shade", 0);
      chip.removeAttribute("title");
    });
    this.rows.buttons.forEach((chip, row) => (chip.title = this.confidence(row).join("\n")));
    for (const { index, score } of this.before()) {
      chips[index].style.setProperty("--shade", Math.min(Math.max(score, 0), 1));
      const parts = [`importance to ${quoted(this.title)}: ${number(score)}`, chips[index].title];
      chips[index].title = parts.filter(Boolean).join("\n");
    }
  }

  #summarize() {
    const [from, to] = this.spanSeconds();
    const { note } = this.view.rows[this.row];
    const parts = [...(note ? [note] : []), `${quoted(this.title)}: salient span ${number(from)}–${number(to)} s.`];
    const top = this.before().sort((a, b) => b.score - a.score).slice(0, 3);
    if (top.length) {
      parts.push(`Most important before it: ${top.map(({ title, score }) => `${quoted(title)} ${number(score)}`).join(", ")}.`);
    }
    const reliability = this.method.reliability[this.report.views.indexOf(this.view)]?.[this.row];
    if (reliability != null) parts.push(`Reliability ${number(reliability)}.`);
    parts.push(...this.confidence());
    byId("summary").textContent = parts.join(" ");
  }

  /** How sure the model was of a row, and what it might have written instead, in sentences. */
  confidence(row = this.row) {
    const { probability, entropy, doubtful, alternatives, heard, verdict } = this.view.rows[row];
    if (probability === undefined) return [];
    const parts = [`${doubtful ? "Doubtful: probability" : "Probability"} ${number(probability)}, entropy ${number(entropy, 1)} bits.`];
    if (verdict) parts.push(`${HEARD[verdict]}: hiding its own sound takes ${percent(heard)} of its probability.`);
    const likely = alternatives.filter(([, share]) => share >= 0.005).slice(0, 3);
    if (likely.length) parts.push(`Instead: ${likely.map(([text, share]) => `${quoted(text)} ${number(share)}`).join(", ")}.`);
    return parts;
  }

  spanSeconds(row = this.row) {
    return this.report.salientSpan(this.mapOf(this.method, row)).map((frame) => frame / this.report.framesPerSecond);
  }

  #fillTable() {
    if (!byId("table").open) return;
    const cells = (values, name) => {
      const line = element("tr");
      values.forEach((value, index) => line.append(element(name, { textContent: value, dir: "auto", className: index === 1 ? "number" : "" })));
      return line;
    };
    const [head, body] = byId("table").querySelectorAll("thead, tbody");
    head.replaceChildren(cells([this.view.name.replace(/s$/, ""), "salient span (s)", "most important before it", "reliability", "probability", "heard", "instead"], "th"));
    body.replaceChildren(
      ...this.view.rows.map(({ title }, row) => {
        const top = this.before(row).sort((a, b) => b.score - a.score)[0];
        const reliability = this.method.reliability[this.report.views.indexOf(this.view)]?.[row];
        const span = this.spanSeconds(row).map((seconds) => number(seconds)).join("–");
        const { probability, doubtful, alternatives, heard, verdict } = this.view.rows[row];
        const sure = probability === undefined ? "" : number(probability) + (doubtful ? " (doubtful)" : "");
        const other = alternatives?.length ? `${alternatives[0][0]} (${number(alternatives[0][1])})` : "";
        return cells(
          [title, span, top ? `${top.title} (${number(top.score)})` : "", reliability == null ? "" : number(reliability), sure, verdict ? `${verdict} (${number(heard)})` : "", other],
          "td",
        );
      }),
    );
  }

  // Looking at a bin

  /** Shows time, frequency and score of a bin beside it, and where methods are compared, the scores of all. */
  lookAt(bin, plot, speak = false) {
    this.bin = bin;
    this.drawOverlays();
    this.report.methods.forEach((method, index) => {
      const { place } = this.plots[index];
      if (this.report.compares) place.parentElement.querySelector("figcaption span").textContent = this.reading(method);
      place.querySelector(".tooltip").hidden = true;
    });
    if (!bin) return;
    const method = this.report.methods[this.plots.indexOf(plot)];
    const text = [this.describe(bin), ...this.reading(method).split(", ")];
    this.#showTooltip(plot, text.join("\n"));
    if (speak) byId("spoken").textContent = text.join(", ");
  }

  describe({ frame, channel }) {
    return `${number((frame + 0.5) / this.report.framesPerSecond)} s, ${hertz(this.report.frequencies[channel])}`;
  }

  /** What a method says of the bin that is looked at. */
  reading(method) {
    if (!this.bin) return "";
    const map = this.mapOf(method);
    const index = this.bin.frame * this.report.channels + this.bin.channel;
    return `score ${scoreText(map.value(index))}, above ${number(map.rank(index), 1)} % of the map`;
  }

  #showTooltip(plot, text) {
    const tooltip = plot.place.querySelector(".tooltip");
    tooltip.hidden = false;
    tooltip.textContent = text;
    // beside the bin, where there is more room
    const [x, y] = [plot.xOfTime((this.bin.frame + 0.5) / this.report.framesPerSecond), plot.yOfChannel(this.bin.channel + 0.5)];
    const [width, height] = [plot.place.clientWidth, plot.place.clientHeight];
    tooltip.style.left = `${x > width / 2 ? Math.max(x - tooltip.offsetWidth - 10, 0) : Math.min(x + 10, width - tooltip.offsetWidth)}px`;
    tooltip.style.top = `${y > height / 2 ? y - tooltip.offsetHeight - 10 : y + 10}px`;
  }

  // Marking a region

  mark(region) {
    this.region = region;
    if (!region) this.corner = null; // where marking by keys began
    this.#showRegion();
    this.drawOverlays();
    this.tell();
  }

  #showRegion() {
    const { region, report } = this;
    byId("clear-region").hidden = !region;
    const parts = this.view.rows.map((_, row) => (region ? report.salientPart(this.mapOf(this.method, row), region, REGION_SHARE) : 0));
    this.rows.buttons.forEach((button, row) => button.style.setProperty("--depends", parts[row]));
    if (!region) {
      byId("region").textContent = NO_REGION;
      return;
    }
    const times = [region.firstFrame, region.stopFrame].map((frame) => number(frame / report.framesPerSecond));
    const edges = [region.firstChannel - 0.5, region.stopChannel - 0.5].map((edge) => hertz(report.frequencyAt(edge)));
    const order = parts.map((part, row) => ({ part, title: this.view.rows[row].title })).sort((a, b) => b.part - a.part);
    const top = order.slice(0, 4).map(({ part, title }) => `${quoted(title)} ${percent(part)}`);
    byId("region").textContent =
      `The region from ${times.join(" to ")} s and ${edges.join(" to ")}: how much of it is among the most salient ` +
      `${percent(REGION_SHARE)} of each map: ${top.join(", ")}. (${percent(REGION_SHARE)} is no more than elsewhere.)`;
  }

  /** The region between two bins, both included. */
  static regionOf(a, b) {
    return {
      firstFrame: Math.min(a.frame, b.frame),
      stopFrame: Math.max(a.frame, b.frame) + 1,
      firstChannel: Math.min(a.channel, b.channel),
      stopChannel: Math.max(a.channel, b.channel) + 1,
    };
  }

  #makePlot(method) {
    const figure = byId("figure").content.firstElementChild.cloneNode(true);
    figure.querySelector("strong").textContent = this.report.compares ? method.name : "";
    byId("figures").append(figure);
    byId("figures").classList.toggle("several", this.report.compares);
    const place = figure.querySelector(".plot");
    const plot = new Plot(this.report, place);
    let start = null; // where the pointer went down: the bin and the point
    place.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      start = { bin: plot.binAt(event.clientX, event.clientY), x: event.clientX, y: event.clientY };
      place.setPointerCapture(event.pointerId);
    });
    place.addEventListener("pointermove", (event) => {
      const bin = plot.binAt(event.clientX, event.clientY);
      this.corner = null;
      const moved = start && Math.hypot(event.clientX - start.x, event.clientY - start.y) > 4;
      if (moved) this.mark(Page.regionOf(start.bin, bin));
      this.lookAt(bin, plot);
    });
    place.addEventListener("pointerup", (event) => {
      // a click without a drag marks nothing
      if (start && Math.hypot(event.clientX - start.x, event.clientY - start.y) <= 4) this.mark(null);
      start = null;
    });
    place.addEventListener("pointercancel", () => (start = null));
    place.addEventListener("pointerleave", () => this.lookAt(null));
    place.addEventListener("blur", () => {
      this.corner = null;
      this.lookAt(null);
    });
    place.addEventListener("keydown", (event) => this.#onPlotKey(event, plot));
    return plot;
  }

  #onPlotKey(event, plot) {
    if (event.key === "Escape") {
      this.mark(null);
      this.lookAt(null);
      return;
    }
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const { frames, channels } = this.report;
    const inside = (value, count) => Math.min(Math.max(value, 0), count - 1);
    const from = this.bin ?? { frame: Math.floor(frames / 2), channel: Math.floor(channels / 2) };
    const bin = {
      frame: inside(from.frame + step[0] * Math.ceil(frames / 100), frames),
      channel: inside(from.channel + step[1] * Math.ceil(channels / 40), channels),
    };
    if (event.shiftKey) {
      this.corner ??= from;
      this.mark(Page.regionOf(this.corner, bin));
    } else {
      this.corner = null;
    }
    this.lookAt(bin, plot, true);
  }

  // Controls

  #listen() {
    const { report } = this;
    byId("method-field").hidden = !report.compares;
    byId("method").append(...report.methods.map(({ name }, index) => element("option", { textContent: name, value: index })));
    byId("method").addEventListener("change", (event) => this.setMethod(report.methods[event.target.value]));
    byId("opacity").addEventListener("input", (event) => {
      this.opacity = event.target.value / 100;
      document.querySelector("output[for=opacity]").textContent = `${event.target.value} %`;
      this.draw();
    });
    byId("clear-region").addEventListener("click", () => this.mark(null));
    byId("table").addEventListener("toggle", () => this.#fillTable());
    // arrow keys choose a row wherever nothing else takes them
    document.addEventListener("keydown", (event) => {
      if (event.target === document.body && ["ArrowLeft", "ArrowRight"].includes(event.key)) this.rows.onKey(event);
    });
    byId("theme").addEventListener("click", () => this.setTheme(this.isDark ? "light" : "dark"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.setTheme());
    // paper is white
    let theme;
    addEventListener("beforeprint", () => {
      theme = document.documentElement.dataset.theme;
      this.setTheme("light");
    });
    addEventListener("afterprint", () => {
      if (!theme) delete document.documentElement.dataset.theme;
      this.setTheme(theme);
    });
    new ResizeObserver(() => this.draw()).observe(byId("figures"));
    new ResizeObserver(() => this.tell()).observe(document.body);
    addEventListener("message", ({ source, data }) => {
      if (EMBEDDED && source === parent && data?.captumSpes) this.chooseWord(data.captumSpes.chooseWord);
    });
    this.setTheme();
  }

  /** Takes a theme; without one, leaves the chosen one or the system's. */
  setTheme(theme = document.documentElement.dataset.theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    byId("theme").textContent = this.isDark ? "Light colours" : "Dark colours";
    if (this.rows.buttons.length) this.draw();
  }
}

/** The recording, whole, in parts and masked: one audio element, so that its own controls serve all of them. */
class Sound {
  constructor(page) {
    this.page = page;
    this.audio = byId("audio");
    this.share = 0.1;
    this.stopAt = Infinity;
    this.pressed = null;
    const { report } = page;
    this.original = URL.createObjectURL(new Blob([decodeBase64(report.audio.flac)], { type: "audio/flac" }));
    this.audio.src = this.original;
    this.audio.setAttribute("aria-label", report.audio.name ? `Recording ${report.audio.name}` : "Recording");

    this.#button("play-all", () => this.play(this.original, "Playing the recording."));
    this.#button("play-span", () => {
      const [from, to] = page.spanSeconds();
      const text = `Playing ${number(from)}–${number(to)} s of the recording, the salient span of ${quoted(page.title)}.`;
      return this.play(this.original, text, Math.max(from - PAD, 0), to + PAD);
    });
    this.#button("play-only", () => this.playMasked(true));
    this.#button("play-without", () => this.playMasked(false));
    byId("share").addEventListener("input", (event) => {
      this.share = event.target.value / 100;
      document.querySelector("output[for=share]").textContent = `${event.target.value} %`;
    });
    this.audio.addEventListener("pause", () => {
      if (this.audio.paused) this.stopAt = Infinity; // play on from here, beyond the span
      this.#press(null);
    });
    this.audio.addEventListener("timeupdate", () => page.drawOverlays());
    this.audio.addEventListener("play", () => this.#follow());
  }

  /** Seconds, for the cursor; null at rest at the beginning. */
  get position() {
    return this.audio.currentTime || (this.audio.paused ? null : 0);
  }

  #button(id, play) {
    byId(id).setAttribute("aria-pressed", "false");
    byId(id).addEventListener("click", async () => {
      const again = this.pressed === id; // the button that plays stops
      this.stop();
      if (again) return;
      try {
        await play();
        this.#press(id);
      } catch (error) {
        byId("playing").textContent = `This browser cannot play it: ${error.message}`;
      }
    });
  }

  #press(id) {
    this.pressed = id;
    for (const button of document.querySelectorAll(".sound button")) button.setAttribute("aria-pressed", String(button.id === id));
  }

  async play(source, text, from = 0, to = Infinity) {
    if (this.audio.src !== source) {
      if (this.audio.src !== this.original) URL.revokeObjectURL(this.audio.src);
      this.audio.src = source;
    }
    this.audio.currentTime = from;
    this.stopAt = to;
    await this.audio.play();
    byId("playing").textContent = text;
  }

  /** The audio of the most salient share of the chosen row, or of all else. */
  async masked(only) {
    const { page } = this;
    const salient = page.map.mostSalient(this.share);
    const mask = only ? salient : salient.map((one) => 1 - one);
    this.samples ??= decodeAudio(page.report.audio); // when it is first needed
    return maskAudio(await this.samples, page.report.audio.rate, mask, page.report);
  }

  async playMasked(only) {
    const file = wavFile(await this.masked(only), this.page.report.audio.rate);
    const share = `the most salient ${Math.round(100 * this.share)} % for ${quoted(this.page.title)}`;
    await this.play(URL.createObjectURL(file), only ? `Playing only ${share}.` : `Playing all but ${share}.`);
  }

  stop() {
    this.audio.pause();
    this.stopAt = Infinity;
  }

  /** Moves the cursor while the audio plays; where motion is to be reduced, with the element's own few updates. */
  #follow() {
    const smooth = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    const step = () => {
      if (this.audio.paused) return;
      if (this.audio.currentTime >= this.stopAt) this.stop();
      if (smooth) this.page.drawOverlays();
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
}

// The page that is shown; tests look into it.
let page;

Report.load(JSON.parse(byId("data").textContent))
  .then((report) => {
    page = new Page(report);
    document.documentElement.dataset.ready = "true";
  })
  .catch((error) => {
    byId("problem").textContent = `This report cannot be shown: ${error.message}. It needs a browser of 2024 or later.`;
    byId("problem").hidden = false;
    console.error(error);
  });
