// Audio: what the file holds, and the audio of a mask. The same transform as captum_spes.audio_masking has it in Python.
"use strict";

/** Samples of the embedded recording, exact: no resampling, since the context has the file's own rate. */
async function decodeAudio({ flac, rate }) {
  const context = new OfflineAudioContext(1, 1, rate);
  return (await context.decodeAudioData(decodeBase64(flac).buffer)).getChannelData(0);
}

/** Fast Fourier transform of complex numbers, in place; the length is a power of two. */
class FourierTransform {
  constructor(length) {
    this.length = length;
    this.cos = Float64Array.from({ length: length / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / length));
    this.sin = Float64Array.from({ length: length / 2 }, (_, k) => Math.sin((2 * Math.PI * k) / length));
    const bits = Math.log2(length);
    this.reversed = Uint32Array.from({ length }, (_, index) => {
      let turned = 0;
      for (let bit = 0; bit < bits; bit++) turned |= ((index >> bit) & 1) << (bits - 1 - bit);
      return turned;
    });
  }

  /** The inverse is the transform with real and imaginary parts exchanged, divided by the length. */
  forward(real, imaginary) {
    const { length, cos, sin, reversed } = this;
    for (let i = 0; i < length; i++) {
      const j = reversed[i];
      if (j > i) {
        [real[i], real[j]] = [real[j], real[i]];
        [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
      }
    }
    for (let half = 1; half < length; half *= 2) {
      const stride = length / (2 * half);
      for (let start = 0; start < length; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const [i, j, turn] = [start + k, start + k + half, k * stride];
          const re = real[j] * cos[turn] + imaginary[j] * sin[turn];
          const im = imaginary[j] * cos[turn] - real[j] * sin[turn];
          real[j] = real[i] - re;
          imaginary[j] = imaginary[i] - im;
          real[i] += re;
          imaginary[i] += im;
        }
      }
    }
  }
}

/**
 * Audio whose short-time Fourier transform is multiplied by a mask and inverted.
 *
 * Windows of N samples (the power of two nearest to 25 ms) each N / 4, periodic Hann, zeros before and after the audio.
 * The mask is interpolated linearly in time, between the frames at t / framesPerSecond, and in frequency, between the
 * channels' centres; beyond the first and the last it goes on as it ends.
 *
 * @param {Float32Array} samples
 * @param {number} rate samples a second
 * @param {ArrayLike<number>} mask how much is kept of each bin, frame · channels + channel
 * @param {{frames: number, channels: number, framesPerSecond: number, frequencies: number[]}} grid
 * @returns {Float32Array} as many samples
 */
function maskAudio(samples, rate, mask, { frames, channels, framesPerSecond, frequencies }) {
  const length = 2 ** Math.round(Math.log2(0.025 * rate));
  const hop = length / 4;
  const window = Float64Array.from({ length }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / length));
  const transform = new FourierTransform(length);
  const positions = Float64Array.from({ length: length / 2 + 1 }, (_, bin) =>
    interpolationIndex(frequencies, (bin * rate) / length),
  );
  const output = new Float64Array(samples.length);
  const weight = new Float64Array(samples.length);
  const [real, imaginary, row] = [new Float64Array(length), new Float64Array(length), new Float64Array(channels)];
  for (let center = 0; center <= samples.length; center += hop) {
    const start = center - length / 2;
    for (let i = 0; i < length; i++) real[i] = window[i] * (samples[start + i] ?? 0);
    imaginary.fill(0);
    transform.forward(real, imaginary);

    // the mask at this time
    const time = Math.min((center / rate) * framesPerSecond, frames - 1);
    const before = Math.floor(time);
    const after = Math.min(before + 1, frames - 1);
    for (let channel = 0; channel < channels; channel++) {
      const [now, next] = [mask[before * channels + channel], mask[after * channels + channel]];
      row[channel] = now + (time - before) * (next - now);
    }
    for (let bin = 0; bin <= length / 2; bin++) {
      const below = Math.floor(positions[bin]);
      const above = Math.min(below + 1, channels - 1);
      const gain = row[below] + (positions[bin] - below) * (row[above] - row[below]);
      real[bin] *= gain;
      imaginary[bin] *= gain;
      if (bin > 0 && bin < length / 2) {
        real[length - bin] *= gain; // the negative frequency
        imaginary[length - bin] *= gain;
      }
    }

    transform.forward(imaginary, real); // exchanged: the inverse
    for (let i = Math.max(0, -start); i < length && start + i < samples.length; i++) {
      output[start + i] += (window[i] * real[i]) / length;
      weight[start + i] += window[i] ** 2;
    }
  }
  return Float32Array.from(output, (value, i) => value / weight[i]);
}

/** Samples as a WAV file of 16 bits, mono. */
function wavFile(samples, rate) {
  const bytes = 2 * samples.length;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const text = (offset, letters) => [...letters].forEach((letter, i) => view.setUint8(offset + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of this part
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, bytes, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, 32767 * Math.min(Math.max(sample, -1), 1), true));
  return new Blob([view], { type: "audio/wav" });
}
