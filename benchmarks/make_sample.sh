#!/usr/bin/env bash
# Synthesises the bundled sample, the paper's example sentence (Fig. 3), with flite's voice slt.
# flite and its voice are Carnegie Mellon University's, free to use and distribute (Debian package: flite).
set -eu
cd "$(dirname "$0")/.."
flite -voice slt -t "So what was the next step?" -o captum_spes/data/so_what_was_the_next_step.wav
