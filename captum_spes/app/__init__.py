"""A page in the browser for recordings of one's own: speak, click a word, ask why it is not another one."""

from captum_spes.app.page import serve

__all__ = ["serve"]
