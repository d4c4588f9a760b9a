"""The interactive report: one HTML file that plays the audio and shows the map of each word.

Python puts arrays into the page; the interaction is plain JavaScript (``page/*.js``), which needs no build step.
"""

from captum_spes.visualization.report._page import ReportMethod, ReportView, iframe, render_report

__all__ = ["ReportMethod", "ReportView", "iframe", "render_report"]
