// The data of the report: unpacking, and the maps of tokens, words and the sentence.
"use strict";

// A value is stored as one of so many levels on a square root (see _data.py).
const LEVELS = 4096;
const MIDDLE = LEVELS / 2 - 1;
const OUTLIERS = 0.1; // share of the sum of absolute values

function decodeBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function inflate(text) {
  const compressed = new Blob([decodeBase64(text)]).stream();
  return new Uint8Array(await new Response(compressed.pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
}

/** Integers of 16 bits, of which first all low bytes are stored, then all high ones. */
async function inflate16(text) {
  const bytes = await inflate(text);
  const integers = new Uint16Array(bytes.length / 2);
  for (let i = 0; i < integers.length; i++) integers[i] = bytes[i] | (bytes[integers.length + i] << 8);
  return integers;
}

/**
 * One map over the spectrogram: for each bin (frame · channels + channel) a level, for each level a value and a rank.
 * Maps are of levels rather than values, since ranks then come from counting, and a map takes two bytes a bin.
 */
class ScoreMap {
  /** @param {Uint16Array} levels @param {number} largest the value of the highest level @param {boolean} signed */
  constructor(levels, largest, signed) {
    this.levels = levels;
    this.largest = largest;
    this.signed = signed;
  }

  /** The map of given values, as the file stores one. */
  static of(values, signed) {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const levels = new Uint16Array(values.length);
    for (let bin = 0; bin < values.length; bin++) {
      const root = Math.sqrt(Math.abs(values[bin]) / (largest || 1));
      levels[bin] = Math.round(signed ? MIDDLE + MIDDLE * Math.sign(values[bin]) * root : (LEVELS - 1) * root);
    }
    return new ScoreMap(levels, largest, signed);
  }

  /** The value of each level. */
  get values() {
    const [middle, end] = this.signed ? [MIDDLE, MIDDLE] : [0, LEVELS - 1];
    const root = (level) => (level - middle) / end;
    const table = Float32Array.from({ length: LEVELS }, (_, level) => this.largest * root(level) * Math.abs(root(level)));
    Object.defineProperty(this, "values", { value: table }); // computed once
    return table;
  }

  /** How many bins have each level. */
  get counts() {
    const counts = new Uint32Array(LEVELS);
    for (const level of this.levels) counts[level]++;
    Object.defineProperty(this, "counts", { value: counts });
    return counts;
  }

  /** The percentile rank of each level: how many percent of the bins have a smaller one, half of the equal ones too. */
  get ranks() {
    const ranks = new Float32Array(LEVELS);
    let below = 0;
    this.counts.forEach((count, level) => {
      ranks[level] = (100 * (below + count / 2)) / this.levels.length;
      below += count;
    });
    Object.defineProperty(this, "ranks", { value: ranks });
    return ranks;
  }

  /** The largest absolute value that is no outlier, as relative() in figures.py has it. */
  get bound() {
    const pairs = Array.from(this.values, (value, level) => [Math.abs(value), this.counts[level]]).sort((a, b) => b[0] - a[0]);
    const total = pairs.reduce((sum, [value, count]) => sum + value * count, 0);
    let above = 0;
    return pairs.find(([value, count]) => (above += value * count) >= OUTLIERS * total)[0];
  }

  value(bin) {
    return this.values[this.levels[bin]];
  }

  rank(bin) {
    return this.ranks[this.levels[bin]];
  }

  /** The bins with the largest values, as 1 among 0: that share of all bins, of equal ones the first, but none of the lowest. */
  mostSalient(share) {
    let remaining = Math.floor(share * this.levels.length + 1e-9); // 0.29 · 100 is 28.999999999999996
    let threshold = LEVELS - 1;
    for (; threshold > 0 && this.counts[threshold] < remaining; threshold--) remaining -= this.counts[threshold];
    if (threshold === 0) remaining = 0; // the lowest is 0 in maps without signs
    return Uint8Array.from(this.levels, (level) => (level > threshold || (level === threshold && remaining-- > 0) ? 1 : 0));
  }
}

/** All that the file holds, unpacked. */
class Report {
  static async load(data) {
    const report = Object.assign(new Report(), data);
    report.spectrogram = await inflate(data.spectrogram);
    for (const name of Object.keys(data.colors)) report.colors[name] = await inflate(data.colors[name]);
    for (const method of report.methods) {
      method.levels = await inflate16(method.maps);
      delete method.maps;
      if (method.contrasts) method.contrasts = await inflate16(method.contrasts);
      method.found = new Map();
    }
    return report;
  }

  /** Whether several methods are compared: then colours are ranks. */
  get compares() {
    return this.methods.length > 1;
  }

  get bins() {
    return this.frames * this.channels;
  }

  /** The map of one row of a view: a token's own, or the mean of those of a word's or sentence's tokens. */
  map(method, view, row) {
    const { first, stop } = view.rows[row];
    const key = `${first}-${stop}-${view.name}`;
    if (!method.found.has(key)) method.found.set(key, this.#map(method, view, first, stop));
    return method.found.get(key);
  }

  #map(method, view, first, stop) {
    const maps = Array.from({ length: stop - first }, (_, index) => this.#tokenMap(method, first + index));
    if (maps.length === 1) return maps[0];
    const mean = new Float32Array(this.bins);
    for (const map of maps) for (let bin = 0; bin < mean.length; bin++) mean[bin] += map.value(bin) / maps.length;
    const found = ScoreMap.of(mean, method.signed);
    // as the library's figures have it: a word's map with both signs is divided by its own largest value
    if (method.signed && view.name === "words" && found.largest) return new ScoreMap(found.levels, found.largest / found.bound, true);
    return found;
  }

  #tokenMap(method, token) {
    const count = method.levels.length / this.bins;
    const part = (levels, index) => levels.subarray(index * this.bins, (index + 1) * this.bins);
    if (token < count) return new ScoreMap(part(method.levels, token), method.largest, method.signed);
    return new ScoreMap(part(method.contrasts, token - count), method.largestContrast, true);
  }

  /**
   * The values at both ends of the colours: at most 1, beyond which outliers are, and the same for all rows. The
   * sentence, which is the mean of many, and errors, whose maps are contrasts, are coloured up to their own largest.
   */
  range(method, view, map) {
    if (this.compares) return [75, 100]; // percentile ranks: what deletion would remove first
    const largest = Math.min(["sentence", "errors"].includes(view.name) ? map.largest : method.largest, 1) || 1;
    return [map.signed ? -largest : 0, largest];
  }

  /**
   * The shortest stretch of time, in frames, that holds half of the bins of the most salient 5 %. Frames of half of
   * them rather than all: a few of them always lie anywhere.
   */
  salientSpan(map) {
    return (map.span ??= this.#salientSpan(map));
  }

  #salientSpan(map) {
    const salient = map.mostSalient(0.05);
    const counts = new Uint32Array(this.frames);
    salient.forEach((one, bin) => (counts[Math.floor(bin / this.channels)] += one));
    const wanted = counts.reduce((sum, count) => sum + count, 0) / 2;
    let best = [0, this.frames];
    for (let first = 0, stop = 0, inside = 0; first < this.frames; inside -= counts[first++]) {
      while (inside < wanted && stop < this.frames) inside += counts[stop++];
      if (inside < wanted) break;
      if (stop - first < best[1] - best[0]) best = [first, stop];
    }
    return best;
  }

  /**
   * How much of a region of frames and channels is among the most salient share of a map: from 0 to 1, and the share
   * itself where the region is no more salient than the rest.
   */
  salientPart(map, { firstFrame, stopFrame, firstChannel, stopChannel }, share) {
    const salient = (map.salient ??= new Map()).get(share) ?? map.mostSalient(share);
    map.salient.set(share, salient); // a region is marked by many moves
    let count = 0;
    for (let frame = firstFrame; frame < stopFrame; frame++) {
      for (let channel = firstChannel; channel < stopChannel; channel++) count += salient[frame * this.channels + channel];
    }
    return count / ((stopFrame - firstFrame) * (stopChannel - firstChannel));
  }

  /** The frequency in Hz at a position between the channels' centres. */
  frequencyAt(channel) {
    const position = Math.min(Math.max(channel, 0), this.channels - 1);
    const below = Math.min(Math.floor(position), this.channels - 2);
    if (this.channels === 1) return this.frequencies[0];
    return this.frequencies[below] + (position - below) * (this.frequencies[below + 1] - this.frequencies[below]);
  }

  /** Where a frequency lies between the channels' centres. */
  channelAt(frequency) {
    return interpolationIndex(this.frequencies, frequency);
  }
}

/** Where a value lies between ascending ones: 2.5 is halfway from number 2 to 3. Beyond the ends, at the end. */
function interpolationIndex(ascending, value) {
  const above = ascending.findIndex((one) => one > value);
  if (above < 0) return ascending.length - 1;
  if (above === 0) return 0;
  return above - 1 + (value - ascending[above - 1]) / (ascending[above] - ascending[above - 1]);
}
