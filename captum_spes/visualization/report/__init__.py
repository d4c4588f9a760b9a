"""The interactive report: one HTML file that plays the audio and shows, word by word, what the model heard.

Python puts arrays into the page; all that moves is plain JavaScript (``page/*.js``), which no tool has to build.
"""

from captum_spes.visualization.report._page import ReportMethod, ReportView, iframe, render_report

__all__ = ["ReportMethod", "ReportView", "iframe", "render_report"]
