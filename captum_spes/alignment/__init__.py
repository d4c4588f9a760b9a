"""Alignments, the times of words and phones: from files, a forced aligner, or Whisper's attention."""

from captum_spes.alignment.aligners import attention_alignment, force_align
from captum_spes.alignment.matching import match_words
from captum_spes.alignment.segments import Segment
from captum_spes.alignment.times import SUFFIXES, Alignment, find_alignment
from captum_spes.alignment.transcripts import Transcript

__all__ = [
    "SUFFIXES",
    "Alignment",
    "Segment",
    "Transcript",
    "attention_alignment",
    "find_alignment",
    "force_align",
    "match_words",
]
