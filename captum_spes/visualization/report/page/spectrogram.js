// Drawing: a spectrogram with a map over it, its axes, and what moves above them.
"use strict";

// pixels of CSS around the picture: frequency axis, time axis
const MARGIN = { left: 44, right: 10, top: 12, bottom: 38 };
const LABEL_FONT = "12px system-ui, sans-serif";

/** Greys of the spectrogram beneath a map, of which each can be read: from quiet to loud. */
function grey(energy, dark) {
  return dark ? 22 + 0.43 * energy : 255 - 0.42 * energy;
}

/** The colour of each level of a map as [red, green, blue, opacity], 256 · level. */
function levelColors(map, [low, high], table, byRank) {
  const colors = new Uint8Array(4 * LEVELS);
  for (let level = 0; level < LEVELS; level++) {
    const position = ((byRank ? map.ranks : map.values)[level] - low) / (high - low);
    const color = Math.round(255 * Math.min(Math.max(position, 0), 1));
    colors.set(table.subarray(4 * color, 4 * color + 4), 4 * level);
  }
  return colors;
}

/** A map over the grey spectrogram: a picture of frames × channels, low frequencies at the bottom. */
function paintMap(canvas, report, map, range, { dark, opacity, table }) {
  const { frames, channels, spectrogram } = report;
  canvas.width = frames;
  canvas.height = channels;
  const context = canvas.getContext("2d");
  const image = context.createImageData(frames, channels);
  const colors = levelColors(map, range, table, report.compares);
  for (let bin = 0; bin < map.levels.length; bin++) {
    const [frame, channel] = [Math.floor(bin / channels), bin % channels];
    const pixel = 4 * ((channels - 1 - channel) * frames + frame);
    const color = 4 * map.levels[bin];
    const alpha = (opacity * colors[color + 3]) / 255;
    const beneath = grey(spectrogram[bin], dark);
    for (let i = 0; i < 3; i++) image.data[pixel + i] = beneath + alpha * (colors[color + i] - beneath);
    image.data[pixel + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Round numbers on an axis of so many pixels: about one each `gap` pixels. */
function roundTicks(end, pixels, gap) {
  const least = (end * gap) / pixels;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= least);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, i) => ({ value: i * step, text: (i * step).toFixed(digits) }));
}

function kilohertz(frequency) {
  return String(Number((frequency / 1000).toPrecision(3)));
}

/** Sizes a canvas to its place on the page, sharp on every screen; coordinates are pixels of CSS. */
function fitCanvas(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}

/** The picture of one method: a canvas for what stays, and one above it for what moves. */
class Plot {
  constructor(report, place) {
    this.report = report;
    this.place = place;
    [this.canvas, this.overlay] = place.querySelectorAll("canvas");
    this.picture = document.createElement("canvas");
  }

  /** The rectangle of the picture, in pixels of CSS. */
  get area() {
    const { width, height } = this.canvas.getBoundingClientRect();
    return {
      x: MARGIN.left,
      y: MARGIN.top,
      width: Math.max(width - MARGIN.left - MARGIN.right, 1),
      height: Math.max(height - MARGIN.top - MARGIN.bottom, 1),
    };
  }

  xOfTime(seconds) {
    return this.area.x + (this.area.width * seconds) / this.report.duration;
  }

  /** Channel c fills the height from c to c + 1. */
  yOfChannel(edge) {
    return this.area.y + this.area.height * (1 - edge / this.report.channels);
  }

  /** The bin under a point of the page, or the nearest. */
  binAt(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    const { x, y, width, height } = this.area;
    const inside = (value, count) => Math.min(Math.max(Math.floor(value * count), 0), count - 1);
    return {
      frame: inside((clientX - box.left - x) / width, this.report.frames),
      channel: inside(1 - (clientY - box.top - y) / height, this.report.channels),
    };
  }

  draw(map, range, look) {
    paintMap(this.picture, this.report, map, range, look);
    const { context, width, height } = fitCanvas(this.canvas);
    const { area } = this;
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.picture, area.x, area.y, area.width, area.height);
    this.#drawAxes(context, area);
  }

  #drawAxes(context, area) {
    const { report } = this;
    const color = getComputedStyle(this.canvas).color;
    Object.assign(context, { fillStyle: color, strokeStyle: color, font: LABEL_FONT, lineWidth: 1 });
    context.strokeRect(area.x - 0.5, area.y - 0.5, area.width + 1, area.height + 1);
    const bottom = area.y + area.height;
    const line = (fromX, fromY, toX, toY) => {
      context.beginPath();
      context.moveTo(fromX, fromY);
      context.lineTo(toX, toY);
      context.stroke();
    };
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const { value, text } of roundTicks(report.duration, area.width, 45)) {
      line(this.xOfTime(value), bottom, this.xOfTime(value), bottom + 4);
      context.fillText(text, this.xOfTime(value), bottom + 6);
    }
    context.fillText("time (s)", area.x + area.width / 2, bottom + 22);
    context.textAlign = "right";
    context.textBaseline = "middle";
    const used = [];
    const [lowest, highest] = [report.frequencies[0], report.frequencies.at(-1)];
    for (const frequency of report.roundFrequencies.filter((one) => one >= lowest && one <= highest)) {
      const y = this.yOfChannel(report.channelAt(frequency) + 0.5);
      if (used.some((other) => Math.abs(other - y) < 16)) continue;
      used.push(y);
      line(area.x - 4, y, area.x, y);
      context.fillText(kilohertz(frequency), area.x - 7, y);
    }
    context.save();
    context.translate(8, area.y + area.height / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText("kHz", 0, 0);
    context.restore();
  }

  /**
   * What moves: the salient span of the row, the marked region, the bin that is looked at, and the audio's position.
   * Each may be null.
   */
  drawOverlay({ span, region, bin, seconds }) {
    const { context, width, height } = fitCanvas(this.overlay);
    const { area, report } = this;
    context.clearRect(0, 0, width, height);
    const accent = getComputedStyle(this.overlay).color;
    // dark on white, to be seen on every ground
    const outlined = (...points) => {
      context.beginPath();
      points.forEach(([x, y]) => context.lineTo(x, y));
      for (const [color, lineWidth] of [["#fff", 3], ["#111", 1]]) {
        Object.assign(context, { strokeStyle: color, lineWidth });
        context.stroke();
      }
    };
    const xOfFrame = (frame) => area.x + (area.width * frame) / report.frames;
    if (span) {
      context.fillStyle = accent;
      context.fillRect(xOfFrame(span[0]), area.y - 7, Math.max(xOfFrame(span[1]) - xOfFrame(span[0]), 2), 4);
    }
    if (region) {
      const [left, right] = [xOfFrame(region.firstFrame), xOfFrame(region.stopFrame)];
      const [top, bottom] = [this.yOfChannel(region.stopChannel), this.yOfChannel(region.firstChannel)];
      outlined([left, top], [right, top], [right, bottom], [left, bottom], [left, top]);
    }
    if (bin) {
      const [x, y] = [xOfFrame(bin.frame + 0.5), this.yOfChannel(bin.channel + 0.5)];
      context.setLineDash([3, 3]);
      outlined([x, area.y], [x, area.y + area.height]);
      outlined([area.x, y], [area.x + area.width, y]);
      context.setLineDash([]);
    }
    if (seconds !== null) {
      context.fillStyle = "#fff";
      context.fillRect(this.xOfTime(seconds) - 1.5, area.y, 4, area.height);
      context.fillStyle = accent;
      context.fillRect(this.xOfTime(seconds) - 0.5, area.y, 2, area.height);
    }
  }
}

/** The colours' legend: over quiet and over loud parts of a spectrogram alike, they are laid on the quiet. */
function drawLegend(canvas, table, { dark, opacity }) {
  const { context, width, height } = fitCanvas(canvas);
  const beneath = grey(0, dark);
  for (let x = 0; x < width; x++) {
    const color = 4 * Math.round((255 * x) / Math.max(width - 1, 1));
    const alpha = (opacity * table[color + 3]) / 255;
    const mixed = [0, 1, 2].map((i) => Math.round(beneath + alpha * (table[color + i] - beneath)));
    context.fillStyle = `rgb(${mixed})`;
    context.fillRect(x, 0, 1.5, height);
  }
}
